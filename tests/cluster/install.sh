#!/bin/sh
# Install what the cluster tests need on Debian or Ubuntu, as root: Slurm, its accounting
# daemon, munge and MariaDB. None of them is started as a service; the tests start their own,
# with their own configuration. On a host that runs a Slurm already, the tests refuse to run.
set -eu

PACKAGES="slurm-wlm slurm-client slurmdbd munge mariadb-server procps"
# A cluster's own MPI, for one test, which is skipped where there is none (other releases of
# Debian name it otherwise).
OPTIONAL="libopenmpi3 libpmix-dev"

if [ "$(id -u)" -ne 0 ]; then
    echo "cluster tests: root is needed, to install Slurm and to start one of our own" >&2
    exit 2
fi

absent() {
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' \
            || printf ' %s' "$package"
    done
}
# shellcheck disable=SC2086  # lists of words, here and below
missing=$(absent $PACKAGES) optional=$(absent $OPTIONAL)
if [ -z "$missing$optional" ]; then
    echo "cluster tests: everything is installed"
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    [ -n "$missing" ] || exit 0
    echo "cluster tests: apt-get is not here; install by your own means:$missing" >&2
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

# A mirror may fail: three tries for each file, and the whole once more.
install() {
    for last in no yes; do
        if apt-get update -q -o Acquire::Retries=3 \
            && apt-get install -q -y --no-install-recommends -o Acquire::Retries=3 "$@"; then
            return 0
        fi
        [ $last = yes ] || sleep 15
    done
    return 1
}
if [ -n "$missing" ] && ! install $missing; then
    echo "cluster tests: apt-get could not install:$missing" >&2
    exit 1
fi
if [ -n "$optional" ] && ! install $optional; then
    echo "cluster tests: no Open MPI with PMIx here; its test is skipped" >&2
fi
