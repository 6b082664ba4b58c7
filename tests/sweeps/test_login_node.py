"""Submitting and looking work where torch and DeepSpeed are not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
for name in ("torch", "deepspeed", "mpi4py", "h5py", "scipy", "skimage", "numba", "matplotlib"):
    sys.modules[name] = None  # importing it fails
from hpc_srct.settings.site import load_site
from hpc_srct.sweeps import Sweep
from hpc_srct.sweeps import batch, command, job, pipeline, restarts, results, scheduler, status
sweep = Sweep({"experiment": sys.argv[1], "grid": {"seed": [1, 2]}, "out": sys.argv[2]})
site = load_site(sys.argv[3])
sweep.dry_run("slurm", site)
print(len(sweep.status()), sweep.results().markdown().count("new"))
"""


def test_without_torch(tmp_path, site_file):
    experiment = tmp_path / "exp.yaml"
    experiment.write_text("{}\n")
    words = [experiment, tmp_path / "out", site_file]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 2\n"
