"""Opening a raw scan: DXchange, NXtomo, or what a layout file says. Frames are read lazily."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.scan import dxchange, nxtomo
from hpc_srct.scan.assemble import Assembled, GroupAt, assemble
from hpc_srct.scan.geometry import refuse_cone_beam, refuse_lab_file
from hpc_srct.scan.hdf5 import Hdf5File
from hpc_srct.scan.layouts import Overlay
from hpc_srct.scan.roles import Roles
from hpc_srct.scan.stack import Stack
from hpc_srct.settings.layout import Layout, load_layout

# A chunk of so many rows is better read once, whole, than again for each few rows of it.
MANY = 64
_MOST_FILES = 50  # listed one by one in a provenance


@dataclass(frozen=True)
class FrameGroup:
    """Flats or darks taken together.

    Attributes
    ----------
    position
        How many projections were taken before them: 0 before all, `n_views` after all.
    frames
        Shape (frame, row, column), raw counts in the file's dtype.
    monitor
        Beam monitor, one for each frame; None where there is none.
    """

    position: float
    frames: np.ndarray
    monitor: np.ndarray | None = None


class Scan:
    """A raw scan; made by `open_scan`.

    Attributes
    ----------
    path : Path
    format : str
        ``dxchange``, ``nxtomo`` or ``layout``.
    n_views, n_rows, n_columns : int
        Projections and the detector's size.
    dtype : numpy.dtype
        Of the raw counts.
    angles : ndarray, shape (n_views,)
        Radians, in the order of the projections.
    pixel_size : float or None
        Metres.
    centre_hint : float or None
        Column of the rotation axis, 0-based, where the file or the layout names one.
    monitor : ndarray, shape (n_views,), or None
        Beam monitor.
    lost : ndarray of int
        Projections that were never written, or that a virtual dataset takes from nowhere; those
        that hold no light join them when they are found.
    notes : list of str
        What was assumed, for the user.
    chunked_by_frame : bool
        A read of one row costs whole frames, or many of their rows.
    chunk_frames, chunk_rows : int
        Frames and rows that the smallest read costs.
    file_bytes : int
        Size of the files that hold the frames.
    """

    def __init__(self, path: Path, roles: Roles, parts: Assembled, without_darks: bool):
        stack = parts.stack
        self.path, self.format, self.notes = path, roles.format, list(roles.notes)
        self.n_views, self.n_rows, self.n_columns = len(parts.views), stack.n_rows, stack.n_columns
        self.dtype, self.angles = stack.dtype, parts.angles
        self.pixel_size, self.centre_hint = roles.pixel_size, roles.centre
        self.monitor = None if parts.monitor is None else parts.monitor[parts.views]
        self.lost = np.flatnonzero(np.isin(parts.views, stack.unwritten()))
        self.chunk_frames, self.chunk_rows = stack.chunk_frames, stack.chunk_rows
        self.chunked_by_frame = stack.n_rows > 1 and stack.chunk_rows >= min(stack.n_rows, MANY)
        self._parts, self._roles, self._without_darks = parts, roles, without_darks
        self.flat_groups = _summary(parts.flats)
        self.dark_groups = _summary(parts.darks)
        self.n_flats = sum(count for _, count in self.flat_groups)
        self.n_darks = sum(count for _, count in self.dark_groups)
        self.file_bytes = sum(file.stat().st_size for file in self._files())
        if not self.n_darks:
            if "darks" in roles.broken:
                self.notes.append(str(roles.broken["darks"]))
            self.notes.append(
                "Dark frames: none; zero is taken for them, as asked."
                if without_darks
                else "Dark frames: none. Preprocessing asks for them, unless told to take zero"
                " for them: without_darks=true."
            )
        if not self.n_flats:
            self.notes.append("Flat frames: none, and going on without them, as asked.")

    @property
    def frame_indices(self) -> np.ndarray:
        """Where each projection stands among all frames of its dataset."""
        return self._parts.views

    @property
    def chunk_starts(self) -> np.ndarray:
        """Projections at which a chunk of frames begins."""
        chunks = self._parts.views // self.chunk_frames
        return np.flatnonzero(np.diff(chunks, prepend=-1))

    def projections(self, views: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """Read projections as raw counts.

        Parameters
        ----------
        views
            Indices of projections, 0..n_views, in any order.
        rows
            Detector rows.

        Returns
        -------
        ndarray, shape (len(views), rows, columns), in the file's dtype

        Raises
        ------
        InputError
            A damaged frame, named.
        """
        return self._parts.stack.read(self._parts.views[np.asarray(views)], rows)

    def flats(self, rows: slice = slice(None)) -> list[FrameGroup]:
        """Read the flats, a group for each time they were taken; [] where going on without."""
        return self._read(self._parts.flats, rows)

    def darks(self, rows: slice = slice(None)) -> list[FrameGroup]:
        """Read the darks; [] where the user asked for zero in their place.

        Raises
        ------
        InputError
            There are none and nobody asked for zeros.
        """
        if not self.n_darks and not self._without_darks:
            if "darks" in self._roles.broken:
                raise self._roles.broken["darks"]
            where = self._roles.looked_for.get("darks", "the layout")
            raise InputError(
                f"{self.path}: {where}: no dark frames there.\n"
                "Name darks of another file in a layout, or take zero: without_darks=true."
            )
        return self._read(self._parts.darks, rows)

    def truth(self, rows: slice = slice(None)) -> np.ndarray | None:
        """Read a simulated scan's true slices (row, y, x), attenuation per pixel, or None."""
        place = self._roles.truth
        if place is None:
            return None
        return Stack(place.file, place.path).read(np.arange(self.n_rows)[rows], slice(None))

    def source(self) -> dict[str, Any]:
        """Describe where the data came from, for the provenance of what is made of it."""
        roles = self._roles
        places = {
            "projections": [str(roles.projections.place)],
            "flats": [str(group.stack) for group in self._parts.flats],
            "darks": [str(group.stack) for group in self._parts.darks],
            "angles": [str(roles.angles.place)] if roles.angles and roles.angles.place else [],
            "image_key": [str(roles.key)] if roles.key and roles.keyed else [],
        }
        others = [roles.angles.place if roles.angles else None, roles.key, roles.monitor]
        beside = [place.file.path.absolute() for place in others if place is not None]
        files = [_stamp(file) for file in dict.fromkeys([*self._files(), *beside])]
        if len(files) > _MOST_FILES:  # a virtual dataset of one file for each frame
            files = [_together(files)]
        # A folder changes whenever something is put beside the scan.
        whole = _together(files) if self.path.is_dir() else _stamp(self.path)
        return {
            **whole,
            "path": str(self.path.resolve()),
            "format": self.format,
            "datasets": {role: sorted(set(names)) for role, names in places.items()},
            "files": files,
        }

    def close(self) -> None:
        """Close the files in this process; the next read opens them again."""
        for group in (*self._parts.flats, *self._parts.darks):
            if isinstance(group.stack, Stack):
                group.stack.file.close()
        self._parts.stack.file.close()

    def _files(self) -> list[Path]:
        stacks = [self._parts.stack, *(g.stack for g in (*self._parts.flats, *self._parts.darks))]
        return list(dict.fromkeys(source for stack in stacks for source in stack.sources))

    def _read(self, groups: tuple[GroupAt, ...], rows: slice) -> list[FrameGroup]:
        monitor = self._parts.monitor
        return [
            FrameGroup(
                group.position,
                group.stack.read(group.frames, rows),
                monitor[group.frames]
                if monitor is not None and group.stack is self._parts.stack
                else None,
            )
            for group in groups
        ]


