"""The frame-wise half: raw frames in, line integrals out.

A rank reads its share of the views, for the rows of the pass alone, and corrects each frame by
flats that are interpolated by the frame's place in the scan.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.preprocessing.dose import Dose
from hpc_srct.preprocessing.reading import Step
from hpc_srct.scan import FrameGroup, Scan
from hpc_srct.tomography.correction import (
    dead_pixels,
    line_integrals,
    median_frame,
    minus_log,
    transmission,
)
from hpc_srct.tomography.phase import Paganin


class FrameSource(Protocol):
    """Where raw frames come from: a scan, or the scratch folder."""

    def projections(self, views: np.ndarray, rows: slice) -> np.ndarray:
        """Read (view, row, column) in the file's type."""


@dataclass
class Times:
    """Seconds spent by a rank, apart.

    `correct` has what is computed beside the FBPs: frames, rings, zingers, intensities;
    `reconstruct` the FBPs alone; `exchange` waiting for other ranks, `write` for the disk too.
    """

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
    def of(cls, scan: Scan, rows: slice, monitor: bool = False) -> Fields:
        """Read a scan's flats and darks for some rows and take their medians.

        Where the scan has no flats (and the settings allow it) its projections are taken as
        corrected already. With `monitor` each flat is brought to the scan's mean beam.
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
        if monitor:
            flats = [_at_mean_beam(group, dark, scan) for group in flats]
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


def _at_mean_beam(group: FrameGroup, dark: np.ndarray, scan: Scan) -> FrameGroup:
    factors = flats_factors(group, scan)
    return replace(group, frames=dark + (group.frames - dark) * factors[:, None, None])


def flats_factors(group: FrameGroup, scan: Scan) -> np.ndarray:
    """Give the `beam_factors` of a group of flats, which must have readings of their own."""
    if group.monitor is None:
        raise InputError(f"monitor: {scan.path} has no beam monitor for its flats; monitor=false.")
    return beam_factors(group.monitor, scan)


def beam_factors(monitor: np.ndarray, scan: Scan) -> np.ndarray:
    """Say by how much frames at these monitor readings are to be scaled, (frame,) float32.

    Raises
    ------
    InputError
        The scan has no monitor, or a reading is not above 0.
    """
    if scan.monitor is None:
        unused = (note for note in scan.notes if "beam monitor not used" in note)
        why = next(unused, f"{scan.path} has no beam monitor.")
        raise InputError(f"monitor: {why} Set monitor=false.")
    for what, readings in (("view", scan.monitor), ("flat", monitor)):
        wrong = np.flatnonzero(~((readings > 0) & np.isfinite(readings)))
        if wrong.size:
            raise InputError(
                f"monitor: {scan.path} has a beam monitor reading of {readings[wrong[0]]:g} at"
                f" {what} {wrong[0]}; expected above 0 ({wrong.size} such). Set monitor=false."
            )
    return (np.mean(scan.monitor) / monitor).astype(np.float32)


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
    dose : Dose or None
        Fewer photons.
    low_views : ndarray of int
        Views that are given with fewer photons too; rising.
    beam : ndarray or None
        (scan's views,): factors that bring each view to the mean beam.
    phase : Paganin or None
        Phase retrieval; `rows` are then all of them.
    keep : ndarray of int or None
        Which of `rows` are given, after phase retrieval.
    lost : ndarray of int
        Views that hold no light; given as NaN.
    dead : ndarray of bool
        Pixels without beam, of `fields`.
    clipped : ndarray of int
        Pixels raised to the floor so far, by row that is given; of the full dose.
    """

    source: FrameSource
    by_frame: bool
    rows: np.ndarray
    fields: Fields
    floor: float
    times: Times
    dose: Dose | None = None
    low_views: np.ndarray | None = None
    beam: np.ndarray | None = None
    phase: Paganin | None = None
    keep: np.ndarray | None = None
    lost: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    dead: np.ndarray = field(init=False)
    clipped: np.ndarray = field(init=False)
    _held: tuple[tuple[slice, slice], np.ndarray] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        given = self.rows if self.keep is None else self.keep
        self.clipped = np.zeros(len(given), dtype=np.int64)
        self.dead = dead_pixels(self.fields.flats, self.fields.dark)

    def kinds(self, n_views: int) -> list[np.ndarray]:
        """List the views of each kind of frames that `line_integrals` gives."""
        return [np.arange(n_views), *([] if self.dose is None else [self.low_views])]

    def line_integrals(
        self, step: Step, into: Sequence[np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Read and correct the frames of a step.

        Parameters
        ----------
        step
            Its rows are counted among those that are given.
        into
            Where to write, for each kind; any strides.

        Returns
        -------
        list of ndarray
            For each kind (view, row, column) float32: −log of the transmission. First of all
            views of the step, then with fewer photons, where asked for, of the low-dose ones
            among them.
        """
        rows = step.rows if self.phase is None else slice(0, len(self.rows))
        views = np.arange(step.views.start, step.views.stop)
        now = time.perf_counter()
        raw = self._raw(step, rows)
        now = self.times.add("read", now)
        low = np.intersect1d(views, self.low_views) if self.dose is not None else views[:0]
        if into is None:
            shape = (step.rows.stop - step.rows.start, raw.shape[2])
            kinds = [views] if self.dose is None else [views, low]
            into = [np.empty((len(kind), *shape), np.float32) for kind in kinds]
        self.clipped[step.rows] += self._correct(raw, views, rows, step.rows, into[0])
        if len(low):
            fewer = raw[low - views[0]]
            fewer = self.dose.lowered(fewer, self.fields.dark[rows], low, self.rows[rows])
            self._correct(fewer, low, rows, step.rows, into[1])
        self.times.add("correct", now)
        return list(into)

    def _raw(self, step: Step, rows: slice) -> np.ndarray:
        """Give the raw frames of a step; those that are read with them are kept for the next."""
        wanted, key = self.rows[rows], (step.read, rows)
        if self._held is None or self._held[0] != key:
            self._held = None  # two would not fit
            views = np.arange(step.read.start, step.read.stop)
            self._held = (key, _read(self.source, views, wanted, self.by_frame))
        first = step.read.start
        part = self._held[1][step.views.start - first : step.views.stop - first]
        if step.views.stop == step.read.stop:
            self._held = None
        return part if part.shape[1] == len(wanted) else part[:, wanted - wanted[0]]

    def _correct(
        self, raw: np.ndarray, views: np.ndarray, rows: slice, given: slice, out: np.ndarray
    ) -> np.ndarray:
        """Make line integrals of frames; say how many values of each row were raised."""
        dark = self.fields.dark[rows]
        raw = without_lost(raw, np.isin(views, self.lost))
        if self.beam is not None:
            raw = dark + (raw - dark) * self.beam[views][:, None, None]
        frames = (raw, self.fields.flats[:, rows], dark)
        known = {
            "floor": self.floor,
            "flat_positions": self.fields.positions,
            "positions": views + 0.5,
            "dead": self.dead[rows],
        }
        if self.phase is None:
            return line_integrals(*frames, **known, out=out)[1]
        passed, clipped = transmission(*frames, **known)
        minus_log(self.phase(passed)[:, self.keep[given]], out=out)
        return clipped[self.keep[given]]


def without_lost(frames: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Give frames (view, row, column) with NaN in place of some of them, (view,) bool."""
    if not lost.any():
        return frames
    frames = frames.astype(np.float32)
    frames[lost] = np.nan
    return frames


def _read(source: FrameSource, views: np.ndarray, rows: np.ndarray, by_frame: bool) -> np.ndarray:
    """Read some detector rows (rising) of some views; with those between where that is cheaper."""
    if by_frame:
        return source.projections(views, slice(int(rows[0]), int(rows[-1]) + 1))
    parts = [source.projections(views, run) for run in runs_of(rows)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def runs_of(rows: np.ndarray) -> list[slice]:
    """Cut rising rows into runs without a gap."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return [slice(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]
