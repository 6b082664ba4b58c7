"""Filters and view weights: limits and sums known beforehand."""

import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.tomography.filters import FILTERS, ramp_kernel, transfer, window
from hpc_srct.tomography.geometry import view_weights


def test_ramp_tends_to_the_absolute_frequency_and_vanishes_at_zero():
    gains = transfer("ramp", 4096)
    frequency = np.abs(np.fft.fftfreq(4096))
    assert np.abs(gains - frequency).max() < 1e-3
    # The kernel cut at ±2048 leaves the tail's sum: 2 Σ 1/(π n)² over odd n ≈ 1/(π² · 2048).
    assert 0 < gains[0] < 1 / (np.pi**2 * 2048) * 1.1


def test_kernel_is_even_and_sums_to_nothing():
    n = np.arange(-100001, 100002)
    kernel = ramp_kernel(n)
    np.testing.assert_array_equal(kernel, kernel[::-1])
    assert abs(kernel.sum()) < 2e-6


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("length", [64, 65])
def test_windows_pass_low_and_stop_beyond_the_cutoff(name, length):
    full = window(name, length)
    assert full[0] == pytest.approx(1)
    half = window(name, length, 0.5)
    frequency = np.abs(np.fft.fftfreq(length))
    assert not half[frequency > 0.25].any()
    assert (np.diff(full[: length // 2 + 1]) <= 1e-12).all()
    np.testing.assert_array_equal(full[1:], full[1:][::-1])


@pytest.mark.parametrize(
    "name, at_nyquist",
    [("ramp", 1), ("shepp-logan", 2 / np.pi), ("cosine", 0), ("hamming", 0.08), ("hann", 0)]
    + [("parzen", 0)],
)
def test_windows_at_nyquist(name, at_nyquist):
    assert window(name, 64)[32] == pytest.approx(at_nyquist, abs=1e-12)


def test_wrong_filters_are_named():
    with pytest.raises(InputError, match="hann"):
        window("haan", 8)
    with pytest.raises(InputError, match="cutoff 0"):
        window("ramp", 8, 0)


def test_equal_steps_have_equal_weights_anywhere_and_backwards():
    for start in (0.0, -1.5, 40.0):
        for step in (np.pi / 90, -np.pi / 90):
            np.testing.assert_allclose(view_weights(start + step * np.arange(90)), np.pi / 90)


def test_repeated_views_share_their_arc():
    angles = np.concatenate([np.arange(10) * np.pi / 10, [np.pi, 2 * np.pi - 1e-12]])
    weights = view_weights(angles)
    np.testing.assert_allclose(weights.sum(), np.pi)
    np.testing.assert_allclose(weights[[0, 10, 11]], np.pi / 30)
    np.testing.assert_allclose(weights[1:10], np.pi / 10)


def test_full_turns_count_once():
    np.testing.assert_allclose(view_weights(np.arange(90) * 2 * np.pi / 90), np.pi / 90)
    np.testing.assert_allclose(view_weights(np.arange(91) * 2 * np.pi / 91), np.pi / 91)


def test_irregular_views_get_the_arc_between_their_neighbours():
    angles = np.array([0.0, 0.2, 0.3, 0.5, 0.6, 0.75, 0.9])
    weights = view_weights(angles)
    np.testing.assert_allclose(weights[1:-1], (angles[2:] - angles[:-2]) / 2)
    random = np.random.default_rng(0).uniform(0, np.pi, 200)
    assert view_weights(random).sum() == pytest.approx(np.pi, rel=0.03)


def test_a_missing_wedge_is_not_given_to_its_edges():
    angles = np.radians(np.arange(120))
    np.testing.assert_allclose(view_weights(angles), np.radians(1))


def test_few_views():
    np.testing.assert_allclose(view_weights([0.7]), np.pi)
    np.testing.assert_allclose(view_weights([0.0, np.pi / 2]), np.pi / 2)
    np.testing.assert_allclose(view_weights([0.3, 0.3 + np.pi]), np.pi / 2)
