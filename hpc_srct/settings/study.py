"""What `srct demo` and `srct study` read: scans, how to reconstruct them, and runs to compare.

One file describes an experiment from the scans to the table, so that one command repeats it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from hpc_srct.settings.base import Settings
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.settings.simulation import SimulationSettings


class StudySettings(Settings):
    """Scans, their reconstruction, and the runs that are trained and compared on them.

    Attributes
    ----------
    scans
        A name for each scan: how to simulate it, or the path of a raw scan.
    preprocessing
        How every scan becomes a slice store.
    experiment
        What all runs share. Its `train`, `validation` and `test` name scans of this study, or
        slice stores made elsewhere.
    models, precisions, seeds
        A run for each combination; the name of a run is ``MODEL-PRECISION-SEED``.
    ranks
        MPI ranks of the preprocessing.
    """

    name: str = "study"
    scans: dict[str, SimulationSettings | str] = Field(min_length=1)
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    ranks: int = Field(2, ge=1)
    experiment: ExperimentSettings
    models: tuple[str, ...] = Field(("unet", "resattunet"), min_length=1)
    precisions: tuple[Literal["O0", "O2", "bf16"], ...] = Field(("O0",), min_length=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)

    @field_validator("scans")
    @classmethod
    def _names_are_file_names(cls, scans: dict[str, Any]) -> dict[str, Any]:
        for name in scans:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"the scan name '{name}' may hold letters, digits, - and _ only")
        return scans

    @model_validator(mode="after")
    def _worlds_differ(self) -> StudySettings:
        # Test slices drawn from the training phantoms would measure memory, not skill.
        seeds = {n: s.seed for n, s in self.scans.items() if isinstance(s, SimulationSettings)}
        roles = ("train", "validation", "test")
        seen: dict[int, str] = {}
        for role in roles:
            for name in getattr(self.experiment, role):
                other = seen.setdefault(seeds[name], role) if name in seeds else role
                if other != role:
                    raise ValueError(f"the {other} and {role} scans share a seed: same phantoms")
        return self
