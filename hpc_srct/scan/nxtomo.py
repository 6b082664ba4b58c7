"""NXtomo: where a NeXus file keeps its roles (nexusformat/definitions, NXtomo).

The entry is found by its `definition`, or else by classes, at any depth. `image_key` tells
frames apart: 0 projection, 1 flat, 2 dark, 3 invalid. Before there was a key (version 1.0b, to
2012), each kind had a detector group of its own, and sequence numbers said which came when.
"""

from __future__ import annotations

import h5py
import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.scan.hdf5 import LINK_ERRORS, Hdf5File, attribute, groups, text_of
from hpc_srct.scan.roles import Angles, Frames, Place, Roles
from hpc_srct.scan.units import to_metres

# Detector groups of version 1.0b; its own links call `data` what stands in `sample`.
_OLD_PROJECTIONS, _OLD_FLATS, _OLD_DARKS = ("sample", "data"), "bright_field", "dark_field"


def find_entries(file: Hdf5File) -> list[str]:
    """List the NXtomo entries of a file, outermost first.

    Those whose `definition` says NXtomo; where there are none, entries that hold a detector
    with `data` and `image_key`, or the detectors of version 1.0b.
    """
    defined, by_class = [], []
    for path, group in groups(file):
        try:
            definition = text_of(group.get("definition"))
        except LINK_ERRORS:
            definition = ""
        if definition.lower() == "nxtomo":
            defined.append(path)
        if _class(group) == "nxdetector" and "image_key" in group and _has(group, "data"):
            by_class.append(path)
        if _is_old(group):
            by_class.append(path)
    return defined or list(dict.fromkeys(_entry_above(file, path) for path in by_class))


def _entry_above(file: Hdf5File, path: str) -> str:
    parts = path.strip("/").split("/")
    for depth in range(len(parts) - 1, 0, -1):
        above = "/" + "/".join(parts[:depth])
        if _class(file.get(above)) in ("nxentry", "nxsubentry"):
            return above
    return "/"


def _class(group: h5py.Group | None) -> str:
    return attribute(group, "NX_class").lower()


def _has(group: h5py.Group, name: str) -> bool:
    """Tell whether a link of this name is there, even one that leads nowhere."""
    return name in list(group)


def read_roles(file: Hdf5File, entry: str) -> Roles:
    """Find the roles of one NXtomo entry.

    Raises
    ------
    InputError
        No such entry.
    """
    roles = Roles("nxtomo", keyed=True)
    entry = "/" + entry.strip("/")
    if not isinstance(file.get(entry) if entry != "/" else file.open(), h5py.Group):
        raise InputError(f"{file}: {entry}: no such entry; name it right in the layout file.")
    instrument = _child(file, entry, "instrument", "nxinstrument") or _join(entry, "instrument")
    if _is_old(file.get(instrument)):
        return _old_roles(file, entry, instrument)
    detector = _detector(file, instrument)
    sample = _child(file, entry, "sample", "nxsample") or _join(entry, "sample")
    data, key, angles = (
        _first(file, (home, _join(entry, f"data/{name}")), roles, role)
        for role, name, home in (
            ("projections", "data", f"{detector}/data"),
            ("image_key", "image_key", f"{detector}/image_key"),
            ("angles", "rotation_angle", f"{sample}/rotation_angle"),
        )
    )
    roles.looked_for = {
        "projections": f"{detector}/data",
        "image_key": f"{detector}/image_key",
        "angles": f"{sample}/rotation_angle",
        "flats": f"{key or detector + '/image_key'} (value 1)",
        "darks": f"{key or detector + '/image_key'} (value 2)",
    }
    roles.projections = Frames(Place(file, data)) if data else None
    roles.key = Place(file, key) if key else None
    roles.angles = Angles(Place(file, angles), of="frames") if angles else None
    monitor = _first(file, (_join(entry, "control/data"),), roles, "monitor")
    roles.monitor = Place(file, monitor) if monitor else None
    _geometry(file, detector, roles)
    return roles


def _is_old(instrument: h5py.Group | None) -> bool:
    """Tell the instrument of version 1.0b: flats and projections in groups of their own."""
    if not isinstance(instrument, h5py.Group) or not _has(instrument, _OLD_FLATS):
        return False
    return any(_has(instrument, name) for name in _OLD_PROJECTIONS)


