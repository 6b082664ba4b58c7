"""What a format's reader finds before anything is checked: which file and path holds which role.

Readers and layout files fill one and the same table, so that a layout can replace any of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hpc_srct.errors import InputError
from hpc_srct.scan.hdf5 import Hdf5File


@dataclass(frozen=True)
class Place:
    """A path in a file."""

    file: Hdf5File
    path: str

    def __str__(self) -> str:
        return f"{self.file}: {self.path}"


@dataclass(frozen=True)
class Frames:
    """Where frames of one kind are."""

    place: Place
    axes: str | None = None
    # Views taken before these frames: one number for all, one for each, or the angles at which
    # they were taken.
    position: float | str | None = None
    before: tuple[int, ...] | None = None
    taken_at: Place | None = None


@dataclass(frozen=True)
class ConstantFrame:
    """One grey value that stands for a frame."""

    place: Place
    value: float


@dataclass(frozen=True)
class Angles:
    """Where the rotation angles are, or what they are (radians)."""

    place: Place | None = None
    units: str | None = None  # over what the dataset says
    span: tuple[float, float] | None = None  # both ends included
    steps: tuple[float, float, float] | None = None  # first, step, how many were planned
    of: str | None = None  # frames | projections
    note: str = ""  # for the user, where these angles are used


@dataclass
class Roles:
    """The table: role → place. None stands for a role that the file does not have."""

    format: str
    projections: Frames | None = None
    key: Place | None = None
    keyed: bool = False  # flats and darks are told from projections by `key`
    flats: list[Frames | ConstantFrame] | None = None
    darks: list[Frames | ConstantFrame] | None = None
    angles: Angles | None = None
    monitor: Place | None = None
    pixel_size: float | None = None
    centre: float | None = None
    truth: Place | None = None
    notes: list[str] = field(default_factory=list)
    # Where each missing role was looked for, for the message.
    looked_for: dict[str, str] = field(default_factory=dict)
    # Links that lead nowhere: told only if no layout names another place.
    broken: dict[str, InputError] = field(default_factory=dict)
