"""The row-wise half: sinograms in, slices out, a few at a time.

Two rows (2k, 2k + 1) ride in one transform. The pairs are counted from the first row chosen, so
that a slice has the same partner, and the same bits, in any pass on any rank.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpc_srct.preprocessing.frames import Times
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices.normalisation import intensity
from hpc_srct.tomography.correction import minus_log
from hpc_srct.tomography.geometry import field_of_view
from hpc_srct.tomography.lost_views import fill_lost_views
from hpc_srct.tomography.projector import Projector
from hpc_srct.tomography.rings import (
    remove_stripes_all,
    remove_stripes_sorting,
    remove_stripes_wavelet,
)
from hpc_srct.tomography.scratch import Scratch
from hpc_srct.tomography.zingers import remove_zingers


@dataclass(frozen=True)
class MadeSlices:
    """What a few rows became, of one kind.

    Attributes
    ----------
    name : str
        In the store.
    values : ndarray
        (row, …); written over by what is made next.
    figures : dict
        What is kept beside them, by slice.
    """

    name: str
    values: np.ndarray
    figures: dict[str, np.ndarray]


class RowWise:
    """Reconstructs rows: in full, from the low-dose views, and from interleaved splits.

    All come from one sinogram, unless the low dose has fewer photons: input and label share
    flats, centre and grey scale.

    Parameters
    ----------
    angles
        (views,) radians, of the full scan.
    columns
        Detector pixels.
    centre
        Rotation centre, 0-based detector pixel.
    settings
        Their row-wise steps.

    Attributes
    ----------
    filled : set of int
        Views without a number in some row, taken from their neighbours.
    """

    def __init__(
        self,
        angles: np.ndarray,
        columns: int,
        centre: float,
        settings: PreprocessingSettings,
        times: Times,
    ):
        self._settings, self._times, self._angles = settings, times, angles
        self.filled: set[int] = set()
        self._scratch = Scratch()
        self._low_views = settings.low_views(len(angles))
        self._pad = settings.padding_columns(columns)
        self._radius = field_of_view(columns, centre)

        def projector(views: slice | np.ndarray) -> Projector:
            wide = columns + 2 * self._pad
            return Projector(angles[views], wide, centre + self._pad, size=columns)

        self._full, self._low = projector(slice(None)), projector(self._low_views)
        self._splits = [
            (slice(k, None, settings.splits), projector(slice(k, None, settings.splits)))
            for k in range(settings.splits)
        ]

    def reconstruct(
        self, sinograms: np.ndarray, low_sinograms: np.ndarray | None = None
    ) -> Iterator[MadeSlices]:
        """Reconstruct a few rows, the first of them the first of a pair.

        Parameters
        ----------
        sinograms
            (row, view, column), line integrals. Cleaned in place.
        low_sinograms
            (row, low-dose view, column) where these have noise of their own. Cleaned in place.

        Yields
        ------
        MadeSlices
            One kind after the other.
        """
        now = time.perf_counter()
        settings = self._settings
        self.filled |= fill_lost_views(sinograms, self._angles)
        clean(sinograms, settings)
        if low_sinograms is None:
            low_sinograms = sinograms[:, self._low_views]
        else:
            fill_lost_views(low_sinograms, self._angles[self._low_views])
            clean(low_sinograms, settings)
        self._times.add("correct", now)
        yield self._made("low", self._low, low_sinograms, settings.low_filter or settings.filter)
        yield self._made("full", self._full, sinograms, settings.filter)
        for k, (views, projector) in enumerate(self._splits):
            yield self._made(f"splits/{k}", projector, sinograms[:, views], settings.filter)
        if settings.sinogram:
            yield MadeSlices("low/sinogram", low_sinograms, {})

    def _made(
        self, name: str, projector: Projector, sinograms: np.ndarray, filter: str
    ) -> MadeSlices:
        now = time.perf_counter()
        if self._pad:
            edges = ((0, 0), (0, 0), (self._pad, self._pad))
            sinograms = np.pad(sinograms, edges, mode="edge")
        out = self._scratch.array(
            "images", len(sinograms), projector.size, projector.size, dtype=np.float32
        )
        images = projector.fbp(sinograms, filter=filter, out=out)
        now = self._times.add("reconstruct", now)
        figures = {}
        if name == "low":
            figures["intensity"] = np.array([intensity(image, self._radius) for image in images])
            self._times.add("correct", now)
        return MadeSlices(name, images, figures)


def clean(sinograms: np.ndarray, settings: PreprocessingSettings) -> None:
    """Remove what the settings ask for, in place, zingers first: a speck is no stripe.

    Each row is treated by itself, so that the answer does not depend on what is held with it;
    two at a time, for the memory's sake.
    """
    for first in range(0, len(sinograms), 2):
        pair = sinograms[first : first + 2]
        if settings.zingers is not None:
            bright, _ = remove_zingers(np.exp(-pair), settings.zingers)
            pair[:] = minus_log(bright, out=bright)
        if settings.rings != "none":
            pair[:] = RINGS[settings.rings](pair)


RINGS = {
    "sorting": remove_stripes_sorting,
    "all": remove_stripes_all,
    "wavelet": remove_stripes_wavelet,
}
