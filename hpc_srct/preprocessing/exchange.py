"""Frames for rows: every rank reads whole frames, every rank gets whole sinograms.

A frame-wise step needs a frame, a row-wise step needs all views of a row. Each rank holds a
share of the views and gives away the rows that others work on, a few views at a time, so that
the buffers stay small and every message stays below MPI's 2³¹ elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpc_srct.preprocessing.reading import Step
from hpc_srct.ranks import Communicator
from hpc_srct.tomography.scratch import Scratch

# Writes frames of a step's views, (view, row, column) float32, for the step's rows: of each kind
# into an array of its own.
Produce = Callable[[Step, Sequence[np.ndarray]], Any]


def frames_for_rows(
    produce: Produce,
    kinds: Sequence[np.ndarray],
    n_columns: int,
    shares: Sequence[slice],
    communicator: Communicator,
    sweeps: Sequence[Sequence[Step]],
    scratch: Scratch | None = None,
) -> list[np.ndarray]:
    """Read frames by views and give them back by rows. Every rank must call it.

    Parameters
    ----------
    produce
        Reads and corrects the frames of a step, and writes those of its views that a kind has
        into that kind's array.
    kinds
        For each kind of frames, the views of it, rising.
    n_columns
        Detector columns.
    shares
        For each rank, which of the rows are its own: one after the other, all of them.
    communicator
        The ranks.
    sweeps
        For each rank, its steps.
    scratch
        Holds what is given, until it is asked again.

    Returns
    -------
    list of ndarray
        For each kind, (row of this rank's share, view, column) float32.
    """
    mine = shares[communicator.rank]
    scratch = scratch or Scratch()
    made = [
        scratch.array(f"kind {kind}", _length(mine), len(views), n_columns, dtype=np.float32)
        for kind, views in enumerate(kinds)
    ]
    for number in range(max(map(len, sweeps))):
        # Asked for even when nothing is left to read: a message to every rank keeps them in step.
        now = [steps[number] if number < len(steps) else None for steps in sweeps]
        here = now[communicator.rank]
        rooms = [
            _room(out, _run(views, here), here, communicator.size == 1)
            for views, out in zip(kinds, made, strict=True)
        ]
        if here is not None:
            produce(here, [room.swapaxes(0, 1) for room in rooms])
        if communicator.size > 1:
            for views, room, out in zip(kinds, rooms, made, strict=True):
                _exchange(room, out, now, [_run(views, step) for step in now], shares, communicator)
    return made


def _run(views: np.ndarray, step: Step | None) -> slice:
    """Find a step's views among those of a kind."""
    if step is None:
        return slice(0, 0)
    first, stop = np.searchsorted(views, (step.views.start, step.views.stop))
    return slice(int(first), int(stop))


def _room(out: np.ndarray, run: slice, step: Step | None, alone: bool) -> np.ndarray:
    """Give room for what a step makes, (row, view, column): its place, where nothing is sent."""
    rows = slice(0, 0) if step is None else step.rows
    if alone:
        return out[rows, run]
    return np.empty((_length(rows), _length(run), out.shape[2]), np.float32)


def _exchange(
    outgoing: np.ndarray,
    out: np.ndarray,
    now: Sequence[Step | None],
    runs: Sequence[slice],
    shares: Sequence[slice],
    communicator: Communicator,
) -> None:
    if not any(map(_length, runs)):
        return
    from mpi4py import MPI

    n_columns, mine = out.shape[2], shares[communicator.rank]
    here, count = now[communicator.rank], _length(runs[communicator.rank])
    nothing = slice(0, 0)
    given = [nothing if here is None else _overlap(here.rows, share) for share in shares]
    got = [nothing if step is None else _overlap(step.rows, mine) for step in now]
    # Rows in the order of the ranks that they go to: as they lie, they are sent.
    out_counts = np.array([_length(rows) * count * n_columns for rows in given])
    in_counts = np.array(
        [_length(rows) * _length(run) * n_columns for rows, run in zip(got, runs, strict=True)]
    )
    incoming = np.empty(int(in_counts.sum()), dtype=np.float32)
    arrivals = _starts(in_counts)
    communicator.barrier()  # where ranks share processors, one that waits must not spin
    communicator.mpi.Alltoallv(
        [outgoing, (out_counts, _starts(out_counts)), MPI.FLOAT],
        [incoming, (in_counts, arrivals), MPI.FLOAT],
    )
    for rows, run, start, size in zip(got, runs, arrivals, in_counts, strict=True):
        if size:
            part = incoming[start : start + size]
            out[_within(rows, mine), run] = part.reshape(_length(rows), _length(run), n_columns)


def _overlap(one: slice, other: slice) -> slice:
    first = max(one.start, other.start)
    return slice(first, max(first, min(one.stop, other.stop)))


def _within(rows: slice, whole: slice) -> slice:
    """Count rows from the first of some that hold them."""
    return slice(rows.start - whole.start, rows.stop - whole.start)


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
