#!/usr/bin/env bash
# Reconstruct a raw scan into a slice store on this machine, on N MPI ranks:
#   launch/preprocess.sh SCAN STORE [N] [key=value ...]
# N is by default the number of cores. What is done stays: the same command again goes on.
set -euo pipefail
usage="usage: launch/preprocess.sh SCAN STORE [N] [key=value ...]"
scan=${1:?$usage} store=${2:?$usage}
shift 2
python=${SRCT_PYTHON:-python3}
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    count=$1
    shift
else
    # Told how many threads a rank may have, nproc would take that for the number of cores.
    count=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
fi
# The MPI that is installed with the package stands beside its Python.
mpiexec=$("$python" -c 'import sys; print(sys.prefix)')/bin/mpiexec
[[ -x $mpiexec ]] || mpiexec=mpiexec
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$mpiexec" -n "$count" "$python" -m hpc_srct preprocess "$scan" -o "$store" "$@"
