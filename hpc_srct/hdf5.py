"""Writing HDF5 files whole or not at all, and surviving a disk that is full.

HDF5 that is told of a failed write crashes the process when it closes the file. So it is
never told: the file object that it writes through keeps the first error, takes the rest
without writing it, and the error is raised once HDF5 is done.

HDF5 fills a new dataset's chunks when it lays them out. Zeros beyond the end of the file are
not written but left to the system, for which a hole reads as zeros: the same bytes, once.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from hpc_srct.files import take_name, written_aside

# Shorter writes are not looked at: a hole is made of whole pages of the disk.
_HOLE = 4096
_STEP = 64 << 20


class _PatientFile(io.FileIO):
    """A file that remembers its first failed write in place of raising it."""

    failed: OSError | None = None
    # Nothing but zeros stands from `_written` on; the file is at least as long as `_length`.
    _written = 0
    _length = 0

    def write(self, data: memoryview) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            if len(view) >= _HOLE and self.failed is None and self._leaves_a_hole(view):
                return len(view)
            while done < len(view) and self.failed is None:
                done += super().write(view[done:])
            self._written = max(self._written, self.tell())
        except OSError as error:
            self.failed = error
        return len(view)

    def _leaves_a_hole(self, view: memoryview) -> bool:
        """Pass over zeros where nothing was written yet, and tell so."""
        place = self.tell()
        if place < self._written or view[0]:
            return False
        if np.frombuffer(view, np.uint8).max():  # four times as quick as any()
            return False
        if place + len(view) > self._length:
            # In large steps, since each takes its time. HDF5 cuts the file when it closes it.
            self._length = place + len(view) + _STEP
            super().truncate(self._length)
        self.seek(place + len(view))
        return True

    def truncate(self, size: int | None = None) -> int:
        try:
            size = super().truncate(size)
            self._length = size
            return size
        except OSError as error:
            self.failed = self.failed or error
            return size or 0

    def readinto(self, buffer: memoryview) -> int:
        return super().readinto(buffer) or 0

    def raise_failed(self) -> None:
        """Raise the error of the first write that failed, if any did."""
        if self.failed is not None:
            raise self.failed


class AsideFile(h5py.File):
    """An HDF5 file that is being written; `check` tells whether the disk still takes it."""

    def __init__(self, raw: _PatientFile):
        super().__init__(raw, "w")
        self._raw = raw
        self.aside = Path(raw.name)

    def write_at(self, place: int, values: np.ndarray) -> None:
        """Write bytes into room that HDF5 has laid out at `place` and does not write itself."""
        self._raw.seek(int(place))
        self._raw.write(values)

    def check(self) -> None:
        """Raise the first write error, if there was one."""
        self._raw.raise_failed()


@contextlib.contextmanager
def hdf5_written_aside(
    path: Path | str, take_name: Callable[[Path, Path], None] = take_name
) -> Iterator[AsideFile]:
    """Give a new HDF5 file that appears as `path` when the block ends well.

    In a long block call `check` now and then: a full disk is then noticed early.

    Parameters
    ----------
    path
        The final name.
    take_name
        See `hpc_srct.files.written_aside`.

    Raises
    ------
    MachineError
        The file could not be written (full disk, read-only file system, no permission).
    """
    with written_aside(path, take_name) as aside, _PatientFile(aside, "w+") as raw:
        with AsideFile(raw) as file:
            yield file
        raw.raise_failed()
