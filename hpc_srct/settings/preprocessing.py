"""How a scan becomes a slice store.

What changes the result is kept apart from what changes only how it is made: a store goes on
only with the same result settings, on any number of ranks and in any memory.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from hpc_srct.errors import InputError
from hpc_srct.settings.base import Settings

_EVERY = re.compile(r"1/(?P<step>\d+)(\+(?P<offset>\d+))?")
_RANGE = re.compile(r"(?P<first>\d*):(?P<stop>\d*)")
_MEMORY = re.compile(r"(?P<value>\d+(\.\d+)?)\s*(?P<unit>[kMGT]i?B|B)?", re.IGNORECASE)

# Change how the result is made, never the result.
HOW = frozenset({"memory", "scratch"})
FilterName = Literal["ramp", "shepp-logan", "cosine", "hamming", "hann", "parzen"]


class PhaseSettings(Settings):
    """Single-distance phase retrieval of a sample of one material."""

    energy_kev: Annotated[float, Field(gt=0)] = Field(description="Photon energy, keV.")
    distance_m: Annotated[float, Field(gt=0)] = Field(description="Sample to detector, metres.")
    delta_beta: Annotated[float, Field(gt=0)] = Field(description="Refraction over absorption.")
    pixel_size_m: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Metres; null: the scan's."
    )


class PreprocessingSettings(Settings):
    """A scan's way into a slice store."""

    views: str | list[int] | None = Field(
        default="1/6",
        description="Views of the low-dose reconstruction: 1/6 (every 6th), 1/6+2 (from the"
        " third on), a list of view numbers, or null for all.",
    )
    filter: FilterName = Field(default="ramp", description="Filter of the reconstructions.")
    low_filter: FilterName | None = Field(
        default=None,
        description="Filter of the low-dose reconstruction where it is another: a smooth one (hann)"
        " is an easier start for a network. Null: as `filter`.",
    )
    centre: float | Literal["auto", "file"] = Field(
        default="auto",
        description="Rotation centre, 0-based detector pixel; auto finds it, file takes the one"
        " that the scan's file names.",
    )
    centre_method: Literal["auto", "mirror", "pairs", "mass"] = Field(
        default="auto",
        description="How the centre is found: mirror (Vo 2014, half a turn), pairs (views half a"
        " turn apart, Padfield 2012), mass (its path, Helgason-Ludwig); auto suits it to the turn.",
    )
    rows: str | None = Field(
        default=None, description="Detector rows FIRST:STOP (STOP left out); null for all."
    )
    columns: str | None = Field(
        default=None, description="Detector columns FIRST:STOP; null for all."
    )
    binning: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="Add up so many rows and columns to one pixel. `rows`, `columns` and `centre`"
        " still count the detector's own pixels.",
    )
    sinogram: bool = Field(default=True, description="Keep the low-dose sinogram and its angles.")
    angle_range: tuple[float, float] | None = Field(
        default=None, description="First and last angle in degrees, where the file has none."
    )
    layout: str | None = Field(default=None, description="Layout file: a path or a shipped name.")
    without_flats: bool = Field(
        default=False, description="Go on where the scan has no flats: frames are transmission."
    )
    without_darks: bool = Field(default=False, description="Take darks as zero where none are.")
    stitch: bool = Field(
        default=True,
        description="Stitch a full turn whose axis stands at the side of the detector to half a"
        " turn of wide views; `centre` is then that of the narrow ones.",
    )
    floor: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=1e-3, description="Least transmission; what is below is clipped and counted."
    )

    photons: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Mean photons per pixel and view in the open beam of the low dose; null: all"
        " that were counted. Counts that are whole numbers are thinned, others get noise.",
    )
    gain: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto", description="Counts per photon; auto: from the variance of the flats."
    )
    noise_seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Seed of the draws that take photons away."
    )
    splits: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Reconstructions of every K-th view besides the full one, for training"
        " without labels (splits=4: four of them); 0 is none.",
    )

    monitor: bool = Field(
        default=False, description="Bring each frame to the mean beam by the beam monitor."
    )
    phase: PhaseSettings | None = Field(
        default=None, description="Single-distance phase retrieval (Paganin 2002)."
    )
    zingers: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Remove specks brighter than their surroundings by this share (0.08).",
    )
    rings: Literal["none", "sorting", "all", "wavelet"] = Field(
        default="none",
        description="Ring removal: by sorting or of all stripes (Vo 2018), by wavelets (Muench"
        " 2009).",
    )
    padding: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        default=0,
        description="Columns by which a sinogram's edges are continued on each side, for objects"
        " wider than the detector; auto: half the detector.",
    )

    memory: str = Field(default="4GiB", description="Peak memory of each rank.")
    scratch: Path | None = Field(
        default=None,
        description="Folder on fast disk in which frames are laid out by rows once, where the"
        " memory would ask for several passes over the scan.",
    )

    @field_validator("splits")
    @classmethod
    def _splits_differ(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one split is the full reconstruction; expected 2 or more, or 0")
        return value

    @field_validator("views")
    @classmethod
    def _views_readable(cls, value: str | list[int] | None) -> str | list[int] | None:
        if isinstance(value, str):
            match = _EVERY.fullmatch(value.strip())
            if not match or int(match["step"]) < 1:
                raise ValueError("expected 1/K, 1/K+OFFSET, a list of view numbers or null")
            if int(match["offset"] or 0) >= int(match["step"]):
                raise ValueError("the offset must be less than K")
        if isinstance(value, list):
            if not value or min(value) < 0:
                raise ValueError("expected at least one view number, counted from 0")
            if len(set(value)) < len(value):
                raise ValueError("a view is named twice")
        return value

    @field_validator("rows", "columns", mode="before")
    @classmethod
    def _open_end(cls, value: Any) -> Any:
        # YAML reads 90: as a mapping.
        if isinstance(value, dict) and list(value.values()) == [None]:
            return f"{next(iter(value))}:"
        return value

    @field_validator("angle_range")
    @classmethod
    def _angles_differ(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] == value[1]:
            raise ValueError("expected two different angles")
        return value

    @field_validator("rows", "columns")
    @classmethod
    def _range_readable(cls, value: str | None) -> str | None:
        if value is not None and not _RANGE.fullmatch(value.strip()):
            raise ValueError("expected FIRST:STOP, for example 100:200")
        return value

    @field_validator("memory", mode="before")
    @classmethod
    def _plain_bytes(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @field_validator("memory")
    @classmethod
    def _memory_readable(cls, value: str) -> str:
        bytes_of(value)
        return value

    @property
    def memory_bytes(self) -> int:
        """Peak memory of each rank, in bytes."""
        return bytes_of(self.memory)

    def low_views(self, n_views: int) -> np.ndarray:
        """Choose the views of the low-dose reconstruction.

        Returns
        -------
        ndarray of int
            Their numbers among the projections.

        Raises
        ------
        InputError
            The scan has no such view.
        """
        if self.views is None:
            return np.arange(n_views)
        if isinstance(self.views, list):
            chosen = np.array(self.views, dtype=np.int64)
        else:
            match = _EVERY.fullmatch(self.views.strip())
            chosen = np.arange(int(match["offset"] or 0), n_views, int(match["step"]))
        if not len(chosen) or chosen.max() >= n_views:
            raise InputError(f"views: {self.views} asks for more than the scan's {n_views} views.")
        return chosen

    def check_splits(self, n_views: int) -> None:
        """Refuse more splits than a scan has views.

        Raises
        ------
        InputError
            One would be without a view.
        """
        if self.splits > n_views:
            raise InputError(f"splits: {self.splits} asked for, the scan has {n_views} views.")

    def chosen_rows(self, n_rows: int) -> range:
        """Choose the rows, counted after binning.

        Parameters
        ----------
        n_rows
            Rows of the scan after binning.

        Raises
        ------
        InputError
            The scan has no such rows.
        """
        most = n_rows * self.binning + self.binning - 1 if self.binning > 1 else n_rows
        inside = _range("rows", self.rows, most, n_rows * self.binning)
        chosen = range(-(-inside.start // self.binning), inside.stop // self.binning)
        if not chosen:
            raise InputError(f"rows: {self.rows} holds no {self.binning} rows to add up.")
        return chosen

    def chosen_columns(self, n_columns: int) -> range:
        """Choose the detector columns.

        Raises
        ------
        InputError
            The scan has no such columns.
        """
        return _range("columns", self.columns, n_columns, n_columns)

    def centre_among_chosen(self) -> float | None:
        """Give the centre that the settings name, counted after the columns' choice and binning.

        None where it is to be found, or the file's.
        """
        if self.centre in ("auto", "file"):
            return None
        first = _range("columns", self.columns, sys.maxsize, sys.maxsize).start
        # The middle of an N-pixel detector is (N − 1)/2 before and after.
        return (float(self.centre) - first + 0.5) / self.binning - 0.5

    def on_detector(self, column: float) -> float:
        """Count a column in the detector's own pixels, from the first."""
        first = _range("columns", self.columns, sys.maxsize, sys.maxsize).start
        return (column + 0.5) * self.binning - 0.5 + first

    def padding_columns(self, columns: int) -> int:
        """Say by how many columns a sinogram is continued on each side."""
        return columns // 2 if self.padding == "auto" else self.padding

    def result(self) -> dict[str, Any]:
        """Give the settings that decide the result, as plain values."""
        return {key: value for key, value in self.dump().items() if key not in HOW}


def _range(name: str, text: str | None, most: int, default_stop: int) -> range:
    match = _RANGE.fullmatch((text or ":").strip())
    first, stop = int(match["first"] or 0), int(match["stop"] or default_stop)
    if not first < stop <= most:
        raise InputError(f"{name}: {text} expected within 0:{default_stop}, at least one.")
    return range(first, stop)


def bytes_of(text: str) -> int:
    """Read an amount of memory such as ``4GiB``, ``500 MB`` or a number of bytes."""
    match = _MEMORY.fullmatch(text.strip())
    if not match:
        raise ValueError("expected an amount of memory such as 4GiB or 500MB")
    unit = (match["unit"] or "B").upper()
    base = 1024 if "I" in unit else 1000
    return int(float(match["value"]) * base ** "BKMGT".index(unit[0]))
