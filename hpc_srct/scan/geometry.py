"""Refusing what is not parallel-beam tomography, by name.

A cone-beam scan reconstructed as a parallel one looks plausible and is wrong.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.scan.hdf5 import Hdf5File, attribute, groups, text_of
from hpc_srct.scan.units import LENGTHS

# Names of files and datasets under which lab instruments store a scan.
_LAB_FILES = {
    ".txrm": "Zeiss Xradia",
    ".xrm": "Zeiss Xradia",
    ".xtekct": "Nikon X-Tek",
    ".vgi": "Volume Graphics",
    ".vgl": "Volume Graphics",
    ".pca": "GE phoenix",
    ".unifo": "TESCAN",
}
_LAB_SOURCES = (
    "rotating anode",
    "fixed tube",
    "metal jet",
    "microfocus",
    "x-ray tube",
    "laboratory",
)
_GEOMETRY = ("geometry", "beam_geometry", "geometry_type", "beam_type", "scan_geometry", "beam")
_SOURCE_TO_SAMPLE = ("source_to_sample_distance", "source_object_distance", "srctoobject", "sod")
_SOURCE_TO_DETECTOR = ("source_to_detector_distance", "srctodetector", "sdd")
# At a synchrotron the source is tens of metres off: magnification is 1.00.
_LARGEST_MAGNIFICATION = 1.05


def refuse_lab_file(path: Path) -> None:
    """Refuse a file whose name says that it is a lab instrument's.

    Raises
    ------
    InputError
        Named with its instrument.
    """
    maker = _LAB_FILES.get(path.suffix.lower())
    if maker:
        raise InputError(
            f"{path}: is a {maker} file, of a cone-beam scanner; only parallel-beam scans are"
            " reconstructed here.\nUse a cone-beam (FDK) program for it."
        )


def refuse_cone_beam(file: Hdf5File) -> None:
    """Refuse a file that says it is a cone-beam scan.

    It says so by a geometry named cone or fan, by an X-ray tube as its source, or by
    distances from the source that magnify.

    Raises
    ------
    InputError
        Naming the path that says so.
    """
    for path, group in groups(file):
        reason = _says_cone(group) or _lab_source(group) or _magnifies(group)
        if reason:
            raise InputError(
                f"{file}: {path}: {reason}: a cone-beam scan; only parallel-beam scans are"
                " reconstructed here.\nUse a cone-beam (FDK) program, or, if the beam is"
                " parallel after all, say `geometry: parallel` in a layout file."
            )


def _says_cone(group: h5py.Group) -> str | None:
    for name in group:
        if name.lower() in _GEOMETRY:
            text = _text(group, name)
            if "cone" in text.lower() or "fan" in text.lower().split():
                return f"{name} is '{text}'"
    for name in group.attrs:
        if name.lower() in _GEOMETRY and "cone" in text_of(group.attrs[name]).lower():
            return f"its {name} is '{text_of(group.attrs[name])}'"
    return None


def _lab_source(group: h5py.Group) -> str | None:
    if attribute(group, "NX_class").lower() != "nxsource" and _last(group) != "source":
        return None
    text = _text(group, "type")
    if any(kind in text.lower() for kind in _LAB_SOURCES):
        return f"the source's type is '{text}'"
    return None


def _magnifies(group: h5py.Group) -> str | None:
    near, far = (_metres(group, names) for names in (_SOURCE_TO_SAMPLE, _SOURCE_TO_DETECTOR))
    if near is None:  # NeXus: both from the sample, the source's negative
        source, detector = (
            _metres(group, (f"{name}/distance",)) for name in ("source", "detector")
        )
        if source and detector:
            near, far = abs(source), abs(source) + abs(detector)
    if near and far and far / near > _LARGEST_MAGNIFICATION:
        return f"the distances from the source magnify {far / near:.2f} times"
    return None


def _metres(group: h5py.Group, names: tuple[str, ...]) -> float | None:
    """Read a distance whose unit is said; None otherwise."""
    inside = {name.lower(): name for name in group}
    for name in names:
        first, *rest = name.split("/")
        if first not in inside:
            continue
        try:
            found = group["/".join((inside[first], *rest))]
            factor = LENGTHS[attribute(found, "units", "unit").lower()]
            return float(np.ravel(found[()])[0]) * factor
        except (KeyError, OSError, ValueError, TypeError, IndexError):
            continue
    return None


def _text(group: h5py.Group, name: str) -> str:
    try:
        return text_of(group.get(name))
    except (KeyError, OSError):
        return ""


def _last(group: h5py.Group) -> str:
    return (group.name or "").rsplit("/", 1)[-1].lower()
