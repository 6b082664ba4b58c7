"""Single-distance phase retrieval for a sample of one material (Paganin et al. 2002)."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hpc_srct.errors import InputError

# h c, in keV metres.
_ENERGY_TIMES_WAVELENGTH = 1.239841984e-9


def wavelength(energy_kev: float) -> float:
    """Give the wavelength (metres) of photons of an energy (keV)."""
    return _ENERGY_TIMES_WAVELENGTH / energy_kev


class Paganin:
    """Phase retrieval of frames of one shape.

    D. Paganin et al., "Simultaneous phase and amplitude extraction from a single defocused
    image of a homogeneous object", J. Microscopy 206, 33 (2002). In Fourier space the
    transmission is divided by 1 + π λ z (δ/β) f², f being the spatial frequency; −log of the
    result is the line integral of attenuation, sharp edges' fringes gone and noise with them.

    Parameters
    ----------
    shape
        (rows, columns) of a whole frame: the filter reaches across rows, so that rows cannot
        be treated apart.
    energy_kev
        Photon energy, keV.
    distance_m
        From the sample to the detector, metres.
    pixel_size_m
        Of the detector, referred to the sample, metres.
    delta_beta
        δ/β of the material: the ratio of refraction to absorption; some hundreds.
    padding
        Pixels repeated from the edges round the frame; default: what the filter reaches.

    Raises
    ------
    InputError
        A value that is not above 0.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        energy_kev: float,
        distance_m: float,
        pixel_size_m: float,
        delta_beta: float,
        padding: int | None = None,
    ):
        values = {
            "energy (keV)": energy_kev,
            "distance (m)": distance_m,
            "pixel size (m)": pixel_size_m,
            "delta/beta": delta_beta,
        }
        for name, value in values.items():
            if not value > 0:
                raise InputError(f"phase retrieval: {name}: expected above 0, found {value}.")
        self.shape = shape
        area = np.pi * wavelength(energy_kev) * distance_m * delta_beta / pixel_size_m**2
        # In space the filter falls off as exp(−r / reach).
        self.reach = float(np.sqrt(area) / (2 * np.pi))
        if padding is None:
            padding = min(int(np.ceil(5 * self.reach)) + 2, max(shape))
        self.padding = int(padding)
        padded = [scipy.fft.next_fast_len(n + 2 * self.padding, real=True) for n in shape]
        self._extra = [
            (self.padding, p - n - self.padding) for n, p in zip(shape, padded, strict=True)
        ]
        f_row = np.fft.fftfreq(padded[0])[:, None]
        f_column = np.fft.rfftfreq(padded[1])
        self._gains = (1 / (1 + area * (f_row**2 + f_column**2))).astype(np.float32)
        self._padded = padded

    def __call__(self, transmission: NDArray) -> NDArray[np.float32]:
        """Filter one frame or several, (rows, columns) or (views, rows, columns).

        Returns
        -------
        ndarray, float32
            Transmission as absorption alone would have made it. A row with a NaN or an infinity
            comes back as NaN; for the others the nearest sound row stands in its place.
        """
        transmission = np.asarray(transmission, np.float32)
        if transmission.shape[-2:] != tuple(self.shape) or transmission.ndim not in (2, 3):
            raise InputError(
                f"phase retrieval: expected frames of {self.shape}, found {transmission.shape}."
            )
        if transmission.ndim == 3:
            return np.stack([self(frame) for frame in transmission])
        sound = np.flatnonzero(np.isfinite(transmission.sum(axis=1, dtype=np.float64)))
        if len(sound) == 0:
            return np.full_like(transmission, np.nan)
        if len(sound) < len(transmission):
            every = np.arange(len(transmission))
            nearest = sound[np.argmin(np.abs(every[:, None] - sound), axis=1)]
            filtered = self(transmission[nearest])
            filtered[nearest != every] = np.nan
            return filtered
        spectrum = scipy.fft.rfft2(np.pad(transmission, self._extra, mode="edge"))
        spectrum *= self._gains
        filtered = scipy.fft.irfft2(spectrum, self._padded)
        rows, columns = self.shape
        first = self.padding
        return filtered[first : first + rows, first : first + columns].astype(np.float32)
