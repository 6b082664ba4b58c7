"""Validation: the network on whole slices, judged by its loss and by PSNR.

PSNR follows the convention of the tables: inside a disc of 0.97 of the field of view's radius,
the data range being maximum minus minimum of each label inside it; per slice, then averaged.
It does not depend on the normalisation. A label without a range (a slice of air) has no PSNR and is
left out of that mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hpc_srct.errors import SrctError
from hpc_srct.slices.tiles import inference_tiles
from hpc_srct.training.data import PairedSlices
from hpc_srct.training.losses import Loss
from hpc_srct.training.memory import ordered

MASK_SHARE = 0.97


@dataclass(frozen=True)
class Score:
    """Means over the validation slices.

    Attributes
    ----------
    loss
        Over all of them.
    psnr
        In dB, over those whose label has a range; None where none has.
    flat
        Slices whose label has none.
    """

    loss: float
    psnr: float | None
    flat: int = 0


def psnr(image: np.ndarray, label: np.ndarray, field_of_view: float | None) -> float | None:
    """PSNR of one slice (y, x) in dB; `field_of_view` is a radius in pixels.

    None where the label is constant inside the disc.
    """
    y, x = (np.arange(n) - (n - 1) / 2 for n in label.shape)
    radius = MASK_SHARE * (field_of_view or min(label.shape) / 2)
    inside = y[:, None] ** 2 + x[None, :] ** 2 <= radius**2
    span = float(label[inside].max() - label[inside].min())
    if span == 0:
        return None
    error = float(np.mean((image[inside].astype(np.float64) - label[inside]) ** 2))
    with np.errstate(divide="ignore"):
        return float(20 * np.log10(span) - 10 * np.log10(error))


def infer(
    module: nn.Module, image: Tensor, tile: int, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    """Run a network in evaluation mode over one slice, in tiles where it is larger than `tile`.

    Parameters
    ----------
    image
        (y, x), normalised, on the network's device.

    Returns
    -------
    Tensor
        (y, x) fp32.
    """
    stride, reach = getattr(module, "stride", 1), getattr(module, "reach", 0)
    halo = -(-reach // stride) * stride
    result = torch.empty_like(image, dtype=torch.float32)
    for piece in inference_tiles(tuple(image.shape), max(tile, 2 * halo + stride), stride, reach):
        part = ordered(image[piece.read][None, None].to(dtype), channels_last)
        result[piece.keep] = module(part)[0, 0][piece.inside].float()
    return result


def validate(
    module: nn.Module,
    slices: PairedSlices,
    loss: Loss,
    tile: int,
    channels_last: bool,
    reduce: Callable[[list[float]], list[float]],
    share: tuple[int, int] = (0, 1),
    interrupted: Callable[[bool], bool] = bool,
) -> Score | None:
    """Judge the network on every slice.

    Parameters
    ----------
    reduce
        Adds numbers over ranks.
    share
        (rank, ranks): each takes every so many-th slice.
    interrupted
        Asked by all ranks together before each slice, each saying whether it could not read its
        last one; True ends it without a score, for all of them.

    Returns
    -------
    Score or None
        None where it was interrupted, or another rank could not read its data.

    Raises
    ------
    SrctError
        This rank could not; the others have ended too.
    """
    rank, ranks = share
    p = next(module.parameters())
    # Loss, slices; PSNR, slices that have one; ranks that failed.
    sums = np.zeros(5)
    failure: SrctError | None = None
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for first in range(0, len(slices.pairs), ranks):
                if interrupted(failure is not None):
                    break
                if first + rank < len(slices.pairs):
                    pair = slices.pairs[first + rank]
                    try:
                        both = slices.read(pair)
                    except SrctError as error:
                        failure = error
                        continue
                    image, label = torch.from_numpy(both).to(p.device)
                    result = infer(module, image, tile, p.dtype, channels_last)
                    view = slices.stores[pair.store].field_of_view
                    quality = psnr(result.cpu().numpy(), label.cpu().numpy(), view)
                    sums[:2] += float(loss(result, label)), 1
                    sums[2:4] += (0, 0) if quality is None else (quality, 1)
            else:
                sums[4] = failure is not None
                total_loss, count, total_psnr, ranged, failed = reduce(sums.tolist())
                if not failed:
                    mean = total_psnr / ranged if ranged else None
                    return Score(total_loss / count, mean, int(count - ranged))
    finally:
        module.train(was_training)
    if failure is not None:
        raise failure
    return None