def open_scan(
    path: Path | str,
    layout: Path | str | Layout | None = None,
    *,
    angle_range: tuple[float, float] | None = None,
    without_flats: bool = False,
    without_darks: bool = False,
) -> Scan:
    """Open a raw scan; frames are read when they are asked for.

    Parameters
    ----------
    path
        An HDF5 file; with a layout that names a file for each role, their folder.
    layout
        A layout file, the name of a shipped one, or a `Layout`.
    angle_range
        First and last angle of the projections in degrees, both included; over the file's.
    without_flats, without_darks
        Go on where there are none: the projections are then taken as corrected already.

    Raises
    ------
    InputError
        Not a scan, or one that cannot be read right: what, where, and what to do.
    """
    path = Path(path)
    if layout is not None and not isinstance(layout, Layout):
        layout = load_layout(layout)
    refuse_lab_file(path)
    if layout is not None and path.is_dir():
        roles = Roles("layout")
    else:
        file = Hdf5File(path)
        file.open()
        if layout is None or layout.geometry is None:
            refuse_cone_beam(file)
        roles = _recognised(file, layout)
    if layout is not None:
        roles = Overlay(path, layout).apply(roles)
        if layout.geometry is None and roles.projections is not None:
            refuse_cone_beam(roles.projections.place.file)
    parts = assemble(roles, angle_range, without_flats)
    return Scan(path, roles, parts, without_darks)


def _recognised(file: Hdf5File, layout: Layout | None) -> Roles:
    """Find the roles of a file by its format."""
    if layout is not None and layout.base == "none":
        return Roles("layout")
    if layout is not None and layout.entry is not None:
        return nxtomo.read_roles(file, layout.entry)
    if dxchange.is_dxchange(file):
        return dxchange.read_roles(file)
    entries = nxtomo.find_entries(file)
    if not entries:
        if layout is not None and layout.projections is not None:
            return Roles("layout")
        there = ", ".join(f"/{name}" for name in file.open()) or "nothing"
        raise InputError(
            f"{file}: not a tomography scan: looked for /exchange (DXchange) and for an entry"
            f" with definition NXtomo or a detector with image_key; found {there}.\n"
            "If it is one, name its paths in a layout file."
        )
    roles = nxtomo.read_roles(file, entries[0])
    if len(entries) > 1:
        roles.notes.append(
            f"{file}: {len(entries)} NXtomo entries; {entries[0]} is read. Others: "
            f"{', '.join(entries[1:])} (set `entry` in a layout file)."
        )
    return roles


def _stamp(file: Path) -> dict[str, Any]:
    stat = file.stat()
    return {"path": str(file), "bytes": stat.st_size, "mtime": stat.st_mtime}


def _together(files: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "path": f"{len(files)} files from {files[0]['path']} on",
        "bytes": sum(file["bytes"] for file in files),
        "mtime": max(file["mtime"] for file in files),
    }


def _summary(groups: tuple[GroupAt, ...]) -> list[tuple[float, int]]:
    return [(group.position, len(group.frames)) for group in groups]
