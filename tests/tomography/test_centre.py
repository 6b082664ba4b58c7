"""The rotation centre: two real scans, and simulated ones with noise and every kind of turn."""

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from benchmarks import phantom
from hpc_srct.errors import InputError
from hpc_srct.settings.simulation import SimulationSettings
from hpc_srct.simulation import simulate_scan
from hpc_srct.tomography.centre import find_centre
from hpc_srct.tomography.correction import median_frame, minus_log, transmission

OBJECT = (
    *phantom.TOFT,
    (0.3, 0.05, 0.05, 0.5, 0.3, 0.0),
    (0.5, 0.02, 0.03, -0.4, -0.3, 0.0),
)


def simulated(views, arc, columns, centre, photons, size=None, seed=0):
    angles = np.arange(views) * arc / views
    exact = phantom.sinogram(angles, columns, centre, OBJECT, size=size or columns - 20)
    exact *= 2 / exact.max()
    counts = np.random.default_rng(seed).poisson(photons * np.exp(-exact))
    return -np.log(np.maximum(counts, 0.5) / photons).astype(np.float32), angles


def tooth(scans):
    with h5py.File(scans / "aps_tooth_dx.h5") as file:
        data = file["exchange"]
        flat, dark = median_frame(data["data_white"][()]), median_frame(data["data_dark"][()])
        values, _ = transmission(data["data"][()], flat, dark)
        return minus_log(values).swapaxes(0, 1), np.radians(data["theta"][()])


def i13(scans):
    with h5py.File(scans / "i13_24737.nxs") as file:
        entry = file["entry1/tomo_entry"]
        frames, key = entry["instrument/detector/data"][()], entry["instrument/detector/image_key"]
        key = key[()]
        flat, dark = median_frame(frames[key == 1]), median_frame(frames[key == 2])
        values, _ = transmission(frames[key == 0], flat, dark)
        angles = np.radians(entry["sample/rotation_angle"][()][key == 0])
        return minus_log(values).swapaxes(0, 1), angles


@pytest.mark.parametrize("every", [1, 3])
def test_tooth(scans, every):
    sinograms, angles = tooth(scans)
    found = find_centre(sinograms[:, ::every], angles[::every])
    assert abs(found.value - 295.5) <= 0.5
    assert found.uncertainty < 0.25
    assert not found.at_edge
    for row in sinograms:
        assert abs(find_centre(row[::every], angles[::every]).value - 295.5) <= 0.5


def test_i13_pin_wider_than_the_detector(scans):
    sinograms, angles = i13(scans)
    for rows in (slice(None), slice(20, 130, 25), slice(90, 91)):
        found = find_centre(sinograms[rows], angles)
        assert abs(found.value - 86.0) <= 0.5
        assert found.uncertainty < 0.25
        assert "wider than the detector" in found.note


def test_an_answer_at_the_edge_says_so(scans):
    sinograms, angles = tooth(scans)
    found = find_centre(sinograms, angles, search=(310, 350))
    assert found.at_edge
    assert "edge of the search range 310 to 350" in found.note
    assert found.uncertainty > 0.5


@pytest.mark.parametrize("shift", [0.0, 7.3, -21.65])
@pytest.mark.parametrize(
    "views, arc, method",
    [
        (180, np.pi, "mirrored half turn"),
        (60, np.pi, "mirrored half turn"),
        (220, 1.2 * np.pi, "mirrored half turn"),
        (201, 2 * np.pi, "opposite views"),
    ],
)
def test_within_a_quarter_pixel_on_noisy_scans(shift, views, arc, method):
    centre = 127.5 + shift
    sinogram, angles = simulated(views, arc, 256, centre, photons=1000, size=200)
    found = find_centre(sinogram, angles)
    assert found.method == method
    assert abs(found.value - centre) < 0.25
    assert abs(found.value - centre) < 3 * found.uncertainty + 0.05


