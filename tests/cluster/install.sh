#!/bin/sh
# Install what the cluster tests need on Debian or Ubuntu, as root: Slurm, its accounting
# daemon, munge and MariaDB. None of them is started as a service; the tests start their own,
# with their own configuration. On a host that runs a Slurm already, the tests refuse to run.
set -eu

PACKAGES="slurm-wlm slurm-client slurmdbd munge mariadb-server"
# A cluster's own MPI, for one test, which is skipped where there is none (other releases of
# Debian name it otherwise).
OPTIONAL="libopenmpi3 libpmix-dev"

missing=""
for package in $PACKAGES; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' \
        || missing="$missing $package"
done
if [ -z "$missing" ]; then
    echo "cluster tests: everything is installed"
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "cluster tests: apt-get is not here; install by your own means:$missing" >&2
    exit 2
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "cluster tests: root is needed to install:$missing" >&2
    exit 2
fi

# A policy of 101 keeps the packages from starting their services; it is taken away again.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086  # a list of words
apt-get install -q -y --no-install-recommends $missing
# shellcheck disable=SC2086
apt-get install -q -y --no-install-recommends $OPTIONAL \
    || echo "cluster tests: no Open MPI here; its test is skipped" >&2
