"""Writing a slice store: shards first, each by one rank; the master last.

A shard is written under another name and renamed when whole, so that a shard that is there
is done. The bytes of a shard depend on its data alone: all chunks are laid out when a
dataset is made, whatever the order in which slices arrive.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_srct.errors import InputError, MachineError
from hpc_srct.files import take_name
from hpc_srct.hdf5 import AsideFile, hdf5_written_aside
from hpc_srct.slices.blocks import (
    CHUNK,
    MASTER,
    SHARDS,
    SINOGRAM,
    block_count,
    block_slices,
    dataset_path,
    shard_name,
)

FORMAT = 1
PER_SLICE = "/entry/per_slice"


class StoreWriter:
    """Writes a store of `n_slices` slices.

    Parameters
    ----------
    folder
        The store. Made where it is missing.
    n_slices
        Number of slices.
    size
        Height and width of a slice, in pixels.
    rows
        Detector row of each slice; default 0, 1, 2 …
    """

    def __init__(
        self,
        folder: Path | str,
        n_slices: int,
        size: tuple[int, int],
        rows: np.ndarray | None = None,
    ):
        self.folder = Path(folder)
        self.n_slices = int(n_slices)
        self.size = (int(size[0]), int(size[1]))
        self.rows = np.arange(n_slices) if rows is None else np.asarray(rows, dtype=np.int64)
        if len(self.rows) != self.n_slices or self.n_slices < 1:
            raise InputError(
                f"{self.folder}: a store needs one detector row per slice, at least one;"
                f" found {len(self.rows)} rows for {self.n_slices} slices."
            )

    @property
    def n_blocks(self) -> int:
        """Number of blocks (shards)."""
        return block_count(self.n_slices)

    def block_slices(self, block: int) -> range:
        """Give the slices of a block."""
        return block_slices(block, self.n_slices)

    def block_path(self, block: int) -> Path:
        """Give the path of a block's shard."""
        return self.folder / shard_name(block, self.n_slices)

    def is_done(self, block: int) -> bool:
        """Tell whether a block's shard is there (then it is whole)."""
        return self.block_path(block).is_file()

    def blocks_to_do(self) -> list[int]:
        """List the blocks whose shard is missing, in order."""
        return [block for block in range(self.n_blocks) if not self.is_done(block)]

    @contextlib.contextmanager
    def block(
        self, block: int, take_name: Callable[[Path, Path], None] = take_name
    ) -> Iterator[BlockWriter]:
        """Open a block to be filled a few slices at a time; it appears when all are there.

        Parameters
        ----------
        block
            Its number.
        take_name
            Brings the shard to the disk and gives it its name, now or, as
            `hpc_srct.background.NamesInBackground` does, while the next is made.

        Raises
        ------
        MachineError
            The disk is full, the place is read-only.
        """
        path = self.block_path(block)
        with hdf5_written_aside(path, take_name) as file:
            shard = BlockWriter(file, len(self.block_slices(block)), self.size, path)
            yield shard
            shard.check_whole()

    def write_block(
        self,
        block: int,
        arrays: Mapping[str, np.ndarray],
        per_slice: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Write a whole block.

        Parameters
        ----------
        block
            Its number.
        arrays
            For each name (``low``, ``full``, ``truth``, ``enhanced``, ``splits/0`` …) the
            slices of the block, (slice, y, x); for ``low/sinogram`` (slice, view, column).
        per_slice
            Figures kept with the slices, each (slice, …).
        """
        with self.block(block) as shard:
            for name, values in arrays.items():
                shard.write(name, 0, values)
            for name, values in (per_slice or {}).items():
                shard.note(name, 0, values)

    def per_slice(self, name: str) -> np.ndarray:
        """Collect a figure kept with the slices from all shards, in slice order."""
        parts = []
        for block in range(self.n_blocks):
            with h5py.File(self.block_path(block), "r", locking=False) as file:
                parts.append(file[f"{PER_SLICE}/{name}"][()])
        return np.concatenate(parts)

    def remove_leftovers(self) -> None:
        """Remove what a killed run left half-written. Only for the run that owns the store."""
        for folder in (self.folder, self.folder / SHARDS):
            for leftover in folder.glob(".*.part"):
                with contextlib.suppress(OSError):
                    leftover.unlink()

    def finish(
        self,
        provenance: Mapping[str, Any],
        *,
        scale: float | None = None,
        field_of_view: float | None = None,
        centre: float | None = None,
        pixel_size: float | None = None,
        low_angles: np.ndarray | None = None,
    ) -> None:
        """Write the master, with ``complete = true``.

        Parameters
        ----------
        provenance
            Where the slices came from; kept as JSON in ``/entry/provenance``.
        scale
            Robust intensity of the low-dose reconstruction, attenuation per pixel.
        field_of_view
            Radius in pixels of the circle that every view sees.
        centre
            Rotation centre, 0-based detector pixel.
        pixel_size
            Metres; None where unknown.
        low_angles
            Angles of the low-dose sinogram, (view,) radians.

        Raises
        ------
        MachineError
            A shard is missing or the master cannot be written.
        """
        layout = self._shard_layout()
        figures = {
            "scale": scale,
            "field_of_view": field_of_view,
            "centre": centre,
            "pixel_size": pixel_size,
        }
        with hdf5_written_aside(self.folder / MASTER) as file:
            file.attrs.update({"NX_class": "NXroot", "default": "entry", "format": FORMAT})
            entry = file.create_group("entry")
            entry.attrs.update({"NX_class": "NXentry"})
            for name, value in figures.items():
                if value is not None:
                    entry.attrs[name] = float(value)
            entry["rows"] = self.rows
            entry["provenance"] = json.dumps(provenance, default=str)
            for path, (shape, dtype) in layout.items():
                self._virtual(file, path, shape, dtype)
                group = file[path].parent
                if path.endswith("/data"):
                    _annotate(group, self.rows, self.size, pixel_size)
            if low_angles is not None and "low" in entry:
                entry["low/angles"] = np.asarray(low_angles, dtype=np.float64)
                entry["low/angles"].attrs["units"] = "rad"
            shown = next((name for name in ("enhanced", "low") if name in entry), None)
            if shown:
                entry.attrs["default"] = shown
            entry.attrs["complete"] = True
            file.attrs["complete"] = True

    def _shard_layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        missing = self.blocks_to_do()
        if missing:
            raise MachineError(
                f"{self.block_path(missing[0])}: is missing ({len(missing)} of {self.n_blocks}"
                " shards are); run again to make it."
            )
        found: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

        def visit(path: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                found["/" + path] = (item.shape[1:], item.dtype)

        with h5py.File(self.block_path(0), "r", locking=False) as file:
            file.visititems(visit)
        return found

    def _virtual(self, file: h5py.File, path: str, shape: tuple[int, ...], dtype: Any) -> None:
        properties = _new_properties()
        whole = h5py.h5s.create_simple((self.n_slices, *shape))
        for block in range(self.n_blocks):
            inside = self.block_slices(block)
            count = (len(inside), *shape)
            whole.select_hyperslab((inside.start, *(0 for _ in shape)), count)
            # Relative to the master, so that the store can be moved.
            name = shard_name(block, self.n_slices).encode()
            properties.set_virtual(whole, name, path.encode(), h5py.h5s.create_simple(count))
        missing = np.nan if np.issubdtype(dtype, np.floating) else -1
        properties.set_fill_value(np.array(missing, dtype=dtype))
        whole.select_all()
        _create(file, path, dtype, whole, properties)
        if path == dataset_path(SINOGRAM):
            file[path].attrs["units"] = "1"
        elif path.endswith("/data"):
            file[path].attrs["units"] = "1/pixel"
            file[path].attrs["long_name"] = "attenuation per pixel"


class BlockWriter:
    """The shard of one block while it is being filled."""

    def __init__(self, file: AsideFile, n_slices: int, size: tuple[int, int], path: Path):
        self._file, self._n, self._size, self._path = file, n_slices, size, path
        self._written: dict[str, np.ndarray] = {}
        self._places: dict[str, np.ndarray] = {}

    @property
    def aside(self) -> Path:
        """Where it is written until it is whole."""
        return self._file.aside

    def write(self, name: str, start: int, values: np.ndarray) -> None:
        """Write slices `start` … of one array; see `StoreWriter.write_block` for names."""
        values = np.asarray(values, dtype=np.float32)
        if name != SINOGRAM and values.shape[1:] != self._size:
            raise InputError(
                f"{self._path}: slices of {self._size} expected for '{name}', found"
                f" {values.shape[1:]}."
            )
        self._put(dataset_path(name), start, values)

    def note(self, name: str, start: int, values: np.ndarray) -> None:
        """Keep a figure with slices `start` …: (slice, …), float64 or int64."""
        self._put(f"{PER_SLICE}/{name}", start, np.asarray(values))

    def check_whole(self) -> None:
        """Raise unless every array has every slice."""
        for path, there in self._written.items():
            if not there.all():
                lacking = int(np.flatnonzero(~there)[0])
                raise MachineError(f"{self._path}: {path} was never given slice {lacking}.")

    def _put(self, path: str, start: int, values: np.ndarray) -> None:
        stop = start + len(values)
        if start < 0 or stop > self._n:
            raise InputError(
                f"{self._path}: {path} has {self._n} slices; slices {start} to {stop} do not fit."
            )
        if path not in self._written:
            self._make(path, values.shape[1:], values.dtype)
            self._written[path] = np.zeros(self._n, dtype=bool)
        dataset = self._file[path]
        if dataset.shape[1:] != values.shape[1:]:
            raise InputError(
                f"{self._path}: {path} has slices of {dataset.shape[1:]}, not of"
                f" {values.shape[1:]}."
            )
        if dataset.chunks is None:
            dataset[start:stop] = values
        else:
            if path not in self._places:
                self._places[path] = _places(dataset)
            _write_chunks(self._file, dataset, self._places[path][start:stop], values)
        self._file.check()
        self._written[path][start:stop] = True

    def _make(self, path: str, shape: tuple[int, ...], dtype: Any) -> None:
        properties = _new_properties()
        if len(shape) == 2:
            properties.set_chunk((1, *(min(CHUNK, side) for side in shape)))
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        # Not NEVER: the part of an edge chunk beyond the slice would be whatever memory held.
        properties.set_fill_time(h5py.h5d.FILL_TIME_IFSET)
        space = h5py.h5s.create_simple((self._n, *shape))
        _create(self._file, path, dtype, space, properties)


def _places(dataset: h5py.Dataset) -> np.ndarray:
    """Find where the chunks of a dataset stand in its file, (slice, down, across) in bytes."""
    found = []
    dataset.id.chunk_iter(lambda chunk: found.append((*chunk.chunk_offset, chunk.byte_offset)))
    *firsts, place = np.array(found).T
    counts = [-(-side // step) for side, step in zip(dataset.shape, dataset.chunks, strict=True)]
    places = np.empty(counts, np.int64)
    places[tuple(first // step for first, step in zip(firsts, dataset.chunks, strict=True))] = place
    return places


def _write_chunks(
    file: AsideFile, dataset: h5py.Dataset, places: np.ndarray, values: np.ndarray
) -> None:
    """Write slices into the chunks that are laid out for them.

    Past HDF5, which would copy every chunk once more and write each by itself: those that lie
    side by side are gathered and go to the file at once.
    """
    _, height, width = dataset.chunks
    band = np.zeros((places.shape[2], height, width), dataset.dtype)
    for there, of_slice in zip(places, values, strict=True):
        for down, row_of_places in enumerate(there):
            rows = of_slice[down * height : (down + 1) * height]
            band[:, len(rows) :] = 0  # beyond the slice
            for across, chunk in enumerate(band):
                part = rows[:, across * width : (across + 1) * width]
                chunk[: part.shape[0], : part.shape[1]] = part
            gaps = np.flatnonzero(np.diff(row_of_places) != band[0].nbytes) + 1
            for run in np.split(np.arange(len(band)), gaps):
                file.write_at(row_of_places[run[0]], band[run[0] : run[-1] + 1])


def _new_properties() -> h5py.h5p.PropDCID:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    # HDF5 would write the time of making into every dataset's header.
    properties.set_obj_track_times(False)
    return properties


def _create(
    file: h5py.File,
    path: str,
    dtype: Any,
    space: h5py.h5s.SpaceID,
    properties: h5py.h5p.PropDCID,
) -> None:
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(file.id, path.encode(), kind, space, dcpl=properties, lcpl=links)


def _annotate(
    group: h5py.Group, rows: np.ndarray, size: tuple[int, int], pixel_size: float | None
) -> None:
    """Add what NXdata asks for, so that viewers label the axes."""
    height, width = size
    step, units = (pixel_size, "m") if pixel_size else (1.0, "pixel")
    group.attrs.update({"NX_class": "NXdata", "signal": "data"})
    group.attrs["axes"] = np.array(["row", "y", "x"], dtype=object)
    if pixel_size:
        group.attrs["pixel_size"] = float(pixel_size)
    group["row"] = rows
    group["y"] = ((height - 1) / 2 - np.arange(height)) * step
    group["x"] = (np.arange(width) - (width - 1) / 2) * step
    for axis in ("y", "x"):
        group[axis].attrs["units"] = units
