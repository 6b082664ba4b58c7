"""Whether the rotation centre is the same in all rows: an axis that leans is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpc_srct.errors import InputError
from hpc_srct.tomography.centre import find_centre

# Pixels: a row's own estimate is not trusted to less, and is left out where it is worse.
LEAST, MOST = 0.15, 2.0
# Standard deviations by which rows may differ; that of one row by itself is often too small.
ALLOWED, CAUTION = 3.0, 2.0


@dataclass(frozen=True)
class RowCheck:
    """Rotation centres of single rows, and what they say of the axis.

    Attributes
    ----------
    rows : tuple of int
        Those whose centre is found, to within `MOST` pixels.
    centres, uncertainties : tuple of float
        Pixels.
    tilt, tilt_uncertainty : float or None
        Degrees by which the axis leans in the detector's plane, clockwise as frames are shown
        (row 0 at the top) where negative; None with fewer than three rows.
    agree : bool
        No row differs from the mean by more than its uncertainty allows.
    note : str
        For the user, where they disagree.
    """

    rows: tuple[int, ...]
    centres: tuple[float, ...]
    uncertainties: tuple[float, ...]
    tilt: float | None
    tilt_uncertainty: float | None
    agree: bool
    note: str

    def describe(self) -> dict[str, Any]:
        """Give plain values."""
        return {
            "rows": list(self.rows),
            "centres": list(self.centres),
            "uncertainties": list(self.uncertainties),
            "tilt_degrees": self.tilt,
            "tilt_uncertainty_degrees": self.tilt_uncertainty,
            "agree": self.agree,
            "note": self.note,
        }


def check_rows(
    sinograms: NDArray | Sequence[NDArray],
    rows: Sequence[int],
    angles: ArrayLike,
    search: tuple[float, float] | None = None,
    method: str = "auto",
) -> RowCheck:
    """Find the centre of each row by itself, and compare.

    Parameters
    ----------
    sinograms
        (row, view, column) after the negative logarithm.
    rows
        Which detector rows they are.
    angles
        (views,), radians.
    search, method
        See `find_centre`.
    """
    found = []
    for row, sinogram in zip(rows, sinograms, strict=True):
        try:
            one = find_centre(sinogram, angles, search, method)
        except InputError:  # an empty row, or one with NaN, has no say
            continue
        if one.uncertainty <= MOST and not one.at_edge:
            found.append((int(row), float(one.value), float(one.uncertainty)))
    where, centres, sure = (
        (np.array(part, float) for part in zip(*found, strict=True)) if found else [[]] * 3
    )
    if len(found) < 2:
        text = "" if len(rows) < 2 else "fewer than two rows have a centre to compare"
        return RowCheck(*_tuples(found), None, None, True, text)
    weights = 1 / np.hypot(CAUTION * sure, LEAST) ** 2
    mean = np.average(centres, weights=weights)
    agree = bool((np.abs(centres - mean) * np.sqrt(weights) <= ALLOWED).all())
    tilt = doubt = None
    note = "" if agree else _disagreement(found, mean)
    if len(found) > 2:
        middle = np.average(where, weights=weights)
        spread = np.sum(weights * (where - middle) ** 2)
        slope = np.sum(weights * (where - middle) * (centres - mean)) / spread
        tilt = float(np.degrees(np.arctan(slope)))
        doubt = float(np.degrees(np.arctan(spread**-0.5)))
        rest = np.abs(centres - mean - slope * (where - middle)) * np.sqrt(weights)
        if not agree and (rest <= ALLOWED).all() and abs(tilt) > ALLOWED * doubt:
            drift = slope * (max(where) - min(where))
            note = (
                f"the axis is tilted by {abs(tilt):.2f}° ± {doubt:.2f}°: the centre moves by"
                f" {abs(drift):.1f} pixels from row {min(where):.0f} to row {max(where):.0f}, and"
                " one centre blurs what is far from the middle"
            )
    return RowCheck(*_tuples(found), tilt, doubt, agree, note)


def _tuples(found: list[tuple[int, float, float]]) -> list[tuple]:
    return [tuple(one[part] for one in found) for part in range(3)]


def _disagreement(found: list[tuple[int, float, float]], mean: float) -> str:
    words = ", ".join(f"row {row}: {centre:.2f}" for row, centre, _ in found)
    return f"rows disagree about the centre by more than they should ({words}; mean {mean:.2f})"
