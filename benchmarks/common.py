"""What every benchmark shares: the machine in words, versions, timing, and the JSON of a run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
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


@contextlib.contextmanager
def memory_group(name: str, limit: int) -> Iterator[list[str]]:
    """Make a control group with so much memory, page cache included, as Slurm makes for a job.

    On a virtual machine memory that lies free for seconds goes back to the host, and comes again
    at 1 to 4 s a GiB: ten times the price of a fresh page, for arrays and for files written. In a
    group that is kept from run to run, pages for a new file are taken from those of an old one.

    Yields
    ------
    list of str
        What a command in it begins with; nothing where no group can be made (not root, no Linux,
        control groups of version 2).
    """
    group = None
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        inside = next(line.partition(":memory:")[2] for line in groups if ":memory:" in line)
        group = Path(f"/sys/fs/cgroup/memory{inside}") / name
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(limit))
        command = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    except (OSError, StopIteration):
        command = []
    try:
        yield command
    finally:
        if group is not None:
            with contextlib.suppress(OSError):
                group.rmdir()


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
