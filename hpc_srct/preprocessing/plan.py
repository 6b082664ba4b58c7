"""The plan: which rows each rank makes in which pass over the scan, within the memory.

The memory decides how many rows a rank holds at a time, and so how often the scan is read. It
never decides the result: blocks of 32 rows and pairs of rows are counted from the first row
chosen, whoever makes them and when.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.preprocessing.footprint import COMPILER, INTERPRETER, MIB, peak_bytes
from hpc_srct.preprocessing.reading import FLOAT, Reading, choose_reading, reading_bytes
from hpc_srct.slices.blocks import BLOCK_ROWS, block_count, block_slices
from hpc_srct.tomography.gridding import PAIRS

GIB = 2**30
# As many as the projector works on side by side; fewer take less memory.
ROWS_TOGETHER = (2 * PAIRS, PAIRS, 2)
# Most that is on its way between ranks at once: more gains nothing and takes memory from rows.
PIECE = 32 * MIB


@dataclass(frozen=True)
class Work:
    """The size of the task: what the plan needs to know of a scan and its settings.

    Attributes
    ----------
    n_slices, n_views, n_low, columns : int
        Rows chosen, projections, low-dose views, detector columns.
    frame_rows : int
        Rows of a whole frame.
    item, scratch_item : int
        Bytes that reading takes for a raw pixel, and bytes of one in a scratch folder.
    chunked_by_frame : bool
        Reading some rows costs whole frames.
    chunk_pixels, chunk_frames, chunk_rows : int
        Pixels, frames and rows that the smallest read unpacks.
    flat_frames, flat_groups : int
        Flats and darks together: frames of the largest group, and groups.
    truth, sinogram : bool
        Whether these are stored too.
    splits, padding : int
        Split reconstructions; columns by which sinograms are continued on each side.
    low_apart : bool
        The low dose has sinograms of its own.
    whole_frames : bool
        A frame-wise step needs whole frames, whichever rows are wanted.
    cleaned : bool
        Rings or zingers are removed.
    axis : float or None
        Column of the rotation axis, where it is known; else it is taken for the middle.
    base, compiler : int
        Bytes that a rank takes before it starts, and that numba takes.
    """

    n_slices: int
    n_views: int
    n_low: int
    columns: int
    frame_rows: int
    item: int = 2
    scratch_item: int = 2
    chunked_by_frame: bool = False
    chunk_pixels: int = 0
    chunk_frames: int = 1
    chunk_rows: int = 1
    flat_frames: int = 20
    flat_groups: int = 2
    truth: bool = False
    sinogram: bool = True
    splits: int = 0
    padding: int = 0
    low_apart: bool = False
    whole_frames: bool = False
    cleaned: bool = False
    axis: float | None = None
    base: int = INTERPRETER
    compiler: int = COMPILER

    @property
    def centre(self) -> float:
        """Column of the rotation axis."""
        return (self.columns - 1) / 2 if self.axis is None else self.axis

    @property
    def sinogram_bytes(self) -> int:
        """One row, all views; and those of fewer photons."""
        return (self.n_views + self.low_apart * self.n_low) * self.columns * FLOAT

    @property
    def kinds(self) -> int:
        """Count the kinds of slices in the store."""
        return 2 + self.truth + self.splits

    @property
    def reads_frames(self) -> bool:
        """Whether some rows cost whole frames."""
        return self.chunked_by_frame or self.whole_frames

    @property
    def slice_bytes(self) -> int:
        """One slice of one reconstruction."""
        return self.columns**2 * FLOAT


@dataclass(frozen=True)
class Portion:
    """Slices of one block that a rank makes in one pass, counted from the store's first."""

    block: int
    start: int
    stop: int


# For each rank, what it makes in one pass over the rows' frames.
Pass = tuple[tuple[Portion, ...], ...]


@dataclass(frozen=True)
class Plan:
    """How the work is done, and what it takes.

    Attributes
    ----------
    passes : tuple
        For each pass, for each rank, its portions.
    rows_per_rank : int
        Most rows that a rank holds at a time.
    rows_together : int
        Of those, how many it reconstructs side by side: up to 8 the quicker for being more.
    reading, staging : Reading
        How frames are read in a pass, and into the scratch folder.
    staged : bool
        Frames are laid out by rows in the scratch folder first.
    readings : int
        How often the scan's frames are read from end to end.
    phase_retrievals : int
        How often each frame goes through phase retrieval; 0 where none is asked for.
    memory, disk, scratch : int
        Peak bytes per rank, and bytes of the store and of the scratch folder.
    seconds : float
        A rough guess, for one thread per rank on a current CPU.
    """

    passes: tuple[Pass, ...]
    rows_per_rank: int
    rows_together: int
    reading: Reading
    staging: Reading
    staged: bool
    readings: int
    phase_retrievals: int
    memory: int
    disk: int
    scratch: int
    seconds: float

    def describe(self) -> dict[str, Any]:
        """Give the figures as plain values."""
        figures = asdict(self)
        del figures["passes"]
        return {**figures, "passes": len(self.passes)}


