"""Total variation: reconstruction from the sinogram, and denoising of a slice."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray
from skimage.restoration import denoise_tv_chambolle

from hpc_srct.errors import InputError
from hpc_srct.tomography.filters import transfer
from hpc_srct.tomography.projector import Projector


def tv_denoise(images: NDArray, weight: float, iterations: int = 200) -> NDArray[np.float32]:
    """Denoise slices by total variation (Chambolle 2004; scikit-image's).

    Parameters
    ----------
    images
        (y, x) or (slice, y, x).
    weight
        In the images' own units: the larger, the flatter.
    iterations
        At most so many.
    """
    images = np.asarray(images, np.float32)
    if images.ndim == 3:
        return np.stack([tv_denoise(image, weight, iterations) for image in images])
    if weight <= 0:
        return images.copy()
    return denoise_tv_chambolle(images, weight, eps=1e-5, max_num_iter=iterations)


def gradient(images: NDArray) -> NDArray[np.float32]:
    """Forward differences (2, slice, y, x), 0 beyond the last row and column."""
    out = np.zeros((2, *images.shape), np.float32)
    np.subtract(images[:, 1:], images[:, :-1], out=out[0, :, :-1])
    np.subtract(images[:, :, 1:], images[:, :, :-1], out=out[1, :, :, :-1])
    return out


def divergence(field: NDArray) -> NDArray[np.float32]:
    """Minus the transpose of `gradient`."""
    down, right = field
    out = np.zeros_like(down)
    out[:, :-1] += down[:, :-1]
    out[:, 1:] -= down[:, :-1]
    out[:, :, :-1] += right[:, :, :-1]
    out[:, :, 1:] -= right[:, :, :-1]
    return out


def tv_reconstruct(
    projector: Projector,
    sinograms: NDArray,
    weight: float,
    iterations: int = 100,
    non_negative: bool = True,
    start: ArrayLike | None = None,
) -> NDArray[np.float32]:
    """Reconstruct slices as the minimum of ½ ‖A x − y‖²_W + weight · TV(x).

    The algorithm of Condat (2013) and Vũ (2013), on the projector. W weighs each view by its
    arc and its frequencies by the ramp, up to where the views lie a Fourier pixel apart, and
    evenly above: AᵀWA is then close to the identity on all that the views see, so that few
    steps do and `weight` is in the slice's units whatever the number of views.

    Parameters
    ----------
    projector
        The geometry of the views that there are.
    sinograms
        (view, column) or (slice, view, column), line integrals.
    weight
        Strength of the regularisation, attenuation per pixel: of the order of the noise that
        it is to remove.
    iterations
        Number of steps, each one forward and one back-projection.
    non_negative
        Keep attenuation at 0 or above.
    start
        Slices to start from; default: the FBP with a Hann window.

    Returns
    -------
    ndarray (size, size) or (slice, size, size), float32
        Attenuation per pixel.

    Raises
    ------
    InputError
        A negative weight, or no iterations.
    """
    if weight < 0 or iterations < 1:
        raise InputError(
            f"tv_reconstruct: expected weight >= 0 and iterations >= 1, "
            f"found {weight} and {iterations}."
        )
    if sinograms.ndim == 2:
        start = None if start is None else np.asarray(start)[None]
        found = tv_reconstruct(projector, sinograms[None], weight, iterations, non_negative, start)
        return found[0]
    sinograms = np.asarray(sinograms, np.float32)
    weigh = _Weighting(projector)
    x = projector.fbp(sinograms, "hann") if start is None else np.array(start, np.float32)
    lipschitz = _largest_eigenvalue(projector, weigh)
    step = 1 / lipschitz
    # 1/step − 8·dual_step ≥ lipschitz/2, 8 being the norm of the gradient squared.
    dual_step = np.float32(lipschitz / 16)
    dual = np.zeros((2, *x.shape), np.float32)
    for _ in range(iterations):
        slope = projector.adjoint(weigh(projector.forward(x) - sinograms)) - divergence(dual)
        new = x - np.float32(step) * slope
        if non_negative:
            np.maximum(new, 0, out=new)
        dual += dual_step * gradient(2 * new - x)
        length = np.sqrt(dual[0] ** 2 + dual[1] ** 2)
        dual *= np.float32(weight) / np.maximum(length, max(weight, 1e-30))
        x = new
    return x


class _Weighting:
    """W: symmetric and positive on sinograms, the views' arcs times a levelled ramp."""

    def __init__(self, projector: Projector):
        columns, views = projector.columns, len(projector.angles)
        self._length = scipy.fft.next_fast_len(2 * columns, real=True)
        ramp = transfer("ramp", self._length)[: self._length // 2 + 1]
        # Above this frequency (cycles per pixel) neighbouring views are more than one Fourier
        # pixel of the slice apart.
        dense = views / (np.pi * projector.size)
        self._gains = np.minimum(ramp, dense).astype(np.float32)
        self._arcs = projector.weights.astype(np.float32)[:, None]

    def __call__(self, sinograms: NDArray[np.float32]) -> NDArray[np.float32]:
        spectra = scipy.fft.rfft(sinograms, self._length, axis=-1)
        spectra *= self._gains
        filtered = scipy.fft.irfft(spectra, self._length, axis=-1)
        return filtered[..., : sinograms.shape[-1]] * self._arcs


def _largest_eigenvalue(projector: Projector, weigh: _Weighting, steps: int = 12) -> float:
    """Bound the norm of AᵀWA by power iteration from a fixed start."""
    size = projector.size
    x = np.random.default_rng(0).standard_normal((1, size, size)).astype(np.float32)
    value = 1.0
    for _ in range(steps):
        x = projector.adjoint(weigh(projector.forward(x / np.linalg.norm(x))))
        value = float(np.linalg.norm(x))
    # Power iteration comes from below; a step that is too long would diverge.
    return 1.1 * value
