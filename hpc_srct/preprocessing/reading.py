"""In which order a pass reads frames: whole chunks where chunks hold many views, and each once.

A chunk is unpacked whole for whatever is wanted of it. Where it holds many views, a few views
at a time would unpack it again and again; so all views of a chunk are read at once, for no more
rows than the memory bears, and then corrected a few views at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hpc_srct.preprocessing.plan import Work

FLOAT = 4


@dataclass(frozen=True)
class Reading:
    """How frames are read.

    Attributes
    ----------
    rows : int
        Detector rows in a band: bands are read one after the other.
    views : int
        Views that a rank reads at once.
    step : int
        Of those, how many it corrects (and gives away) at once.
    whole : bool
        What is read at once ends where chunks end.
    """

    rows: int
    views: int
    step: int
    whole: bool = False

    def repeats(self, chunk_frames: int) -> int:
        """Say how often a chunk of so many frames is unpacked."""
        return 1 if self.whole else -(-chunk_frames // self.views)


@dataclass(frozen=True)
class Step:
    """What a rank corrects at once.

    Attributes
    ----------
    rows : slice
        Counted among the rows that are wanted.
    views : slice
    read : slice
        The views that are read at once, these among them.
    """

    rows: slice
    views: slice
    read: slice


def sweeps(
    rows: np.ndarray, n_views: int, reading: Reading, starts: np.ndarray, ranks: int
) -> list[list[Step]]:
    """Deal the frames to ranks, each a run of them, band by band.

    Parameters
    ----------
    rows : ndarray of int
        Detector rows that are wanted, rising.
    n_views
        All of them are read.
    reading
        How.
    starts : ndarray of int
        Views at which a chunk begins.
    ranks
        Their number.

    Returns
    -------
    list of list of Step
        For each rank. No chunk is with two of them where there is at least one for each.
    """
    bands = _bands(rows, reading.rows)
    starts = starts if reading.whole else np.arange(n_views)
    units = starts if len(bands) * len(starts) >= ranks else np.arange(n_views)
    n_units = len(bands) * len(units)
    # Counted through all bands: view v of band b is b · n_views + v.
    bounds = [
        unit // len(units) * n_views + int(units[unit % len(units)])
        for unit in (rank * n_units // ranks for rank in range(ranks + 1))
    ]
    ends = np.append(starts, n_views)
    return [
        [
            Step(band, slice(first, min(first + reading.step, read.stop)), read)
            for number, band in enumerate(bands)
            for read in _reads(start - number * n_views, stop - number * n_views, ends, reading)
            for first in range(read.start, read.stop, reading.step)
        ]
        for start, stop in pairwise(bounds)
    ]


def _bands(rows: np.ndarray, height: int) -> list[slice]:
    """Cut rising rows where a multiple of `height` lies between them."""
    cuts = np.flatnonzero(np.diff(rows // height)) + 1
    return [slice(a, b) for a, b in pairwise([0, *cuts.tolist(), len(rows)]) if b > a]


def _reads(start: int, stop: int, ends: np.ndarray, reading: Reading) -> Iterator[slice]:
    """Cut what lies between, as far as it is of this band, where chunks end."""
    start, stop = max(start, 0), min(stop, int(ends[-1]))
    while start < stop:
        end = int(ends[np.searchsorted(ends, start + reading.views, side="right") - 1])
        if end <= start:  # a chunk of more views than were meant to be read
            end = int(ends[np.searchsorted(ends, start, side="right")])
        yield slice(start, min(end, stop))
        start = min(end, stop)


def choose_reading(
    work: Work, rows: int, span: int, piece: int, whole: bool, raw_only: bool = False
) -> Reading:
    """Choose how frames are read, within `piece` bytes where chunks allow it.

    Parameters
    ----------
    work
        The size of the task.
    rows, span
        Rows that are wanted of each frame, and from the first to the last of them.
    piece
        Bytes.
    whole
        Read chunks of many views whole, whatever that takes.
    raw_only
        Frames are not corrected.
    """

    def at_once(band: int) -> int:
        return max(1, min(work.n_views, piece // sum(_per_view(work, rows, span, band, raw_only))))

    everything, frames = work.frame_rows, work.chunk_frames
    views = at_once(everything)
    if not whole or frames == 1:
        return Reading(everything, views, views)
    if views >= frames:
        views -= views % frames
        return Reading(everything, views, views, True)
    band = everything
    if not work.whole_frames:
        # So many rows of chunks, every view of them, as fit.
        one = frames * sum(_per_view(work, rows, span, work.chunk_rows, raw_only))
        band = max(1, piece // one) * work.chunk_rows
        if one <= piece:
            return Reading(band, frames, frames, True)
    made = _per_view(work, rows, span, band, raw_only)[1]
    return Reading(band, frames, max(1, min(frames, piece // made)), True)


def reading_bytes(
    work: Work, rows: int, span: int, reading: Reading, raw_only: bool = False
) -> int:
    """Count what is held while frames are read so; `choose_reading` has the parameters."""
    raw, made = _per_view(work, rows, span, reading.rows, raw_only)
    return reading.views * raw + reading.step * made


def _per_view(work: Work, rows: int, span: int, band: int, raw_only: bool) -> tuple[int, int]:
    """Count what one view of a band takes: as it is read, and as it is corrected and sent."""
    wanted = min(band, rows)
    read = min(band, span)
    if work.whole_frames:
        wanted, read = rows, work.frame_rows
    raw = work.columns * read * work.item
    # Rows are picked out of those between.
    made = work.columns * wanted * work.item * (read > wanted or raw_only)
    if not raw_only or work.whole_frames:
        # Outgoing, full and low dose, and incoming; raw ones that had to become float32.
        corrected = 2 * work.frame_rows if work.whole_frames else wanted
        made += work.columns * (corrected + 3 * wanted) * FLOAT
    return raw, made
