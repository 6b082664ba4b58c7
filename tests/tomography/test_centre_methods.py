"""Centres by a method that is asked for, and rows that bear each other out, or a leaning axis."""

import numpy as np
import pytest

from benchmarks import phantom
from hpc_srct.errors import InputError
from hpc_srct.tomography.axis import check_rows
from hpc_srct.tomography.centre import METHODS, find_centre

OBJECT = (
    *phantom.TOFT,
    (0.3, 0.05, 0.05, 0.5, 0.3, 0.0),
    (0.5, 0.02, 0.03, -0.4, -0.3, 0.0),
)


def scanned(views, arc, columns, centre, seed=0, photons=2000):
    angles = np.arange(views) * arc / views
    exact = phantom.sinogram(angles, columns, centre, OBJECT, size=columns - 30)
    exact *= 2 / exact.max()
    counts = np.random.default_rng(seed).poisson(photons * np.exp(-exact))
    return -np.log(np.maximum(counts, 0.5) / photons).astype(np.float32), angles


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("views", "arc"), [(120, np.pi), (150, 1.2 * np.pi), (241, 2 * np.pi)])
def test_every_method_finds_it(method, views, arc):
    sinogram, angles = scanned(views, arc, 160, 75.3)
    found = find_centre([sinogram, sinogram], angles, method=method)
    assert abs(found.value - 75.3) < (0.5 if method == "mass" else 0.25)
    assert found.uncertainty < 0.5
    words = {"mirror": "mirrored half turn", "pairs": "opposite views", "mass": "centre of mass"}
    assert found.method == words.get(method, found.method)


def test_methods_that_a_scan_does_not_allow():
    sinogram, angles = scanned(90, 0.8 * np.pi, 128, 63.5)
    for method in ("mirror", "pairs"):
        with pytest.raises(InputError, match="needs half a turn"):
            find_centre(sinogram, angles, method=method)
    with pytest.raises(InputError, match="auto, mirror, pairs, mass"):
        find_centre(sinogram, angles, method="sharpness")


ROWS = [10, 60, 110, 160, 210]


def leaning(degrees, **more):
    centres = 80.2 + np.tan(np.radians(degrees)) * (np.array(ROWS) - 110)
    made = [scanned(120, np.pi, 160, c, seed=i, **more) for i, c in enumerate(centres)]
    return np.stack([sinogram for sinogram, _ in made]), made[0][1]


def test_an_upright_axis():
    check = check_rows(*(lambda s, a: (s, ROWS, a))(*leaning(0)))
    assert check.agree
    assert check.note == ""
    assert check.rows == tuple(ROWS)
    assert abs(check.tilt) < 3 * check.tilt_uncertainty < 0.4
    assert check.centres == pytest.approx([80.2] * 5, abs=0.25)


@pytest.mark.parametrize("degrees", [0.5, -2.0])
def test_a_leaning_axis_is_said_by_how_much(degrees):
    sinograms, angles = leaning(degrees)
    check = check_rows(sinograms, ROWS, angles)
    assert not check.agree
    assert check.tilt == pytest.approx(degrees, abs=0.15)
    assert f"tilted by {abs(check.tilt):.2f}°" in check.note
    drift = 200 * np.tan(np.radians(abs(degrees)))
    assert float(check.note.partition("moves by ")[2].split()[0]) == pytest.approx(drift, abs=0.4)
    assert check.describe()["tilt_degrees"] == check.tilt


def test_one_row_that_is_elsewhere_is_no_tilt():
    sinograms, angles = leaning(0)
    sinograms[2] = np.roll(sinograms[2], 3, axis=1)
    check = check_rows(sinograms, ROWS, angles)
    assert not check.agree
    assert "rows disagree" in check.note
    assert "row 110: 83." in check.note


def test_rows_without_an_object_have_no_say():
    sinograms, angles = leaning(0)
    sinograms[0] = np.nan
    sinograms[1] = 0
    sinograms[4] = np.random.default_rng(0).normal(0, 1, sinograms[4].shape)
    check = check_rows(sinograms, ROWS, angles)
    assert check.rows == (110, 160)
    assert (check.tilt, check.agree) == (None, True)
    alone = check_rows(sinograms[:3], ROWS[:3], angles)
    assert "fewer than two rows" in alone.note
