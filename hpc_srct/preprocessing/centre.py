"""The rotation centre of a scan, found once from all its views, before any row is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hpc_srct import console
from hpc_srct.errors import InputError
from hpc_srct.preprocessing.dark_frames import dark_views, lose
from hpc_srct.preprocessing.exchange import frames_for_rows, together
from hpc_srct.preprocessing.frames import Fields, FrameWise, Times
from hpc_srct.preprocessing.plan import reading_outside_plan
from hpc_srct.preprocessing.reading import sweeps
from hpc_srct.ranks import Communicator
from hpc_srct.scan import Scan
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.tomography.axis import RowCheck, check_rows
from hpc_srct.tomography.centre import SURE_WITHIN, CentreEstimate, find_centre
from hpc_srct.tomography.correction import FLOOR
from hpc_srct.tomography.lost_views import fill_lost_views

# Of the height of the detector: whatever rows are chosen, the centre is the scan's. Chosen rows
# are asked where those over the height do not tell.
WHERE = (0.1, 0.3, 0.5, 0.7, 0.9)
# Pixels by which the centre may differ from what the file says before a user must look.
FAR = 2.0


@dataclass(frozen=True)
class FoundCentre:
    """A centre, how single rows bear it out, and what the file says.

    Attributes
    ----------
    estimate : CentreEstimate
    check : RowCheck or None
        None where the centre is given.
    in_file : float or None
        Pixels.
    notes : tuple of str
        What a user must look at.
    """

    estimate: CentreEstimate
    check: RowCheck | None = None
    in_file: float | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Give plain values: ``value`` (0-based detector pixel), ``uncertainty`` (pixels), …"""
        found = self.estimate
        return {
            "value": float(found.value),
            "uncertainty": float(found.uncertainty) if self.check is not None else None,
            "method": found.method,
            "note": found.note,
            "rows": None if self.check is None else self.check.describe(),
            "in_file": self.in_file,
        }


def centre_of(
    scan: Scan,
    settings: PreprocessingSettings,
    communicator: Communicator,
    times: Times,
    found: FoundCentre | None = None,
) -> dict[str, Any]:
    """Take the centre from the settings or the file, or find it. Every rank must call it.

    Parameters
    ----------
    found
        What is known already, of the narrow views where the scan is stitched.

    Returns
    -------
    dict
        ``value`` (0-based detector pixel), ``uncertainty`` (pixels or None), ``method``,
        ``note``, ``rows`` (what single rows give, or None), ``in_file``; of stitched scans also
        ``on_detector``, before they were.
    """
    if found is None:
        found = together(communicator, lambda: given_centre(scan, settings))
        if found is None:
            found = look_for_centre(scan, settings, communicator, times)
        else:
            look_for_light(scan, settings, communicator, times)
    if communicator.rank == 0:
        _say(scan, found, settings)
    story = found.describe()
    if hasattr(scan, "on_detector"):
        story |= {"value": float(scan.centre_hint), "on_detector": scan.on_detector}
        story["method"] += ", stitched"
    return story


def given_centre(scan: Scan, settings: PreprocessingSettings) -> FoundCentre | None:
    """Take the centre that the settings name, or the file's where they say so; else None.

    Raises
    ------
    InputError
        It is off the detector, or the file has none.
    """
    value, method = settings.centre_among_chosen(), "given"
    if settings.centre == "file":
        value, method = scan.centre_hint, "from the file"
        if value is None:
            raise InputError(
                f"centre: {scan.path} names no rotation centre; centre=auto finds it, or give it:"
                " centre=NUMBER."
            )
    if value is None:
        return None
    if not 0 <= value <= scan.n_columns - 1:
        # In the pixels in which `centre` counts, whatever is left of them.
        value, first, last = map(settings.on_detector, (value, 0, scan.n_columns - 1))
        raise InputError(
            f"centre: {value:g} is off the detector of {scan.path} ({first:g} to {last:g})."
        )
    return FoundCentre(CentreEstimate(float(value), 0.0, False, method, ""), None, scan.centre_hint)


def look_for_centre(
    scan: Scan,
    settings: PreprocessingSettings,
    communicator: Communicator,
    times: Times,
    search: tuple[float, float] | None = None,
) -> FoundCentre:
    """Find the centre from some rows over the height, together and one by one.

    Where that is not sure, from some of the rows that are asked for. Every rank must call it.

    Raises
    ------
    InputError
        It cannot be found.
    """
    rows, sinograms = rows_with_light(scan, settings, communicator, times)

    def find() -> FoundCentre | InputError:
        try:
            return _found(scan, settings, search, rows, sinograms)
        except InputError as error:
            return error

    found = together(communicator, find)
    chosen = settings.chosen_rows(scan.n_rows)
    if _is_sure(found) or len(chosen) == scan.n_rows:
        return _found_or_raise(found)
    # The rows that are wanted may show more than those over the height.
    rows, sinograms = some_sinograms(scan, settings.floor, communicator, times, chosen)
    among = together(communicator, find)
    if isinstance(found, InputError) or _is_sure(among):
        return _found_or_raise(among)
    return found


