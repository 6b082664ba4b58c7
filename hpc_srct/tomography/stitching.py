"""Full turns with the axis at the side of the detector, stitched to half a turn of wide views.

With θ the angle of a view and c the rotation centre, the view at θ + π sees at u the line that
the view at θ sees at 2c − u. Views half a turn apart therefore show the two sides of an object
that is up to twice as wide as the detector (Vo et al., Opt. Express 29, 17849, 2021, on
such scans). Where both see the same line they are blended from one to the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpc_srct.errors import InputError
from hpc_srct.tomography.geometry import checked_angles

# Views may leave so much of the turn out, or so many steps: opposites are interpolated.
MOST_LEFT_OUT = np.deg2rad(10)
STEPS_LEFT_OUT = 4


@dataclass(frozen=True)
class Stitching:
    """How views of a full turn become half as many, wider ones; made by `plan_stitching`.

    Attributes
    ----------
    views : ndarray of int (half,)
        The views that are kept and widened, in the order of their angles.
    partners : ndarray of int (half, 2)
        For each, the two views next to its opposite.
    shares : ndarray (half,)
        How far the opposite lies on the way from the first of them to the second.
    angles : ndarray (half,)
        Radians, over half a turn.
    columns : int
        Width of the stitched views.
    centre : float
        Their rotation centre.
    """

    views: NDArray[np.int64]
    partners: NDArray[np.int64]
    shares: NDArray[np.float64]
    angles: NDArray[np.float64]
    columns: int
    centre: float
    overlap: float
    """Columns that both of a pair see."""
    _first: int
    _width: int

    def __call__(
        self, views: NDArray, first: NDArray, second: NDArray, which: ArrayLike
    ) -> NDArray[np.float32]:
        """Widen some views.

        Parameters
        ----------
        views
            (k, …, columns) line integrals of ``self.views[which]``.
        first, second
            The same of ``self.partners[which]``, one and the other.
        which
            (k,) which of the stitched views.

        Returns
        -------
        ndarray (k, …, self.columns), float32
        """
        share = self.shares[np.asarray(which)].astype(np.float32)
        share = share.reshape(-1, *[1] * (views.ndim - 1))
        opposite = first + share * (second - first)
        u = np.arange(self._first, self._first + self.columns)
        centre = self.centre + self._first
        own = np.clip(u, 0, self._width - 1)
        weight = self._weight(u, centre).astype(np.float32)
        return weight * views[..., own] + (1 - weight) * _at(opposite, 2 * centre - u)

    def _weight(self, u: NDArray, centre: float) -> NDArray[np.float64]:
        """Weigh the view against its opposite: 1 where it alone sees, 0 where it does not."""
        last = self._width - 1
        if centre >= last / 2:
            weight = (last - u) / max(2 * (last - centre), 1.0)
        else:
            weight = u / max(2 * centre, 1.0)
        return np.clip(weight, 0.0, 1.0)


def left_out_of_turn(angles: ArrayLike) -> tuple[float, float]:
    """Measure the widest gap that views leave in a turn, and their usual distance; radians."""
    turn = np.sort(np.mod(np.asarray(angles, float) - np.min(angles), 2 * np.pi))
    gaps = np.diff(turn, append=turn[0] + 2 * np.pi)
    # The same angle a turn on may differ by rounding.
    steps = gaps[gaps > 1e-9]
    return float(gaps.max()), float(np.median(steps)) if steps.size else 2 * np.pi


def covers_turn(angles: ArrayLike) -> bool:
    """Tell whether views, modulo 2π, go once around."""
    left_out, step = left_out_of_turn(angles)
    return len(np.atleast_1d(angles)) >= 4 and left_out <= max(STEPS_LEFT_OUT * step, MOST_LEFT_OUT)


def plan_stitching(angles: ArrayLike, columns: int, centre: float) -> Stitching:
    """Pair the views of a full turn.

    Parameters
    ----------
    angles
        (views,), radians, over a full turn, in any order; beyond it, they count modulo 2π.
    columns
        Width of the detector.
    centre
        Rotation centre, 0-based detector coordinate, inside the detector.

    Raises
    ------
    InputError
        Not a full turn, or an axis off the detector.
    """
    angles = checked_angles(angles)
    if not 0 < centre < columns - 1:
        raise InputError(f"centre {centre:g}: expected inside the detector, 0 to {columns - 1}.")
    left_out, step = left_out_of_turn(angles)
    if not covers_turn(angles):
        raise InputError(
            f"stitching: the views leave {np.degrees(left_out):.1f}° of the turn out; expected"
            " a full turn. stitch=false reconstructs the narrow views."
        )
    turn = np.mod(angles - angles[0], 2 * np.pi)
    order = np.argsort(turn, kind="stable")
    ordered = turn[order]
    # A view that ends the half turn stands for the same lines as the one that begins it.
    kept = order[ordered < np.pi - 1e-3 * step]
    wanted = turn[kept] + np.pi
    right = np.searchsorted(ordered, wanted)
    left = right - 1
    before, after = ordered[left], np.append(ordered, 2 * np.pi)[right]
    share = (wanted - before) / np.where(after > before, after - before, 1.0)
    partners = np.stack([order[left], np.append(order, order[0])[right]], axis=1)
    first = min(0, int(np.ceil(2 * centre - (columns - 1))))
    last = max(columns - 1, int(np.floor(2 * centre)))
    return Stitching(
        views=kept,
        partners=partners,
        shares=share,
        angles=angles[0] + turn[kept],
        columns=last - first + 1,
        centre=centre - first,
        overlap=2 * min(centre, columns - 1 - centre),
        _first=first,
        _width=columns,
    )


def _at(rows: NDArray, where: NDArray) -> NDArray[np.float32]:
    """Interpolate along the last axis (Keys' cubic, 1981); beyond the ends, the end."""
    last = rows.shape[-1] - 1
    where = np.clip(where, 0, last)
    base = np.clip(np.floor(where).astype(np.int64), 0, max(last - 1, 0))
    t = where - base
    kernel = (
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    total = np.zeros((*rows.shape[:-1], len(where)), np.float32)
    for offset, weight in enumerate(kernel):
        column = np.clip(base + offset - 1, 0, last)
        total += weight.astype(np.float32) * rows[..., column]
    return total
