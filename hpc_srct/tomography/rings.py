"""Ring removal in the sinogram, where a ring is a stripe along the views.

Sorting and all-stripe: the algorithms of Vo, Atwood and Drakopoulos, "Superior techniques for
eliminating ring artifacts in X-ray micro-tomography", Opt. Express 26, 28396 (2018), with the
results of their reference implementation (algotom) and a tenth of its time: a column is sorted
once, with the view's number in the low bits of each value, and the median across columns is a
network of minima and maxima (`median`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray

from hpc_srct.errors import InputError
from hpc_srct.tomography.median import sliding_median

Sinogram = NDArray[np.float32]


def remove_stripes_sorting(sinograms: NDArray, size: int = 21) -> Sinogram:
    """Remove narrow, full stripes by smoothing across sorted columns (Vo 2018, algorithm 3).

    Parameters
    ----------
    sinograms
        (view, column) or (slice, view, column), line integrals.
    size
        Columns in the median's window, odd; wider than the widest stripe to go.

    Returns
    -------
    ndarray, float32
        As the input. A slice with a NaN or an infinity comes back as NaN.

    Raises
    ------
    InputError
        An even window, or an array that is not a sinogram.
    """
    return _each(sinograms, size, lambda sinogram: _remove_by_sorting(sinogram, size))


def remove_stripes_all(
    sinograms: NDArray,
    snr: float = 3.0,
    large: int = 51,
    small: int = 21,
    drop: float = 0.1,
) -> Sinogram:
    """Remove dead, large and narrow stripes (Vo 2018, algorithms 6, 5 and 3 in turn).

    Parameters
    ----------
    sinograms
        (view, column) or (slice, view, column), line integrals.
    snr
        How far a stripe must stand out, above 1; the larger, the fewer are found.
    large, small
        Columns in the median's window, odd, for large and for narrow stripes.
    drop
        Share of each column's highest and lowest values that detection leaves out.

    Returns
    -------
    ndarray, float32
        As the input. A slice with a NaN or an infinity comes back as NaN.
    """
    if large % 2 == 0:
        raise InputError(f"stripe window {large}: expected an odd number of columns.")
    return _each(sinograms, small, lambda sinogram: _remove_all(sinogram, snr, large, small, drop))


def remove_stripes_wavelet(
    sinograms: NDArray, sigma: float = 1.0, level: int = 5, wavelet: str = "db9"
) -> Sinogram:
    """Remove stripes in a wavelet transform's vertical details (Münch et al. 2009).

    B. Münch, P. Trtik, F. Marone and M. Stampanoni, "Stripe and ring artifact removal with
    combined wavelet-Fourier filtering", Opt. Express 17, 8567.

    Parameters
    ----------
    sinograms
        (view, column) or (slice, view, column), line integrals.
    sigma
        Width of the damped band in the Fourier transform along the views: the larger, the
        shorter the stripes that go, and the more of the object with them.
    level
        Number of scales, at most what leaves 16 pixels.
    wavelet
        PyWavelets' name; long ones (db9 and more) keep what they damp to the stripes.

    Returns
    -------
    ndarray, float32
        As the input. A slice with a NaN or an infinity comes back as NaN.

    Raises
    ------
    InputError
        PyWavelets is not installed, or a width or level that is not above 0.
    """
    try:
        import pywt
    except ImportError:
        raise InputError(
            "ring removal by wavelets: PyWavelets is not installed; `pip install PyWavelets`, "
            "or choose the sorting method."
        ) from None
    if not (sigma > 0 and level >= 1):
        raise InputError(f"wavelets: expected sigma > 0 and level >= 1, found {sigma}, {level}.")

    def remove(sinogram: Sinogram) -> Sinogram:
        views, columns = sinogram.shape
        pad = min(150, int(0.1 * min(views, columns)))
        # What stands beyond the views must have no stripe of its own: the column's mean.
        padded = np.pad(sinogram, ((pad, pad), (0, 0)), mode="mean")
        padded = np.pad(padded, ((0, 0), (pad, pad)), mode="edge")
        levels = max(1, min(level, int(np.log2(min(padded.shape) / 16))))
        coarse, *details = pywt.wavedec2(padded, wavelet, level=levels)
        damped = []
        for across, along, diagonal in details:
            spectra = scipy.fft.rfft(along, axis=0)
            band = 1 - np.exp(-(np.arange(len(spectra)) ** 2) / (2 * sigma**2))
            spectra *= band[:, None].astype(np.float32)
            damped.append((across, scipy.fft.irfft(spectra, len(along), axis=0), diagonal))
        found = pywt.waverec2([coarse, *damped], wavelet)
        return found[pad : pad + views, pad : pad + columns]

    return _each(sinograms, 1, remove)


def _each(sinograms: NDArray, size: int, method: Callable[[Sinogram], Sinogram]) -> Sinogram:
    if size < 1 or size % 2 == 0:
        raise InputError(f"stripe window {size}: expected an odd number of columns.")
    sinograms = np.asarray(sinograms, np.float32)
    if sinograms.ndim == 2:
        return _each(sinograms[None], size, method)[0]
    if sinograms.ndim != 3:
        raise InputError(
            f"sinograms: expected (view, column) or (slice, view, column), found {sinograms.shape}."
        )
    out = np.empty_like(sinograms)
    for found, sinogram in zip(out, sinograms, strict=True):
        finite = np.isfinite(sinogram.sum(dtype=np.float64))
        found[:] = method(sinogram) if finite else np.nan
    return out


def _remove_by_sorting(sinogram: Sinogram, size: int) -> Sinogram:
    values, views = _sorted_columns(_turned(sinogram))
    return _turned(_unsorted(sliding_median(values, size), views))


def _remove_all(sinogram: Sinogram, snr: float, large: int, small: int, drop: float) -> Sinogram:
    columns = _turned(sinogram)
    _fill_dead(columns, snr, large)
    values, views = _sorted_columns(columns)
    smooth = sliding_median(values, large)
    # Large stripes: a column's mean against that of its smoothed self, outliers left out.
    count = values.shape[1]
    dropped = int(0.5 * np.clip(drop, 0, 0.8) * count)
    inner = slice(dropped, count - dropped)
    level = values[:, inner].mean(axis=1, dtype=np.float64)
    usual = smooth[:, inner].mean(axis=1, dtype=np.float64)
    factor = np.divide(level, usual, out=np.ones_like(level), where=usual != 0)
    stripes = scipy.ndimage.binary_dilation(find_stripes(factor, snr))
    factor[factor == 0] = 1  # nothing to bring to its neighbours' level
    if (factor < 0).any():
        # A factor that is not positive turns a column's order round: sort what comes of it.
        columns /= factor[:, None].astype(np.float32)
        columns[stripes] = _unsorted(smooth, views)[stripes]
        values, views = _sorted_columns(columns)
    else:
        # Neither a positive factor nor the smoothed values change the order of the views.
        values /= factor[:, None].astype(np.float32)
        values[stripes] = smooth[stripes]
    return _turned(_unsorted(sliding_median(values, small), views))


def _fill_dead(columns: NDArray[np.float32], snr: float, size: int, smoothing: int = 10) -> None:
    """Replace columns that fluctuate or do not respond by their neighbours (algorithm 6)."""
    smooth = scipy.ndimage.uniform_filter1d(columns, smoothing, axis=1)
    np.subtract(columns, smooth, out=smooth)
    restless = np.abs(smooth, out=smooth).sum(axis=1)
    usual = scipy.ndimage.median_filter(restless, size)
    usual[usual == 0] = np.abs(usual).mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.nan_to_num(restless / usual, nan=1.0)
    dead = scipy.ndimage.binary_dilation(find_stripes(factor, snr))
    dead[:2] = dead[-2:] = False
    count = np.count_nonzero(dead)
    if not 0 < count < len(columns) // 3:
        return
    good, bad = np.flatnonzero(~dead), np.flatnonzero(dead)
    right = np.searchsorted(good, bad)
    left, right = good[right - 1], good[right]
    share = ((bad - left) / (right - left)).astype(np.float32)[:, None]
    columns[bad] = columns[left] * (1 - share) + columns[right] * share


def find_stripes(factor: NDArray, snr: float) -> NDArray[np.bool_]:
    """Mark the columns whose factor stands out (Vo 2018, algorithm 4).

    The sorted factors of good columns lie on a line; what leaves it by `snr` times the line's
    rise is a stripe. Where the line does not rise at all (no noise) nothing is marked.
    """
    ordered = np.sort(np.asarray(factor, np.float64))
    count = len(ordered)
    quarter = int(0.25 * count)
    inner = np.arange(count)[quarter : -quarter - 1]
    slope, low = np.polyfit(inner, ordered[quarter : -quarter - 1], 1)
    high = low + slope * (count - 1)
    noise = abs(high - low)
    marked = np.zeros(count, bool)
    if noise < 1e-5:
        return marked
    if abs(ordered[-1] - high) >= snr * noise:
        marked |= factor > high + 0.5 * snr * noise
    if abs(low - ordered[0]) >= snr * noise:
        marked |= factor <= low - 0.5 * snr * noise
    return marked


def _turned(image: NDArray) -> NDArray:
    """Transpose into fresh memory, in strips that stay in the cache."""
    out = np.empty(image.shape[::-1], image.dtype)
    for first in range(0, len(out), 64):
        out[first : first + 64] = image[:, first : first + 64].T
    return out


def _sorted_columns(columns: Sinogram) -> tuple[Sinogram, NDArray[np.int64]]:
    """Sort the values of each column (column, view), and say from which view each came.

    A float32 leaves the 29 low bits of a float64 empty: the view's number rides there, and
    one plain sort does the work of an argsort.
    """
    keys = columns.astype(np.float64)
    bits = keys.view(np.int64)
    bits |= np.arange(columns.shape[1])
    keys.sort(axis=1)
    views = bits & ((1 << 29) - 1)
    return keys.astype(np.float32), views


def _unsorted(values: Sinogram, views: NDArray[np.int64]) -> Sinogram:
    """Put the values of each column back to the views that they came from."""
    out = np.empty_like(values)
    views = views + np.arange(len(values))[:, None] * values.shape[1]
    out.reshape(-1)[views.reshape(-1)] = values.reshape(-1)
    return out
