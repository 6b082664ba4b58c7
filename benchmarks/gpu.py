"""The talk's cost table on any CUDA machine, in one command of at most 8 minutes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --minutes 4 --sizes 1200

UNet and ResAttUnet in O0, O2 and bf16, on whole slices of 1200² and then of 2048², one slice in a
step, width 32: peak memory, time of a step and of an epoch (80 slices, as in the talk), savings
against O0 beside those of the talk; then activation checkpointing, enhancement, channels-last and
`torch.compile`. Each cell has a process of its own and a share of the time. What runs out of
memory says so; what no longer fits into the time is named.

Without a GPU a reduced form runs: small networks and slices, where only the way is tested.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if {"cpu", "--device=cpu"} & set(sys.argv[1:]):  # before torch looks for a GPU
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import common
import gpu_cells
import torch
from gpu_tables import AIM, TALK, add_savings, show

MODELS = ("unet", "resattunet")
PRECISIONS = ("O0", "O2", "bf16")
# Kept back for the tables and the file.
RESERVE_S = 5.0
# Most that one plain cell is given; what it leaves goes to those that compile.
MOST_S = 25.0

Cell = dict[str, Any]


def training(model: str, precision: str, size: int, **options: Any) -> Cell:
    """Describe a cell of training."""
    plain = {"checkpointing": False, "compile": False, "channels_last": "auto"}
    about = {"kind": "training", "model": model, "precision": precision, "size": size}
    return about | plain | options


def plan(args: argparse.Namespace) -> list[Cell]:
    """List the cells, the most wanted first."""
    cells = [
        training(model, precision, size)
        for size in args.sizes
        for model, precision in itertools.product(MODELS, PRECISIONS)
    ]
    small, large = args.sizes[0], args.sizes[-1]
    best = MODELS[-1]
    cells += [training(best, precision, large, checkpointing=True) for precision in PRECISIONS]
    cells += [{"kind": "enhancement", "model": model, "size": large} for model in MODELS]
    cells += [
        training(best, "O0", small, channels_last=True),
        training(best, "O2", small, channels_last=False),
    ]
    compiled = [
        training(best, precision, small, compile=True) for precision in ("O2", "O0", "bf16")
    ]
    if args.reduced and not args.compile:
        for cell in compiled:
            cell["left_out"] = "compiling takes minutes on a CPU (--compile asks for it)"
    return cells + compiled


class Clock:
    """Shares the time that is left among the cells that are left."""

    def __init__(self, minutes: float):
        self.end = time.time() + 60 * minutes - RESERVE_S
        self.start_s = 0.0

    def left(self) -> float:
        """Seconds left."""
        return self.end - time.time()

    def share(self, cell: Cell, others: list[Cell]) -> float:
        """Give the seconds that are a cell's."""
        weight = {True: 3.0, False: 1.0}
        own = weight[bool(cell.get("compile"))]
        total = own + sum(weight[bool(c.get("compile"))] for c in others if "left_out" not in c)
        share = self.left() * own / total
        return share if cell.get("compile") else min(share, MOST_S)


def measure(cell: Cell, clock: Clock, others: list[Cell], args: argparse.Namespace) -> Cell:
    """Run one cell in a process of its own; give it with what was found."""
    if "left_out" in cell:
        return cell
    share = clock.share(cell, others)
    # A process takes seconds to start; as long as the slowest yet, and then a few steps.
    if clock.left() < clock.start_s + 2.0:
        return cell | {"left_out": f"no time left of {args.minutes:g} minutes"}
    began = time.time()
    limit = min(2 * share + 30, clock.left())
    order = cell | args.form | {"deadline": began + min(share, limit)}
    with tempfile.NamedTemporaryFile() as log:
        receiver, sender = args.context.Pipe(duplex=False)
        process = args.context.Process(target=gpu_cells.run, args=(order, sender, log.name))
        process.start()
        sender.close()
        found: dict[str, Any] = {"left_out": f"took longer than its share ({limit:.0f} s)"}
        if receiver.poll(limit):
            try:
                found = receiver.recv()
            except EOFError:
                process.join(5)
                said = Path(log.name).read_text(errors="replace").strip().splitlines()
                last = f": {said[-1][:200]}" if said else ""
                found = {"left_out": f"the process ended with code {process.exitcode}{last}"}
        process.kill()
        process.join()
    took = time.time() - began
    if "step_s" in found and not cell["compile"]:
        clock.start_s = max(clock.start_s, took - found["step_s"] * found["steps"])
    return cell | found | {"took_s": round(took, 1)}


