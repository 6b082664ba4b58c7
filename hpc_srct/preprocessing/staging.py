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
from hpc_srct.preprocessing.exchange import share_of_views, together, total
from hpc_srct.preprocessing.frames import FrameWise, Times
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

    def put(self, views: np.ndarray, frames: np.ndarray) -> None:
        """Write a run of views, all rows."""
        first = int(views[0])
        with open(self.path, "rb+", buffering=0) as file:
            for i in range(self._n_rows):
                line = memoryview(np.ascontiguousarray(frames[:, i])).cast("B")
                file.seek(self._place(self._first + i, first))
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
    views_at_once: int,
    times: Times,
) -> StagedFrames:
    """Copy a scan's projections into the scratch folder, each rank its share of the views.

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
    mine = share_of_views(scan.n_views, communicator.rank, communicator.size)
    for first in range(0, len(mine), views_at_once):
        views = mine[first : first + views_at_once]
        _put(staged, views, scan.projections(views, slice(rows.start, rows.stop)))
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
    """

    full: StagedFrames
    low: StagedFrames | None
    clipped: np.ndarray
    first_row: int

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Give sinograms of some rows, those of fewer photons, and how much was clipped."""
        low = None if self.low is None else self.low.sinograms(rows)
        return self.full.sinograms(rows), low, self.clipped[rows - self.first_row]


def stage_sinograms(
    scan: Scan,
    rows: range,
    folder: Path,
    store: Path,
    communicator: Communicator,
    views_at_once: int,
    full: FrameWise,
    low: FrameWise | None,
) -> StagedSinograms:
    """Correct a scan's frames once, and lay their line integrals out by rows.

    Every rank must call it; each takes its share of the views.

    Parameters
    ----------
    full, low
        Read and correct frames, and give `rows`; `low` with fewer photons, where asked for.

    Raises
    ------
    MachineError
        The scratch folder cannot be written.
    """
    staged = {}
    for name, frames in (("full", full), ("low", low)):
        if frames is None:
            staged[name] = None
            continue
        path, count = _scratch_file(scan, folder, store, name), len(frames.views)
        staged[name] = StagedFrames(path, rows, count, scan.n_columns, np.float32)
        together(communicator, lambda path=path: _begin(path))
        mine = share_of_views(count, communicator.rank, communicator.size)
        for first in range(0, len(mine), views_at_once):
            which = mine[first : first + views_at_once]
            _put(staged[name], which, frames.line_integrals(which))
        communicator.barrier()
    clipped = total(full.clipped, communicator)
    return StagedSinograms(staged["full"], staged["low"], clipped, rows.start)


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


def _put(staged: StagedFrames, views: np.ndarray, frames: np.ndarray) -> None:
    try:
        staged.put(views, frames)
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
