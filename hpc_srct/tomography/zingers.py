"""Zingers: single views' bright specks, where a stray photon hit the camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpc_srct.errors import InputError
from hpc_srct.tomography.median import median_of


def remove_zingers(
    images: NDArray, threshold: float = 0.08, size: int = 2
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Replace specks that are brighter than what stands round them.

    A pixel is compared with eight pixels at a distance of `size`, as Vo et al. do (Opt. Express
    29, 17849, 2021), but with their median, which a second speck or a dead pixel among them
    does not move, and with the edges mirrored.

    Parameters
    ----------
    images
        (y, x) or (image, y, x), counts or transmission, not logarithms: whole frames, or
        sinograms (view, column), where a row's answer depends on no other row.
    threshold
        How much brighter than its surroundings, as a share of them; 0.05 to 0.1 is usual.
    size
        Width of the largest speck, pixels.

    Returns
    -------
    cleaned : ndarray, float32
        As the input.
    replaced : ndarray (image,), int64
        How many pixels of each image were replaced.

    Raises
    ------
    InputError
        A threshold or a size that is not above 0.
    """
    if not (threshold > 0 and size >= 1):
        raise InputError(
            f"zingers: expected threshold > 0 and size >= 1, found {threshold} and {size}."
        )
    images = np.asarray(images)
    if images.ndim == 2:
        cleaned, replaced = remove_zingers(images[None], threshold, size)
        return cleaned[0], replaced
    out = images.astype(np.float32)
    replaced = np.zeros(len(out), np.int64)
    for i, image in enumerate(out):
        around = _median_around(image, size)
        speck = image > (1 + threshold) * np.maximum(around, 0)
        # Where there is no light at all there is nothing to compare with.
        speck &= around > 0
        replaced[i] = np.count_nonzero(speck)
        np.copyto(image, around, where=speck)
    return out, replaced


def _median_around(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    height, width = image.shape
    if min(height, width) <= size:
        raise InputError(f"zingers: expected images above {size} pixels, found {image.shape}.")
    padded = np.pad(image, size, mode="reflect")
    around = np.empty_like(image)
    # In strips that stay in the cache.
    step = max(1, 20_000 // width)
    for top in range(0, height, step):
        bottom = min(height, top + step)
        around[top:bottom] = median_of(
            [
                padded[top + down : bottom + down, right : right + width]
                for down in (0, size, 2 * size)
                for right in (0, size, 2 * size)
                if (down, right) != (size, size)
            ]
        )
    return around
