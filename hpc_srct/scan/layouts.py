"""A layout file laid over what a format's reader found."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from hpc_srct.errors import InputError
from hpc_srct.scan.hdf5 import Hdf5File, attribute, axes_of
from hpc_srct.scan.roles import Angles, Frames, Place, Roles
from hpc_srct.scan.units import to_metres
from hpc_srct.settings.layout import AnglesRole, DatasetRole, FramesRole, Layout, LengthRole


class Overlay:
    """Roles of a scan with a layout's own laid over them.

    Parameters
    ----------
    scan
        The scan: a file, or the folder that holds one file for each role.
    layout
        What the user says.
    """

    def __init__(self, scan: Path, layout: Layout):
        self._layout = layout
        self._folder = scan if scan.is_dir() else scan.parent
        self._files: dict[Path, Hdf5File] = {}
        self._scan = None if scan.is_dir() else self._file(scan)

    def apply(self, below: Roles) -> Roles:
        """Give `below` with every role that the layout names replaced.

        Raises
        ------
        InputError
            A file that is not there, a role without a path, a length without a unit.
        """
        layout = self._layout
        roles = replace(below, format="layout", notes=list(below.notes), broken=dict(below.broken))
        for name in ("projections", "image_key", "flats", "darks", "angles", "monitor"):
            if getattr(layout, name) is not None:
                roles.broken.pop(name, None)
        if layout.projections is not None:
            roles.projections = self._frames(layout.projections)
        if layout.image_key is not None:
            roles.key, roles.keyed = self._place(layout.image_key), True
        if layout.flats is not None:
            roles.flats = [self._frames(role) for role in _list(layout.flats)]
        if layout.darks is not None:
            roles.darks = [self._frames(role) for role in _list(layout.darks)]
        if layout.angles is not None:
            roles.angles = self._angles(layout.angles)
        if layout.monitor is not None:
            roles.monitor = self._place(layout.monitor)
        if layout.pixel_size is not None:
            roles.pixel_size = self._length(layout.pixel_size, roles.notes)
        if layout.centre is not None:
            roles.centre = layout.centre
        return roles

    def _file(self, path: Path) -> Hdf5File:
        return self._files.setdefault(path, Hdf5File(path))

    def _place(self, role: FramesRole | DatasetRole | AnglesRole | LengthRole) -> Place:
        if role.file is not None:
            return Place(self._file(self._folder / role.file), role.path)
        if self._scan is None:
            raise InputError(
                f"{self._folder}: is a folder, and the layout names no file for {role.path}.\n"
                "Name one under `file`, relative to that folder."
            )
        return Place(self._scan, role.path)

    def _frames(self, role: FramesRole) -> Frames:
        place = self._place(role)
        axes = role.axes or axes_of(place.file.dataset(place.path))
        position = {"start": 0.0, "end": math.inf}.get(role.position, role.position)
        return Frames(place, axes, position)

    def _angles(self, role: AnglesRole) -> Angles:
        if role.range is not None:
            factor = 1.0 if role.units == "rad" else math.pi / 180
            first, last = role.range
            return Angles(span=(first * factor, last * factor), of="projections")
        return Angles(self._place(role), role.units, of=role.of)

    def _length(self, role: LengthRole, notes: list[str]) -> float | None:
        if role.value is not None:
            return to_metres(role.value, role.units or "m", "layout: pixel_size", notes, "m")
        place = self._place(role)
        value = place.file.values(place.path)
        if value is None or not value.size:
            raise InputError(f"{place}: expected a pixel size there, found no number.")
        units = role.units or attribute(place.file.dataset(place.path), "units", "unit")
        return to_metres(value[0], units, str(place), notes, "m")


def _list(value: FramesRole | list[FramesRole]) -> list[FramesRole]:
    return value if isinstance(value, list) else [value]
