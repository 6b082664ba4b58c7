"""Refusing what is not parallel-beam tomography, by name.

A cone-beam scan reconstructed as a parallel one looks plausible and is wrong.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.scan.hdf5 import LINK_ERRORS, Hdf5File, attribute, groups, text_of
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
# Compared in lower case and without underscores.
_GEOMETRY = ("geometry", "geometrytype", "beamgeometry", "beamtype", "scangeometry", "beam")
_SOURCE_TO_SAMPLE = (
    *("sourcetosampledistance", "sourcesampledistance", "sourceobjectdistance", "sod"),
    *("distancesourceorigin", "distancesourceobject", "srctoobject"),
)
_SOURCE_TO_DETECTOR = (
    *("sourcetodetectordistance", "sourcedetectordistance", "sdd"),
    *("distancesourcedetector", "srctodetector"),
)
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


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _says_cone(group: h5py.Group) -> str | None:
    said = {name: _text(group, name) for name in group if _plain(name) in _GEOMETRY}
    said |= {f"@{n}": text_of(v) for n, v in group.attrs.items() if _plain(n) in _GEOMETRY}
    for name, text in said.items():
        if "cone" in text.lower() or "fan" in text.lower().replace("-", " ").split():
            return f"{name} is '{text}'"
    return None


def _lab_source(group: h5py.Group) -> str | None:
    name = (group.name or "").rsplit("/", 1)[-1].lower()
    if attribute(group, "NX_class").lower() != "nxsource" and name != "source":
        return None
    text = _text(group, "type")
    if any(kind in text.lower() for kind in _LAB_SOURCES):
        return f"the source's type is '{text}'"
    return None


def _magnifies(group: h5py.Group) -> str | None:
    inside = {_plain(name): name for name in group}
    # One instrument's two lengths, in one unit, said or not.
    near, far = (
        next((_length(group, inside[name], 1.0) for name in names if name in inside), None)
        for names in (_SOURCE_TO_SAMPLE, _SOURCE_TO_DETECTOR)
    )
    if near is None and {"source", "detector"} <= set(inside):
        # NeXus: both from the sample, the source's negative; only where both units are said.
        source, detector = (
            _length(group, f"{inside[name]}/distance", None) for name in ("source", "detector")
        )
        if source and detector:
            near, far = abs(source), abs(source) + abs(detector)
    if near and far and abs(far / near) > _LARGEST_MAGNIFICATION:
        return f"the distances from the source magnify {abs(far / near):.2f} times"
    return None


def _length(group: h5py.Group, path: str, without_unit: float | None) -> float | None:
    try:
        found = group[path]
        units = attribute(found, "units", "unit").lower()
        factor = LENGTHS.get(units) if units else without_unit
        return None if factor is None else float(np.ravel(found[()])[0]) * factor
    except (*LINK_ERRORS, ValueError, TypeError, IndexError):
        return None


def _text(group: h5py.Group, name: str) -> str:
    """Read a text, also as MATLAB writes one: an array of character codes."""
    try:
        found = group[name]
    except LINK_ERRORS:
        return ""
    if not isinstance(found, h5py.Dataset):
        return ""
    if found.dtype == np.uint16 and 1 < found.size < 100:
        return "".join(map(chr, np.ravel(found[()])))
    return text_of(found)
