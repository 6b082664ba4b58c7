"""What `srct demo` and `srct study` read: scans, how to reconstruct them, and runs to compare.

One file describes an experiment from the scans to the table, so that one command repeats it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hpc_srct.settings.base import Settings, flat
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.settings.simulation import SimulationSettings

Precision = Literal["O0", "O2", "bf16"]
Seeds = Annotated[tuple[int, ...], Field(min_length=1)]

# How a study is run and judged: may change when it goes on.
FREE = (
    "ranks",
    "parallel",
    "evaluate",
    "slices",
    "experiment.test",
    "experiment.emulate_fp16",
)


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
        A run for each combination; the name of a run is ``MODEL-PRECISION-SEED``. Where not all
        precisions are worth as many seeds, `seeds` names them for each: ``{O0: [0, 1], O2: [0]}``.
    ranks
        MPI ranks of the preprocessing.
    parallel
        How many runs train at once, each on its share of the cores. Small networks use two
        cores better with a run on each.
    evaluate
        Whose stores the table judges on: ``train``, ``validation``, ``test``.
    slices
        The table judges on at most so many slices of each store, evenly spread; null: on all.
    """

    name: str = "study"
    scans: dict[str, SimulationSettings | str] = Field(min_length=1)
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    ranks: int = Field(2, ge=1)
    experiment: ExperimentSettings
    models: tuple[str, ...] = Field(("unet", "resattunet"), min_length=1)
    precisions: tuple[Precision, ...] = Field(("O0",), min_length=1)
    seeds: Seeds | dict[Precision, Seeds] = (0,)
    parallel: int = Field(1, ge=1)
    evaluate: tuple[Literal["train", "validation", "test"], ...] = Field(("test",), min_length=1)
    slices: int | None = Field(None, ge=1)

    @field_validator("scans")
    @classmethod
    def _names_are_file_names(cls, scans: dict[str, Any]) -> dict[str, Any]:
        for name in scans:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"the scan name '{name}' may hold letters, digits, - and _ only")
        return scans

    @model_validator(mode="after")
    def _every_precision_has_seeds(self) -> StudySettings:
        if isinstance(self.seeds, dict) and set(self.seeds) != set(self.precisions):
            raise ValueError(
                f"seeds are named for {', '.join(self.seeds)}, precisions are"
                f" {', '.join(self.precisions)}: name the same"
            )
        return self

    def differences(self, other: StudySettings) -> list[str]:
        """Name where scans, stores and runs are not those of another study, and how."""
        mine, its = flat(self.dump()), flat(other.dump())
        return [
            f"{key}={mine.get(key)!r}, now {its.get(key)!r}"
            for key in sorted(mine.keys() | its.keys())
            if mine.get(key) != its.get(key) and key not in FREE
        ]

    def seeds_of(self, precision: Precision) -> tuple[int, ...]:
        """Seeds of the runs in one precision."""
        return self.seeds[precision] if isinstance(self.seeds, dict) else self.seeds

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
