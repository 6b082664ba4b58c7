"""Small files as beamlines write them: every frame is filled with its own index + 1."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

ROWS, COLUMNS = 4, 6
BEAM = 20000  # by which flats are brighter, where darks may have higher numbers


def numbered(count: int, first: int = 0) -> np.ndarray:
    """Frames (count, ROWS, COLUMNS) of uint16 that tell which they are, and row and column."""
    frame = np.arange(first, first + count)[:, None, None]
    row = np.arange(ROWS)[None, :, None]
    column = np.arange(COLUMNS)[None, None, :]
    return (1 + column + 10 * row + 100 * frame).astype(np.uint16)


def write_nxtomo(
    path: Path,
    key,
    angles=None,
    *,
    entry="entry1/tomo_entry",
    definition="NXtomo",
    units="degrees",
    classes=True,
    detector="instrument/detector",
    data=None,
    chunks=None,
) -> Path:
    """Write an NXtomo file with the given image key."""
    count = len(key)
    angles = np.linspace(0, 180, count) if angles is None else angles
    with h5py.File(path, "w") as file:
        group = file.create_group(entry)
        if classes:
            group.attrs["NX_class"] = np.bytes_("NXsubentry")
        if definition is not None:
            group["definition"] = definition
        home = group.create_group(detector)
        if classes:
            home.parent.attrs["NX_class"] = "NXinstrument"
            home.attrs["NX_class"] = "NXdetector"
        if data is None:
            home.create_dataset("data", data=numbered(count), chunks=chunks)
        else:
            home["data"] = data
        home["image_key"] = key
        group["sample/rotation_angle"] = angles
        if units is not None:
            group["sample/rotation_angle"].attrs["units"] = units
    return path


def write_old_nxtomo(path: Path, order: str, *, definition="NXtomo", text=False) -> Path:
    """Write an NXtomo file of version 1.0b; `order` says which frame came when, as in "DFPPFP"."""
    frames = numbered(len(order))
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry1/tomo_entry")
        entry.parent.attrs["NX_class"], entry.attrs["NX_class"] = "NXentry", "NXsubentry"
        if definition is not None:
            entry["definition"] = definition
            entry["definition"].attrs["version"] = "1.0b"
        entry.create_group("instrument").attrs["NX_class"] = "NXinstrument"
        for kind, name in (("P", "sample"), ("F", "bright_field"), ("D", "dark_field")):
            when = np.array([i for i, one in enumerate(order) if one == kind])
            if not when.size:
                continue
            group = entry.create_group(f"instrument/{name}")
            group.attrs["NX_class"] = "NXdetector"
            group["data"] = frames[when] + np.uint16(BEAM if kind == "F" else 0)
            group["sequence_number"] = when.astype("S") if text else when
        entry["instrument/sample/x_pixel_size"] = 0.65e-6
        entry["sample/rotation_angle"] = np.linspace(0, 180, order.count("P"))
        entry["sample/rotation_angle"].attrs["units"] = "degrees"
        entry["control/integral"] = np.ones(len(order))
        entry["data/data"] = h5py.SoftLink("/entry1/tomo_entry/instrument/sample/data")
        entry["data/rotation_angle"] = h5py.SoftLink("/entry1/tomo_entry/sample/rotation_angle")
    return path


def write_dxchange(path: Path, n_views=5, n_flats=2, n_darks=1, *, theta="even", axes=None) -> Path:
    """Write a DXchange file; flats are numbered on after the projections, darks from 0."""
    with h5py.File(path, "w") as file:
        group = file.create_group("exchange")
        group["data"] = numbered(n_views)
        if axes:
            group["data"].attrs["axes"] = axes
        if n_flats:
            group["data_white"] = numbered(n_flats, n_views)
        if n_darks:
            group["data_dark"] = numbered(n_darks)
        if theta is not None:
            values = np.linspace(0, 180, n_views) if isinstance(theta, str) else theta
            group["theta"] = values
            group["theta"].attrs["units"] = "deg"
    return path
