"""Writing files so that a name that exists is a file that is whole.

Everything is written under another name beside its target and renamed when complete.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
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


# No two files aside have one name, not even where the first of them still goes to the disk.
_asides = itertools.count()


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
    """Bring `aside` to the disk and rename it to `path`, for good; removed where that fails.

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
        remove(aside)
    sync_folder(path.parent)


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
    aside = path.with_name(f".{path.name}.{os.getpid()}.{next(_asides)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
    except BaseException as error:
        remove(aside)
        if isinstance(error, OSError):
            raise machine_error(path, error) from error
        raise
    take_name(aside, path)


def remove(path: Path) -> None:
    """Remove a file, where that can be done."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


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
