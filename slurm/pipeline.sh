#!/usr/bin/env bash
# Submit the whole road as dependent jobs: preprocess SCAN, train EXPERIMENT, enhance SCAN's store.
#   slurm/pipeline.sh SCAN EXPERIMENT.yaml --site my-site.yaml [--dry-run] [-o FOLDER]
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
exec "${SRCT_PYTHON:-python3}" -m hpc_srct.sweeps.pipeline pipeline --templates "$here" "$@"
