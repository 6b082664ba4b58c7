"""DXchange: where an ``/exchange`` file keeps its roles (data-exchange/dxfile, xraytomo).

`/exchange/data` (theta:y:x unless its `axes` says otherwise), `data_white`, `data_dark`,
`theta`. Legacy files nest all of it one deeper, in `/exchange/data/`. APS files without flats
or theta name a constant and a rotation under `/process/acquisition`.
"""

from __future__ import annotations

import math

import h5py

from hpc_srct.errors import InputError
from hpc_srct.scan.hdf5 import Hdf5File, attribute, text_of
from hpc_srct.scan.roles import Angles, ConstantFrame, Frames, Place, Roles
from hpc_srct.scan.units import to_metres

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
        `/exchange` without `data`, or with a link that leads nowhere.
    """
    roles = Roles("dxchange")
    home = "/exchange"
    if _is_group(file, "/exchange/data"):
        home = "/exchange/data"
        roles.notes.append(f"{file}: legacy DXchange layout, frames in {home}/data.")
    try:
        data = file.dataset(f"{home}/data")
    except InputError as error:
        roles.broken["projections"] = error
        return roles
    if data is None:
        there = ", ".join(file.open()["exchange"]) or "nothing"
        raise InputError(
            f"{file}: {home}/data: no projections there; /exchange has {there}.\n"
            "Name the right path in a layout file."
        )
    roles.projections = _frames(file, f"{home}/data", None)
    roles.flats = _beam_frames(file, home, "white", "flat", roles)
    roles.darks = _beam_frames(file, home, "dark", "dark", roles)
    roles.angles = _angles(file, home)
    roles.pixel_size = _pixel_size(file, roles.notes)
    if file.dataset("/simulation/truth/data") is not None:
        roles.truth = Place(file, "/simulation/truth/data")
    axis = file.values("/simulation/centre")
    roles.centre = float(axis[0]) if axis is not None and axis.size else None
    return roles


def _frames(file: Hdf5File, path: str, taken_at: str | None) -> Frames:
    angles = Place(file, taken_at) if taken_at and file.dataset(taken_at) is not None else None
    axes = attribute(file.dataset(path), "axes") or None
    return Frames(Place(file, path), axes, taken_at=angles)


def _beam_frames(
    file: Hdf5File, home: str, name: str, role: str, roles: Roles
) -> list[Frames | ConstantFrame] | None:
    path = f"{home}/data_{name}"
    found = file.dataset(path)
    if found is not None and 0 not in found.shape:
        return [_frames(file, path, f"{home}/theta_{name}")]
    fallback = f"{_ACQUISITION}/{role}_fields/{role}_field_value"
    value = file.values(fallback)
    if value is not None and value.size == 1 and (value[0] > 0 or role == "dark"):
        roles.notes.append(
            f"{file}: no {path}; the constant {value[0]:g} of {fallback} stands for the {role}s."
        )
        return [ConstantFrame(Place(file, fallback), float(value[0]))]
    roles.looked_for[f"{role}s"] = path
    return None


def _angles(file: Hdf5File, home: str) -> Angles:
    for path in dict.fromkeys((f"{home}/theta", "/exchange/theta")):
        if file.dataset(path) is not None:
            return Angles(Place(file, path), of="projections")
    rotation = f"{_ACQUISITION}/rotation"
    start, step, count = (
        None if value is None or not value.size else float(value[0])
        for value in (
            file.values(f"{rotation}/{name}")
            for name in ("rotation_start", "rotation_step", "num_angles")
        )
    )
    if step:
        first = start or 0.0
        planned = math.inf if count is None else count
        return Angles(
            steps=(math.radians(first), math.radians(step), planned),
            note=f"{file}: no {home}/theta; rebuilt from {rotation}: start {first:g}°, step"
            f" {step:g}°.",
        )
    return Angles(
        span=(0.0, math.pi),
        note=f"{file}: no {home}/theta; views taken as equally spaced over 0..180°, both ends"
        " included, as DXchange has it. Give angle_range=[FIRST,LAST] if that is wrong.",
    )


def _pixel_size(file: Hdf5File, notes: list[str]) -> float | None:
    """Find the pixel size at the sample: said so, of the objective, or of the camera."""
    for path, unit in (
        (f"{_DETECTOR}/actual_pixel_size_x", "m"),
        (f"{_OBJECTIVE}/resolution", "um"),
    ):
        value = file.values(path)
        if value is not None and value.size:
            units = attribute(file.dataset(path), "units", "unit")
            metres = to_metres(value[0], units, f"{file}: {path}", notes, unit)
            if metres is not None:
                return metres
    path = f"{_DETECTOR}/pixel_size_x"
    value = file.values(path)
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
    value = file.values(path)
    if value is not None and value.size and value[0] > 0:
        return float(value[0])
    text = text_of(file.dataset(path)).lower().removesuffix("x").strip()
    try:
        return float(text) if float(text) > 0 else None
    except ValueError:
        return None
