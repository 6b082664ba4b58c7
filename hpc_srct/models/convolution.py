"""Convolutions whose half-precision arithmetic is fast, and the same, on any CPU.

A tensor core multiplies halves, adds up in fp32 and rounds the sum to a half. A CPU without
such units falls back to loops: a training step then takes 19 to 25 times as long as in fp32
(benchmarks/half_precision.py, AVX2). Here it computes in fp32 on the half-precision values and
rounds the result: a tensor core's rounding, within an eighth of fp32's time. What is kept for the
gradient stays in halves.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

_BF16_UNITS = ("avx512_bf16", "amx_tile")


@functools.cache
def cpu_has_fp16() -> bool:
    """Say whether this CPU's convolutions run in fp16."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    except (AttributeError, RuntimeError):  # a torch built without oneDNN
        return False


@functools.cache
def cpu_has_bf16() -> bool:
    """Say whether this CPU multiplies in bf16."""
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in _BF16_UNITS)
    return any(answer() for answer in asked if answer is not None)


def emulated(x: Tensor) -> bool:
    """Say whether a map's convolutions are computed in fp32 and rounded."""
    return x.device.type == "cpu" and cpu_lacks(x.dtype)


def cpu_lacks(dtype: torch.dtype) -> bool:
    """Say whether `dtype` is a half precision that this CPU has no arithmetic for.

    Depends on nothing else: `torch.compile` is told to take its answer for a constant.
    """
    if dtype == torch.float16:
        return not cpu_has_fp16()
    return dtype == torch.bfloat16 and not cpu_has_bf16()


class _RoundedConvolution(torch.autograd.Function):
    """Half-precision values in and out, fp32 between; so too both gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: tuple[Any, ...]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how, ctx.bias_sizes = how, None if bias is None else list(bias.shape)
        bias = None if bias is None else bias.float()
        return torch.convolution(x.float(), weight.float(), bias, *how).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        gradients = torch.ops.aten.convolution_backward(
            gradient.float(), x.float(), weight.float(), ctx.bias_sizes, *ctx.how, wanted
        )
        of_x, of_weight, of_bias = (
            part.to(x.dtype) if wish else None for part, wish in zip(gradients, wanted, strict=True)
        )
        return of_x, of_weight, of_bias, None


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with zero padding, fast in half precision on any CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        if not emulated(x):
            return super().forward(x)
        how = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups)
        return _RoundedConvolution.apply(x, self.weight, self.bias, how)


class ConvTranspose2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`, fast in half precision on any CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        if not emulated(x):
            return super().forward(x)
        how = (self.stride, self.padding, self.dilation, True, self.output_padding, self.groups)
        return _RoundedConvolution.apply(x, self.weight, self.bias, how)
