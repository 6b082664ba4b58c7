"""Frames laid out by rows in a scratch folder, for scans that are stored frame by frame.

A file chunked by frame gives up its rows only with whole frames. Where the memory would ask for
several passes over such a file, one pass copies it into a plain file ordered (row, view,
column), from which any rows are read at the cost of those rows alone. Frames that go through
phase retrieval are laid out after it, as line integrals: it is the dearest step, and needs whole
frames whichever rows are wanted.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_srct.errors import MachineError
from hpc_srct.files import machine_error
from hpc_srct.preprocessing.exchange import together, total
from hpc_srct.preprocessing.frames import FrameWise, Times
from hpc_srct.preprocessing.reading import Reading, sweeps
from hpc_srct.preprocessing.sinograms import in_their_order
from hpc_srct.ranks import Communicator
from hpc_srct.scan import Scan


class StagedFrames:
    """A scratch copy of frames: all views of the rows from the first on.

    Attributes
    ----------
    path : Path
        The scratch file; bare numbers, no header: it does not outlive the run.
    """

    def __init__(self, path: Path, rows: range, views: int, columns: int, dtype: np.dtype):
        self.path = path
        self._first, self._n_rows = rows.start, len(rows)
        self._n_views, self._n_columns = views, columns
        self._dtype = np.dtype(dtype)

    def projections(self, views: np.ndarray, rows: slice) -> np.ndarray:
        """Read (view, row, column)."""
        first, last = int(np.min(views)), int(np.max(views))
        out = np.empty((len(views), rows.stop - rows.start, self._n_columns), self._dtype)
        span = np.empty((last + 1 - first, self._n_columns), self._dtype)
        with open(self.path, "rb", buffering=0) as file:
            for i, row in enumerate(range(rows.start, rows.stop)):
                file.seek(self._place(row, first))
                if file.readinto(span) != span.nbytes:
                    raise MachineError(f"{self.path}: is cut short; run again to copy it anew.")
                out[:, i] = span[views - first]
        return out

    def sinograms(self, rows: np.ndarray) -> np.ndarray:
        """Read all views of some rows: (row, view, column)."""
        out = np.empty((len(rows), self._n_views, self._n_columns), self._dtype)
        with open(self.path, "rb", buffering=0) as file:
            for row, sinogram in zip(rows, out, strict=True):
                file.seek(self._place(int(row), 0))
                left = memoryview(sinogram).cast("B")
                while left:
                    count = file.readinto(left)
                    if not count:
                        raise MachineError(f"{self.path}: is cut short; run again to copy anew.")
                    left = left[count:]
        return out

    def put(self, first_view: int, frames: np.ndarray, first_row: int) -> None:
        """Write a run of views, some rows of each."""
        with open(self.path, "rb+", buffering=0) as file:
            for i in range(frames.shape[1]):
                line = memoryview(np.ascontiguousarray(frames[:, i])).cast("B")
                file.seek(self._place(first_row + i, first_view))
                while line:
                    line = line[file.write(line) :]

    def _place(self, row: int, view: int) -> int:
        at = (row - self._first) * self._n_views + view
        return at * self._n_columns * self._dtype.itemsize


def stage(
    scan: Scan,
    rows: range,
    folder: Path,
    store: Path,
    communicator: Communicator,
    reading: Reading,
    times: Times,
) -> StagedFrames:
    """Copy a scan's projections into the scratch folder, each rank its share of them.

    Parameters
    ----------
    rows
        Detector rows, all views of each.
    folder, store
        The scratch folder, and the store that is being made.

    Raises
    ------
    MachineError
        The scratch folder cannot be written.
    """
    now = time.perf_counter()
    path = _scratch_file(scan, folder, store, "raw")
    staged = StagedFrames(path, rows, scan.n_views, scan.n_columns, scan.dtype)
    together(communicator, lambda: _begin(path))
    steps = sweeps(np.array(rows), scan.n_views, reading, scan.chunk_starts, communicator.size)
    for step in steps[communicator.rank]:
        if step.views.start != step.read.start:  # nothing to correct: all that is read, at once
            continue
        views = np.arange(step.read.start, step.read.stop)
        there = slice(rows.start + step.rows.start, rows.start + step.rows.stop)
        _put(staged, step.read.start, scan.projections(views, there), there.start)
    communicator.barrier()
    times.add("read", now)
    return staged


@dataclass(frozen=True)
class StagedSinograms:
    """Line integrals in scratch files, made by one pass over the frames.

    Attributes
    ----------
    full, low : StagedFrames
        Of all views; of the low dose, where that has fewer photons.
    clipped : ndarray of int
        Values raised to the floor, by row from the first.
    first_row : int
    low_views : ndarray of int
        In the order in which they are given.
    """

    full: StagedFrames
    low: StagedFrames | None
    clipped: np.ndarray
    first_row: int
    low_views: np.ndarray

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Give sinograms of some rows, those of fewer photons, and how much was clipped."""
        low = None
        if self.low is not None:
            low = in_their_order(self.low.sinograms(rows), self.low_views)
        return self.full.sinograms(rows), low, self.clipped[rows - self.first_row]


def stage_sinograms(
    scan: Scan,
    rows: range,
    folder: Path,
    store: Path,
    communicator: Communicator,
    reading: Reading,
    frames: FrameWise,
    low_views: np.ndarray,
) -> StagedSinograms:
    """Correct a scan's frames once, and lay their line integrals out by rows.

    Every rank must call it; each takes its share of the views.

    Parameters
    ----------
    frames
        Reads and corrects frames, and gives `rows`; with fewer photons too, where asked for.
    low_views
        Low-dose views, in the order in which they are named.

    Raises
    ------
    MachineError
        The scratch folder cannot be written.
    """
    kinds = frames.kinds(scan.n_views)
    staged = []
    for name, views in zip(("full", "low"), kinds, strict=False):
        path = _scratch_file(scan, folder, store, name)
        staged.append(StagedFrames(path, rows, len(views), scan.n_columns, np.float32))
        together(communicator, lambda path=path: _begin(path))
    steps = sweeps(np.array(rows), scan.n_views, reading, scan.chunk_starts, communicator.size)
    for step in steps[communicator.rank]:
        parts = zip(staged, kinds, frames.line_integrals(step), strict=True)
        for one, views, made in parts:
            first = int(np.searchsorted(views, step.views.start))
            _put(one, first, made, rows.start + step.rows.start)
    communicator.barrier()
    clipped = total(frames.clipped, communicator)
    low = staged[1] if len(staged) > 1 else None
    return StagedSinograms(staged[0], low, clipped, rows.start, low_views)


def _scratch_file(scan: Scan, folder: Path, store: Path, kind: str) -> Path:
    """Name a file for one store: a store has one writer, a scratch folder may have many."""
    mark = hashlib.sha256(str(store.absolute()).encode()).hexdigest()[:12]
    return folder / f"srct-{scan.path.stem}-{mark}.{kind}"


def _begin(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    except OSError as error:
        raise machine_error(path, error) from error


def _put(staged: StagedFrames, first_view: int, frames: np.ndarray, first_row: int) -> None:
    try:
        staged.put(first_view, frames, first_row)
    except OSError as error:
        raise machine_error(staged.path, error) from error


def unstage(staged: StagedFrames | StagedSinograms, communicator: Communicator) -> None:
    """Remove the scratch copy."""
    if communicator.rank != 0:
        return
    parts = (staged.full, staged.low) if isinstance(staged, StagedSinograms) else (staged,)
    for part in filter(None, parts):
        with contextlib.suppress(OSError):
            part.path.unlink()
