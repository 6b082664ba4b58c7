"""TIFF: round trips within half a grey step, and a scaling that other programs can read."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from enhancement.cases import SIZE, volume, write_store

from hpc_srct.enhancement import export_tiff
from hpc_srct.errors import InputError
from hpc_srct.evaluation.metrics import disc
from hpc_srct.slices import SliceStore


@pytest.fixture
def small(tmp_path) -> SliceStore:
    return SliceStore(write_store(tmp_path / "scan", volume(3)))


def read(folder, row: int) -> tuple[np.ndarray, dict]:
    with tifffile.TiffFile(folder / f"slice_{row:05d}.tif") as file:
        return file.asarray(), json.loads(file.pages[0].tags["ImageDescription"].value)


def test_32_bits_are_the_attenuation_itself(small, tmp_path):
    export_tiff(small, tmp_path / "tiff", name="low")
    for index, row in enumerate(small.rows):
        values, about = read(tmp_path / "tiff", row)
        np.testing.assert_array_equal(values, small.read("low", index))
        assert (about["row"], about["unit"], about["bits"]) == (row, "1/pixel", 32)
        assert (about["offset"], about["slope"]) == (0.0, 1.0)


@pytest.mark.parametrize(("bits", "kind"), [(16, np.uint16), (8, np.uint8)])
def test_fewer_bits_turn_back_within_half_a_step(small, tmp_path, bits, kind):
    record = export_tiff(small, tmp_path / "tiff", name="low", bits=bits)
    scaling = json.loads(record.read_text())
    low, high = scaling["clipped_to"]
    inside = disc(SIZE, small.field_of_view)
    for index, row in enumerate(small.rows):
        grey, about = read(tmp_path / "tiff", row)
        assert grey.dtype == kind
        assert {key: about[key] for key in scaling} == scaling
        back = about["offset"] + about["slope"] * grey.astype(np.float64)
        truth = np.clip(small.read("low", index), low, high)
        assert np.abs(back - truth).max() <= 0.5001 * scaling["slope"]
        assert np.mean(back[inside] != truth[inside]) > 0
    assert scaling["slope"] == pytest.approx((high - low) / (2**bits - 1))


def test_one_grey_scale_for_the_whole_volume(tmp_path):
    low = volume(2)
    low[1] *= 3
    store = SliceStore(write_store(tmp_path / "scan", low))
    export_tiff(store, tmp_path / "tiff", name="low", bits=16)
    (first, about), (second, about_second) = (read(tmp_path / "tiff", r) for r in store.rows)
    assert (about["offset"], about["slope"]) == (about_second["offset"], about_second["slope"])
    assert second.std() > 2.5 * first.std()


def test_per_metre(small, tmp_path):
    export_tiff(small, tmp_path / "tiff", name="low", per_metre=True)
    values, about = read(tmp_path / "tiff", small.rows[0])
    np.testing.assert_allclose(values, small.read("low", 0) / 2e-6, rtol=1e-6)
    assert about["unit"] == "1/m"
    with tifffile.TiffFile(tmp_path / "tiff" / f"slice_{small.rows[0]:05d}.tif") as file:
        across, unit = (file.pages[0].tags[t].value for t in ("XResolution", "ResolutionUnit"))
    assert across[0] / across[1] == pytest.approx(0.01 / 2e-6)
    assert unit == 3, "pixels per centimetre"


def test_a_given_window_and_missing_values(tmp_path, capsys):
    low = volume(2)
    low[0] = np.nan
    low[1] = np.linspace(-1, 3, low[1].size, dtype=np.float32).reshape(SIZE)
    store = SliceStore(write_store(tmp_path / "scan", low))
    export_tiff(store, tmp_path / "tiff", name="low", bits=8, window=(0.0, 2.0))
    assert (read(tmp_path / "tiff", store.rows[0])[0] == 0).all()
    grey, _ = read(tmp_path / "tiff", store.rows[1])
    assert (grey[0, 0], grey[-1, -1]) == (0, 255)
    # Half of the second slice lies beyond by more than the half step that rounding forgives.
    assert "24.93% of the pixels" in capsys.readouterr().out


def test_going_on_and_refusing(small, tmp_path):
    folder = tmp_path / "tiff"
    export_tiff(small, folder, name="low", bits=16)
    kept, lost = (folder / f"slice_{row:05d}.tif" for row in small.rows[:2])
    stamp, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    export_tiff(small, folder, name="low", bits=16)
    assert kept.stat().st_mtime_ns == stamp and lost.read_bytes() == content
    with pytest.raises(InputError, match="another scaling"):
        export_tiff(small, folder, name="low", bits=8)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(InputError, match="not a TIFF export"):
        export_tiff(small, tmp_path / "photos", name="low")


def test_a_disk_that_refuses_is_heard(small, tmp_path):
    """A limit on the size of files stands for the disk that fills; numpy would hide its reason."""
    folder = tmp_path / "tiff"
    code = (
        "import resource, sys\n"
        "from hpc_srct.enhancement import export_tiff\n"
        "from hpc_srct.errors import MachineError\n"
        "from hpc_srct.slices import SliceStore\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try:\n"
        "    export_tiff(SliceStore(sys.argv[1]), sys.argv[2], name='low')\n"
        "except MachineError as error:\n"
        "    print(error)\n"
    )
    words = [sys.executable, "-c", code, str(small.path), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert f"{folder}/slice_00100.tif: cannot be written" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert [path.name for path in folder.iterdir()] == ["scaling.json"]
    export_tiff(small, folder, name="low")
    np.testing.assert_array_equal(read(folder, small.rows[0])[0], small.read("low", 0))


def test_what_cannot_be_exported_is_said(tmp_path):
    store = SliceStore(write_store(tmp_path / "scan", volume(1), pixel_size=None))
    with pytest.raises(InputError, match="expected 32, 16 or 8; found 12"):
        export_tiff(store, tmp_path / "tiff", name="low", bits=12)
    with pytest.raises(InputError, match="pixel size is not known"):
        export_tiff(store, tmp_path / "tiff", name="low", per_metre=True)
    assert not (tmp_path / "tiff").exists()
