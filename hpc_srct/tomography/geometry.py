"""Parallel-beam geometry: how much of the half turn each view stands for.

A pixel is 1. s = x·cos θ + y·sin θ with x = column − (N − 1)/2 to the right and
y = (N − 1)/2 − row up; a point at s falls on detector coordinate s + centre.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpc_srct.errors import InputError

# A gap this many times the usual one is a wedge nobody measured, not a wide step.
MISSING_WEDGE = 4.0
# Views nearer than this share of the mean gap are one view measured twice.
SAME_VIEW = 1e-3


def checked_angles(angles: ArrayLike) -> NDArray[np.float64]:
    """Give angles as a 1-D float64 array, or say what is wrong with them."""
    angles = np.asarray(angles, dtype=np.float64)
    if angles.ndim != 1 or angles.size == 0:
        raise InputError(
            f"angles: expected one per view (radians), found an array of shape {angles.shape}."
        )
    if not np.isfinite(angles).all():
        raise InputError(f"angles: view {int(np.argmin(np.isfinite(angles)))} is not a number.")
    return angles


def view_weights(angles: ArrayLike) -> NDArray[np.float64]:
    """Weigh each view by the arc that it stands for, modulo π.

    A view gets half of the gap to each neighbour, so that any order, irregular steps, a
    repeated end point and full turns come out right. A gap that nobody measured (a missing
    wedge) is not given to the views at its edges: they get the usual gap there.

    Parameters
    ----------
    angles
        (views,), radians, in any order.

    Returns
    -------
    ndarray (views,)
        Radians; they sum to π where the views cover the half turn.
    """
    angles = checked_angles(angles)
    if angles.size == 1:
        return np.array([np.pi])
    folded = np.mod(angles, np.pi)
    order = np.argsort(folded, kind="stable")
    gaps = np.diff(folded[order], append=folded[order[0]] + np.pi)
    apart = gaps > SAME_VIEW * np.pi / angles.size
    if apart.sum() < 2:
        return np.full(angles.size, np.pi / angles.size)
    group = np.cumsum(apart) - apart
    group[group == apart.sum()] = 0  # views just below π are those at 0 again
    gaps = gaps[apart]
    if gaps.size > 2:
        # Not the median: in a full turn every other gap may be next to nothing.
        usual = np.percentile(gaps, 75)
        gaps = np.where(gaps > MISSING_WEDGE * usual, usual, gaps)
    arcs = (gaps + np.roll(gaps, 1)) / 2
    weights = np.empty_like(folded)
    weights[order] = (arcs / np.bincount(group))[group]
    return weights


def field_of_view(columns: int, centre: float | None = None) -> float:
    """Give the radius (pixels) of the circle round the axis that every view sees."""
    centre = (columns - 1) / 2 if centre is None else centre
    return float(min(centre, columns - 1 - centre))
