"""A full turn with the axis at the side, presented as the half turn of wide views that it holds.

The axis must be known before anything is stitched, so it is found first, from the narrow views.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.preprocessing.centre import some_sinograms
from hpc_srct.preprocessing.frames import Fields, Times
from hpc_srct.ranks import Communicator
from hpc_srct.scan import FrameGroup, Scan
from hpc_srct.scan.angles import AngleSummary
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.tomography.centre import CentreEstimate, find_centre
from hpc_srct.tomography.correction import minus_log, transmission
from hpc_srct.tomography.stitching import plan_stitching

# An axis that leaves less than this share of the longer side on the shorter one is meant to.
ASIDE = 0.6


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
    found, centre : CentreEstimate
        On the narrow detector, and in the stitched views.
    """

    def __init__(self, scan: Scan, centre: CentreEstimate, floor: float):
        self._scan, self._floor = scan, floor
        self._plan = plan = plan_stitching(scan.angles, scan.n_columns, centre.value)
        self._fields: tuple[tuple[int, int, int], Fields] | None = None
        self.path, self.format, self.pixel_size = scan.path, scan.format, scan.pixel_size
        self.n_views, self.n_rows, self.n_columns = len(plan.views), scan.n_rows, plan.columns
        self.angles, self.dtype = plan.angles, np.dtype(np.float32)
        self.chunked_by_frame = scan.chunked_by_frame
        self.chunk_frames, self.chunk_rows = scan.chunk_frames, scan.chunk_rows
        self.flat_groups: list[tuple[float, int]] = []
        self.dark_groups: list[tuple[float, int]] = []
        self.n_flats = self.n_darks = 0
        self.monitor, self.file_bytes = None, scan.file_bytes
        self.found = centre
        self.centre = CentreEstimate(
            plan.centre, centre.uncertainty, centre.at_edge, centre.method, centre.note
        )
        self.centre_hint = plan.centre
        self.notes = [
            *scan.notes,
            f"A full turn with the axis at the side (column {centre.value:.2f} of"
            f" {scan.n_columns}): stitched to {self.n_views} views of {self.n_columns} columns;"
            f" {plan.overlap:.0f} columns overlap.",
        ]

    def projections(self, views: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """Read pairs of views, correct and stitch them.

        Returns
        -------
        ndarray, shape (len(views), rows, columns), float32
            Transmission.
        """
        which = np.asarray(views)
        first, second = self._plan.partners[which].T
        wide = self._plan(
            self._integrals(self._plan.views[which], rows),
            self._integrals(first, rows),
            self._integrals(second, rows),
            which,
        )
        return np.exp(-wide)

    def flats(self, rows: slice = slice(None)) -> list[FrameGroup]:
        """Give none: the projections are corrected."""
        return []

    def darks(self, rows: slice = slice(None)) -> list[FrameGroup]:
        """Give none: the projections are corrected."""
        return []

    def truth(self, rows: slice = slice(None)) -> None:
        """Give none: a truth of the narrow detector's size is not that of the stitched one."""

    def source(self) -> dict[str, Any]:
        """Describe where the data came from."""
        return self._scan.source()

    def close(self) -> None:
        """Close the files in this process."""
        self._scan.close()

    def _integrals(self, views: np.ndarray, rows: slice) -> np.ndarray:
        key = rows.indices(self.n_rows)
        if self._fields is None or self._fields[0] != key:
            self._fields = (key, Fields.of(self._scan, rows))
        fields = self._fields[1]
        passed, _ = transmission(
            self._scan.projections(views, rows),
            fields.flats,
            fields.dark,
            floor=self._floor,
            flat_positions=fields.positions,
            positions=views + 0.5,
        )
        return minus_log(passed, out=passed)


def stitched_where_aside(
    scan: Scan, settings: PreprocessingSettings, search: tuple[float, float] | None = None
) -> Scan | StitchedScan:
    """Present a full turn whose axis stands at the side as a half turn; others as they are.

    Parameters
    ----------
    scan
        Any scan.
    settings
        Their centre, where one is given, is that of the narrow views.
    search
        Range of centres to look in; default all but the outermost columns.

    Raises
    ------
    InputError
        The axis cannot be found.
    """
    if AngleSummary.of(scan.angles).turn != "full":
        return scan
    given = settings.centre_among_chosen()
    if given is not None:
        centre = CentreEstimate(given, 0.0, False, "given", "")
    else:
        sinograms = some_sinograms(scan, settings.floor, Communicator(), Times())
        last = scan.n_columns - 1
        try:
            centre = find_centre(list(sinograms), scan.angles, search or (0.02 * last, 0.98 * last))
        except InputError as error:
            raise InputError(
                f"{scan.path}: no rotation centre found ({error})\nGive it: centre=NUMBER."
            ) from error
    short, long = sorted((centre.value, scan.n_columns - 1 - centre.value))
    if not 0 < short < ASIDE * long:
        return scan
    return StitchedScan(scan, centre, settings.floor)
