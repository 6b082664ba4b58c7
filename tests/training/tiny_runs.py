"""Runs of seconds: tiny stores and settings, and what two equal runs must agree in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from hpc_srct.models.files import load_weights
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.slices import StoreWriter

SIZE = 40

# What two runs of the same training must agree in, to the last bit.
SAME = ("step", "epoch", "loss", "loss_scale", "overflow", "applied", "skipped", "grad_norm", "lr")


def make_store(
    path: Path,
    n_slices: int = 6,
    seed: int = 0,
    size: int = SIZE,
    names: tuple[str, ...] = ("low", "truth"),
    spoiled: tuple[int, ...] = (),
) -> Path:
    """Write a store of noisy discs; rows count from 100. `spoiled` slices have a NaN in `low`."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    truth = np.zeros((n_slices, size, size), np.float32)
    for image in truth:
        for _ in range(4):
            centre_y, centre_x = generator.uniform(-10, 10, 2)
            image[np.hypot(y - centre_y, x - centre_x) < generator.uniform(3, 8)] += 0.005
    low = truth + generator.normal(0, 0.003, truth.shape).astype(np.float32)
    for number in spoiled:
        low[number, 3, 4] = np.nan
    arrays = {"low": low, "truth": truth, "full": truth + 0.1 * (low - truth)}
    writer = StoreWriter(path, n_slices, (size, size), np.arange(100, 100 + n_slices))
    for block in range(writer.n_blocks):
        part = writer.block_slices(block)
        writer.write_block(block, {name: arrays[name][part.start : part.stop] for name in names})
    writer.finish({"source": "test"}, scale=0.012, field_of_view=(size - 1) / 2)
    return path


def tiny(stores: tuple[Path, Path], **changes: object) -> ExperimentSettings:
    """Settings of a run of 3 epochs of 6 steps."""
    return ExperimentSettings.model_validate(
        {
            "train": [str(stores[0])],
            "validation": [str(stores[1])],
            "model": {"name": "unet", "width": 2, "depth": 1},
            "tiles": {"size": 16, "batch": 2, "per_slice": 2},
            "optimizer": {"learning_rate": 3e-3, "step_size": 2, "gamma": 0.5},
            "epochs": 3,
            "tensorboard": False,
            "emulate_fp16": True,
            **changes,
        }
    )


def lines(run: Path, kind: str = "step") -> list[dict]:
    """Lines of metrics.jsonl."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def figures(run: Path) -> list[list]:
    """What must repeat, of every step."""
    return [[line[key] for key in SAME] for line in lines(run)]


def same(a: Path, b: Path) -> None:
    """Assert that two runs are one training: every step's figures, and the weights' bits."""
    assert figures(a) == figures(b)
    assert lines(a, "validation") == lines(b, "validation")
    (weights_a, about_a), (weights_b, about_b) = load_weights(a), load_weights(b)
    assert weights_a.keys() == weights_b.keys()
    for name, weight in weights_a.items():
        assert torch.equal(weight, weights_b[name]), name
    assert about_a["provenance"]["step"] == about_b["provenance"]["step"]
