"""The pieces of the networks: batch norm that stays in fp32, convolution blocks, attention gate.

All maps are (batch, channels, height, width).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hpc_srct.models.convolution import Conv2d

_thread = threading.local()


@contextlib.contextmanager
def _statistics_held() -> Iterator[None]:
    _thread.statistics_held = True
    try:
        yield
    finally:
        _thread.statistics_held = False


def checkpointed(block: nn.Module, *maps: Tensor) -> Tensor:
    """Run a block, keep only its inputs, and run it again when its gradient is wanted.

    The second run leaves the running statistics of batch norm alone, so that training with
    and without checkpointing gives the same network.
    """
    if torch.compiler.is_compiling():
        # The compiler takes the updates of the statistics out of what is run again.
        return checkpoint(block, *maps, use_reentrant=False)
    return checkpoint(
        block,
        *maps,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _statistics_held()),
    )


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that computes in fp32 and keeps fp32 statistics, whatever its parameters are.

    Half-precision maps go through torch's mixed kernel: halves in and out, arithmetic and
    parameters in fp32. Casting the module (``.half()``, DeepSpeed's fp16) casts weight and
    bias, whose fp32 masters live in the optimizer, but never the running statistics.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a map; the result has its dtype."""
        weight, bias = self.weight.float(), self.bias.float()
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, weight, bias, False, 0.0, self.eps
            )
        mean, variance = self.running_mean, self.running_var
        if getattr(_thread, "statistics_held", False):
            # Copies, not None: the second run must save as many tensors as the first.
            mean, variance = mean.clone(), variance.clone()
        else:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(x, mean, variance, weight, bias, True, self.momentum, self.eps)

    def _apply(self, fn, recurse: bool = True) -> BatchNorm2d:
        mean, variance = self.running_mean, self.running_var
        super()._apply(fn, recurse)
        if self.running_mean.dtype != torch.float32:
            self.running_mean = mean.to(self.running_mean.device)
            self.running_var = variance.to(self.running_var.device)
        return self


def conv_bn(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolve (same size, no bias: the norm has one), then normalise."""
    return nn.Sequential(
        Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), BatchNorm2d(outputs)
    )


class DoubleConv(nn.Module):
    """Twice 3×3 convolution, batch norm, ReLU (Ronneberger et al. 2015, with padding and norm)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3)
        self.second = conv_bn(outputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        return F.relu_(self.second(F.relu_(self.first(x))))


class ResidualDoubleConv(nn.Module):
    """The double convolution added to its input, ReLU after the sum (He et al. 2016).

    Where the widths differ the input goes through a 1×1 convolution with batch norm.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3)
        self.second = conv_bn(outputs, outputs, 3)
        self.projection = conv_bn(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        return F.relu_(self.second(F.relu_(self.first(x))) + self.projection(x))


class AttentionGate(nn.Module):
    """Weigh an encoder map by where the decoder looks (Oktay et al. 2018).

    With x the encoder map and g the decoder map of the same size: q = ψ(ReLU(W_x x + W_g g + b)),
    α = sigmoid(q), result α·x. W_x, W_g and ψ are 1×1 convolutions with batch norm (b is the
    norm's bias); the inner width is half of x's, and α is one map for all channels.
    """

    def __init__(self, encoder: int, decoder: int):
        super().__init__()
        inner = max(encoder // 2, 1)
        self.of_encoder = conv_bn(encoder, inner, 1)
        self.of_decoder = conv_bn(decoder, inner, 1)
        self.to_weight = conv_bn(inner, 1, 1)

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """(B, encoder, H, W) weighed by (B, decoder, H, W)."""
        return x * torch.sigmoid(self.to_weight(F.relu_(self.of_encoder(x) + self.of_decoder(g))))


def initialise(module: nn.Module) -> None:
    """Draw convolution weights after He et al. (2015): variance 2 / fan-in, biases zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.ConvTranspose2d):
            # Stride equals kernel: each output pixel has one tap per input channel.
            nn.init.normal_(layer.weight, std=(1.0 / layer.in_channels) ** 0.5)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
