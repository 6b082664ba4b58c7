"""What a run gives away: ``model.safetensors`` with ``model.json``, and the best models so far."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from hpc_srct import console
from hpc_srct.errors import InputError
from hpc_srct.models.files import load_weights, save_model
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.slices import SliceStore
from hpc_srct.training import run_folder


def describe(
    settings: ExperimentSettings,
    stores: list[SliceStore],
    normalisation: dict[str, Any],
    run: str,
    parameters: int,
) -> dict[str, Any]:
    """Say what a model is and where it comes from, for ``model.json``."""
    return {
        "architecture": settings.model.name,
        "width": settings.model.width,
        "depth": settings.model.depth,
        "channels": 1,
        "normalisation": normalisation,
        "input": settings.input,
        "low_filter": stores[0].low_filter,
        "label": settings.label,
        "stores": [str(store.path.resolve()) for store in stores],
        "precision": settings.precision,
        "parameters": parameters,
        "provenance": {
            "run": run,
            "name": settings.name,
            "seed": settings.seed,
            "loss": settings.loss,
            "init_from": settings.init_from,
            "versions": run_folder.versions(),
        },
    }


def moment(entry: dict[str, Any]) -> dict[str, Any]:
    """Turn an entry of the best validations into what ``model.json`` says of it."""
    return {
        "step": entry["step"],
        "epoch": entry["epoch"],
        "validation": {"psnr": entry["psnr"], "loss": entry["loss"]},
    }


def with_moment(description: dict[str, Any], **figures: Any) -> dict[str, Any]:
    """Add when the weights were taken (step, epoch, validation) to a description."""
    when = {"written": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **figures}
    return description | {"provenance": description["provenance"] | when}


class BestModels:
    """The models of the best validations, as ``checkpoints/best-STEP.safetensors``.

    They are ranked by PSNR, or by loss where no validation slice has a PSNR.

    Parameters
    ----------
    folder
        The run's ``checkpoints`` folder.
    keep
        How many.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def path(self, step: int) -> Path:
        """Give the file of a step's model."""
        return self.folder / f"best-{step:08d}.safetensors"

    def wants(self, best: list[dict[str, Any]], entry: dict[str, Any]) -> bool:
        """Tell whether a validation is among the best; of equals the earlier one stays."""
        merit = _merit(entry)
        kept = best[: self.keep]
        return math.isfinite(merit) and (
            len(kept) < self.keep or any(merit > _merit(former) for former in kept)
        )

    def write(
        self, entry: dict[str, Any], weights: dict[str, Tensor], description: dict[str, Any]
    ) -> None:
        """Write the model of one validation."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_model(weights, with_moment(description, **moment(entry)), self.path(entry["step"]))

    def ranked(self, best: list[dict[str, Any]], entry: dict[str, Any]) -> list[dict[str, Any]]:
        """Put an entry in its place; sorting is stable, so of equals the earlier comes first."""
        return sorted([*best, entry], key=lambda e: -_merit(e))[: self.keep]

    def prune(self, best: list[dict[str, Any]]) -> None:
        """Remove the models that are not in the list."""
        kept = {self.path(entry["step"]).stem for entry in best}
        for file in self.folder.glob("best-*"):
            if file.stem not in kept:
                file.unlink(missing_ok=True)

    def is_there(self, entry: dict[str, Any]) -> bool:
        """Tell whether a model is still there and whole; say so where it is not."""
        try:
            self.weights(entry)
        except InputError as error:
            console.warn(f"{error}\nThe last weights are given away instead of the best.")
            return False
        return True

    def weights(self, entry: dict[str, Any]) -> dict[str, Tensor]:
        """Read a model's weights back."""
        return load_weights(self.path(entry["step"]))[0]


def measure(entry: dict[str, Any]) -> str:
    """Name what a validation is ranked by."""
    return "loss" if entry["psnr"] is None else "PSNR"


def _merit(entry: dict[str, Any]) -> float:
    return -entry["loss"] if entry["psnr"] is None else entry["psnr"]
