"""The UNet with residual blocks and attention on its skips."""

from __future__ import annotations

from hpc_srct.models.layers import AttentionGate, ResidualDoubleConv
from hpc_srct.models.skeleton import Skeleton


class ResAttUNet(Skeleton):
    """ResAttUnet: the UNet's skeleton, residual double convolutions, a gate on every skip.

    The gate (Oktay et al. 2018) compares the encoder map with the decoder map brought up to
    its size. Predicts the error of the FBP (global residual). The talk that this project
    implements names residual blocks and attention but not their widths and places: this is
    our reading of it.

    Parameters: 8,201,849 at width 32, depth 4, one channel (2,053,185 at width 16).
    """

    def __init__(self, width: int = 32, depth: int = 4, channels: int = 1):
        super().__init__(width, depth, channels, block=ResidualDoubleConv, gate=AttentionGate)
