"""Many runs from one file, on Slurm or on this machine; and the batch jobs of the whole road.

Nothing here imports torch: a login node has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc_srct.sweeps.command import run_sweep
    from hpc_srct.sweeps.sweep import Sweep

__all__ = ["Sweep", "run_sweep"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: batch scripts call small modules of this package, often.
    if name == "Sweep":
        from hpc_srct.sweeps.sweep import Sweep

        return Sweep
    if name == "run_sweep":
        from hpc_srct.sweeps.command import run_sweep

        return run_sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
