"""Sums of waves against direct sums, and the filter against padding without end."""

import numpy as np
import pytest
import scipy.fft

from benchmarks import phantom
from hpc_srct.tomography.filters import ramp_kernel
from hpc_srct.tomography.gridding import Gridding, fast_even, off_the_grid
from hpc_srct.tomography.nufft import Filter, Lines


@pytest.mark.parametrize("size", [20, 33])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_sums_of_waves_are_direct_sums(size, tolerance):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-np.pi, np.pi, (2, 60)).astype(np.float32)
    a[:5], b[3:8] = 0, 0  # on the grid's lines
    c = (rng.standard_normal(60) + 1j * rng.standard_normal(60)).astype(np.complex64)
    found = np.empty((2, size, size), np.float32)
    Gridding(off_the_grid((a, b), size), size).to_images(c, found, tolerance)
    m = np.arange(size) - size // 2
    exact = np.einsum("p,pm,pn->mn", c, np.exp(1j * np.outer(a, m)), np.exp(1j * np.outer(b, m)))
    scale = np.linalg.norm(c) * size
    assert np.linalg.norm(found[0] + 1j * found[1] - exact) < 5 * tolerance * scale


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_from_images_is_the_transpose_to_rounding(tolerance):
    rng = np.random.default_rng(1)
    a, b = rng.uniform(-np.pi, np.pi, (2, 300)).astype(np.float32)
    gridding = Gridding((a, b), 24)
    c = (rng.standard_normal(300) + 1j * rng.standard_normal(300)).astype(np.complex64)
    images = rng.standard_normal((2, 24, 24)).astype(np.float32)
    there, back = np.empty((2, 24, 24), np.float32), np.empty(300, np.complex64)
    gridding.to_images(c, there, tolerance)
    gridding.from_images(images, back, tolerance)
    left = np.vdot(images[0] + 1j * images[1], there[0] + 1j * there[1])
    assert abs(left - np.vdot(back, c)) < 1e-5 * np.linalg.norm(images) * np.linalg.norm(there)


def test_even_lengths_are_quick():
    for n in (7, 64, 101, 2497):
        length = fast_even(n)
        assert length >= n
        assert length % 2 == 0
        assert length == scipy.fft.next_fast_len(length, real=False)


@pytest.mark.parametrize("columns", [100, 301, 640])
@pytest.mark.parametrize("kind", ["phantom", "noise", "even"])
def test_filter_is_the_linear_convolution(columns, kind):
    """The lines are hardly longer than the detector; the answer is that of 8-fold padding."""
    angles = np.arange(6) * 0.5
    views = {
        "phantom": phantom.sinogram(angles, columns),
        "noise": np.random.default_rng(0).standard_normal((6, columns)).astype(np.float32),
        "even": np.ones((6, columns), np.float32),
    }[kind]
    lines = Lines(angles, columns, (columns - 1) / 2, columns)
    weights = np.full(6, 0.7)
    rows = np.zeros((6, lines.samples), np.complex64)
    rows[:, lines.detector] = views
    waves = Filter(lines, weights, "ramp", 1.0).apply(rows, lines.detector)
    with np.errstate(invalid="ignore", divide="ignore"):
        waves = np.where(lines.phase != 0, waves / (lines.phase * 0.7), 0)
    found = np.fft.ifft(waves, axis=1)[:, lines.detector]
    distance = np.arange(columns)[:, None] - np.arange(columns)
    exact = views @ ramp_kernel(distance)
    # The lines leave Nyquist out: a ripple of one height in each view.
    error, ripple = exact - found, (-1.0) ** np.arange(columns)
    error -= (error * ripple).mean(axis=1, keepdims=True) * ripple
    assert np.abs(error).max() < 1e-3 * np.abs(exact).max()


def test_a_tail_left_out_would_show():
    """The same without the tail misses by far more than the test above allows."""
    lines = Lines(np.zeros(1), 640, 319.5, 640)
    filtering = Filter(lines, np.ones(1), "ramp", 1.0)
    rows = np.zeros((1, lines.samples), np.complex64)
    rows[:, lines.detector] = phantom.sinogram(np.zeros(1), 640)
    whole = filtering.apply(rows.copy(), lines.detector)
    filtering.tail = None
    assert np.abs(whole - filtering.apply(rows, lines.detector)).max() > 3e-3 * np.abs(whole).max()
