"""Sums of waves against direct sums, and the filter against padding without end."""

import numpy as np
import pytest
import scipy.fft

from benchmarks import phantom
from hpc_srct.tomography.filters import ramp_kernel
from hpc_srct.tomography.gridding import FBP_WIDTH, PAIR_WIDTH, Gridding, fast_even
from hpc_srct.tomography.nufft import Filter, Lines
from hpc_srct.tomography.scratch import Scratch


@pytest.mark.parametrize("size", [20, 33, 70])
@pytest.mark.parametrize("width, tolerance", [(FBP_WIDTH, 1e-2), (PAIR_WIDTH, 2e-4)])
def test_sums_of_waves_are_direct_sums(size, width, tolerance):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-np.pi, np.pi, (2, 60))
    a[:5], b[3:8] = 0, 0  # on the grid's lines
    a[8:10], b[9:11] = np.pi - 1e-9, 1e-9 - np.pi  # at the grid's ends
    c = (rng.standard_normal((60, 2)) + 1j * rng.standard_normal((60, 2))).astype(np.complex64)
    found = np.empty((4, size, size), np.float32)
    Gridding([(a[:20], b[:20]), (a[20:], b[20:])], size, width).to_images(c, found, Scratch())
    m = np.arange(size) - size // 2
    waves = np.exp(1j * np.outer(a, m)), np.exp(1j * np.outer(b, m))
    exact = np.einsum("pk,pm,pn->kmn", c, *waves)
    packed = found[0::2] + 1j * found[1::2]
    for k in range(2):
        scale = np.linalg.norm(c[:, k]) * size
        assert np.linalg.norm(packed[k] - exact[k]) < tolerance * scale


@pytest.mark.parametrize("pairs", [1, 2, 4])
@pytest.mark.parametrize("width", [FBP_WIDTH, PAIR_WIDTH])
def test_from_images_is_the_transpose_to_rounding(pairs, width):
    rng = np.random.default_rng(1)
    gridding, scratch = Gridding([rng.uniform(-np.pi, np.pi, (2, 300))], 24, width), Scratch()
    c = rng.standard_normal((300, 2 * pairs)).astype(np.float32).view(np.complex64)
    images = rng.standard_normal((2 * pairs, 24, 24)).astype(np.float32)
    there, back = np.empty_like(images), np.empty_like(c)
    gridding.to_images(c, there, scratch)
    gridding.from_images(images, back, scratch)
    for k in range(pairs):
        (x, y), (u, v) = images[2 * k : 2 * k + 2], there[2 * k : 2 * k + 2]
        error = np.vdot(x + 1j * y, u + 1j * v) - np.vdot(back[:, k], c[:, k])
        assert abs(error) < 1e-5 * np.linalg.norm(x + 1j * y) * np.linalg.norm(u + 1j * v)


def test_side_by_side_or_alone_the_bits_are_the_same():
    rng = np.random.default_rng(2)
    gridding, scratch = Gridding([rng.uniform(-np.pi, np.pi, (2, 500))], 41, 4), Scratch()
    c = rng.standard_normal((500, 8)).astype(np.float32).view(np.complex64)
    together, waves = np.empty((8, 41, 41), np.float32), np.empty_like(c)
    gridding.to_images(c, together, scratch)
    gridding.from_images(together, waves, scratch)
    for k in range(4):
        alone, back = np.empty((2, 41, 41), np.float32), np.empty((500, 1), np.complex64)
        gridding.to_images(np.ascontiguousarray(c[:, k : k + 1]), alone, scratch)
        np.testing.assert_array_equal(alone, together[2 * k : 2 * k + 2])
        gridding.from_images(alone, back, scratch)
        np.testing.assert_array_equal(back[:, 0], waves[:, k])


@pytest.mark.parametrize("width", [FBP_WIDTH, PAIR_WIDTH])
@pytest.mark.parametrize("size", [2, 31, 64, 101])
def test_no_neighbour_lies_outside_its_strip(size, width):
    """The compiled loops do not look: what is outside would be another's memory."""
    rng = np.random.default_rng(size)
    ends = np.array([-np.pi, np.pi, np.nextafter(-np.pi, 0), np.nextafter(np.pi, 0), 0, -1e-9])
    a, b = (np.concatenate([rng.uniform(-np.pi, np.pi, 5000), rng.permutation(ends)]) for _ in "ab")
    gridding = Gridding([(a, b)], size, width)
    rows, stride, _ = gridding._strip_shape(1)
    order = gridding._order
    assert order.starts[0] == 0
    assert order.starts[-1] == len(order.sources)
    assert np.unique(order.sources).size == len(a)
    row, column = np.divmod(order.places, stride)
    assert row.min() >= 0
    assert row.max() + width <= rows
    assert column.max() + width <= stride


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
