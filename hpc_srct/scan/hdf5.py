"""HDF5 files opened once per process, and paths followed in them, with words when that fails.

Files are opened on first use, again after a fork, for reading and without locks (shared file
systems). `hdf5plugin` registers the compression filters of beamlines before any open.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from hpc_srct.errors import InputError, MachineError, SrctError
from hpc_srct.scan.sources import first_line, sources_of

# First bytes of files that people hand over instead of HDF5.
_SIGNATURES = {
    b"\xd0\xcf\x11\xe0": "a Zeiss .txrm/.xrm file (lab cone beam), which this toolkit refuses",
    b"II*\x00": "a TIFF image",
    b"MM\x00*": "a TIFF image",
    b"CDF\x01": "a netCDF-3 file",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
}
_PACKAGES = {number: f"hdf5plugin ({name})" for name, number in hdf5plugin.FILTERS.items()}
_PACKAGES |= {307: "hdf5plugin (bzip2)", 32000: "h5py (lzf)", 32025: "of Jetraw, from its vendor"}
# What h5py raises for a link that leads nowhere: the last for links that lead to each other.
LINK_ERRORS = (KeyError, OSError, RuntimeError)
_DEEPEST = 12  # groups below the root that are searched


class Hdf5File:
    """A file that is opened on first use in each process.

    Parameters
    ----------
    path
        An HDF5 file. Nothing is read before `open`.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._absolute = self.path.absolute()  # found again after a change of folder
        self._file: h5py.File | None = None
        self._process: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_process": None}

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> h5py.File:
        """Give the open file of this process.

        Raises
        ------
        InputError
            Missing, a folder, not HDF5, cut short.
        MachineError
            The file system failed.
        """
        if self._file is None or self._process != os.getpid():
            self.close()
            self._file = _open(self._absolute, self.path)
            self._process = os.getpid()
        return self._file

    def close(self) -> None:
        """Close the file in this process; the next `open` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def get(self, path: str) -> h5py.Group | h5py.Dataset | None:
        """Follow a path from the root; None where the file has no such name.

        Raises
        ------
        InputError
            A link on the way leads nowhere: named with what it points to.
        """
        here: Any = self.open()
        walked = ""
        for name in filter(None, path.split("/")):
            if not isinstance(here, h5py.Group):
                return None
            walked += f"/{name}"
            link = _link(here, name)
            if link is None:
                return None
            try:
                here = here[name]
            except LINK_ERRORS as error:
                raise InputError(self._broken(here, walked, link, error)) from error
        return here

    def dataset(self, path: str) -> h5py.Dataset | None:
        """Follow a path to a dataset; None where there is none, or a group stands there."""
        found = self.get(path)
        return found if isinstance(found, h5py.Dataset) else None

    def values(self, path: str) -> np.ndarray | None:
        """Read a small dataset of numbers, flattened, as float64; None where there is none.

        Text that spells a number is read as one; other text answers None.
        """
        found = self.dataset(path)
        if found is None:
            return None
        sources_of(f"{self.path}: {path}", found)
        try:
            return np.atleast_1d(np.asarray(found[()], dtype=np.float64)).ravel()
        except (TypeError, ValueError):
            return None
        except OSError as error:
            raise unreadable(self.path, path, error) from error

    def _broken(self, group: h5py.Group, walked: str, link: Any, error: Exception) -> str:
        if isinstance(link, h5py.SoftLink):
            further = self._broken_further(walked, link.path)
            if further:
                text = f"{self.path}: {walked}: is a link to {link.path}, and there"
                return _joined(text, further)
            return (
                f"{self.path}: {walked}: is a link to {link.path}, which is not in the file.\n"
                "Mend the link, or name the right path in a layout file."
            )
        if not isinstance(link, h5py.ExternalLink):
            return f"{self.path}: {walked}: cannot be opened ({first_line(error)})."
        target = Path(group.file.filename).parent / link.filename
        text = f"{self.path}: {walked}: is a link into {link.filename} (/{link.path.strip('/')})"
        if not target.exists():
            return (
                f"{text}, and that file is not there.\n"
                f"Put {target.name} beside {self.path.name}, or name the frames' file in a layout."
            )
        if not h5py.is_hdf5(target):
            return f"{text}, and that file is not a whole HDF5 file.\nCopy {target} again."
        try:
            _open(target, target).close()
        except SrctError as problem:
            return _joined(f"{text}, and that file cannot be opened:", str(problem))
        return f"{text}, and that file has no such path.\nName the right one in a layout file."

    def _broken_further(self, walked: str, target: str, links: int = 8) -> str | None:
        """Say what is wrong where a soft link leads to a link that is broken itself."""
        here = self.open()
        path = target if target.startswith("/") else f"{walked.rpartition('/')[0]}/{target}"
        names, walked = [name for name in path.split("/") if name], ""
        for position, name in enumerate(names):
            link = _link(here, name) if isinstance(here, h5py.Group) else None
            if link is None:
                return None
            walked += f"/{name}"
            try:
                here = here[name]
            except LINK_ERRORS as error:
                if not isinstance(link, h5py.SoftLink):
                    return self._broken(here, walked, link, error)
                rest = "/".join(names[position + 1 :])
                further = f"{link.path}/{rest}" if rest else link.path
                return self._broken_further(walked, further, links - 1) if links else None
        return None


def _joined(text: str, inner: str) -> str:
    """Put the inner message's first line behind a text, and leave its hint below."""
    first, _, hint = inner.partition("\n")
    return f"{text} {first}" + (f"\n{hint}" if hint else "")


