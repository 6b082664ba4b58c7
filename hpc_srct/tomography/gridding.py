"""Sums of waves at any frequency: spreading on a grid and an FFT (a non-uniform FFT).

FINUFFT spreads and interpolates; the FFT is done here, because of the oversampled grid only
`size` of each axis is wanted: one axis is transformed, cut, and then the other, at half the
time of FINUFFT's own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import scipy.fft
from numpy.typing import NDArray

if TYPE_CHECKING:
    import finufft

# Of the finer grid; FINUFFT's kernels are made for this or for 2.
UPSAMPLING = 1.25


def _spreader(kind: int, shape: tuple[int, int], tolerance: float) -> finufft.Plan:
    import finufft  # late: the torch engine shares this module and does without

    return finufft.Plan(
        kind,
        shape,
        1,
        tolerance,
        isign=1,
        dtype="complex64",
        nthreads=1,
        upsampfac=UPSAMPLING,
        spreadinterponly=1,
    )


@lru_cache(maxsize=8)
def _kernel(tolerance: float, fine: int = 64) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sample FINUFFT's kernel, by spreading single points: (distances, values) in grid steps."""
    size = 32
    plan = _spreader(1, (size, size), tolerance)
    distances, values = [], []
    for i in range(fine):
        # In the middle of each step: at its ends a point may take one neighbour more or less.
        offset = (i + 0.5) / fine
        at = np.array([2 * np.pi * offset / size], np.float32)
        plan.setpts(at, at)
        # The kernel is a product of two equal ones, so the diagonal is its square.
        diagonal = np.diagonal(plan.execute(np.ones(1, np.complex64))).real
        distances.append(np.arange(size) - size // 2 - offset)
        values.append(np.sqrt(np.maximum(diagonal, 0)))
    return np.concatenate(distances), np.concatenate(values) / fine


class Gridding:
    """Sums Σ c exp(i(m·a + n·b)) at all pixels (m, n), and the transpose of that.

    Pairs of real images lie in the real and imaginary parts of one sum. Plans and buffers are
    kept: one object serves one thread.

    Parameters
    ----------
    points
        Angular frequencies a along rows and b along columns, −π to π, float32, as
        `off_the_grid` leaves them.
    size
        Pixels on a side; m and n run from −(size // 2).
    """

    def __init__(self, points: tuple[NDArray, NDArray], size: int):
        self.size, self._points = size, points
        self.grid = grid_size(size)
        self._full = np.zeros((self.grid, self.grid), np.complex64)
        self._half = np.zeros((self.grid, size), np.complex64)
        self._plans: dict[tuple[int, float], finufft.Plan] = {}
        self._corrections: dict[float, NDArray[np.float32]] = {}
        # Pixels at 0 and above come first among the outputs of an FFT, those below 0 last.
        middle = size // 2
        self._places = (
            (slice(middle, None), slice(0, size - middle)),
            (slice(0, middle), slice(self.grid - middle, None)),
        )
        self._unused = slice(size - middle, self.grid - middle)

    def _plan(self, kind: int, tolerance: float) -> finufft.Plan:
        if (kind, tolerance) not in self._plans:
            plan = _spreader(kind, self._full.shape, tolerance)
            plan.setpts(*self._points)
            self._plans[kind, tolerance] = plan
        return self._plans[kind, tolerance]

    def _correction(self, tolerance: float) -> NDArray[np.float32]:
        """Say by what to divide out, along one axis, what the kernel does to each wave."""
        if tolerance not in self._corrections:
            pixels = np.arange(self.size) - self.size // 2
            distances, values = _kernel(tolerance)
            passed = np.cos(np.outer(pixels, distances) * (2 * np.pi / self.grid)) @ values
            # The grid's origin is its middle: every other wave has the other sign.
            self._corrections[tolerance] = ((1 - 2 * (pixels % 2)) / passed).astype(np.float32)
        return self._corrections[tolerance]

    def to_images(
        self, coefficients: NDArray[np.complex64], out: NDArray[np.float32], tolerance: float
    ) -> None:
        """Sum the waves: (points,) → one or two real images (size, size)."""
        correction = self._correction(tolerance)
        self._plan(1, tolerance).execute(coefficients, out=self._full)
        rows = scipy.fft.ifft(self._full, axis=1, norm="forward", overwrite_x=True)
        for pixels, outputs in self._places:
            np.multiply(rows[:, outputs], correction[pixels], out=self._half[:, pixels])
        found = scipy.fft.ifft(self._half, axis=0, norm="forward", overwrite_x=True)
        for part, image in zip((found.real, found.imag), out, strict=False):
            for pixels, outputs in self._places:
                np.multiply(part[outputs], correction[pixels, None], out=image[pixels])

    def from_images(
        self, images: NDArray[np.float32], out: NDArray[np.complex64], tolerance: float
    ) -> None:
        """Apply the transpose: one or two real images → coefficients (points,)."""
        correction = self._correction(tolerance)
        half, full = self._half, self._full
        half[self._unused] = 0
        if len(images) == 1:
            half.imag[:] = 0
        for part, image in zip((half.real, half.imag), images, strict=False):
            for pixels, inputs in self._places:
                np.multiply(image[pixels], correction[pixels, None], out=part[inputs])
        columns = scipy.fft.fft(half, axis=0, overwrite_x=True)
        full[:, self._unused] = 0
        for pixels, inputs in self._places:
            np.multiply(columns[:, pixels], correction[pixels], out=full[:, inputs])
        grid = scipy.fft.fft(full, axis=1, overwrite_x=True)
        self._plan(2, tolerance).execute(grid, out=out)


def grid_size(size: int) -> int:
    """Give the side of the finer grid of an image of `size`."""
    return fast_even(int(np.ceil(max(UPSAMPLING * size, 32))))


def off_the_grid(points: tuple[NDArray, NDArray], size: int) -> tuple[NDArray, NDArray]:
    """Move points that lie on a grid line off it by a hair, opposite ones to opposite sides.

    A kernel of even width takes one neighbour more on one side of such a point. Where point
    and opposite do so alike, the image of a real slice is not real, and leaks into its partner.
    """
    grid = grid_size(size)
    # A few times what float32 can tell apart in a turn.
    step, hair = np.float32(2 * np.pi / grid), np.float32(1e-6 * grid)
    moved = []
    for here, other in (points, points[::-1]):
        place = here / step
        nearest = np.round(place)
        outward = np.sign(np.where(nearest == 0, other, nearest))
        on_line = np.abs(place - nearest) < hair
        moved.append(np.where(on_line, (nearest + outward * hair) * step, here))
    return moved[0], moved[1]


def fast_even(length: int) -> int:
    """Give the least even length, at or above this one, that an FFT is quick at."""
    while True:
        length = scipy.fft.next_fast_len(length, real=False)
        if length % 2 == 0:
            return length
        length += 1
