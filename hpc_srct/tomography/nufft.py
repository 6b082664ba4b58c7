"""The CPU engine: views and slices joined by the Fourier slice theorem.

The transform of a projection along s is the slice's 2-D transform on a line, so a
back-projection is a sum of waves at the points of those lines and a forward projection its
transpose (`gridding`). What depends on the geometry alone is computed once and shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hpc_srct.tomography.filters import ramp_kernel, window
from hpc_srct.tomography.gridding import (
    FBP_WIDTH,
    PAIR_WIDTH,
    PAIRS,
    Gridding,
    fast_even,
    pairs_for,
)
from hpc_srct.tomography.scratch import Scratch

Slices = NDArray[np.float32]
# Views filtered together: few enough to stay in the processor's cache.
VIEWS = 4

# How finely the filter's far tail is followed: bins of the detector, and waves.
TAIL_BINS, TAIL_WAVES = 128, 32


class Lines:
    """The lines in Fourier space that a set of views samples: points and phases.

    Parameters
    ----------
    angles
        (views,), radians.
    columns
        Detector pixels.
    centre
        Detector coordinate of the rotation axis.
    size
        Pixels on a side of the slice.
    """

    def __init__(self, angles: NDArray[np.float64], columns: int, centre: float, size: int):
        self.views, self.columns, self.size = len(angles), columns, size
        # A detector pixel and a point of the slice may be this far apart along s before the
        # periodic transform brings one back beside the other; then nothing wraps.
        reach = max(centre, columns - 1 - centre) + size / np.sqrt(2) + 2
        # Short detectors can afford to be padded until the filter has no tail beyond.
        least = 2 * columns if columns < TAIL_BINS else columns + 2
        self.samples = fast_even(int(np.ceil(max(reach, least))))
        self.margin = (self.samples - columns) // 2
        self._angles = angles
        # Even sizes have their centre between pixels, half a pixel off the transform's origin.
        half = 0.5 if size % 2 == 0 else 0.0
        delays = half * (np.cos(angles) - np.sin(angles)) + self.margin + centre
        self.phase = np.empty((self.views, self.samples), np.complex64)
        for some in _some_views(self.views, 64):
            np.divide(_turns(delays[some], self.samples), self.samples, out=self.phase[some])
        frequency = np.fft.fftfreq(self.samples)
        # The Nyquist sample has no partner to make a slice real: kept, it leaks into the other
        # slice of a packed pair.
        self.phase[:, np.abs(frequency) == 0.5] = 0

    def points(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Give the samples' angular frequencies along y and along x, some views at a time."""
        for _, (down, along) in self._by_views():
            yield down.ravel(), along.ravel()

    def _by_views(self) -> Iterator[tuple[slice, tuple[NDArray, NDArray]]]:
        omega = 2 * np.pi * np.fft.fftfreq(self.samples)
        for some in _some_views(self.views, 64):
            angles = self._angles[some, None]
            yield some, (-np.sin(angles) * omega, np.cos(angles) * omega)

    @property
    def detector(self) -> slice:
        """Where the detector lies among the samples of a line."""
        return slice(self.margin, self.margin + self.columns)


