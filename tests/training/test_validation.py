"""What validation makes of slices that have no PSNR."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from training.tiny_runs import lines, tiny

from hpc_srct.models.files import load_model
from hpc_srct.slices import StoreWriter
from hpc_srct.training import train
from hpc_srct.training.validation import psnr


def store_of_air(path: Path) -> Path:
    """Write a store of two slices with noise in `low` and nothing in `truth`."""
    low = np.random.default_rng(3).normal(0, 0.003, (2, 40, 40)).astype(np.float32)
    writer = StoreWriter(path, 2, (40, 40), np.arange(2))
    writer.write_block(0, {"low": low, "truth": np.zeros_like(low)})
    writer.finish({"source": "test"}, scale=0.012, field_of_view=19.5)
    return path


def test_a_constant_label_has_no_psnr():
    image = np.eye(16, dtype=np.float32)
    assert psnr(image, np.ones((16, 16), np.float32), None) is None
    corner = np.ones((16, 16), np.float32)
    corner[0, 0] = 5  # outside the disc
    assert psnr(image, corner, None) is None
    corner[8, 8] = 2
    assert np.isfinite(psnr(image, corner, None))


def test_slices_of_air_are_left_out_of_the_psnr_and_said_once(stores, tmp_path, capfd):
    train(tiny(stores, epochs=2), tmp_path / "without")
    capfd.readouterr()
    air = store_of_air(tmp_path / "air")
    train(tiny(stores, epochs=2, validation=[str(stores[1]), str(air)]), tmp_path / "with")
    told = capfd.readouterr().err
    assert told.count("2 of 4 slice(s) have a constant label") == 1
    runs = (lines(tmp_path / name, "validation") for name in ("with", "without"))
    for mixed, plain in zip(*runs, strict=True):
        assert mixed["psnr"] == pytest.approx(plain["psnr"], rel=1e-12)
        assert mixed["loss"] != plain["loss"]
    about = load_model(tmp_path / "with")[1]["provenance"]
    assert about["chosen"] == "best validation PSNR"


def test_where_no_slice_has_a_psnr_the_lowest_loss_is_best(stores, tmp_path, capfd):
    air = store_of_air(tmp_path / "air")
    settings = tiny((stores[0], air), tensorboard=True, checkpoints={"keep_best": 2})
    train(settings, tmp_path / "run")
    assert "the best model is that of the lowest loss" in capfd.readouterr().err
    validations = sorted(lines(tmp_path / "run", "validation"), key=lambda v: v["loss"])
    assert {v["psnr"] for v in validations} == {None}
    about = json.loads((tmp_path / "run" / "model.json").read_text())["provenance"]
    assert about["chosen"] == "best validation loss"
    assert about["validation"] == {"psnr": None, "loss": validations[0]["loss"]}
    kept = sorted(p.name for p in (tmp_path / "run/checkpoints").glob("*.safetensors"))
    assert kept == sorted(f"best-{v['step']:08d}.safetensors" for v in validations[:2])
