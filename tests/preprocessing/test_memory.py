"""Peak memory of real ranks: under the limit, as foretold, and not more for a larger scan."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from .conftest import MPIEXEC, environment, write_scan

DRIVER = """
import json, sys
from hpc_srct.preprocessing import preprocess
from hpc_srct.ranks import communicator
from hpc_srct.settings.base import load
from hpc_srct.settings.preprocessing import PreprocessingSettings
ranks = communicator()
settings = load(PreprocessingSettings, overrides=sys.argv[3:])
done = preprocess(sys.argv[1], sys.argv[2], settings, ranks)
if ranks.rank == 0:
    print("RESULT", json.dumps([done.peak_memory, done.plan.describe()]))
"""
MIB = 2**20


def measured(scan: Path, store: Path, ranks: int, *settings: str) -> tuple[float, dict]:
    """Preprocess in fresh processes; give the greatest peak (MiB) and the plan."""
    answer = subprocess.run(
        [MPIEXEC, "-n", str(ranks), sys.executable, "-c", DRIVER, scan, store, *settings],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    line = next(line for line in answer.stdout.splitlines() if line.startswith("RESULT"))
    peaks, plan = json.loads(line.removeprefix("RESULT"))
    assert len(peaks) == ranks
    return max(peaks) / MIB, plan


def test_under_the_limit_and_as_foretold(tmp_path):
    scan = write_scan(
        tmp_path / "scan.h5", rows=256, views=160, columns=192, chunked=True, dtype=np.uint16
    )
    settings = ["centre=95.5", "views=1/8"]
    peak, roomy = measured(scan, tmp_path / "roomy", 2, *settings)
    # Of this small scan most is the interpreter, and the guess is on the safe side.
    assert 0.95 * peak < roomy["memory"] / MIB < 1.25 * peak
    limit = roomy["memory"] // MIB - 32
    peak, tight = measured(scan, tmp_path / "tight", 2, *settings, f"memory={limit}MiB")
    assert tight["passes"] > roomy["passes"]
    assert peak < limit
    assert 0.95 * peak < tight["memory"] / MIB < 1.25 * peak


def test_a_larger_scan_takes_no_more(tmp_path):
    peaks = []
    for rows in (64, 192):
        scan = write_scan(tmp_path / f"{rows}.h5", rows=rows, views=160, columns=192)
        peaks.append(measured(scan, tmp_path / f"store{rows}", 1, "centre=95.5")[0])
    assert peaks[1] < peaks[0] + 4
