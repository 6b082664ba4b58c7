"""The frame-wise half: raw frames in, line integrals out.

A rank reads its share of the views, for the rows of the pass alone, and corrects each frame by
flats that are interpolated by the frame's place in the scan.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np

from hpc_srct.scan import FrameGroup, Scan
from hpc_srct.tomography.correction import median_frame, minus_log, transmission


class FrameSource(Protocol):
    """Where raw frames come from: a scan, or the scratch folder."""

    def projections(self, views: np.ndarray, rows: slice) -> np.ndarray:
        """Read (view, row, column) in the file's type."""


@dataclass
class Times:
    """Seconds spent by a rank, apart."""

    read: float = 0.0
    correct: float = 0.0
    exchange: float = 0.0
    reconstruct: float = 0.0
    write: float = 0.0

    def add(self, name: str, start: float) -> float:
        """Add the time since `start` to one of them; give the time now."""
        now = time.perf_counter()
        setattr(self, name, getattr(self, name) + now - start)
        return now

    @property
    def total(self) -> float:
        """All of them."""
        return sum(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True)
class Fields:
    """Flats and dark for some detector rows.

    Attributes
    ----------
    flats : ndarray
        (group, row, column) float32: the median of each group.
    positions : ndarray
        (group,): how many projections were taken before each.
    dark : ndarray
        (row, column) float32.
    """

    flats: np.ndarray
    positions: np.ndarray
    dark: np.ndarray

    @classmethod
    def of(cls, scan: Scan, rows: slice) -> Fields:
        """Read a scan's flats and darks for some rows and take their medians.

        Where the scan has no flats (and the settings allow it) its projections are taken as
        corrected already.
        """
        shape = (len(range(*rows.indices(scan.n_rows))), scan.n_columns)
        flats = scan.flats(rows)
        if not flats:
            ones = np.ones((1, *shape), np.float32)
            return cls(ones, np.zeros(1), np.zeros(shape, np.float32))
        darks = scan.darks(rows)
        dark = (
            median_frame(np.concatenate([group.frames for group in darks]))
            if darks
            else np.zeros(shape, np.float32)
        )
        positions = sorted({float(group.position) for group in flats})
        images = [_median_at(flats, position) for position in positions]
        return cls(np.stack(images), np.array(positions), dark)

    @classmethod
    def joined(cls, parts: Sequence[Fields]) -> Fields:
        """Lay the rows of several under each other."""
        return cls(
            np.concatenate([part.flats for part in parts], axis=1),
            parts[0].positions,
            np.concatenate([part.dark for part in parts]),
        )


def _median_at(groups: Sequence[FrameGroup], position: float) -> np.ndarray:
    there = [group.frames for group in groups if group.position == position]
    return median_frame(np.concatenate(there) if len(there) > 1 else there[0])


@dataclass
class FrameWise:
    """Reads and corrects frames for chosen detector rows.

    Attributes
    ----------
    source : FrameSource
        Where projections are read: the scan itself, or its copy laid out by rows.
    by_frame : bool
        Reading some rows costs whole frames, so that one read takes all.
    rows : ndarray of int
        Detector rows, rising.
    fields : Fields
        For these rows.
    floor : float
        Least transmission.
    clipped : ndarray of int
        Pixels raised to the floor so far, by row.
    """

    source: FrameSource
    by_frame: bool
    rows: np.ndarray
    fields: Fields
    floor: float
    times: Times
    clipped: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.clipped = np.zeros(len(self.rows), dtype=np.int64)

    def line_integrals(self, views: np.ndarray) -> np.ndarray:
        """Read some views and correct them.

        Returns
        -------
        ndarray
            (view, row, column) float32: −log of the transmission.
        """
        now = time.perf_counter()
        raw = read_rows(self.source, views, self.rows, self.by_frame)
        now = self.times.add("read", now)
        passed, clipped = transmission(
            raw,
            self.fields.flats,
            self.fields.dark,
            floor=self.floor,
            flat_positions=self.fields.positions,
            positions=views + 0.5,
        )
        self.clipped += clipped
        minus_log(passed, out=passed)
        self.times.add("correct", now)
        return passed


def read_rows(
    source: FrameSource, views: np.ndarray, rows: np.ndarray, by_frame: bool
) -> np.ndarray:
    """Read some detector rows (rising) of some views."""
    if by_frame:
        whole = source.projections(views, slice(int(rows[0]), int(rows[-1]) + 1))
        return whole if whole.shape[1] == len(rows) else whole[:, rows - rows[0]]
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    parts = [source.projections(views, slice(int(run[0]), int(run[-1]) + 1)) for run in runs]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
