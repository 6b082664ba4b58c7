"""From line integrals to detector counts: rays, blur, photons, and what goes wrong.

Each detector row draws from the seed and its own number alone.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import convolve1d
from scipy.special import ndtr

from hpc_srct.settings.simulation import FULL_SCALE, NOISELESS, SimulationSettings

_PROFILE, _DETECTOR, _PROJECTIONS, _FLATS, _DARKS = range(10, 15)
_DIMMEST = 0.02


def transmission(integrals: np.ndarray, settings: SimulationSettings) -> np.ndarray:
    """Turn line integrals along rays into the share of the beam that each pixel sees.

    Intensities are what a detector averages, so the exponential comes before the mean over
    rays, before blur and before propagation.

    Parameters
    ----------
    integrals
        (views, columns·samples).
    settings
        samples, detector_blur, phase_contrast.

    Returns
    -------
    ndarray
        (views, columns), float64; edges of phase contrast exceed 1.

    Notes
    -----
    Propagation is the transport-of-intensity equation of one material (Paganin et al. 2002):
    I = (1 − k·∇²) exp(−p), k = distance·δ/μ, here along columns alone, since rows may be
    different objects.
    """
    intensity = np.exp(-integrals)
    if settings.detector_blur:
        kernel = _blur(settings.detector_blur * settings.samples)
        if settings.phase_contrast:
            strength = settings.phase_contrast * settings.samples**2
            kernel = kernel - strength * np.convolve(kernel, (1, -2, 1), mode="same")
        intensity = convolve1d(intensity, kernel, axis=1, mode="nearest")
        np.maximum(intensity, 0, out=intensity)
    views = len(intensity)
    return intensity.reshape(views, -1, settings.samples).mean(axis=2)


def _blur(sigma: float) -> np.ndarray:
    # Two samples beyond the end, so that its second difference sums to zero.
    reach = int(np.ceil(5 * sigma)) + 2
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel[[0, 1, -2, -1]] = 0
    return kernel / kernel.sum()


class Beam:
    """The beam and the detector of one scan.

    Attributes
    ----------
    counts_per_photon : float
        Gain that turns photons into counts.
    clipped : int
        Pixels so far that were too bright for 16 bits; those hit by a zinger do not count.
    """

    def __init__(self, settings: SimulationSettings):
        self._settings = settings
        self.photons = settings.photons or NOISELESS
        room = (FULL_SCALE - settings.dark_current) / 1.5
        automatic = min(1.0, room / self.photons)
        self.counts_per_photon = settings.counts_per_photon or automatic
        self.clipped = 0
        self._profile = self._drawn_profile()

    def _random(self, purpose: int, row: int = 0) -> np.random.Generator:
        return np.random.default_rng([self._settings.seed, purpose, row])

    def _drawn_profile(self) -> np.ndarray:
        """Draw the intensity along columns, mean 1: a dome with a few slow waves."""
        random = self._random(_PROFILE)
        u = np.linspace(-1, 1, self._settings.size)
        strength = self._settings.beam_profile
        profile = 1 - strength * (u - random.uniform(-0.3, 0.3)) ** 2
        for waves in range(1, 5):
            phase = random.uniform(0, 2 * np.pi)
            profile += 0.1 * strength / waves * np.cos(np.pi * waves * u + phase)
        # A steep one would fall below zero at its sides.
        profile = np.maximum(profile, _DIMMEST)
        return profile / profile.mean()

    def frames(self, row: int, transmitted: np.ndarray) -> np.ndarray:
        """Expose the projections of a row.

        Parameters
        ----------
        row
            Detector row.
        transmitted
            (views, columns) share of the beam.

        Returns
        -------
        ndarray
            (views, columns) uint16 counts.
        """
        settings = self._settings
        random = self._random(_PROJECTIONS, row)
        expected = transmitted * self._open_beam(row)
        if settings.rings:
            expected *= self._ring_errors(random, transmitted.shape)
        np.maximum(expected, 0, out=expected)
        counts = self._exposed(random, expected)
        if settings.zingers:
            hits = np.nonzero(random.random(counts.shape) < settings.zingers)
            full = self.photons * self.counts_per_photon
            counts[hits] += random.exponential(full, len(hits[0]))
        return _digitised(counts)

    def flats(self, row: int) -> np.ndarray:
        """Expose the flats of a row: (flats, columns) uint16."""
        expected = np.tile(self._open_beam(row), (self._settings.flats, 1))
        return _digitised(self._exposed(self._random(_FLATS, row), expected))

    def darks(self, row: int) -> np.ndarray:
        """Read the darks of a row: (darks, columns) uint16."""
        expected = np.zeros((self._settings.darks, self._settings.size))
        return _digitised(self._exposed(self._random(_DARKS, row), expected))

    def _open_beam(self, row: int) -> np.ndarray:
        """Photons that each pixel of a row detects without object, its own gain included."""
        spread = self._settings.pixel_gain
        gain = self._random(_DETECTOR, row).normal(1, spread, self._settings.size)
        return self.photons * self._profile * np.clip(gain, 1 - 4 * spread, 1 + 4 * spread)

    def _ring_errors(self, random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        """Draw gains that flats do not know: fixed for most part, drifting over the scan."""
        views, columns = shape
        fixed, drift = random.normal(0, self._settings.rings, (2, columns))
        time = np.linspace(-1, 1, views)[:, None]
        return 1 + fixed + 0.5 * drift * time

    def _exposed(self, random: np.random.Generator, expected: np.ndarray) -> np.ndarray:
        settings = self._settings
        noisy = settings.photons is not None
        photons = random.poisson(expected) if noisy else expected
        if noisy and settings.noise_blur:
            # The light of a photon spreads, and with it the noise; `expected` is blurred already.
            edges = np.arange(-4.5, 5) / settings.noise_blur
            spread = np.diff(ndtr(edges))
            photons = expected + convolve1d(photons - expected, spread, axis=1, mode="nearest")
        counts = photons * self.counts_per_photon + settings.dark_current
        if noisy and settings.read_noise:
            counts += random.normal(0, settings.read_noise, counts.shape)
        self.clipped += int(np.count_nonzero(counts >= FULL_SCALE + 0.5))
        return counts


def _digitised(counts: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(counts), 0, FULL_SCALE).astype(np.uint16)
