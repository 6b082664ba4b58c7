"""Writing files so that a name that exists is a file that is whole.

Everything is written under another name beside its target and renamed when complete.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hpc_srct.errors import InputError, MachineError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "permission denied; choose a place that you may write to",
}


def machine_error(path: Path, error: OSError) -> MachineError:
    """Put an operating-system error into words.

    h5py reports a failed write as an ``OSError`` without ``errno``, its number in the text.
    """
    number = error.errno
    if number is None:
        number = next((n for n in _REASONS if f"errno = {n}," in str(error)), None)
    reason = _REASONS.get(number, f"{type(error).__name__}: {error}".split("\n", 1)[0])
    return MachineError(f"{path}: cannot be written: {reason}.")


def take_name(aside: Path, path: Path) -> None:
    """Bring `aside` to the disk and rename it to `path`; removed where that fails.

    Raises
    ------
    MachineError
        The disk did not take it.
    """
    try:
        with open(aside, "rb+") as handle:
            os.fsync(handle.fileno())
        aside.replace(path)
    except OSError as error:
        raise machine_error(path, error) from error
    finally:
        _remove(aside)


@contextlib.contextmanager
def written_aside(
    path: Path | str, take_name: Callable[[Path, Path], None] = take_name
) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well.

    Parameters
    ----------
    path
        The final name. Its folder is made where it is missing.
    take_name
        Called with the temporary path and `path` when the block has ended well.

    Yields
    ------
    Path
        Where to write. Removed again if the block raises.

    Raises
    ------
    MachineError
        The file could not be written (full disk, read-only file system, no permission).
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
    except BaseException as error:
        _remove(aside)
        if isinstance(error, OSError):
            raise machine_error(path, error) from error
        raise
    take_name(aside, path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


class NamesInBackground:
    """Gives files their names in a thread, while the caller makes the next one.

    The disk takes its time over a large file. At most one file is on its way: handing over a
    second waits for the first. What fails is raised by the next call or by `wait`, so that a
    file counts as written once `wait` has returned.

    Leaving the context waits too, lest what is whole be lost to an error elsewhere; a Ctrl-C
    that must be quick (`KeyboardInterrupt`) does not.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __call__(self, aside: Path, path: Path) -> None:
        """Take `aside` over; see `take_name`. The folder is brought to the disk, too."""
        try:
            self.wait()
        except BaseException:
            _remove(aside)
            raise
        # A daemon, for a process that is told to end at once.
        self._thread = threading.Thread(target=self._work, args=(aside, path), daemon=True)
        self._thread.start()

    def _work(self, aside: Path, path: Path) -> None:
        try:
            take_name(aside, path)
            sync_folder(path.parent)
        except BaseException as error:
            self._failure = error

    def wait(self) -> None:
        """Wait until the file has its name.

        Raises
        ------
        MachineError
            The disk did not take it.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def __enter__(self) -> NamesInBackground:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        elif issubclass(kind, Exception):
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self.wait()


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def refuse_to_overwrite(path: Path | str, what: str) -> None:
    """Raise `InputError` where `path` exists (an empty folder is no loss)."""
    path = Path(path)
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise InputError(f"{path}: {what} exists already; choose another name or remove it first.")
