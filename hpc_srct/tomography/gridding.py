"""Sums of waves at any frequency: spreading on a grid and an FFT (a non-uniform FFT).

Several pairs of slices are worked on side by side, and the grid is made and transformed in
strips of a few rows that stay in the processor's cache. Of the oversampled grid only `size` of
each axis is wanted: one axis is transformed, cut, and then the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hpc_srct.tomography.scratch import Scratch

# Of the finer grid. More would allow a narrower kernel, at the cost of larger FFTs.
UPSAMPLING = 1.25
# Neighbours of a sample along each axis: errors of about 1e-3 and 8e-5 of the whole. The first
# does not show beside an FBP's own error (4 neighbours do: half a percent more); the pair of
# operators is used inside iterations, where errors add up.
FBP_WIDTH, PAIR_WIDTH = 5, 7
# Pairs of slices side by side: 8 floats, one vector of AVX2.
PAIRS = 4
# Rows of the grid that are made, transformed and put away together; columns likewise.
STRIP, COLUMNS = 16, 64


def kernel(distance: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Evaluate the spreading kernel at distances (grid steps): 1 in the middle, 0 at ±width/2.

    Kaiser and Bessel's, shaped after Beatty, Nishimura and Pauly (2005), less its height at the
    ends: without the jump there, a sample and its opposite are always treated alike, so that
    the image of a real slice is real and does not leak into its partner.
    """
    beta = kernel_shape(width)
    inside = np.sqrt(np.clip(1 - (2 * distance / width) ** 2, 0, None))
    return (np.i0(beta * inside) - 1) / (np.i0(beta) - 1)


def kernel_shape(width: int) -> float:
    """Give the kernel's β."""
    return float(np.pi * np.sqrt((width / UPSAMPLING * (UPSAMPLING - 0.5)) ** 2 - 0.8))


def correction(size: int, width: int) -> NDArray[np.float32]:
    """Say by what to divide out, along one axis, what the kernel does to each wave: (size,)."""
    fine = 64
    distance = (np.arange(fine * width) + 0.5) / fine - width / 2
    pixels = np.arange(size) - size // 2
    waves = np.cos(np.outer(pixels, distance) * (2 * np.pi / grid_size(size)))
    return (fine / (waves @ kernel(distance, width))).astype(np.float32)


def grid_size(size: int) -> int:
    """Give the side of the finer grid of an image of `size`."""
    return fast_even(int(np.ceil(max(UPSAMPLING * size, 32))))


def pairs_for(slices: int) -> int:
    """Say how many pairs side by side take so many slices: a power of two."""
    pairs = 1
    while 2 * pairs < min(slices, 2 * PAIRS):
        pairs *= 2
    return pairs


def fast_even(length: int) -> int:
    """Give the least even length, at or above this one, that an FFT is quick at."""
    while True:
        length = scipy.fft.next_fast_len(length, real=False)
        if length % 2 == 0:
            return length
        length += 1


@dataclass(frozen=True)
class _Order:
    """Points in the order of the strips they fall in; in each as they were, along their lines.

    So both what is read and what is added to lie close to what was last. `starts` says where
    each strip's begin; the rest is as `spreading.spread` takes it. A strip's first row is
    `width` − 1 above those that it completes.
    """

    starts: NDArray[np.int64]
    sources: NDArray[np.int32]
    places: NDArray[np.int32]
    down: NDArray[np.uint16]
    along: NDArray[np.uint16]

    def strip(self, index: int) -> tuple[NDArray, ...]:
        some = slice(self.starts[index], self.starts[index + 1])
        return self.sources[some], self.places[some], self.down[some], self.along[some]


