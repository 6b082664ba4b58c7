"""The whole chain of preprocessing against its two FBPs, and two ranks against one.

    python benchmarks/preprocessing_speed.py [--columns 2048] [--views 1500] [--rows 64]

A raw scan of random counts is preprocessed on one rank and on two, one thread each, taking
turns, with rings left and with rings removed. The times are apart: reading, correcting (with
rings, where asked for, and the slices' intensity), exchanging, the two FBPs (all views, and every
sixth) alone, writing. What a rank does once (its projectors, numba) weighs less the more rows
there are. Each rank has `--memory-a-rank` to itself, page cache included, where control groups
can be made (`common.memory_group`).

Two ranks need two cores that nobody else uses. What two cores are worth is measured beside them:
FBPs of one kind over and over, in one process and in two at once that know nothing of each other.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import memory_group, versions, write_result
from preprocessing_memory import measure, random_scan

from hpc_srct.settings.preprocessing import bytes_of

KINDS = {
    "one rank": (1, []),
    "two ranks": (2, []),
    "one rank, rings sorting": (1, ["rings=sorting"]),
    "one rank, rings all-stripe": (1, ["rings=all"]),
}


def main() -> None:
    """Measure and write ``results/preprocessing_speed-….json``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--views", type=int, default=1500)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without-rings", action="store_true", help="leave these runs out")
    parser.add_argument("--memory-a-rank", default="1792MiB")
    parser.add_argument("--scratch", type=Path, help="where the scan and the stores are made")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    words = parser.parse_args()
    centre = f"centre={(words.columns - 1) / 2}"
    kinds = {k: v for k, v in KINDS.items() if not (words.without_rings and "rings" in k)}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    a_rank = bytes_of(words.memory_a_rank)
    with (
        tempfile.TemporaryDirectory(dir=words.scratch) as folder,
        memory_group("one-rank", a_rank) as alone,
        memory_group("two-ranks", 2 * a_rank) as both,
    ):
        scan = Path(folder) / "scan.h5"
        random_scan(scan, words.rows, words.views, words.columns, chunked=False)
        for turn in range(words.repeats):
            for name, (ranks, settings) in kinds.items():
                store, before = (Path(folder) / f"{name}-{(turn + i) % 2}" for i in (0, 1))
                group = alone if ranks == 1 else both
                runs[name].append(measure(scan, store, ranks, [centre, *settings], group))
                shutil.rmtree(before, ignore_errors=True)  # its pages went to the new one
                print(f"{turn + 1}/{words.repeats} {name}: {runs[name][-1]['seconds']:.1f} s")
    cores = two_cores_over_one(words.columns, words.views)
    lines = [described(name, found) for name, found in runs.items()]
    pairs = zip(runs["one rank"], runs["two ranks"], strict=True)
    ratios = sorted(one["seconds"] / two["seconds"] for one, two in pairs)
    path = write_result(
        "preprocessing_speed",
        lines,
        words.out,
        versions=versions("h5py", "numba", "mpi4py", "mpich", "torch"),
        sizes={"views": words.views, "columns": words.columns, "rows": words.rows, "low": "1/6"},
        memory_a_rank=words.memory_a_rank if alone and both else "not limited",
        two_ranks_over_one={"median": round(statistics.median(ratios), 2), "all": ratios},
        two_processes_over_one_in_fbps_alone=cores,
    )
    for line in lines:
        print(json.dumps(line))
    print(f"two ranks are {statistics.median(ratios):.2f} times as fast as one ({ratios})")
    print(f"two processes do {cores:.2f} times as many FBPs as one in the same time")
    print(path)


FBPS = """
import sys, time
import numpy as np
from hpc_srct.tomography.projector import Projector
columns, views, seconds = int(sys.argv[1]), int(sys.argv[2]), 10.0
projector = Projector(np.arange(views) * np.pi / views, columns)
sinograms = np.random.default_rng(0).random((8, views, columns), dtype=np.float32)
out = np.zeros((8, columns, columns), np.float32)
projector.fbp(sinograms, out=out)
print(flush=True)
sys.stdin.readline()
start, done = time.perf_counter(), 0
while time.perf_counter() < start + seconds:
    projector.fbp(sinograms, out=out)
    done += 1
print(done / (time.perf_counter() - start))
"""


def two_cores_over_one(columns: int, views: int) -> float:
    """Say how many times as many FBPs two processes make as one in the same time."""

    def rate(processes: int) -> float:
        words = [sys.executable, "-c", FBPS, str(columns), str(views)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started = [subprocess.Popen(words, **pipes) for _ in range(processes)]
        for one in started:
            one.stdout.readline()
        for one in started:
            one.stdin.write("\n")
            one.stdin.flush()
        return sum(float(one.communicate()[0]) for one in started)

    return round(statistics.median(rate(2) / rate(1) for _ in range(3)), 2)


def described(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Make one line: the fastest of the runs, its parts, and the chain over its FBPs."""
    best = min(runs, key=lambda run: run["seconds"])
    busiest = max(best["times"], key=lambda times: sum(times.values()))
    over = sorted(
        run["seconds"] / max(times["reconstruct"] for times in run["times"]) for run in runs
    )
    return {
        "run": name,
        "seconds": round(best["seconds"], 2),
        "seconds_a_slice": round(best["seconds"] / best["slices"], 3),
        "apart_s": {key: round(value, 2) for key, value in busiest.items()},
        "all_over_the_two_fbps": round(statistics.median(over), 2),
    }


if __name__ == "__main__":
    main()
