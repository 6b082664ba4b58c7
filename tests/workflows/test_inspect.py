"""`inspect` on the real scans, on files that assume something, and on those that lack something."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from preprocessing.conftest import write_scan
from rich.console import Console
from scan.writers import write_nxtomo

from hpc_srct.errors import InputError
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.workflows.inspect import inspect


def as_text(found) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(found)
    return console.export_text()


@pytest.mark.parametrize(
    ("name", "shape", "angles", "centre"),
    [
        ("aps_tooth_dx.h5", [181, 2, 640], (0, 179.006), 295.5),
        ("odd_dx_radians.h5", [181, 1, 640], (0, 179.006), 295.5),
        ("i13_24737.nxs", [91, 135, 160], (-88.2, 91.8), 86.0),
        ("i13_24737_bslz4.nxs", [91, 135, 160], (-88.2, 91.8), 86.0),
    ],
)
def test_real_scans(scans, name, shape, angles, centre):
    found = inspect(scans / name).to_json()
    assert found["shape"] == shape
    assert found["angles"]["unit"] == "deg"
    assert (found["angles"]["first"], found["angles"]["last"]) == pytest.approx(angles, abs=1e-3)
    assert found["centre"]["value"] == pytest.approx(centre, abs=0.5)
    assert 0 < found["centre"]["uncertainty"] < 0.5
    assert not found["centre"]["at_edge"]
    assert found["flats"]["frames"] == found["darks"]["frames"] > 0
    json.dumps(found, allow_nan=False)


def test_the_plan_is_what_preprocessing_takes(scans, tmp_path):
    settings = PreprocessingSettings(rows="0:40")
    plan = inspect(scans / "i13_24737.nxs", settings=settings).plan
    start = time.perf_counter()
    # In a process of its own, which has nothing else loaded.
    code = """
import sys
from hpc_srct.preprocessing import preprocess
from hpc_srct.settings.preprocessing import PreprocessingSettings
done = preprocess(sys.argv[1], sys.argv[2], PreprocessingSettings(rows="0:40"))
print("RESULT", done.peak_memory[0], done.plan.readings)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code, scans / "i13_24737.nxs", tmp_path / "store"],
        capture_output=True,
        text=True,
        check=True,
    )
    taken = time.perf_counter() - start
    line = next(line for line in answer.stdout.splitlines() if line.startswith("RESULT"))
    peak, readings = map(int, line.split()[1:])
    written = sum(file.stat().st_size for file in (tmp_path / "store").rglob("*.h5"))
    assert plan["disk_bytes"] == pytest.approx(written, rel=0.2)
    assert plan["memory_bytes"] == pytest.approx(peak, rel=0.2)
    assert plan["passes"] == readings == 2  # once for the centre, once for the rows
    assert 0 < plan["seconds"] < 60 * max(taken, 1)


def test_less_memory_is_more_passes(scans):
    path = scans / "i13_24737.nxs"
    roomy = inspect(path)
    refused = inspect(path, settings=PreprocessingSettings(memory="1MiB")).notes[-1]
    least = int(refused.rpartition("memory=")[2].partition("MiB")[0])
    # Less than all 135 rows take, more than two of them do.
    tight = inspect(path, settings=PreprocessingSettings(memory=f"{least + 4}MiB"))
    assert tight.plan["passes"] > max(roomy.plan["passes"], 2)
    assert tight.plan["memory_bytes"] < roomy.plan["memory_bytes"]
    assert "scratch=FOLDER" in as_text(tight)
    assert "scratch=" not in as_text(roomy)


def test_too_little_memory_is_said_and_no_plan_made(scans):
    found = inspect(scans / "aps_tooth_dx.h5", settings=PreprocessingSettings(memory="1MB"))
    assert found.plan is None
    assert any("memory=" in note for note in found.notes)


