"""Angles and lengths as files give them, in radians and metres, with a word on what was assumed."""

from __future__ import annotations

import math

import numpy as np

from hpc_srct.errors import InputError

_ANGLES = {
    "deg": math.pi / 180,
    "degree": math.pi / 180,
    "degrees": math.pi / 180,
    "°": math.pi / 180,
    "rad": 1.0,
    "radian": 1.0,
    "radians": 1.0,
    "mrad": 1e-3,
}
LENGTHS = {
    "m": 1.0,
    "meter": 1.0,
    "meters": 1.0,
    "metre": 1.0,
    "metres": 1.0,
    "cm": 1e-2,
    "mm": 1e-3,
    "um": 1e-6,
    "µm": 1e-6,
    "μm": 1e-6,  # the Greek letter, which looks the same
    "micron": 1e-6,
    "microns": 1e-6,
    "micrometer": 1e-6,
    "micrometre": 1e-6,
    "nm": 1e-9,
}
# Synchrotron detectors, at the sample: nobody's pixel is outside.
_PIXELS = (1e-9, 1e-3)


def to_radians(values: np.ndarray, units: str, where: str, notes: list[str]) -> np.ndarray:
    """Convert angles to radians; without units they are degrees, and a note says so.

    Raises
    ------
    InputError
        An unknown unit, or an angle that is not a finite number.
    """
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        first = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(
            f"{where}: angle {first} is {values[first]}; expected finite numbers.\n"
            "Leave that frame out, or give the range: angle_range=[FIRST,LAST] in degrees."
        )
    if units:
        try:
            return values * _ANGLES[units.strip().lower()]
        except KeyError:
            raise InputError(
                f"{where}: unit '{units}' is not one of angle; expected degrees or radians.\n"
                "Set `angles: {path: …, units: deg}` in a layout file."
            ) from None
    span = float(np.ptp(values)) if values.size else 0.0
    if span <= 2 * math.pi + 0.1:
        notes.append(
            f"{where}: has no units and spans only {span:.4g}: read as degrees, which is"
            " suspicious. If they are radians, say so in a layout file (angles: {path:"
            f" {where.rpartition(': ')[2]}, units: rad}})."
        )
    else:
        notes.append(f"{where}: has no units; read as degrees.")
    return values * _ANGLES["deg"]


def to_metres(value: float, units: str, where: str, notes: list[str], default: str) -> float | None:
    """Convert a pixel size to metres; None, with a note, where it cannot be one.

    Parameters
    ----------
    default
        The unit that the format prescribes where the file names none.
    """
    if not np.isfinite(value) or value <= 0:
        return None
    factor = LENGTHS.get((units or default).strip().lower().removeprefix("\\"))
    if factor is None:
        notes.append(f"{where}: unit '{units}' is not one of length; pixel size left unknown.")
        return None
    metres = value * factor
    if not _PIXELS[0] <= metres <= _PIXELS[1]:
        said = f"{value:g} {units}" if units else f"{value:g} without units"
        notes.append(
            f"{where}: {said} is no pixel size of a beamline; left unknown."
            " Set pixel_size in a layout file."
        )
        return None
    return metres
