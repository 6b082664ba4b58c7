"""A stack of detector frames in a file: which axis is which, read lazily by lists of indices.

Frames are never read as one contiguous range: flats and darks may stand between projections.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.scan.hdf5 import Hdf5File, missing_filter, unreadable
from hpc_srct.scan.sources import sources_of

_AXES = {
    "view": (
        *("view", "views", "theta", "theta_white", "theta_dark", "theta_flat", "angle", "angles"),
        *("rotation_angle", "projection", "projections", "frame", "frames", "time", "n"),
    ),
    "row": ("row", "rows", "y", "v", "detector_y"),
    "column": ("column", "columns", "col", "x", "u", "detector_x"),
}
_AXIS_OF = {name: axis for axis, names in _AXES.items() for name in names}
DEFAULT_AXES = "view:row:column"


def parse_axes(text: str, where: str) -> tuple[int, int, int]:
    """Find which axis of a dataset is the view, the row and the column.

    Parameters
    ----------
    text
        Names in the dataset's order, such as ``theta:y:x`` or ``row:view:column``.
    where
        Named in the message.

    Raises
    ------
    InputError
        A name that is unknown, or twice, or not three of them.
    """
    names = [name.strip().lower() for name in re.split(r"[:,;\s]+", text.strip(" []()"))]
    kinds = [_AXIS_OF.get(name) for name in names]
    if sorted(str(kind) for kind in kinds) != ["column", "row", "view"]:
        raise InputError(
            f"{where}: axes '{text}' are not those of projections; expected view, row and column"
            " (theta:y:x) in some order.\nName them under `axes` in a layout file."
        )
    return kinds.index("view"), kinds.index("row"), kinds.index("column")


def runs(indices: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Cut a list of indices into runs of neighbours, each of which one read can fetch.

    Every k-th frame is read frame by frame: HDF5 takes a hundred times as long to read a
    chunked dataset with a stride.

    Yields
    ------
    tuple of slice
        Where the run goes in the result, and what to read: together they cover ``indices`` in
        its own order.
    """
    ends = np.flatnonzero(np.diff(indices) != 1) + 1
    for start, stop in itertools.pairwise([0, *ends.tolist(), len(indices)]):
        if stop > start:
            first = int(indices[start])
            yield slice(start, stop), slice(first, first + stop - start)


class Stack:
    """Frames (frame, row, column) behind a path of a file.

    Parameters
    ----------
    file, path
        The file and the dataset in it, which must be there.
    axes
        Names of the dataset's axes; None: the `axes` attribute is not asked, and the order
        is view, row, column.
    single
        A 2-D dataset is one frame (flats and darks that were averaged).

    Raises
    ------
    InputError
        Not numbers, not three axes, empty, a filter that is missing, a virtual dataset one
        of whose source files is not there (HDF5 would answer its fill value, silently).
    """

    def __init__(self, file: Hdf5File, path: str, axes: str | None = None, single: bool = False):
        self.file, self.path = file, path
        dataset = self._dataset()
        where = f"{file}: {path}"
        if dataset.dtype.kind not in "uif":
            raise InputError(f"{where}: expected numbers, found {dataset.dtype}.")
        self._flat = single and dataset.ndim == 2
        if dataset.ndim != 3 and not self._flat:
            raise InputError(
                f"{where}: expected 3 axes (view, row, column), found shape {dataset.shape}."
            )
        order = parse_axes(axes, where) if axes and not self._flat else (0, 1, 2)
        self._order = order
        shape = (1, *dataset.shape) if self._flat else dataset.shape
        self.n_frames, self.n_rows, self.n_columns = (int(shape[axis]) for axis in order)
        if 0 in shape:
            raise InputError(f"{where}: is empty, shape {dataset.shape}; expected frames.")
        self.dtype = dataset.dtype
        lacking = missing_filter(dataset)
        if lacking:
            raise InputError(f"{where}: {lacking}.")
        self.sources = sources_of(f"{file}: {path}", dataset)
        self.chunk_frames, self.chunk_rows = self._chunk(dataset)

    def __str__(self) -> str:
        return f"{self.file}: {self.path}"

    def _dataset(self) -> h5py.Dataset:
        dataset = self.file.dataset(self.path)
        if dataset is None:
            raise InputError(f"{self.file}: {self.path}: expected frames there, found nothing.")
        return dataset

    def _chunk(self, dataset: h5py.Dataset) -> tuple[int, int]:
        """Count the frames and the rows that a read of one pixel costs."""
        if dataset.is_virtual:
            dataset = _first_source(dataset) or dataset
        chunk = dataset.chunks
        if chunk is None:
            return 1, 1
        plain = dataset.id.get_create_plist().get_nfilters() == 0
        cache = dataset.file.id.get_access_plist().get_cache()[2]
        if plain and np.prod(chunk) * dataset.dtype.itemsize > cache:
            return 1, 1  # HDF5 reads parts of a plain chunk that does not fit its cache
        if len(chunk) != 3:
            return 1, min(chunk[-2] if len(chunk) > 1 else 1, self.n_rows)
        view, row, _ = self._order
        return min(chunk[view], self.n_frames), min(chunk[row], self.n_rows)

    def unwritten(self) -> np.ndarray:
        """List the frames that nobody wrote, as far as the file tells: they read as its fill value.

        Returns
        -------
        ndarray of int
            Those of which no chunk is stored, and those of a virtual dataset that have no source.
        """
        dataset = self._dataset()
        if self._flat:
            return np.zeros(0, np.int64)
        view = self._order[0]
        there = _mapped(dataset, view) if dataset.is_virtual else _stored(dataset, view)
        return np.flatnonzero(~there)

    def read(self, frames: np.ndarray, rows: slice) -> np.ndarray:
        """Read some rows of some frames, in the order asked for.

        Parameters
        ----------
        frames
            Indices into the stack, in any order.
        rows
            Detector rows.

        Returns
        -------
        ndarray, shape (len(frames), rows, columns), in the file's dtype

        Raises
        ------
        InputError
            A damaged chunk, named by its frame.
        """
        rows = slice(*rows.indices(self.n_rows))
        frames = np.asarray(frames, dtype=np.int64)
        if frames.size and (frames.min() < 0 or frames.max() >= self.n_frames):
            raise IndexError(f"{self}: frames {frames.min()}..{frames.max()} of {self.n_frames}")
        dataset = self._dataset()
        count = len(range(*rows.indices(self.n_rows)))
        result = np.empty((len(frames), count, self.n_columns), self.dtype)
        if result.size == 0:
            return result
        for place, piece in runs(frames):
            try:
                self._read_piece(dataset, piece, rows, result[place])
            except OSError as error:
                raise self._damaged(dataset, frames[place], rows, error) from error
        return result

    def _read_piece(self, dataset: h5py.Dataset, piece: slice, rows: slice, out: np.ndarray):
        if self._flat:
            out[0] = dataset[rows]
        elif self._order == (0, 1, 2):
            dataset.read_direct(out, np.s_[piece, rows, :])
        else:
            selection = [slice(None)] * 3
            selection[self._order[0]], selection[self._order[1]] = piece, rows
            out[...] = np.transpose(dataset[tuple(selection)], self._order)

    def _damaged(self, dataset: h5py.Dataset, frames: np.ndarray, rows: slice, error: OSError):
        """Find the first frame of a failed read that fails by itself."""
        row_count = len(range(*rows.indices(self.n_rows)))
        for frame in frames:
            alone = np.empty((1, row_count, self.n_columns), self.dtype)
            try:
                self._read_piece(dataset, slice(int(frame), int(frame) + 1), rows, alone)
            except OSError as inner:
                return unreadable(self.file, f"{self.path}: frame {frame}", inner)
        return unreadable(self.file, f"{self.path}: frames {frames[0]}..{frames[-1]}", error)


