"""Files as beamlines leave them: entries anywhere, float keys, links, virtual sets, odd units."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import h5py
import hdf5plugin
import numpy as np
import pytest
from scan.writers import (
    BEAM,
    COLUMNS,
    ROWS,
    numbered,
    write_dxchange,
    write_nxtomo,
    write_old_nxtomo,
)

from hpc_srct.errors import InputError, MachineError
from hpc_srct.scan import open_scan
from hpc_srct.scan.angles import AngleSummary
from hpc_srct.scan.hdf5 import unreadable
from hpc_srct.settings.layout import Layout

KEY = [2, 1, 0, 0, 1, 0, 3, 0]
VIEWS = [2, 3, 5, 7]


@pytest.mark.parametrize("entry", ["entry", "a/b/c/d", "entry1/tomo_entry"])
@pytest.mark.parametrize("definition", ["NXtomo", np.bytes_("NXtomo"), np.array([b"NXtomo"])])
def test_entry_by_definition_at_any_depth(tmp_path, entry, definition):
    path = write_nxtomo(tmp_path / "s.nxs", KEY, entry=entry, definition=definition, classes=False)
    scan = open_scan(path)
    np.testing.assert_array_equal(scan.projections(range(4)), numbered(8)[VIEWS])


def test_entry_by_class(tmp_path):
    path = write_nxtomo(
        tmp_path / "s.nxs", KEY, definition=None, detector="instrument/pco4000_dio_hdf"
    )
    assert open_scan(path).n_views == 4


def test_detector_of_another_name(tmp_path):
    path = write_nxtomo(tmp_path / "s.nxs", KEY, detector="instrument/pco1_hw_hdf")
    assert open_scan(path).n_views == 4


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("definition", ["NXtomo", None])
def test_version_1_0b_keeps_each_kind_in_a_detector_of_its_own(tmp_path, definition, text):
    order = "DFPPFPDF"
    scan = open_scan(write_old_nxtomo(tmp_path / "s.nxs", order, definition=definition, text=text))
    frames = numbered(len(order))
    assert scan.format == "nxtomo"
    np.testing.assert_array_equal(scan.projections(range(3)), frames[[2, 3, 5]])
    np.testing.assert_array_equal(
        np.concatenate([g.frames for g in scan.flats()]), frames[[1, 4, 7]] + BEAM
    )
    assert scan.flat_groups == [(0.0, 1), (2.0, 1), (3.0, 1)]
    assert scan.dark_groups == [(0.0, 1), (3.0, 1)]
    np.testing.assert_allclose(np.rad2deg(scan.angles), [0, 90, 180])
    assert scan.pixel_size == pytest.approx(0.65e-6)
    assert any("NXtomo 1.0b" in note for note in scan.notes)


def test_version_1_0b_without_numbers_or_flats(tmp_path):
    path = write_old_nxtomo(tmp_path / "s.nxs", "DFPPFP")
    with h5py.File(path, "r+") as file:
        del file["entry1/tomo_entry/instrument/bright_field/sequence_number"]
        del file["entry1/tomo_entry/instrument/dark_field/sequence_number"]
        file["entry1/tomo_entry/instrument/dark_field/sequence_number"] = [0, 1]
    scan = open_scan(path)
    assert scan.flat_groups == [(1.5, 2)]  # nobody knows when
    assert any("sequence numbers not used: 2 for 1 frames" in note for note in scan.notes)
    scan.close()
    with h5py.File(path, "r+") as file:
        del file["entry1/tomo_entry/instrument/bright_field/data"]
    with pytest.raises(InputError, match=r"/bright_field/data: no flat frames"):
        open_scan(path)


def test_roles_that_only_the_links_of_nxdata_name(tmp_path):
    """As Diamond wrote them: the subentry's own groups empty, its NXdata full of links."""
    path = tmp_path / "s.nxs"
    with h5py.File(tmp_path / "pco.hdf", "w") as file:
        file["entry/instrument/detector/data"] = numbered(8)
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry1/tomo_entry")
        entry.parent.attrs["NX_class"], entry.attrs["NX_class"] = "NXentry", "NXsubentry"
        entry["definition"] = np.array([b"NXtomo"])
        entry.create_group("instrument/detector").attrs["NX_class"] = "NXdetector"
        entry.create_group("sample").attrs["NX_class"] = "NXsample"
        scanned = file.create_group("entry1/instrument/tomoScanDevice")
        scanned["image_key"], scanned["ss1_rot"] = KEY, np.linspace(0, 180, 8)
        scanned["ss1_rot"].attrs["units"] = "deg"
        raw = h5py.ExternalLink("pco.hdf", "entry/instrument/detector/data")
        file["entry1/instrument/pco1_hw_hdf/data"] = raw
        for name, target in (
            ("data", "pco1_hw_hdf/data"),
            ("image_key", "tomoScanDevice/image_key"),
            ("rotation_angle", "tomoScanDevice/ss1_rot"),
        ):
            entry[f"data/{name}"] = h5py.SoftLink(f"/entry1/instrument/{target}")
    scan = open_scan(path)
    np.testing.assert_array_equal(scan.projections(range(4)), numbered(8)[VIEWS])
    assert (scan.n_flats, scan.n_darks) == (2, 1)
    np.testing.assert_allclose(np.rad2deg(scan.angles), np.linspace(0, 180, 8)[VIEWS])
    (tmp_path / "pco.hdf").unlink()
    scan.close()
    with pytest.raises(InputError, match=r"/pco1_hw_hdf/data: is a link into pco.hdf .*not there"):
        open_scan(path)


