"""A full turn with the axis at the side: found, stitched, and as good as a wide detector."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.preprocessing import plan, preprocess
from hpc_srct.preprocessing.full_turn import StitchedScan, stitched_where_aside
from hpc_srct.scan import Scan, open_scan
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices import SliceStore
from hpc_srct.tomography.projector import Projector
from hpc_srct.workflows.inspect import inspect

from .conftest import fingerprint

DISCS = [(0.0, 0.0, 44.0, 0.01), (25.0, 8.0, 9.0, 0.02), (-30.0, -12.0, 6.0, 0.03)]


def integrals(angles, columns, centre):
    edges = np.arange(columns + 1) - 0.5 - centre
    total = np.zeros((len(angles), columns))
    for x, y, radius, value in DISCS:
        s = np.clip(edges - (x * np.cos(angles) + y * np.sin(angles))[:, None], -radius, radius)
        area = s * np.sqrt(radius**2 - s**2) + radius**2 * np.arcsin(s / radius)
        total += value * np.diff(area, axis=1)
    return total


def write(path, columns, centre, turn=2 * np.pi, views=240, noise=0.0, rows=2, angles=None):
    rng = np.random.default_rng(0)
    angles = np.arange(views) * turn / views if angles is None else np.asarray(angles)
    counts = 100 + 20000 * np.exp(-integrals(angles, columns, centre))
    counts += noise * rng.normal(size=counts.shape)
    with h5py.File(path, "w") as file:
        file["exchange/data"] = np.repeat(counts[:, None], rows, axis=1).astype(np.float32)
        file["exchange/data_white"] = np.full((2, rows, columns), 20100, np.float32)
        file["exchange/data_dark"] = np.full((2, rows, columns), 100, np.float32)
        file["exchange/theta"] = np.rad2deg(angles)
        file["exchange/theta"].attrs["units"] = "deg"
    return open_scan(path)


@pytest.mark.parametrize("centre", [12.3, 51.0])
def test_stitched_scan_is_that_of_a_wide_detector(tmp_path, centre):
    scan = write(tmp_path / "s.h5", 64, centre, noise=20)
    wide, found = stitched_where_aside(scan, PreprocessingSettings())
    assert isinstance(wide, StitchedScan)
    assert wide.on_detector == found.estimate.value
    assert (wide.n_views, wide.n_rows) == (120, 2)
    assert wide.centre_hint == pytest.approx((wide.n_columns - 1) / 2, abs=1)
    offset = wide.centre_hint - (centre if centre > 32 else wide.n_columns - 64 + centre)
    assert offset == pytest.approx(0, abs=0.3)
    found = -np.log(wide.projections(np.arange(120), slice(0, 1))[:, 0])
    exact = integrals(wide.angles, wide.n_columns, wide.centre_hint)
    # Cubic interpolation rounds the discs' edges: compare what is not on an edge.
    error = np.abs(found - exact)
    assert np.median(error) < 0.01 * exact.max()
    assert np.quantile(error, 0.95) < 0.04 * exact.max()
    assert any("axis at the side" in note for note in wide.notes)


def test_grey_values_outside_the_narrow_views(tmp_path):
    settings = PreprocessingSettings(centre=51)
    wide, _ = stitched_where_aside(write(tmp_path / "s.h5", 64, 51.0), settings)
    sinogram = -np.log(wide.projections(np.arange(wide.n_views), slice(0, 1))[:, 0])
    image = Projector(wide.angles, wide.n_columns, wide.centre_hint).fbp(sinogram)
    middle = (wide.n_columns - 1) / 2
    for x, y, _, value in DISCS[1:]:
        row, column = round(middle - y), round(middle + x)
        inside = image[row - 2 : row + 3, column - 2 : column + 3]
        assert inside.mean() == pytest.approx(DISCS[0][3] + value, rel=0.01)


def test_views_and_rows_do_not_depend_on_what_is_read_with_them(tmp_path):
    wide, _ = stitched_where_aside(write(tmp_path / "s.h5", 64, 51.0), PreprocessingSettings())
    every = wide.projections(np.arange(wide.n_views))
    some = wide.projections(np.array([7, 100]), slice(1, 2))
    np.testing.assert_array_equal(some, every[[7, 100], 1:2])
    assert some.dtype == wide.dtype


@pytest.mark.parametrize(("centre", "turn"), [(33.0, 2 * np.pi), (51.0, np.pi)])
def test_other_scans_are_left_as_they_are(tmp_path, centre, turn):
    scan = write(tmp_path / "s.h5", 64, centre, turn)
    settings = PreprocessingSettings(centre=centre)
    assert stitched_where_aside(scan, settings)[0] is scan


@pytest.mark.parametrize(
    ("asked", "without"), [({"monitor": True}, "monitor=false"), ({"photons": 500}, "photons=null")]
)
@pytest.mark.parametrize("known", [None, {"on_detector": 51.0}])
def test_what_needs_counts_is_refused_by_name(tmp_path, asked, without, known):
    """The file has flats and a monitor: nobody is to be told that it has none."""
    scan = write(tmp_path / "s.h5", 64, 51.0)
    settings = PreprocessingSettings(centre=51, **asked)
    with pytest.raises(InputError, match="views are stitched") as caught:
        stitched_where_aside(scan, settings, known)
    assert f"Set {without}; or stitch=false" in str(caught.value)
    middle = write(tmp_path / "middle.h5", 64, 33.0)
    settings = PreprocessingSettings(centre=33, **asked)
    assert stitched_where_aside(middle, settings)[0] is middle


def test_the_whole_road(tmp_path):
    scan = write(tmp_path / "s.h5", 64, 51.0)
    summary = preprocess(scan.path, tmp_path / "store", PreprocessingSettings(views="1/2"))
    assert summary.slices == 2
    store = SliceStore(tmp_path / "store")
    assert store.size == (103, 103)
    assert store.centre == pytest.approx(51, abs=0.2)
    assert len(store.low_angles) == 60
    image, middle = store.read("full", 0), 51
    for x, y, _, value in DISCS[1:]:
        row, column = round(middle - y), round(middle + x)
        inside = image[row - 2 : row + 3, column - 2 : column + 3]
        assert inside.mean() == pytest.approx(DISCS[0][3] + value, rel=0.02)
    again = preprocess(scan.path, tmp_path / "store", PreprocessingSettings(views="1/2"))
    assert again.slices == 0


def test_it_is_left_alone_where_told_so(tmp_path):
    scan = write(tmp_path / "s.h5", 64, 51.0)
    settings = PreprocessingSettings(stitch=False, centre=51)
    preprocess(scan.path, tmp_path / "store", settings)
    assert SliceStore(tmp_path / "store").size == (64, 64)


def test_what_is_clipped_is_counted_as_on_a_wide_detector(tmp_path):
    path = write(tmp_path / "s.h5", 64, 51.0).path
    settings = PreprocessingSettings(centre=51, floor=0.4, views="1/2")
    preprocess(path, tmp_path / "store", settings)
    found = SliceStore(tmp_path / "store").provenance["intensity"]["clipped_fraction"]
    angles = np.arange(120) * np.pi / 120
    right = np.mean(np.exp(-integrals(angles, 103, 51.0)) < 0.4)
    assert right > 0.1
    assert found == pytest.approx(right, rel=0.03)
    preprocess(path, tmp_path / "clear", PreprocessingSettings(centre=51, views="1/2"))
    assert SliceStore(tmp_path / "clear").provenance["intensity"]["clipped_fraction"] == 0


@pytest.mark.parametrize(("size", "columns"), [(63, 103), (64, 102), (140, 102)])
def test_the_truth_goes_along(tmp_path, size, columns):
    path = write(tmp_path / "s.h5", 64, 51.0).path
    truth = np.random.default_rng(0).random((2, size, size), dtype=np.float32)
    with h5py.File(path, "r+") as file:
        file["simulation/truth/data"] = truth
    preprocess(path, tmp_path / "store", PreprocessingSettings(centre=51, views="1/2"))
    store = SliceStore(tmp_path / "store")
    assert store.size == (columns, columns)
    found, aside = store.read("truth", slice(None)), abs(columns - size) // 2
    if size > columns:
        np.testing.assert_array_equal(found, truth[:, aside:-aside, aside:-aside])
    else:
        np.testing.assert_array_equal(found[:, aside:-aside, aside:-aside], truth)
        assert found.sum() == pytest.approx(truth.sum())


def test_the_frames_are_read_once_for_the_centre_and_once_a_pass(tmp_path, monkeypatch):
    path = write(tmp_path / "s.h5", 64, 51.0).path
    with h5py.File(path, "r+") as file:
        frames = file["exchange/data"][:]
        del file["exchange/data"]
        file.create_dataset("exchange/data", data=frames, chunks=(1, 2, 64), compression="gzip")
    read = []
    projections = Scan.projections
    monkeypatch.setattr(
        Scan,
        "projections",
        lambda scan, views, rows=slice(None): (
            read.extend(np.asarray(views)) or projections(scan, views, rows)
        ),
    )
    summary = preprocess(path, tmp_path / "store", PreprocessingSettings())
    assert summary.plan.readings == 2
    assert 2 * 240 <= len(read) <= 2 * 240 + 10
    read.clear()
    # A rerun takes the centre that was found, and looks for nothing.
    (tmp_path / "store/slices.h5").unlink()
    (shard,) = (tmp_path / "store/shards").iterdir()
    before = shard.read_bytes()
    shard.unlink()
    preprocess(path, tmp_path / "store", PreprocessingSettings())
    assert 240 <= len(read) <= 250
    assert shard.read_bytes() == before
    read.clear()
    # A full turn with its axis in the middle is left alone, and its centre found only once.
    middle = write(tmp_path / "middle.h5", 64, 33.0).path
    store = tmp_path / "middle"
    preprocess(middle, store, PreprocessingSettings())
    assert len(read) == 2 * 240
    assert SliceStore(store).centre == pytest.approx(33, abs=0.2)


def test_a_wide_scan_in_passes_and_from_scratch_is_the_same(tmp_path, monkeypatch):
    path = write(tmp_path / "s.h5", 64, 51.0, noise=20, rows=36).path
    with h5py.File(path, "r+") as file:
        frames = file["exchange/data"][:]
        del file["exchange/data"]
        file.create_dataset("exchange/data", data=frames, chunks=(1, 36, 64), compression="gzip")
    whole = PreprocessingSettings(floor=0.3)
    preprocess(path, tmp_path / "whole", whole)
    monkeypatch.setattr(plan, "_rows_wanted", lambda work, ranks, n_blocks: [16])
    preprocess(path, tmp_path / "tight", whole)
    staged = whole.model_copy(update={"scratch": tmp_path / "scratch"})
    assert preprocess(path, tmp_path / "staged", staged).plan.staged
    assert fingerprint(tmp_path / "tight") == fingerprint(tmp_path / "whole")
    assert fingerprint(tmp_path / "staged") == fingerprint(tmp_path / "whole")


def test_inspect_says_so(tmp_path):
    found = inspect(write(tmp_path / "s.h5", 64, 51.0).path)
    assert found.centre["value"] == pytest.approx(51, abs=0.2)
    assert any("120 views of 103 columns" in note for note in found.notes)
    assert found.plan["disk_bytes"] > 2 * 2 * 103**2 * 4


STEP = 2 * np.pi / 240


@pytest.mark.parametrize(
    "angles",
    [
        np.arange(250) * STEP,  # runs ten views past its end
        np.arange(236) * STEP,  # ends 6° before
        np.delete(np.arange(240), slice(100, 104)) * STEP,
        np.sort(np.random.default_rng(1).uniform(0, 2 * np.pi, 720)),
        np.arange(480) * STEP,  # two turns
    ],
    ids=["past", "short", "gap", "random", "twice"],
)
def test_a_turn_is_one_by_what_it_covers(tmp_path, angles):
    path = write(tmp_path / "s.h5", 64, 51.0, angles=angles).path
    found = inspect(path)
    assert found.centre["value"] == pytest.approx(51, abs=0.2)
    assert any("of 103 columns" in note for note in found.notes)
    preprocess(path, tmp_path / "store", PreprocessingSettings(views="1/2", centre=51))
    image = SliceStore(tmp_path / "store").read("full", 0)
    assert image.shape == (103, 103)
    for x, y, _, value in DISCS[1:]:
        row, column = round(51 - y), round(51 + x)
        inside = image[row - 2 : row + 3, column - 2 : column + 3]
        assert inside.mean() == pytest.approx(DISCS[0][3] + value, rel=0.05)


def test_a_turn_with_much_left_out_says_that_it_is_not_stitched(tmp_path, capsys):
    path = write(tmp_path / "s.h5", 64, 51.0, angles=np.arange(200) * STEP).path
    settings = PreprocessingSettings(centre=51)
    found = inspect(path, settings=settings)
    assert any("61.5° of the turn out" in note for note in found.notes)
    preprocess(path, tmp_path / "store", settings)
    said = " ".join(capsys.readouterr().err.split())
    assert "span 298.5°" in said and "the views are not stitched" in said
    assert SliceStore(tmp_path / "store").size == (64, 64)
    settings = settings.model_copy(update={"stitch": False})
    preprocess(path, tmp_path / "asked", settings)
    assert "not stitched" not in capsys.readouterr().err