def _open(where: Path, path: Path) -> h5py.File:
    """Open the file at `where`, which messages call `path`."""
    try:
        if where.is_dir():
            raise InputError(
                f"{path}: is a folder; expected an HDF5 scan (.h5, .nxs, .hdf).\n"
                "A folder with one file per role is read with a layout: layout=NAME"
                " (inspect: --layout NAME)."
            )
        return h5py.File(where, "r", locking=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected an HDF5 scan (.h5, .nxs).") from error
    except PermissionError as error:
        raise InputError(f"{path}: permission denied; ask its owner for read access.") from error
    except OSError as error:
        if "locking flag" in str(error):  # this process has it open with locks already
            return h5py.File(where, "r")
        raise _not_opened(where, path, error) from error


def _not_opened(where: Path, path: Path, error: OSError) -> SrctError:
    text = str(error)
    short = re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", text)
    if short:
        return InputError(
            f"{path}: is cut short: {short[1]} of {short[2]} bytes are there.\n"
            "Copy or transfer it again."
        )
    if "signature not found" in text:
        with open(where, "rb") as handle:
            head = handle.read(8)
        kind = next((v for k, v in _SIGNATURES.items() if head.startswith(k)), None)
        if not head:
            kind = "empty"
        return InputError(
            f"{path}: is {kind or 'not an HDF5 file'}; expected an HDF5 scan (.h5, .nxs)."
        )
    if error.errno is not None:
        return MachineError(f"{path}: cannot be read: {os.strerror(error.errno)}.")
    return InputError(
        f"{path}: is damaged or still being written: {first_line(error)}.\n"
        "Copy or transfer it again."
    )


def _link(group: h5py.Group, name: str) -> Any:
    """Give the link `name` itself, dangling or not; None where there is none."""
    try:
        kind = group.id.links.get_info(name.encode()).type
    except (KeyError, RuntimeError):
        return None
    if kind == h5py.h5l.TYPE_HARD:
        return h5py.HardLink()
    value = group.id.links.get_val(name.encode())
    if kind == h5py.h5l.TYPE_SOFT:
        return h5py.SoftLink(value.decode("utf-8", "replace"))
    file, path = value
    return h5py.ExternalLink(os.fsdecode(file), path.decode("utf-8", "replace"))


def groups(file: Hdf5File) -> Iterator[tuple[str, h5py.Group]]:
    """Visit every group, outermost first, through external links but not through soft ones.

    Links that lead nowhere are passed over: beamlines leave some dangling on purpose.
    """
    waiting: list[tuple[str, h5py.Group, int]] = [("", file.open(), 0)]
    seen = set()
    while waiting:
        path, group, depth = waiting.pop(0)
        info = h5py.h5o.get_info(group.id)
        if (info.fileno, info.addr) in seen:
            continue
        seen.add((info.fileno, info.addr))
        yield path or "/", group
        if depth == _DEEPEST:
            continue
        for name in group:
            if isinstance(_link(group, name), h5py.SoftLink):
                continue
            try:
                inner = group[name]
            except LINK_ERRORS:
                continue
            if isinstance(inner, h5py.Group):
                waiting.append((f"{path}/{name}", inner, depth + 1))


def text_of(value: Any) -> str:
    """Read a text that may be bytes, str or an array of one; '' for anything else."""
    if isinstance(value, h5py.Dataset):
        try:
            value = value[()]
        except (OSError, TypeError):
            return ""
    while isinstance(value, np.ndarray | list | tuple):
        if len(np.atleast_1d(value)) != 1:
            return ""
        value = np.atleast_1d(value)[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value.strip("\0 \n") if isinstance(value, str) else ""


def attribute(item: h5py.Group | h5py.Dataset | None, *names: str) -> str:
    """Read the first of some text attributes that is set; '' where none is."""
    for name in names:
        if item is not None and name in item.attrs:
            found = text_of(item.attrs[name])
            if found:
                return found
    return ""


def axes_of(dataset: h5py.Dataset | None) -> str | None:
    """Read a dataset's `axes`, one text (``theta:y:x``) or a list of names; None where unset."""
    if dataset is None or "axes" not in dataset.attrs:
        return None
    value = dataset.attrs["axes"]
    names = [text_of(name) for name in value.flat] if isinstance(value, np.ndarray) else []
    return ":".join(names) if names and all(names) else text_of(value) or None


def missing_filter(dataset: h5py.Dataset) -> str | None:
    """Name a compression filter of `dataset` that this machine lacks, with its package."""
    creation = dataset.id.get_create_plist()
    for position in range(creation.get_nfilters()):
        number, _, _, name = creation.get_filter(position)
        if not h5py.h5z.filter_avail(number):
            label = name.decode("utf-8", "replace").split(";")[0].strip() or "unnamed"
            package = _PACKAGES.get(number, "the one that its beamline names")
            return f"HDF5 filter {number} ({label}) is missing; install the package {package}"
    return None


def unreadable(file: Path | str, where: str, error: OSError) -> SrctError:
    """Put a failed read into words: the disk's fault (`MachineError`) or the file's."""
    number = error.errno
    if number is None:
        found = re.search(r"errno = (\d+)", str(error))
        number = int(found[1]) if found else None
    if number:
        return MachineError(f"{file}: {where}: cannot be read: {os.strerror(number)}.")
    return InputError(
        f"{file}: {where}: cannot be read: {first_line(error)}.\n"
        "The file is damaged there; transfer it again, or leave those views out."
    )
