"""Peak memory of preprocessing, per rank: it does not grow with the scan, and is foretold.

    python benchmarks/preprocessing_memory.py [--views 512] [--columns 1024] [--rows 32 64]

Raw scans of random counts are made (the figures do not depend on what is in them), kept whole
or one frame a chunk, and preprocessed on 1, 2 and 3 ranks. A scan far larger than the memory:

    --columns 512 --views 2048 --rows 4096 --stored by-frame --memory 512MiB

which is 8 GiB of frames. For each: the peak resident memory of the ranks beside the prediction,
the passes over the scan, and the time apart for reading, correcting, exchanging, the two FBPs,
and writing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from common import versions, write_result

MIB = 2**20
DRIVER = """
import dataclasses, json, sys
from hpc_srct.preprocessing import preprocess
from hpc_srct.ranks import communicator
from hpc_srct.settings.base import load
from hpc_srct.settings.preprocessing import PreprocessingSettings
ranks = communicator()
settings = load(PreprocessingSettings, overrides=sys.argv[3:])
done = preprocess(sys.argv[1], sys.argv[2], settings, ranks)
if ranks.rank == 0:
    print("RESULT " + json.dumps({
        "slices": done.slices, "seconds": done.seconds, "plan": done.plan.describe(),
        "times": [dataclasses.asdict(times) for times in done.times],
        "peak": done.peak_memory,
    }))
"""


def random_scan(path: Path, rows: int, views: int, columns: int, chunked: bool) -> None:
    """Write a raw scan of random counts behind an object of constant thickness."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "exchange/data",
            (views, rows, columns),
            np.uint16,
            chunks=(1, rows, columns) if chunked else None,
            compression="lzf" if chunked else None,
        )
        for view in range(views):
            data[view] = rng.integers(4000, 5000, (rows, columns), dtype=np.uint16)
        for name, level in (("data_white", 20000), ("data_dark", 100)):
            frames = rng.integers(level - 50, level + 50, (10, rows, columns), dtype=np.uint16)
            file[f"exchange/{name}"] = frames
        file["exchange/theta"] = np.arange(views) * 180 / views
        file["exchange/theta"].attrs["units"] = "deg"


def measure(
    scan: Path, store: Path, ranks: int, settings: list[str], before: Sequence[str] = ()
) -> dict[str, Any]:
    """Preprocess a scan on so many ranks; give what the run says of itself."""
    mpiexec = Path(sys.executable).parent / "mpiexec"
    launcher = [str(mpiexec), "-n", str(ranks)] if ranks > 1 else []
    answer = subprocess.run(
        [*before, *launcher, sys.executable, "-c", DRIVER, str(scan), str(store), *settings],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if answer.returncode:
        raise SystemExit(answer.stderr)
    line = next(line for line in answer.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def main() -> None:
    """Measure and write ``results/preprocessing_memory-….json``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--views", type=int, default=512)
    parser.add_argument("--columns", type=int, default=1024)
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--memory", default="400MiB", help="limit for scans chunked by frame")
    parser.add_argument(
        "--stored", nargs="+", default=["whole", "by-frame"], choices=["whole", "by-frame"]
    )
    parser.add_argument("--scratch", type=Path, help="where scans and stores are made")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    words = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory(dir=words.scratch) as folder:
        for chunked in (stored == "by-frame" for stored in words.stored):
            for rows in words.rows:
                scan = Path(folder) / f"scan-{rows}-{chunked}.h5"
                random_scan(scan, rows, words.views, words.columns, chunked)
                frames = words.views * rows * words.columns * 2
                for ranks in words.ranks:
                    store = Path(folder) / f"store-{rows}-{chunked}-{ranks}"
                    settings = [f"centre={(words.columns - 1) / 2}"]
                    settings += [f"memory={words.memory}"] if chunked else []
                    done = measure(scan, store, ranks, settings)
                    lines.append(described(done, chunked, rows, ranks))
                    lines[-1]["frames_gib"] = round(frames / 2**30, 2)
                    shutil.rmtree(store)
                    print(json.dumps(lines[-1]))
                scan.unlink()
    path = write_result(
        "preprocessing_memory",
        lines,
        words.out,
        versions=versions("h5py", "numba", "mpi4py", "mpich"),
        sizes={"views": words.views, "columns": words.columns, "low_views": "1/6"},
        limit_when_chunked_by_frame=words.memory,
    )
    print(path)


def described(done: dict[str, Any], chunked: bool, rows: int, ranks: int) -> dict[str, Any]:
    """Make one line of the table."""
    peak, foretold = max(done["peak"]) / MIB, done["plan"]["memory"] / MIB
    busiest = max(done["times"], key=lambda times: times["reconstruct"])
    return {
        "stored": "by frame" if chunked else "whole",
        "rows": rows,
        "ranks": ranks,
        "peak_mib": round(peak),
        "foretold_mib": round(foretold),
        "foretold_over_peak": round(foretold / peak, 2),
        "passes": done["plan"]["passes"],
        "rows_held": done["plan"]["rows_per_rank"],
        "seconds": round(done["seconds"], 2),
        "seconds_apart_busiest_rank": {key: round(value, 2) for key, value in busiest.items()},
        "all_over_the_two_fbps": round(done["seconds"] / busiest["reconstruct"], 2),
    }


if __name__ == "__main__":
    main()
