"""Fewer photons: what a scan would have counted with less beam.

Where the counts are whole numbers each photon is kept by chance (binomial thinning), which is
exactly what less beam does to them. Elsewhere noise is added until the variance is that of the
lower dose. Either way the open beam must be known in photons, and so the counts per photon.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.scan import Scan
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.tomography.correction import median_frame

# Flats from which the counts per photon can be told, and rows that are looked at.
LEAST_FLATS = 4
ROWS = 16
THINNING, NOISE = "binomial thinning of the counts", "added noise"


@dataclass(frozen=True)
class Dose:
    """How the low dose is made of the scan's.

    Attributes
    ----------
    photons, beam : float
        Mean photons per pixel and view in the open beam: asked for, and the scan's.
    gain : float
        Counts per photon.
    gain_from : str
        ``given``, or how it was estimated.
    how : str
        Thinning or added noise.
    seed : int
        Of the draws.
    """

    photons: float
    beam: float
    gain: float
    gain_from: str
    how: str
    seed: int

    @property
    def share(self) -> float:
        """Of the photons, how many are kept."""
        return self.photons / self.beam

    def describe(self) -> dict[str, Any]:
        """Give plain values."""
        return asdict(self)

    def lowered(
        self, frames: np.ndarray, dark: np.ndarray, views: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Draw what less beam would have counted, scaled to the full beam's counts.

        Each row of each view has draws of its own, whoever reads it and with what else.

        Parameters
        ----------
        frames
            (view, row, column), raw counts.
        dark
            (row, column), counts.
        views, rows
            Their numbers in the scan.

        Returns
        -------
        ndarray
            (view, row, column) float32.
        """
        out = np.empty(frames.shape, np.float32)
        for i, view in enumerate(views):
            for j, row in enumerate(rows):
                chance = np.random.default_rng([self.seed, int(view), int(row)])
                out[i, j] = self._lowered_line(frames[i, j], dark[j], chance)
        return out

    def _lowered_line(
        self, counts: np.ndarray, dark: np.ndarray, chance: np.random.Generator
    ) -> np.ndarray:
        signal = counts.astype(np.float64) - dark
        light = np.maximum(np.nan_to_num(signal), 0)
        if self.how == THINNING:
            kept = chance.binomial(np.rint(light / self.gain).astype(np.int64), self.share)
            return dark + kept * (self.gain / self.share)
        more = self.gain * light * (1 - self.share) / self.share
        return dark + signal + np.sqrt(more) * chance.standard_normal(len(signal))


def measure_dose(scan: Scan, settings: PreprocessingSettings) -> Dose:
    """Find out how many photons the scan's open beam has, and how to make fewer.

    The counts per photon come from the flats: of photons, the variance from frame to frame is
    the mean (photon transfer). A detector that blurs averages over pixels and seems to count
    more photons than it does.

    Raises
    ------
    InputError
        No flats, too few to tell the counts per photon, or more photons asked for than there
        are.
    """
    middle = scan.n_rows // 2
    rows = slice(max(0, middle - ROWS // 2), min(scan.n_rows, middle + ROWS // 2))
    groups = scan.flats(rows)
    if not groups:
        raise InputError(
            f"photons: {scan.path} has no flats, so its open beam is not known; leave photons out."
        )
    darks = scan.darks(rows)
    dark = (
        median_frame(np.concatenate([group.frames for group in darks])) if darks else np.float32(0)
    )
    dark_frames = max((group.frames for group in darks), key=len, default=None)
    flats = max((group.frames for group in groups), key=len)
    signal = float(np.mean(median_frame(flats) - dark))
    if settings.gain == "auto":
        gain = _photon_transfer(flats, dark, dark_frames)
        gain_from = "variance of the flats"
        if gain is None:
            raise InputError(
                f"photons: {scan.path} has {len(flats)} flats at one time, expected {LEAST_FLATS}"
                " that differ, to tell the counts per photon; give it: gain=NUMBER."
            )
    else:
        gain, gain_from = float(settings.gain), "given"
    whole = np.issubdtype(scan.dtype, np.integer)
    dose = Dose(
        float(settings.photons),
        signal / gain,
        gain,
        gain_from,
        THINNING if whole else NOISE,
        settings.noise_seed,
    )
    if not dose.share < 1:
        raise InputError(
            f"photons: {settings.photons:g} asked for, {scan.path} has about {dose.beam:.4g} per"
            " pixel in the open beam; ask for fewer."
        )
    return dose


def _photon_transfer(
    flats: np.ndarray, dark: np.ndarray, dark_frames: np.ndarray | None
) -> float | None:
    if len(flats) < LEAST_FLATS:
        return None
    frames = flats.astype(np.float64) - dark
    means = frames.mean(axis=(1, 2), keepdims=True)
    # The beam's own wavering is no photon noise.
    frames *= means.mean() / means
    variance, mean = frames.var(axis=0, ddof=1), frames.mean(axis=0)
    good = (mean > 0.2 * np.median(mean)) & (variance < 10 * np.median(variance))
    if not good.any():
        return None
    readout = 0.0
    if dark_frames is not None and len(dark_frames) >= LEAST_FLATS:
        readout = float(np.median(dark_frames.astype(np.float64).var(axis=0, ddof=1)))
    gain = (variance[good].mean() - readout) / mean[good].mean()
    return float(gain) if gain > 0 else None
