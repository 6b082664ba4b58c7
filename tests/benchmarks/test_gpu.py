"""The cost table for GPUs: its reduced form from end to end, and what a GPU alone would meet."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import gpu  # noqa: E402
import gpu_cells  # noqa: E402
import gpu_tables  # noqa: E402


@pytest.mark.timeout(600)
def test_the_reduced_form_makes_the_table_and_the_file(tmp_path):
    answer = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", "--device", "cpu", "--out", tmp_path / "gpu.json"],
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert "REDUCED FORM" in answer.stdout
    for title in ("UNet", "ResAttUnet", "checkpointing", "channels last", "32.01%, 42.20%"):
        assert title in answer.stdout
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["reduced"] and found["gpu"] is None and found["took_s"] < 480
    assert {"torch", "deepspeed", "python"} <= found["versions"].keys()
    training = [row for row in found["rows"] if row["kind"] == "training"]
    measured = {
        (row["model"], row["precision"], row["size"], row["checkpointing"])
        for row in training
        if row.get("step_s", 0) > 0 and row["engine"] == "deepspeed" and row["peak_memory_bytes"]
    }
    sizes = sorted({row["size"] for row in training})
    wanted = {(m, p, s, False) for m in gpu.MODELS for p in gpu.PRECISIONS for s in sizes}
    wanted |= {("resattunet", p, sizes[1], True) for p in gpu.PRECISIONS}
    assert wanted <= measured, answer.stdout
    for row in training:
        if row["precision"] != "O0" and "step_s" in row:
            assert row["saved_against"].startswith("O0")
            assert row["epoch_s"] == pytest.approx(80 * row["step_s"])
        if row["compile"]:
            assert "minutes on a CPU" in row["left_out"] and row["left_out"] in answer.stdout
    enhanced = [row["rows"] for row in found["rows"] if row["kind"] == "enhancement"]
    assert [[r["precision"] for r in rows] for rows in enhanced] == [["O0", "bf16", "fp16"]] * 2
    for rows in enhanced:
        assert all(r["slices_per_s"] > 0 for r in rows)
        # Half precision shows, and costs little.
        assert 0 < abs(rows[1]["difference_db"]) < 0.5


def arguments(**changes: object) -> argparse.Namespace:
    values = {
        "minutes": 1.0,
        "sizes": [1200, 2048],
        "reduced": True,
        "compile": True,
        "form": {},
        "context": multiprocessing.get_context("fork"),
    }
    return argparse.Namespace(**values | changes)


def figures(**changes: object) -> dict:
    return {"step_s": 0.5, "steps": 3, "epoch_s": 40.0, "peak_memory_bytes": 1000} | changes


def test_the_talks_cells_come_first():
    cells = gpu.plan(arguments())
    first = [(c["size"], c["model"], c["precision"]) for c in cells[:12]]
    assert first == [
        (s, m, p) for s in (1200, 2048) for m in ("unet", "resattunet") for p in gpu.PRECISIONS
    ]
    assert all(not gpu_tables.options(c) for c in cells[:12])
    assert [c.get("compile") for c in cells[-3:]] == [True] * 3


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (
            lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")),
            "out of memory",
        ),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "ended with code -9"),
        (lambda: (_ for _ in ()).throw(RuntimeError("no triton\nhere")), "RuntimeError: no triton"),
        (lambda: time.sleep(60), "took longer than its share"),
    ],
)
def test_a_cell_in_trouble_is_named_and_the_rest_goes_on(monkeypatch, trouble, words):
    def cell(order: dict) -> dict:
        return trouble() if order["precision"] == "O0" else figures()

    monkeypatch.setattr(gpu_cells, "training", cell)
    monkeypatch.setattr(
        gpu, "plan", lambda _: [gpu.training("unet", p, 1200) for p in ("O0", "O2")]
    )
    monkeypatch.setattr(gpu, "RESERVE_S", 0.0)
    # The one that hangs may take all but a few seconds.
    rows = gpu.run(arguments(minutes=0.3 if "longer" not in words else 0.1))
    assert words in rows[0]["left_out"]
    if "longer" in words:
        assert "no time left" in rows[-1]["left_out"]
    else:
        assert rows[-1]["step_s"] == 0.5
    # Checkpointing is tried where memory asked for it, and there alone.
    assert any(r["checkpointing"] for r in rows) == (words == "out of memory")


def test_no_cell_begins_when_the_time_is_spent(monkeypatch):
    monkeypatch.setattr(gpu_cells, "training", lambda _: pytest.fail("was begun"))
    rows = gpu.run(arguments(minutes=0.0))
    assert len(rows) == len(gpu.plan(arguments()))
    assert all("no time left of 0 minutes" in row["left_out"] for row in rows)


def test_shares_add_up_to_what_is_left():
    clock, cells = gpu.Clock(8.0), gpu.plan(arguments())
    given = 0.0
    for number, cell in enumerate(cells):
        share = clock.share(cell, cells[number + 1 :])
        given += share
        clock.end -= share
        assert share > 0
    assert given <= 480 - gpu.RESERVE_S


def test_savings_are_against_o0_of_the_same_kind():
    rows = [
        gpu.training("resattunet", "O0", 1200) | figures(),
        gpu.training("resattunet", "O2", 1200) | figures(peak_memory_bytes=500, step_s=0.15),
        gpu.training("resattunet", "O0", 2048, checkpointing=True)
        | figures(peak_memory_bytes=4000, step_s=2.0),
        gpu.training("resattunet", "O2", 2048, checkpointing=True)
        | figures(peak_memory_bytes=3000, step_s=1.0),
        gpu.training("resattunet", "O0", 2048) | {"left_out": "out of memory"},
        gpu.training("resattunet", "O0", 1200, channels_last=True) | figures(step_s=0.4),
    ]
    gpu_tables.add_savings(rows)
    assert rows[1]["saved"] == pytest.approx({"memory": 0.5, "time": 0.7})
    assert rows[3]["saved"] == pytest.approx({"memory": 0.25, "time": 0.5})
    assert rows[3]["saved_against"] == "O0, checkpointing"
    assert rows[5]["saved"]["time"] == pytest.approx(0.2)
    assert "saved" not in rows[0] and "saved" not in rows[2] and "saved" not in rows[4]
    memory, seconds = gpu_tables.verdict(rows)
    assert "memory saved 50.0%, aim 45% reached (talk: 32.01%)" in memory
    assert "time saved 70.0%, aim 60% reached (talk: 42.20%)" in seconds


def test_the_bare_loop_stands_in_where_deepspeed_is_missing(monkeypatch):
    monkeypatch.setattr(gpu_cells.importlib.util, "find_spec", lambda name: None)
    order = gpu.training("unet", "bf16", 32) | {"width": 2, "depth": 1, "most_steps": 2}
    found = gpu_cells.training(order | {"deadline": 0.0})
    assert found["engine"] == "bare PyTorch" and found["steps"] == 2 and found["step_s"] > 0
