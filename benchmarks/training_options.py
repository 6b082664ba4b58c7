"""What the options of training cost and save: time of a step, peak memory, one process each.

    python benchmarks/training_options.py --size 512 --width 16
    python benchmarks/training_options.py --variants whole-checkpointing --size 2048 --width 32

Each variant is a run of `srct train` on a made-up store; step time (median, the first left out)
and peak memory are what the run itself writes to ``metrics.jsonl``. All variants pass as many
pixels in a step: four tiles of a quarter of the slice, or one whole slice. Times are of the wall
clock: run it on a machine that is left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import common
from data_wait import make_store
from rich.console import Console
from rich.table import Table

VARIANTS: dict[str, list[str]] = {
    "tiles": ["channels_last=false"],
    "tiles-channels-last": ["channels_last=true"],
    "tiles-checkpointing": ["channels_last=false", "activation_checkpointing=true"],
    "tiles-accumulated": ["channels_last=false", "tiles.batch=1", "optimizer.accumulation=4"],
    "whole": ["channels_last=false", "tiles.size=null", "tiles.batch=1", "tiles.per_slice=1"],
    "whole-checkpointing": [
        "channels_last=false",
        "tiles.size=null",
        "tiles.batch=1",
        "tiles.per_slice=1",
        "activation_checkpointing=true",
    ],
}


def measure(variant: str, store: Path, run: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Train a few steps in a process of their own."""
    experiment = run.with_suffix(".yaml")
    experiment.write_text(
        json.dumps(
            {
                "train": [str(store)],
                "precision": args.precision,
                "model": {"name": args.model, "width": args.width},
                "tiles": {"size": args.size // 2, "batch": 4, "per_slice": 4, "augment": False},
                "epochs": 1,
                "self_check": False,
                "tensorboard": False,
                "checkpoints": {"every_minutes": None},
            }
        )
    )
    words = ["train", str(experiment), "--run-dir", str(run), *VARIANTS[variant]]
    subprocess.run([sys.executable, "-m", "hpc_srct", *words], check=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = [line["step_s"] for line in lines]
    return {
        "variant": variant,
        "settings": VARIANTS[variant],
        "step_s": statistics.median(times[1:] or times),
        "peak_memory_gib": round(lines[-1]["peak_memory_bytes"] / 2**30, 2),
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--model", default="resattunet")
    parser.add_argument("--precision", default="O0", choices=["O0", "O2", "bf16"])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", args.steps, args.size)
        rows = [measure(v, store, Path(folder) / v, args) for v in args.variants]
    table = Table("variant", "step, s", "peak memory, GiB")
    for row in rows:
        table.add_row(row["variant"], f"{row['step_s']:.2f}", f"{row['peak_memory_gib']:.2f}")
    Console().print(table)
    path = common.write_result(
        f"training-options-{args.size}",
        rows,
        args.out,
        versions=common.versions("torch", "deepspeed"),
        gpu=common.gpu(),
        sizes={k: v for k, v in vars(args).items() if k not in ("out", "variants")},
    )
    print(path)


if __name__ == "__main__":
    main()
