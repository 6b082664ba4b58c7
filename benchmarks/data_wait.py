"""How long training waits for its tiles: from memory, from disk, by a worker process.

    python benchmarks/data_wait.py --slices 16 --size 512 --tile 256 --batch 4

Trains a narrow UNet (the narrower, the less time there is to read ahead) on a made-up store and
reads ``metrics.jsonl``: the share of the steps' time that was waited, the first two steps of the
run left out. Aim: at most 2%.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import common
import numpy as np
from rich.console import Console
from rich.table import Table

from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.slices import StoreWriter
from hpc_srct.training import train

WARM_UP = 2
WAYS = {
    "memory": {"cache_gb": 64, "workers": 0},
    "disk, thread": {"cache_gb": 0, "workers": 0},
    "disk, one worker": {"cache_gb": 0, "workers": 1},
}


def make_store(path: Path, slices: int, size: int) -> Path:
    """Write a store of noise: what is in it does not matter here."""
    generator = np.random.default_rng(0)
    writer = StoreWriter(path, slices, (size, size))
    for block in range(writer.n_blocks):
        count = len(writer.block_slices(block))
        low, truth = generator.random((2, count, size, size), dtype=np.float32)
        writer.write_block(block, {"low": low, "truth": truth})
    writer.finish({"source": "benchmark"}, scale=1.0, field_of_view=size / 2)
    return path


def measure(store: Path, run: Path, way: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train, and read from the run's own metrics how long it waited."""
    how = WAYS[way]
    settings = ExperimentSettings(
        train=(str(store),),
        model={"name": "unet", "width": args.width, "depth": 4},
        tiles={
            "size": args.tile,
            "batch": args.batch,
            "per_slice": args.per_slice,
            "workers": how["workers"],
        },
        cache_gb=how["cache_gb"],
        epochs=args.epochs,
        tensorboard=False,
    )
    train(settings, run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"][WARM_UP:]
    wait, whole = (sum(step[key] for step in steps) for key in ("data_wait_s", "step_s"))
    return {"way": way, "steps": len(steps), "step_s": whole / len(steps), "waited": wait / whole}


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--per-slice", type=int, default=2)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", args.slices, args.size)
        rows = [
            measure(store, Path(folder) / f"run-{number}", way, args)
            for number, way in enumerate(WAYS)
        ]
    table = Table("tiles from", "step, s", "waited for tiles")
    for row in rows:
        table.add_row(row["way"], f"{row['step_s']:.3f}", f"{row['waited']:.2%}")
    Console().print(table)
    path = common.write_result(
        "data-wait",
        rows,
        args.out,
        versions=common.versions("torch", "deepspeed", "h5py"),
        gpu=common.gpu(),
        sizes={k: v for k, v in vars(args).items() if k != "out"},
    )
    print(path)


if __name__ == "__main__":
    main()
