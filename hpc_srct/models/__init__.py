"""The networks: (B, channels, H, W) normalised low-dose slices in, (B, 1, H, W) corrected out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc_srct.errors import InputError

if TYPE_CHECKING:
    from hpc_srct.models.skeleton import Skeleton

NAMES = ("unet", "resattunet")


def build(name: str, width: int = 32, depth: int = 4, channels: int = 1) -> Skeleton:
    """Make a new network; it gives its input back until it is trained.

    Parameters
    ----------
    name
        One of `NAMES`.
    width
        Channels at full resolution.
    depth
        Number of halvings.
    channels
        Channels of the input (odd: the middle one is corrected).

    Raises
    ------
    InputError
        An unknown name (the known ones are listed), or a size that makes no network.
    """
    # Imported here so that NAMES can be read where torch is not installed.
    from hpc_srct.models.resattunet import ResAttUNet
    from hpc_srct.models.unet import UNet

    kinds = {"unet": UNet, "resattunet": ResAttUNet}
    if name not in kinds:
        raise InputError(f"model '{name}': unknown; known: {', '.join(NAMES)}.")
    for key, value in (("width", width), ("depth", depth), ("channels", channels)):
        if value < 1:
            raise InputError(f"model '{name}': {key} must be at least 1; found {value}.")
    if channels % 2 == 0:
        raise InputError(
            f"model '{name}': channels must be odd (the middle one is corrected); found {channels}."
        )
    return kinds[name](width, depth, channels)


__all__ = ["NAMES", "build"]
