"""The CPU engine: views and slices joined by the Fourier slice theorem.

The transform of a projection along s is the slice's 2-D transform on a line, so a
back-projection is a sum of waves at the points of those lines and a forward projection its
transpose (`gridding`). What depends on the geometry alone is computed once and shared; each
thread has its own plans and buffers.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hpc_srct.tomography.filters import ramp_kernel, window
from hpc_srct.tomography.gridding import Gridding, fast_even, off_the_grid

# An FBP's own error is a hundred times what 1e-2 adds to it. The pair of operators is used
# inside iterations, where errors add up.
FBP_TOLERANCE = 1e-2
PAIR_TOLERANCE = 1e-4

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
        frequency = np.fft.fftfreq(self.samples)
        omega = 2 * np.pi * frequency
        along_row = np.cos(angles)[:, None] * omega
        along_column = -np.sin(angles)[:, None] * omega
        # Even sizes have their centre between pixels, half a pixel off the transform's origin.
        half = 0.5 if size % 2 == 0 else 0.0
        shift = omega * (-self.margin - centre)
        phase = np.exp(1j * (half * (along_row + along_column) - shift))
        # The Nyquist sample has no partner to make a slice real: kept, it leaks into the other
        # slice of a packed pair.
        phase[:, np.abs(frequency) == 0.5] = 0
        self.phase = (phase / self.samples).astype(np.complex64)
        points = along_column.astype(np.float32).ravel(), along_row.astype(np.float32).ravel()
        self.points = off_the_grid(points, size)

    @property
    def detector(self) -> slice:
        """Where the detector lies among the samples of a line."""
        return slice(self.margin, self.margin + self.columns)


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
        self.gains = (lines.phase * (weights[:, None] * gains)).astype(np.complex64)
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

    def apply(self, rows: NDArray[np.complex64], detector: slice) -> NDArray[np.complex64]:
        """Filter complex lines (views, samples); give them as waves. Overwrites `rows`."""
        low = None
        if self.tail is not None:
            low = self._binned(rows[:, detector]) @ self.tail
        spectra = scipy.fft.fft(rows, axis=1, overwrite_x=True)
        spectra *= self.gains
        if low is not None:
            spectra[:, self.low] += low * self.low_gains
        return spectra

    def transpose(self, spectra: NDArray[np.complex64], detector: slice) -> NDArray[np.complex64]:
        """Apply the transpose; give the detector's part (views, columns)."""
        low = None
        if self.tail is not None:
            low = (spectra[:, self.low] * np.conj(self.low_gains)) @ np.conj(self.tail.T)
        spectra *= np.conj(self.gains)
        rows = scipy.fft.ifft(spectra, axis=1, norm="forward", overwrite_x=True)[:, detector]
        if low is not None:
            rows += np.repeat(low, self.bin, axis=1)[:, : rows.shape[1]]
        return rows

    def _binned(self, views: NDArray[np.complex64]) -> NDArray[np.complex64]:
        whole = views.shape[1] // self.bin
        out = np.zeros((len(views), self.bins), np.complex64)
        inner = views[:, : whole * self.bin].reshape(len(views), whole, self.bin)
        np.einsum("vbi->vb", inner, out=out[:, :whole])
        if whole < self.bins:
            out[:, whole] = views[:, whole * self.bin :].sum(axis=1)
        return out


