"""How much memory this process takes, and took at most."""

from __future__ import annotations

import resource
from pathlib import Path

from hpc_srct.preprocessing.plan import INTERPRETER


def used_memory() -> int:
    """Bytes resident now; a usual figure where the system does not tell."""
    return _status("VmRSS:") or INTERPRETER


def peak_memory() -> int:
    """Most bytes that were resident at once."""
    # Not ru_maxrss alone: it starts with what the launching process had.
    return _status("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)
