"""What `gpu.py` measures, one process each: training steps, and enhancement.

A cell gets a mapping and gives one: its figures, or ``left_out`` with the reason.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import enhancement_precision
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from training_overhead import Bare

from hpc_srct.errors import SrctError
from hpc_srct.models import build
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.training import compilation, engine, memory, precision
from hpc_srct.training.telemetry import forget_peak_memory, peak_memory

# An epoch of the talk: 80 slices, one in a step.
EPOCH_STEPS = 80
WARM_UP = 2
LEAST_STEPS = 2

Cell = dict[str, Any]


def run(cell: Cell, answer: Any, errors: str) -> None:
    """Measure a cell in a process of its own, and send what was found.

    Parameters
    ----------
    cell
        ``kind``, ``deadline`` (Unix time when no further step is begun), and what to measure.
    answer
        A pipe's end.
    errors
        File for what the process says; the table is not to be found between its lines.
    """
    log = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        found = {"training": training, "enhancement": enhancing}[cell["kind"]](cell)
    except torch.OutOfMemoryError:
        found = {"out_of_memory": True, "left_out": "out of memory"}
        if torch.cuda.is_available():
            total = torch.cuda.get_device_properties(0).total_memory / 2**30
            found["left_out"] += f" (the GPU has {total:.0f} GiB)"
    except (SrctError, RuntimeError, ImportError) as error:
        said = str(error).splitlines() or [""]
        found = {"left_out": f"{type(error).__name__}: {said[0][:200]}"}
    answer.send(found)
    answer.close()
    # Not through the interpreter's end: NCCL and the compiler's workers may linger there.
    os._exit(0)


def training(cell: Cell) -> dict[str, Any]:
    """Take training steps on whole slices, one in a batch, until the deadline."""
    has_deepspeed = importlib.util.find_spec("deepspeed") is not None
    settings = ExperimentSettings.model_validate(
        {
            "precision": cell["precision"],
            "emulate_fp16": True,
            "model": {key: cell[key] for key in ("width", "depth")} | {"name": cell["model"]},
            "tiles": {"size": None, "batch": 1},
            "activation_checkpointing": cell["checkpointing"],
            "compile": cell["compile"],
            "channels_last": cell["channels_last"],
        }
    )
    where = engine.start() if has_deepspeed else alone()
    precision.prepare(settings, where.device)
    if settings.compile:
        compilation.require_compiler(where.device)
    torch.manual_seed(0)
    module = build(settings.model.name, settings.model.width, settings.model.depth)
    module.checkpointing = settings.activation_checkpointing
    runner = (
        through_engine(module, settings, where)
        if has_deepspeed
        else by_hand(module, settings, where)
    )
    runner.module.train()
    take = stepper(runner, settings, where, cell["size"])
    warm_up = timed(take, WARM_UP, LEAST_STEPS, cell["deadline"])
    start_peak = peak_memory(where.device)
    forget_peak_memory(where.device)
    times = timed(take, min(cell["most_steps"], EPOCH_STEPS), LEAST_STEPS, cell["deadline"])
    found = {
        "engine": "deepspeed" if has_deepspeed else "bare PyTorch",
        "step_s": statistics.median(times),
        "steps": len(times),
        "epoch_s": EPOCH_STEPS * statistics.median(times),
        "first_step_s": warm_up[0],
        "peak_memory_bytes": peak_memory(where.device),
        "peak_memory_with_first_steps_bytes": start_peak,
    }
    if where.device.type == "cuda":
        found["reserved_memory_bytes"] = torch.cuda.max_memory_reserved(where.device)
        found["gpu"] = torch.cuda.get_device_name(where.device)
        found["gpu_memory_bytes"] = torch.cuda.get_device_properties(where.device).total_memory
    return found


def alone() -> engine.Ranks:
    """Be the only rank, without DeepSpeed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return engine.Ranks(0, 1, torch.device(device))


def through_engine(
    module: nn.Module, settings: ExperimentSettings, where: engine.Ranks
) -> engine.Engine:
    """Train as `srct train` does."""
    parameters = sum(p.numel() for p in module.parameters())
    config = precision.deepspeed_config(settings, 1, parameters)
    return engine.Engine(module, config, where, settings.compile)


def by_hand(module: nn.Module, settings: ExperimentSettings, where: engine.Ranks) -> Bare:
    """Train in a bare loop with fp32 masters."""
    if settings.compile:
        compilation.compile_in_place(module)
    dtype = precision.DTYPES[settings.precision]
    return Bare(module.to(where.device), dtype, settings.optimizer.learning_rate)


def stepper(
    runner: engine.Engine | Bare, settings: ExperimentSettings, where: engine.Ranks, size: int
) -> Callable[[], None]:
    """Make a function that takes one step; it returns when the step is done."""
    last = memory.channels_last(settings.channels_last, where.device, settings.precision)
    batch = torch.from_numpy(np.stack(discs(1, size, seed=0)))[:, :, None]
    if where.device.type == "cuda":
        batch = batch.pin_memory()

    def take() -> None:
        inputs, labels = batch.to(where.device, non_blocking=True)
        loss = functional.mse_loss(runner.forward(memory.ordered(inputs, last)), labels)
        runner.backward(loss)
        runner.step()
        if where.device.type == "cuda":
            torch.cuda.synchronize()

    return take


def timed(take: Callable[[], None], most: int, least: int, deadline: float) -> list[float]:
    """Take steps until there are `most`, or at least `least` and the deadline is past."""
    times: list[float] = []
    while len(times) < most and (len(times) < least or time.time() < deadline):
        began = time.perf_counter()
        take()
        times.append(time.perf_counter() - began)
    return times


def enhancing(cell: Cell) -> dict[str, Any]:
    """Enhance made-up slices with a network that has learned, briefly, to take off their noise."""
    device = alone().device
    module = briefly_trained(cell, device)
    description = {"channels": 1, "normalisation": {"policy": "per-scan"}}
    low, labels = discs(cell["slices"], cell["size"], seed=1)
    left = max(cell["deadline"] - time.time(), 0)
    size = cell["size"]
    rows = enhancement_precision.measure(
        (module, description), low, labels, 1.0, size / 2, device=str(device), seconds=left
    )
    return {"rows": rows}


def briefly_trained(cell: Cell, device: torch.device) -> nn.Module:
    """Train in fp32 on tiles for a few seconds."""
    torch.manual_seed(0)
    module = build(cell["model"], cell["width"], cell["depth"]).to(device).train()
    adam = torch.optim.Adam(module.parameters(), lr=1e-3)
    tile = min(256, cell["size"])
    for step in range(cell["training_steps"]):
        pair: list[Tensor] = [
            torch.from_numpy(part)[:, None].to(device) for part in discs(4, tile, seed=100 + step)
        ]
        adam.zero_grad()
        functional.mse_loss(module(pair[0]), pair[1]).backward()
        adam.step()
    return module.cpu().eval()


def discs(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw discs; give them (count, y, x) with white noise, and without."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    truth = np.zeros((count, size, size), np.float32)
    for image in truth:
        for _ in range(12):
            (centre_y, centre_x), radius = (
                generator.uniform(0, size, 2),
                size * generator.uniform(0.02, 0.2),
            )
            inside = (y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2
            image[inside] += np.float32(generator.uniform(0.05, 0.3))
    noise = generator.standard_normal(truth.shape, dtype=np.float32)
    return truth + np.float32(0.1) * noise, truth
