"""What a rank takes of the memory: the estimate that a plan is made with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hpc_srct.preprocessing.reading import FLOAT
from hpc_srct.tomography.gridding import (
    COLUMNS,
    FBP_WIDTH,
    STRIP,
    fast_even,
    grid_size,
    pairs_for,
)
from hpc_srct.tomography.nufft import TAIL_BINS

if TYPE_CHECKING:
    from hpc_srct.preprocessing.plan import Work

MIB = 2**20
# What a fresh rank takes, its libraries loaded, before it begins.
INTERPRETER = 86 * MIB
# What numba takes from the first correction on: 106 MiB where its code is at hand. The first run of
# all compiles it and takes some 30 more; what the margin and the slack leave of these counts here.
COMPILER = 120 * MIB
# Measured by benchmarks/preprocessing_memory.py: how far the estimate may fall short.
MARGIN = 1.05
# Libraries' own buffers, and what the allocator keeps.
SLACK = 16 * MIB


def peak_bytes(
    work: Work,
    ranks: int,
    rows: int,
    together: int,
    at_once: int,
    reading: int,
    again: bool,
    in_parts: bool,
) -> int:
    """Add up the peak of a rank.

    Parameters
    ----------
    work
        The size of the task.
    ranks
        Their number.
    rows, together
        Rows that it holds, and of these how many are reconstructed side by side.
    at_once
        Rows that it reads of each frame.
    reading
        Bytes that go by in reading.
    again
        It reads again after it has reconstructed.
    in_parts
        It reads again after it has corrected, with numba loaded.
    """
    rows, together = min(rows, work.n_slices), min(together, work.n_slices)
    flat_rows = work.frame_rows if work.whole_frames else min(at_once, work.n_slices)
    flats = work.flat_groups * flat_rows * work.columns * FLOAT
    frames = flats + reading
    # It is held packed and unpacked, beside what is taken from it.
    chunk = int(1.5 * work.chunk_pixels * work.item)
    kept, reconstructing = _reconstruction(work, together)
    averaged = max(rows, flat_rows / ranks)
    averaging = 2 * averaged * work.flat_frames * work.columns * FLOAT
    before = max(frames + chunk, averaging - rows * work.sinogram_bytes)
    after = max(reconstructing, kept + before * again)
    after = max(after, frames + chunk * in_parts)
    held = max(MARGIN * before, work.compiler + MARGIN * after)
    return int(work.base + SLACK + MARGIN * rows * work.sinogram_bytes + held)


def _reconstruction(work: Work, together: int) -> tuple[int, int]:
    """Count what is kept after a few rows are reconstructed, and what is taken meanwhile."""
    wide = work.columns + 2 * work.padding
    geometries = [work.n_views, work.n_low]
    geometries += [-(-work.n_views // max(work.splits, 1))] * work.splits
    far = max(work.centre, work.columns - 1 - work.centre) + work.padding
    least = 2 * wide if wide < TAIL_BINS else wide + 2
    samples = fast_even(math.ceil(max(far + work.columns / math.sqrt(2) + 2, least)))
    points = [views * samples for views in geometries]
    # Phases, gains, and the order of the points; the low waves of the filter's tail.
    projectors = sum(28 * count for count in points) + 520 * sum(geometries)
    # Putting the points in order, before there is a scratch.
    ordering = 24 * max(points)
    pairs = pairs_for(together)
    grid = grid_size(work.columns)
    # Waves, the grid transformed along one axis, and the strips on their way.
    strip = STRIP + FBP_WIDTH - 1
    scratch = 8 * pairs * (max(points) + grid * work.columns + strip * grid) + 8 * COLUMNS * grid
    images = together * work.slice_bytes
    low = together * work.n_low * work.columns * FLOAT
    padded = together * work.n_views * FLOAT * wide * (work.padding > 0)
    cleaning = 2 * work.n_views * FLOAT * work.cleaned * 4 * work.columns
    kept = projectors + scratch + images
    return kept, int(max(projectors + ordering, kept + low + padded, kept + cleaning))
