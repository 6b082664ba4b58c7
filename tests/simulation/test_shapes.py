"""Line integrals and pixel averages, against numerical quadrature and against each other."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_srct.simulation.shapes import Ellipses, Gaussians, line_integrals, pixel_means

ANGLES = np.deg2rad([0.0, 17.0, 45.0, 90.0, 133.3, 180.0, 271.0])
SIZE = 64
CENTRE = (SIZE - 1) / 2


def ellipses():
    """A large one, a thin tilted one over it, one that lies half off the image."""
    return Ellipses(
        x=np.array([1.3, -6.2, 30.0]),
        y=np.array([-2.1, 9.7, 3.0]),
        a=np.array([20.5, 11.0, 7.0]),
        b=np.array([13.25, 0.8, 5.0]),
        tilt=np.array([0.4, 2.2, -0.3]),
        density=np.array([1.0, -0.6, 0.5]),
    )


def gaussians():
    return Gaussians(
        np.array([-5.5, 12.0]), np.array([3.2, -8.0]), np.array([4.0, 1.2]), np.array([0.3, -0.2])
    )


def density_at(shape, x, y):
    """Evaluate a shape point by point: the definition, nothing shared with the code tested."""
    total = np.zeros(np.broadcast(x, y).shape)
    if isinstance(shape, Ellipses):
        rows = zip(shape.x, shape.y, shape.a, shape.b, shape.tilt, shape.density, strict=True)
        for x0, y0, a, b, tilt, density in rows:
            u = (x - x0) * np.cos(tilt) + (y - y0) * np.sin(tilt)
            v = -(x - x0) * np.sin(tilt) + (y - y0) * np.cos(tilt)
            total += density * ((u / a) ** 2 + (v / b) ** 2 <= 1)
    else:
        for x0, y0, sigma, density in zip(
            shape.x, shape.y, shape.sigma, shape.density, strict=True
        ):
            total += density * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))
    return total


@pytest.mark.parametrize("shape", [ellipses(), gaussians()], ids=["ellipses", "gaussians"])
def test_line_integrals_against_quadrature(shape):
    t = np.arange(-60, 60, 0.002) + 0.001
    integrals = line_integrals([shape], ANGLES, SIZE, CENTRE, samples=3)
    for view, angle in enumerate(ANGLES):
        for ray in range(4, 3 * SIZE, 13):
            s = (ray + 0.5) / 3 - 0.5 - CENTRE
            x = s * np.cos(angle) - t * np.sin(angle)
            y = s * np.sin(angle) + t * np.cos(angle)
            expected = density_at(shape, x, y).sum() * 0.002
            assert integrals[view, ray] == pytest.approx(expected, abs=6e-3)


@pytest.mark.parametrize("shape", [ellipses(), gaussians()], ids=["ellipses", "gaussians"])
def test_pixel_means_against_fine_sampling(shape):
    fine = 32
    grid = (np.arange(SIZE * fine) + 0.5) / fine - SIZE / 2
    expected = density_at(shape, grid[None, :], -grid[:, None])
    expected = expected.reshape(SIZE, fine, SIZE, fine).mean(axis=(1, 3))
    means = pixel_means([shape], SIZE, samples=8)
    # Edges along a sample line are found to half a line: 1/16 of a pixel, here 1/64 as well.
    assert np.abs(means - expected).max() < 1 / 16 + 1 / 64
    assert np.abs(means - expected).mean() < 5e-4


def test_every_view_has_the_mass_of_the_image():
    inner = Ellipses(*(getattr(ellipses(), n)[:2] for n in ("x", "y", "a", "b", "tilt", "density")))
    shapes = [inner, gaussians()]
    mass = line_integrals(shapes, ANGLES, SIZE, CENTRE, samples=16).sum(axis=1) / 16
    np.testing.assert_allclose(mass, pixel_means(shapes, SIZE, 16).sum(), rtol=2e-4)
    area = np.pi * (inner.a * inner.b * inner.density).sum()
    blobs = 2 * np.pi * (gaussians().sigma ** 2 * gaussians().density).sum()
    np.testing.assert_allclose(mass, area + blobs, rtol=2e-4)


def test_chord_of_a_disc():
    disc = Ellipses(*np.array([[0.0], [0.0], [10.0], [10.0], [0.0], [0.02]]))
    integrals = line_integrals([disc], ANGLES, 41, 20.0)
    np.testing.assert_allclose(integrals[:, 20], 0.4, rtol=1e-12)
    np.testing.assert_allclose(integrals[:, 26], 0.02 * 2 * 8, rtol=1e-12)
    assert (integrals[:, :10] == 0).all()
    assert pixel_means([disc], 41)[20, 20] == pytest.approx(0.02, rel=1e-12)


def test_geometry_is_the_projects():
    """A point at (x, y), y upwards, falls on x·cosθ + y·sinθ + centre."""
    point = Gaussians(np.array([10.0]), np.array([4.0]), np.array([1.0]), np.array([1.0]))
    image = pixel_means([point], 65)
    assert np.unravel_index(image.argmax(), image.shape) == (32 - 4, 32 + 10)
    integrals = line_integrals([point], ANGLES, 65, 30.5)
    u = integrals @ np.arange(65) / integrals.sum(axis=1)
    np.testing.assert_allclose(u, 10 * np.cos(ANGLES) + 4 * np.sin(ANGLES) + 30.5, atol=1e-6)


def test_shapes_off_the_detector_are_cut_not_wrapped():
    far = Ellipses(*np.array([[40.0], [0.0], [6.0], [3.0], [0.5], [1.0]]))
    integrals = line_integrals([far], np.array([0.0]), SIZE, CENTRE)
    assert (integrals == 0).all()
    partly = line_integrals([ellipses()], np.array([0.0]), SIZE, CENTRE)
    wide = line_integrals([ellipses()], np.array([0.0]), SIZE + 40, CENTRE + 20)
    np.testing.assert_allclose(partly, wide[:, 20:-20], atol=1e-12)
    wide = pixel_means([ellipses()], SIZE + 40)
    np.testing.assert_allclose(pixel_means([ellipses()], SIZE), wide[20:-20, 20:-20], atol=1e-12)


def test_half_a_turn_mirrors():
    one, other = line_integrals([ellipses()], np.array([0.3, 0.3 + np.pi]), SIZE, CENTRE)
    np.testing.assert_allclose(one, other[::-1], atol=1e-9)