def _found(
    scan: Scan,
    settings: PreprocessingSettings,
    search: tuple[float, float] | None,
    rows: np.ndarray,
    sinograms: np.ndarray,
) -> FoundCentre:
    """Find the centre from these rows."""
    fill_lost_views(sinograms, scan.angles)
    method = settings.centre_method
    try:
        found = find_centre(list(sinograms), scan.angles, search, method)
    except InputError as error:
        raise InputError(
            f"{scan.path}: no rotation centre found ({error})\nGive it: centre=NUMBER."
        ) from error
    check = check_rows(sinograms, rows.tolist(), scan.angles, search, method)
    if _counts_otherwise(settings):
        found = replace(found, note=_as_counted(found.note) if found.at_edge else found.note)
        check = replace(check, note=_as_counted(check.note) if check.note else "")
    beside = beside_the_file(found.value, scan.centre_hint, scan.n_columns, settings)
    notes = tuple(note for note in (found.note, check.note, beside) if note)
    return FoundCentre(found, check, scan.centre_hint, notes)


def _is_sure(found: FoundCentre | InputError) -> bool:
    """Tell whether the rows say where the centre is; of a leaning axis each says another."""
    if isinstance(found, InputError):
        return False
    alone = found.check.uncertainties
    rows_are = len(alone) > 1 and float(np.median(alone)) <= SURE_WITHIN
    return found.estimate.uncertainty <= SURE_WITHIN or rows_are


def _found_or_raise(found: FoundCentre | InputError) -> FoundCentre:
    if isinstance(found, InputError):
        raise found
    return found


def beside_the_file(
    found: float, in_file: float | None, columns: int, settings: PreprocessingSettings
) -> str:
    """Say how far the centre is from what the file says; nothing where that is near.

    Some beamlines count it from the middle of the detector: then that is what is compared.
    """
    if in_file is None:
        return ""
    ways = (in_file, in_file + (columns - 1) / 2)
    if min(abs(found - way) for way in ways) <= FAR:
        return ""
    found, in_file = settings.on_detector(found), settings.on_detector(in_file)
    return (
        f"{found:.2f} was found, and the file says {in_file:.2f}: look at both (--try-centres);"
        " centre=file takes the file's"
    )


def _counts_otherwise(settings: PreprocessingSettings) -> bool:
    return settings.on_detector(0) != 0


def _as_counted(note: str) -> str:
    return f"{note} (pixels counted after `columns` and `binning`)"


def _say(scan: Scan, found: FoundCentre, settings: PreprocessingSettings) -> None:
    """Say it in the detector's own pixels, in which `centre` is given."""
    estimate = found.estimate
    if found.check is None:
        return
    value = settings.on_detector(estimate.value)
    console.say(
        f"{scan.path}: rotation centre {value:.2f} ±"
        f" {estimate.uncertainty * settings.binning:.2f} pixels ({estimate.method})"
    )
    for note in found.notes:
        console.warn(f"rotation centre: {note}. If wrong, give it: centre=NUMBER.")


def rows_with_light(
    scan: Scan, settings: PreprocessingSettings, communicator: Communicator, times: Times
) -> tuple[np.ndarray, np.ndarray]:
    """Give what `some_sinograms` gives, without the views that hold no light: NaN.

    Every rank must call it; each learns which they are (`scan.lost`).

    Raises
    ------
    InputError
        There are too many of them.
    """
    rows, sinograms = some_sinograms(scan, min(settings.floor, FLOOR), communicator, times)
    scan.lost = together(communicator, lambda: _told(scan, dark_views(scan, rows, sinograms)))
    sinograms[:, scan.lost] = np.nan
    if settings.floor > FLOOR:
        np.minimum(sinograms, -np.log(np.float32(settings.floor)), out=sinograms)
    return rows, sinograms


def look_for_light(
    scan: Scan, settings: PreprocessingSettings, communicator: Communicator, times: Times
) -> None:
    """Learn which views hold no light, where the centre is known (`scan.lost`).

    Where a few rows cost the whole scan, only what the file's structure tells is taken.
    """
    if not scan.chunked_by_frame:
        rows_with_light(scan, settings, communicator, times)
        return
    scan.lost = together(communicator, lambda: _told(scan, np.zeros(0, np.int64)))


def _told(scan: Scan, dark: np.ndarray) -> np.ndarray:
    note = lose(scan, dark)
    if note:
        console.warn(f"{scan.path}: {note}")
    return scan.lost


def some_sinograms(
    scan: Scan, floor: float, communicator: Communicator, times: Times, among: range | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Give some rows over the height, and to rank 0 their sinograms, (row, view, column).

    Parameters
    ----------
    among
        Detector rows; default all.
    """
    among = range(scan.n_rows) if among is None else among
    rows = np.unique([among[int(part * (len(among) - 1) + 0.5)] for part in WHERE])
    fields = Fields.joined([Fields.of(scan, slice(int(row), int(row) + 1)) for row in rows])
    frames = FrameWise(scan, scan.chunked_by_frame, rows, fields, floor, times, lost=scan.lost)
    all_on_first = [slice(0, len(rows))] + [slice(0, 0)] * (communicator.size - 1)
    reading = reading_outside_plan(scan, len(rows))
    steps = sweeps(rows, scan.n_views, reading, scan.chunk_starts, communicator.size)
    (sinograms,) = frames_for_rows(
        frames.line_integrals,
        frames.kinds(scan.n_views),
        scan.n_columns,
        all_on_first,
        communicator,
        steps,
    )
    return rows, sinograms