def test_order_start_direction_and_repeats_do_not_matter():
    sinogram, angles = simulated(181, 181 / 180 * np.pi, 128, 61.2, photons=5000)
    order = np.random.default_rng(1).permutation(181)
    for s, a in ((sinogram[order], 2.5 + angles[order]), (sinogram[::-1], 9 + angles[::-1])):
        assert abs(find_centre(s, a).value - 61.2) < 0.25
    # Backwards is another direction of rotation; the axis is the same.
    assert abs(find_centre(sinogram, -angles).value - 61.2) < 0.25


def test_irregular_steps():
    angles = np.sort(np.random.default_rng(0).uniform(0, np.pi, 300))
    sinogram = phantom.sinogram(angles, 128, 70.2, OBJECT, size=100)
    assert abs(find_centre(sinogram, angles).value - 70.2) < 0.25


def test_axis_at_the_side_of_a_full_turn():
    sinogram, angles = simulated(360, 2 * np.pi, 200, 31.3, photons=5000, size=330)
    found = find_centre(sinogram, angles)
    assert abs(found.value - 31.3) < 0.25


def test_region_of_interest():
    sinogram, angles = simulated(360, np.pi, 200, 104.2, photons=5000, size=380)
    found = find_centre(sinogram, angles)
    assert abs(found.value - 104.2) < 0.5
    assert "wider" in found.note


def test_less_than_half_a_turn_goes_by_the_centre_of_mass():
    sinogram, angles = simulated(150, 2.3, 128, 59.3, photons=5000, size=110)
    found = find_centre(sinogram, angles)
    assert found.method == "centre of mass"
    assert abs(found.value - 59.3) < max(0.5, 2 * found.uncertainty)
    with pytest.raises(InputError, match="60°"):
        find_centre(sinogram[:40], angles[:40])


@pytest.mark.parametrize("arc", [np.pi, 2 * np.pi])
@pytest.mark.parametrize("seed", range(4))
def test_pure_noise_is_not_trusted(arc, seed):
    noise = np.random.default_rng(seed).normal(0, 1, (100, 128)).astype(np.float32)
    found = find_centre(noise, np.arange(100) * arc / 100)
    assert found.uncertainty > 5
    assert "not sure" in found.note


def test_rows_with_nan_are_left_out():
    sinogram, angles = simulated(90, np.pi, 128, 66.0, photons=5000)
    spoilt = np.full_like(sinogram, np.nan)
    assert abs(find_centre([spoilt, sinogram], angles).value - 66.0) < 0.25
    with pytest.raises(InputError, match="choose other rows"):
        find_centre([spoilt], angles)
    with pytest.raises(InputError, match="expected a range"):
        find_centre(sinogram, angles, search=(90, 20))
    with pytest.raises(InputError, match="90 views"):
        find_centre(sinogram[:80], angles)


@pytest.mark.parametrize(("shape", "shift"), [("textured", 14.0), ("foam", 3.6)])
def test_an_object_that_fills_the_detector_is_not_drawn_to_its_middle(tmp_path, shape, shift):
    scan = SimulationSettings(
        phantom=shape, object_size=(0.9, 0.95), centre_offset=shift, photons=2e4, seed=5,
        size=256, rows=2, views=384,
    )  # fmt: skip
    simulate_scan(scan, tmp_path / "scan.h5", progress=False)
    with h5py.File(tmp_path / "scan.h5") as file:
        data = file["exchange"]
        flat, dark = median_frame(data["data_white"][()]), median_frame(data["data_dark"][()])
        values, _ = transmission(data["data"][()], flat, dark)
        sinograms, angles = minus_log(values).swapaxes(0, 1), np.radians(data["theta"][()])
    assert abs(find_centre(list(sinograms), angles).value - 127.5 - shift) < 0.1


def test_cut_off_on_one_side_alone_is_said():
    sinogram, angles = simulated(384, np.pi, 256, 97.5, photons=2e4, size=240)
    found = find_centre(sinogram, angles)
    assert "wider than the detector" in found.note
    assert abs(found.value - 97.5) < max(0.25, 2 * found.uncertainty)
