"""Binning and regions: the same object on a coarser grid, counted in the detector's pixels."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.preprocessing import plan, preprocess
from hpc_srct.preprocessing.reduced import ReducedScan, reduced
from hpc_srct.scan import open_scan
from hpc_srct.settings.base import load
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices import SliceStore

from .conftest import fingerprint, write_scan


def made(scan: Path, out: Path, *words: str) -> SliceStore:
    preprocess(scan, out, load(PreprocessingSettings, overrides=words))
    return SliceStore(out)


def test_counts_are_added_up(tmp_path):
    path = write_scan(tmp_path / "scan.h5", rows=7, views=5, columns=11, dtype=np.uint16)
    scan = open_scan(path)
    coarse = ReducedScan(scan, range(1, 11), 3)
    assert (coarse.n_rows, coarse.n_columns) == (2, 3)
    frames = scan.projections(np.array([4, 0]), slice(3, 6)).astype(np.int64)[:, :, 1:10]
    right = frames.reshape(2, 1, 3, 3, 3).sum(axis=(2, 4))
    np.testing.assert_array_equal(coarse.projections(np.array([4, 0]), slice(1, 2)), right)
    assert coarse.flats()[0].frames.shape == (6, 2, 3)
    assert coarse.darks(slice(1, 2))[0].frames.tolist() == np.full((2, 1, 3), 900).tolist()


def test_a_binned_scan_has_the_object_of_the_whole_one(tmp_path):
    path = write_scan(tmp_path / "scan.h5", rows=5, views=180, columns=128, centre=60.0)
    whole = made(path, tmp_path / "whole", "centre=60")
    with h5py.File(path, "r+") as file:
        # In each row of a pair of rows the discs lie elsewhere: look at equal rows.
        file["exchange/data"][:, 1] = 100 + (file["exchange/data"][:, 0] - 100) / gain(
            file, 0
        ) * gain(file, 1)
    coarse = made(path, tmp_path / "coarse", "centre=60", "binning=2")
    assert coarse.size == (64, 64)
    assert coarse.rows.tolist() == [0, 2]
    # c' = (c + 0.5)/b − 0.5
    assert coarse.centre == pytest.approx(29.75)
    fine = whole.read("full", 0).reshape(64, 2, 64, 2).mean(axis=(1, 3))
    y, x = np.mgrid[:64, :64] - 31.5
    inside = np.hypot(x, y) < 16
    image = coarse.read("full", 0)
    # Per pixel, and a pixel is twice as long.
    assert image[inside].mean() == pytest.approx(2 * fine[inside].mean(), rel=0.01)
    assert np.corrcoef(image[inside], fine[inside])[0, 1] > 0.97
    found = made(path, tmp_path / "found", "binning=2")
    assert found.centre == pytest.approx(29.75, abs=0.25)


def gain(file: h5py.File, row: int) -> np.ndarray:
    return file["exchange/data_white"][0, row] - 100


def test_columns_and_rows_count_the_detectors_pixels(tmp_path):
    path = write_scan(tmp_path / "scan.h5", rows=12, views=90, columns=64, centre=30.0)
    whole = made(path, tmp_path / "whole", "centre=30", "rows=4:8")
    part = made(path, tmp_path / "part", "centre=30", "rows=4:8", "columns=2:62")
    assert part.size == (60, 60)
    assert part.centre == 28
    np.testing.assert_array_equal(part.sinogram(0), whole.sinogram(0)[:, 2:62])
    np.testing.assert_allclose(
        part.read("full", 1)[10:50, 10:50], whole.read("full", 1)[12:52, 12:52], atol=2e-4
    )
    binned = made(path, tmp_path / "binned", "centre=30", "rows=3:8", "binning=2")
    assert binned.rows.tolist() == [4, 6]


def test_truth_follows(tmp_path):
    path = write_scan(tmp_path / "scan.h5", rows=4, views=30, columns=32)
    truth = np.random.default_rng(0).random((4, 32, 32), dtype=np.float32)
    with h5py.File(path, "r+") as file:
        file["simulation/truth/data"] = truth
        file["measurement/instrument/detector/pixel_size_x"] = 1e-6
        file["measurement/instrument/detector/pixel_size_x"].attrs["units"] = "m"
    store = made(path, tmp_path / "store", "centre=15.5", "binning=2", "columns=4:28")
    assert store.size == (12, 12)
    assert store.pixel_size == pytest.approx(2e-6)
    right = 2 * truth[2:4, 4:28, 4:28].reshape(2, 12, 2, 12, 2).mean(axis=(0, 2, 4))
    np.testing.assert_allclose(store.read("truth", 1), right, rtol=1e-5)
    odd = made(path, tmp_path / "odd", "centre=15.5", "columns=4:27")
    assert "truth" not in odd.names


def test_photons_of_binned_counts_and_of_staged_frames(tmp_path, monkeypatch):
    path = write_scan(tmp_path / "scan.h5", rows=40, columns=32, chunked=True, dtype=np.uint16)
    words = ["centre=15.5", "photons=1000", "gain=1", "binning=1", "views=[30, 2, 11]"]
    made(path, tmp_path / "plain", *words)
    monkeypatch.setattr(plan, "_rows_wanted", lambda work, ranks, n_blocks: [16])
    made(path, tmp_path / "staged", *words, f"scratch={tmp_path / 'scratch'}")
    assert fingerprint(tmp_path / "staged") == fingerprint(tmp_path / "plain")
    words[3] = "binning=2"
    coarse = made(path, tmp_path / "coarse", *words)
    assert coarse.provenance["dose"]["how"].startswith("binomial")
    # Four pixels' photons in one.
    assert coarse.provenance["dose"]["beam"] == pytest.approx(4 * 21000, rel=0.02)


def test_what_cannot_be_reduced(scan):
    def settings(*words):
        return load(PreprocessingSettings, overrides=words)

    opened = open_scan(scan)
    assert reduced(opened, settings()) is opened
    with pytest.raises(InputError, match="columns: 4:99 expected within 0:48"):
        reduced(opened, settings("columns=4:99"))
    with pytest.raises(InputError, match="binning: 30 leaves 1 × 1"):
        reduced(opened, settings("binning=30"))
    with pytest.raises(InputError, match="holds no 4 rows"):
        settings("binning=4", "rows=1:4").chosen_rows(10)


def test_the_centre_that_is_printed_can_be_given(tmp_path, capsys):
    path = write_scan(tmp_path / "scan.h5", rows=4, views=90, columns=96, centre=44.3)
    for name, words in (("columns", ["columns=10:"]), ("binned", ["binning=2"])):
        found = made(path, tmp_path / name, *words)
        said = " ".join(capsys.readouterr().out.split())
        printed = re.search(r"rotation centre (\S+) ±", said)[1]
        assert float(printed) == pytest.approx(44.3, abs=0.3)
        again = made(path, tmp_path / f"{name}-given", *words, f"centre={printed}")
        assert again.centre == pytest.approx(found.centre, abs=0.006)
    with pytest.raises(InputError, match=r"centre: 5 is off .* \(10 to 95\)"):
        made(path, tmp_path / "off", "columns=10:", "centre=5")


def test_what_the_file_says_is_told_in_the_detectors_pixels(tmp_path, capsys):
    path = write_scan(tmp_path / "scan.h5", rows=4, views=90, columns=96, centre=44.3)
    with h5py.File(path, "r+") as file:
        file["simulation/centre"] = 60.0
    made(path, tmp_path / "store", "columns=10:")
    answer = capsys.readouterr()
    assert "and the file says 60.00" in " ".join((answer.out + answer.err).split())