def _old_roles(file: Hdf5File, entry: str, instrument: str) -> Roles:
    """Find the roles of an entry of version 1.0b."""
    group = file.get(instrument)
    name = next(name for name in _OLD_PROJECTIONS if _has(group, name))
    home = f"{instrument}/{name}"
    roles = Roles("nxtomo")
    roles.notes.append(
        f"{file}: {entry}: NXtomo 1.0b: projections in {home}, flats in"
        f" {instrument}/{_OLD_FLATS}, darks in {instrument}/{_OLD_DARKS}."
    )
    sample = _child(file, entry, "sample", "nxsample") or _join(entry, "sample")
    angle_path = f"{sample}/rotation_angle"
    data = _first(file, (f"{home}/data", _join(entry, "data/data")), roles, "projections")
    angles = _first(file, (angle_path, _join(entry, "data/rotation_angle")), roles, "angles")
    roles.projections = Frames(Place(file, data)) if data else None
    roles.angles = Angles(Place(file, angles), of="projections") if angles else None
    roles.flats = _old_frames(file, instrument, _OLD_FLATS, home, roles, "flats")
    roles.darks = _old_frames(file, instrument, _OLD_DARKS, home, roles, "darks")
    roles.looked_for = {
        "projections": f"{home}/data",
        "angles": angle_path,
        "flats": f"{instrument}/{_OLD_FLATS}/data",
        "darks": f"{instrument}/{_OLD_DARKS}/data",
    }
    _geometry(file, home, roles)
    return roles


def _old_frames(
    file: Hdf5File, instrument: str, name: str, home: str, roles: Roles, role: str
) -> list[Frames] | None:
    """Place flats or darks by sequence numbers, where they and the projections have them."""
    path = f"{instrument}/{name}/data"
    if _first(file, (path,), roles, role) is None:
        return None
    taken, views = (
        file.values(f"{group}/sequence_number") for group in (f"{instrument}/{name}", home)
    )
    if taken is None or views is None:
        return [Frames(Place(file, path))]
    before = np.searchsorted(np.sort(views), taken)
    return [Frames(Place(file, path), before=tuple(before.tolist()))]


def _geometry(file: Hdf5File, detector: str, roles: Roles) -> None:
    path = f"{detector}/x_pixel_size"
    value = _optional(file, path)
    if value is not None:
        units = attribute(file.dataset(path), "units", "unit")
        roles.pixel_size = to_metres(value, units, f"{file}: {path}", roles.notes, "m")
    # For comparison alone: some beamlines count it from the middle of the detector.
    roles.centre = _optional(file, f"{detector}/x_rotation_axis_pixel_position")


def _optional(file: Hdf5File, path: str) -> float | None:
    try:
        value = file.values(path)
    except InputError:  # a link left dangling on purpose
        return None
    return float(value[0]) if value is not None and value.size else None


def _first(file: Hdf5File, paths: tuple[str, ...], roles: Roles, role: str) -> str | None:
    """Give the first of some paths that holds a dataset; note a link that leads nowhere."""
    for path in paths:
        try:
            if file.dataset(path) is not None:
                return path
        except InputError as error:
            roles.broken.setdefault(role, error)
    return None


def _detector(file: Hdf5File, instrument: str) -> str:
    """Find the detector group: by NXtomo's names, else by classes."""
    plain = f"{instrument}/detector"
    named = file.get(plain)
    if isinstance(named, h5py.Group) and (_has(named, "image_key") or _has(named, "data")):
        return plain
    group = file.get(instrument)
    candidates = []
    for name in group if isinstance(group, h5py.Group) else ():
        try:
            inner = group[name]
        except LINK_ERRORS:
            continue
        if isinstance(inner, h5py.Group) and _class(inner) == "nxdetector" and _has(inner, "data"):
            candidates.append((not _has(inner, "image_key"), f"{instrument}/{name}"))
    return min(candidates)[1] if candidates else plain


def _child(file: Hdf5File, entry: str, name: str, kind: str) -> str | None:
    """Find a group of an entry by its usual name, else by its class."""
    group = file.get(entry) if entry != "/" else file.open()
    if _has(group, name):
        return _join(entry, name)
    for other in group:
        try:
            inner = group[other]
        except LINK_ERRORS:
            continue
        if isinstance(inner, h5py.Group) and _class(inner) == kind:
            return _join(entry, other)
    return None


def _join(entry: str, name: str) -> str:
    return f"{entry.rstrip('/')}/{name}"
