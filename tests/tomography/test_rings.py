"""Ring removal: the median's network, the algorithms against plain ones, and what is left."""

import numpy as np
import pytest
import scipy.ndimage

from benchmarks import phantom
from hpc_srct.errors import InputError
from hpc_srct.tomography import rings
from hpc_srct.tomography.median import median_of, program, sliding_median


def without_ties(sinogram):
    """Spread the values of each column: equal ones may be put back in either order."""
    order = np.argsort(np.argsort(sinogram, axis=0), axis=0)
    spread = sinogram.astype(np.float64) + 2e-6 * order
    return spread.astype(np.float32)


def striped(views=360, columns=200, seed=0):
    rng = np.random.default_rng(seed)
    angles = np.arange(views) * np.pi / views
    clean = phantom.sinogram(angles, columns, size=columns - 40)
    clean *= 2 / clean.max()
    clean = clean + rng.normal(0, 0.03, clean.shape)
    dirty = clean.copy()
    dirty += rng.normal(0, 0.02, columns) * (rng.random(columns) < 0.2)
    dirty[:, 100:108] += 0.1
    dirty[:, 60] = dirty[:, 60].mean() + rng.normal(0, 0.5, views)
    dirty[:, 150] = 0.4
    return without_ties(dirty), clean.astype(np.float32)


@pytest.mark.parametrize("length", [1, 3, 5, 7, 9, 11, 21, 51])
@pytest.mark.parametrize("rows, places", [(60, 7), (101, 1)])
def test_sliding_median_is_scipys(length, rows, places):
    image = np.random.default_rng(length).standard_normal((rows, places)).astype(np.float32)
    expected = scipy.ndimage.median_filter(image, (length, 1), mode="reflect")
    np.testing.assert_array_equal(sliding_median(image, length), expected)


def test_sliding_median_keeps_nan_to_the_windows_that_hold_it():
    image = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    image[20, 1] = np.nan
    found = sliding_median(image, 5)
    np.testing.assert_array_equal(np.argwhere(np.isnan(found)), [[i, 1] for i in range(18, 23)])


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_median_of_arrays_is_numpys(count):
    images = np.random.default_rng(count).standard_normal((count, 6, 7)).astype(np.float32)
    np.testing.assert_allclose(median_of(images), np.median(images, axis=0), rtol=1e-6)


def test_median_network_is_short():
    """Per window far fewer steps than the n² of comparing all with all."""
    assert len(program(21).steps) / program(21).group < 30
    assert len(program(51).steps) / program(51).group < 55
    with pytest.raises(InputError, match="window 4"):
        sliding_median(np.zeros((9, 9), np.float32), 4)


def plain_sorting(sinogram, size):
    order = np.argsort(sinogram, axis=0)
    smooth = scipy.ndimage.median_filter(np.take_along_axis(sinogram, order, 0), (1, size))
    out = np.empty_like(sinogram)
    np.put_along_axis(out, order, smooth, 0)
    return out


@pytest.mark.parametrize("size", [5, 21])
def test_sorting_is_sort_median_unsort(size):
    dirty, _ = striped()
    np.testing.assert_array_equal(
        rings.remove_stripes_sorting(dirty, size), plain_sorting(dirty, size)
    )
    np.testing.assert_array_equal(
        rings.remove_stripes_sorting(-dirty, size), plain_sorting(-dirty, size)
    )


def test_same_as_algotom():
    removal = pytest.importorskip(
        "algotom.prep.removal", reason="algotom is not there (extra: peers)"
    )
    for seed in range(3):
        dirty, _ = striped(seed=seed)
        scale = np.ptp(dirty)
        found = rings.remove_stripes_sorting(dirty)
        expected = removal.remove_stripe_based_sorting(dirty)
        np.testing.assert_allclose(found, expected, atol=1e-4 * scale)
        found = rings.remove_stripes_all(dirty)
        np.testing.assert_allclose(found, removal.remove_all_stripe(dirty), atol=1e-4 * scale)


