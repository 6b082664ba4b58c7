"""Training with DeepSpeed: precision, checkpoints, telemetry, and the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from hpc_srct.settings.experiment import ExperimentSettings

__all__ = ["train"]


def train(settings: ExperimentSettings, run_dir: Path | str, resume: bool = False) -> None:
    """Train one network; see `hpc_srct.training.loop.train`."""
    # Imported here: torch and DeepSpeed take seconds, and most commands need neither.
    from hpc_srct.training import loop

    loop.train(settings, run_dir, resume)
