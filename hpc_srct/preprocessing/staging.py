"""Frames laid out by rows in a scratch folder, for scans that are stored frame by frame.

A file chunked by frame gives up its rows only with whole frames. Where the memory would ask for
several passes over such a file, one pass copies it into a plain file ordered (row, view,
column), from which any rows are read at the cost of those rows alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from pathlib import Path

import numpy as np

from hpc_srct.errors import MachineError
from hpc_srct.files import machine_error
from hpc_srct.preprocessing.exchange import share_of_views, together
from hpc_srct.preprocessing.frames import Times
from hpc_srct.ranks import Communicator
from hpc_srct.scan import Scan


class StagedFrames:
    """The scratch copy of a scan's projections: all views of the rows from `first_row` on.

    Attributes
    ----------
    path : Path
        The scratch file; raw numbers, no header: it does not outlive the run.
    """

    def __init__(self, path: Path, scan: Scan, rows: range):
        self.path = path
        self._first, self._n_rows = rows.start, len(rows)
        self._n_views, self._n_columns = scan.n_views, scan.n_columns
        self._dtype = np.dtype(scan.dtype)

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
    communicator: Communicator,
    views_at_once: int,
    times: Times,
) -> StagedFrames:
    """Copy a scan's projections into the scratch folder, each rank its share of the views.

    Raises
    ------
    MachineError
        The scratch folder cannot be written.
    """
    now = time.perf_counter()
    mark = hashlib.sha256(json.dumps(scan.source(), default=str).encode()).hexdigest()[:12]
    path = folder / f"srct-{scan.path.stem}-{mark}.raw"
    staged = StagedFrames(path, scan, rows)

    def begin() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        except OSError as error:
            raise machine_error(path, error) from error

    together(communicator, begin)
    mine = share_of_views(scan.n_views, communicator.rank, communicator.size)
    for first in range(0, len(mine), views_at_once):
        views = mine[first : first + views_at_once]
        frames = scan.projections(views, slice(rows.start, rows.stop))
        try:
            staged.put(views, frames)
        except OSError as error:
            raise machine_error(path, error) from error
    communicator.barrier()
    times.add("read", now)
    return staged


def unstage(staged: StagedFrames, communicator: Communicator) -> None:
    """Remove the scratch copy."""
    if communicator.rank == 0:
        with contextlib.suppress(OSError):
            staged.path.unlink()
