"""Shapes whose line integrals and pixel averages are known exactly.

Coordinates are pixels from the image centre, x to the right and y up. Densities add where
shapes overlap. A ray of the view at angle θ and position s is the line s = x·cosθ + y·sinθ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import ndtr

# Beyond this many standard deviations a Gaussian is left out: 2e-8 of its peak.
_GAUSSIAN_END = 6.0
# Shapes times views times rays at once: stays in a core's cache.
_ENTRIES = 1 << 17


class Shapes(Protocol):
    """A set of shapes in a plane."""

    def add_line_integrals(
        self, out: np.ndarray, angles: np.ndarray, first: float, step: float
    ) -> None:
        """Add the line integrals at s = first + step·k, k along the columns of `out`.

        Parameters
        ----------
        out
            (angles, positions) float64, changed in place.
        angles
            (angles,) radians.
        first, step
            Where the rays stand.
        """
        ...

    def add_pixels(self, out: np.ndarray, samples: int) -> None:
        """Add the mean density in each pixel to `out`, (size, size) float64.

        Ellipses and polygons are averaged exactly along x and over `samples` lines a pixel
        along y; Gaussians exactly.
        """
        ...


@dataclass(frozen=True)
class Ellipses:
    """Ellipses of constant density.

    Parameters
    ----------
    x, y
        Centres.
    a, b
        Semi-axes.
    tilt
        Angle of the first semi-axis from the x axis, counter-clockwise, radians.
    density
        Added inside. All are arrays of shape (ellipses,).
    """

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    tilt: np.ndarray
    density: np.ndarray

    def add_line_integrals(
        self, out: np.ndarray, angles: np.ndarray, first: float, step: float
    ) -> None:
        """Kak & Slaney (1988), section 3.1: 2ρ·ab/w²·√(w² − (s − s₀)²), w the half-width."""
        cosine, sine = np.cos(angles), np.sin(angles)
        for some in _of_like_size(np.maximum(self.a, self.b) / step, len(angles)):
            x, y, a, b, tilt, density = (value[some, None] for value in self._values())
            square = (a * np.cos(angles - tilt)) ** 2 + (b * np.sin(angles - tilt)) ** 2
            s, where = _windows(x * cosine + y * sine, np.sqrt(square), first, step)
            chord = np.sqrt(np.maximum(square[..., None] - s**2, 0))
            chord *= (2 * density * a * b / square)[..., None]
            _add_windows(out, where, chord)

    def _values(self) -> tuple[np.ndarray, ...]:
        return self.x, self.y, self.a, self.b, self.tilt, self.density

    def add_pixels(self, out: np.ndarray, samples: int) -> None:
        """Each line of samples cuts an ellipse in one interval, whose ends are known."""
        cosine, sine = np.cos(self.tilt), np.sin(self.tilt)
        # x²·p + 2xy·q + y²·r = 1 about the centre.
        p = (cosine / self.a) ** 2 + (sine / self.b) ** 2
        q = cosine * sine * (1 / self.a**2 - 1 / self.b**2)
        height = self.a * self.b * np.sqrt(p)
        index, line = lines_crossed(self.y - height, self.y + height, len(out), samples)
        y = line_height(line, len(out), samples) - self.y[index]
        middle = -y * q[index] / p[index]
        # The discriminant: p − y²·(p·r − q²), and p·r − q² = 1 / (ab)².
        square = np.maximum(p[index] - (y / (self.a[index] * self.b[index])) ** 2, 0)
        half = np.sqrt(square) / p[index]
        x, weight = self.x[index] + middle, self.density[index] / samples
        add_steps(
            out,
            np.concatenate((line, line)) // samples,
            np.concatenate((x - half, x + half)),
            np.concatenate((weight, -weight)),
        )


@dataclass(frozen=True)
class Gaussians:
    """Round Gaussian blobs of density·exp(−r²/2σ²); arrays of shape (blobs,)."""

    x: np.ndarray
    y: np.ndarray
    sigma: np.ndarray
    density: np.ndarray

    def add_line_integrals(
        self, out: np.ndarray, angles: np.ndarray, first: float, step: float
    ) -> None:
        """The integral of a Gaussian is a Gaussian, √(2π)·σ times as high."""
        cosine, sine = np.cos(angles), np.sin(angles)
        for some in _of_like_size(_GAUSSIAN_END * self.sigma / step, len(angles)):
            x, y, sigma, density = (
                value[some, None] for value in (self.x, self.y, self.sigma, self.density)
            )
            middle = x * cosine + y * sine
            s, where = _windows(middle, _GAUSSIAN_END * sigma, first, step)
            height = (density * np.sqrt(2 * np.pi) * sigma)[..., None]
            _add_windows(out, where, height * np.exp(-0.5 * (s / sigma[..., None]) ** 2))

    def add_pixels(self, out: np.ndarray, samples: int) -> None:
        """The mean over a pixel is a product of two differences of the error function."""
        size = len(out)
        edges = np.arange(size + 1) - size / 2
        for x, y, sigma, density in zip(self.x, self.y, self.sigma, self.density, strict=True):
            across = np.diff(ndtr((edges - x) / sigma))
            along = -np.diff(ndtr((-edges - y) / sigma))
            columns, rows = np.flatnonzero(across > 1e-12), np.flatnonzero(along > 1e-12)
            if len(columns) and len(rows):
                c = slice(columns[0], columns[-1] + 1)
                r = slice(rows[0], rows[-1] + 1)
                weight = 2 * np.pi * sigma**2 * density
                out[r, c] += weight * along[r, None] * across[None, c]


def line_integrals(
    shapes: Sequence[Shapes], angles: np.ndarray, columns: int, centre: float, samples: int = 1
) -> np.ndarray:
    """Integrate along rays, several to a detector pixel.

    Parameters
    ----------
    shapes
        What the rays cross.
    angles
        (views,) radians.
    columns
        Detector pixels.
    centre
        Column on which the axis falls.
    samples
        Rays across a pixel, evenly spaced.

    Returns
    -------
    ndarray
        (views, columns·samples) float64.
    """
    out = np.zeros((len(angles), columns * samples))
    first = (0.5 / samples - 0.5) - centre
    for shape in shapes:
        shape.add_line_integrals(out, angles, first, 1 / samples)
    return out


def pixel_means(shapes: Sequence[Shapes], size: int, samples: int = 8) -> np.ndarray:
    """Average the density over each pixel of a (size, size) image, float64."""
    out = np.zeros((size, size))
    for shape in shapes:
        shape.add_pixels(out, samples)
    return out


def line_height(line: np.ndarray, size: int, samples: int) -> np.ndarray:
    """Find y of the sample lines, counted from the image's top edge."""
    return size / 2 - (line + 0.5) / samples


