"""Virtual data sets whose sources are short or missing, and what else a message must tell."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.scan import open_scan

from .writers import numbered, write_nxtomo


def write(path: Path, virtual: h5py.VirtualLayout | None = None, views: int = 8) -> Path:
    with h5py.File(path, "w") as file:
        if virtual is None:
            file["exchange/data"] = numbered(views)
        else:
            file.create_virtual_dataset("exchange/data", virtual)
        file["exchange/data_white"] = numbered(2, 100)
        file["exchange/data_dark"] = np.zeros((1, 4, 6), np.uint16)
        file["exchange/theta"] = np.linspace(0, 180, views)
        file["exchange/theta"].attrs["units"] = "deg"
    return path


def source(path: Path, frames: int) -> None:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["d"] = numbered(frames)


@pytest.mark.parametrize("part", [slice(None), slice(0, 7)])
def test_a_source_that_is_shorter_than_mapped(tmp_path, part):
    layout = h5py.VirtualLayout((8, 4, 6), np.uint16)
    layout[part] = h5py.VirtualSource("s.h5", "d", (8, 4, 6))[part]
    path = write(tmp_path / "scan.h5", layout)
    source(tmp_path / "s.h5", 6)
    count = 8 if part == slice(None) else 7
    with pytest.raises(
        InputError, match=rf"s\.h5 holds \(6, 4, 6\) in d, where \({count}, 4, 6\) are mapped"
    ):
        open_scan(path)
    source(tmp_path / "s.h5", 8)
    assert open_scan(path).lost.tolist() == ([] if count == 8 else [7])


def test_sources_that_take_turns_are_whole(tmp_path):
    layout = h5py.VirtualLayout((8, 4, 6), np.uint16)
    for first in (0, 1):
        source(tmp_path / f"{first}.h5", 4)
        layout[first::2] = h5py.VirtualSource(f"{first}.h5", "d", (4, 4, 6))
    scan = open_scan(write(tmp_path / "scan.h5", layout))
    assert not len(scan.lost)
    np.testing.assert_array_equal(scan.projections([4, 5]), numbered(4)[[2, 2]])


def test_a_series_that_lacks_a_file_names_it(tmp_path):
    for part in range(4):
        source(tmp_path / f"parts/p{part}.h5", 2)
    space = h5py.h5s.create_simple((8, 4, 6), (h5py.h5s.UNLIMITED, 4, 6))
    unlimited = h5py.h5s.UNLIMITED
    space.select_hyperslab((0, 0, 0), (unlimited, 1, 1), (2, 4, 6), (2, 4, 6))
    of_source = h5py.h5s.create_simple((2, 4, 6))
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_virtual(space, b"parts/p%b.h5", b"d", of_source)
    path = write(tmp_path / "scan.h5")
    with h5py.File(path, "r+") as file:
        del file["exchange/data"]
        home = file["exchange"].id
        kind = h5py.h5t.NATIVE_UINT16
        room = h5py.h5s.create_simple((8, 4, 6), (unlimited, 4, 6))
        h5py.h5d.create(home, b"data", kind, room, made)
    scan = open_scan(path)
    assert (scan.n_views, scan.lost.tolist()) == (8, [])
    (tmp_path / "parts/p2.h5").unlink()
    with pytest.raises(InputError, match=r"its source .*p2\.h5 is not there"):
        open_scan(path)


def test_chunks_that_nobody_wrote_are_told(tmp_path):
    path = write(tmp_path / "scan.h5")
    with h5py.File(path, "r+") as file:
        del file["exchange/data"]
        data = file.create_dataset("exchange/data", (8, 4, 6), "u2", chunks=(1, 2, 6))
        data[:3], data[5:] = numbered(3), numbered(3, 5)
        data[3, :2] = 1  # a part of it is there
    assert open_scan(path).lost.tolist() == [4]
    with h5py.File(path, "r+") as file:
        del file["exchange/data"]
        file.create_dataset("exchange/data", (8, 4, 6), "u2")
    assert open_scan(path).lost.tolist() == list(range(8))


def test_axes_that_are_named_at_the_projections_alone(tmp_path):
    path = write(tmp_path / "scan.h5")
    plain = open_scan(path)
    frames = [group.frames for group in plain.flats()]
    plain.close()
    with h5py.File(path, "r+") as file:
        for name in ("data", "data_white", "data_dark"):
            turned = file[f"exchange/{name}"][:].transpose(1, 0, 2)
            del file[f"exchange/{name}"]
            file[f"exchange/{name}"] = turned
        file["exchange/data"].attrs["axes"] = "y:theta:x"
    scan = open_scan(path)
    np.testing.assert_array_equal(scan.flats()[0].frames, frames[0])
    assert any("read with the projections'" in note for note in scan.notes)


def test_why_flats_of_an_unknown_key_are_none(tmp_path):
    path = write_nxtomo(tmp_path / "s.nxs", [2, -1, 0, 0, 0])
    with pytest.raises(InputError, match=r"no flat frames .*1 frame\(s\) left out: key -1"):
        open_scan(path)


def test_a_link_to_a_broken_link_takes_two_lines(tmp_path):
    path = write(tmp_path / "scan.h5")
    with h5py.File(path, "r+") as file:
        del file["exchange/data"]
        file["raw"] = h5py.ExternalLink("gone.h5", "/d")
        file["exchange/data"] = h5py.SoftLink("/raw")
    with pytest.raises(InputError, match=r"gone\.h5") as caught:
        open_scan(path)
    assert len(str(caught.value).splitlines()) == 2
    source(tmp_path / "gone.h5", 8)
    whole = (tmp_path / "gone.h5").read_bytes()
    (tmp_path / "gone.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut short") as caught:
        open_scan(path)
    assert len(str(caught.value).splitlines()) == 2


def test_the_layout_that_a_note_names_can_be_given(tmp_path):
    path = write(tmp_path / "scan.h5")
    with h5py.File(path, "r+") as file:
        del file["exchange/theta"]
        file["exchange/theta"] = np.linspace(0, np.pi, 8)
    (note,) = (note for note in open_scan(path).notes if "radians" in note)
    layout = tmp_path / "layout.yaml"
    layout.write_text(note.partition("layout file (")[2].partition(").")[0])
    np.testing.assert_allclose(open_scan(path, layout).angles, np.linspace(0, np.pi, 8))


def test_a_folder_is_told_how_it_is_read(tmp_path):
    with pytest.raises(InputError, match="layout=NAME"):
        open_scan(tmp_path)


def missing_half(path: Path, inside: str) -> None:
    """Put a dataset of numbers into two files, and lose the second."""
    with h5py.File(path, "r+") as file:
        values, attributes = file[inside][()], dict(file[inside].attrs)
        half = len(values) // 2
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[:half] = h5py.VirtualSource("first.h5", "d", (half,))
        layout[half:] = h5py.VirtualSource("gone.h5", "d", (len(values) - half,))
        del file[inside]
        file.create_virtual_dataset(inside, layout).attrs.update(attributes)
    with h5py.File(path.parent / "first.h5", "w") as file:
        file["d"] = values[:half]


@pytest.mark.parametrize("name", ["instrument/detector/image_key", "sample/rotation_angle"])
def test_keys_and_angles_without_their_source_are_no_zeros(tmp_path, name):
    path = write_nxtomo(tmp_path / "scan.nxs", [1, 2, 0, 0, 0, 0, 1, 2])
    with h5py.File(path) as file:
        found = []
        file.visit(lambda inside: found.append(inside) if inside.endswith(name) else None)
    missing_half(path, found[0])
    with pytest.raises(InputError, match=rf"{name}: is a virtual dataset, and its source \S+gone"):
        open_scan(path)


def test_raw_frames_outside_hdf5(tmp_path):
    path, raw = write(tmp_path / "scan.h5"), tmp_path / "frames.raw"
    frames = numbered(8)
    with h5py.File(path, "r+") as file:
        del file["exchange/data"]
        outside = [(str(raw), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("exchange/data", frames.shape, frames.dtype, external=outside)
    with pytest.raises(InputError, match=r"exchange/data: lies in \S+frames.raw, which is not th"):
        open_scan(path)
    raw.write_bytes(frames.tobytes()[:100])
    with pytest.raises(InputError, match=rf"expected {frames.nbytes} bytes in .*, found 100"):
        open_scan(path)
    raw.write_bytes(frames.tobytes())
    np.testing.assert_array_equal(open_scan(path).projections(np.arange(8)), frames)


def test_flats_without_any_extent_are_none(tmp_path):
    path = write(tmp_path / "scan.h5")
    with h5py.File(path, "r+") as file:
        del file["exchange/data_white"]
        file["exchange/data_white"] = h5py.Empty(np.uint16)
    with pytest.raises(InputError, match="data_white"):
        open_scan(path)
