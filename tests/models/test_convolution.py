"""Half-precision convolutions on a CPU: fp32 sums, rounded once, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hpc_srct.models import convolution
from hpc_srct.models.convolution import Conv2d, ConvTranspose2d

halves = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


@pytest.fixture(autouse=True)
def no_units(monkeypatch):
    monkeypatch.setattr(convolution, "cpu_has_fp16", lambda: False)
    monkeypatch.setattr(convolution, "cpu_has_bf16", lambda: False)


def layers():
    torch.manual_seed(0)
    return [Conv2d(3, 4, 3, padding=1), ConvTranspose2d(3, 4, 2, stride=2), Conv2d(3, 4, 1)]


def in_fp32(layer, x):
    weight, bias = layer.weight.float(), layer.bias.float()
    if isinstance(layer, ConvTranspose2d):
        return F.conv_transpose2d(x, weight, bias, stride=2)
    return F.conv2d(x, weight, bias, padding=layer.padding)


@halves
@pytest.mark.parametrize("number", range(3))
def test_everything_is_the_rounded_fp32_value(dtype, number):
    layer = layers()[number].to(dtype)
    x = torch.randn(2, 3, 10, 8).to(dtype).requires_grad_()
    y = layer(x)
    wide = x.detach().float().requires_grad_()
    expected = in_fp32(layer, wide)
    assert y.dtype == dtype
    assert torch.equal(y, expected.to(dtype))
    seed = torch.randn_like(y)
    ours = torch.autograd.grad(y, [x, layer.weight, layer.bias], seed)
    theirs = torch.autograd.grad(expected, [wide, layer.weight, layer.bias], seed.float())
    for mine, wanted in zip(ours, theirs, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, wanted.to(dtype), rtol=0, atol=0)


@halves
def test_close_to_torchs_own(dtype):
    x = torch.randn(1, 3, 12, 12).to(dtype)
    for layer in layers():
        layer = layer.to(dtype)
        own = super(type(layer), layer).forward(x)
        step = torch.finfo(dtype).eps * own.abs().max()
        assert (layer(x) - own).abs().max() <= 2 * step


def test_overflows_as_fp16_does():
    layer = Conv2d(1, 1, 1, bias=False).half()
    torch.nn.init.constant_(layer.weight, 300.0)
    assert torch.isinf(layer(torch.full((1, 1, 2, 2), 300.0).half())).all()


def test_keeps_halves_for_the_gradient():
    kept = []
    layer = layers()[0].bfloat16()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t):
        layer(torch.randn(1, 3, 8, 8, dtype=torch.bfloat16, requires_grad=True))
    assert kept == [torch.bfloat16, torch.bfloat16]


def test_frozen_weights_get_no_gradient():
    layer = layers()[0].half().requires_grad_(False)
    x = torch.randn(1, 3, 6, 6).half().requires_grad_()
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None


def test_native_where_the_machine_has_the_units(monkeypatch):
    monkeypatch.setattr(convolution, "cpu_has_bf16", lambda: True)
    assert not convolution.emulated(torch.zeros(1, dtype=torch.bfloat16))
    assert convolution.emulated(torch.zeros(1, dtype=torch.float16))
    assert not convolution.emulated(torch.zeros(1))
    assert not convolution.emulated(torch.zeros(1, dtype=torch.float16, device="meta"))