def lines_crossed(
    low: np.ndarray, high: np.ndarray, size: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """List each (shape, sample line) with the line's y in [low, high) of the shape."""
    top = np.ceil((size / 2 - high) * samples - 0.5).clip(0, size * samples).astype(np.int64)
    end = np.ceil((size / 2 - low) * samples - 0.5).clip(0, size * samples).astype(np.int64)
    return ranges(top, end)


def ranges(begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chain the ranges [begin, end): which range each entry is of, and the entry."""
    count = np.maximum(end - begin, 0)
    index = np.repeat(np.arange(len(begin)), count)
    offset = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
    return index, begin[index] + offset


def add_steps(out: np.ndarray, row: np.ndarray, x: np.ndarray, height: np.ndarray) -> None:
    """Add steps at `x` that rise by `height` and stay, averaged over each pixel of its row."""
    size = out.shape[1]
    position = np.clip(x + size / 2, 0, size)
    pixel = np.minimum(position.astype(np.int64), size - 1)
    part = position - pixel
    # A running sum along the row turns these into the pixel's covered part, then 1 for good.
    steps = np.bincount(
        np.concatenate((row * (size + 1) + pixel, row * (size + 1) + pixel + 1)),
        weights=np.concatenate((height * (1 - part), height * part)),
        minlength=len(out) * (size + 1),
    )
    out += np.cumsum(steps.reshape(len(out), size + 1), axis=1)[:, :size]


def _of_like_size(reach: np.ndarray, views: int) -> Iterator[np.ndarray]:
    """Group shapes whose reach in rays is alike; one at a time is slow where they are small."""
    order = np.argsort(reach)
    begin = 0
    while begin < len(order):
        end = begin
        while end < len(order):
            count = (end + 1 - begin) * views * (2 * reach[order[end]] + 2)
            if count > _ENTRIES and end > begin:
                break
            end += 1
        yield order[begin:end]
        begin = end


def _windows(
    middle: np.ndarray, half: np.ndarray, first: float, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rays within `half` of `middle`, (shapes, views), as many for each.

    Returns the rays' s − middle and their columns, (shapes, views, rays).
    """
    begin = np.ceil((middle - half - first) / step).astype(np.int64)
    count = int(2 * np.max(half) / step) + 2
    where = begin[..., None] + np.arange(count)
    return first + step * where - middle[..., None], where


def _add_windows(out: np.ndarray, where: np.ndarray, values: np.ndarray) -> None:
    views, rays = out.shape
    view = np.arange(views)[:, None]
    inside = (where >= 0) & (where < rays)
    flat = where + rays * view
    if not inside.all():
        flat, values = flat[inside], values[inside]
    elif len(where) == 1:
        # One shape: no ray occurs twice, and only its own are touched.
        out.reshape(-1)[flat[0]] += values[0]
        return
    out += np.bincount(flat.ravel(), values.ravel(), out.size).reshape(out.shape)