def make_plan(
    work: Work,
    ranks: int,
    memory: int,
    blocks: Sequence[int] | None = None,
    scratch: bool = False,
    finds_centre: bool = True,
) -> Plan:
    """Plan the work.

    Parameters
    ----------
    work
        Its size.
    ranks
        Number of ranks.
    memory
        Bytes that each may take.
    blocks
        Blocks to make; default all.
    scratch
        Whether there is a scratch folder.
    finds_centre
        The rotation centre, and frames without light, are looked for, which reads the scan's
        frames once more.

    Raises
    ------
    InputError
        The memory does not hold one pair of rows.
    """
    blocks = list(range(block_count(work.n_slices)) if blocks is None else blocks)
    wanted = _rows_wanted(work, ranks, len(blocks))
    ways = (
        _way(work, ranks, memory, blocks, scratch, rows, together, whole)
        for rows in wanted
        for together in ROWS_TOGETHER
        if together <= rows
        for whole in ((True, False) if work.chunk_frames > 1 else (False,))
    )
    fitting = [way for way in ways if way.peak <= memory]
    if not fitting:
        least = _least(work, ranks, blocks, scratch, wanted[-1])
        raise InputError(
            f"memory: {memory / MIB:.0f} MiB does not hold two rows of {work.n_views} views"
            f" × {work.columns} columns; set memory={least}MiB or more."
        )
    # Of equals the first: the most rows.
    way = min(fitting, key=lambda way: (way.cost, -way.together))
    by_frame = work.reads_frames and not way.staged
    readings = (len(way.passes) if by_frame else 1) + (finds_centre and work.chunked_by_frame)
    n_rows = sum(len(block_slices(block, work.n_slices)) for block in blocks)
    return Plan(
        passes=way.passes,
        rows_per_rank=way.rows,
        rows_together=way.together,
        reading=way.reading,
        staging=way.staging,
        staged=way.staged,
        readings=readings,
        phase_retrievals=(1 if way.staged else len(way.passes)) * work.whole_frames,
        memory=way.peak,
        disk=n_rows * _disk_per_slice(work),
        scratch=way.staged * staged_bytes(work),
        seconds=_seconds(work, way.passes, readings),
    )


@dataclass(frozen=True)
class _Way:
    """One way to do it: what it takes, and how often a chunk of the scan is unpacked."""

    rows: int
    together: int
    passes: tuple[Pass, ...]
    staged: bool
    reading: Reading
    staging: Reading
    peak: int
    cost: float


