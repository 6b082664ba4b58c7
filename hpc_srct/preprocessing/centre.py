"""The rotation centre of a scan, found once from all its views, before any row is made."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_srct import console
from hpc_srct.errors import InputError
from hpc_srct.preprocessing.exchange import frames_for_rows, together
from hpc_srct.preprocessing.frames import Fields, FrameWise, Times
from hpc_srct.preprocessing.plan import frames_at_once
from hpc_srct.ranks import Communicator
from hpc_srct.scan import Scan
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.tomography.centre import find_centre

# Of the height of the detector: whatever rows are chosen, the centre is the scan's.
WHERE = (0.25, 0.5, 0.75)


def centre_of(
    scan: Scan, settings: PreprocessingSettings, communicator: Communicator, times: Times
) -> dict[str, Any]:
    """Take the centre from the settings, or find it. Every rank must call it.

    Returns
    -------
    dict
        ``value`` (0-based detector pixel), ``uncertainty`` (pixels or None), ``method``,
        ``note``.
    """
    stitched = getattr(scan, "centre", None)
    if stitched is not None:  # found, or given, before the views were stitched
        return {
            "value": float(stitched.value),
            "uncertainty": float(stitched.uncertainty),
            "method": f"{stitched.method}, stitched",
            "note": stitched.note,
        }
    value = settings.centre_among_chosen()
    if value is not None:
        if not 0 <= value <= scan.n_columns - 1:
            raise InputError(
                f"centre: {value:g} is off the detector of {scan.path} (0 to {scan.n_columns - 1})."
            )
        return {"value": value, "uncertainty": None, "method": "given", "note": ""}
    sinograms = some_sinograms(scan, settings.floor, communicator, times)

    def find() -> dict[str, Any]:
        try:
            found = find_centre(list(sinograms), scan.angles)
        except InputError as error:
            raise InputError(
                f"{scan.path}: no rotation centre found ({error})\nGive it: centre=NUMBER."
            ) from error
        console.say(
            f"{scan.path}: rotation centre {found.value:.2f} ± {found.uncertainty:.2f} pixels"
            f" ({found.method})"
        )
        if found.at_edge or found.note:
            console.warn(f"rotation centre: {found.note}. If wrong, give it: centre=NUMBER.")
        return {
            "value": float(found.value),
            "uncertainty": float(found.uncertainty),
            "method": found.method,
            "note": found.note,
        }

    return together(communicator, find)


def some_sinograms(
    scan: Scan, floor: float, communicator: Communicator, times: Times
) -> np.ndarray:
    """Give rank 0 a few full sinograms, (row, view, column); the others none."""
    rows = np.unique([int(part * (scan.n_rows - 1) + 0.5) for part in WHERE])
    fields = Fields.joined([Fields.of(scan, slice(int(row), int(row) + 1)) for row in rows])
    views = np.arange(scan.n_views)
    frames = FrameWise(scan, scan.chunked_by_frame, rows, fields, floor, times, views)
    all_on_first = [slice(0, len(rows))] + [slice(0, 0)] * (communicator.size - 1)
    at_once = frames_at_once(scan, len(rows))
    return frames_for_rows(
        frames.line_integrals, scan.n_views, scan.n_columns, all_on_first, communicator, at_once
    )