def test_several_entries_are_told_and_chosen_by_a_layout(tmp_path):
    path = write_nxtomo(tmp_path / "s.nxs", KEY, entry="first")
    other = write_nxtomo(tmp_path / "o.nxs", [2, 1, 0], entry="second")
    with h5py.File(path, "r+") as file, h5py.File(other) as source:
        source.copy("second", file)
    scan = open_scan(path)
    assert scan.n_views == 4
    assert any("/second" in note for note in scan.notes)
    layout = tmp_path / "layout.yaml"
    layout.write_text("entry: /second\n")
    assert open_scan(path, layout).n_views == 1


def test_keys_as_floats_and_key_three_left_out(tmp_path):
    scan = open_scan(write_nxtomo(tmp_path / "s.nxs", np.array(KEY, float)))
    np.testing.assert_array_equal(scan.frame_indices, VIEWS)
    assert any("1 frame(s) left out: marked invalid" in note for note in scan.notes)


def test_unknown_keys_are_left_out_with_a_word(tmp_path):
    scan = open_scan(write_nxtomo(tmp_path / "s.nxs", [2, 1, 0, -1, 0.5, 0, np.nan]))
    np.testing.assert_array_equal(scan.frame_indices, [2, 5])
    assert any("3 frame(s) left out" in note for note in scan.notes)


def test_key_of_another_length(tmp_path):
    path = write_nxtomo(tmp_path / "s.nxs", KEY)
    with h5py.File(path, "r+") as file:
        del file["entry1/tomo_entry/instrument/detector/image_key"]
        file["entry1/tomo_entry/instrument/detector/image_key"] = KEY[:-1]
    with pytest.raises(InputError, match="7 keys for the 8 frames"):
        open_scan(path)


def test_no_projection_among_the_keys(tmp_path):
    with pytest.raises(InputError, match="no projections"):
        open_scan(write_nxtomo(tmp_path / "s.nxs", [1, 2, 1]))


@pytest.mark.parametrize(
    ("units", "factor"),
    [("deg", 1), (b"degrees", 1), ("Degree", 1), ("rad", np.pi / 180), ("mrad", np.pi / 180e-3)],
)
def test_angles_by_their_units(tmp_path, units, factor):
    degrees = np.linspace(10, 160, 8)
    path = write_nxtomo(tmp_path / "s.nxs", KEY, degrees * factor, units=units)
    scan = open_scan(path)
    np.testing.assert_allclose(np.rad2deg(scan.angles), degrees[VIEWS])
    assert not any("no units" in note for note in scan.notes)


def test_angles_without_units(tmp_path):
    scan = open_scan(write_nxtomo(tmp_path / "s.nxs", KEY, np.linspace(0, 180, 8), units=None))
    assert any("no units; read as degrees" in note for note in scan.notes)
    assert scan.angles[-1] == pytest.approx(np.pi)