def test_a_centre_at_the_edge_of_its_range_is_said_to_be_so(scans, tmp_path):
    """The tooth at the very side of a wide detector, where nobody looks for an axis."""
    path = tmp_path / "aside.h5"
    with h5py.File(scans / "aps_tooth_dx.h5", locking=False) as full, h5py.File(path, "w") as file:
        for name in ("data", "data_white", "data_dark"):
            frames = full[f"exchange/{name}"][:, :1]
            file[f"exchange/{name}"] = np.pad(frames, ((0, 0), (0, 0), (0, 3360)), mode="edge")
        full.copy("exchange/theta", file["exchange"])
    found = inspect(path)
    assert found.centre["at_edge"]
    assert "AT THE EDGE" in as_text(found)


def test_no_darks_is_a_note(scans):
    found = inspect(scans / "odd_nodark.nxs")
    assert found.to_json()["darks"] == {"frames": 0, "groups": []}
    assert any("Dark frames: none" in note for note in found.notes)
    assert "warning" in as_text(found)
    assert found.centre["value"] == pytest.approx(86, abs=0.5)


def test_no_flats_is_an_error_unless_told(scans):
    with pytest.raises(InputError, match="no flat frames"):
        inspect(scans / "odd_noflat.nxs")
    found = inspect(
        scans / "odd_noflat.nxs", settings=PreprocessingSettings(without_flats=True)
    ).to_json()
    assert found["flats"]["frames"] == 0


def test_a_range_in_the_place_of_angles(scans):
    with pytest.raises(InputError, match="angle_range"):
        inspect(scans / "odd_noangle.nxs")
    settings = PreprocessingSettings(angle_range=(-88.2, 91.8))
    found = inspect(scans / "odd_noangle.nxs", settings=settings)
    assert found.centre["value"] == pytest.approx(86, abs=0.5)


def test_an_empty_scan_has_no_centre_and_says_why(scans):
    found = inspect(scans / "dx_nested_legacy.h5")
    assert found.centre is None
    assert any(note.startswith("Rotation centre:") for note in found.notes)
    assert "not found" in as_text(found)


def test_a_centre_that_is_given(scans):
    found = inspect(scans / "aps_tooth_dx.h5", settings=PreprocessingSettings(centre=300))
    assert (found.centre["value"], found.centre["method"]) == (300, "given")


def test_the_files_centre_stands_beside_the_one_found(tmp_path):
    path = write_scan(tmp_path / "scan.h5", rows=4, views=90, columns=96)
    with h5py.File(path, "r+") as file:
        file["simulation/centre"] = 40.25
    found = inspect(path)
    assert found.centre["value"] == pytest.approx(47.5, abs=0.25)
    assert found.to_json()["centre_in_file"] == 40.25
    assert "the file says 40.25" in as_text(found)
    assert any("and the file says 40.25: look at both" in note for note in found.notes)
    own = inspect(path, settings=PreprocessingSettings(centre="file"))
    assert (own.centre["value"], own.centre["method"]) == (40.25, "from the file")
    assert own.centre_of_rows is None


def test_rows_are_compared_and_a_leaning_axis_is_told(tmp_path):
    path = write_scan(tmp_path / "scan.h5", rows=64, views=90, columns=96, tilt=-3.0, noise=50)
    found = inspect(path)
    told = found.to_json()["centre_of_rows"]
    assert told["tilt_degrees"] == pytest.approx(-3, abs=0.3)
    assert (told["rows"], told["agree"]) == ([6, 19, 32, 44, 57], False)
    assert told["centres"] == sorted(told["centres"], reverse=True)
    assert any("the axis is tilted by" in note for note in found.notes)
    text = as_text(found)
    assert "THEY DISAGREE" in text
    assert f"tilt {told['tilt_degrees']:.2f}°" in text


