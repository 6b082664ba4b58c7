"""Writing HDF5 files whole or not at all, and surviving a disk that is full.

HDF5 that is told of a failed write crashes the process when it closes the file. So it is
never told: the file object that it writes through keeps the first error, takes the rest
without writing it, and the error is raised once HDF5 is done.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import h5py

from hpc_srct.files import written_aside


class _PatientFile(io.FileIO):
    """A file that remembers its first failed write in place of raising it."""

    failed: OSError | None = None

    def write(self, data: memoryview) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.failed is None:
                done += super().write(view[done:])
        except OSError as error:
            self.failed = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
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

    def check(self) -> None:
        """Raise the first write error, if there was one."""
        self._raw.raise_failed()


@contextlib.contextmanager
def hdf5_written_aside(path: Path | str) -> Iterator[AsideFile]:
    """Give a new HDF5 file that appears as `path` when the block ends well.

    In a long block call `check` now and then: a full disk is then noticed early.

    Raises
    ------
    MachineError
        The file could not be written (full disk, read-only file system, no permission).
    """
    with written_aside(path) as aside, _PatientFile(aside, "w+") as raw:
        with AsideFile(raw) as file:
            yield file
        raw.raise_failed()
