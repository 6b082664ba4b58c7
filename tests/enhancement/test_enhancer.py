"""Slices through a network: identity, tiles without a seam, precision, missing values."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from enhancement.cases import described, restless, volume

from hpc_srct.enhancement import Enhancer, enhancer
from hpc_srct.errors import InputError, MachineError
from hpc_srct.models import build, convolution

ON_CPU = {"device": "cpu"}


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("precision", ["O0", "bf16"])
@pytest.mark.parametrize("name", ["unet", "resattunet"])
def test_an_identity_network_gives_the_input_back(name, precision):
    slices = 0.003 * noise((2, 61, 83)) + 0.01
    model = Enhancer(build(name, 2, 2), described(name), precision, **ON_CPU)
    out = model.enhance(slices, scale=0.02)
    assert out.dtype == np.float32
    assert np.abs(out - slices).max() <= 1e-5 * slices.std()


@pytest.mark.parametrize(
    ("name", "depth", "shape", "tile"),
    [
        ("unet", 2, (200, 211), 80),
        ("resattunet", 2, (203, 120), 64),
        ("resattunet", 3, (300, 257), 160),
        ("unet", 4, (500, 403), 272),
    ],
)
def test_tiled_equals_untiled(name, depth, shape, tile):
    """On a network with statistics of its own, to 1e-5 of the slice's standard deviation."""
    module = restless(name, width=4, depth=depth)
    image = noise((1, *shape), seed=depth)
    whole = Enhancer(module, described(), **ON_CPU).enhance(image, 1.0)
    tiled = Enhancer(module, described(), tile=tile, **ON_CPU).enhance(image, 1.0)
    assert np.std(whole - image) > 0.05 * image.std(), "the network must do something"
    assert np.abs(tiled - whole).max() <= 1e-5 * image.std()


def test_a_halo_shorter_than_the_reach_would_show(monkeypatch):
    """The test above can fail: with tiles cut without a halo there are seams."""
    module = restless("unet", width=4, depth=2)
    image = noise((1, 200, 211))
    whole = Enhancer(module, described(), **ON_CPU).enhance(image, 1.0)
    module.reach = 0
    tiled = Enhancer(module, described(), tile=80, **ON_CPU).enhance(image, 1.0)
    assert np.abs(tiled - whole).max() > 1e-3 * image.std()


def test_the_scale_is_taken_off_and_put_back():
    model = Enhancer(restless("unet"), described(), **ON_CPU)
    image = noise((1, 40, 40))
    np.testing.assert_allclose(
        model.enhance(0.004 * image, 0.004), 0.004 * model.enhance(image, 1.0), rtol=0, atol=4e-8
    )


def test_the_result_of_a_slice_does_not_depend_on_its_neighbours():
    model = Enhancer(restless("resattunet"), described(), **ON_CPU)
    slices = volume(4)
    together = model.enhance(slices, 0.05)
    for image, result in zip(slices, together, strict=True):
        np.testing.assert_array_equal(model.enhance(image, 0.05), result)


def test_missing_values_stay_missing_and_spoil_nobody():
    model = Enhancer(restless("unet"), described(), **ON_CPU)
    slices = volume(3)
    expected = model.enhance(slices, 0.05)
    slices[1, 5, 5] = np.nan
    found = model.enhance(slices, 0.05)
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize(("precision", "most"), [("bf16", 0.04), ("fp16", 0.005)])
def test_half_precision_is_near_fp32(precision, most):
    module, image = restless("unet"), noise((1, 64, 64))
    full = Enhancer(module, described(), "O0", **ON_CPU).enhance(image, 1.0)
    half = Enhancer(module, described(), precision, **ON_CPU).enhance(image, 1.0)
    error = np.sqrt(np.mean((half - full) ** 2))
    assert 0 < error < most * np.std(full - image)


