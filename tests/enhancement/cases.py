"""Networks with something to say, and a small store to say it about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hpc_srct.models import build
from hpc_srct.models.layers import BatchNorm2d
from hpc_srct.slices import StoreWriter

SIZE = (48, 56)
ROWS = np.arange(100, 100 + 70)


def restless(name: str, width: int = 4, depth: int = 2, seed: int = 0) -> torch.nn.Module:
    """A network as if trained: random weights, statistics far from 0 and 1, an error to predict."""
    torch.manual_seed(seed)
    module = build(name, width, depth)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, BatchNorm2d):
                layer.running_mean.uniform_(-0.5, 0.5)
                layer.running_var.uniform_(0.5, 2.0)
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.uniform_(-0.3, 0.3)
        torch.nn.init.normal_(module.last.weight)
        # A third of the input's deviation is what a trained network takes off a noisy FBP.
        module.eval()
        noise = torch.randn(1, 1, 64, 64)
        module.last.weight *= 0.3 / module.error(noise).std()
    return module


def described(name: str = "unet", width: int = 4, depth: int = 2) -> dict:
    return {
        "architecture": name,
        "width": width,
        "depth": depth,
        "channels": 1,
        "normalisation": {"policy": "per-scan"},
        "input": "low",
        "label": "truth",
    }


def volume(n: int = len(ROWS), seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, *SIZE)).astype(np.float32) * 0.01 + 0.02


def write_store(folder: Path, low: np.ndarray, **figures) -> Path:
    """A store of slices of any number and size; figures go to `StoreWriter.finish`."""
    writer = StoreWriter(folder, len(low), low.shape[1:], ROWS[0] + np.arange(len(low)))
    for block in range(writer.n_blocks):
        inside = writer.block_slices(block)
        writer.write_block(block, {"low": low[inside.start : inside.stop]})
    figures = {"scale": 0.05, "field_of_view": 22.0, "pixel_size": 2e-6} | figures
    writer.finish({"source": "made for a test", "settings": {"views": "1/6"}}, **figures)
    return folder
