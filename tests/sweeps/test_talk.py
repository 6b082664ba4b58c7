"""The talk's sweep, for real but small: its two tables come out."""

from __future__ import annotations

import pytest
from training.tiny_runs import make_store

from hpc_srct.sweeps.command import run_sweep

SMALL = (
    "experiment.epochs=2",
    "experiment.tiles={size: 16, batch: 2, per_slice: 2}",
    "experiment.model={width: 2, depth: 1}",
    "experiment.emulate_fp16=true",
    "experiment.self_check=false",  # two channels are too few for gradients to agree
    'grid={"model.name": [unet]}',
    "grid.seed=[1]",
    "parallel=2",
)


@pytest.mark.timeout(600)
def test_the_two_tables(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name, count in (("train", 6), ("validation", 2), ("test", 2)):
        make_store(tmp_path / "stores" / "talk" / name, count, seed=count)
    run_sweep("configs/sweeps/talk.yaml", SMALL, cluster="local")
    # Quality, on each role of slices, beside the classical methods ...
    quality = (tmp_path / "sweeps/talk/evaluation/table.md").read_text()
    head, _, *rows = [x for x in quality.splitlines() if x.startswith("|")]
    for role in ("training", "validation", "test"):
        assert f"PSNR {role} (vs truth)" in head
        assert f"SSIM {role} (vs truth)" in head
    named = [row.split("|")[1].strip() for row in rows]
    assert named[0] == "FBP (ramp)"
    assert named[-2:] == ["UNet (O0)", "UNet (O2)"]
    assert "O0 − O2 gap of UNet on test" in quality
    # ... and cost, with what O2 saves.
    cost = (tmp_path / "sweeps/talk/results.md").read_text()
    head, _, full, half = [x for x in cost.splitlines() if x.startswith("|")][-4:]
    columns = [cell.strip() for cell in head.split("|")]
    for name in ("training time", "peak memory"):
        place = columns.index(f"{name} saved (%)")
        assert full.split("|")[place].strip() == ""
        float(half.split("|")[place].strip(" *"))
    assert "peak memory" in capfd.readouterr().out, "and on the screen, not cut"