def test_half_precision_without_units_for_it_is_told(monkeypatch):
    monkeypatch.setattr(convolution, "cpu_has_fp16", lambda: False)
    monkeypatch.setattr(convolution, "cpu_has_bf16", lambda: True)
    module = restless("unet")
    notes = {p: Enhancer(module, described(), p, **ON_CPU).note for p in ("O0", "bf16", "fp16")}
    assert notes["O0"] is None and notes["bf16"] is None
    assert "fp16: this CPU has no such arithmetic" in notes["fp16"] and "\n" not in notes["fp16"]


def test_beyond_the_range_of_fp16_it_stops_instead_of_giving_nan():
    module = restless("unet")
    with torch.no_grad():
        module.last.weight *= 1e6
    image = noise((1, 32, 32))
    assert np.isfinite(Enhancer(module, described(), "bf16", **ON_CPU).enhance(image, 1.0)).all()
    with pytest.raises(MachineError, match="not finite in fp16, though the slice is; choose bf16"):
        Enhancer(module, described(), "fp16", **ON_CPU).enhance(image, 1.0)


def test_the_callers_network_is_left_alone():
    module = restless("unet").train()
    Enhancer(module, described(), "bf16", **ON_CPU)
    assert module.training
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_tf32_is_off_while_it_runs_and_restored():
    torch.backends.cudnn.allow_tf32 = True
    seen = []

    class Probe(torch.nn.Module):
        stride, reach = 1, 0

        def forward(self, x):
            seen.append(torch.backends.cudnn.allow_tf32)
            return x

    Enhancer(Probe(), described(), **ON_CPU).enhance(noise((8, 8)), 1.0)
    assert seen == [False] and torch.backends.cudnn.allow_tf32


def test_whole_slices_where_they_fit_else_large_tiles():
    model = Enhancer(build("unet", 32, 1), described(width=32), **ON_CPU)
    assert model.tile_for((2048, 2048)) is None
    tile = model.tile_for((4096, 4096))
    assert enhancer.SMALLEST_TILE <= tile <= 2048
    assert tile**2 * 32 * 4 * enhancer.MAPS_AT_ONCE <= enhancer.CPU_BUDGET
    huge = Enhancer(build("unet", 256, 1), described(width=256), **ON_CPU)
    assert huge.tile_for((4096, 4096)) == enhancer.SMALLEST_TILE


@pytest.mark.parametrize(
    ("change", "options", "kind", "words"),
    [
        ({}, {"precision": "fp8"}, InputError, "known: O0, bf16"),
        ({}, {"device": "tpu3"}, InputError, "device 'tpu3': unknown"),
        ({}, {"device": "cuda:77"}, MachineError, "not here"),
        ({"channels": 5}, {}, InputError, "5 channels"),
        ({"normalisation": {"policy": "magic"}}, {}, InputError, "'magic' is not known"),
        ({}, {"tile": 48}, InputError, "leave nothing inside the halo"),
    ],
)
def test_what_cannot_be_done_is_said(change, options, kind, words):
    with pytest.raises(kind, match=words):
        model = Enhancer(restless("unet"), described() | change, **(ON_CPU | options))
        model.enhance(noise((64, 64)), 1.0)


def test_works_from_the_file_alone_without_deepspeed(model, tmp_path):
    """Only the safetensors file, moved elsewhere, in a process where deepspeed cannot load."""
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(model.read_bytes())
    code = (
        "import sys; sys.modules['deepspeed'] = None; sys.modules['mpi4py'] = None\n"
        "import numpy as np\n"
        "from hpc_srct.enhancement import Enhancer\n"
        "import hpc_srct.workflows.reconstruct, hpc_srct.workflows.evaluate\n"
        f"out = Enhancer.from_file({str(alone)!r}, device='cpu')"
        ".enhance(np.ones((1, 20, 20), np.float32), 1.0)\n"
        "print(out.shape, float(out.std()) > 0)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "(1, 20, 20) True", answer.stderr
