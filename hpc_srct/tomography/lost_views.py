"""Views that were lost: a frame without a number would make every slice one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# With more missing than this, a reconstruction is better not made up.
MOST = 0.05


def fill_lost_views(
    sinograms: Iterable[NDArray[np.float32]], angles: NDArray[np.float64], most: float = MOST
) -> set[int]:
    """Fill views with NaN or infinity from the nearest sound ones in angle, in place.

    Parameters
    ----------
    sinograms
        Each (view, column), line integrals. One that lacks more than `most` of its views is
        left as it is.
    angles
        (view,) radians, in any order.
    most
        Share of the views.

    Returns
    -------
    set of int
        The views that were filled in one of them.
    """
    filled: set[int] = set()
    for sinogram in sinograms:
        # Every slice is looked at: in the precision that is quickest, as a sum that is too great
        # for it is only looked at again.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(sinogram.sum()):
                continue
        lost = ~np.isfinite(sinogram.sum(axis=1, dtype=np.float64))
        if not 0 < np.count_nonzero(lost) <= most * len(lost):
            continue
        sound = np.flatnonzero(~lost)
        sound = sound[np.argsort(angles[sound], kind="stable")]
        for view in np.flatnonzero(lost):
            after = np.searchsorted(angles[sound], angles[view])
            a, b = sound[max(after - 1, 0)], sound[min(after, len(sound) - 1)]
            span = angles[b] - angles[a]
            share = np.float32(np.clip((angles[view] - angles[a]) / span, 0, 1) if span > 0 else 0)
            sinogram[view] = sinogram[a] + share * (sinogram[b] - sinogram[a])
            filled.add(int(view))
    return filled
