"""What the rotation angles of a scan are like, in words and figures."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# Steps this much apart (as a share of the usual one) still count as even.
_EVEN = 0.05


@dataclass(frozen=True)
class AngleSummary:
    """Angles of a scan, in degrees.

    Attributes
    ----------
    first, last : float
        In the order taken.
    span : float
        From the least to the greatest.
    step : float
        Median distance of neighbouring angles.
    direction : str
        ``rising``, ``falling`` or ``mixed``.
    regular : bool
        All steps are equal to within 5%.
    turn : str
        ``half`` (180°), ``full`` (360°), ``part`` (less than 180°) or ``other``.
    repeats_end : bool
        The last view looks along the line of the first: 180° or 360° on.
    repeated : int
        Views taken at an angle that another view has, exactly.
    largest_gap : float
        Widest wedge without a view, opposite views being one.
    """

    first: float
    last: float
    span: float
    step: float
    direction: str
    regular: bool
    turn: str
    repeats_end: bool
    repeated: int
    largest_gap: float

    @classmethod
    def of(cls, angles: np.ndarray) -> AngleSummary:
        """Look at some angles (radians, in the order taken)."""
        degrees = np.rad2deg(np.asarray(angles, dtype=np.float64))
        ordered = np.unique(degrees)
        gaps = np.diff(ordered)
        step = float(np.median(gaps)) if gaps.size else 0.0
        span = float(ordered[-1] - ordered[0])
        moves = np.diff(degrees)
        rising, falling = bool((moves >= 0).all()), bool((moves <= 0).all())
        folded = np.sort(np.mod(degrees, 180.0))
        wedges = np.diff(folded, append=folded[0] + 180.0)
        return cls(
            first=float(degrees[0]),
            last=float(degrees[-1]),
            span=span,
            step=step,
            direction="rising" if rising else "falling" if falling else "mixed",
            regular=bool((np.abs(gaps - step) <= _EVEN * step).all()),
            turn=_turn(span, step),
            repeats_end=_on_a_line(span, step),
            repeated=len(degrees) - len(ordered),
            largest_gap=float(wedges.max()),
        )

    def notes(self) -> list[str]:
        """Say what a user should know before reconstructing."""
        notes = []
        if self.turn == "part":
            notes.append(
                f"Angles cover {self.span + self.step:.4g}° of 180°: expect streaks along the"
                " missing wedge."
            )
        elif self.largest_gap > max(3 * self.step, 2.0):
            notes.append(f"Angles leave a wedge of {self.largest_gap:.3g}° without a view.")
        if self.repeats_end and self.turn in ("half", "full"):
            notes.append("The last view repeats the first, mirrored or a whole turn on.")
        if self.repeated:
            notes.append(f"{self.repeated} view(s) were taken at an angle that others have too.")
        if self.direction == "mixed":
            notes.append("Angles go back and forth; each view keeps its own.")
        if not self.regular:
            notes.append("Angles are not evenly spaced; views are weighted by their distance.")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return {"unit": "deg", **asdict(self)}


def _turn(span: float, step: float) -> str:
    slack = 1.6 * step
    for name, whole in (("half", 180.0), ("full", 360.0)):
        if abs(span - whole) <= slack:
            return name
    return "part" if span < 180.0 else "other"


def _on_a_line(span: float, step: float) -> bool:
    turns = span / 180.0
    return round(turns) > 0 and math.isclose(turns, round(turns), abs_tol=0.1 * step / 180.0)
