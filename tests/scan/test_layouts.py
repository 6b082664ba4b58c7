"""Layout files: one file for each role, any path replaced, the shipped ones."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest
from scan.writers import COLUMNS, ROWS, numbered, write_dxchange, write_nxtomo, write_old_nxtomo

from hpc_srct.errors import InputError
from hpc_srct.scan import open_scan
from hpc_srct.settings.base import configs_folder
from hpc_srct.settings.layout import Layout, load_layout


def _bsrf(folder):
    for name, first, count in (("tomo", 0, 5), ("flat", 5, 3), ("dark", 0, 2)):
        with h5py.File(folder / f"andor_img_{name}.h5", "w") as file:
            file["scan/data/andor_img_shaped_image"] = numbered(count, first)


def test_shipped_layout_of_bsrf(tmp_path):
    _bsrf(tmp_path)
    for given in (tmp_path, tmp_path / "andor_img_tomo.h5"):
        scan = open_scan(given, "bsrf-3w1")
        assert (scan.format, scan.n_views, scan.n_flats, scan.n_darks) == ("layout", 5, 3, 2)
        np.testing.assert_array_equal(scan.flats()[0].frames, numbered(3, 5))
        np.testing.assert_array_equal(scan.darks()[0].frames, numbered(2))
        np.testing.assert_allclose(np.rad2deg(scan.angles[[0, -1]]), [0, 180])
        assert scan.source()["path"] == str(given)


def test_a_folder_is_the_same_scan_when_something_is_put_beside_it(tmp_path):
    _bsrf(tmp_path)
    before = open_scan(tmp_path, "bsrf-3w1").source()
    (tmp_path / "store").mkdir()
    os.utime(tmp_path, (1, 1))
    assert open_scan(tmp_path, "bsrf-3w1").source() == before
    with h5py.File(tmp_path / "andor_img_flat.h5", "r+") as file:
        file["more"] = 1
    assert open_scan(tmp_path, "bsrf-3w1").source() != before


def test_a_role_whose_file_is_missing(tmp_path):
    _bsrf(tmp_path)
    (tmp_path / "andor_img_flat.h5").unlink()
    with pytest.raises(InputError, match=r"andor_img_flat\.h5: no such file"):
        open_scan(tmp_path, "bsrf-3w1")


def test_shipped_layout_of_diad(tmp_path):
    """Frames in a second file behind a link, other links dangling on purpose."""
    with h5py.File(tmp_path / "k11-imaging.h5", "w") as file:
        file["data"] = numbered(6)
    with h5py.File(tmp_path / "k11.nxs", "w") as file:
        file["entry/imaging/data"] = h5py.ExternalLink("k11-imaging.h5", "/data")
        file["entry/diffraction/data"] = h5py.ExternalLink("k11-pilatus.h5", "/data")
        file["entry/instrument/imaging/image_key"] = [2, 1, 0, 0, 0, 1]
        file["entry/imaging_sum/gts_theta_value"] = np.arange(6) * 30.0
    scan = open_scan(tmp_path / "k11.nxs", "diamond-diad")
    np.testing.assert_array_equal(scan.projections(range(3)), numbered(6)[2:5])
    np.testing.assert_allclose(np.rad2deg(scan.angles), [60, 90, 120])
    assert scan.flat_groups == [(0.0, 1), (3.0, 1)]


def test_every_shipped_layout_is_valid():
    files = sorted((configs_folder() / "layouts").glob("*.yaml"))
    assert {file.stem for file in files} >= {"bsrf-3w1", "diamond-diad"}
    for file in files:
        assert load_layout(file.stem).description


def test_frames_of_a_dangling_link_named_by_a_layout(scans, tmp_path):
    with h5py.File(scans / "i13_24888_dangling.nxs") as scan:
        key = scan["entry1/tomo_entry/instrument/detector/image_key"][:]
    with h5py.File(tmp_path / "pco.h5", "w") as file:
        frames = np.where(key == 1, 9, 7).astype(np.uint16)
        file["frames"] = np.tile(frames[:, None, None], (1, 2, 3))
    scan = open_scan(
        scans / "i13_24888_dangling.nxs",
        Layout(projections={"file": str(tmp_path / "pco.h5"), "path": "/frames"}),
    )
    assert scan.n_views + scan.n_flats + scan.n_darks == 111


GONE = h5py.ExternalLink("gone.h5", "/exchange/data")


@pytest.mark.parametrize(
    ("role", "path"),
    [
        ("projections", "data"),
        ("flats", "data_white"),
        ("darks", "data_dark"),
        ("angles", "theta"),
    ],
)
def test_a_dangling_link_of_dxchange_is_mended_by_naming_that_role_alone(tmp_path, role, path):
    whole = write_dxchange(tmp_path / "whole.h5", theta=np.array([0, 20, 40, 60, 80.0]))
    broken = write_dxchange(tmp_path / "s.h5", theta=np.array([0, 20, 40, 60, 80.0]))
    with h5py.File(broken, "r+") as file:
        del file[f"exchange/{path}"]
        file[f"exchange/{path}"] = GONE
        for further in ("exchange/theta_white", "simulation/centre", "simulation/truth/data"):
            file[further] = GONE
    with pytest.raises(InputError, match=f"/exchange/{path}: is a link into gone.h5"):
        open_scan(broken).darks()
    found = {"file": "whole.h5", "path": f"/exchange/{path}"}
    scan, right = open_scan(broken, Layout(**{role: found})), open_scan(whole)
    np.testing.assert_array_equal(scan.projections(range(5)), right.projections(range(5)))
    np.testing.assert_array_equal(scan.flats()[0].frames, right.flats()[0].frames)
    np.testing.assert_array_equal(scan.darks()[0].frames, right.darks()[0].frames)
    np.testing.assert_array_equal(scan.angles, right.angles)


def test_what_can_be_done_without_may_dangle(tmp_path):
    path = write_dxchange(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        for name in ("data_white", "data_dark", "theta"):
            del file[f"exchange/{name}"]
            file[f"exchange/{name}"] = GONE
    scan = open_scan(path, angle_range=(0, 90), without_flats=True, without_darks=True)
    assert (scan.flats(), scan.darks()) == ([], [])
    assert any("data_dark: is a link into gone.h5" in note for note in scan.notes)


def test_dangling_flats_of_version_1_0b_are_mended_by_a_layout(tmp_path):
    path = write_old_nxtomo(tmp_path / "s.nxs", "DFPPFP")
    home = "/entry1/tomo_entry/instrument/bright_field"
    with h5py.File(path, "r+") as file:
        file["kept"] = file[f"{home}/data"][:]
        del file[f"{home}/data"]
        file[f"{home}/data"] = GONE
    with pytest.raises(InputError, match="bright_field/data: is a link into gone.h5"):
        open_scan(path)
    assert open_scan(path, Layout(flats={"path": "/kept"})).n_flats == 2


def test_flats_and_darks_of_another_file(scans, tmp_path):
    other = write_nxtomo(tmp_path / "other.nxs", [1, 1])
    with h5py.File(other, "r+") as file:
        file["dark"] = np.zeros((2, ROWS, COLUMNS), np.uint16)
    path = write_nxtomo(tmp_path / "s.nxs", [0, 0, 0])
    home = "/entry1/tomo_entry/instrument/detector/data"
    layout = tmp_path / "layout.yaml"
    layout.write_text(
        f"flats:\n- {{file: other.nxs, path: {home}, position: start}}\n"
        f"- {{file: {other}, path: {home}, position: end}}\n"
        "darks: {file: other.nxs, path: /dark}\n"
    )
    scan = open_scan(path, layout)
    assert scan.flat_groups == [(0.0, 2), (3.0, 2)]
    assert scan.n_darks == 2
    np.testing.assert_array_equal(scan.flats()[1].frames, numbered(2))


def test_one_averaged_flat_frame(tmp_path):
    path = write_dxchange(tmp_path / "s.h5", n_flats=0)
    with h5py.File(path, "r+") as file:
        file["mean_flat"] = 100 + np.arange(24, dtype=np.float32).reshape(ROWS, COLUMNS)
    scan = open_scan(path, Layout(flats={"path": "/mean_flat"}))
    expected = 100 + np.arange(24).reshape(1, ROWS, COLUMNS)[:, 1:3]
    np.testing.assert_array_equal(scan.flats(slice(1, 3))[0].frames, expected)


def test_axes_pixel_size_and_centre_said_by_the_layout(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["sino"] = np.swapaxes(numbered(5), 0, 1)
        file["flat"] = numbered(1)[0]
        file["p"] = 650.0
    scan = open_scan(
        tmp_path / "s.h5",
        Layout(
            projections={"path": "/sino", "axes": "row:view:column"},
            flats={"path": "/flat"},
            angles={"range": (0, 3.141592653589793), "units": "rad"},
            pixel_size={"path": "/p", "units": "nm"},
            centre=2.25,
        ),
        without_darks=True,
    )
    np.testing.assert_array_equal(scan.projections([1, 2]), numbered(5)[1:3])
    assert scan.angles[-1] == pytest.approx(np.pi)
    assert scan.pixel_size == pytest.approx(6.5e-7)
    assert scan.centre_hint == 2.25
    assert scan.darks() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("projektions: {path: /a}", "did you mean 'projections'"),
        ("angles: {range: [0, 180], path: /a}", "either `path` or `range`"),
        ("pixel_size: {value: 2}", "needs `units`"),
        ("projections: {path: /nothing}\nbase: none", "/nothing"),
        ("base: none", "expected projections"),
        ("entry: /nowhere", "/nowhere"),
    ],
)
def test_a_layout_that_is_wrong(tmp_path, text, words):
    layout = tmp_path / "layout.yaml"
    layout.write_text(text)
    with pytest.raises(InputError) as caught:
        open_scan(write_dxchange(tmp_path / "s.h5"), layout)
    assert words in str(caught.value)


def test_a_layout_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="bsrf-3w1"):
        open_scan(write_dxchange(tmp_path / "s.h5"), "no-such-layout")


def test_a_folder_needs_a_file_for_each_role(tmp_path):
    with pytest.raises(InputError, match="names no file"):
        open_scan(tmp_path, Layout(projections={"path": "/a"}))


def test_a_cone_beam_in_a_folder_is_refused_by_name(tmp_path):
    _bsrf(tmp_path)
    with h5py.File(tmp_path / "andor_img_tomo.h5", "r+") as file:
        file["instrument/geometry"] = "cone"
    with pytest.raises(InputError, match="cone-beam"):
        open_scan(tmp_path, "bsrf-3w1")
    parallel = load_layout("bsrf-3w1").model_copy(update={"geometry": "parallel"})
    assert open_scan(tmp_path, parallel).n_views == 5
