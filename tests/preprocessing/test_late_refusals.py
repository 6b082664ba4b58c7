"""What a scan cannot give is refused before anything is written, and the mended command goes on."""

from __future__ import annotations

import h5py
import pytest

from hpc_srct.errors import InputError, MachineError
from hpc_srct.preprocessing import preprocess
from hpc_srct.preprocessing.record import RECORD
from hpc_srct.settings.base import load
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.workflows.inspect import inspect

from .conftest import write_scan

PHASE = ["phase.energy_kev=20", "phase.distance_m=0.1", "phase.delta_beta=100"]


def settings(*words: str) -> PreprocessingSettings:
    return load(PreprocessingSettings, overrides=["centre=15.5", "views=1/2", *words])


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "scan.h5", rows=4, views=24, columns=32)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (PHASE, "names no pixel size; give it: phase.pixel_size_m=NUMBER"),
        (["monitor=true"], "has no beam monitor"),
        (["splits=25"], "splits: 25 asked for, the scan has 24 views"),
    ],
)
def test_refused_before_the_record(scan, tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        preprocess(scan, tmp_path / "store", settings(*words))
    assert not (tmp_path / "store" / RECORD).exists()
    assert any(message in note for note in inspect(scan, settings=settings(*words)).notes)


def test_a_monitor_without_flats_readings_is_refused_first(scan, tmp_path):
    with h5py.File(scan, "r+") as file:
        file["measurement/instrument/monitor/integral"] = [1.0] * 24
    with pytest.raises(InputError, match="monitor"):
        preprocess(scan, tmp_path / "store", settings("monitor=true"))
    assert not (tmp_path / "store" / RECORD).exists()


def test_a_record_without_a_block_is_replaced(scan, tmp_path):
    store = tmp_path / "store"
    preprocess(scan, store, settings("rings=sorting"))
    (store / "slices.h5").unlink()
    for shard in (store / "shards").iterdir():
        shard.unlink()
    preprocess(scan, store, settings())
    with pytest.raises(InputError, match='made with rings="none", now rings="sorting"'):
        preprocess(scan, store, settings("rings=sorting"))


def test_what_differs_is_named_by_its_leaf(scan, tmp_path):
    preprocess(scan, tmp_path / "store", settings(*PHASE, "phase.pixel_size_m=1e-6"))
    with pytest.raises(InputError, match=r"phase.pixel_size_m=1e-06, now phase.pixel_size_m=2e-06"):
        preprocess(scan, tmp_path / "store", settings(*PHASE, "phase.pixel_size_m=2e-6"))
    with pytest.raises(InputError, match=r"made with phase"):
        preprocess(scan, tmp_path / "store", settings())


def test_settings_without_effect_are_named(scan, tmp_path, capsys):
    preprocess(scan, tmp_path / "store", settings("gain=2", "noise_seed=3"))
    said = " ".join(capsys.readouterr().err.split())
    assert "gain and noise_seed: without effect, since photons is not set" in said
    preprocess(scan, tmp_path / "plain", settings())
    assert "without effect" not in capsys.readouterr().err


def test_a_scratch_folder_that_cannot_be_made_is_refused(scan, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="file/x"):
        preprocess(scan, tmp_path / "store", settings(f"scratch={tmp_path / 'file/x'}"))
    preprocess(scan, tmp_path / "store", settings(f"scratch={tmp_path / 'deep/er'}"))
    assert "is not needed" in capsys.readouterr().out
    assert not (tmp_path / "deep").exists()
