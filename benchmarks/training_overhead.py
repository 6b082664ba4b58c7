"""What a training step costs through the engine, beside a bare PyTorch loop, in one run.

    python benchmarks/training_overhead.py --models unet resattunet --precisions O0

Same network, batch, precision, seed and data; the two take turns, step by step, so that other
users of the machine meet both alike. Adam is the same (torch's, fused). In half precision the bare
loop keeps fp32 masters, and in O2 multiplies its loss by a fixed 2**16. On a CPU one thread is used
and processor time counts; on a GPU the wall clock. The parts of a step are timed apart, to show
where the difference is.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import common
import torch
from rich.console import Console
from rich.table import Table

from hpc_srct.models import build
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.training import engine, memory, precision

PARTS = ("forward", "backward", "step")


class Clock:
    """Times the parts of steps; the GPU is waited for at each border."""

    def __init__(self, device: torch.device):
        self.device = device
        self.parts: dict[str, list[float]] = {part: [] for part in PARTS}
        self._now = time.perf_counter if device.type == "cuda" else time.process_time

    def __call__(self) -> float:
        """Tell the time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self._now()

    def note(self, *borders: float) -> None:
        """Note the times at the borders of forward, backward and step."""
        for part, (began, ended) in zip(PARTS, itertools.pairwise(borders), strict=True):
            self.parts[part].append(ended - began)

    def seconds(self) -> dict[str, float]:
        """Give the median of each part and of the whole."""
        whole = [sum(step) for step in zip(*self.parts.values(), strict=True)]
        parts = {part: statistics.median(times) for part, times in self.parts.items()}
        return {"whole": statistics.median(whole), **parts}


class Bare:
    """The loop that one writes without DeepSpeed."""

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype, rate: float):
        self.module, self.dtype = module, dtype
        self.scale = 2.0**16 if dtype == torch.float16 else 1.0
        self.parameters = list(module.parameters())
        self.masters = self.parameters
        if dtype != torch.float32:
            self.masters = [p.detach().clone().requires_grad_() for p in self.parameters]
            for p in self.parameters:
                p.data = p.data.to(dtype)
        self.adam = torch.optim.Adam(self.masters, lr=rate, fused=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the network."""
        return self.module(inputs.to(self.dtype)).float()

    def backward(self, loss: torch.Tensor) -> None:
        """Find the gradients."""
        (loss * self.scale).backward()

    def step(self) -> None:
        """Update the weights."""
        if self.masters is not self.parameters:
            for master, p in zip(self.masters, self.parameters, strict=True):
                master.grad = p.grad.float() / self.scale
        self.adam.step()
        if self.masters is not self.parameters:
            with torch.no_grad():
                for master, p in zip(self.masters, self.parameters, strict=True):
                    p.copy_(master)
        for p in self.parameters:
            p.grad = None


def take(
    runner: Bare | engine.Engine, clock: Clock, inputs: torch.Tensor, labels: torch.Tensor
) -> float:
    """Take one step; give its loss."""
    began = clock()
    loss = torch.nn.functional.mse_loss(runner.forward(inputs), labels)
    forward = clock()
    runner.backward(loss)
    backward = clock()
    runner.step()
    clock.note(began, forward, backward, clock())
    return float(loss.detach())


def compare(
    name: str, settings: ExperimentSettings, size: int, steps: int, where: engine.Ranks
) -> dict[str, Any]:
    """Take `steps` steps with each, in turns."""
    torch.manual_seed(0)
    width, batch = settings.model.width, settings.tiles.batch
    bare_module, module = (build(name, width, settings.model.depth) for _ in range(2))
    module.load_state_dict(bare_module.state_dict())
    parameters = sum(p.numel() for p in module.parameters())
    dtype = precision.DTYPES[settings.precision]
    config = precision.deepspeed_config(settings, 1, parameters)
    bare = Bare(bare_module.to(where.device), dtype, settings.optimizer.learning_rate)
    runners = {"bare": bare, "engine": engine.Engine(module, config, where)}
    clocks = {key: Clock(where.device) for key in runners}
    last = memory.channels_last("auto", where.device, settings.precision)
    losses: dict[str, list[float]] = {key: [] for key in runners}
    for number in range(steps + 1):
        inputs, labels = torch.rand(2, batch, 1, size, size, device=where.device)
        inputs = memory.ordered(inputs, last)
        for key, runner in runners.items():
            clock = clocks[key] if number else Clock(where.device)  # the first warms up
            losses[key].append(take(runner, clock, inputs, labels))
    runners["engine"].close()
    times = {key: clock.seconds() for key, clock in clocks.items()}
    return {
        "model": name,
        "precision": settings.precision,
        "parameters": parameters,
        "width": width,
        "tile": size,
        "batch": batch,
        "channels_last": last,
        "bare_s": times["bare"],
        "engine_s": times["engine"],
        "overhead": times["engine"]["whole"] / times["bare"]["whole"] - 1,
        "greatest_loss_difference": max(
            abs(a - b) / b for a, b in zip(losses["engine"], losses["bare"], strict=True)
        ),
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", default=["unet", "resattunet"])
    parser.add_argument("--precisions", nargs="+", default=["O0"], choices=["O0", "O2", "bf16"])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--emulate-fp16", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    where = engine.start()
    rows = []
    for name in args.precisions:
        settings = ExperimentSettings(
            precision=name,
            emulate_fp16=args.emulate_fp16,
            model={"width": args.width, "depth": args.depth},
            tiles={"batch": args.batch},
        )
        precision.prepare(settings, where.device)
        rows += [compare(model, settings, args.tile, args.steps, where) for model in args.models]
    table = Table(title="One training step, seconds (median)")
    for column in ("model", "precision", "", *PARTS, "whole", "overhead"):
        table.add_column(column)
    for row in rows:
        for key in ("bare", "engine"):
            times = [f"{row[f'{key}_s'][part]:.4f}" for part in (*PARTS, "whole")]
            over = f"{row['overhead']:+.1%}" if key == "engine" else ""
            table.add_row(row["model"], row["precision"], key, *times, over)
    Console().print(table)
    path = common.write_result(
        "training-overhead",
        rows,
        args.out,
        versions=common.versions("torch", "deepspeed"),
        gpu=common.gpu(),
        threads=torch.get_num_threads(),
        clock="wall" if where.device.type == "cuda" else "processor time, one thread",
        steps=args.steps,
    )
    print(path)


if __name__ == "__main__":
    main()
