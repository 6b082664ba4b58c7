"""PSNR and SSIM of reconstructed slices, and the convention that they follow.

On one published slice the convention alone (data range, mask) moves PSNR by 0.76 dB, so it is
written once here and printed under every table.

References
----------
Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
structural similarity", IEEE Transactions on Image Processing 13 (2004) 600-612.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from skimage.metrics import structural_similarity

from hpc_srct.errors import InputError

MASK_SHARE = 0.97
REFERENCES = {
    "truth": "the truth of the simulation",
    "full": "the FBP of all views, which has noise of its own",
}


@dataclass(frozen=True)
class Scores:
    """How near one slice is to its reference: PSNR in dB, SSIM in -1..1."""

    psnr: float
    ssim: float


def convention(reference: str | None = None) -> str:
    """Say in one sentence how the figures are made, and against which `reference`."""
    against = f" against {REFERENCES.get(reference, reference)}" if reference else ""
    return (
        f"PSNR and SSIM{against}: per slice, then averaged; inside a disc of {MASK_SHARE} of the"
        " field of view; data range = maximum - minimum of each reference slice inside that disc;"
        " SSIM is scikit-image's (7 x 7 uniform window), its map averaged inside the disc."
    )


def disc(shape: tuple[int, int], radius: float) -> np.ndarray:
    """Mark the pixels within `radius` (pixels) of the middle of an image of `shape` (y, x)."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    return y[:, None] ** 2 + x[None, :] ** 2 <= radius**2


def evaluation_mask(shape: tuple[int, int], field_of_view: float) -> np.ndarray:
    """Mark the pixels that count: a disc of 0.97 of the field of view's radius (pixels)."""
    return disc(shape, MASK_SHARE * field_of_view)


def data_range(reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Give maximum minus minimum of the reference inside the mask."""
    values = reference if mask is None else reference[mask]
    return float(values.max() - values.min())


def psnr(
    image: np.ndarray,
    reference: np.ndarray,
    mask: np.ndarray | None = None,
    value_range: float | None = None,
) -> float:
    """Peak signal-to-noise ratio, 20 log10(range / RMSE), in dB.

    Parameters
    ----------
    image, reference
        Slices (y, x).
    mask
        Pixels that count, (y, x) bool; all of them by default.
    value_range
        The peak; maximum minus minimum of the reference inside the mask by default.

    Returns
    -------
    float
        ``inf`` for equal slices; NaN where either slice has a NaN among the pixels that count.

    Raises
    ------
    InputError
        The shapes differ, no pixel counts, or the reference is constant.
    """
    image, reference, mask, value_range = _checked(image, reference, mask, value_range)
    mean_square = np.mean((image[mask] - reference[mask]) ** 2)
    if mean_square == 0:
        return float("inf")
    return float(20 * np.log10(value_range) - 10 * np.log10(mean_square))


def ssim(
    image: np.ndarray,
    reference: np.ndarray,
    mask: np.ndarray | None = None,
    value_range: float | None = None,
) -> float:
    """Structural similarity: scikit-image's map, averaged inside the mask.

    Parameters, result and errors are those of `psnr`; equal slices give 1.
    """
    image, reference, mask, value_range = _checked(image, reference, mask, value_range)
    if min(image.shape) < 7:
        raise InputError(f"SSIM needs slices of at least 7 x 7 pixels; found {image.shape}.")
    if not (np.isfinite(image[mask]).all() and np.isfinite(reference[mask]).all()):
        return float("nan")
    # The filter behind the map is recursive: one NaN outside the mask would run along its row.
    image, reference = (np.where(np.isfinite(a), a, 0) for a in (image, reference))
    _, similarity = structural_similarity(reference, image, data_range=value_range, full=True)
    return float(similarity[mask].mean())


def score(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> Scores:
    """Take PSNR and SSIM of one slice (y, x)."""
    return Scores(psnr(image, reference, mask), ssim(image, reference, mask))


def mean_scores(scores: Iterable[Scores]) -> tuple[Scores, int]:
    """Average over slices, leaving out those with NaN.

    Returns
    -------
    tuple
        The means (NaN where no slice is left) and the number of slices left out.
    """
    scores = list(scores)
    whole = [s for s in scores if not (np.isnan(s.psnr) or np.isnan(s.ssim))]
    if not whole:
        return Scores(float("nan"), float("nan")), len(scores)
    mean = Scores(
        float(np.mean([s.psnr for s in whole])),
        float(np.mean([s.ssim for s in whole])),
    )
    return mean, len(scores) - len(whole)


def _checked(
    image: np.ndarray,
    reference: np.ndarray,
    mask: np.ndarray | None,
    value_range: float | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    image, reference = (np.asarray(a, dtype=np.float64) for a in (image, reference))
    if image.ndim != 2 or image.shape != reference.shape:
        raise InputError(
            f"Expected two slices (y, x) of one shape; found {image.shape} and {reference.shape}."
        )
    mask = np.ones(image.shape, bool) if mask is None else np.asarray(mask, bool)
    if mask.shape != image.shape or not mask.any():
        raise InputError(
            f"Expected a mask of shape {image.shape} with pixels that count;"
            f" found {mask.shape} with {int(mask.sum())}."
        )
    if value_range is None:
        value_range = data_range(reference, mask)
    if value_range <= 0:
        raise InputError(
            f"The reference slice is constant ({reference[mask][0]:g}) inside the mask:"
            " PSNR and SSIM have no data range."
        )
    return image, reference, mask, value_range