class Constant:
    """Frames that a file gives as one number, for all pixels alike."""

    def __init__(self, value: float, n_rows: int, n_columns: int, label: str):
        self.value, self.label = value, label
        self.n_frames, self.n_rows, self.n_columns = 1, n_rows, n_columns
        self.chunk_rows = 1
        self.sources: list[Path] = []

    def __str__(self) -> str:
        return self.label

    def read(self, frames: np.ndarray, rows: slice) -> np.ndarray:
        """Give constant frames, float32."""
        count = len(range(*rows.indices(self.n_rows)))
        return np.full((len(frames), count, self.n_columns), self.value, np.float32)


def _mapped(dataset: h5py.Dataset, axis: int) -> np.ndarray:
    """Tell which frames of a virtual dataset have a source."""
    there = np.zeros(dataset.shape[axis], bool)
    for source in dataset.virtual_sources():
        space = source.vspace
        if not space.is_regular_hyperslab():
            first, last = (int(end[axis]) for end in space.get_select_bounds())
            there[first : last + 1] = True
            continue
        start, stride, count, block = (int(part[axis]) for part in space.get_regular_hyperslab())
        for first in range(start, min(start + stride * count, len(there)), max(stride, 1)):
            there[first : min(first + block, len(there))] = True
    return there


def _stored(dataset: h5py.Dataset, axis: int) -> np.ndarray:
    """Tell of which frames at least one chunk was written."""
    there = np.ones(dataset.shape[axis], bool)
    chunk = dataset.chunks
    if chunk is None:
        # Contiguous and never written: no room was made for it.
        if dataset.id.get_storage_size() == 0 and not dataset.external:
            there[:] = False
        return there
    pairs = zip(dataset.shape, chunk, strict=True)
    if dataset.id.get_num_chunks() < math.prod(-(-size // part) for size, part in pairs):
        there[:] = False

        def mark(stored: h5py.h5d.StoreInfo) -> None:
            first = stored.chunk_offset[axis]
            there[first : first + chunk[axis]] = True

        dataset.id.chunk_iter(mark)
    return there


def _first_source(dataset: h5py.Dataset) -> h5py.Dataset | None:
    """Open the first source of a virtual dataset, for its chunks; None where that fails."""
    for source in itertools.islice(dataset.virtual_sources(), 1):
        name = dataset.file.filename
        if source.file_name != ".":
            name = str(Path(name).parent / source.file_name)
        try:
            found = h5py.File(name, "r", locking=False)[source.dset_name]
        except (OSError, KeyError):
            return None
        lacking = missing_filter(found)
        if lacking:
            raise InputError(f"{name}: {source.dset_name}: {lacking}.")
        return found
    return None
