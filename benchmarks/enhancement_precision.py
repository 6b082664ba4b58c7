"""Enhancement in O0, bf16 and fp16: slices per second, and what the precision costs in dB.

    python benchmarks/enhancement_precision.py --pairs runs/unet=stores/test

Each pair is a trained run (or a .safetensors file) and a store with its label. The precisions take
turns slice by slice, so that a busy minute hits all of them. The difference in dB is that of the
PSNR against the label (convention of the tables); `agreement` is the PSNR of a precision's slices
against those of O0, with the label's range. A time is that of `Enhancer.enhance`: normalising,
the way to the device and back included, reading and writing left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import common
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hpc_srct.enhancement import Enhancer
from hpc_srct.errors import SrctError
from hpc_srct.evaluation import metrics
from hpc_srct.models.convolution import cpu_lacks
from hpc_srct.models.files import load_model
from hpc_srct.slices import SliceStore

PRECISIONS = {"O0": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def measure(
    network: tuple[torch.nn.Module, dict[str, Any]],
    low: np.ndarray,
    labels: np.ndarray,
    scale: float,
    field_of_view: float,
    precisions: Sequence[str] = tuple(PRECISIONS),
    device: str | None = None,
    seconds: float = float("inf"),
) -> list[dict[str, Any]]:
    """Enhance slices in several precisions; a row for each.

    Parameters
    ----------
    network
        Module and description, as `load_model` gives them.
    low, labels
        (slice, y, x), attenuation per pixel.
    scale, field_of_view
        Of the store.
    seconds
        When this time is spent no further slice is begun (one is always done).
    """
    began = time.perf_counter()
    rows: dict[str, dict[str, Any]] = {}
    enhancers: dict[str, Enhancer] = {}
    for name in precisions:
        try:
            enhancers[name] = Enhancer(*network, precision=name, device=device)
            enhancers[name].enhance(low[0], scale)  # warms up
            rows[name] = {"precision": name}
        except SrctError as error:
            enhancers.pop(name, None)
            rows[name] = {"precision": name, "left_out": str(error).splitlines()[0]}
    mask = metrics.evaluation_mask(low.shape[1:], field_of_view)
    times: dict[str, list[float]] = {name: [] for name in enhancers}
    psnr: dict[str, list[float]] = {name: [] for name in enhancers}
    agreement: dict[str, list[float]] = {name: [] for name in enhancers}
    for image, label in zip(low, labels, strict=True):
        results = {}
        for name, enhancer in enhancers.items():
            start = time.perf_counter()
            results[name] = enhancer.enhance(image, scale)
            times[name].append(time.perf_counter() - start)
            psnr[name].append(metrics.psnr(results[name], label, mask))
        span = metrics.data_range(label, mask)
        for name in results.keys() - {"O0"} if "O0" in results else ():
            agreement[name].append(metrics.psnr(results[name], results["O0"], mask, span))
        if time.perf_counter() - began > seconds:
            break
    for name, enhancer in enhancers.items():
        lacking = enhancer.device.type == "cpu" and cpu_lacks(PRECISIONS[name])
        rows[name] |= {
            "slices_per_s": 1 / statistics.median(times[name]),
            "slices": len(times[name]),
            "size": list(low.shape[1:]),
            "psnr": statistics.mean(psnr[name]),
            "emulated": lacking,
        }
        if "O0" in psnr:
            rows[name]["difference_db"] = rows[name]["psnr"] - statistics.mean(psnr["O0"])
        if agreement[name]:
            rows[name]["agreement_db"] = statistics.mean(agreement[name])
    return [rows[name] for name in precisions]


def of_pair(pair: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one run on one store."""
    run, _, path = pair.partition("=")
    module, description = load_model(run)
    store = SliceStore(path)
    chosen = np.linspace(0, store.n_slices - 1, min(args.slices, store.n_slices)).astype(int)
    low, labels = (
        np.stack([store.read(description[key], int(i)) for i in chosen])
        for key in ("input", "label")
    )
    view, scale = store.field_of_view or min(store.size) / 2, store.scale
    store.close()
    rows = measure((module, description), low, labels, scale, view, args.precisions, args.device)
    about = {
        "run": Path(run).name,
        "store": "/".join(Path(path).parts[-3:]),
        "model": description["architecture"],
        "width": description["width"],
        "label": description["label"],
        "trained_in": description["precision"],
    }
    return [about | row for row in rows]


def show(rows: list[dict[str, Any]]) -> Table:
    """Make the table."""
    table = Table(title="Enhancement")
    for column in ("network", "size", "precision", "slices/s", "PSNR, dB", "against O0, dB"):
        table.add_column(column)
    table.add_column("agreement, dB")
    for row in rows:
        network = f"{row['model']} {row['width']}"
        if "left_out" in row:
            table.add_row(network, "", row["precision"], f"left out: {row['left_out']}")
            continue
        table.add_row(
            network,
            "×".join(map(str, row["size"])),
            row["precision"] + (" (emulated)" if row["emulated"] else ""),
            f"{row['slices_per_s']:.3g}",
            f"{row['psnr']:.3f}",
            f"{row['difference_db']:+.4f}" if "difference_db" in row else "",
            f"{row['agreement_db']:.1f}" if "agreement_db" in row else "",
        )
    return table


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pairs", nargs="+", required=True, metavar="RUN=STORE")
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = [row for pair in args.pairs for row in of_pair(pair, args)]
    Console(width=110).print(show(rows))
    print(metrics.convention())
    path = common.write_result(
        "enhancement",
        rows,
        args.out,
        versions=common.versions("torch"),
        gpu=common.gpu(),
        threads=torch.get_num_threads(),
        convention=metrics.convention(),
    )
    print(path)


if __name__ == "__main__":
    main()
