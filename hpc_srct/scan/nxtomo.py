"""NXtomo: where a NeXus file keeps its roles (nexusformat/definitions, NXtomo).

The entry is found by its `definition`, or else by classes, at any depth. `image_key` tells
frames apart: 0 projection, 1 flat, 2 dark, 3 invalid.
"""

from __future__ import annotations

import h5py

from hpc_srct.errors import InputError
from hpc_srct.scan.hdf5 import Hdf5File, attribute, groups, text_of
from hpc_srct.scan.roles import Angles, Frames, Place, Roles
from hpc_srct.scan.units import to_metres


def find_entries(file: Hdf5File) -> list[str]:
    """List the NXtomo entries of a file, outermost first.

    Those whose `definition` says NXtomo; where there are none, entries that hold a detector
    with `data` and `image_key`.
    """
    defined, by_class = [], []
    for path, group in groups(file):
        try:
            definition = text_of(group.get("definition"))
        except (KeyError, OSError):
            definition = ""
        if definition.lower() == "nxtomo":
            defined.append(path)
        if _class(group) == "nxdetector" and "image_key" in group and _has(group, "data"):
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
    detector = _detector(file, entry)
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


def _detector(file: Hdf5File, entry: str) -> str:
    """Find the detector group: by NXtomo's names, else by classes."""
    instrument = _child(file, entry, "instrument", "nxinstrument") or _join(entry, "instrument")
    plain = f"{instrument}/detector"
    named = file.get(plain)
    if isinstance(named, h5py.Group) and (_has(named, "image_key") or _has(named, "data")):
        return plain
    group = file.get(instrument)
    candidates = []
    for name in group if isinstance(group, h5py.Group) else ():
        try:
            inner = group[name]
        except (KeyError, OSError):
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
        except (KeyError, OSError):
            continue
        if isinstance(inner, h5py.Group) and _class(inner) == kind:
            return _join(entry, other)
    return None


def _join(entry: str, name: str) -> str:
    return f"{entry.rstrip('/')}/{name}"
