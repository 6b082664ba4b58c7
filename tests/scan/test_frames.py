"""Frames are chosen by index lists: any order of flats, darks and projections, any axes."""

from __future__ import annotations

import multiprocessing
import os
import pickle

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scan.writers import BEAM, COLUMNS, ROWS, numbered, write_dxchange, write_nxtomo

from hpc_srct.errors import InputError
from hpc_srct.scan import open_scan
from hpc_srct.scan.stack import parse_axes, runs
from hpc_srct.settings.layout import Layout


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0, 0, 0, 1, 2, 3]), min_size=3, max_size=24))
def test_interleaved_frames_go_where_they_belong(tmp_path_factory, key):
    """Flats between projections never leak into them, and angles follow the same list."""
    key = [0, 1, 2, *key]
    kinds = np.array(key)
    frames = numbered(len(key))
    frames[kinds == 1] += BEAM
    path = tmp_path_factory.mktemp("nx") / "s.nxs"
    scan = open_scan(write_nxtomo(path, key, np.arange(len(key)) * 7.0, data=frames))
    views = np.flatnonzero(kinds == 0)
    np.testing.assert_array_equal(scan.projections(np.arange(scan.n_views)), frames[views])
    np.testing.assert_allclose(np.rad2deg(scan.angles), views * 7.0)
    for value, groups in ((1, scan.flats()), (2, scan.darks())):
        expected = np.flatnonzero(kinds == value)
        np.testing.assert_array_equal(np.concatenate([g.frames for g in groups]), frames[expected])
        taken_before = [g.position for g in groups for _ in g.frames]
        np.testing.assert_array_equal(taken_before, [(views < frame).sum() for frame in expected])
        assert len({g.position for g in groups}) == len(groups)


@given(st.lists(st.integers(0, 30), max_size=20))
def test_runs_cover_the_list_in_order(indices):
    covered = np.full(len(indices), -1)
    for place, piece in runs(np.array(indices, dtype=int)):
        covered[place] = np.arange(31)[piece]
    np.testing.assert_array_equal(covered, indices)


def test_neighbours_are_one_read_and_a_stride_is_none():
    assert list(runs(np.arange(3, 90))) == [(slice(0, 87), slice(3, 90))]
    assert len(list(runs(np.arange(3, 90, 6)))) == 15


def test_views_in_any_order_and_rows_of_any_slice(tmp_path):
    scan = open_scan(write_nxtomo(tmp_path / "s.nxs", [2, 1, 0, 0, 1, 0, 0, 0]))
    frames = numbered(8)[[2, 3, 5, 6, 7]]
    for views in ([4, 0, 2], [1, 1], [], [0, 2, 4]):
        for rows in (slice(None), slice(1, 3), slice(-1, None), slice(2, 2)):
            got = scan.projections(np.array(views, dtype=int), rows)
            np.testing.assert_array_equal(got, frames[np.array(views, dtype=int)][:, rows])
            assert got.dtype == np.uint16
    with pytest.raises(IndexError):
        scan.projections([5])


def test_angle_of_a_range_counts_projections_alone(tmp_path):
    path = write_nxtomo(tmp_path / "s.nxs", [2, 1, 0, 0, 1, 0])
    scan = open_scan(path, angle_range=(0, 90))
    np.testing.assert_allclose(np.rad2deg(scan.angles), [0, 45, 90])
    assert any("not used" in note for note in scan.notes)


@pytest.mark.parametrize(
    "text",
    [
        *("theta:y:x", "y:theta:x", "x:y:theta", "Y, X, Angle", "row:view:column"),
        *(["y", "theta", "x"], np.array([b"x", b"y", b"theta"]), ["theta:x:y"]),
    ],
)
def test_axes(tmp_path, text):
    order = parse_axes(text if isinstance(text, str) else ":".join(np.array(text, str)), "here")
    path = write_dxchange(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        for name in ("data", "data_white", "data_dark"):
            frames = file[f"exchange/{name}"][:]
            del file[f"exchange/{name}"]
            file[f"exchange/{name}"] = np.moveaxis(frames, (0, 1, 2), order)
            file[f"exchange/{name}"].attrs["axes"] = text
    scan = open_scan(path)
    assert (scan.n_views, scan.n_rows, scan.n_columns) == (5, ROWS, COLUMNS)
    np.testing.assert_array_equal(scan.projections([4, 1], slice(1, 3)), numbered(5)[[4, 1], 1:3])
    np.testing.assert_array_equal(scan.flats()[0].frames, numbered(2, 5))
    said = open_scan(path, Layout(projections={"path": "/exchange/data"}))
    np.testing.assert_array_equal(said.projections([4, 1]), numbered(5)[[4, 1]])


@pytest.mark.parametrize(
    "text", ["z:y:x", "theta:y", "theta:theta:x", "foo:y:x", ["y", "x", "foo"]]
)
def test_axes_that_are_not_those_of_projections(tmp_path, text):
    path = write_dxchange(tmp_path / "s.h5", axes=text)
    with pytest.raises(InputError, match="axes"):
        open_scan(path)


def _mean_in_child(scan, answer) -> None:
    answer.put((os.getpid(), float(scan.projections([0, 1]).mean())))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_opens_its_own_file(tmp_path, method):
    scan = open_scan(write_nxtomo(tmp_path / "s.nxs", [2, 1, 0, 0]))
    mean = float(scan.projections([0, 1]).mean())
    context = multiprocessing.get_context(method)
    answer = context.Queue()
    child = context.Process(target=_mean_in_child, args=(scan, answer))
    child.start()
    process, found = answer.get(timeout=60)
    child.join()
    assert (process, found) == (child.pid, mean)
    assert float(scan.projections([0, 1]).mean()) == mean  # the parent's file is still open


def test_relative_path_outlives_a_change_of_folder(tmp_path, monkeypatch):
    write_dxchange(tmp_path / "s.h5")
    monkeypatch.chdir(tmp_path)
    scan = open_scan("s.h5")
    scan.close()
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(scan.projections([2]), numbered(5)[[2]])


def test_pickled_scan_reads_the_same(tmp_path):
    scan = open_scan(write_dxchange(tmp_path / "s.h5"))
    again = pickle.loads(pickle.dumps(scan))
    np.testing.assert_array_equal(again.projections([2]), scan.projections([2]))


def test_reading_needs_no_lock(tmp_path):
    """A file that another process holds locked for writing, as an acquisition does."""
    fcntl = pytest.importorskip("fcntl")
    path = write_dxchange(tmp_path / "s.h5")
    with open(path, "rb+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert open_scan(path).n_views == 5


def test_a_file_that_this_process_has_open_already(tmp_path):
    path = write_dxchange(tmp_path / "s.h5")
    with h5py.File(path, "r"):
        assert open_scan(path).n_views == 5


def test_source_names_what_was_read(tmp_path):
    path = write_nxtomo(tmp_path / "s.nxs", [2, 1, 0, 0])
    source = open_scan(path).source()
    assert source["path"] == str(path)
    assert source["bytes"] == path.stat().st_size
    assert source["format"] == "nxtomo"
    assert source["datasets"]["angles"] == [f"{path}: /entry1/tomo_entry/sample/rotation_angle"]