def test_radians_without_units_are_suspicious_and_mended_by_a_layout(tmp_path):
    path = write_nxtomo(tmp_path / "s.nxs", KEY, np.linspace(0, np.pi, 8), units=None)
    assert any("suspicious" in note for note in open_scan(path).notes)
    layout = tmp_path / "layout.yaml"
    layout.write_text("angles: {path: /entry1/tomo_entry/sample/rotation_angle, units: rad}\n")
    scan = open_scan(path, layout)
    assert scan.angles[-1] == pytest.approx(np.pi)
    assert scan.format == "layout"
    assert scan.n_flats == 2  # from the file's own key


def test_unknown_unit_and_angles_that_are_not_numbers(tmp_path):
    with pytest.raises(InputError, match="unit 'counts'"):
        open_scan(write_nxtomo(tmp_path / "a.nxs", KEY, units="counts"))
    angles = np.linspace(0, 180, 8)
    angles[5] = np.nan
    with pytest.raises(InputError, match="finite"):
        open_scan(write_nxtomo(tmp_path / "b.nxs", KEY, angles))
    angles[5], angles[6] = 90, np.nan  # that of a frame marked invalid is nobody's concern
    assert open_scan(write_nxtomo(tmp_path / "c.nxs", KEY, angles)).n_views == 4


def test_relative_external_link_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    with h5py.File(tmp_path / "raw" / "frames.h5", "w") as file:
        file["entry/data"] = numbered(8)
    link = h5py.ExternalLink("raw/frames.h5", "entry/data")
    path = write_nxtomo(tmp_path / "s.nxs", KEY, data=link)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for given in (path, os.path.relpath(path)):
        scan = open_scan(given)
        np.testing.assert_array_equal(scan.projections(range(4)), numbered(8)[VIEWS])
    assert scan.file_bytes == (tmp_path / "raw" / "frames.h5").stat().st_size


def test_link_into_a_file_without_that_path(tmp_path):
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["other"] = 1
    path = write_nxtomo(tmp_path / "s.nxs", KEY, data=h5py.ExternalLink("frames.h5", "/entry/data"))
    with pytest.raises(InputError, match="has no such path"):
        open_scan(path)


def test_link_into_a_file_cut_short(tmp_path, scans):
    shutil.copy(scans / "odd_truncated.nxs", tmp_path / "frames.h5")
    path = write_nxtomo(tmp_path / "s.nxs", KEY, data=h5py.ExternalLink("frames.h5", "/entry/data"))
    with pytest.raises(InputError, match="cut short"):
        open_scan(path)


def test_soft_link_that_leads_nowhere(tmp_path):
    path = write_nxtomo(tmp_path / "s.nxs", KEY, data=h5py.SoftLink("/entry1/gone"))
    with pytest.raises(InputError, match="is a link to /entry1/gone"):
        open_scan(path)


def test_soft_links_that_lead_to_each_other(tmp_path):
    path = write_nxtomo(tmp_path / "s.nxs", KEY, data=h5py.SoftLink("/entry1/round"))
    with h5py.File(path, "r+") as file:
        file["entry1/round"] = h5py.SoftLink("/entry1/tomo_entry/instrument/detector/data")
    with pytest.raises(InputError, match="is a link to /entry1/round"):
        open_scan(path)


def test_other_dangling_links_do_not_disturb(tmp_path):
    path = write_nxtomo(tmp_path / "s.nxs", KEY)
    with h5py.File(path, "r+") as file:
        file["entry1/other"] = h5py.ExternalLink("gone.h5", "/x")
        file["entry1/tomo_entry/loose"] = h5py.SoftLink("/nowhere")
    assert open_scan(path).n_views == 4


def _virtual(tmp_path, missing=False):
    layout = h5py.VirtualLayout((8, ROWS, COLUMNS), np.uint16)
    for half in range(2):
        name = f"part{half}.h5"
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("data", data=numbered(4, 4 * half), chunks=(1, ROWS, COLUMNS))
        layout[4 * half : 4 * half + 4] = h5py.VirtualSource(name, "data", (4, ROWS, COLUMNS))
    path = write_nxtomo(tmp_path / "s.nxs", KEY)
    with h5py.File(path, "r+") as file:
        home = file["entry1/tomo_entry/instrument/detector"]
        del home["data"]
        home.create_virtual_dataset("data", layout)
    if missing:
        (tmp_path / "part1.h5").unlink()
    return path