def _way(
    work: Work,
    ranks: int,
    memory: int,
    blocks: list[int],
    scratch: bool,
    rows: int,
    together: int,
    whole: bool,
) -> _Way:
    """Work with so many rows a rank, some of them together, with whole chunks or without."""
    piece = min(PIECE, memory // 16)
    passes = _deal(blocks, work.n_slices, ranks, rows)
    staged = scratch and work.reads_frames and len(passes) > 1
    at_once, span = _rows_at_once(work, ranks, rows), _span(work, passes)
    # The scratch folder has rows, not chunks.
    reading = choose_reading(work, at_once, span, piece, whole and not staged)
    all_rows = work.n_slices
    staging = choose_reading(work, all_rows, all_rows, piece, whole, not work.whole_frames)
    frames = reading_bytes(work, at_once, span, reading)
    in_parts = reading.views < work.n_views / ranks or reading.rows < work.frame_rows
    again = len(passes) > 1
    peak = peak_bytes(work, ranks, rows, together, at_once, frames, again, in_parts)
    if staged:
        copied = reading_bytes(work, all_rows, all_rows, staging, not work.whole_frames)
        corrected = work.whole_frames
        peak = max(peak, peak_bytes(work, ranks, 0, 2, all_rows, copied, False, corrected))
        cost = staging.repeats(work.chunk_frames)
    elif work.reads_frames:
        cost = len(passes) * reading.repeats(work.chunk_frames)
    else:
        cost = max(1, work.chunk_rows / rows) * reading.repeats(work.chunk_frames)
    return _Way(rows, together, passes, staged, reading, staging, peak, cost)


def _span(work: Work, passes: Sequence[Pass]) -> int:
    """Count the rows from the first to the last that one read is for."""
    spans = [1]
    for shares in passes:
        for share in [sum(shares, ())] if work.reads_frames else shares:
            if share:
                spans.append(share[-1].stop - share[0].start)
    return max(spans)


def _least(work: Work, ranks: int, blocks: list[int], scratch: bool, rows: int) -> int:
    """Find the least memory (MiB) that holds so many rows: with more, more is read at once."""
    least = 0
    while True:
        way = _way(work, ranks, least * MIB, blocks, scratch, rows, 2, False)
        need = math.ceil(way.peak / MIB)
        if need <= least:
            return least
        least = need


def _rows_wanted(work: Work, ranks: int, n_blocks: int) -> list[int]:
    """List how many rows a rank might hold, best first.

    More than a block at a time pays only where reading fewer rows is no cheaper.
    """
    most = -(-n_blocks // ranks) if work.reads_frames else 1
    whole = [BLOCK_ROWS * blocks for blocks in range(max(most, 1), 0, -1)]
    return [*whole, 16, 8, 4, 2]


def _deal(blocks: list[int], n_slices: int, ranks: int, rows: int) -> tuple[Pass, ...]:
    """Deal blocks to ranks, and cut them where a rank holds less than one."""
    passes: list[Pass] = []
    per_pass = ranks * max(1, rows // BLOCK_ROWS)
    for first in range(0, len(blocks), per_pass):
        dealt = np.array_split(blocks[first : first + per_pass], ranks)
        for cut in range(0, BLOCK_ROWS, min(rows, BLOCK_ROWS)):
            portions = tuple(
                tuple(_cut(int(block), n_slices, cut, rows) for block in share) for share in dealt
            )
            portions = tuple(tuple(p for p in share if p.stop > p.start) for share in portions)
            if any(portions):
                passes.append(portions)
    return tuple(passes)


def _cut(block: int, n_slices: int, cut: int, rows: int) -> Portion:
    inside = block_slices(block, n_slices)
    start = min(inside.start + cut, inside.stop)
    return Portion(block, start, min(start + rows, inside.stop))


def reading_outside_plan(scan: Any, rows: int, whole_frames: bool = False) -> Reading:
    """Say how to read a few rows, `rows` of them, outside a plan."""
    item = np.dtype(scan.dtype).itemsize

    def at_once(read: int) -> int:
        per_view = scan.n_columns * (read * item + rows * FLOAT * 4)
        return max(1, min(scan.n_views, PIECE // per_view))

    if whole_frames or (scan.chunk_frames == 1 and not scan.chunked_by_frame):
        views = at_once(scan.n_rows if scan.chunked_by_frame else rows)
        return Reading(scan.n_rows, views, views)
    frames, band = min(scan.chunk_frames, scan.n_views), scan.chunk_rows
    if frames * band * scan.n_columns * item > PIECE and frames > 1:
        band = 1
    step = at_once(band)
    return Reading(band, max(step // frames, 1) * frames, step, True)


def _rows_at_once(work: Work, ranks: int, rows: int) -> int:
    """Count the rows of the frames that a rank reads: every rank's, or its own alone."""
    return min(rows * ranks if work.reads_frames else rows, work.n_slices)


def staged_bytes(work: Work) -> int:
    """Count the bytes of the frames laid out by rows: raw, or as line integrals after phase."""
    if work.whole_frames:
        return work.n_slices * work.sinogram_bytes
    return work.n_slices * work.n_views * work.columns * work.scratch_item


def _disk_per_slice(work: Work) -> int:
    return work.kinds * work.slice_bytes + work.sinogram * work.n_low * work.columns * FLOAT


def _seconds(work: Work, passes: tuple[Pass, ...], readings: int) -> float:
    slowest = sum(
        max(sum(portion.stop - portion.start for portion in share) for share in shares)
        for shares in passes
    )
    views = work.n_views + work.n_low
    per_slice = (
        2e-8 * views * work.columns + 3e-8 * work.columns**2 + 6e-9 * (work.n_views * work.columns)
    )
    frames = work.n_views * work.frame_rows * work.columns * work.item
    return slowest * per_slice + readings * frames / 1e9
