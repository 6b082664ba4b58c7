"""Lost views are interpolated in angle, whatever their order; too many are left alone."""

from __future__ import annotations

import numpy as np

from hpc_srct.tomography.lost_views import fill_lost_views


def test_between_two_neighbours_in_angle_and_at_the_end():
    rng = np.random.default_rng(0)
    angles = rng.permutation(np.linspace(0, 3, 61))
    columns = np.arange(5.0)
    true = (angles[:, None] * 2 + columns).astype(np.float32)
    sinogram = true.copy()
    middle, end = int(np.argsort(angles)[30]), int(np.argmax(angles))
    sinogram[middle, 2], sinogram[end] = np.inf, np.nan
    assert fill_lost_views([sinogram], angles) == {middle, end}
    np.testing.assert_allclose(sinogram[middle], true[middle], rtol=1e-6)
    np.testing.assert_array_equal(sinogram[end], true[np.argsort(angles)[-2]])


def test_what_is_sound_or_beyond_help_is_left():
    angles = np.linspace(0, 3, 40)
    sound = np.ones((40, 3), np.float32)
    blind = np.full((40, 3), np.nan, np.float32)
    many = sound.copy()
    many[:3] = np.nan
    assert fill_lost_views([sound, blind, many], angles) == set()
    assert np.isnan(blind).all() and np.isnan(many[:3]).all()


def test_numbers_too_great_to_add_are_no_loss():
    angles = np.linspace(0, 3, 40)
    great = np.full((40, 3), 1e38, np.float32)
    assert fill_lost_views([great], angles) == set()
    great[7, 1] = np.nan
    assert fill_lost_views([great], angles) == {7}
    np.testing.assert_array_equal(great, np.float32(1e38))
