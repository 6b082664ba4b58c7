"""A full turn with the axis at the side, presented as the half turn of wide views that it holds.

The axis must be known before anything is stitched, so it is found first, from the narrow views.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.preprocessing.centre import (
    FoundCentre,
    given_centre,
    look_for_centre,
    look_for_light,
)
from hpc_srct.preprocessing.frames import Fields, Times, without_lost
from hpc_srct.ranks import Communicator
from hpc_srct.scan import FrameGroup, Scan
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.tomography.correction import dead_pixels, minus_log, transmission
from hpc_srct.tomography.stitching import (
    STEPS_LEFT_OUT,
    covers_turn,
    left_out_of_turn,
    plan_stitching,
)

# An axis that leaves less than this share of the longer side on the shorter one is meant to.
ASIDE = 0.6
# Degrees from which a scan was meant to be more than half a turn.
BEYOND_HALF = 200.0
# Radians between views from which an interpolated one is blurred.
WIDE = np.deg2rad(1)


class StitchedScan:
    """A scan whose projections are stitched pairs of another's, corrected already.

    It stands in a `Scan`'s place: `projections` gives transmissions (float32), and there are
    no flats or darks left to correct with.

    Parameters
    ----------
    scan
        The full turn.
    centre
        Its rotation centre.
    floor
        Least transmission.

    Attributes
    ----------
    lost_frames : ndarray of int
        Narrow views that hold no light.
    on_detector : float
        The centre on the narrow detector.
    centre_hint : float
        The centre in the stitched views.
    bytes_read : int
        Bytes that reading takes for one of its pixels.
    """

    def __init__(self, scan: Scan, centre: float, floor: float):
        self._scan, self._floor = scan, floor
        self._plan = plan = plan_stitching(scan.angles, scan.n_columns, centre)
        self._fields: tuple[range, Fields, np.ndarray] | None = None
        truth = scan.truth(slice(0, 1))
        self._truth_size = None if truth is None else truth.shape[1]
        # One column less where the truth's pixels would fall between those of the slices.
        odd = truth is not None and (plan.columns - self._truth_size) % 2
        self.path, self.format, self.pixel_size = scan.path, scan.format, scan.pixel_size
        self.n_views, self.n_rows, self.n_columns = len(plan.views), scan.n_rows, plan.columns - odd
        self.angles, self.dtype = plan.angles, np.dtype(np.float32)
        self.chunked_by_frame = scan.chunked_by_frame
        self.chunk_frames = min(scan.chunk_frames, self.n_views)
        self.chunk_rows = scan.chunk_rows
        self.chunk_starts = np.arange(0, self.n_views, self.chunk_frames)
        self.flat_groups: list[tuple[float, int]] = []
        self.dark_groups: list[tuple[float, int]] = []
        self.n_flats = self.n_darks = 0
        self.monitor, self.file_bytes = None, scan.file_bytes
        # What is lost of the narrow views comes as NaN in the wide ones.
        self.lost, self.lost_frames = np.zeros(0, np.int64), scan.lost
        self.on_detector, self.centre_hint = centre, plan.centre
        # Both views of a pair: raw, corrected, and a temporary; then the wide one and its parts.
        item = getattr(scan, "bytes_read", scan.dtype.itemsize)
        narrow = 2 * scan.n_columns * (item + 12)
        self.bytes_read = -(-(narrow + 24 * plan.columns) // self.n_columns)
        self.notes = [
            *scan.notes,
            f"A full turn with the axis at the side (column {centre:.2f} of"
            f" {scan.n_columns}): stitched to {self.n_views} views of {self.n_columns} columns;"
            f" {plan.overlap:.0f} columns overlap.",
        ]
        left_out, step = left_out_of_turn(scan.angles)
        if left_out > max(STEPS_LEFT_OUT * step, WIDE):
            self.notes[-1] += (
                f" The views leave up to {np.degrees(left_out):.3g}° out: opposite views are"
                " interpolated there, and blurred towards the rim."
            )

    def prepare(self, rows: slice) -> None:
        """Read the flats and darks of rows that will be read, a few at a time perhaps."""
        fields = Fields.of(self._scan, rows)
        dead = dead_pixels(fields.flats, fields.dark)
        self._fields = (range(*rows.indices(self.n_rows)), fields, dead)

    def projections(self, views: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """Read pairs of views, correct and stitch them.

        Returns
        -------
        ndarray, shape (len(views), rows, columns), float32
            Transmission. What is mostly made of values that were raised to the floor is 0, so
            that whoever raises it again counts it.
        """
        which = np.asarray(views)
        needed = np.concatenate([self._plan.views[which], *self._plan.partners[which].T])
        # Neighbours share a partner: each frame is read once.
        frames, places = np.unique(needed, return_inverse=True)
        own, first, second = places.reshape(3, len(which))
        integrals, floored = self._integrals(frames, rows)

        def wide(values: np.ndarray) -> np.ndarray:
            stitched = self._plan(values[own], values[first], values[second], which)
            return stitched[..., : self.n_columns]

        passed = np.exp(-wide(integrals))
        np.maximum(passed, np.float32(self._floor), out=passed)
        if floored.any():
            passed[wide(floored.astype(np.float32)) > 0.5] = 0
        return passed

    def flats(self, rows: slice = slice(None)) -> list[FrameGroup]:
        """Give none: the projections are corrected."""
        return []

    def darks(self, rows: slice = slice(None)) -> list[FrameGroup]:
        """Give none: the projections are corrected."""
        return []

    def truth(self, rows: slice = slice(None)) -> np.ndarray | None:
        """Read the truth of a simulated scan on the wide slices' grid, air around it; or None."""
        if self._truth_size is None:
            return None
        truth, wider = self._scan.truth(rows), (self.n_columns - self._truth_size) // 2
        if wider < 0:
            return truth[:, -wider:wider, -wider:wider]
        return np.pad(truth, ((0, 0), (wider, wider), (wider, wider)))

    def source(self) -> dict[str, Any]:
        """Describe where the data came from."""
        return self._scan.source()

    def close(self) -> None:
        """Close the files in this process."""
        self._scan.close()

    def _integrals(self, views: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Read and correct views of the narrow detector; tell which values are at the floor."""
        wanted = range(*rows.indices(self.n_rows))
        if self._fields is None or not _within(wanted, self._fields[0]):
            self.prepare(rows)
        known, fields, dead = self._fields
        inside = slice(wanted.start - known.start, wanted.stop - known.start)
        passed, _ = transmission(
            without_lost(self._scan.projections(views, rows), np.isin(views, self._scan.lost)),
            fields.flats[:, inside],
            fields.dark[inside],
            floor=self._floor,
            flat_positions=fields.positions,
            positions=views + 0.5,
            dead=dead[inside],
        )
        floored = passed <= np.float32(self._floor)
        return minus_log(passed, out=passed), floored


def stitched_where_aside(
    scan: Scan, settings: PreprocessingSettings, known: dict[str, Any] | None = None
) -> tuple[Scan | StitchedScan, FoundCentre | None]:
    """Present a full turn whose axis stands at the side as a half turn; others as they are.

    Parameters
    ----------
    scan
        Any scan.
    settings
        Their centre, where one is given, is that of the narrow views.
    known
        What `centre_of` said when the store was begun: then nothing is looked for again.

    Returns
    -------
    tuple
        The scan, and its centre (of the narrow views) where it had to be found for this.

    Raises
    ------
    InputError
        The axis cannot be found; or a beam monitor or fewer photons are asked for, which need
        the counts that a stitched scan has no more.
    """
    if not covers_turn(scan.angles):
        return scan, None
    if known is not None:
        aside = known.get("on_detector")
        return (scan if aside is None else _stitched(scan, aside, settings)), None
    alone, times = Communicator(), Times()
    found = given_centre(scan, settings)
    if found is not None:
        look_for_light(scan, settings, alone, times)
    else:
        last = scan.n_columns - 1
        search = (0.02 * last, 0.98 * last)
        # Of a turn that ends a little early `auto` would mirror the half: not of an axis aside.
        pairs = {"centre_method": "pairs"} if settings.centre_method == "auto" else {}
        settings = settings.model_copy(update=pairs)
        found = look_for_centre(scan, settings, alone, times, search)
    value = found.estimate.value
    if not _aside(scan, value):
        return scan, found
    return _stitched(scan, value, settings), found


def why_not_stitched(
    scan: Scan | StitchedScan, centre: float, settings: PreprocessingSettings
) -> str:
    """Say where a scan of more than half a turn, its axis at the side, could not be stitched.

    Parameters
    ----------
    scan
        As it is reconstructed.
    centre
        Its rotation centre.
    """
    span = np.degrees(np.ptp(scan.angles))
    if not settings.stitch or covers_turn(scan.angles) or span < BEYOND_HALF:
        return ""
    if not _aside(scan, centre):
        return ""
    return (
        f"the axis stands at the side (column {settings.on_detector(centre):.2f}) and the angles"
        f" span {span:.4g}°, but they leave {np.degrees(left_out_of_turn(scan.angles)[0]):.3g}° of"
        " the turn out, so that the views are not stitched: what lies beyond the detector on that"
        " side is missing."
    )


def _aside(scan: Scan, centre: float) -> bool:
    short, long = sorted((centre, scan.n_columns - 1 - centre))
    return 0 < short < ASIDE * long


def _stitched(scan: Scan, centre: float, settings: PreprocessingSettings) -> StitchedScan:
    for name, asked, without in (
        ("monitor", settings.monitor, "monitor=false"),
        ("photons", settings.photons is not None, "photons=null"),
    ):
        if asked:
            raise InputError(
                f"{name}: {scan.path} is a full turn with the axis at the side (column"
                f" {centre:.2f} of {scan.n_columns}), and its views are stitched. That takes"
                f" corrected views, without counts to apply {name} to.\nSet {without}; or"
                " stitch=false, which reconstructs the narrow views as they are."
            )
    return StitchedScan(scan, centre, settings.floor)


def _within(rows: range, known: range) -> bool:
    return known.start <= rows.start and rows.stop <= known.stop
