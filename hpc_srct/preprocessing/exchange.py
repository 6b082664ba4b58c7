"""Frames for rows: every rank reads whole frames, every rank gets whole sinograms.

A frame-wise step needs a frame, a row-wise step needs all views of a row. Each rank holds a
share of the views and gives away the rows that others work on, a few views at a time, so that
the buffers stay small and every message stays below MPI's 2³¹ elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpc_srct.ranks import Communicator

# Frames of these views, (view, row, column) float32, for all rows of the pass.
Produce = Callable[[np.ndarray], np.ndarray]


def share_of_views(n_views: int, rank: int, ranks: int) -> np.ndarray:
    """Give the views that a rank reads: a run of them, so that files are read in order."""
    return np.arange(rank * n_views // ranks, (rank + 1) * n_views // ranks)


def frames_for_rows(
    produce: Produce,
    n_views: int,
    n_columns: int,
    shares: Sequence[slice],
    communicator: Communicator,
    views_at_once: int,
) -> np.ndarray:
    """Read frames by views and give them back by rows. Every rank must call it.

    Parameters
    ----------
    produce
        Reads and corrects frames.
    n_views, n_columns
        Views in all, and detector columns.
    shares
        For each rank, which of the rows that `produce` gives are its own.
    communicator
        The ranks.
    views_at_once
        Views read and exchanged in one step by each rank.

    Returns
    -------
    ndarray
        (row of this rank's share, view, column) float32.
    """
    mine = shares[communicator.rank]
    rows = np.empty((_length(mine), n_views, n_columns), dtype=np.float32)
    if communicator.size == 1:
        for first in range(0, n_views, views_at_once):
            views = np.arange(first, min(first + views_at_once, n_views))
            frames = produce(views)
            rows[:, views[0] : views[-1] + 1] = frames[:, mine].swapaxes(0, 1)
        return rows
    ranks = communicator.size
    views_of = [share_of_views(n_views, rank, ranks) for rank in range(ranks)]
    steps = -(-max(map(len, views_of)) // views_at_once)
    for step in range(steps):
        now = [views[step * views_at_once : (step + 1) * views_at_once] for views in views_of]
        here = now[communicator.rank]
        # Asked for even when no view is left: a message to every rank keeps them in step.
        frames = produce(here) if len(here) else None
        parts = _exchange(frames, now, shares, n_columns, communicator)
        for views, part in zip(now, parts, strict=True):
            if len(views):
                rows[:, views[0] : views[-1] + 1] = part
    return rows


def _exchange(
    frames: np.ndarray | None,
    views_now: Sequence[np.ndarray],
    shares: Sequence[slice],
    n_columns: int,
    communicator: Communicator,
) -> list[np.ndarray]:
    from mpi4py import MPI

    mine = _length(shares[communicator.rank])
    here = len(views_now[communicator.rank])
    out_counts = np.array([_length(share) * here * n_columns for share in shares])
    in_counts = np.array([mine * len(views) * n_columns for views in views_now])
    outgoing = np.empty(int(out_counts.sum()), dtype=np.float32)
    incoming = np.empty(int(in_counts.sum()), dtype=np.float32)
    starts = _starts(out_counts)
    if frames is not None:
        for share, start, count in zip(shares, starts, out_counts, strict=True):
            there = outgoing[start : start + count].reshape(_length(share), here, n_columns)
            there[:] = frames[:, share].swapaxes(0, 1)
    arrivals = _starts(in_counts)
    communicator.barrier()  # where ranks share processors, one that waits must not spin
    communicator.mpi.Alltoallv(
        [outgoing, (out_counts, starts), MPI.FLOAT],
        [incoming, (in_counts, arrivals), MPI.FLOAT],
    )
    return [
        incoming[start : start + count].reshape(mine, len(views), n_columns)
        for start, count, views in zip(arrivals, in_counts, views_now, strict=True)
    ]


def _length(share: slice) -> int:
    return share.stop - share.start


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(counts.dtype)


def total(values: np.ndarray, communicator: Communicator) -> np.ndarray:
    """Add whole numbers over the ranks (exact in any order)."""
    if communicator.size == 1:
        return values
    communicator.barrier()
    summed = np.empty_like(values)
    communicator.mpi.Allreduce(values, summed)
    return summed


def together(communicator: Communicator, work: Callable[[], Any]) -> Any:
    """Do `work` on rank 0 and give every rank its answer, or its error.

    An error raised on one rank alone would leave the others waiting.
    """
    value, error = None, None
    if communicator.rank == 0:
        try:
            value = work()
        except Exception as raised:
            error = raised
    if communicator.size == 1:
        if error is not None:
            raise error
        return value
    communicator.barrier()
    failed, value = communicator.broadcast((error, value))
    if error is not None:
        raise error
    if failed is not None:
        raise failed
    return value
