"""DXchange: where an ``/exchange`` file keeps its roles (data-exchange/dxfile, xraytomo).

`/exchange/data` (theta:y:x unless its `axes` says otherwise), `data_white`, `data_dark`,
`theta`. Legacy files nest all of it one deeper, in `/exchange/data/`. APS files without flats
or theta name a constant and a rotation under `/process/acquisition`.
"""

from __future__ import annotations

import math

import h5py
import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.scan.hdf5 import Hdf5File, attribute, axes_of, text_of
from hpc_srct.scan.roles import Angles, ConstantFrame, Frames, Place, Roles
from hpc_srct.scan.units import to_metres, to_radians

_ACQUISITION = "/process/acquisition"
_DETECTOR = "/measurement/instrument/detector"
_OBJECTIVE = "/measurement/instrument/detection_system/objective"


def is_dxchange(file: Hdf5File) -> bool:
    """Tell whether the file has an ``/exchange`` group."""
    return _is_group(file, "/exchange")


def _is_group(file: Hdf5File, path: str) -> bool:
    try:
        return isinstance(file.get(path), h5py.Group)
    except InputError:  # a link that leads nowhere
        return False


def read_roles(file: Hdf5File) -> Roles:
    """Find the roles of a DXchange file.

    Raises
    ------
    InputError
        `/exchange` without `data`. Links that lead nowhere are put down in `broken`.
    """
    roles = Roles("dxchange")
    home = "/exchange"
    if _is_group(file, "/exchange/data"):
        home = "/exchange/data"
        roles.notes.append(f"{file}: legacy DXchange layout, frames in {home}/data.")
    path = f"{home}/data"
    found = _whole(file, path, roles, "projections")
    if found is None and "projections" not in roles.broken:
        there = ", ".join(file.open()["exchange"]) or "nothing"
        raise InputError(
            f"{file}: {path}: no projections there; /exchange has {there}.\n"
            "Name the right path in a layout file."
        )
    roles.projections = None if found is None else _frames(file, path)
    roles.flats = _beam_frames(file, home, "white", "flat", roles)
    roles.darks = _beam_frames(file, home, "dark", "dark", roles)
    roles.angles = _angles(file, home, roles)
    roles.pixel_size = _pixel_size(file, roles.notes)
    if _there(file, "/simulation/truth/data") is not None:
        roles.truth = Place(file, "/simulation/truth/data")
    axis = _values(file, "/simulation/centre")
    roles.centre = float(axis[0]) if axis is not None and axis.size else None
    return roles


def _whole(file: Hdf5File, path: str, roles: Roles, role: str) -> h5py.Dataset | None:
    """Find a role's dataset; put a link that leads nowhere down, for a layout to mend."""
    try:
        return file.dataset(path)
    except InputError as error:
        roles.broken.setdefault(role, error)
        return None


def _there(file: Hdf5File, path: str) -> h5py.Dataset | None:
    try:
        return file.dataset(path)
    except InputError:  # nothing that a scan cannot do without
        return None


def _values(file: Hdf5File, path: str) -> np.ndarray | None:
    return None if _there(file, path) is None else file.values(path)


def _frames(file: Hdf5File, path: str, taken_at: str | None = None) -> Frames:
    angles = Place(file, taken_at) if taken_at and _there(file, taken_at) is not None else None
    return Frames(Place(file, path), axes_of(file.dataset(path)), taken_at=angles)


def _beam_frames(
    file: Hdf5File, home: str, name: str, role: str, roles: Roles
) -> list[Frames | ConstantFrame] | None:
    path = f"{home}/data_{name}"
    found = _whole(file, path, roles, f"{role}s")
    if found is not None and found.shape is not None and 0 not in found.shape:
        return [_frames(file, path, f"{home}/theta_{name}")]
    if f"{role}s" in roles.broken:
        return None
    fallback = f"{_ACQUISITION}/{role}_fields/{role}_field_value"
    value = _values(file, fallback)
    if value is not None and value.size == 1 and (value[0] > 0 or role == "dark"):
        roles.notes.append(
            f"{file}: no {path}; the constant {value[0]:g} of {fallback} stands for the {role}s."
        )
        return [ConstantFrame(Place(file, fallback), float(value[0]))]
    roles.looked_for[f"{role}s"] = path
    return None


def _angles(file: Hdf5File, home: str, roles: Roles) -> Angles | None:
    for path in dict.fromkeys((f"{home}/theta", "/exchange/theta")):
        if _whole(file, path, roles, "angles") is not None:
            return Angles(Place(file, path), of="projections")
    if "angles" in roles.broken:  # the file has angles: none are made up in their place
        return None
    rotation = f"{_ACQUISITION}/rotation"
    step = _turned_by(file, f"{rotation}/rotation_step")
    if step:
        first = _turned_by(file, f"{rotation}/rotation_start") or 0.0
        count = _values(file, f"{rotation}/num_angles")
        planned = float(count[0]) if count is not None and count.size else math.inf
        return Angles(
            steps=(first, step, planned),
            note=f"{file}: no {home}/theta; rebuilt from {rotation}: start"
            f" {math.degrees(first):g}°, step {math.degrees(step):g}°.",
        )
    return Angles(
        span=(0.0, math.pi),
        note=f"{file}: no {home}/theta; views taken as equally spaced over 0..180°, both ends"
        " included, as DXchange has it. Give angle_range=[FIRST,LAST] if that is wrong.",
    )


def _turned_by(file: Hdf5File, path: str) -> float | None:
    """Read one angle, in radians; in degrees, as DXchange has it, where no unit is named."""
    value = _values(file, path)
    if value is None or not value.size:
        return None
    units = attribute(file.dataset(path), "units", "unit") or "deg"
    return float(to_radians(value[:1], units, f"{file}: {path}", [])[0])


def _pixel_size(file: Hdf5File, notes: list[str]) -> float | None:
    """Find the pixel size at the sample: said so, of the objective, or of the camera."""
    for path, unit in (
        (f"{_DETECTOR}/actual_pixel_size_x", "m"),
        (f"{_OBJECTIVE}/resolution", "um"),
    ):
        value = _values(file, path)
        if value is not None and value.size:
            units = attribute(file.dataset(path), "units", "unit")
            metres = to_metres(value[0], units, f"{file}: {path}", notes, unit)
            if metres is not None:
                return metres
    path = f"{_DETECTOR}/pixel_size_x"
    value = _values(file, path)
    if value is None or not value.size:
        return None
    units = attribute(file.dataset(path), "units", "unit")
    metres = to_metres(value[0], units, f"{file}: {path}", notes, "m")
    factor = _magnification(file)
    if metres is not None and factor is not None:
        notes.append(
            f"{file}: {path}: the camera's pixel, divided by the objective's magnification"
            f" {factor:g}."
        )
        metres /= factor
    return metres


def _magnification(file: Hdf5File) -> float | None:
    path = f"{_OBJECTIVE}/magnification"
    value = _values(file, path)
    if value is not None and value.size and value[0] > 0:
        return float(value[0])
    text = text_of(_there(file, path)).lower().removesuffix("x").strip()
    try:
        return float(text) if float(text) > 0 else None
    except ValueError:
        return None