def _turns(delays: NDArray[np.float64], samples: int) -> NDArray[np.complex128]:
    """Give exp(i ω delay), (view, sample), at the angular frequencies ω of an FFT's outputs.

    They are powers of one number, k = coarse · step + fine: the product of two short tables.
    """
    step = int(np.sqrt(samples))
    once = 2j * np.pi / samples * delays[:, None]
    powers = np.arange(-(-samples // step)) * step - samples // 2
    coarse, fine = np.exp(once * powers), np.exp(once * np.arange(step))
    all_powers = (coarse[:, :, None] * fine[:, None]).reshape(len(delays), -1)[:, :samples]
    return np.fft.ifftshift(all_powers, axes=1)


class Filter:
    """A ramp filter on the samples of a line, as if they were padded without end.

    The line is hardly longer than the detector, so that the filter's kernel, cut to it, lacks
    its far tail and has the near one come round from the other side. What that makes is smooth:
    it is followed in bins of the detector and given back in a few low waves, which costs less
    than padding to twice the detector (three longer FFTs).

    Parameters
    ----------
    lines
        The geometry.
    weights
        (views,), the views' arcs.
    name, cutoff
        As for `filters.window`.
    """

    def __init__(self, lines: Lines, weights: NDArray, name: str, cutoff: float):
        samples, columns = lines.samples, lines.columns
        apodised = window(name, samples, cutoff)
        distance = np.fft.fftfreq(samples, 1 / samples).round()
        gains = np.fft.fft(ramp_kernel(distance)).real * apodised
        # A product in double precision of all lines would be the largest thing in memory.
        self.gains = lines.phase * np.float32(weights)[:, None]
        self.gains *= np.float32(gains)
        self.tail: NDArray[np.complex64] | None = None
        self.bin = -(-columns // TAIL_BINS)
        self.bins = -(-columns // self.bin)
        if samples >= 2 * columns:
            return
        waves = min(TAIL_WAVES, samples // 2 - 1)
        self.low = np.r_[0 : waves + 1, samples - waves : samples]
        starts = np.arange(self.bins) * self.bin
        middles = (starts + np.minimum(starts + self.bin, columns) - 1) / 2
        place = np.arange(samples) - lines.margin
        apart = np.abs(place[:, None] - middles)
        # The true tail less the one that came round, every other place of both being 0. Between
        # pixels of the detector nothing is nearer to the pole than samples − columns.
        came_round = np.maximum(samples - apart, (samples - columns) / 2)
        missing = -0.5 / np.pi**2 * (1 / np.maximum(apart, 1) ** 2 - 1 / came_round**2)
        missing[apart <= samples / 2] = 0
        tail = np.fft.fft(missing, axis=0)[self.low] * apodised[self.low, None]
        self.tail = np.ascontiguousarray(tail.T.astype(np.complex64))
        self.low_gains = lines.phase[:, self.low] * weights[:, None].astype(np.float32)

    def apply(
        self, rows: NDArray[np.complex64], detector: slice, views: slice = slice(None)
    ) -> NDArray[np.complex64]:
        """Filter complex lines (…, views, samples); give them as waves. Overwrites `rows`."""
        low = None
        if self.tail is not None:
            low = self._binned(rows[..., detector]) @ self.tail
        spectra = scipy.fft.fft(rows, axis=-1, overwrite_x=True)
        spectra *= self.gains[views]
        if low is not None:
            spectra[..., self.low] += low * self.low_gains[views]
        return spectra

    def transpose(
        self, spectra: NDArray[np.complex64], detector: slice, views: slice = slice(None)
    ) -> NDArray[np.complex64]:
        """Apply the transpose; give the detector's part (…, views, columns)."""
        low = None
        if self.tail is not None:
            low = (spectra[..., self.low] * np.conj(self.low_gains[views])) @ np.conj(self.tail.T)
        spectra *= np.conj(self.gains[views])
        rows = scipy.fft.ifft(spectra, axis=-1, norm="forward", overwrite_x=True)[..., detector]
        if low is not None:
            rows += np.repeat(low, self.bin, axis=-1)[..., : rows.shape[-1]]
        return rows

    def _binned(self, views: NDArray[np.complex64]) -> NDArray[np.complex64]:
        whole = views.shape[-1] // self.bin
        out = np.zeros((*views.shape[:-1], self.bins), np.complex64)
        inner = views[..., : whole * self.bin].reshape(*views.shape[:-1], whole, self.bin)
        np.einsum("...bi->...b", inner, out=out[..., :whole])
        if whole < self.bins:
            out[..., whole] = views[..., whole * self.bin :].sum(axis=-1)
        return out


# Free to be used by any thread of the process, for any geometry.
_scratches: list[Scratch] = []


class NufftEngine:
    """Batches of slices on the CPU, in pairs (2k, 2k + 1), a few of them side by side.

    Parameters
    ----------
    lines
        The geometry.
    threads
        Blocks of slices worked on at once. Does not change the result.
    """

    def __init__(self, lines: Lines, threads: int = 1):
        self.lines, self.threads = lines, threads

    @cached_property
    def _coarse(self) -> Gridding:
        return Gridding(self.lines.points(), self.lines.size, FBP_WIDTH)

    @cached_property
    def _fine(self) -> Gridding:
        return Gridding(self.lines.points(), self.lines.size, PAIR_WIDTH)

    def filtered(
        self, views: NDArray, filtering: Filter, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Reconstruct (slice, view, column) → (slice, y, x) by filtered back-projection."""
        gridding = self._coarse

        def work(block: Slices, out: NDArray, scratch: Scratch) -> None:
            waves, means = self._filtered_waves(block, filtering, scratch)
            gridding.to_images(_flat(waves), out, scratch, means)

        return self._in_blocks(views, self._image, work, out)

    def filtered_transpose(self, images: NDArray, filtering: Filter) -> NDArray[np.float32]:
        """Apply the transpose of `filtered`: what its gradient needs."""
        gridding = self._coarse

        def work(block: Slices, out: NDArray, scratch: Scratch) -> None:
            waves = self._waves(block, scratch)
            gridding.from_images(block, _flat(waves), scratch)
            sums = np.zeros(2 * waves.shape[2], np.float32)
            sums[: len(block)] = [image.sum() for image in block]
            waves[:, 0] = sums.view(np.complex64)
            for some, spectra in self._by_views(waves, scratch):
                rows = filtering.transpose(spectra, self.lines.detector, some)
                _unpack(rows, out[:, some])

        return self._in_blocks(images, self._sinogram, work)

    def forward(self, images: NDArray) -> NDArray[np.float32]:
        """Integrate along the rays, (slice, y, x) → (slice, view, column)."""
        gridding = self._fine

        def work(block: Slices, out: NDArray, scratch: Scratch) -> None:
            waves = self._waves(block, scratch)
            gridding.from_images(block, _flat(waves), scratch)
            for some, spectra in self._by_views(waves, scratch):
                spectra *= np.conj(self.lines.phase[some])
                rows = scipy.fft.ifft(spectra, axis=-1, norm="forward", overwrite_x=True)
                _unpack(rows[:, :, self.lines.detector], out[:, some])

        return self._in_blocks(images, self._sinogram, work)

    def adjoint(self, views: NDArray) -> NDArray[np.float32]:
        """Back-project (slice, view, column), unfiltered: the transpose of `forward`."""
        gridding = self._fine

        def work(block: Slices, out: NDArray, scratch: Scratch) -> None:
            waves = self._waves(block, scratch)
            for some, rows in self._padded(block, scratch):
                spectra = scipy.fft.fft(rows, axis=-1, overwrite_x=True)
                spectra *= self.lines.phase[some]
                waves[some] = spectra.transpose(1, 2, 0)
            gridding.to_images(_flat(waves), out, scratch)

        return self._in_blocks(views, self._image, work)

    @property
    def _sinogram(self) -> tuple[int, int]:
        return self.lines.views, self.lines.columns

    @property
    def _image(self) -> tuple[int, int]:
        return self.lines.size, self.lines.size

    def _waves(self, block: Slices, scratch: Scratch) -> NDArray[np.complex64]:
        """Hold the waves of a block's pairs, (view, sample, pair): side by side for gridding."""
        pairs = pairs_for(len(block))
        return scratch.array("waves", self.lines.views, self.lines.samples, pairs)

    def _filtered_waves(
        self, block: Slices, filtering: Filter, scratch: Scratch
    ) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        """Give the waves of filtered sinograms, and the mean of each slice, which they lack.

        The mean of a view is the same everywhere in the slice: added at the end, it is exact.
        """
        waves = self._waves(block, scratch)
        means = np.empty((waves.shape[2], self.lines.views), np.complex64)
        for some, rows in self._padded(block, scratch):
            spectra = filtering.apply(rows, self.lines.detector, some)
            means[:, some] = spectra[:, :, 0]
            spectra[:, :, 0] = 0
            waves[some] = spectra.transpose(1, 2, 0)
        return waves, np.array([pair.sum() for pair in means]).view(np.float32)

    def _padded(
        self, block: Slices, scratch: Scratch
    ) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
        """Lay sinograms into complex lines (pair, view, sample), a few views at a time."""
        lines, pairs = self.lines, self._waves(block, scratch).shape[2]
        for some in _some_views(lines.views, VIEWS):
            rows = scratch.array("rows", pairs, some.stop - some.start, lines.samples)
            rows[:] = 0
            for k, views in enumerate(block):
                part = rows.imag if k % 2 else rows.real
                part[k // 2, :, lines.detector] = views[some]
            yield some, rows

    def _by_views(
        self, waves: NDArray[np.complex64], scratch: Scratch
    ) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
        """Give copies of the waves as lines (pair, view, sample), a few views at a time."""
        for some in _some_views(self.lines.views, VIEWS):
            part = waves[some].transpose(2, 0, 1)
            rows = scratch.array("rows", *part.shape)
            rows[:] = part
            yield some, rows

    def _in_blocks(
        self,
        batch: NDArray,
        shape: tuple[int, int],
        operator: Callable[[Slices, NDArray, Scratch], None],
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        out = np.empty((len(batch), *shape), np.float32) if out is None else out

        def work(first: int) -> None:
            try:
                scratch = _scratches.pop()
            except IndexError:
                scratch = Scratch()
            try:
                block, spoilt = mended(batch[first : first + 2 * PAIRS])
                found = out[first : first + 2 * PAIRS]
                operator(block, found, scratch)
                found[spoilt] = np.nan
            finally:
                _scratches.append(scratch)

        firsts = range(0, len(batch), 2 * PAIRS)
        if self.threads == 1 or len(firsts) == 1:
            for first in firsts:
                work(first)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(work, firsts))
        return out


def mended(block: NDArray) -> tuple[NDArray[np.float32], list[int]]:
    """Make slices fit to be packed: one bad number would spread over both of a pair.

    Returns
    -------
    block
        float32; a slice with a NaN or an infinity is zeros.
    spoilt
        Which of them had one.
    """
    block = np.asarray(block, np.float32)
    # A sum is not finite where one term is not, and costs one quick pass.
    with np.errstate(over="ignore", invalid="ignore"):
        doubtful = [i for i, part in enumerate(block) if not np.isfinite(part.sum())]
    spoilt = [i for i in doubtful if not np.isfinite(block[i]).all()]
    if spoilt:
        block = block.copy()
        block[spoilt] = 0
    return block, spoilt


def _flat(waves: NDArray[np.complex64]) -> NDArray[np.complex64]:
    return waves.reshape(-1, waves.shape[2])


def _some_views(views: int, at_once: int) -> Iterator[slice]:
    for first in range(0, views, at_once):
        yield slice(first, min(first + at_once, views))


def _unpack(packed: NDArray[np.complex64], out: NDArray[np.float32]) -> None:
    """Take real slices out of pairs: (pair, …) → (slice, …)."""
    out[0::2] = packed.real[: len(out[0::2])]
    out[1::2] = packed.imag[: len(out[1::2])]