def test_virtual_dataset(tmp_path):
    scan = open_scan(_virtual(tmp_path))
    np.testing.assert_array_equal(scan.projections(range(4)), numbered(8)[VIEWS])
    assert scan.chunked_by_frame
    assert scan.file_bytes == sum((tmp_path / f"part{i}.h5").stat().st_size for i in range(2))


def test_missing_source_of_a_virtual_dataset_is_no_zero(tmp_path):
    path = _virtual(tmp_path, missing=True)
    with pytest.raises(InputError, match="part1.h5 is not there"):
        open_scan(path)


def test_damaged_chunk_is_named_by_its_frame(scans, tmp_path):
    path = shutil.copy(scans / "i13_24737_bslz4.nxs", tmp_path)
    with h5py.File(path) as file:
        data = file["entry1/tomo_entry/instrument/detector/data"]
        chunk = next(
            info
            for info in map(data.id.get_chunk_info, range(data.id.get_num_chunks()))
            if info.chunk_offset[0] == 40
        )
    with open(path, "rb+") as handle:
        handle.seek(chunk.byte_offset)
        handle.write(b"\xff" * chunk.size)
    scan = open_scan(path)
    scan.projections(range(38), slice(0, 2))
    with pytest.raises(InputError, match="frame 40") as caught:
        scan.projections(range(91), slice(0, 2))
    assert str(path) in str(caught.value)


def test_missing_filter_is_named_with_its_package(scans, monkeypatch):
    available = h5py.h5z.filter_avail
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda n: n != 32008 and available(n))
    with pytest.raises(InputError, match=r"32008 \(bitshuffle\).*hdf5plugin"):
        open_scan(scans / "i13_24737_bslz4.nxs")


