"""The slice store that a scan becomes: right grey values, the same bits however it is made."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_srct.errors import InputError, MachineError
from hpc_srct.preprocessing import plan, preprocess, run, sinograms
from hpc_srct.preprocessing.contact_sheet import try_centres
from hpc_srct.settings.base import load
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices import SliceStore
from hpc_srct.slices.lock import StoreLock
from hpc_srct.slices.normalisation import intensity

from .conftest import disc_integrals, fingerprint, write_scan


def made(scan: Path, out: Path, *settings: str) -> SliceStore:
    preprocess(scan, out, load(PreprocessingSettings, overrides=settings))
    return SliceStore(out)


def disc_mean(image: np.ndarray, radius: float) -> float:
    n = len(image)
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    return float(image[np.hypot(x, y) < radius].mean())


def test_grey_values_are_attenuation_per_pixel(tmp_path):
    scan = write_scan(tmp_path / "scan.h5", rows=2, views=180, columns=128, attenuation=0.01)
    store = made(scan, tmp_path / "store", "views=1/2")
    for name in ("full", "low"):
        for image in store.read(name, slice(None)):
            assert disc_mean(image, 10) == pytest.approx(0.01, rel=5e-3)
    field = store.field_of_view
    assert store.scale == pytest.approx(
        np.mean([intensity(image, field) for image in store.read("low", slice(None))]), rel=1e-6
    )


def test_centre_off_the_middle_is_found(tmp_path):
    scan = write_scan(tmp_path / "scan.h5", rows=4, views=90, columns=96, centre=44.3)
    store = made(scan, tmp_path / "store")
    assert store.centre == pytest.approx(44.3, abs=0.25)
    assert store.provenance["centre"]["uncertainty"] < 0.5
    assert store.field_of_view == pytest.approx(min(store.centre, 95 - store.centre))


def with_centre(path: Path, centre: float) -> Path:
    with h5py.File(path, "r+") as file:
        file["simulation/centre"] = centre
    return path


def test_the_files_own_centre(tmp_path, capsys):
    path = with_centre(write_scan(tmp_path / "scan.h5", rows=4, views=90, columns=96), 45.0)
    found = made(path, tmp_path / "found")
    assert found.centre == pytest.approx(47.5, abs=0.25)
    assert found.provenance["centre"]["in_file"] == 45
    said = " ".join(capsys.readouterr().err.split())
    assert "the file says 45.00: look at both" in said
    taken = made(path, tmp_path / "taken", "centre=file")
    assert (taken.centre, taken.provenance["centre"]["method"]) == (45, "from the file")
    part = made(path, tmp_path / "part", "centre=file", "columns=10:90", "binning=2")
    assert part.centre == (35 + 0.5) / 2 - 0.5
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("in_file", [46.2, -0.4])  # counted from the side, or from the middle
def test_a_centre_in_the_file_that_is_near_needs_no_word(tmp_path, capsys, in_file):
    path = write_scan(tmp_path / "scan.h5", rows=2, views=90, columns=96)
    made(with_centre(path, in_file), tmp_path / "store")
    assert capsys.readouterr().err == ""


def test_no_centre_in_the_file(scan, tmp_path):
    with pytest.raises(InputError, match="names no rotation centre"):
        made(scan, tmp_path / "store", "centre=file")
    with pytest.raises(InputError, match="centre: 400 is off the detector"):
        made(with_centre(scan, 400.0), tmp_path / "store", "centre=file")


@pytest.mark.parametrize("method", ["mirror", "pairs", "mass"])
def test_the_centre_by_a_method(tmp_path, method):
    path = write_scan(tmp_path / "scan.h5", rows=4, views=90, columns=96, centre=44.3)
    store = made(path, tmp_path / "store", f"centre_method={method}")
    assert store.centre == pytest.approx(44.3, abs=0.5)
    words = {"mirror": "mirrored half turn", "pairs": "opposite views", "mass": "centre of mass"}
    assert store.provenance["centre"]["method"] == words[method]


def test_a_leaning_axis_is_warned_of(tmp_path, capsys):
    path = write_scan(tmp_path / "scan.h5", rows=64, views=90, columns=96, tilt=3.0, noise=50)
    store = made(path, tmp_path / "store", "rows=0:2")
    said = " ".join(capsys.readouterr().err.split())
    assert "the axis is tilted by" in said
    rows = store.provenance["centre"]["rows"]
    assert rows["tilt_degrees"] == pytest.approx(3.0, abs=0.3)
    assert rows["rows"] == [6, 19, 32, 44, 57]
    assert not rows["agree"]
    upright = write_scan(tmp_path / "upright.h5", rows=64, views=90, columns=96, noise=50)
    rows = made(upright, tmp_path / "other", "rows=0:2").provenance["centre"]["rows"]
    assert rows["agree"]
    assert abs(rows["tilt_degrees"]) < 0.3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "angles",
    [
        np.deg2rad(270 - np.arange(91) * 2.0),  # backwards, its end point the first again
        np.deg2rad(-33.3 + np.arange(90) * 2.0),
        np.pi * np.cumsum(np.random.default_rng(5).uniform(0.2, 1.8, 130)) / 130,
        np.deg2rad(17 + np.random.default_rng(5).permutation(90) * 2.0),
        np.deg2rad(np.arange(181) * 2.0),  # a full turn and its end point
    ],
    ids=["backwards", "anywhere", "irregular", "shuffled", "full"],
)
def test_the_same_object_from_angles_of_every_kind(tmp_path, angles):
    plain = np.arange(90) * np.pi / 90
    images = []
    for name, turn in (("plain", plain), ("other", angles)):
        path = write_scan(
            tmp_path / f"{name}.h5", rows=2, views=len(turn), columns=96, centre=45.2, angles=turn
        )
        store = made(path, tmp_path / name, "views=null")
        assert store.centre == pytest.approx(45.2, abs=0.25)
        images.append(store.read("full", 1))
    y, x = np.mgrid[:96, :96] - 47.5
    inside = np.hypot(x, y) < 30
    difference = (images[1] - images[0])[inside]
    assert np.sqrt((difference**2).mean()) < 0.1 * images[0][inside].mean()
    assert abs(difference.mean()) < 0.01 * images[0][inside].mean()


def test_rows_views_and_sinogram(scan, tmp_path):
    store = made(scan, tmp_path / "store", "views=1/6+2", "rows=10:38", "centre=23.5")
    assert store.rows.tolist() == list(range(10, 38))
    assert store.names == ["low", "full"]
    assert (store.size, store.centre, store.field_of_view) == ((48, 48), 23.5, 23.5)
    np.testing.assert_allclose(store.low_angles, np.arange(2, 48, 6) * np.pi / 48, atol=1e-12)
    angles = np.arange(48) * np.pi / 48
    exact = disc_integrals(angles, 48, 23.5, 0, 0, 0.8 * 23.5, 0.02)
    turn = 13 * 0.3
    x, y = 0.4 * 23.5 * np.cos(turn), 0.4 * 23.5 * np.sin(turn)
    exact += disc_integrals(angles, 48, 23.5, x, y, 0.2 * 23.5, 0.02)
    np.testing.assert_allclose(store.sinogram(3), exact[2::6], atol=1e-5)
    listed = made(scan, tmp_path / "listed", "views=[40, 3]", "sinogram=false", "centre=23.5")
    assert not listed.has_sinogram
    assert listed.provenance["views"] == {"scan": 48, "low": [40, 3]}
    # Row 10 leads a pair in both: the same pairs, the same bits.
    np.testing.assert_array_equal(
        store.read("full", slice(None)), listed.read("full", slice(10, 38))
    )


def test_all_views_as_low_dose_give_the_full_reconstruction(scan, tmp_path):
    store = made(scan, tmp_path / "store", "views=null", "rows=0:4")
    np.testing.assert_array_equal(store.read("low", slice(None)), store.read("full", slice(None)))


def test_flats_that_drift_are_interpolated(tmp_path):
    steady = made(write_scan(tmp_path / "steady.h5", rows=2), tmp_path / "a", "centre=23.5")
    scan = write_scan(tmp_path / "drift.h5", rows=2, drift=0.5)
    drifting = made(scan, tmp_path / "b", "centre=23.5")
    np.testing.assert_allclose(drifting.sinogram(0), steady.sinogram(0), atol=2e-5)


def with_rows(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(plan, "_rows_wanted", lambda work, ranks, n_blocks: [rows])


def test_memory_and_scratch_do_not_change_a_byte(tmp_path, monkeypatch):
    scan = write_scan(tmp_path / "scan.h5", rows=36, chunked=True, dtype=np.uint16)
    made(scan, tmp_path / "plain")
    expected = fingerprint(tmp_path / "plain")
    for rows in (2, 96):
        with_rows(monkeypatch, rows)
        monkeypatch.setattr(plan, "PIECE", 100_000 if rows == 2 else 40_000_000)
        made(scan, tmp_path / f"rows{rows}")
        assert fingerprint(tmp_path / f"rows{rows}") == expected
    with_rows(monkeypatch, 16)
    made(scan, tmp_path / "staged", f"scratch={tmp_path / 'scratch'}", "memory=3GiB")
    assert fingerprint(tmp_path / "staged") == expected
    assert list((tmp_path / "scratch").iterdir()) == []


def test_scratch_is_used_and_removed_on_failure(tmp_path, monkeypatch):
    scan = write_scan(tmp_path / "scan.h5", rows=70, chunked=True)
    with_rows(monkeypatch, 4)
    scratch = tmp_path / "scratch"
    seen = []

    def fail(*_):
        seen.extend(scratch.iterdir())
        raise MachineError("in the middle")

    monkeypatch.setattr("hpc_srct.preprocessing.sinograms.frames_for_rows", fail)
    with pytest.raises(MachineError, match="in the middle"):
        made(scan, tmp_path / "store", f"scratch={scratch}", "centre=23.5")
    assert len(seen) == 1
    assert list(scratch.iterdir()) == []


def test_two_stores_share_a_scratch_folder(tmp_path, monkeypatch):
    scan = write_scan(tmp_path / "scan.h5", rows=40, chunked=True)
    with_rows(monkeypatch, 4)
    made(scan, tmp_path / "plain", "rows=0:20", "centre=23.5")
    scratch, through = tmp_path / "scratch", []
    real = sinograms.frames_for_rows

    def another_run_meanwhile(*words):
        if not through:
            through.append(True)
            made(scan, tmp_path / "other", f"scratch={scratch}", "rows=20:40", "centre=23.5")
        return real(*words)

    monkeypatch.setattr(sinograms, "frames_for_rows", another_run_meanwhile)
    made(scan, tmp_path / "store", f"scratch={scratch}", "rows=0:20", "centre=23.5")
    assert fingerprint(tmp_path / "store") == fingerprint(tmp_path / "plain")
    assert list(scratch.iterdir()) == []


def test_rows_without_beam_are_nan_and_the_rest_goes_on(tmp_path):
    scan = write_scan(tmp_path / "scan.h5", rows=64)
    with h5py.File(scan, "r+") as file:
        for name in ("data", "data_white", "data_dark"):
            file[f"exchange/{name}"][:, 32:] = 0
    for name, settings in (("plain", []), ("phase", PHASE)):
        store = made(scan, tmp_path / name, "centre=23.5", *settings)
        full = store.read("full", slice(None))
        assert np.isfinite(full[:32]).all() and np.isnan(full[32:]).all()


def test_a_lost_frame_is_filled_from_its_neighbours_and_said(tmp_path, capsys):
    sound = made(write_scan(tmp_path / "sound.h5", rows=4), tmp_path / "sound")
    scan = write_scan(tmp_path / "scan.h5", rows=4)
    with h5py.File(scan, "r+") as file:
        file["exchange/data"][18] = np.nan
    store = made(scan, tmp_path / "store")
    assert store.centre == pytest.approx(sound.centre, abs=0.05)
    assert "1 view(s) without a number in some rows" in capsys.readouterr().err
    expected, found = sound.read("full", slice(None)), store.read("full", slice(None))
    assert np.abs(found - expected).max() < 0.1 * expected.max()
    with h5py.File(scan, "r+") as file:
        file["exchange/data"][20:40] = np.nan
    many = made(scan, tmp_path / "many", "centre=23.5")
    assert np.isnan(many.read("full", slice(None))).all(), "too many to make up"


PHASE = [
    "phase.energy_kev=20",
    "phase.distance_m=0.01",
    "phase.delta_beta=100",
    "phase.pixel_size_m=1e-6",
]


def test_a_layout_that_was_changed_makes_another_store(tmp_path):
    scan, layout = write_scan(tmp_path / "scan.h5", rows=40), tmp_path / "layout.yaml"
    layout.write_text("angles: {range: [0, 178]}")
    made(scan, tmp_path / "store", f"layout={layout}", "centre=23.5", "stitch=false")
    (tmp_path / "store" / "slices.h5").unlink()
    layout.write_text("angles: {range: [0, 356]}")
    with pytest.raises(InputError, match="the layout's content changed"):
        made(scan, tmp_path / "store", f"layout={layout}", "centre=23.5", "stitch=false")


def test_truth_is_copied_where_there_is_one(scan, tmp_path):
    truth = np.random.default_rng(0).random((40, 48, 48), dtype=np.float32)
    with h5py.File(scan, "r+") as file:
        file["simulation/truth/data"] = truth
    store = made(scan, tmp_path / "store", "rows=5:40")
    assert store.names == ["low", "full", "truth"]
    np.testing.assert_array_equal(store.read("truth", slice(None)), truth[5:])


def test_a_slice_of_nan_does_not_reach_its_neighbour(tmp_path):
    clean = made(write_scan(tmp_path / "clean.h5", rows=8), tmp_path / "a", "centre=23.5")
    scan = write_scan(tmp_path / "scan.h5", rows=8)
    with h5py.File(scan, "r+") as file:
        file["exchange/data"][:, 3] = np.nan
    store = made(scan, tmp_path / "b", "centre=23.5")
    for name in ("low", "full"):
        before, after = clean.read(name, slice(None)), store.read(name, slice(None))
        assert np.isnan(after[3]).all()
        others = [0, 1, 4, 5, 6, 7]
        np.testing.assert_array_equal(after[others], before[others])
        # Its partner differs by what leaks between the two of a pair, and no more.
        assert np.abs(after[2] - before[2]).max() < 1e-3 * np.ptp(before[2])
    assert store.provenance["intensity"]["slices_without_a_number"] == 1
    assert np.isfinite(store.scale)


def test_provenance(scan, tmp_path):
    story = made(scan, tmp_path / "store", "rows=0:4", "floor=0.5").provenance
    assert story["source"]["path"] == str(scan)
    assert story["source"]["bytes"] == scan.stat().st_size
    assert story["source"]["mtime"] == scan.stat().st_mtime
    assert story["settings"]["views"] == "1/6"
    assert "memory" not in story["settings"]
    assert story["versions"]["hpc_srct"]
    assert story["angles"]["units"] == "rad" and len(story["angles"]["full"]) == 48
    assert 0 < story["intensity"]["clipped_fraction"] < 1
    assert story["centre"]["method"]


def test_a_complete_store_is_left_alone(scan, tmp_path, capsys):
    made(scan, tmp_path / "store")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*") if p.is_file()}
    made(scan, tmp_path / "store", "memory=2GiB")
    assert "is complete already" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_only_what_is_missing_is_made(scan, tmp_path):
    made(scan, tmp_path / "store")
    expected = fingerprint(tmp_path / "store")
    kept = tmp_path / "store/shards/rows-00032-00039.h5"
    lost = tmp_path / "store/shards/rows-00000-00031.h5"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    summary = preprocess(scan, tmp_path / "store", PreprocessingSettings())
    assert summary.slices == 32
    assert kept.stat().st_mtime_ns == before
    assert fingerprint(tmp_path / "store") == expected


def test_other_result_settings_are_refused(scan, tmp_path):
    made(scan, tmp_path / "store")
    with pytest.raises(InputError, match='made with views="1/6", now views="1/4"'):
        made(scan, tmp_path / "store", "views=1/4")
    with pytest.raises(InputError, match='filter="ramp", now filter="hann"'):
        made(scan, tmp_path / "store", "filter=hann")


def test_another_or_a_changed_scan_is_refused(scan, tmp_path):
    store = tmp_path / "store"
    made(scan, store)
    other = write_scan(tmp_path / "other.h5")
    with pytest.raises(InputError, match="is another file than"):
        made(other, store)
    moved = tmp_path / "moved" / scan.name
    moved.parent.mkdir()
    shutil.copy2(scan, moved)
    made(moved, store)  # the same scan at another place
    (store / "slices.h5").unlink()
    os.utime(scan, (1, 1))
    with pytest.raises(InputError, match=r"has changed since the store was begun \(mtime"):
        made(scan, store)


def test_a_scan_that_changes_meanwhile_gives_no_finished_store(scan, tmp_path, monkeypatch):
    work = run.work_through

    def meddled(*args):
        work(*args)
        os.utime(scan, (1, 1))

    monkeypatch.setattr(run, "work_through", meddled)
    with pytest.raises(InputError, match="has changed"):
        made(scan, tmp_path / "store")
    assert not (tmp_path / "store/slices.h5").exists()


def test_a_folder_of_something_else_is_left_alone(scan, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"other things in it \(notes\.txt\)"):
        made(scan, tmp_path / "mine")
    with pytest.raises(InputError, match="is a file"):
        made(scan, scan)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_two_runs_on_one_store(scan, tmp_path):
    with StoreLock(tmp_path / "store"), pytest.raises(InputError, match="another run is writing"):
        made(scan, tmp_path / "store")
    assert made(scan, tmp_path / "store").n_slices == 40
    assert not (tmp_path / "store/.lock").exists()


def test_a_disk_that_is_too_small_is_refused_first(scan, tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(MachineError, match="MiB more and the disk has 0 MiB free"):
        made(scan, tmp_path / "store")


def test_a_place_that_cannot_be_written(scan, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be written"):
        made(scan, tmp_path / "file" / "store")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["rows=30:50"], "rows: 30:50 expected within 0:40"),
        (["views=[3, 48]"], "more than the scan's 48 views"),
        (["centre=48"], "centre: 48 is off the detector"),
        (["memory=1MiB"], "memory: 1 MiB does not hold two rows"),
    ],
)
def test_settings_that_do_not_fit_the_scan(scan, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        made(scan, tmp_path / "store", *settings)
    assert not (tmp_path / "store").exists()


def test_counts_without_flats_are_no_transmission(scan, tmp_path, capsys):
    with h5py.File(scan, "r+") as file:
        del file["exchange/data_white"]
        counts = file["exchange/data"][:]
    words = ["without_flats=true", "centre=23.5", "rows=0:2"]
    for name, values in (("share", counts / 30000), ("counts", counts.astype(np.uint16))):
        shutil.copy(scan, tmp_path / f"{name}.h5")
        with h5py.File(tmp_path / f"{name}.h5", "r+") as file:
            del file["exchange/data"]
            file["exchange/data"] = values
    with pytest.raises(InputError, match="no flat frames"):
        made(tmp_path / "share.h5", tmp_path / "refused", *words[1:])
    store = made(tmp_path / "share.h5", tmp_path / "share", *words)
    right = -np.log(counts[::6, 0] / 30000)
    np.testing.assert_allclose(store.sinogram(0), right, atol=1e-5)
    assert "will mean nothing" not in capsys.readouterr().err
    made(tmp_path / "counts.h5", tmp_path / "counts", *words)
    assert "the grey values will mean nothing" in capsys.readouterr().err


@pytest.mark.parametrize("empty", ["flat", "dead"])
def test_rows_that_are_chosen_tell_the_centre_where_others_do_not(tmp_path, empty):
    """The object is in three rows, none of which lies where the height is sampled."""
    path = write_scan(tmp_path / "scan.h5", rows=20, views=90, columns=96, centre=44.3, noise=20)
    rng = np.random.default_rng(0)
    with h5py.File(path, "r+") as file:
        white = file["exchange/data_white"][0]
        for row in [*range(3), *range(6, 20)]:
            if empty == "dead":
                file["exchange/data_white"][:, row] = 100
            air = white[row] + 20 * rng.normal(size=(90, 96))
            file["exchange/data"][:, row] = air
    store = made(path, tmp_path / "store", "rows=3:6")
    assert store.centre == pytest.approx(44.3, abs=0.25)
    assert store.provenance["centre"]["uncertainty"] < 0.5
    assert set(store.provenance["centre"]["rows"]["rows"]) == {3, 4, 5}


def test_a_row_without_beam_is_named(tmp_path, capsys):
    path = write_scan(tmp_path / "scan.h5", rows=4)
    with h5py.File(path, "r+") as file:
        file["exchange/data_white"][:, 2] = 100
    made(path, tmp_path / "store", "centre=23.5")
    said = " ".join(capsys.readouterr().err.split())
    assert "row(s) 2 (1 of 4) became slices without a number" in said
    settings = load(PreprocessingSettings, overrides=["rows=2:3"])
    with pytest.raises(InputError, match="row 2 of .* has no live pixel"):
        try_centres(path, tmp_path / "sheet", "20:24", settings)
    assert not (tmp_path / "sheet.png").exists()
