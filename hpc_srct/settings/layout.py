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
    """Frames of one kind: a dataset (view, row, column), or one frame (row, column)."""

    path: str
    file: str | None = None  # the scan itself
    axes: str | None = None  # as theta:y:x; the dataset's own attribute, else view:row:column
    # Views taken before these frames, for flats that drift: start, end, or a count.
    position: Literal["start", "end"] | pydantic.NonNegativeFloat | None = None


class DatasetRole(Settings):
    """A dataset of numbers, one for each frame."""

    path: str
    file: str | None = None


class AnglesRole(Settings):
    """Rotation angles: a dataset, or a range that is said here."""

    path: str | None = None
    file: str | None = None
    units: AngleUnit | None = None  # the dataset's own; a range is in degrees by default
    range: tuple[float, float] | None = None  # both ends included
    of: Literal["frames", "projections"] | None = None  # what the angles count

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> AnglesRole:
        if (self.path is None) == (self.range is None):
            raise ValueError("expected either `path` or `range`")
        return self


class LengthRole(Settings):
    """A length: a dataset, or a value that is said here."""

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
    """

    description: str = ""
    base: Literal["auto", "none"] = "auto"
    geometry: Literal["parallel"] | None = None  # the beam is parallel, whatever the file says
    entry: str | None = None  # which NXtomo entry, where a file has several
    projections: FramesRole | None = None
    image_key: DatasetRole | None = None
    flats: FramesRole | list[FramesRole] | None = None
    darks: FramesRole | list[FramesRole] | None = None
    angles: AnglesRole | None = None
    monitor: DatasetRole | None = None
    pixel_size: LengthRole | None = None
    centre: float | None = None  # column of the rotation axis, 0-based


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
