"""The benchmarks of training's options and of enhancement, at sizes of seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from enhancement.cases import described, restless

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import enhancement_precision  # noqa: E402
import gpu_cells  # noqa: E402
import training_options  # noqa: E402

from hpc_srct.models import convolution  # noqa: E402


@pytest.mark.timeout(600)
def test_options_are_measured_and_what_cannot_run_says_why(tmp_path):
    variants = ["tiles", "tiles-compiled"]
    sizes = {"size": 32, "width": 2, "depth": 1, "steps": 2, "rounds": 1}
    words = [w for key, value in sizes.items() for w in (f"--{key}", str(value))]
    answer = subprocess.run(
        [
            *(sys.executable, BENCHMARKS / "training_options.py"),
            *("--out", tmp_path / "options.json", "--variants", *variants, *words),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"CXX": "no-such-compiler"},
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads((tmp_path / "options.json").read_text())
    tiles, compiled = found["rows"]
    assert tiles["time_ratio"] == tiles["memory_ratio"] == 1.0
    assert tiles["s_per_megapixel"] == pytest.approx(tiles["step_s"] / 32**2 * 1e6)
    assert "needs a C++ compiler" in compiled["left_out"]
    assert "left out" in answer.stdout


def test_a_variants_rounds_are_put_together():
    rounds = [
        {"steps_s": [2.0, 1.0], "first_step_s": 9.0, "peak_memory_gib": 1.0},
        {"steps_s": [3.0], "first_step_s": 8.0, "peak_memory_gib": 1.5},
    ]
    row = training_options.summary("whole", rounds, 500_000)
    assert row["step_s"] == 1.0 and row["s_per_megapixel"] == 2.0
    assert row["first_step_s"] == 8.0 and row["peak_memory_gib"] == 1.5
    base = {"variant": "tiles", "step_s": 2.0, "peak_memory_gib": 3.0}
    training_options.relate([base, row])
    assert row["time_ratio"] == 0.5 and row["memory_ratio"] == 0.5


def test_the_difference_in_db_is_that_of_the_slices(monkeypatch):
    monkeypatch.setattr(convolution, "cpu_has_fp16", lambda: False)
    low, labels = gpu_cells.discs(2, 64, seed=0)
    network = restless("unet"), described()
    rows = enhancement_precision.measure(network, low, labels, 1.0, 32.0, device="cpu")
    full, bf16, fp16 = rows
    assert full["difference_db"] == 0.0 and "agreement_db" not in full
    assert bf16["difference_db"] == bf16["psnr"] - full["psnr"] != 0.0
    # fp16 has three bits more than bf16: 18 dB.
    assert bf16["agreement_db"] + 10 < fp16["agreement_db"] < 120
    assert fp16["emulated"] and not full["emulated"] and full["slices"] == 2


def test_a_precision_that_fails_is_left_out_by_name():
    module = restless("unet")
    with torch.no_grad():
        module.last.weight *= 1e6
    low, labels = gpu_cells.discs(1, 32, seed=0)
    rows = enhancement_precision.measure(
        (module, described()), low, labels, 1.0, 16.0, device="cpu"
    )
    assert "not finite in fp16" in rows[2]["left_out"]
    assert np.isfinite(rows[1]["psnr"])
