"""Every file of the manifest: the scans are read right, the odd ones answered in words."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.scan import open_scan


def refusal(path: Path, *words: str, **options) -> str:
    """Open a scan that must be refused; its message names the file and the words."""
    with pytest.raises(InputError) as caught:
        open_scan(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert message.count("\n") <= 1
    for word in words:
        assert word in message
    return message


def test_tooth(scans):
    path = scans / "aps_tooth_dx.h5"
    scan = open_scan(path)
    assert (scan.format, scan.n_views, scan.n_rows, scan.n_columns) == ("dxchange", 181, 2, 640)
    assert scan.dtype == np.float32
    assert scan.angles.dtype == np.float64
    np.testing.assert_allclose(np.rad2deg(scan.angles[[0, -1]]), [0, 179.006], atol=1e-3)
    assert (scan.n_flats, scan.n_darks, len(scan.flat_groups)) == (10, 10, 1)
    with h5py.File(path, locking=False) as file:
        expected = file["exchange/data"][[3, 100], 1:2]
        flats = file["exchange/data_white"][:]
    np.testing.assert_array_equal(scan.projections([3, 100], slice(1, 2)), expected)
    np.testing.assert_array_equal(scan.flats()[0].frames, flats)
    assert scan.truth() is None


def test_pin(scans):
    scan = open_scan(scans / "i13_24737.nxs")
    assert (scan.format, scan.n_views, scan.n_rows, scan.n_columns) == ("nxtomo", 91, 135, 160)
    assert scan.flat_groups == [(0.0, 1)]
    assert scan.dark_groups == [(0.0, 1)]
    np.testing.assert_allclose(np.rad2deg(scan.angles[[0, -1]]), [-88.2, 91.8], atol=1e-3)
    assert scan.chunked_by_frame
    with h5py.File(scan.path, locking=False) as file:
        frames = file["entry1/tomo_entry/instrument/detector/data"]
        np.testing.assert_array_equal(scan.projections([0], slice(0, 3))[0], frames[2, :3])
        np.testing.assert_array_equal(scan.flats()[0].frames[0], frames[1])
        np.testing.assert_array_equal(scan.darks()[0].frames[0], frames[0])


def test_compressed_equals_plain(scans):
    plain, packed = (open_scan(scans / f"i13_24737{end}.nxs") for end in ("", "_bslz4"))
    views = np.arange(plain.n_views)
    np.testing.assert_array_equal(packed.projections(views), plain.projections(views))
    np.testing.assert_array_equal(packed.flats()[0].frames, plain.flats()[0].frames)
    assert packed.chunked_by_frame


def test_dangling_link_is_named(scans):
    refusal(
        scans / "i13_24888_dangling.nxs",
        "/entry1/tomo_entry/instrument/detector/data",
        "/dls/i13/data/2014/mt9396-1/raw/pco1-24888.hdf",
        "not there",
    )


def test_dangling_link_is_followed_beside_the_master(scans, tmp_path):
    """HDF5 looks for an absolute target beside its master too: scans get moved."""
    path = shutil.copy(scans / "i13_24888_dangling.nxs", tmp_path)
    with h5py.File(tmp_path / "pco1-24888.hdf", "w") as file, h5py.File(path) as master:
        key = master["entry1/tomo_entry/instrument/detector/image_key"][:]
        frames = np.where(key == 1, 9, 7).astype(np.uint16)
        file["entry/instrument/detector/data"] = np.tile(frames[:, None, None], (1, 2, 3))
    scan = open_scan(path)
    # Key: five darks, five flats, the projections, and flats and darks again at the end.
    assert scan.n_views + scan.n_flats + scan.n_darks == 111
    assert len(scan.flat_groups) == 2
    assert scan.pixel_size is None  # the file has a text there
    assert scan.monitor.shape == (scan.n_views,)
    assert any("no units" in note for note in scan.notes)


def test_flats_of_zeros(scans):
    path = scans / "aps32id_txm_skeleton.h5"
    refusal(path, "/exchange/data_white", "no usable flat")
    assert open_scan(path, without_flats=True, angle_range=(0, 180)).flats() == []


def test_legacy_nested_layout(scans):
    scan = open_scan(scans / "dx_nested_legacy.h5")
    assert (scan.n_views, scan.n_rows, scan.n_columns) == (180, 256, 256)
    assert any("legacy" in note for note in scan.notes)
    assert scan.flat_groups == [(0.0, 1), (180.0, 1)]  # theta_white says 0 and 180 degrees
    assert scan.dark_groups == [(0.0, 5), (180.0, 5)]


def test_not_a_scan(scans):
    refusal(scans / "hdf5plugin_blosc.h5", "not a tomography scan", "/exchange", "NXtomo", "/dset")


@pytest.mark.parametrize(
    ("name", "where"),
    [("odd_noflat.nxs", "image_key (value 1)"), ("odd_dx_noflat.h5", "/exchange/data_white")],
)
def test_no_flats(scans, name, where):
    refusal(scans / name, where, "no flat frames", "without_flats=true")
    scan = open_scan(scans / name, without_flats=True)
    assert scan.flats() == []
    assert any("Flat frames: none" in note for note in scan.notes)


def test_no_darks(scans):
    scan = open_scan(scans / "odd_nodark.nxs")
    assert any("Dark frames: none" in note for note in scan.notes)
    with pytest.raises(InputError, match="without_darks=true"):
        scan.darks()
    assert open_scan(scans / "odd_nodark.nxs", without_darks=True).darks() == []


def test_no_key(scans):
    refusal(scans / "odd_nokey.nxs", "/entry1/tomo_entry/instrument/detector/image_key")


def test_angles_of_another_length(scans):
    refusal(scans / "odd_anglelen.nxs", "/entry1/tomo_entry/sample/rotation_angle", "92", "93")


def test_no_angles(scans):
    path = scans / "odd_noangle.nxs"
    refusal(path, "/entry1/tomo_entry/sample/rotation_angle", "angle_range=")
    scan = open_scan(path, angle_range=(-88.2, 91.8))
    np.testing.assert_allclose(np.rad2deg(scan.angles[[0, 1, -1]]), [-88.2, -86.2, 91.8])


def test_radians_equal_degrees(scans):
    degrees, radians = (
        open_scan(scans / name) for name in ("aps_tooth_dx.h5", "odd_dx_radians.h5")
    )
    np.testing.assert_allclose(radians.angles, degrees.angles, atol=1e-9)
    assert radians.notes == degrees.notes == []


@pytest.mark.parametrize("name", ["odd_truncated.nxs", "odd_truncated_dx.h5"])
def test_cut_short(scans, name):
    refusal(scans / name, "cut short", str((scans / name).stat().st_size))


def test_not_a_file(scans, tmp_path):
    refusal(tmp_path / "none.h5", "no such file")
    refusal(tmp_path, "is a folder")
    refusal(scans / "MANIFEST.md", "not an HDF5 file")
    empty = tmp_path / "empty.h5"
    empty.touch()
    refusal(empty, "empty")
