"""Reading a slice store.

The file is opened on first use, once per process (again after a fork, when a data loader
starts its workers), and without HDF5 locks, which shared file systems often lack.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_srct.errors import InputError, MachineError
from hpc_srct.slices.blocks import MASTER, SHARDS, SINOGRAM, dataset_path

Index = int | slice | np.ndarray | list[int]
Window = tuple[slice, slice]


class SliceStore:
    """A finished slice store.

    Parameters
    ----------
    path
        The store's folder, or the ``slices.h5`` in it.

    Attributes
    ----------
    n_slices : int
    size : tuple of int
        Height and width of a slice.
    names : list of str
        What it holds: ``low``, ``full``, ``truth``, ``enhanced``, ``splits/0`` …
    rows : ndarray of int
        Detector row of each slice.
    provenance : dict
    pixel_size, scale, centre, field_of_view : float or None
        Metres; attenuation per pixel; 0-based detector pixel; radius in pixels.
    low_angles : ndarray or None
        (view,) radians, where the low-dose sinogram is kept.

    Raises
    ------
    InputError
        There is no store, it is not finished, or not one of ours.
    """

    def __init__(self, path: Path | str):
        path = Path(path)
        self.path = path.parent if path.name == MASTER else path
        self._handle: h5py.File | None = None
        self._process = -1
        self._check()
        file = self._file()
        entry = file["entry"]
        self.names = _names(entry)
        if not self.names:
            raise InputError(f"{self.master}: no slices inside; expected /entry/low/data.")
        self.rows: np.ndarray = entry["rows"][()]
        self.n_slices = len(self.rows)
        self.size: tuple[int, int] = file[dataset_path(self.names[0])].shape[1:]
        self.provenance: dict[str, Any] = json.loads(entry["provenance"].asstr()[()])
        figures = {name: entry.attrs.get(name) for name in _FIGURES}
        self.pixel_size, self.scale, self.centre, self.field_of_view = (
            None if figures[name] is None else float(figures[name]) for name in _FIGURES
        )
        self.low_angles = entry["low/angles"][()] if "low/angles" in entry else None

    @property
    def master(self) -> Path:
        """The file that holds the virtual datasets."""
        return self.path / MASTER

    @property
    def has_sinogram(self) -> bool:
        """Whether the low-dose sinogram is kept."""
        return dataset_path(SINOGRAM) in self._file()

    @property
    def low_filter(self) -> str:
        """The filter of the low-dose reconstruction: a network is trained on one."""
        settings = self.provenance.get("settings") or {}
        return settings.get("low_filter") or settings.get("filter") or "ramp"

    def read(self, name: str, index: Index, window: Window | None = None) -> np.ndarray:
        """Read slices.

        Parameters
        ----------
        name
            One of `names`.
        index
            A slice number (counted from the store's first slice), a range or several numbers.
        window
            Only these lines and columns.

        Returns
        -------
        ndarray
            float32, attenuation per pixel: (y, x) for one number, else (slice, y, x). NaN
            where a shard is missing.

        Raises
        ------
        InputError
            The store has no array of this name, or a shard is damaged.
        MachineError
            The disk does not give the slices.
        IndexError
            It has no such slice.
        """
        if name not in self.names:
            raise InputError(f"{self.master}: no '{name}' inside; it has {', '.join(self.names)}.")
        return self._read(dataset_path(name), index, window)

    def sinogram(self, index: Index) -> np.ndarray:
        """Read the low-dose sinogram of one slice, (view, column), or of several.

        Raises
        ------
        InputError, MachineError
            The store was made with ``sinogram=false``; and as `read`.
        """
        if not self.has_sinogram:
            raise InputError(
                f"{self.master}: no {dataset_path(SINOGRAM)} inside; preprocess the scan with"
                " sinogram=true."
            )
        return self._read(dataset_path(SINOGRAM), index, None)

    def missing(self, name: str) -> np.ndarray:
        """List the slices whose shard is not there (they read as NaN).

        Returns
        -------
        ndarray of int
            Slice numbers.
        """
        if name not in self.names:
            return np.arange(self.n_slices)
        lost = []
        for source in self._file()[dataset_path(name)].virtual_sources():
            shard = self.path / source.file_name
            if not (shard.is_file() and h5py.is_hdf5(shard)):
                (first, *_), (last, *_) = source.vspace.get_select_bounds()
                lost.append(np.arange(first, last + 1))
        return np.concatenate(lost) if lost else np.arange(0)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._handle is not None:
            with contextlib.suppress(RuntimeError, OSError):
                self._handle.close()
            self._handle = None

    def __len__(self) -> int:
        return self.n_slices

    def __repr__(self) -> str:
        height, width = self.size
        return f"SliceStore({str(self.path)!r}: {self.n_slices} × {height} × {width}, {self.names})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_process": -1}

    def _file(self) -> h5py.File:
        if self._process != os.getpid():
            # After a fork the handle is the parent's; ours must have a descriptor of its own.
            self.close()
        if self._handle is None:
            try:
                self._handle = h5py.File(self.master, "r", locking=False)
            except OSError as error:
                reason = str(error).splitlines()[0]
                raise InputError(f"{self.master}: cannot be opened: {reason}.") from error
            self._process = os.getpid()
        return self._handle

    def _read(self, path: str, index: Index, window: Window | None) -> np.ndarray:
        data = self._file()[path]
        try:
            return self._taken(data, index, window)
        except OSError as error:
            # Who reads in order to write would take it for a failure of what is written.
            reason = str(error).splitlines()[0]
            self._refuse_damaged(data, reason)
            raise MachineError(f"{self.master}: {path} cannot be read: {reason}.") from error

    def _refuse_damaged(self, data: h5py.Dataset, reason: str) -> None:
        for source in data.virtual_sources() if data.is_virtual else ():
            shard = self.path / source.file_name
            try:
                if shard.is_file():
                    h5py.File(shard, "r", locking=False).close()
            except OSError:
                raise InputError(
                    f"{shard}: is damaged: {reason}.\nRemove it, run again the command that made"
                    " the store (it makes what is missing), then this one."
                ) from None

    def _taken(self, data: h5py.Dataset, index: Index, window: Window | None) -> np.ndarray:
        inside = window or (slice(None), slice(None))
        if isinstance(index, slice):
            return data[(index, *inside)] if (index.step or 1) > 0 else data[:][(index, *inside)]
        numbers = np.asarray(index)
        if np.any((numbers < -self.n_slices) | (numbers >= self.n_slices)):
            raise IndexError(f"{self.master}: no slice {index}; it has {self.n_slices}.")
        numbers = numbers % self.n_slices
        if numbers.ndim == 0:
            return data[(int(numbers), *inside)]
        # One at a time: h5py's list selections want rising numbers and are slow.
        parts = [data[(int(number), *inside)] for number in numbers]
        return np.stack(parts) if parts else data[(slice(0, 0), *inside)]

    def _check(self) -> None:
        if self.master.is_file():
            if not h5py.is_hdf5(self.master):
                raise InputError(f"{self.master}: is not an HDF5 file; expected a slice store.")
            entry = self._file().get("entry")
            if not self._file().attrs.get("complete", False) or entry is None:
                raise InputError(
                    f"{self.master}: not a finished slice store ('complete' is not true);"
                    " expected what `srct preprocess` writes."
                )
            return
        shards = list((self.path / SHARDS).glob("rows-*.h5"))
        if shards:
            raise InputError(
                f"{self.path}: is not finished ({len(shards)} shards, no {MASTER}); run the"
                " command that makes it again to go on."
            )
        if self.path.is_dir():
            raise InputError(f"{self.path}: is not a slice store; expected a {MASTER} in it.")
        if self.path.exists():
            raise InputError(f"{self.path}: is a file; expected the folder of a slice store.")
        raise InputError(f"{self.path}: no such slice store.")


_FIGURES = ("pixel_size", "scale", "centre", "field_of_view")


def _names(entry: h5py.Group) -> list[str]:
    found: list[str] = []

    def visit(path: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and path.endswith("/data"):
            found.append(path.removesuffix("/data"))

    entry.visititems(visit)
    order = ("low", "full", "truth", "tv", "enhanced")
    return sorted(found, key=lambda name: (order.index(name) if name in order else 9, name))
