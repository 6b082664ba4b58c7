"""What the options of training cost and save: time of a step, peak memory, one process each.

    python benchmarks/training_options.py --size 512 --width 16
    python benchmarks/training_options.py --variants whole-checkpointing --size 2048 --width 32

Each variant is a run of `srct train` on a made-up store. All pass as many pixels in a step: four
tiles of a quarter of the slice, or one whole slice. Ratios are to `tiles`, the default.
The variants take turns, several rounds, so that a busy minute hits all of them. The time is the
least of a step, each run's first left out (it compiles and warms up): on a CPU the process's
processor time on one thread, on a GPU the wall clock. Peak memory is the process's, or the GPU
allocator's, as the run writes it to ``metrics.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import common
from data_wait import make_store
from rich.console import Console
from rich.table import Table

DEFAULT = "tiles"
_WHOLE = ["tiles.size=null", "tiles.batch=1", "tiles.per_slice=1"]
VARIANTS: dict[str, list[str]] = {
    DEFAULT: [],
    "tiles-channels-last": ["channels_last=true"],
    "tiles-channels-first": ["channels_last=false"],
    "tiles-compiled": ["compile=true"],
    "tiles-checkpointing": ["activation_checkpointing=true"],
    "tiles-accumulated": ["tiles.batch=1", "optimizer.accumulation=4"],
    "whole": _WHOLE,
    "whole-compiled": [*_WHOLE, "compile=true"],
    "whole-checkpointing": [*_WHOLE, "activation_checkpointing=true"],
}


def experiment(store: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Give the settings that all variants share."""
    return {
        "train": [str(store)],
        "precision": args.precision,
        "emulate_fp16": True,
        "model": {"name": args.model, "width": args.width, "depth": args.depth},
        "tiles": {"size": args.size // 2, "batch": 4, "per_slice": 4, "augment": False},
        "epochs": 1,
        "self_check": False,
        "tensorboard": False,
        "checkpoints": {"every_minutes": None},
    }


def measure(variant: str, settings: Path, run: Path) -> dict[str, Any]:
    """Train a few steps in a process of their own; a variant that cannot run says why."""
    words = ["--one", str(settings), str(run), *VARIANTS[variant]]
    answer = subprocess.run([sys.executable, __file__, *words], stderr=subprocess.PIPE, text=True)
    if answer.returncode:
        said = [line for line in answer.stderr.splitlines() if line.strip()]
        return {"left_out": said[-1] if said else f"exit code {answer.returncode}"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = json.loads((run / "times.json").read_text()) or [line["step_s"] for line in lines]
    return {
        "steps_s": times[1:] or times,
        "first_step_s": times[0],
        "peak_memory_gib": lines[-1]["peak_memory_bytes"] / 2**30,
    }


def one(settings: Path, run: Path, words: list[str]) -> None:
    """Train as `srct train` does, and on a CPU note the processor time of every step."""
    from hpc_srct.settings import load
    from hpc_srct.settings.experiment import ExperimentSettings
    from hpc_srct.training import loop

    times: list[float] = []
    former = loop.Training._step

    def noting(self: loop.Training, micro_batches: list[Any]) -> tuple[float, float]:
        began = time.process_time()
        result = former(self, micro_batches)
        if self.ranks.device.type == "cpu":
            times.append(time.process_time() - began)
        return result

    loop.Training._step = noting
    loop.train(load(ExperimentSettings, settings, words), run)
    (run / "times.json").write_text(json.dumps(times))


def summary(variant: str, rounds: list[dict[str, Any]], pixels: int) -> dict[str, Any]:
    """Put the rounds of a variant together."""
    row: dict[str, Any] = {"variant": variant, "settings": VARIANTS[variant]}
    failed = [r["left_out"] for r in rounds if "left_out" in r]
    if failed:
        return row | {"left_out": failed[0]}
    best = min(time for r in rounds for time in r["steps_s"])
    return row | {
        "step_s": best,
        "s_per_megapixel": best / pixels * 1e6,
        "first_step_s": min(r["first_step_s"] for r in rounds),
        "peak_memory_gib": round(max(r["peak_memory_gib"] for r in rounds), 3),
    }


def relate(rows: list[dict[str, Any]]) -> None:
    """Add each row's ratios to the default."""
    base = next((row for row in rows if row["variant"] == DEFAULT and "step_s" in row), None)
    for row in rows:
        if base and "step_s" in row:
            row["time_ratio"] = row["step_s"] / base["step_s"]
            row["memory_ratio"] = row["peak_memory_gib"] / base["peak_memory_gib"]


def show(rows: list[dict[str, Any]]) -> Table:
    """Make the table."""
    table = Table("variant", "s/Mpixel", "time", "peak memory, GiB", "memory", "first step, s")
    for row in rows:
        if "left_out" in row:
            table.add_row(row["variant"], f"left out: {row['left_out']}")
            continue
        ratios = [f"×{row[k]:.2f}" if k in row else "" for k in ("time_ratio", "memory_ratio")]
        table.add_row(
            row["variant"],
            f"{row['s_per_megapixel']:.2f}",
            ratios[0],
            f"{row['peak_memory_gib']:.2f}",
            ratios[1],
            f"{row['first_step_s']:.1f}",
        )
    return table


def main() -> None:
    """Parse, measure, print, write."""
    if sys.argv[1:2] == ["--one"]:
        settings, run, *words = sys.argv[2:]
        one(Path(settings), Path(run), words)
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--model", default="resattunet")
    parser.add_argument("--precision", default="O0", choices=["O0", "O2", "bf16"])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3, help="in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in args.variants}
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "experiment.yaml"
        store = make_store(Path(folder) / "store", args.steps, args.size)
        settings.write_text(json.dumps(experiment(store, args)))
        for turn in range(args.rounds):
            for variant in args.variants:
                run = Path(folder) / f"{variant}-{turn}"
                found[variant].append(measure(variant, settings, run))
                path = write(found, args)  # compiling takes long: what is known is kept
    Console(width=110).print(show(table_rows(found, args)))
    print(path)


def table_rows(found: dict[str, list[dict[str, Any]]], args: argparse.Namespace) -> list[Any]:
    """Give the rows of the variants measured so far."""
    rows = [summary(v, rounds, args.size**2) for v, rounds in found.items() if rounds]
    relate(rows)
    return rows


def write(found: dict[str, list[dict[str, Any]]], args: argparse.Namespace) -> Path:
    """Write what was found so far."""
    return common.write_result(
        f"training-options-{args.precision}-{args.size}",
        table_rows(found, args),
        args.out,
        versions=common.versions("torch", "deepspeed"),
        gpu=common.gpu(),
        threads=os.environ["OMP_NUM_THREADS"],
        sizes={k: v for k, v in vars(args).items() if k not in ("out", "variants")},
    )


if __name__ == "__main__":
    main()