class Worker:
    """One thread's plans and buffers, for one or two slices at a time."""

    def __init__(self, lines: Lines):
        self.lines = lines
        self._gridding = Gridding(lines.points, lines.size)
        self._rows = np.zeros((lines.views, lines.samples), np.complex64)

    def _padded(self, views: NDArray[np.float32]) -> NDArray[np.complex64]:
        """Lay one or two real sinograms into complex lines with nothing beside them."""
        rows, detector = self._rows, self.lines.detector
        rows[:, : detector.start] = 0
        rows[:, detector.stop :] = 0
        rows.real[:, detector] = views[0]
        rows.imag[:, detector] = views[1] if len(views) == 2 else 0
        return rows

    def forward(self, images: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Project slices (y, x) on the detector (view, column)."""
        rows = self._from_images(images, PAIR_TOLERANCE)
        rows *= np.conj(self.lines.phase)
        rows = scipy.fft.ifft(rows, axis=1, norm="forward", overwrite_x=True)
        _unpack(rows[:, self.lines.detector], out)

    def adjoint(self, views: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Back-project (view, column), unfiltered and unweighted: the transpose of the above."""
        waves = scipy.fft.fft(self._padded(views), axis=1, overwrite_x=True)
        waves *= self.lines.phase
        self._gridding.to_images(waves.reshape(-1), out, PAIR_TOLERANCE)

    def filtered(
        self, views: NDArray[np.float32], out: NDArray[np.float32], filtering: Filter
    ) -> None:
        """Reconstruct slices by filtered back-projection."""
        waves = filtering.apply(self._padded(views), self.lines.detector)
        # The mean of each view is the same everywhere: added at the end, it is exact, and the
        # kernel, which an even width makes lopsided just there, leaks nothing of it.
        level = waves[:, 0].sum()
        waves[:, 0] = 0
        self._gridding.to_images(waves.reshape(-1), out, FBP_TOLERANCE)
        for image, part in zip(out, (level.real, level.imag), strict=False):
            image += part

    def filtered_transpose(
        self, images: NDArray[np.float32], out: NDArray[np.float32], filtering: Filter
    ) -> None:
        """Apply the transpose of `filtered`: what its gradient needs."""
        waves = self._from_images(images, FBP_TOLERANCE)
        sums = [image.sum() for image in images]
        waves[:, 0] = sums[0] + 1j * (sums[1] if len(sums) == 2 else 0)
        _unpack(filtering.transpose(waves, self.lines.detector), out)

    def _from_images(self, images: NDArray, tolerance: float) -> NDArray[np.complex64]:
        self._gridding.from_images(images, self._rows.reshape(-1), tolerance)
        return self._rows


class NufftEngine:
    """Batches of slices on the CPU, in pairs (2k, 2k + 1), each on one thread.

    Parameters
    ----------
    lines
        The geometry.
    threads
        Pairs worked on at once. Does not change the result.
    """

    def __init__(self, lines: Lines, threads: int = 1):
        self.lines, self.threads = lines, threads
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for _ in range(threads):
            self._idle.put(Worker(lines))

    def filtered(self, views: NDArray, filtering: Filter) -> NDArray[np.float32]:
        """Reconstruct (slice, view, column) → (slice, y, x) by filtered back-projection."""
        return self._in_pairs(views, self._image, lambda w, a, b: w.filtered(a, b, filtering))

    def filtered_transpose(self, images: NDArray, filtering: Filter) -> NDArray[np.float32]:
        """Apply the transpose of `filtered`."""
        return self._in_pairs(
            images, self._sinogram, lambda w, a, b: w.filtered_transpose(a, b, filtering)
        )

    def forward(self, images: NDArray) -> NDArray[np.float32]:
        """Integrate along the rays, (slice, y, x) → (slice, view, column)."""
        return self._in_pairs(images, self._sinogram, Worker.forward)

    def adjoint(self, views: NDArray) -> NDArray[np.float32]:
        """Apply the transpose of `forward`."""
        return self._in_pairs(views, self._image, Worker.adjoint)

    @property
    def _sinogram(self) -> tuple[int, int]:
        return self.lines.views, self.lines.columns

    @property
    def _image(self) -> tuple[int, int]:
        return self.lines.size, self.lines.size

    def _in_pairs(
        self,
        batch: NDArray,
        shape: tuple[int, int],
        operator: Callable[[Worker, NDArray, NDArray], None],
    ) -> NDArray[np.float32]:
        out = np.empty((len(batch), *shape), np.float32)

        def work(first: int) -> None:
            worker = self._idle.get()
            try:
                pair, spoilt = mended(batch[first : first + 2])
                found = out[first : first + 2]
                operator(worker, pair, found)
                found[spoilt] = np.nan
            finally:
                self._idle.put(worker)

        firsts = range(0, len(batch), 2)
        if self.threads == 1 or len(firsts) == 1:
            for first in firsts:
                work(first)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(work, firsts))
        return out


def mended(pair: NDArray) -> tuple[NDArray[np.float32], list[int]]:
    """Make slices fit to be packed: one bad number would spread over both.

    Returns
    -------
    pair
        float32; a slice with a NaN or an infinity is zeros.
    spoilt
        Which of them had one.
    """
    pair = np.asarray(pair, np.float32)
    # A sum is not finite where one term is not, and costs one quick pass.
    doubtful = [i for i, part in enumerate(pair) if not np.isfinite(part.sum())]
    spoilt = [i for i in doubtful if not np.isfinite(pair[i]).all()]
    if spoilt:
        pair = pair.copy()
        pair[spoilt] = 0
    return pair, spoilt


def _unpack(packed: NDArray[np.complex64], out: NDArray[np.float32]) -> None:
    for image, part in zip(out, (packed.real, packed.imag), strict=False):
        image[:] = part
