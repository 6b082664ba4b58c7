"""The encoder and decoder that both networks share; they differ in blocks and skips."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpc_srct.models.convolution import Conv2d, ConvTranspose2d
from hpc_srct.models.layers import checkpointed, initialise


def reach(depth: int, radius: int = 2) -> int:
    """Find how far, in pixels, an output pixel of the skeleton can look.

    Parameters
    ----------
    depth
        Number of halvings.
    radius
        How far one block looks on its own grid: 2 for two 3×3 convolutions.

    Returns
    -------
    int
        Greatest distance along one axis between an output pixel and an input pixel that it
        depends on, over all positions of the pixel on the grid of 2**depth.

    Notes
    -----
    The interval that a pixel depends on is followed down the decoder (each block widens it by
    `radius`; a pixel of level l lies in pixel i // 2 of level l + 1) and up the encoder again
    (a pixel of level l + 1 is pooled from pixels 2 i and 2 i + 1). Skips look less far.
    """
    farthest = 0
    for pixel in range(2**depth):
        low = high = pixel
        for _ in range(depth):
            low, high = (low - radius) // 2, (high + radius) // 2
        low, high = low - radius, high + radius
        for _ in range(depth):
            low, high = 2 * low - radius, 2 * high + 1 + radius
        farthest = max(farthest, pixel - low, high - pixel)
    return farthest


class Skeleton(nn.Module):
    """U-shaped network that predicts the error of its input.

    Parameters
    ----------
    width
        Channels at full resolution; doubled at each halving.
    depth
        Number of halvings (2×2 max pooling) and of doublings (2×2 transposed convolution).
    channels
        Channels of the input. The output is the middle one, corrected.
    block
        Makes a block from its numbers of input and output channels.
    gate
        Makes what is done to the skip, from the channels of encoder and decoder map, or None.

    Attributes
    ----------
    stride : int
        Grid on which tiles must begin so that pooling falls on the same pixels: 2**depth.
    reach : int
        No output pixel depends on an input pixel farther than this along either axis.
    checkpointing : bool
        Trade time for memory in training: keep only the inputs of each block. False at first.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        channels: int,
        block: Callable[[int, int], nn.Module],
        gate: Callable[[int, int], nn.Module] | None = None,
    ):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.width, self.depth, self.channels = width, depth, channels
        self.stride, self.reach = 2**depth, reach(depth)
        self.checkpointing = False
        self.encoder = nn.ModuleList(
            block(inputs, outputs)
            for inputs, outputs in zip([channels, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(
            ConvTranspose2d(2 * w, w, kernel_size=2, stride=2) for w in widths[:-1]
        )
        self.gate = nn.ModuleList(gate(w, w) for w in widths[:-1]) if gate else None
        self.decoder = nn.ModuleList(block(2 * w, w) for w in widths[:-1])
        self.last = Conv2d(width, 1, kernel_size=1)
        initialise(self)
        # A new network is the identity: training starts from the FBP, not from noise.
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Correct slices of any height and width.

        Parameters
        ----------
        x
            (B, channels, H, W), normalised.

        Returns
        -------
        Tensor
            (B, 1, H, W): the middle channel plus the predicted error.
        """
        height, width = x.shape[-2:]
        # Only the far ends are padded, with the border's values: a tile that begins on the
        # stride grid and touches the border is padded exactly as the whole slice is.
        padding = (0, -width % self.stride, 0, -height % self.stride)
        padded = F.pad(x, padding, mode="replicate") if any(padding) else x
        # A network in half precision predicts the error in it; an fp32 slice keeps its digits.
        error = self.error(padded.to(self.last.weight.dtype))[..., :height, :width]
        middle = self.channels // 2
        return x[:, middle : middle + 1] + error

    def error(self, x: Tensor) -> Tensor:
        """Predict the error of maps whose height and width are multiples of the stride."""
        skips = []
        for level, block in enumerate(self.encoder):
            x = self._run(block, F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        x = skips.pop()
        for level in reversed(range(self.depth)):
            x, skip = self.up[level](x), skips.pop()
            if self.gate is not None:
                skip = self._run(self.gate[level], skip, x)
            x = self._run(self.decoder[level], torch.cat((skip, x), dim=1))
        return self.last(x)

    def _run(self, block: nn.Module, *maps: Tensor) -> Tensor:
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpointed(block, *maps)
        return block(*maps)
