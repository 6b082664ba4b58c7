"""What the rest of the project relies on in both networks."""

from __future__ import annotations

import re

import pytest
import torch

from hpc_srct.errors import InputError
from hpc_srct.models import NAMES, build
from hpc_srct.models.layers import AttentionGate, BatchNorm2d, ResidualDoubleConv
from hpc_srct.models.resattunet import ResAttUNet
from hpc_srct.models.skeleton import reach
from hpc_srct.models.unet import UNet

both = pytest.mark.parametrize("name", NAMES)


def scrambled(name, width=4, depth=2, channels=1, seed=0):
    """Give a network with random weights and statistics: nothing cancels by chance."""
    torch.manual_seed(seed)
    model = build(name, width, depth, channels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for layer in model.modules():
            if isinstance(layer, BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("kind", [UNet, ResAttUNet])
def test_docstring_tells_the_number_of_parameters(kind):
    counts = [sum(p.numel() for p in kind(width).parameters()) for width in (32, 16)]
    said = re.search(r"Parameters: ([\d,]+) at .*\(([\d,]+) at width 16\)", kind.__doc__)
    assert [int(count.replace(",", "")) for count in said.groups()] == counts


@both
def test_new_network_gives_its_input_back(name):
    x = torch.randn(2, 1, 37, 50)
    model = build(name, 4, 3)
    assert torch.equal(model(x), x)
    assert torch.equal(model.eval()(x), x)


@both
def test_middle_channel_is_the_one_corrected(name):
    x = torch.randn(1, 5, 16, 16)
    assert torch.equal(build(name, 4, 2, channels=5)(x), x[:, 2:3])


@both
@pytest.mark.parametrize("size", [(1, 1), (7, 64), (33, 31), (16, 5)])
def test_any_height_and_width(name, size):
    model = scrambled(name).eval()
    x = torch.randn(2, 1, *size)
    with torch.no_grad():
        assert model(x).shape == x.shape
        assert not torch.equal(model(x), x)


@both
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_nothing_beyond_the_reach_matters(name, depth):
    model = scrambled(name, depth=depth).eval()
    size = model.stride * (2 * (model.reach // model.stride) + 4)
    start = size // 2 // model.stride * model.stride
    x = torch.randn(1, 1, size, size)
    for pixel in range(start, start + model.stride):
        inside = slice(pixel - model.reach, pixel + model.reach + 1)
        other = torch.randn(1, 1, size, size)
        other[..., inside, inside] = x[..., inside, inside]
        with torch.no_grad():
            kept, whole = model(other)[..., pixel, pixel], model(x)[..., pixel, pixel]
        assert torch.equal(kept, whole)


@both
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_reach_is_tight(name, depth):
    """Halos are made no wider than they must be."""
    model = scrambled(name, depth=depth).eval()
    size = model.stride * (2 * (model.reach // model.stride) + 4)
    start = size // 2 // model.stride * model.stride
    farthest = 0
    for pixel in range(start, start + model.stride):
        # A maximum hides all but one of its inputs: several draws find the farthest path.
        for _ in range(4):
            x = torch.randn(1, 1, size, size, requires_grad=True)
            (gradient,) = torch.autograd.grad(model(x)[0, 0, pixel, pixel], x)
            touched = torch.nonzero(gradient[0, 0]) - pixel
            farthest = max(farthest, touched.abs().max().item())
    assert model.reach - 2 <= farthest <= model.reach


def test_reach_of_the_usual_depth():
    # 2·(1+2+4+8)·2 + 2·16 = 92 for the convolutions, and at most 15 for where the pixel lies.
    assert reach(4) == 107
    assert build("unet", 2, 4).stride == 16


@both
@pytest.mark.parametrize("size", [(64, 64), (61, 50)])
def test_tile_with_halo_equals_the_whole_slice(name, size):
    model = scrambled(name, depth=2).eval()
    halo = -(-model.reach // model.stride) * model.stride
    x = torch.randn(1, 1, *size)
    with torch.no_grad():
        whole = model(x)
        for top, left in [(0, 0), (24, 16), (48, 40)]:
            bottom, right = min(top + 16, size[0]), min(left + 16, size[1])
            y0, x0 = max(top - halo, 0), max(left - halo, 0)
            tile = model(x[..., y0 : bottom + halo, x0 : right + halo])
            inside = tile[..., top - y0 : bottom - y0, left - x0 : right - x0]
            difference = (inside - whole[..., top:bottom, left:right]).abs().max()
            assert difference < 1e-5 * whole.std()


@both
def test_tile_off_the_stride_grid_differs(name):
    """What the test above proves is not true of any tile: alignment matters."""
    model = scrambled(name, depth=2).eval()
    x = torch.randn(1, 1, 96, 96)
    with torch.no_grad():
        whole, tile = model(x), model(x[..., 1:, 1:])
    assert not torch.allclose(tile[..., 40:48, 40:48], whole[..., 41:49, 41:49], atol=1e-3)


@both
def test_checkpointing_changes_nothing_but_memory(name):
    plain, sparing = scrambled(name), scrambled(name)
    sparing.checkpointing = True
    x = torch.randn(2, 1, 32, 32)
    for model in (plain, sparing):
        for _ in range(2):
            model(x).square().mean().backward()
    for (key, one), (_, other) in zip(
        plain.state_dict().items(), sparing.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), key
    for one, other in zip(plain.parameters(), sparing.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@both
def test_checkpointing_keeps_fewer_maps(name):
    kept = {}
    for checkpointing in (False, True):
        model = scrambled(name)
        model.checkpointing = checkpointing
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.randn(1, 1, 32, 32))
        kept[checkpointing] = sum(sizes)
    assert kept[True] < 0.6 * kept[False]


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_fp32_statistics(name, dtype):
    model = scrambled(name, width=2)
    exact = model.eval()(x := torch.randn(1, 1, 17, 20))
    model.to(dtype)
    statistics = [m for m in model.modules() if isinstance(m, BatchNorm2d)]
    assert all(m.weight.dtype == dtype for m in statistics)
    assert all(m.running_mean.dtype == m.running_var.dtype == torch.float32 for m in statistics)
    rounded = model(x.to(dtype))
    assert rounded.dtype == dtype
    assert (rounded.float() - exact).std() < 0.1 * (exact - x).std()
    before = statistics[0].running_mean.clone()
    model.train()(x.to(dtype)).float().square().mean().backward()
    assert statistics[0].running_mean.dtype == torch.float32
    assert not torch.equal(statistics[0].running_mean, before)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@both
def test_fp32_slice_keeps_its_digits_through_a_half_precision_network(name):
    x = 1 + 1e-4 * torch.randn(1, 1, 16, 16)
    assert torch.equal(build(name, 2, 2).to(torch.bfloat16)(x), x)


@both
def test_channels_last_gives_the_same(name):
    model = scrambled(name).eval()
    x = torch.randn(2, 1, 24, 24)
    with torch.no_grad():
        plain = model(x)
        model.to(memory_format=torch.channels_last)
        difference = (model(x.to(memory_format=torch.channels_last)) - plain).abs().max()
        assert difference < 1e-5 * plain.std()


def test_batch_norm_in_fp32_is_torchs():
    ours, theirs = BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 6)
    for _ in range(3):
        torch.testing.assert_close(ours(x), theirs(x))
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_batch_norm_in_fp16_survives_what_fp16_sums_would_not():
    """Values near 200: their squares and sums overflow fp16, whose largest is 65504."""
    norm = BatchNorm2d(1).half()
    x = (200 + 10 * torch.randn(2, 1, 64, 64)).half()
    y = norm(x).float()
    assert abs(y.mean()) < 0.02
    assert abs(y.std() - 1) < 0.02


def test_attention_gate_weighs_and_follows_its_formula():
    torch.manual_seed(1)
    gate = AttentionGate(8, 6).eval()
    x, g = torch.randn(1, 8, 5, 5), torch.randn(1, 6, 5, 5)
    alpha = gate(x, g) / x
    assert ((alpha > 0) & (alpha < 1)).all()
    torch.testing.assert_close(alpha, alpha[:, :1].expand_as(alpha))
    w_x, w_g, psi = (
        part[0].weight[:, :, 0, 0] for part in (gate.of_encoder, gate.of_decoder, gate.to_weight)
    )
    assert w_x.shape == (4, 8)
    scale = (1 + gate.of_encoder[1].eps) ** -0.5
    q = psi @ torch.relu(scale * (w_x @ x[0].flatten(1) + w_g @ g[0].flatten(1))) * scale
    torch.testing.assert_close(alpha[0, 0].flatten(), torch.sigmoid(q)[0])


def test_residual_block_passes_its_input_when_widths_agree():
    block = ResidualDoubleConv(4, 4).eval()
    torch.nn.init.zeros_(block.second[1].weight)
    x = torch.rand(1, 4, 6, 6)
    torch.testing.assert_close(block(x), x)


@both
def test_new_network_keeps_the_scale_of_its_maps(name):
    """He initialisation: neither vanishing nor exploding on the way down and up."""
    torch.manual_seed(0)
    model = build(name, 8, 4)
    torch.nn.init.ones_(model.last.weight)
    error = model(x := torch.randn(4, 1, 64, 64)) - x
    assert 0.3 < error.std() < 30


def test_unknown_names_and_sizes_are_answered():
    with pytest.raises(InputError, match="known: unet, resattunet"):
        build("vnet")
    with pytest.raises(InputError, match="channels must be odd"):
        build("unet", channels=2)
    with pytest.raises(InputError, match="depth must be at least 1"):
        build("unet", depth=0)
