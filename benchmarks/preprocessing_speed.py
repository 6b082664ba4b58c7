"""The whole chain of preprocessing against its two FBPs, and two ranks against one.

    python benchmarks/preprocessing_speed.py [--columns 2048] [--views 1500] [--rows 64]

A raw scan of random counts is preprocessed on one rank and on two, one thread each, taking
turns, with rings left and with rings removed. The times are apart: reading, correcting (with
rings, where asked for, and the slices' intensity), exchanging, the two FBPs (all views, and every
sixth) alone, writing. What a rank does once (its projectors, numba) weighs less the more rows
there are. Two ranks need two cores that nobody else uses; the load before the run is in the JSON.
The machine's free memory is held for each run (`common.memory_at_hand` says why).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import memory_at_hand, versions, write_result
from preprocessing_memory import measure, random_scan

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
    parser.add_argument("--scratch", type=Path, help="where the scan and the stores are made")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    words = parser.parse_args()
    centre = f"centre={(words.columns - 1) / 2}"
    kinds = {k: v for k, v in KINDS.items() if not (words.without_rings and "rings" in k)}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory(dir=words.scratch) as folder:
        scan, store = Path(folder) / "scan.h5", Path(folder) / "store"
        random_scan(scan, words.rows, words.views, words.columns, chunked=False)
        for turn in range(words.repeats):
            for name, (ranks, settings) in kinds.items():
                with memory_at_hand():
                    runs[name].append(measure(scan, store, ranks, [centre, *settings]))
                shutil.rmtree(store)
                print(f"{turn + 1}/{words.repeats} {name}: {runs[name][-1]['seconds']:.1f} s")
    lines = [described(name, found) for name, found in runs.items()]
    pairs = zip(runs["one rank"], runs["two ranks"], strict=True)
    ratios = sorted(one["seconds"] / two["seconds"] for one, two in pairs)
    path = write_result(
        "preprocessing_speed",
        lines,
        words.out,
        versions=versions("h5py", "numba", "mpi4py", "mpich", "torch"),
        sizes={"views": words.views, "columns": words.columns, "rows": words.rows, "low": "1/6"},
        two_ranks_over_one={"median": round(statistics.median(ratios), 2), "all": ratios},
    )
    for line in lines:
        print(json.dumps(line))
    print(f"two ranks are {statistics.median(ratios):.2f} times as fast as one ({ratios})")
    print(path)


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
