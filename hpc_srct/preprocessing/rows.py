"""The row-wise half: sinograms in, slices out, in pairs (2k, 2k + 1) of the store.

Two rows ride in one transform. The pairs are counted from the first row chosen, so that a
slice has the same partner, and the same bits, in any pass on any rank.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from hpc_srct.preprocessing.frames import Times
from hpc_srct.slices.normalisation import intensity
from hpc_srct.tomography.geometry import field_of_view
from hpc_srct.tomography.projector import Projector


@dataclass(frozen=True)
class MadeSlices:
    """What a pair of rows became: arrays by their name in the store, figures by slice."""

    arrays: dict[str, np.ndarray]
    per_slice: dict[str, np.ndarray]


class RowWise:
    """Reconstructs rows, in full and from the low-dose views.

    Both come from one sinogram: input and label share flats, centre and grey scale.

    Parameters
    ----------
    angles
        (views,) radians, of the full scan.
    low_views
        Numbers of the low-dose views among them.
    columns
        Detector pixels.
    centre
        Rotation centre, 0-based detector pixel.
    filter, low_filter
        Of the full and of the low-dose reconstruction.
    keep_sinogram
        Give the low-dose sinogram too.
    """

    def __init__(
        self,
        angles: np.ndarray,
        low_views: np.ndarray,
        columns: int,
        centre: float,
        filter: str,
        low_filter: str,
        keep_sinogram: bool,
        times: Times,
    ):
        self._low_views, self._keep = low_views, keep_sinogram
        self._filter, self._low_filter = filter, low_filter
        self._full = Projector(angles, columns, centre)
        self._low = Projector(angles[low_views], columns, centre)
        self._radius = field_of_view(columns, centre)
        self._times = times

    def pair(self, sinograms: np.ndarray) -> MadeSlices:
        """Reconstruct a pair of rows (or the last, alone) from (row, view, column)."""
        now = time.perf_counter()
        low_sinogram = sinograms[:, self._low_views]
        low = self._low.fbp(low_sinogram, filter=self._low_filter)
        arrays = {"low": low, "full": self._full.fbp(sinograms, filter=self._filter)}
        if self._keep:
            arrays["low/sinogram"] = low_sinogram
        brightness = np.array([intensity(image, self._radius) for image in low])
        self._times.add("reconstruct", now)
        return MadeSlices(arrays, {"intensity": brightness})
