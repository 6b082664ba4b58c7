"""The baseline network."""

from __future__ import annotations

from hpc_srct.models.layers import DoubleConv
from hpc_srct.models.skeleton import Skeleton


class UNet(Skeleton):
    """UNet: double convolutions, plain skips (Ronneberger et al. 2015; Jin et al. 2017 for CT).

    Predicts the error of the FBP (global residual). The talk that this project implements
    does not give its widths; 32 with four halvings is our reading.

    Parameters: 7,762,465 at width 32, depth 4, one channel (1,942,289 at width 16).
    """

    def __init__(self, width: int = 32, depth: int = 4, channels: int = 1):
        super().__init__(width, depth, channels, block=DoubleConv)
