"""Where a scan keeps what: a layout file names the path of each role.

It replaces, or lays single paths over, what the reader of a known format finds. Files are
named relative to the scan (a file's folder, or the scan itself where it is a folder).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pydantic

from hpc_srct.errors import InputError
from hpc_srct.settings.base import Settings, configs_folder, find_config, load

AngleUnit = Literal["deg", "rad"]
LengthUnit = Literal["m", "mm", "um", "nm"]


class FramesRole(Settings):
    """Frames of one kind: a dataset (view, row, column), or one frame (row, column).

    Attributes
    ----------
    path, file
        The dataset, and the file that it is in; null: the scan itself.
    axes
        Their order, as ``theta:y:x``; null: the dataset's own attribute, else view, row, column.
    position
        Views taken before these frames, for flats that drift: ``start``, ``end``, or a count.
    """

    path: str
    file: str | None = None
    axes: str | None = None
    position: Literal["start", "end"] | pydantic.NonNegativeFloat | None = None


class DatasetRole(Settings):
    """A dataset of numbers, one for each frame: its `path`, and the `file` (null: the scan)."""

    path: str
    file: str | None = None


class AnglesRole(Settings):
    """Rotation angles: a dataset, or a range that is said here.

    Attributes
    ----------
    path, file
        The dataset, and the file that it is in; null: the scan itself.
    units
        ``deg`` or ``rad``; null: the dataset's own, and degrees for a range.
    range
        First and last angle, both included.
    of
        What the angles count: all ``frames``, or ``projections`` alone.
    """

    path: str | None = None
    file: str | None = None
    units: AngleUnit | None = None
    range: tuple[float, float] | None = None
    of: Literal["frames", "projections"] | None = None

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> AnglesRole:
        if (self.path is None) == (self.range is None):
            raise ValueError("expected either `path` or `range`")
        return self


class LengthRole(Settings):
    """A length: a dataset (`path`, `file`), or a `value`; in `units` m, mm, um or nm."""

    path: str | None = None
    file: str | None = None
    value: pydantic.PositiveFloat | None = None
    units: LengthUnit | None = None

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> LengthRole:
        if (self.path is None) == (self.value is None):
            raise ValueError("expected either `path` or `value`")
        if self.value is not None and self.units is None:
            raise ValueError("a value needs `units`: m, mm, um or nm")
        return self


class Layout(Settings):
    """Which file and path hold each role of a scan.

    Roles that are not named come from the format of the scan where it is a known one
    (``base: auto``), or are not there (``base: none``).

    Attributes
    ----------
    description
        For people.
    base
        ``auto`` or ``none``.
    geometry
        ``parallel``: the beam is parallel, whatever the file says.
    entry
        Which NXtomo entry, where a file has several.
    projections, flats, darks
        Frames; flats and darks may be lists.
    image_key
        What each frame is, as NXtomo counts: 0 projection, 1 flat, 2 dark.
    angles, monitor, pixel_size
        Rotation angles, the beam's intensity at each frame, and the pixel's edge.
    centre
        Column of the rotation axis, 0-based.
    """

    description: str = ""
    base: Literal["auto", "none"] = "auto"
    geometry: Literal["parallel"] | None = None
    entry: str | None = None
    projections: FramesRole | None = None
    image_key: DatasetRole | None = None
    flats: FramesRole | list[FramesRole] | None = None
    darks: FramesRole | list[FramesRole] | None = None
    angles: AnglesRole | None = None
    monitor: DatasetRole | None = None
    pixel_size: LengthRole | None = None
    centre: float | None = None


def load_layout(name: str | Path) -> Layout:
    """Read a layout file: a path, or the name of a shipped one such as ``bsrf-3w1``.

    Raises
    ------
    InputError
        There is none of that name (the shipped ones are listed), or its content is wrong.
    """
    shipped = configs_folder() / "layouts"
    short = shipped / f"{name}.yaml"
    try:
        path = short if Path(name).name == str(name) and short.is_file() else find_config(name)
    except InputError as error:
        known = ", ".join(sorted(file.stem for file in shipped.glob("*.yaml")))
        raise InputError(f"{error}\nShipped layouts: {known or 'none'}.") from error
    return load(Layout, path)