def test_all_stripe_is_its_parts_in_turn():
    """One sort serves two steps: the answer is that of sorting anew."""
    dirty, _ = striped()
    columns = np.ascontiguousarray(dirty.T)
    rings._fill_dead(columns, 3.0, 51)
    sinogram = columns.T
    order = np.argsort(sinogram, axis=0)
    ordered = np.take_along_axis(sinogram, order, 0)
    smooth = scipy.ndimage.median_filter(ordered, (1, 51))
    drop = int(0.05 * len(sinogram))
    factor = ordered[drop:-drop].astype(float).mean(0) / smooth[drop:-drop].astype(float).mean(0)
    stripes = scipy.ndimage.binary_dilation(rings.find_stripes(factor, 3.0))
    assert 3 < stripes.sum() < 60
    put_back = np.empty_like(sinogram)
    np.put_along_axis(put_back, order, smooth, 0)
    normalised = np.where(stripes, put_back, sinogram / factor).astype(np.float32)
    np.testing.assert_allclose(
        rings.remove_stripes_all(dirty), plain_sorting(normalised, 21), atol=2e-6 * np.ptp(dirty)
    )


def test_stripes_go_and_the_object_stays():
    dirty, clean = striped()

    def stripes(sinogram):
        return np.std(np.diff((sinogram - clean).mean(axis=0)))

    before = stripes(dirty)
    assert stripes(rings.remove_stripes_sorting(dirty)) < 0.5 * before
    assert stripes(rings.remove_stripes_all(dirty)) < 0.25 * before
    untouched = rings.remove_stripes_all(without_ties(clean))
    assert np.sqrt(np.mean((untouched - clean) ** 2)) < 0.04 * np.ptp(clean)


def test_dead_columns_are_filled_from_their_neighbours():
    dirty, clean = striped()
    columns = np.ascontiguousarray(dirty.T)
    rings._fill_dead(columns, 3.0, 51)
    for dead in (60, 150):
        assert np.abs(columns[dead] - clean[:, dead]).mean() < 0.1
        assert np.abs(dirty[:, dead] - clean[:, dead]).mean() > 0.3


@pytest.mark.parametrize("level", [0.0, -0.5])
def test_columns_at_and_below_zero_stay_numbers(level):
    dirty, _ = striped()
    dirty[:, 120:123] = level
    dirty = without_ties(dirty)
    dirty[:, 30:33] = 0
    assert np.isfinite(rings.remove_stripes_all(dirty)).all()


def test_nothing_is_found_in_a_line_without_noise():
    assert not rings.find_stripes(np.ones(100), 3.0).any()
    factor = 1 + 0.01 * np.random.default_rng(0).standard_normal(100)
    factor[40] = 2
    np.testing.assert_array_equal(np.flatnonzero(rings.find_stripes(factor, 3.0)), [40])


@pytest.mark.parametrize("method", [rings.remove_stripes_sorting, rings.remove_stripes_all])
def test_batches_nan_and_input_kept(method):
    dirty = np.stack([striped(seed=s)[0] for s in range(3)])
    spoilt = dirty.copy()
    spoilt[1, 3, 4] = np.nan
    before = spoilt.copy()
    found = method(spoilt)
    np.testing.assert_array_equal(spoilt, before)
    assert np.isnan(found[1]).all()
    for i in (0, 2):
        np.testing.assert_array_equal(found[i], method(dirty[i]))
    with pytest.raises(InputError, match="odd"):
        method(dirty, small=4) if method is rings.remove_stripes_all else method(dirty, 4)


def test_wavelets_damp_stripes_and_leave_the_rest():
    pytest.importorskip("pywt", reason="PyWavelets is not installed")
    rng = np.random.default_rng(0)
    angles = np.arange(200) * np.pi / 200
    clean = phantom.sinogram(angles, 200, size=160)
    clean *= 2 / clean.max()
    stripes = rng.normal(0, 0.05, 200)
    found = rings.remove_stripes_wavelet(clean + stripes, sigma=2)
    # Stripes next to each other: what is broad is the coarsest scale's, and stays.
    left = np.std(np.diff((found - clean).mean(axis=0)))
    assert left < 0.35 * np.std(np.diff(stripes))
    # What varies along the views faster than the band passes.
    fast = np.cos(np.arange(200) * np.pi / 4)[:, None] * np.ones(200)
    passed = rings.remove_stripes_wavelet(fast)
    assert np.abs(passed - fast)[20:-20].max() < 0.02


def test_wavelets_missing_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pywt", None)
    with pytest.raises(InputError, match="PyWavelets is not installed"):
        rings.remove_stripes_wavelet(np.zeros((32, 32), np.float32))
