"""Low dose by fewer photons, splits, and the steps that can be switched on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.preprocessing import plan, preprocess
from hpc_srct.preprocessing.dose import NOISE, THINNING, measure_dose
from hpc_srct.scan import open_scan
from hpc_srct.settings.base import load
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices import SliceStore
from hpc_srct.tomography.phase import Paganin

from .conftest import MPIEXEC, disc_integrals, environment, fingerprint, write_scan


def settings_of(*words: str) -> PreprocessingSettings:
    return load(PreprocessingSettings, overrides=words)


def made(scan: Path, out: Path, *words: str) -> SliceStore:
    preprocess(scan, out, settings_of(*words))
    return SliceStore(out)


def photon_scan(
    path: Path, photons: float = 4000, gain: float = 1.0, dtype: type = np.uint16, flats: int = 30
) -> Path:
    """A scan of photons that were really counted, over air and a thin disc."""
    rng = np.random.default_rng(3)
    views, rows, columns = 60, 8, 64
    angles = np.arange(views) * np.pi / views
    integrals = disc_integrals(angles, columns, 31.5, 0, 0, 12, 0.03)[:, None]
    seen = rng.poisson(photons * np.exp(-integrals), (views, rows, columns)) * gain + 50
    open_beam = rng.poisson(photons, (flats, rows, columns)) * gain + 50
    with h5py.File(path, "w") as file:
        file["exchange/data"] = seen.astype(dtype)
        file["exchange/data_white"] = open_beam.astype(dtype)
        file["exchange/data_dark"] = np.full((5, rows, columns), 50, dtype)
        file["exchange/theta"] = np.degrees(angles)
        file["exchange/theta"].attrs["units"] = "deg"
    return path


@pytest.mark.parametrize(("gain", "dtype"), [(1.0, np.uint16), (3.0, np.uint16), (2.5, np.float32)])
def test_fewer_photons_have_the_noise_of_fewer_photons(tmp_path, gain, dtype):
    scan = photon_scan(tmp_path / "scan.h5", gain=gain, dtype=dtype)
    words = ["photons=400", "views=1/2", "centre=31.5"]
    store = made(scan, tmp_path / "store", *words)
    plain = made(scan, tmp_path / "plain", *words[1:])
    dose = store.provenance["dose"]
    assert dose["how"] == (NOISE if dtype == np.float32 else THINNING)
    assert dose["gain"] == pytest.approx(gain, rel=0.08)
    assert dose["beam"] == pytest.approx(4000, rel=0.08)
    air = store.sinogram(slice(None))[:, :, :15]
    # Of −log: one over the photons; in the flats' median there are 30 times as many.
    assert air.var() == pytest.approx(1 / 400, rel=0.1)
    assert air.mean() == pytest.approx(0.5 / 400, abs=1e-3)
    assert plain.sinogram(slice(None))[:, :, :15].var() == pytest.approx(1 / 4000, rel=0.15)
    # The label has all photons.
    np.testing.assert_array_equal(store.read("full", slice(None)), plain.read("full", slice(None)))


def test_counts_per_photon_may_be_given(tmp_path):
    scan = open_scan(photon_scan(tmp_path / "scan.h5", flats=2))
    dose = measure_dose(scan, settings_of("photons=100", "gain=2"))
    assert (dose.gain, dose.gain_from) == (2, "given")
    assert dose.beam == pytest.approx(2000, rel=0.02)
    with pytest.raises(InputError, match="has 2 flats at one time, expected 4"):
        measure_dose(scan, settings_of("photons=100"))
    with pytest.raises(InputError, match=r"has about \d+ per pixel in the open beam"):
        measure_dose(scan, settings_of("photons=2100", "gain=2"))


def test_photons_need_flats(tmp_path):
    path = photon_scan(tmp_path / "scan.h5")
    with h5py.File(path, "r+") as file:
        del file["exchange/data_white"]
    scan = open_scan(path, without_flats=True)
    with pytest.raises(InputError, match="has no flats"):
        measure_dose(scan, settings_of("photons=100"))


def test_the_same_photons_for_any_memory_and_ranks(tmp_path, preprocessed, monkeypatch):
    scan = photon_scan(tmp_path / "scan.h5")
    words = ["photons=300", "views=1/4", "centre=31.5", "splits=2"]
    made(scan, tmp_path / "plain", *words)
    expected = fingerprint(tmp_path / "plain")
    preprocessed(scan, tmp_path / "two", *words, ranks=2)
    assert fingerprint(tmp_path / "two") == expected
    monkeypatch.setattr(plan, "_rows_wanted", lambda work, ranks, n_blocks: [2])
    monkeypatch.setattr(plan, "PIECE", 10_000)
    made(scan, tmp_path / "tight", *words)
    assert fingerprint(tmp_path / "tight") == expected
    made(scan, tmp_path / "other", *words, "noise_seed=1")
    assert fingerprint(tmp_path / "other")["slices.h5"] != expected["slices.h5"]


def test_splits_are_interleaved_and_their_mean_is_the_full(scan, tmp_path):
    store = made(scan, tmp_path / "store", "splits=4", "rows=0:4", "centre=23.5")
    assert store.names == ["low", "full", *(f"splits/{k}" for k in range(4))]
    splits = [store.read(f"splits/{k}", slice(None)) for k in range(4)]
    full = store.read("full", slice(None))
    y, x = np.mgrid[:48, :48] - 23.5
    inside = np.hypot(x, y) < 22
    difference = (np.mean(splits, axis=0) - full)[:, inside]
    assert np.abs(difference).max() < 2e-3 * np.ptp(full)
    assert np.abs(splits[0] - splits[1])[:, inside].max() > 0.05 * np.ptp(full)
    # The first split has every fourth view.
    quarter = made(scan, tmp_path / "quarter", "views=1/4", "rows=0:4", "centre=23.5")
    np.testing.assert_array_equal(splits[0], quarter.read("low", slice(None)))


def test_one_split_is_refused():
    with pytest.raises(InputError, match="2 or more"):
        settings_of("splits=1")


def spoilt(tmp_path: Path, how) -> tuple[SliceStore, Path]:
    """Give the store of a clean scan, and the same scan spoilt."""
    clean = write_scan(tmp_path / "clean.h5", rows=2, views=180, columns=200, attenuation=0.005)
    store = made(clean, tmp_path / "clean", "centre=99.5")
    scan = tmp_path / "scan.h5"
    scan.write_bytes(clean.read_bytes())
    with h5py.File(scan, "r+") as file:
        how(file)
    return store, scan


def error(store: SliceStore, clean: SliceStore) -> float:
    y, x = np.mgrid[: store.size[0], : store.size[1]] - (store.size[0] - 1) / 2
    inside = np.hypot(x, y) < 0.9 * store.size[0] / 2
    difference = store.read("full", slice(None)) - clean.read("full", slice(None))
    return float(np.sqrt((difference[:, inside] ** 2).mean()))


@pytest.mark.parametrize(("rings", "left"), [("sorting", 0.5), ("all", 0.8)])
def test_rings_are_removed(tmp_path, rings, left):
    def stripes(file):
        data = file["exchange/data"]
        data[:, :, 140] = 100 + 0.9 * (data[:, :, 140] - 100)

    clean, scan = spoilt(tmp_path, stripes)
    before = error(made(scan, tmp_path / "with", "centre=99.5"), clean)
    after = error(made(scan, tmp_path / "without", "centre=99.5", f"rings={rings}"), clean)
    assert after < left * before


def test_wavelets_take_the_stripe_of_a_ring(tmp_path):
    def stripe(file):
        data = file["exchange/data"]
        data[:, :, 140] = 100 + 0.9 * (data[:, :, 140] - 100)

    clean, scan = spoilt(tmp_path, stripe)
    height = []
    for rings in ("none", "wavelet"):
        store = made(scan, tmp_path / rings, "centre=99.5", f"rings={rings}")
        along = (store.sinogram(0) - clean.sinogram(0)).mean(axis=0)
        height.append(along[140] - along[[138, 139, 141, 142]].mean())
    assert height[0] == pytest.approx(-np.log(0.9), rel=0.02)
    assert abs(height[1]) < 0.4 * height[0]


def test_dead_hot_and_lost_pixels_are_mended_without_being_asked(tmp_path):
    def broken(file):
        data, flats = file["exchange/data"], file["exchange/data_white"]
        darks = file["exchange/data_dark"]
        for column, value in ((60, 0), (61, 0), (120, 65535), (150, np.nan)):  # dead, hot, lost
            for frames in (data, flats, darks):
                frames[:, :, column] = value
        data[7, 0, 30] = np.nan  # in one view alone
        flats[:, 1, 90] = darks[0, 1, 90]  # flat == dark

    clean, scan = spoilt(tmp_path, broken)
    store = made(scan, tmp_path / "store", "centre=99.5")
    for row in range(2):
        there, right = store.sinogram(row), clean.sinogram(row)
        assert np.isfinite(there).all()
        # Straight lines between neighbours, on a disc's smooth chords.
        assert np.abs(there - right).max() < 0.03 * right.max()
    assert error(store, clean) < 0.02 * clean.read("full", 0).max()


def test_zingers_are_removed(tmp_path):
    def specks(file):
        for view in range(0, 180, 7):
            file["exchange/data"][view, :, 10 + view] *= 3

    clean, scan = spoilt(tmp_path, specks)
    before = error(made(scan, tmp_path / "with", "centre=99.5"), clean)
    after = error(made(scan, tmp_path / "without", "centre=99.5", "zingers=0.1"), clean)
    assert after < 0.2 * before


def test_a_beam_that_wavers_is_mended_by_its_monitor(tmp_path):
    beam = 1 + 0.2 * np.sin(np.arange(8))
    rng = np.random.default_rng(0)
    object_ = np.exp(-0.5 * rng.random((6, 2, 32)))
    counts = 10 + 1000 * beam[2:, None, None] * object_
    open_beam = 10 + 1000 * beam[:2, None, None] * np.ones((2, 2, 32))
    path = tmp_path / "scan.nxs"
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"], entry["definition"] = "NXentry", "NXtomo"
        dark = np.full((1, 2, 32), 10.0)
        entry["instrument/detector/data"] = np.concatenate([open_beam, dark, counts])
        entry["instrument/detector/image_key"] = [1, 1, 2] + 6 * [0]
        entry["sample/rotation_angle"] = np.concatenate([[0, 0, 0], np.arange(6) * 30.0])
        entry["sample/rotation_angle"].attrs["units"] = "deg"
        entry["control/data"] = np.concatenate([beam[:2], [1.0], beam[2:]]) * 77
    words = ["centre=15.5", "views=null"]
    store = made(path, tmp_path / "store", *words, "monitor=true")
    right = -np.log(object_).swapaxes(0, 1)
    np.testing.assert_allclose(store.sinogram(slice(None)), right, atol=1e-5)
    without = made(path, tmp_path / "without", *words)
    assert np.abs(without.sinogram(slice(None)) - right).max() > 0.05
    with h5py.File(path, "r+") as file:
        file["entry/control/data"][5] = 0
    with pytest.raises(InputError, match="reading of 0 at (view|flat) [0-9]+; expected above 0"):
        made(path, tmp_path / "zero", *words, "monitor=true")
    short = Path(shutil.copy(path, tmp_path / "short.nxs"))
    with h5py.File(short, "r+") as file:
        shorter = file["entry/control/data"][:-1]
        del file["entry/control/data"]
        file["entry/control/data"] = shorter
    said = f"control/data: beam monitor not used: expected {len(shorter) + 1}, found {len(shorter)}"
    with pytest.raises(InputError, match=said):
        made(short, tmp_path / "short", *words, "monitor=true")


def test_a_monitor_that_is_not_there(scan, tmp_path):
    with pytest.raises(InputError, match="has no beam monitor"):
        made(scan, tmp_path / "store", "monitor=true", "centre=23.5")


def test_phase_retrieval_smooths_and_keeps_grey_values(tmp_path, monkeypatch):
    scan = write_scan(tmp_path / "scan.h5", rows=36, views=90, columns=64, noise=200)
    phase = ["phase.energy_kev=20", "phase.distance_m=0.005", "phase.delta_beta=100"]
    words = ["centre=31.5", "rows=4:8"]
    with pytest.raises(InputError, match="names no pixel size"):
        made(scan, tmp_path / "nosize", *words, *phase)
    phase.append("phase.pixel_size_m=1e-6")
    plain = made(scan, tmp_path / "plain", *words).read("full", 1)
    store = made(scan, tmp_path / "store", *words, *phase)
    y, x = np.mgrid[:64, :64] - 31.5
    middle = np.hypot(x, y) < 6
    assert store.read("full", 1)[middle].std() < 0.7 * plain[middle].std()
    assert store.read("full", 1)[middle].mean() == pytest.approx(plain[middle].mean(), rel=0.05)
    # The rows beside those chosen took part, in any memory.
    monkeypatch.setattr(plan, "_rows_wanted", lambda work, ranks, n_blocks: [2])
    made(scan, tmp_path / "tight", *words, *phase)
    assert fingerprint(tmp_path / "tight") == fingerprint(tmp_path / "store")


def test_phase_retrieval_once_where_there_is_a_scratch_folder(tmp_path, monkeypatch):
    scan = write_scan(tmp_path / "scan.h5", rows=70, views=40, columns=48, chunked=True)
    phase = ["phase.energy_kev=20", "phase.distance_m=0.005", "phase.delta_beta=100"]
    words = ["centre=23.5", "rows=2:68", "floor=0.5", *phase, "phase.pixel_size_m=1e-6"]
    words += ["photons=2000", "gain=1"]
    made(scan, tmp_path / "plain", *words)
    retrieved = []
    paganin = Paganin.__call__
    monkeypatch.setattr(
        Paganin,
        "__call__",
        lambda self, frames: retrieved.append(frames.ndim == 2) or paganin(self, frames),
    )
    monkeypatch.setattr(plan, "_rows_wanted", lambda work, ranks, n_blocks: [16])
    done = preprocess(scan, tmp_path / "tight", settings_of(*words))
    passes = len(done.plan.passes)
    assert (done.plan.phase_retrievals, passes) == (passes, 5)
    # The photons taken away have a share of the views retrieved for themselves.
    assert sum(retrieved) == passes * (40 + 7)
    retrieved.clear()
    scratch = tmp_path / "scratch"
    done = preprocess(scan, tmp_path / "staged", settings_of(*words, f"scratch={scratch}"))
    assert (done.plan.phase_retrievals, done.plan.readings) == (1, 1)
    assert done.plan.scratch == 66 * (40 + 7) * 48 * 4
    assert sum(retrieved) == 40 + 7
    assert list(scratch.iterdir()) == []
    expected = fingerprint(tmp_path / "plain")
    assert fingerprint(tmp_path / "tight") == expected
    assert fingerprint(tmp_path / "staged") == expected
    code = (
        "import sys; from hpc_srct.preprocessing import plan; from hpc_srct.cli import main;"
        "plan._rows_wanted = lambda *_: [4]; sys.argv[0] = 'srct'; main()"
    )
    answer = subprocess.run(
        [MPIEXEC, "-n", "2", sys.executable, "-c", code, "preprocess", scan, "-o"]
        + [tmp_path / "two", *words, f"scratch={scratch}"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    assert "9 pass(es)" in answer.stdout
    assert fingerprint(tmp_path / "two") == expected


def test_padding_for_objects_wider_than_the_detector(tmp_path):
    angles = np.arange(180) * np.pi / 180
    wide = disc_integrals(angles, 64, 31.5, 0, 0, 60, 0.005)
    path = write_scan(tmp_path / "scan.h5", rows=2, views=180, columns=64)
    with h5py.File(path, "r+") as file:
        gain = file["exchange/data_white"][0] - 100
        file["exchange/data"][:] = 100 + gain * np.exp(-wide)[:, None]
    y, x = np.mgrid[:64, :64] - 31.5
    inside, rim = np.hypot(x, y) < 20, (np.hypot(x, y) > 28) & (np.hypot(x, y) < 31)
    cupping = []
    for padding in ("0", "auto"):
        store = made(path, tmp_path / padding, "centre=31.5", f"padding={padding}")
        image = store.read("full", 0)
        cupping.append(image[rim].mean() / image[inside].mean())
        assert store.size == (64, 64)
    assert cupping[0] > 1.5
    assert cupping[1] == pytest.approx(1, abs=0.2)
