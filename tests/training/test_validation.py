"""What validation makes of slices that have no PSNR, and of those that vanish."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from training.tiny_runs import lines, make_store, same, tiny

from hpc_srct.errors import MachineError
from hpc_srct.models import build
from hpc_srct.models.files import load_model
from hpc_srct.slices import StoreWriter
from hpc_srct.training import loop, losses, train
from hpc_srct.training.data import PairedSlices
from hpc_srct.training.validation import Score, psnr, validate


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


def test_data_that_vanish_in_validation_end_the_run_saved(stores, tmp_path, monkeypatch):
    store = shutil.copytree(stores[1], tmp_path / "store")
    settings = tiny((stores[0], store), cache_gb=0, epochs=2, checkpoints={"every_epochs": 2})
    train(settings, tmp_path / "whole")
    read = PairedSlices.read

    def vanishing(self: PairedSlices, pair, window=None):
        if self.role == "validation" and (store / "shards").is_dir():
            shutil.rmtree(store / "shards")
            self.stores[0].close()
        return read(self, pair, window)

    with monkeypatch.context() as patch:
        patch.setattr(PairedSlices, "read", vanishing)
        with pytest.raises(MachineError, match=r"row 10\d was whole .*\n.*step 6 is saved; --res"):
            train(settings, tmp_path / "run")
    shutil.copytree(stores[1] / "shards", store / "shards")
    train(settings, tmp_path / "run", resume=True)
    same(tmp_path / "whole", tmp_path / "run")


class Together:
    """Two ranks, as threads, that add and agree."""

    def __init__(self) -> None:
        self.meeting, self.told = threading.Barrier(2, timeout=60), {}

    def reduce(self, rank: int, values: list[float]) -> list[float]:
        """Add the numbers of both."""
        self.told[rank] = values
        self.meeting.wait()
        total = [a + b for a, b in zip(self.told[0], self.told[1], strict=True)]
        self.meeting.wait()
        return total


@pytest.mark.parametrize("lost", [None, 0, 1, 2, 3])
def test_a_rank_that_cannot_read_does_not_leave_the_other_waiting(tmp_path, monkeypatch, lost):
    path, ranks = make_store(tmp_path / "store", 4), Together()
    read = PairedSlices.read

    def reading(self: PairedSlices, pair, window=None):
        if pair.slice == lost:
            raise MachineError("it is gone")
        return read(self, pair, window)

    monkeypatch.setattr(PairedSlices, "read", reading)

    def of(rank: int) -> Score | MachineError | None:
        slices = PairedSlices([str(path)], "low", "truth", "validation")
        try:
            return validate(
                build("unet", 2, 1),
                slices,
                losses.get("mse"),
                1024,
                False,
                lambda values: ranks.reduce(rank, values),
                (rank, 2),
                lambda failed: ranks.reduce(rank, [float(failed)])[0] > 0,
            )
        except MachineError as error:
            return error

    with ThreadPoolExecutor(2) as threads:
        ended = list(threads.map(of, (0, 1)))
    if lost is None:
        assert ended[0] == ended[1] and ended[0].psnr > 0
    else:
        assert isinstance(ended[lost % 2], MachineError) and ended[1 - lost % 2] is None


def test_peak_memory_is_that_of_the_steps(stores, tmp_path, monkeypatch):
    peak = {"bytes": 1}
    judge = loop.validate

    def judging(*what: object) -> Score | None:
        peak["bytes"] = 10**12
        return judge(*what)

    monkeypatch.setattr(loop, "validate", judging)
    monkeypatch.setattr(loop, "peak_memory", lambda device: peak["bytes"])
    monkeypatch.setattr(loop, "forget_peak_memory", lambda device: peak.update(bytes=1))
    train(tiny(stores, epochs=2), tmp_path / "run")
    assert {line["peak_memory_bytes"] for line in lines(tmp_path / "run")} == {1}
