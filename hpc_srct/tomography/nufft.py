"""The CPU engine: views and slices joined by non-uniform FFTs (Fourier slice theorem).

The transform of a projection along s is the slice's 2-D transform on a line, so a
back-projection is one type-1 non-uniform FFT and a forward projection one type-2. Everything
that depends on the geometry alone (points, phases) is computed once and shared; each thread
has its own plans and buffers.
"""

from __future__ import annotations

import finufft
import numpy as np
import scipy.fft
from numpy.typing import NDArray

# FBP is noise-limited: 1e-3 leaves the error of a slice unchanged. The pair of operators is
# used inside iterations, where errors add up.
FBP_TOLERANCE = 1e-3
PAIR_TOLERANCE = 1e-4


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
        self.samples = _fast_even(int(np.ceil(max(reach, columns + 1))))
        self.margin = (self.samples - columns) // 2
        # Filtering by linear convolution needs twice the detector.
        self.padded = _fast_even(max(2 * columns, self.samples))
        frequency = np.fft.fftfreq(self.samples)
        omega = 2 * np.pi * frequency
        along_row = np.cos(angles)[:, None] * omega
        along_column = -np.sin(angles)[:, None] * omega
        # Even sizes have their centre between pixels, half a pixel off the transform's origin.
        half = 0.5 if size % 2 == 0 else 0.0
        shift = omega * (-self.margin - centre)
        phase = np.exp(1j * (half * (along_row + along_column) - shift))
        # The Nyquist sample has no partner to make a real slice real: kept, it leaks into the
        # other slice of a packed pair.
        phase[:, np.abs(frequency) == 0.5] = 0
        self.phase = (phase / self.samples).astype(np.complex64)
        self.points = (
            along_column.astype(np.float32).ravel(),
            along_row.astype(np.float32).ravel(),
        )

    @property
    def detector(self) -> slice:
        """Where the detector lies among the samples of a line."""
        return slice(self.margin, self.margin + self.columns)


def _fast_even(length: int) -> int:
    while True:
        length = scipy.fft.next_fast_len(length, real=False)
        if length % 2 == 0:
            return length
        length += 1


class Worker:
    """One thread's plans and buffers for one pair of slices at a time."""

    def __init__(self, lines: Lines):
        self.lines = lines
        self._plans: dict[tuple[int, float], finufft.Plan] = {}
        self._buffers: dict[str, NDArray] = {}

    def _plan(self, kind: int, tolerance: float) -> finufft.Plan:
        if (kind, tolerance) not in self._plans:
            size = self.lines.size
            plan = finufft.Plan(
                kind,
                (size, size),
                1,
                tolerance,
                isign=1 if kind == 1 else -1,
                dtype="complex64",
                nthreads=1,
                upsampfac=1.25,
            )
            plan.setpts(*self.lines.points)
            self._plans[kind, tolerance] = plan
        return self._plans[kind, tolerance]

    def buffer(self, name: str, shape: tuple[int, ...]) -> NDArray[np.complex64]:
        """Give a complex64 array that is kept between calls; what it holds is left as it is."""
        if name not in self._buffers or self._buffers[name].shape != shape:
            self._buffers[name] = np.zeros(shape, np.complex64)
        return self._buffers[name]

    def lines_to_slice(self, rows: NDArray, tolerance: float) -> NDArray[np.complex64]:
        """Back-project (views, samples) complex rows, which are overwritten."""
        lines = self.lines
        spectra = scipy.fft.fft(rows, axis=1, overwrite_x=True)
        spectra *= lines.phase
        out = self.buffer("slice", (lines.size, lines.size))
        self._plan(1, tolerance).execute(spectra.reshape(-1), out=out)
        return out

    def slice_to_lines(self, image: NDArray, tolerance: float) -> NDArray[np.complex64]:
        """Project a complex slice on (views, samples) rows: the exact adjoint of the above."""
        lines = self.lines
        spectra = self.buffer("rows", (lines.views, lines.samples))
        self._plan(2, tolerance).execute(image, out=spectra.reshape(-1))
        spectra *= np.conj(lines.phase)
        rows = scipy.fft.ifft(spectra, axis=1, overwrite_x=True)
        rows *= np.float32(lines.samples)
        return rows

    def forward(self, image: NDArray) -> NDArray[np.complex64]:
        """Project a complex slice (y, x) on the detector (view, column)."""
        return self.slice_to_lines(image, PAIR_TOLERANCE)[:, self.lines.detector]

    def adjoint(self, views: NDArray) -> NDArray[np.complex64]:
        """Back-project complex (view, column), unfiltered and unweighted."""
        lines = self.lines
        rows = self.buffer("rows", (lines.views, lines.samples))
        rows[:] = 0
        rows[:, lines.detector] = views
        return self.lines_to_slice(rows, PAIR_TOLERANCE)

    def filtered(self, views: NDArray, gains: NDArray, weights: NDArray) -> NDArray[np.complex64]:
        """Reconstruct a complex slice by filtered back-projection.

        Filtered at `padded` samples, then only `samples` of the result are gridded: inside the
        field of view nothing wraps.
        """
        lines = self.lines
        wide = self.buffer("wide", (lines.views, lines.padded))
        wide[:] = 0
        wide[:, : lines.columns] = views
        spectra = scipy.fft.fft(wide, axis=1, overwrite_x=True)
        spectra *= gains
        wide = scipy.fft.ifft(spectra, axis=1, overwrite_x=True)
        rows = self.buffer("rows", (lines.views, lines.samples))
        first, second = lines.margin, lines.samples - lines.margin
        np.multiply(wide[:, :second], weights[:, None], out=rows[:, first:])
        np.multiply(wide[:, lines.padded - first :], weights[:, None], out=rows[:, :first])
        return self.lines_to_slice(rows, FBP_TOLERANCE)

    def filtered_transpose(
        self, image: NDArray, gains: NDArray, weights: NDArray
    ) -> NDArray[np.complex64]:
        """Apply the transpose of `filtered`: what its gradient needs."""
        lines = self.lines
        rows = self.slice_to_lines(image, FBP_TOLERANCE)
        wide = self.buffer("wide", (lines.views, lines.padded))
        wide[:] = 0
        first, second = lines.margin, lines.samples - lines.margin
        np.multiply(rows[:, first:], weights[:, None], out=wide[:, :second])
        np.multiply(rows[:, :first], weights[:, None], out=wide[:, lines.padded - first :])
        spectra = scipy.fft.fft(wide, axis=1, overwrite_x=True)
        spectra *= gains
        return scipy.fft.ifft(spectra, axis=1, overwrite_x=True)[:, : lines.columns]
