"""Training steps in half precision on a CPU: rounded fp32 arithmetic beside PyTorch's own.

    python benchmarks/half_precision.py [--width 16] [--tile 128]

Forward and backward of one tile on one thread, taking turns, least processor time of each. Where
the CPU has the units for a precision both ways are the same.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from unittest import mock

import torch
from common import versions, write_result

from hpc_srct.models import NAMES, build, convolution

DTYPES = {"O0": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def step_s(model: torch.nn.Module, tile: torch.Tensor) -> float:
    """Give the processor time of one forward and backward."""
    start = time.process_time()
    model.zero_grad()
    (model(tile) - 0.9 * tile).square().mean().backward()
    return time.process_time() - start


def main() -> None:
    """Measure and write ``results/half_precision-….json``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    words = parser.parse_args()
    torch.set_num_threads(1)
    best: dict[tuple[str, str, bool], float] = {}
    for _ in range(words.repeats):
        for network in NAMES:
            for precision, dtype in DTYPES.items():
                for own in (False,) if precision == "O0" else (False, True):
                    model = build(network, words.width).to(dtype)
                    tile = torch.randn(1, 1, words.tile, words.tile).to(dtype)
                    lacks = (lambda dtype: False) if own else convolution.cpu_lacks
                    with mock.patch.object(convolution, "cpu_lacks", lacks):
                        seconds = step_s(model, tile)
                    key = network, precision, own
                    best[key] = min(best.get(key, seconds), seconds)
    lines = [
        {
            "network": network,
            "precision": precision,
            "convolutions": "PyTorch's own" if own else "ours",
            "cpu_s": round(seconds, 4),
            "over_O0": round(seconds / best[network, "O0", False], 2),
        }
        for (network, precision, own), seconds in best.items()
    ]
    for line in lines:
        print(json.dumps(line))
    sizes = {"width": words.width, "tile": words.tile, "batch": 1, "repeats": words.repeats}
    print(write_result("half_precision", lines, words.out, versions=versions("torch"), sizes=sizes))


if __name__ == "__main__":
    main()