def test_binning_and_columns_are_planned_and_counted_in_the_detectors_pixels(tmp_path):
    path = write_scan(tmp_path / "scan.h5", rows=32, views=90, columns=96, centre=44.3)
    settings = PreprocessingSettings(binning=2, columns="8:88", sinogram=False)
    found = inspect(path, settings=settings)
    assert found.columns == 96
    assert found.centre["value"] == pytest.approx(44.3, abs=0.5)
    assert found.centre_of_rows["rows"] == [4, 10, 16, 22, 28]
    assert found.centre_of_rows["centres"] == pytest.approx([44.3] * 5, abs=0.5)
    assert found.plan["disk_bytes"] == 16 * 2 * 40 * 40 * 4


def test_how_often_phase_is_retrieved(tmp_path):
    path = write_scan(tmp_path / "scan.h5", rows=1600, views=90, columns=96, chunked=True)
    phase = {"energy_kev": 20, "distance_m": 0.05, "delta_beta": 300, "pixel_size_m": 1e-6}
    settings = PreprocessingSettings(centre=47.5, phase=phase)
    assert inspect(path, settings=settings).plan["phase_retrievals"] == 1
    least = inspect(path, settings=settings.model_copy(update={"memory": "1MiB"})).notes[-1]
    memory = least.rpartition("memory=")[2].partition(" ")[0]
    tight = inspect(path, settings=settings.model_copy(update={"memory": memory}))
    count = tight.plan["phase_retrievals"]
    # The frames are read once more, for those without light.
    assert count == tight.plan["passes"] > 1
    assert f"phase retrieval of each frame {count} times" in as_text(tight)
    update = {"memory": memory, "scratch": tmp_path / "scratch"}
    staged = inspect(path, settings=settings.model_copy(update=update))
    assert (staged.plan["phase_retrievals"], staged.plan["passes"]) == (1, 1)
    assert staged.plan["scratch_bytes"] == 1600 * 90 * 96 * 4
    assert "phase retrieval of each frame once" in as_text(staged)


def test_ranks_of_the_plan(scans):
    words = [sys.executable, "-m", "hpc_srct", "inspect", str(scans / "i13_24737.nxs"), "--json"]
    answer = subprocess.run([*words, "--ranks", "3"], capture_output=True, text=True, check=True)
    told = json.loads(answer.stdout)
    assert told["plan"]["ranks"] == 3
    assert told["centre_of_rows"]["agree"]


def test_flats_between_projections_and_what_was_assumed(tmp_path):
    path = write_nxtomo(tmp_path / "s.nxs", [2, 1, 0, 0, 0, 1, 0, 0, 3, 0, 1], units=None)
    found = inspect(path)
    assert found.to_json()["flats"]["groups"] == [
        {"position": 0.0, "frames": 1},
        {"position": 3.0, "frames": 1},
        {"position": 6.0, "frames": 1},
    ]
    assert any("no units" in note for note in found.notes)
    text = as_text(found)
    assert "3: 1 before, 1 after view 3, 1 after" in text
    assert "marked invalid" in text


def test_folder_of_a_layout(scans, tmp_path):
    """The tooth, kept as BSRF keeps scans: one file for each role."""
    with h5py.File(scans / "aps_tooth_dx.h5", locking=False) as full:
        for role, name in (("tomo", "data"), ("flat", "data_white"), ("dark", "data_dark")):
            with h5py.File(tmp_path / f"andor_img_{role}.h5", "w") as file:
                file["scan/data/andor_img_shaped_image"] = full[f"exchange/{name}"][:]
    settings = PreprocessingSettings(angle_range=(0, 180 * 180 / 181))
    found = inspect(tmp_path, "bsrf-3w1", settings)
    assert found.format == "layout"
    assert found.centre["value"] == pytest.approx(295.5, abs=0.5)
    assert len(found.storage["files"]) == 3


def test_nothing_is_written_beside_the_scan(scans, tmp_path):
    path = shutil.copy(scans / "i13_24737.nxs", tmp_path)
    before = np.fromfile(path, np.uint8)
    inspect(path)
    assert [file.name for file in tmp_path.iterdir()] == ["i13_24737.nxs"]
    np.testing.assert_array_equal(np.fromfile(path, np.uint8), before)
