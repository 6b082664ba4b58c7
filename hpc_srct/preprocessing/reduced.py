"""A part of a scan, or a coarser one: some detector columns, pixels added up.

Counts are added, not averaged: photons stay photons, and whole numbers whole.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.scan import FrameGroup, Scan
from hpc_srct.settings.preprocessing import PreprocessingSettings


class ReducedScan:
    """A scan of which some columns are taken and pixels are added up; stands in a `Scan`'s place.

    Rows and columns that are left over by binning are left out.

    Parameters
    ----------
    scan
        The scan as it was taken.
    columns
        Detector columns to keep.
    binning
        Rows and columns that become one pixel.

    Attributes
    ----------
    bytes_read : int
        Bytes of the file behind one pixel.

    Raises
    ------
    InputError
        Nothing is left.
    """

    def __init__(self, scan: Scan, columns: range, binning: int):
        self._scan, self._binning = scan, binning
        self.path, self.format, self.monitor = scan.path, scan.format, scan.monitor
        self.lost = scan.lost
        self.n_views, self.angles = scan.n_views, scan.angles
        self.n_rows, self.n_columns = scan.n_rows // binning, len(columns) // binning
        if self.n_rows < 1 or self.n_columns < 2:
            raise InputError(
                f"binning: {binning} leaves {self.n_rows} × {self.n_columns} pixels of {scan.path}"
                f" ({scan.n_rows} × {len(columns)}); expected at least 1 × 2."
            )
        self._columns = slice(columns.start, columns.start + self.n_columns * binning)
        whole = np.issubdtype(scan.dtype, np.integer)
        self.dtype = np.dtype(np.int64 if whole else np.float32) if binning > 1 else scan.dtype
        self.bytes_read = -(-scan.n_columns * binning * scan.dtype.itemsize // self.n_columns)
        self.pixel_size = None if scan.pixel_size is None else scan.pixel_size * binning
        self.chunked_by_frame, self.chunk_frames = scan.chunked_by_frame, scan.chunk_frames
        self.chunk_rows = max(1, scan.chunk_rows // binning)
        self.chunk_starts = scan.chunk_starts
        self.flat_groups, self.dark_groups = scan.flat_groups, scan.dark_groups
        self.n_flats, self.n_darks = scan.n_flats, scan.n_darks
        self.file_bytes = scan.file_bytes
        hint = scan.centre_hint
        self.centre_hint = None if hint is None else (hint - columns.start + 0.5) / binning - 0.5
        self.notes = [
            *scan.notes,
            f"Columns {self._columns.start} to {self._columns.stop - 1} of {scan.n_columns}"
            + (f", {binning} × {binning} pixels added up" if binning > 1 else "")
            + f": {self.n_rows} rows of {self.n_columns} columns.",
        ]

    def projections(self, views: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """Read projections: (view, row, column), counts."""
        return self._reduced(self._scan.projections(views, self._wide(rows)))

    def flats(self, rows: slice = slice(None)) -> list[FrameGroup]:
        """Read the flats."""
        groups = self._scan.flats(self._wide(rows))
        return [replace(group, frames=self._reduced(group.frames)) for group in groups]

    def darks(self, rows: slice = slice(None)) -> list[FrameGroup]:
        """Read the darks."""
        groups = self._scan.darks(self._wide(rows))
        return [replace(group, frames=self._reduced(group.frames)) for group in groups]

    def truth(self, rows: slice = slice(None)) -> np.ndarray | None:
        """Read the truth on the coarser grid, attenuation per pixel of that grid.

        None where its middle does not fall on that grid's.
        """
        truth = self._scan.truth(self._wide(rows))
        size = self.n_columns * self._binning
        if truth is None or truth.shape[1] != truth.shape[2] or (truth.shape[1] - size) % 2:
            return None
        first = (truth.shape[1] - size) // 2
        inside = truth[:, first : first + size, first : first + size]
        b = self._binning
        cubes = inside.reshape(-1, b, self.n_columns, b, self.n_columns, b)
        return (cubes.mean(axis=(1, 3, 5), dtype=np.float64) * b).astype(np.float32)

    def source(self) -> dict[str, Any]:
        """Describe where the data came from."""
        return self._scan.source()

    def close(self) -> None:
        """Close the files in this process."""
        self._scan.close()

    def _wide(self, rows: slice) -> slice:
        first, stop, _ = rows.indices(self.n_rows)
        return slice(first * self._binning, stop * self._binning)

    def _reduced(self, frames: np.ndarray) -> np.ndarray:
        inside = frames[:, :, self._columns]
        b = self._binning
        if b == 1:
            return np.ascontiguousarray(inside)
        count, rows, columns = inside.shape
        boxes = inside.reshape(count, rows // b, b, columns // b, b)
        return boxes.sum(axis=(2, 4), dtype=self.dtype)


def reduced(scan: Scan, settings: PreprocessingSettings) -> Scan | ReducedScan:
    """Take the columns and the binning that the settings ask for; else the scan as it is.

    Raises
    ------
    InputError
        The scan has no such columns, or nothing is left.
    """
    columns = settings.chosen_columns(scan.n_columns)
    if len(columns) == scan.n_columns and settings.binning == 1:
        return scan
    return ReducedScan(scan, columns, settings.binning)
