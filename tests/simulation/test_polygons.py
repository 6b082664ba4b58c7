"""Polygons and painting, against quadrature, against ellipses and against what they claim."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_srct.settings.simulation import SimulationSettings
from hpc_srct.simulation.polygons import (
    Painting,
    Polygons,
    clip,
    convex_sectors,
    counter_clockwise,
    signed_area,
)
from hpc_srct.simulation.shapes import Ellipses, line_integrals, pixel_means
from hpc_srct.simulation.tooth import draw_tooth

ANGLES = np.deg2rad([0.0, 17.0, 45.0, 90.0, 133.3, 180.0, 271.0])
SIZE = 64
CENTRE = (SIZE - 1) / 2
SQUARE = np.array([[-10.0, -10.0], [10.0, -10.0], [10.0, 10.0], [-10.0, 10.0]])
# A horseshoe: not convex, and rays cross it up to four times.
SHOE = np.array(
    [[-20, -15], [18, -15], [18, 14], [9, 14], [8, -6], [-9, -5], [-8, 16], [-20, 13]], float
)


def inside(outline, x, y):
    """Count crossings to the right: the definition, nothing shared with the code tested."""
    odd = np.zeros(np.broadcast(x, y).shape, bool)
    for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if y1 != y2:
            odd ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return odd


@pytest.mark.parametrize("angle", [0.1, 0.9, 1.7, 3.0, 4.4])
def test_line_integrals_of_a_horseshoe_against_quadrature(angle):
    shape = Polygons([SHOE, SQUARE + 3.3], [1.0, -0.4])
    t = np.arange(-50, 50, 0.002) + 0.001
    integrals = line_integrals([shape], np.array([angle]), SIZE, CENTRE, samples=2)[0]
    for ray in range(3, 2 * SIZE, 7):
        s = (ray + 0.5) / 2 - 0.5 - CENTRE
        x, y = s * np.cos(angle) - t * np.sin(angle), s * np.sin(angle) + t * np.cos(angle)
        expected = (inside(SHOE, x, y) - 0.4 * inside(SQUARE + 3.3, x, y)).sum() * 0.002
        assert integrals[ray] == pytest.approx(expected, abs=0.012)


@pytest.mark.parametrize("quarter", range(4))
def test_edges_along_the_rays(quarter):
    """A square seen square on: its sides run along the rays, and no slope exists."""
    integrals = line_integrals([Polygons([SQUARE], [0.5])], np.array([quarter * np.pi / 2]), 41, 20)
    covered = np.abs(np.arange(41) - 20) < 10
    np.testing.assert_allclose(integrals[0, covered], 10.0, rtol=1e-9)
    assert np.abs(integrals[0, np.abs(np.arange(41) - 20) > 10]).max() < 1e-9


def test_many_corners_make_a_disc():
    angles = 2 * np.pi * np.arange(4000) / 4000
    circle = 17.3 * np.stack((np.cos(angles), np.sin(angles)), axis=1) + (2.2, -3.1)
    polygon = Polygons([circle], [0.7])
    disc = Ellipses(*np.array([[2.2], [-3.1], [17.3], [17.3], [0.0], [0.7]]))
    one, other = (line_integrals([s], ANGLES, SIZE, CENTRE, 4) for s in (polygon, disc))
    np.testing.assert_allclose(one, other, atol=0.02)
    np.testing.assert_allclose(pixel_means([polygon], SIZE), pixel_means([disc], SIZE), atol=1e-3)


def test_pixel_means_of_a_horseshoe_against_fine_sampling():
    fine = 32
    grid = (np.arange(SIZE * fine) + 0.5) / fine - SIZE / 2
    expected = inside(SHOE, grid[None, :], -grid[:, None]).astype(float)
    expected = expected.reshape(SIZE, fine, SIZE, fine).mean(axis=(1, 3))
    means = pixel_means([Polygons([SHOE], [1.0])], SIZE)
    assert np.abs(means - expected).max() < 1 / 16 + 1 / 64
    assert means.sum() == pytest.approx(signed_area(SHOE), rel=1e-3)


def test_polygons_beyond_the_image_are_cut_not_wrapped():
    shape = Polygons([SHOE + (25, -20)], [1.0])
    wide = line_integrals([shape], ANGLES, SIZE + 60, CENTRE + 30)
    np.testing.assert_allclose(
        line_integrals([shape], ANGLES, SIZE, CENTRE), wide[:, 30:-30], atol=1e-9
    )
    wide = pixel_means([shape], SIZE + 60)
    np.testing.assert_allclose(pixel_means([shape], SIZE), wide[30:-30, 30:-30], atol=1e-9)


def test_orientation_is_the_sign():
    assert signed_area(SQUARE) == 400
    assert signed_area(SQUARE[::-1]) == -400
    assert signed_area(counter_clockwise(SQUARE[::-1])) == 400


def test_clip_keeps_what_is_inside_both():
    assert signed_area(clip(SQUARE, SQUARE + (5, 4))) == pytest.approx(15 * 16)
    assert len(clip(SQUARE, SQUARE + 30)) < 3
    np.testing.assert_array_equal(clip(SQUARE, 2 * SQUARE), SQUARE)


def test_clip_that_falls_apart_has_the_right_area_and_chords():
    """A bar across the horseshoe's two legs."""
    bar = np.array([[-25.0, 2.0], [25.0, 2.0], [25.0, 6.0], [-25.0, 6.0]])
    parts = clip(SHOE, bar)
    x, y = np.meshgrid(np.arange(-25, 25, 0.01) + 0.005, np.arange(2, 6, 0.01) + 0.005)
    assert signed_area(parts) == pytest.approx(inside(SHOE, x, y).sum() * 1e-4, rel=1e-3)
    between = line_integrals([Polygons([parts], [1.0])], np.array([0.0]), SIZE, CENTRE)
    assert np.abs(between[0, 30:34]).max() < 1e-9


