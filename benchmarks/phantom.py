"""Toft's modified Shepp-Logan phantom with its exact line integrals.

Conventions (they move the error by a factor of two, so they are named): the sinogram is the
exact one averaged over each detector pixel, the image the mean over 8 × 8 points in a pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Value, half axes, centre, tilt in degrees (Toft 1996, table B.3), on the square [−1, 1]².
TOFT = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)

Ellipses = tuple[tuple[float, ...], ...]


def sinogram(
    angles: NDArray,
    columns: int,
    centre: float | None = None,
    ellipses: Ellipses = TOFT,
    samples: int = 2,
    size: int | None = None,
) -> NDArray[np.float32]:
    """Integrate along the rays, exactly, averaged over `samples` rays in a detector pixel.

    Returns
    -------
    ndarray (views, columns)
        In the phantom's values × pixels, for an image of `size` (default `columns`) pixels.
    """
    size = columns if size is None else size
    centre = (columns - 1) / 2 if centre is None else centre
    inside = (np.arange(samples) + 0.5) / samples - 0.5
    u = (np.arange(columns)[:, None] + inside).ravel()
    s = (u - centre) * 2 / size
    out = np.zeros((len(angles), columns * samples))
    for value, a, b, x0, y0, tilt in ellipses:
        cos, sin = np.cos(angles - np.radians(tilt)), np.sin(angles - np.radians(tilt))
        width2 = (a * cos) ** 2 + (b * sin) ** 2
        offset = s - (x0 * np.cos(angles) + y0 * np.sin(angles))[:, None]
        chord = np.sqrt(np.maximum(width2[:, None] - offset**2, 0))
        out += value * 2 * a * b / width2[:, None] * chord
    out = out.reshape(len(angles), columns, samples).mean(axis=2) * size / 2
    return out.astype(np.float32)


def image(
    size: int, ellipses: Ellipses = TOFT, samples: int = 8, shift: float = 0.0
) -> NDArray[np.float32]:
    """Average the phantom over samples × samples points in each pixel; (y, x), y up.

    With a `shift` the phantom stands so many pixels to the right and down.
    """
    axis = ((np.arange(size * samples) + 0.5) / samples - size / 2 - shift) * 2 / size
    out = np.zeros((size, size), np.float32)
    for row in range(size):
        y = -axis[row * samples : (row + 1) * samples, None]
        fine = np.zeros((samples, size * samples), np.float32)
        for value, a, b, x0, y0, tilt in ellipses:
            cos, sin = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
            along = (axis - x0) * cos + (y - y0) * sin
            across = -(axis - x0) * sin + (y - y0) * cos
            fine[(along / a) ** 2 + (across / b) ** 2 <= 1] += value
        out[row] = fine.reshape(samples, size, samples).mean(axis=(0, 2))
    return out


def disc_mask(size: int, share: float = 0.97) -> NDArray[np.bool_]:
    """Mark the pixels within `share` of the inscribed circle's radius."""
    x = (np.arange(size) - (size - 1) / 2) * 2 / size
    return x[:, None] ** 2 + x**2 <= share**2