class Gridding:
    """Sums Σ c exp(i(m·a + n·b)) at all pixels (m, n), and the transpose of that.

    Pairs of real images lie in the real and imaginary parts of one sum, up to `PAIRS` of them
    side by side.

    Parameters
    ----------
    points
        Angular frequencies a along rows and b along columns, −π to π, in pieces one after the
        other.
    size
        Pixels on a side; m and n run from −(size // 2).
    width
        Neighbours of a sample along each axis of the grid.
    """

    def __init__(self, points: Iterable[tuple[NDArray, NDArray]], size: int, width: int):
        from hpc_srct.tomography import spreading  # late: the torch engine does without numba

        self._compiled = spreading
        self.size, self.width, self.grid = size, width, grid_size(size)
        self._stride = self.grid + width - 1
        self._n_strips = -(-(self.grid + width - 1) // STRIP)
        self._table = spreading.weights_table(lambda distance: kernel(distance, width), width)
        self._correction = correction(size, width)
        self._order = self._ordered(points)
        # Pixels at 0 and above come first among the outputs of an FFT, those below 0 last.
        middle = size // 2
        self._places = (
            (slice(middle, None), slice(0, size - middle)),
            (slice(0, middle), slice(self.grid - middle, self.grid)),
        )
        self._unused = slice(size - middle, self.grid - middle)

    def _ordered(self, points: Iterable[tuple[NDArray, NDArray]]) -> _Order:
        over, compiled = self.width - 1, self._compiled
        # The grid is periodic: what begins at its last rows ends in its first ones. Such points
        # are taken twice, and what falls off either end is left there.
        beyond = self.grid - self.width
        pieces, counts = [], np.zeros(self._n_strips, np.int64)
        for piece in points:
            places = []
            for axis in piece:
                first, step = np.empty(axis.size, np.int32), np.empty(axis.size, np.uint16)
                compiled.locate(axis, self.grid, self.width, first, step)
                places.append((first, step))
            (rows, down), (columns, along) = places
            compiled.count(rows, beyond, over, STRIP, counts)
            pieces.append((rows, columns, (down, along)))
        starts = np.concatenate([[0], np.cumsum(counts)])
        kinds = (np.int32, np.int32, np.uint16, np.uint16)
        order = tuple(np.empty(starts[-1], kind) for kind in kinds)
        ends = starts[:-1].copy()
        for shift, least in ((over, 0), (over - self.grid, beyond + 1)):
            source = 0
            for piece in pieces:
                compiled.put_in_order(
                    source, *piece, shift, least, STRIP, self._stride, ends, order
                )
                source += len(piece[0])
        return _Order(starts, *order)

    def to_images(
        self,
        waves: NDArray[np.complex64],
        out: NDArray[np.float32],
        scratch: Scratch,
        constants: NDArray[np.float32] | None = None,
    ) -> None:
        """Sum the waves (points, pairs) to real images (up to 2 × pairs, size, size).

        `constants` (2 × pairs,) are added to them.
        """
        pairs, over = waves.shape[1], self.width - 1
        constants = np.zeros(2 * pairs, np.float32) if constants is None else constants
        grid = scratch.array("grid", *self._strip_shape(pairs))
        half = scratch.array("half", pairs, self.grid, self.size)
        grid[:] = 0
        for strip in range(self._n_strips):
            self._call(self._compiled.spread, strip, waves, grid)
            grid[:STRIP, :over] += grid[:STRIP, self.grid :]
            first = strip * STRIP - over
            done = slice(max(0, -first), min(STRIP, self.grid - first))
            rows = grid[done, : self.grid]
            rows = scipy.fft.ifft(rows, axis=1, norm="forward", overwrite_x=True)
            self._compiled.cut_rows(rows, self._correction, first + done.start, half)
            grid[:over] = grid[STRIP:]
            grid[over:] = 0
        for pair, columns in self._column_blocks(pairs):
            block = scratch.array("columns", self.grid, columns.stop - columns.start)
            block[:] = half[pair, :, columns]
            found = scipy.fft.ifft(block, axis=0, norm="forward", overwrite_x=True)
            both = slice(2 * pair, 2 * pair + 2)
            self._compiled.cut_columns(
                found.view(np.float32), self._correction, constants[both], columns.start, out[both]
            )

    def from_images(
        self, images: NDArray[np.float32], out: NDArray[np.complex64], scratch: Scratch
    ) -> None:
        """Apply the transpose: real images → waves (points, pairs)."""
        pairs, over = out.shape[1], self.width - 1
        grid = scratch.array("grid", *self._strip_shape(pairs))
        half = scratch.array("half", pairs, self.grid, self.size)
        for pair, columns in self._column_blocks(pairs):
            block = scratch.array("columns", self.grid, columns.stop - columns.start)
            block[:] = 0
            some = images[2 * pair : 2 * pair + 2]
            for part, image in zip((block.real, block.imag), some, strict=False):
                for pixels, inputs in self._places:
                    upright = self._correction[pixels, None]
                    np.multiply(image[pixels, columns], upright, out=part[inputs])
            half[pair, :, columns] = scipy.fft.fft(block, axis=0, overwrite_x=True)
        for strip in range(self._n_strips):
            grid[:over] = grid[STRIP:]
            new = slice(over if strip else 0, None)
            numbers = (strip * STRIP - over + np.arange(STRIP + over)[new]) % self.grid
            rows = grid[new, : self.grid]
            rows[:, self._unused] = 0
            for pixels, inputs in self._places:
                cut = half[:, numbers, pixels].transpose(1, 2, 0)
                np.multiply(cut, self._correction[pixels, None], out=rows[:, inputs])
            grid[new, : self.grid] = scipy.fft.fft(rows, axis=1, overwrite_x=True)
            grid[new, self.grid :] = grid[new, :over]
            self._call(self._compiled.interpolate, strip, out, grid)

    def _strip_shape(self, pairs: int) -> tuple[int, int, int]:
        return STRIP + self.width - 1, self._stride, pairs

    def _call(self, kernel, strip: int, waves: NDArray, grid: NDArray) -> None:  # type: ignore[no-untyped-def]
        lanes = (0,) * (2 * waves.shape[1])
        flat = waves.reshape(-1).view(np.float32), grid.reshape(-1).view(np.float32)
        points = self._order.strip(strip)
        kernel(lanes, flat[0], *points, self._table, self.width, self._stride, flat[1])

    def _column_blocks(self, pairs: int) -> Iterator[tuple[int, slice]]:
        for pair in range(pairs):
            for first in range(0, self.size, COLUMNS):
                yield pair, slice(first, min(first + COLUMNS, self.size))