def test_painting_multiplies_stroke_upon_stroke():
    painting = Painting(3 * SQUARE)
    painting.multiply(SQUARE, 0.5)
    painting.multiply(SQUARE + (8, 0), 0.0)
    painting.multiply(SQUARE + (4, 8), 2.0)
    image = pixel_means([painting.polygons()], SIZE)

    def at(x, y):
        return image[int(SIZE / 2 - y), int(SIZE / 2 + x)]

    assert at(25, 25) == pytest.approx(1)
    assert at(-5, -5) == pytest.approx(0.5)
    assert at(5, -5) == pytest.approx(0, abs=1e-12)
    assert at(5, 5) == pytest.approx(0, abs=1e-12)
    assert at(-3, 5) == pytest.approx(1.0)
    assert at(0.5, 14) == pytest.approx(2)
    assert at(31.5, 0.5) == pytest.approx(0, abs=1e-12)


def test_a_star_is_painted_once_everywhere():
    """The triangles of the fan share their sides: no seam, no double stroke."""
    centre = np.array([0.37, -0.21])
    painting = Painting(2.5 * SQUARE)
    painting.multiply_star(centre, SHOE[[0, 1, 2]] * 0.5, 0.25)
    image = pixel_means([painting.polygons()], SIZE)
    expected = pixel_means([Polygons([2.5 * SQUARE, SHOE[[0, 1, 2]] * 0.5], [1, -0.75])], SIZE)
    np.testing.assert_allclose(image, expected, atol=1e-9)


def test_sectors_are_convex_and_make_up_the_star():
    angles = 2 * np.pi * np.arange(40) / 40
    radii = 10 * (1 + 0.3 * np.cos(3 * angles) + 0.1 * np.sin(7 * angles))
    star = np.stack((radii * np.cos(angles), radii * np.sin(angles)), axis=1) + (1, 2)
    sectors = list(convex_sectors(np.array([1.0, 2.0]), star))
    assert len(sectors) < 25
    assert sum(map(signed_area, sectors)) == pytest.approx(signed_area(star))
    for sector in sectors:
        steps = np.roll(sector, -1, axis=0) - sector
        after = np.roll(steps, -1, axis=0)
        assert (steps[:, 0] * after[:, 1] - steps[:, 1] * after[:, 0] > -1e-9).all()


def test_strokes_stay_in_the_body():
    painting = Painting(SQUARE)
    painting.multiply(SQUARE + (15, 0), 3.0)
    image = pixel_means([painting.polygons()], SIZE)
    assert image.sum() == pytest.approx(400 + 2 * 5 * 20)
    assert np.abs(image[:, SIZE // 2 + 11 :]).max() < 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_tooth_is_a_possible_object(seed):
    settings = SimulationSettings(phantom="tooth", size=160, object_size=(0.5, 0.7))
    shapes = draw_tooth(np.random.default_rng(seed), settings)
    image = pixel_means(shapes, 160)
    assert image.min() > -1e-9
    assert 0.9 < np.percentile(image[image > 0.3], 99) < 2.5
    assert 0.05 < (image > 0.3).mean() < 0.4
    mass = line_integrals(shapes, ANGLES, 160, 79.5, samples=8).sum(axis=1) / 8
    np.testing.assert_allclose(mass, image.sum(), rtol=2e-3)
    ends = line_integrals(shapes, ANGLES, 160, 79.5)[:, [0, -1]]
    assert np.abs(ends).max() < 1e-6
