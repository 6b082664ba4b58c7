"""`srct inspect`: what was found in a scan, its rotation centre, and what preprocessing takes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from hpc_srct.errors import InputError
from hpc_srct.preprocessing.centre import (
    FoundCentre,
    given_centre,
    look_for_centre,
    look_for_light,
)
from hpc_srct.preprocessing.footprint import INTERPRETER
from hpc_srct.preprocessing.frames import Times
from hpc_srct.preprocessing.full_turn import (
    StitchedScan,
    stitched_where_aside,
    why_not_stitched,
)
from hpc_srct.preprocessing.plan import make_plan
from hpc_srct.preprocessing.reduced import ReducedScan, reduced
from hpc_srct.preprocessing.run import check_asked, work_of
from hpc_srct.ranks import Communicator
from hpc_srct.scan import Scan, open_scan
from hpc_srct.scan.angles import AngleSummary
from hpc_srct.settings.preprocessing import PreprocessingSettings


@dataclass(frozen=True)
class Inspection:
    """What there is to know of a scan before it is reconstructed.

    Attributes
    ----------
    path, format, dtype : str
    views, rows, columns : int
    angles : AngleSummary
        Degrees.
    flats, darks : list of (float, int)
        For each group, how many projections were taken before it, and its frames.
    pixel_size : float or None
        Metres.
    centre : dict or None
        ``value`` (0-based column), ``uncertainty`` (px), ``at_edge``, ``method``, ``note``;
        None where it cannot be found, and a note says why.
    centre_of_rows : dict or None
        Centres of single rows (``rows``, ``centres``, ``uncertainties``), whether they ``agree``,
        and the axis's ``tilt_degrees``; None where the centre is given.
    centre_in_file : float or None
        What the file itself names, for comparison.
    storage : dict
        Bytes, datasets, files, and how frames are chunked.
    plan : dict or None
        ``memory_bytes`` (each rank), ``disk_bytes``, ``scratch_bytes``, ``passes`` over the
        file's frames, ``phase_retrievals`` of each frame, ``seconds``, ``ranks``.
    notes : list of str
        What was assumed, and what to be careful of.
    """

    path: str
    format: str
    dtype: str
    views: int
    rows: int
    columns: int
    angles: AngleSummary
    flats: list[tuple[float, int]]
    darks: list[tuple[float, int]]
    pixel_size: float | None
    centre: dict[str, Any] | None
    centre_of_rows: dict[str, Any] | None
    centre_in_file: float | None
    storage: dict[str, Any]
    plan: dict[str, Any] | None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Give plain values, fit for JSON: no NaN, no infinity."""
        return _plain(
            {
                "path": self.path,
                "format": self.format,
                "dtype": self.dtype,
                "shape": [self.views, self.rows, self.columns],
                "views": self.views,
                "rows": self.rows,
                "columns": self.columns,
                "angles": self.angles.to_json(),
                "flats": _groups(self.flats),
                "darks": _groups(self.darks),
                "pixel_size": self.pixel_size,
                "centre": self.centre,
                "centre_of_rows": self.centre_of_rows,
                "centre_in_file": self.centre_in_file,
                "storage": self.storage,
                "plan": self.plan,
                "notes": self.notes,
            }
        )

    def __rich__(self) -> Group:
        table = Table(title=self.path, title_justify="left", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in self._lines():
            table.add_row(name, Text(text))
        notes = [Text(f"note: {note}", style="yellow") for note in self.notes]
        return Group(table, *notes)

    def _lines(self) -> list[tuple[str, str]]:
        storage = self.storage
        by = "whole frames" if storage["chunked_by_frame"] else "rows"
        lines = [
            ("format", f"{self.format}, {self.dtype}, {_bytes(storage['bytes'])}, read by {by}"),
            ("projections", f"{self.views} views × {self.rows} rows × {self.columns} columns"),
            ("angles", _angle_line(self.angles)),
            ("flats", _group_line(self.flats, self.views)),
            ("darks", _group_line(self.darks, self.views)),
            ("pixel size", _length(self.pixel_size)),
            ("rotation centre", self._centre_line()),
        ]
        if self.centre_of_rows is not None and len(self.centre_of_rows["rows"]) > 1:
            lines.append(("centre by rows", _rows_line(self.centre_of_rows)))
        if self.plan is not None:
            lines.append(("preprocessing", _plan_line(self.plan)))
        return lines

    def _centre_line(self) -> str:
        if self.centre is None:
            return "not found"
        found = self.centre
        sure = found["uncertainty"]
        within = f"± {sure:.2f} px" if math.isfinite(sure) else "(how sure is not known)"
        text = f"{found['value']:.2f} {within}, by {found['method']}"
        text += f" (middle of the detector: {(self.columns - 1) / 2:g})"
        if self.centre_in_file is not None:
            text += f"; the file says {self.centre_in_file:g}"
        if found["at_edge"]:
            text += "; AT THE EDGE of its search range"
        return text + (f"; {found['note']}" if found["note"] else "")


def inspect(
    path: Path | str,
    layout: Path | str | None = None,
    settings: PreprocessingSettings | None = None,
    ranks: int = 1,
) -> Inspection:
    """Look at a raw scan.

    Parameters
    ----------
    path
        The scan's file, or the folder of a layout that names one file for each role.
    layout
        Layout file, or the name of a shipped one; over the settings' own.
    settings
        What it will be preprocessed with: range of angles, missing flats or darks, memory,
        views, rows; by default the defaults.
    ranks
        How many ranks the plan is for.

    Raises
    ------
    InputError
        Not a scan, or one that cannot be read right.
    """
    settings = settings or PreprocessingSettings()

    def opened(without_darks: bool) -> Scan:
        return open_scan(
            path,
            layout if layout is not None else settings.layout,
            angle_range=settings.angle_range,
            without_flats=settings.without_flats,
            without_darks=without_darks,
        )

    scan = opened(settings.without_darks)
    angles = AngleSummary.of(scan.angles)
    notes = [*scan.notes, *angles.notes()]
    if scan.pixel_size is None:
        notes.append("Pixel size: not in the file; results stay in attenuation per pixel.")
    # To look for the centre needs no darks; preprocessing asks for them, as a note says.
    whole = scan if scan.n_darks else opened(True)
    narrow = reduced(whole, settings)
    known = len(narrow.notes)
    reconstructed, found = _centre(narrow, settings, notes)
    notes += narrow.notes[known:]
    return Inspection(
        path=str(path),
        format=scan.format,
        dtype=str(scan.dtype),
        views=scan.n_views,
        rows=scan.n_rows,
        columns=scan.n_columns,
        angles=angles,
        flats=scan.flat_groups,
        darks=scan.dark_groups,
        pixel_size=scan.pixel_size,
        centre=None if found is None else _on_detector(found, settings),
        centre_of_rows=None if found is None else _rows_on_detector(found, settings),
        centre_in_file=scan.centre_hint,
        storage=_storage(scan),
        plan=_plan(reconstructed, settings, ranks, notes),
        notes=notes,
    )


def _centre(
    scan: Scan | ReducedScan, settings: PreprocessingSettings, notes: list[str]
) -> tuple[Scan | ReducedScan | StitchedScan, FoundCentre | None]:
    """Find the centre from the rows, and in the way, that preprocessing will.

    Returns
    -------
    tuple
        The scan as it will be reconstructed (stitched, where it is a full turn with its axis at
        the side), and the centre before that.
    """
    reconstructed, found = scan, None
    try:
        if settings.stitch:
            reconstructed, found = stitched_where_aside(scan, settings)
        if isinstance(reconstructed, StitchedScan):
            notes.append(reconstructed.notes[-1])
        if found is None:
            found = given_centre(scan, settings)
            look = look_for_centre if found is None else look_for_light
            looked = look(scan, settings, Communicator(), Times())
            found = found or looked
    except InputError as error:
        notes.append(f"Rotation centre: {error}")
        return reconstructed, None
    why = why_not_stitched(reconstructed, found.estimate.value, settings)
    notes += [f"{why[0].upper()}{why[1:]}"] if why else []
    # What the estimate itself notes stands beside it.
    notes += [f"Rotation centre: {note}." for note in found.notes if note != found.estimate.note]
    return reconstructed, found


def _on_detector(found: FoundCentre, settings: PreprocessingSettings) -> dict[str, Any]:
    """Count the centre in the detector's own pixels, whatever columns and binning are asked for."""
    centre = asdict(found.estimate)
    centre["value"] = settings.on_detector(centre["value"])
    centre["uncertainty"] *= settings.binning
    return centre


def _rows_on_detector(found: FoundCentre, settings: PreprocessingSettings) -> dict[str, Any] | None:
    if found.check is None:
        return None
    check = found.check.describe()
    check["rows"] = [row * settings.binning for row in check["rows"]]
    check["centres"] = [settings.on_detector(centre) for centre in check["centres"]]
    check["uncertainties"] = [one * settings.binning for one in check["uncertainties"]]
    return check


def _plan(
    scan: Scan | ReducedScan | StitchedScan,
    settings: PreprocessingSettings,
    ranks: int,
    notes: list[str],
) -> dict[str, Any] | None:
    try:
        check_asked(scan, settings)
        plan = make_plan(
            work_of(scan, settings, INTERPRETER),
            ranks,
            settings.memory_bytes,
            scratch=settings.scratch is not None,
            finds_centre=settings.centre == "auto",
        )
    except InputError as error:
        notes.append(f"Preprocessing: {error}")
        return None
    return {
        "ranks": ranks,
        "memory_bytes": plan.memory,
        "disk_bytes": plan.disk,
        "scratch_bytes": plan.scratch,
        "passes": plan.readings,
        "phase_retrievals": plan.phase_retrievals,
        "seconds": plan.seconds,
        "rows_per_rank": plan.rows_per_rank,
        "staged": plan.staged,
    }


def _storage(scan: Scan) -> dict[str, Any]:
    source = scan.source()
    return {
        "bytes": scan.file_bytes,
        "files": [file["path"] for file in source["files"]],
        "datasets": source["datasets"],
        "chunk_frames": scan.chunk_frames,
        "chunk_rows": scan.chunk_rows,
        "chunked_by_frame": scan.chunked_by_frame,
    }


def _groups(groups: list[tuple[float, int]]) -> dict[str, Any]:
    return {
        "frames": sum(count for _, count in groups),
        "groups": [{"position": position, "frames": count} for position, count in groups],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _angle_line(angles: AngleSummary) -> str:
    even = f"{angles.step:.4g}° apart" if angles.regular else f"about {angles.step:.4g}° apart"
    turn = {"half": "half a turn", "full": "a full turn"}.get(angles.turn, "")
    parts = [f"{angles.first:.4f}° to {angles.last:.4f}°", f"span {angles.span:.4f}°", even, turn]
    return ", ".join(part for part in parts if part)


def _group_line(groups: list[tuple[float, int]], n_views: int) -> str:
    if not groups:
        return "none (warning: see the note)"
    count = sum(frames for _, frames in groups)
    if len(groups) == 1 and 0 < groups[0][0] < n_views:
        return f"{count}"
    where = {0.0: "before", float(n_views): "after"}
    parts = [
        f"{frames} {where.get(position) or f'after view {position:g}'}"
        for position, frames in groups[:6]
    ]
    more = f", … in {len(groups)} groups" if len(groups) > 6 else ""
    return f"{count}: {', '.join(parts)}{more}"


def _length(metres: float | None) -> str:
    return "unknown" if metres is None else f"{metres * 1e6:.4g} µm"


def _plan_line(plan: dict[str, Any]) -> str:
    passes = plan["passes"]
    times = "once" if passes == 1 else "twice" if passes == 2 else f"{passes} times"
    text = (
        f"{plan['ranks']} rank(s), {_bytes(plan['memory_bytes'])} of memory each,"
        f" {_bytes(plan['disk_bytes'])} of disk, about {_seconds(plan['seconds'])},"
        f" reads the frames {times}"
    )
    if passes > 2 and plan["phase_retrievals"] < 2:
        text += " (less often with more memory, once with a scratch folder: scratch=FOLDER)"
    if plan["staged"]:
        text += f", staged in the scratch folder ({_bytes(plan['scratch_bytes'])})"
    if plan["phase_retrievals"]:
        count = plan["phase_retrievals"]
        text += f"; phase retrieval of each frame {'once' if count == 1 else f'{count} times'}"
        text += "" if count == 1 else " (once with more memory, or a scratch folder)"
    return text


def _rows_line(check: dict[str, Any]) -> str:
    each = zip(check["rows"], check["centres"], strict=True)
    text = ", ".join(f"{row}: {centre:.2f}" for row, centre in each)
    if check["tilt_degrees"] is not None:
        text += f"; tilt {check['tilt_degrees']:.2f}° ± {check['tilt_uncertainty_degrees']:.2f}°"
    return text + ("" if check["agree"] else "; THEY DISAGREE, see the note")


def _bytes(count: float) -> str:
    power = min(3, max(0, int(math.log2(max(count, 1)) // 10)))
    unit = ("B", "KiB", "MiB", "GiB")[power]
    return f"{count / 1024**power:.{min(power, 1)}f} {unit}"


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