def asked_for_by_memory(row: Cell, rows: list[Cell], waiting: list[Cell]) -> list[Cell]:
    """Give the cell that saves memory where this one had too little."""
    if not row.get("out_of_memory") or row["kind"] != "training" or row["checkpointing"]:
        return []
    cell = training(row["model"], row["precision"], row["size"], checkpointing=True)
    known = [*rows, *waiting]
    return [] if any(all(c.get(k) == v for k, v in cell.items()) for c in known) else [cell]


def run(args: argparse.Namespace) -> list[Cell]:
    """Measure every cell that fits into the time."""
    clock, waiting, rows = Clock(args.minutes), plan(args), []
    while waiting:
        cell = waiting.pop(0)
        row = measure(cell, clock, waiting, args)
        rows.append(row)
        waiting[:0] = asked_for_by_memory(row, rows, waiting)
        if not args.reduced:
            state = row.get("left_out", "measured")
            about = [str(row[k]) for k in ("kind", "model", "precision", "size") if k in row]
            print(f"{' '.join(about)}: {state} ({clock.left():.0f} s left)", flush=True)
    return rows


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", choices=["cuda", "cpu"], help="cpu: the reduced form")
    parser.add_argument("--sizes", type=int, nargs="+", help="of the slices; 1200 2048")
    parser.add_argument("--width", type=int)
    parser.add_argument("--depth", type=int)
    parser.add_argument("--compile", action="store_true", help="in the reduced form, too")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    if args.device == "cuda" and not has_gpu:
        parser.error("no CUDA device is here; --device cpu runs the reduced form")
    args.reduced = not has_gpu or args.device == "cpu"
    args.sizes = args.sizes or ([32, 48] if args.reduced else [1200, 2048])
    args.form = {
        "width": args.width or (2 if args.reduced else 32),
        "depth": args.depth or (2 if args.reduced else 4),
        "most_steps": 2 if args.reduced else gpu_cells.EPOCH_STEPS,
        "training_steps": 8 if args.reduced else 150,
        "slices": 2 if args.reduced else 6,
    }
    # A GPU's context does not survive a fork; without one a fork saves the imports.
    args.context = multiprocessing.get_context("fork" if args.reduced else "spawn")
    if args.reduced:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401 - the slowest import

    began = time.time()
    rows = run(args)
    add_savings(rows)
    facts = {
        "reduced": args.reduced,
        "minutes": args.minutes,
        "took_s": round(time.time() - began, 1),
        "batch": 1,
        "slices": "whole",
        "network": {key: args.form[key] for key in ("width", "depth")},
    }
    name = "gpu-reduced" if args.reduced else "gpu"
    if args.out is None and not args.reduced:
        slug = "".join(c if c.isalnum() else "-" for c in common.gpu().lower())
        args.out = common.RESULTS / f"gpu-{slug}.json"
    path = common.write_result(
        name,
        rows,
        args.out,
        versions=common.versions("torch", "deepspeed", "triton")
        | {"cuda": str(torch.version.cuda)},
        gpu=common.gpu(),
        talk_saved=TALK,
        aim_for_resattunet=AIM,
        **facts,
    )
    print(path)
    show(rows, facts)


if __name__ == "__main__":
    main()
