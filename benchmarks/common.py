"""What every benchmark shares: the machine in words, versions, timing, and the JSON of a run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hpc_srct

RESULTS = Path(__file__).resolve().parent / "results"


def processor() -> str:
    """Name the processor as its maker does."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"model name\s*:\s*(.+)", text)
    return match.group(1).strip() if match else platform.machine()


def machine() -> dict[str, Any]:
    """Describe the machine: what a figure depends on, nothing that names it."""
    described: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2),
    }
    try:
        described["memory_gib"] = round(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
        )
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
        described["vector"] = [f for f in ("avx2", "avx512f", "amx_tile") if f in flags]
    except (OSError, ValueError):
        pass
    return described


def gpu() -> str | None:
    """Name the first CUDA device; None where there is none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def versions(*names: str) -> dict[str, str]:
    """Give Python's version and those of the named distributions that are installed."""
    found = {"python": platform.python_version(), "hpc_srct": hpc_srct.__version__}
    for name in ("numpy", *names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


_KEEPER = """
import mmap, sys, time
piece, least, most = 2**26, 3 * 2**27, int(sys.argv[1])
def free():
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemFree:"))
held, zeros = [], bytes(2**20)
while free() > least + piece and len(held) * piece < most:
    held.append(mmap.mmap(-1, piece, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    held[-1].madvise(mmap.MADV_HUGEPAGE)
    for _ in range(piece // len(zeros)):
        held[-1].write(zeros)
print(len(held) * piece, flush=True)
while held:
    while held and free() < least:
        held.pop().close()
    time.sleep(0.005)
"""


@contextlib.contextmanager
def memory_at_hand(most: int = 2**40) -> Iterator[int]:
    """Hold the free memory, and let it go piece by piece as it is asked for; give its bytes.

    A virtual machine gives memory that lies free for seconds back to its host, and gets it again
    at 1 to 3 s a GiB: ten times the price of a fresh page, for arrays and for files written. A
    machine of one's own has it at hand.
    """
    words = [sys.executable, "-c", _KEEPER, str(most)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as keeper:
        try:
            yield int(keeper.stdout.readline())
        finally:
            keeper.kill()


def timed(work: Callable[[], Any], repeats: int = 3) -> dict[str, float]:
    """Time one piece of work; see `timed_in_turns`."""
    return timed_in_turns({"": work}, repeats)[""]


def timed_in_turns(
    works: Mapping[str, Callable[[], Any]], repeats: int = 3
) -> dict[str, dict[str, float]]:
    """Time several pieces of work, taking turns, so that a busy minute hits all of them.

    Returns
    -------
    dict
        For each: ``best_s`` and ``median_s``, wall; ``cpu_s``, least processor time, which on a
        machine that others share is the steadier one for work on a single thread.
    """
    walls: dict[str, list[float]] = {name: [] for name in works}
    own: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            wall, processor_time = time.perf_counter(), time.process_time()
            work()
            walls[name].append(time.perf_counter() - wall)
            own[name].append(time.process_time() - processor_time)
    return {
        name: {
            "best_s": min(walls[name]),
            "median_s": statistics.median(walls[name]),
            "cpu_s": min(own[name]),
            "repeats": repeats,
        }
        for name in works
    }


def write_result(
    name: str, rows: Sequence[dict[str, Any]], out: Path | None = None, **facts: Any
) -> Path:
    """Write one run as JSON.

    Parameters
    ----------
    name
        Of the benchmark; the file is ``results/NAME-PROCESSOR.json`` where `out` is None.
    rows
        One mapping per line of the table.
    facts
        Anything else that the figures depend on: versions, sizes, conventions.
    """
    if out is None:
        slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
        out = RESULTS / f"{name}-{slug}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        **facts,
        "rows": list(rows),
    }
    out.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    return out