def test_all_filters_of_hdf5plugin_are_loaded_by_the_reader(tmp_path):
    """In a process that imports nothing but the reader."""
    made = {one.filter_name: one() for one in hdf5plugin.get_filters()}
    assert set(made) >= {"blosc", "blosc2", "bshuf", "bzip2", "lz4", "zstd", "zfp", "sz"}
    made |= {"gzip": {"compression": "gzip"}, "lzf": {"compression": "lzf", "shuffle": True}}
    whole, right = np.arange(ROWS * COLUMNS * 5 * 64, dtype=np.float32), {}
    lossy, whole_numbers = {"zfp", "sz", "sz3", "sperr"}, {"fcidecomp", "htj2k"}
    for name, chosen in made.items():
        path = write_dxchange(tmp_path / f"{name}.h5")
        frames = whole.reshape(5, 8 * ROWS, 8 * COLUMNS)
        frames = frames.astype(np.uint16) if name in whole_numbers else frames
        with h5py.File(path, "r+") as file:
            for role in ("data", "data_white", "data_dark"):
                del file[f"exchange/{role}"]
            file["exchange"].create_dataset(
                "data", data=frames, chunks=(1, *frames.shape[1:]), **chosen
            )
            file["exchange/data_white"], file["exchange/data_dark"] = frames[:1] + 1, frames[:1]
            right[name] = float(file["exchange/data"][4].sum(dtype=np.float64))
        if name not in lossy:
            assert right[name] == frames[4].sum(dtype=np.float64)
    read = (
        "import sys\nfrom hpc_srct.scan import open_scan\n"
        "print(*(float(open_scan(p).projections([4]).sum(dtype=float)) for p in sys.argv[1:]))"
    )
    paths = [str(tmp_path / f"{name}.h5") for name in made]
    answer = subprocess.run([sys.executable, "-c", read, *paths], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert dict(zip(made, map(float, answer.stdout.split()), strict=True)) == right


def test_the_disks_fault_is_not_the_files():
    broken = OSError("Can't read data (file read failed: errno = 5, error message = 'I/O error')")
    assert isinstance(unreadable("s.h5", "/data", broken), MachineError)
    assert isinstance(unreadable("s.h5", "/data", OSError("inflate() failed")), InputError)


def test_frames_that_are_no_frames(tmp_path):
    for data, found in ((np.zeros((3, 4)), "shape"), (np.full((2, 2, 2), b"a"), "numbers")):
        path = tmp_path / f"{found}.h5"
        with h5py.File(path, "w") as file:
            file["exchange/data"] = data
        with pytest.raises(InputError, match=found):
            open_scan(path)


def test_theta_is_missing(tmp_path):
    path = write_dxchange(tmp_path / "s.h5", theta=None)
    scan = open_scan(path)
    np.testing.assert_allclose(np.rad2deg(scan.angles), [0, 45, 90, 135, 180])
    assert open_scan(path, angle_range=(0, 90)).notes == []
    assert any("equally spaced over 0..180" in note for note in scan.notes)


def _rotation(path, **values):
    with h5py.File(path, "r+") as file:
        for name, value in values.items():
            file[f"process/acquisition/rotation/{name}"] = value
    return path


@pytest.mark.parametrize("sign", [1, -1])
def test_half_a_turn_that_passes_a_whole_one_on_its_way(tmp_path, sign):
    going_on = 300 + np.arange(60) * 3.0
    path = write_dxchange(tmp_path / "s.h5", n_views=60, theta=np.mod(going_on, 360)[::sign])
    scan = open_scan(path)
    np.testing.assert_allclose(np.ptp(np.rad2deg(scan.angles)), 177)
    assert AngleSummary.of(scan.angles).turn == "half"
    assert any("pass a whole turn on their way" in note for note in scan.notes)


def test_a_whole_turn_is_left_as_it_is(tmp_path):
    theta = np.mod(270 + np.arange(72) * 5.0, 360)
    scan = open_scan(write_dxchange(tmp_path / "s.h5", n_views=72, theta=theta))
    np.testing.assert_array_equal(scan.angles, np.deg2rad(theta))


def test_theta_rebuilt_from_the_rotation(tmp_path):
    path = _rotation(
        write_dxchange(tmp_path / "s.h5", theta=None),
        rotation_start=[10.0],
        rotation_step=0.5,
        num_angles=7,
    )
    scan = open_scan(path)
    np.testing.assert_allclose(np.rad2deg(scan.angles), [10, 10.5, 11, 11.5, 12])
    assert any("rebuilt from /process/acquisition/rotation" in note for note in scan.notes)
    assert any("5 of 7" in note for note in scan.notes)


def test_theta_rebuilt_from_a_rotation_in_radians(tmp_path):
    path = _rotation(
        write_dxchange(tmp_path / "s.h5", theta=None),
        rotation_start=np.deg2rad(10),
        rotation_step=np.deg2rad(2),
    )
    with h5py.File(path, "r+") as file:
        for name in ("rotation_start", "rotation_step"):
            file[f"process/acquisition/rotation/{name}"].attrs["units"] = "rad"
    scan = open_scan(path)
    np.testing.assert_allclose(np.rad2deg(scan.angles), [10, 12, 14, 16, 18])
    assert any("start 10°, step 2°" in note for note in scan.notes)


def test_rotation_of_fewer_angles_than_projections(tmp_path):
    path = _rotation(
        write_dxchange(tmp_path / "s.h5", theta=None),
        rotation_start=0.0,
        rotation_step=0.5,
        num_angles=4,
    )
    with pytest.raises(InputError, match="4 angles for 5 projections"):
        open_scan(path)
    scan = open_scan(path, angle_range=(0, 2))
    assert scan.n_views == 5
    assert scan.notes == []


def test_flats_as_one_value(tmp_path):
    path = write_dxchange(tmp_path / "s.h5", n_flats=0, n_darks=0)
    with h5py.File(path, "r+") as file:
        file["process/acquisition/flat_fields/flat_field_value"] = [1000.0]
        file["process/acquisition/dark_fields/dark_field_value"] = [0.0]
    scan = open_scan(path)
    np.testing.assert_array_equal(scan.flats(slice(1, 3))[0].frames, np.full((1, 2, COLUMNS), 1000))
    np.testing.assert_array_equal(scan.darks()[0].frames, np.zeros((1, ROWS, COLUMNS)))
    assert any("flat_field_value stands for the flats" in note for note in scan.notes)


@pytest.mark.parametrize(
    ("values", "metres"),
    [
        ({"detector/pixel_size_x": (6.5e-7, None)}, 6.5e-7),
        ({"detector/pixel_size_x": (0.65, "um")}, 6.5e-7),
        (
            {"detector/actual_pixel_size_x": (6.5e-7, "m"), "detector/pixel_size_x": (6.5e-6, "m")},
            6.5e-7,
        ),
        ({"detection_system/objective/resolution": (0.65, None)}, 6.5e-7),
        ({"detection_system/objective/resolution": (650, "nm")}, 6.5e-7),
        (
            {
                "detector/pixel_size_x": (6.5e-6, "m"),
                "detection_system/objective/magnification": (10.0, None),
            },
            6.5e-7,
        ),
        (
            {
                "detector/pixel_size_x": (6.5, "micron"),
                "detection_system/objective/magnification": ("10x", None),
            },
            6.5e-7,
        ),
        ({"detector/pixel_size_x": (3.45, None)}, None),  # nobody's pixel is 3 metres
        ({"detector/pixel_size_x": (3.45, "furlong")}, None),
        ({}, None),
    ],
)
def test_pixel_size_of_a_dxchange_file(tmp_path, values, metres):
    path = write_dxchange(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        for name, (value, units) in values.items():
            file[f"measurement/instrument/{name}"] = value
            if units:
                file[f"measurement/instrument/{name}"].attrs["units"] = units
    scan = open_scan(path)
    assert scan.pixel_size == (None if metres is None else pytest.approx(metres))
    if values and metres is None:
        assert any("pixel" in note for note in scan.notes)


def test_geometry_of_an_nxtomo_file(tmp_path):
    path = write_nxtomo(tmp_path / "s.nxs", KEY)
    with h5py.File(path, "r+") as file:
        home = file["entry1/tomo_entry/instrument/detector"]
        home["x_pixel_size"] = 2.5
        home["x_pixel_size"].attrs["units"] = "μm"
        home["x_rotation_axis_pixel_position"] = [2.25]
        file["entry1/tomo_entry/control/data"] = np.arange(8.0)
    scan = open_scan(path)
    assert scan.pixel_size == pytest.approx(2.5e-6)
    assert scan.centre_hint == 2.25
    np.testing.assert_array_equal(scan.monitor, VIEWS)
    np.testing.assert_array_equal(np.concatenate([g.monitor for g in scan.flats()]), [1, 4])


@pytest.mark.parametrize(
    ("theta", "theta_white", "positions"),
    [
        ([0, 45, 90, 135, 180], [0, 180], [0, 5]),
        ([180, 135, 90, 45, 0], [180, 0], [0, 5]),  # backwards
        ([0, 45, 90, 135, 180], [100, 0], [0, 3]),
        ([0, 45, 90, 135, 180], [0, 50, 180], [2.5]),  # not one for each flat
    ],
)
def test_flats_placed_by_the_angle_they_were_taken_at(tmp_path, theta, theta_white, positions):
    path = write_dxchange(tmp_path / "s.h5", theta=np.array(theta, float))
    with h5py.File(path, "r+") as file:
        file["exchange/theta_white"] = np.array(theta_white, float)
    assert [position for position, _ in open_scan(path).flat_groups] == positions


@pytest.mark.parametrize("units", ["rad", "mrad", None])
def test_flats_angles_without_units_are_in_those_of_theta(tmp_path, units):
    theta = np.linspace(0, np.pi, 90, endpoint=False) * (1e3 if units == "mrad" else 1)
    path = write_dxchange(tmp_path / "s.h5", n_views=90, theta=theta)
    with h5py.File(path, "r+") as file:
        file["exchange/theta"].attrs["units"] = units or ""
        file["exchange/theta_white"] = theta[[0, -1]]
    layout = None if units else Layout(angles={"path": "/exchange/theta", "units": "rad"})
    assert open_scan(path, layout).flat_groups == [(0.0, 1), (90.0, 1)]


def _shutter(path, flats, where=np.s_[:], noise=3.0, shape=(40, 64)):
    """Write a scan whose flats have these counts above a dark level of 100, inside `where`."""
    rng = np.random.default_rng(1)
    flats = np.array(flats, float)
    beam = np.zeros((len(flats), *shape))
    beam[:, *np.atleast_1d(where)] = flats[:, None, None]
    with h5py.File(path, "w") as file:
        for name, light in (("data", 0.5 * beam[:1].repeat(4, 0)), ("data_white", beam)):
            counts = 100 + light + noise * rng.normal(size=light.shape)
            file[f"exchange/{name}"] = np.rint(counts).astype(np.uint16)
        darks = 100 + noise * rng.normal(size=(10, *shape))
        file["exchange/data_dark"] = np.rint(darks).astype(np.uint16)
        file["exchange/theta"] = np.arange(4) * 45.0
        file["exchange/theta_white"] = 45.0 * (4 * np.arange(len(flats)) // len(flats))
    return path


def test_flats_with_the_shutter_closed_are_left_out(tmp_path):
    scan = open_scan(_shutter(tmp_path / "s.h5", 4 * [1000] + 4 * [0]))
    assert scan.flat_groups == [(0.0, 2), (1.0, 2)]
    assert sum("shutter closed?" in note for note in scan.notes) == 2
    assert all(group.frames.min() > 900 for group in scan.flats())


@pytest.mark.parametrize("light", [[1000, 1000, 1000, 150], [20, 20, 20, 20], [9, 8, 7, 8]])
def test_a_beam_that_fades_or_is_weak_is_no_closed_shutter(tmp_path, light):
    scan = open_scan(_shutter(tmp_path / "s.h5", light))
    assert scan.n_flats == 4
    assert not any("shutter" in note for note in scan.notes)


@pytest.mark.parametrize("where", [np.s_[17:19, :], np.s_[:, 40:60]])
def test_a_beam_smaller_than_the_detector_is_light(tmp_path, where):
    assert open_scan(_shutter(tmp_path / "s.h5", [1000, 0], where)).flat_groups == [(0.0, 1)]


def test_flats_that_are_all_dark(tmp_path):
    path = _shutter(tmp_path / "s.h5", 6 * [0])
    with pytest.raises(InputError, match="none of 6 flat frame.* brighter than the dark"):
        open_scan(path)
    assert open_scan(path, without_flats=True).flats() == []


def test_a_flat_frame_without_numbers_does_not_darken_its_group(tmp_path):
    path = _shutter(tmp_path / "s.h5", 3 * [1000])
    with h5py.File(path, "r+") as file:
        frames = file["exchange/data_white"][:].astype(np.float32)
        del file["exchange/data_white"], file["exchange/theta_white"]
        frames[1] = np.nan
        file["exchange/data_white"] = frames
    assert open_scan(path).n_flats == 3


def test_flats_of_another_size(tmp_path):
    path = write_dxchange(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        del file["exchange/data_white"]
        file["exchange/data_white"] = np.ones((2, ROWS, COLUMNS + 1))
    with pytest.raises(InputError, match=f"{ROWS} × {COLUMNS + 1}; expected {ROWS} × {COLUMNS}"):
        open_scan(path)


@pytest.mark.parametrize(
    "values",
    [
        {"scan/geometry": "cone beam"},
        {"CtData/parameters/geometryType": np.frombuffer("cone".encode("utf-16-le"), np.uint16)},
        {"instrument/source/type": "Fixed Tube X-ray"},
        {"geo/source_to_sample_distance": 100.0, "geo/source_to_detector_distance": 800.0},
        {"p/distanceSourceOrigin": [[410.66]], "p/distanceSourceDetector": [[553.74]]},
    ],
)
def test_cone_beam_is_refused_by_name(tmp_path, values):
    path = write_nxtomo(tmp_path / "s.nxs", KEY)
    with h5py.File(path, "r+") as file:
        for name, value in values.items():
            file[name] = value
    with pytest.raises(InputError, match="cone-beam"):
        open_scan(path)
    layout = tmp_path / "layout.yaml"
    layout.write_text("geometry: parallel\n")
    assert open_scan(path, layout).n_views == 4


def test_a_synchrotrons_distances_are_no_cone(tmp_path):
    path = write_nxtomo(tmp_path / "s.nxs", KEY)
    with h5py.File(path, "r+") as file:
        for name, value in (("source", -220.0), ("detector", 0.4)):
            home = file.require_group(f"entry1/tomo_entry/instrument/{name}")
            home["distance"] = value
            home["distance"].attrs["units"] = "m"
        file["entry1/tomo_entry/instrument/source/type"] = "Synchrotron X-ray Source"
    assert open_scan(path).n_views == 4


@pytest.mark.parametrize("name", ["scan.txrm", "scan.xtekct"])
def test_lab_files_are_refused_by_their_names(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
    with pytest.raises(InputError, match="cone-beam"):
        open_scan(tmp_path / name)
