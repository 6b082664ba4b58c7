"""Large files go to the disk in a thread, while the caller makes the next one.

The thread calls nothing but the system, which works without Python's lock meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from hpc_srct.errors import MachineError
from hpc_srct.files import remove, take_name

_SYNC_FILE_RANGE_WRITE = 2


class NamesInBackground:
    """Gives files that were written aside their names, as `hpc_srct.files.take_name` does.

    At most one file is on its way: handing over a second waits for the first. What fails is
    raised by the next call or by `wait`, so that a file counts as written once `wait` has
    returned.

    Leaving the context waits too, lest what is whole be lost to an error elsewhere; a Ctrl-C
    that must be quick (`KeyboardInterrupt`) does not.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._named = threading.Event()
        self._named.set()
        self._failure: BaseException | None = None

    def __call__(self, aside: Path, path: Path) -> None:
        """Take `aside` over; see `take_name`."""
        try:
            self.wait()
        except Exception:
            # The first error is the one to tell; what is whole may yet be kept.
            with contextlib.suppress(MachineError):
                take_name(aside, path)
            raise
        except BaseException:
            remove(aside)
            raise
        self._named.clear()
        task = functools.partial(self._take_name, aside, path)
        if self._starts():
            self._tasks.put(task)
        else:
            task()
            self.wait()

    def begin(self, aside: Path) -> None:
        """Have what there is of `aside` brought to the disk already: less is left for the end."""
        if self._tasks.empty() and self._starts():  # else the disk has enough to do
            self._tasks.put(functools.partial(start_writeback, aside))

    def wait(self) -> None:
        """Wait until the file has its name.

        Raises
        ------
        MachineError
            The disk did not take it.
        """
        self._named.wait()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def __enter__(self) -> NamesInBackground:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
            elif issubclass(kind, Exception):
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    self.wait()
        finally:
            if self._thread is not None:
                self._tasks.put(None)
                self._thread = None

    def _starts(self) -> bool:
        """Start the thread; False where the system allows no more of them."""
        if self._thread is None:
            # A daemon, for a process that is told to end at once.
            thread = threading.Thread(target=self._work, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def _take_name(self, aside: Path, path: Path) -> None:
        try:
            take_name(aside, path)
        except BaseException as error:
            self._failure = error
        finally:
            self._named.set()


def start_writeback(path: Path) -> None:
    """Have Linux begin to bring a file to the disk; elsewhere, or if that fails, do nothing.

    It returns before the bytes are there, yet may take long where the disk has much to do.
    Errors are left to the `fsync` at the end, which tells them too.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        start = ctypes.CDLL(None).sync_file_range
        start.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        handle = os.open(path, os.O_RDONLY)
        try:
            start(handle, 0, 0, _SYNC_FILE_RANGE_WRITE)
        finally:
            os.close(handle)
