"""Frames that nobody wrote, or that were taken in the dark: named and filled, never opaque."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.preprocessing import plan, preprocess
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices import SliceStore
from hpc_srct.workflows.inspect import inspect

from .conftest import fingerprint, write_scan

LOST = [50, 51, 52]
VIEWS = 120


def whole(path: Path, **more) -> Path:
    more = {"rows": 6, "views": VIEWS, "columns": 48, "centre": 23.0, "dtype": np.uint16, **more}
    return write_scan(path, **more)


def never_written(path: Path, lost: list[int]) -> None:
    """Leave the chunks of some frames out."""
    with h5py.File(path, "r+") as file:
        frames, there = take_out(file)
        data = file.create_dataset(
            "exchange/data", frames.shape, frames.dtype, chunks=(1, *frames.shape[1:])
        )
        for view in np.setdiff1d(there, lost):
            data[view] = frames[view]


def not_mapped(path: Path, lost: list[int]) -> None:
    """Make the data set a virtual one that takes some frames from nowhere."""
    with h5py.File(path, "r+") as file:
        frames, there = take_out(file)
        with h5py.File(path.with_suffix(".source.h5"), "w") as source:
            source["d"] = frames
        layout = h5py.VirtualLayout(frames.shape, frames.dtype)
        origin = h5py.VirtualSource(path.with_suffix(".source.h5").name, "d", frames.shape)
        for view in np.setdiff1d(there, lost):
            layout[view] = origin[view]
        file.create_virtual_dataset("exchange/data", layout)


def shutter_shut(path: Path, lost: list[int]) -> None:
    """Bring some frames to the dark's level and its noise."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "r+") as file:
        data = file["exchange/data"]
        for view in lost:
            data[view] = np.rint(100 + 5 * rng.normal(size=data.shape[1:]))
        dark = file["exchange/data_dark"]
        dark[...] = np.rint(100 + 5 * rng.normal(size=dark.shape))


def take_out(file: h5py.File) -> tuple[np.ndarray, np.ndarray]:
    frames = file["exchange/data"][:]
    del file["exchange/data"]
    return frames, np.arange(len(frames))


WAYS = [never_written, not_mapped, shutter_shut]


@pytest.mark.parametrize("centre", ["auto", 23.0])
@pytest.mark.parametrize("way", WAYS)
def test_they_are_filled_and_named(tmp_path, capsys, way, centre):
    path = whole(tmp_path / "scan.h5")
    settings = PreprocessingSettings(views="1/2", centre=centre)
    preprocess(path, tmp_path / "right", settings)
    assert "hold no light" not in capsys.readouterr().err
    way(path, LOST)
    preprocess(path, tmp_path / "store", settings)
    said = " ".join(capsys.readouterr().err.split())
    assert "3 view(s) hold no light (50 to 52)" in said
    right, found = (SliceStore(tmp_path / name) for name in ("right", "store"))
    assert found.centre == pytest.approx(23.0, abs=0.1)
    error = found.read("full", slice(None)) - right.read("full", slice(None))
    assert np.sqrt(np.mean(error**2)) < 0.03 * right.read("full", slice(None)).std()
    assert found.provenance["views"]["without_light"] == LOST
    assert found.provenance["intensity"]["clipped_fraction"] == 0


@pytest.mark.parametrize("way", WAYS)
def test_too_many_are_refused_before_anything_is_written(tmp_path, way):
    path = whole(tmp_path / "scan.h5")
    way(path, list(range(20, 28)))
    settings = PreprocessingSettings(centre=23.0)
    with pytest.raises(InputError, match=r"8 of 120 views hold no light \(20 to 27\)"):
        preprocess(path, tmp_path / "store", settings)
    assert not (tmp_path / "store/preprocessing.json").exists()


def test_rows_that_are_opaque_stay_so(tmp_path, capsys):
    """Three rows of six, those looked at first among them; and all rows but one."""
    for name, opaque in (("some", slice(0, 3)), ("most", slice(1, 6))):
        path = whole(tmp_path / f"{name}.h5")
        with h5py.File(path, "r+") as file:
            for view in range(VIEWS):
                file["exchange/data"][view, opaque] = 100
        preprocess(path, tmp_path / name, PreprocessingSettings(centre=23.0))
        store = SliceStore(tmp_path / name)
        assert store.provenance["intensity"]["clipped_fraction_of_worst_row"] == 1
        said = " ".join(capsys.readouterr().err.split())
        assert "hold no light" not in said
        assert "of what was measured stood below the floor" in said


def test_the_only_row_may_be_opaque(tmp_path):
    path = whole(tmp_path / "scan.h5", rows=1)
    with h5py.File(path, "r+") as file:
        file["exchange/data"][...] = 100
    preprocess(path, tmp_path / "store", PreprocessingSettings(centre=23.0))
    found = SliceStore(tmp_path / "store").provenance["intensity"]["clipped_fraction"]
    assert found == 1


@pytest.mark.parametrize("words", [{}, {"photons": 500, "gain": 1}, {"floor": 0.3}])
def test_it_is_the_same_in_any_memory_and_after_a_stop(tmp_path, monkeypatch, words):
    path = whole(tmp_path / "scan.h5", rows=40, chunked=True)
    shutter_shut(path, LOST)
    settings = PreprocessingSettings(views="1/2", **words)
    preprocess(path, tmp_path / "once", settings)
    assert not np.isnan(SliceStore(tmp_path / "once").read("low", slice(None))).any()
    monkeypatch.setattr(plan, "_rows_wanted", lambda work, ranks, n_blocks: [16])
    preprocess(path, tmp_path / "passes", settings)
    staged = settings.model_copy(update={"scratch": tmp_path / "scratch"})
    assert preprocess(path, tmp_path / "staged", staged).plan.staged
    (tmp_path / "passes/slices.h5").unlink()
    (tmp_path / "passes/shards/rows-00032-00039.h5").unlink()
    preprocess(path, tmp_path / "passes", settings)
    for name in ("passes", "staged"):
        assert fingerprint(tmp_path / name) == fingerprint(tmp_path / "once")


def test_a_known_centre_costs_no_reading_more_where_rows_cost_frames(tmp_path, capsys):
    settings = PreprocessingSettings(centre=23.0)
    for way, named in ((never_written, True), (shutter_shut, False)):
        path = whole(tmp_path / f"{way.__name__}.h5", rows=40, chunked=True)
        way(path, LOST)
        done = preprocess(path, tmp_path / way.__name__, settings)
        assert done.plan.readings == 1
        assert ("hold no light (50 to 52)" in " ".join(capsys.readouterr().err.split())) == named


def test_any_number_of_ranks_finds_them(tmp_path, preprocessed):
    path = whole(tmp_path / "scan.h5", rows=40, chunked=True)
    shutter_shut(path, LOST)
    for ranks in (1, 2):
        answer = preprocessed(path, tmp_path / str(ranks), "views=1/2", ranks=ranks)
        assert answer.stderr.count("hold no light") == 1
    assert fingerprint(tmp_path / "1") == fingerprint(tmp_path / "2")


def test_inspect_names_them(tmp_path):
    path = whole(tmp_path / "scan.h5")
    never_written(path, LOST)
    found = inspect(path)
    assert any("3 view(s) hold no light (50 to 52)" in note for note in found.notes)
    assert found.centre["value"] == pytest.approx(23.0, abs=0.1)
