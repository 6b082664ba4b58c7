"""Frames that hold no light: never written, not mapped, or taken with the shutter shut.

They are told from an opaque object once, before anything is made, from rows over the whole
height: which rows a rank holds, and in what memory, decides nothing.
"""

from __future__ import annotations

import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.preprocessing.frames import Fields, FrameWise, Times
from hpc_srct.preprocessing.reading import Step
from hpc_srct.scan import Scan
from hpc_srct.tomography.correction import FLOOR, median_frame
from hpc_srct.tomography.lost_views import MOST

# Pixels that may be bright in the dark: hot ones, zingers.
_BRIGHT = 0.01
# Rows of a suspected view that are looked at; views, where there are many.
_ROWS, _LOOKED = 32, 16
# Standard deviations of the dark frames' noise.
_NOISE = 4.0


def dark_views(scan: Scan, rows: np.ndarray, sinograms: np.ndarray) -> np.ndarray:
    """Find the views that hold no light in any of some rows.

    Parameters
    ----------
    scan
        Asked for its darks' noise where a view is suspected.
    rows
        Detector rows over the height.
    sinograms
        (row, view, column), −log of the transmission, whose floor is at most `FLOOR`.

    Returns
    -------
    ndarray of int
        Nothing where a single row with beam is at hand: that may be opaque.
    """
    lit = np.isfinite(sinograms).any(axis=(1, 2))
    if np.count_nonzero(lit) < min(2, scan.n_rows):
        return np.zeros(0, np.int64)
    some = sinograms if lit.all() else sinograms[lit]
    # A shut shutter leaves half of the pixels below zero, all of them near it.
    low = sum(np.count_nonzero(row >= -np.log(FLOOR) - 1e-3, axis=1) for row in some)
    suspects = np.flatnonzero(2 * low >= len(some) * some.shape[2]).tolist()
    if not suspects:
        return np.zeros(0, np.int64)
    limit = -np.log(FLOOR + _NOISE * _noise(scan, rows[lit])) - 1e-3
    dark = [view for view in suspects if np.quantile(some[:, view], _BRIGHT) >= limit]
    few = len(dark) <= MOST * some.shape[1]
    if not dark or (len(rows) == 1 and not few):
        return np.zeros(0, np.int64)  # the only row there is, and opaque
    looked = dark if few else [dark[i] for i in np.linspace(0, len(dark) - 1, _LOOKED).astype(int)]
    shut = [
        view for view, found in zip(looked, _darkest(scan, looked), strict=True) if found >= limit
    ]
    if few:
        dark = shut
    elif len(shut) < len(looked):
        dark = []  # it is the rows that are opaque
    return np.array(dark, np.int64)


def _darkest(scan: Scan, views: list[int]) -> list[float]:
    """Give line integrals that nearly all pixels of some views reach, from many rows."""
    rows = np.unique(np.linspace(0, scan.n_rows - 1, _ROWS).astype(int))
    fields = Fields.joined([Fields.of(scan, slice(int(row), int(row) + 1)) for row in rows])
    frames = FrameWise(scan, scan.chunked_by_frame, rows, fields, FLOOR, Times())
    found = []
    for view in views:
        here = slice(int(view), int(view) + 1)
        frame = frames.line_integrals(Step(slice(0, len(rows)), here, here))[0]
        found.append(float(np.nanquantile(frame, _BRIGHT)) if np.isfinite(frame).any() else 0.0)
    return found


def _noise(scan: Scan, rows: np.ndarray) -> float:
    """Measure the noise of a dark frame, as a share of the beam."""
    if not scan.n_flats or not scan.n_darks:
        return 0.0
    found = []
    for row in rows:
        here = slice(int(row), int(row) + 1)
        dark = np.concatenate([group.frames for group in scan.darks(here)]).astype(np.float32)
        if len(dark) < 2:
            return 0.0
        flat = np.concatenate([group.frames for group in scan.flats(here)])
        beam = float(np.median(median_frame(flat) - median_frame(dark)))
        found.append(float(np.median(dark.std(axis=0, ddof=1))) / beam if beam > 0 else 0.0)
    return min(float(np.median(found)), 0.01)


def lose(scan: Scan, dark: np.ndarray) -> str:
    """Add views to those that a scan has lost; give the note that says so, or nothing.

    Raises
    ------
    InputError
        They are more than can be filled from the views beside them.
    """
    lost = np.union1d(scan.lost, dark).astype(np.int64)
    if not len(lost):
        return ""
    named = shown(lost)
    if len(lost) > MOST * scan.n_views:
        raise InputError(
            f"{scan.path}: {len(lost)} of {scan.n_views} views hold no light ({named}): never"
            f" written, or taken with the shutter shut. At most {MOST:.0%} are filled from the"
            " views beside them.\nTransfer the file again; or leave those frames out (image_key 3"
            " in NXtomo), or name a file without them in a layout."
        )
    note = (
        f"{len(lost)} view(s) hold no light ({named}): never written, or taken with the shutter"
        " shut. They are filled from the views beside them."
    )
    scan.lost = lost
    scan.notes.append(note)
    return note


def shown(numbers: np.ndarray) -> str:
    """Name views or rows (rising), runs of them by their ends."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    words = [f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs[:6]]
    return ", ".join(words) + (", …" if len(runs) > 6 else "")
