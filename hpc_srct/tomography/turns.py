"""The views that each way of finding the centre wants: in order, evenly spaced, or in pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpc_srct.errors import InputError

# Views that a missing wedge may lack of the half turn before the mirror method fails.
MISSING_STEPS = 1.6
# By name; `auto` takes the one that suits the turn.
METHODS = ("auto", "mirror", "pairs", "mass")


def sorted_once(angles: NDArray) -> tuple[NDArray, NDArray]:
    """Fold to one turn, sort, and keep one of the views taken at one angle."""
    span = np.ptp(angles)
    folded = angles - angles.min()
    if span > 2 * np.pi:
        folded = np.mod(folded, 2 * np.pi)
    order = np.argsort(folded, kind="stable")
    order = order[np.diff(folded[order], prepend=-1.0) > 1e-3 * np.pi / len(angles)]
    return folded[order], order


def views_for(stack: NDArray, angles: NDArray, method: str) -> tuple[str, NDArray]:
    """Choose and order the views as a method wants them; say which turn they stand for."""
    folded, order = sorted_once(angles)
    if method == "mass":
        return "part", stack[:, order]
    turn, even = _even_steps(stack, angles)
    if (method, turn) in (("auto", turn), ("mirror", "half"), ("pairs", "full")):
        return turn, even
    if turn == "part":
        raise InputError(f"find_centre: {method} needs half a turn; use mass, or give the centre.")
    if method == "mirror":
        first = order[folded < np.pi - 1e-6]
        return _even_steps(stack[:, first], angles[first])
    # Of half a turn few views have an opposite: the first, and those that go on beyond the end.
    stack, step = stack[:, order], np.median(np.diff(folded))
    with_opposite = folded + np.pi <= folded[-1] + MISSING_STEPS * step
    opposite = _interpolated(stack, folded, folded[with_opposite] + np.pi)
    return "full", np.concatenate([stack[:, with_opposite], opposite], axis=1)


def _interpolated(stack: NDArray, folded: NDArray, wanted: NDArray) -> NDArray:
    """Give the views at some angles between those there are; beyond the ends, the end."""
    right = np.clip(np.searchsorted(folded, wanted), 1, len(folded) - 1)
    share = (wanted - folded[right - 1]) / (folded[right] - folded[right - 1])
    share = np.clip(share, 0, 1).astype(np.float32)[:, None]
    return stack[:, right - 1] * (1 - share) + stack[:, right] * share


def _even_steps(stack: NDArray, angles: NDArray) -> tuple[str, NDArray]:
    """Bring the views to even steps over a full turn, half a turn, or the part there is."""
    folded, order = sorted_once(angles)
    if len(folded) < 4:
        raise InputError(f"find_centre: {len(folded)} different views; expected 4 or more.")
    step, wide = np.percentile(np.diff(folded), (50, 90))
    if folded[-1] >= 2 * np.pi - MISSING_STEPS * wide:
        turn, arc = "full", 2 * np.pi
    elif folded[-1] >= np.pi - MISSING_STEPS * wide:
        turn, arc = "half", np.pi
    else:
        return "part", stack[:, order]
    count = max(4, 2 * round(arc / step / 2))
    wanted = np.arange(count) * arc / count
    if len(folded) >= count and np.allclose(folded[:count], wanted, atol=0.02 * step):
        return turn, stack[:, order[:count]]
    return turn, _interpolated(stack[:, order], folded, wanted)
