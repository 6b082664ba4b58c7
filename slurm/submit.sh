#!/usr/bin/env bash
# Submit one job with the values of a site profile:
#   slurm/submit.sh --site my-site.yaml [--dry-run] preprocess SCAN STORE [key=value ...]
#   slurm/submit.sh --site my-site.yaml [--dry-run] train EXPERIMENT.yaml RUN_FOLDER [key=value ...]
#   slurm/submit.sh --site my-site.yaml [--dry-run] enhance STORE_OR_SCAN RUN_OR_FILE OUT [option ...]
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
exec "${SRCT_PYTHON:-python3}" -m hpc_srct.sweeps.pipeline one --templates "$here" "$@"
