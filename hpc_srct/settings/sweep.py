"""What `srct sweep` reads: one experiment, and what to vary in it.

::

    name: talk
    experiment: talk-small.yaml
    grid:
      model.name: [unet, resattunet]
      precision: [O0, O2]
      seed: [1, 2, 3]
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from hpc_srct.settings.base import Settings


def _name(value: str) -> str:
    # It names folders and Slurm jobs.
    if not value.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ValueError("expected a name of letters, digits and - _ .")
    return value


class SweepSettings(Settings):
    """Many runs of one experiment.

    Attributes
    ----------
    name
        Of the sweep, its folder and its Slurm jobs.
    experiment
        The settings that all runs share: a file, found beside this one or among those shipped;
        or the settings themselves.
    set
        Values laid over the experiment for all runs: ``{epochs: 20}``.
    grid
        Values to try for any setting, in every combination: ``{optimizer.learning_rate: [...]}``.
    runs
        A list of runs, each naming its settings; with a grid, each is tried at every point.
    out
        Folder of the sweep; default ``sweeps/NAME``.
    nodes, tasks_per_node
        For each run; by default one task for each GPU of a node (without Slurm: one task).
    parallel
        At most so many runs at once.
    evaluate
        Roles of slice stores on which the runs are judged together when all have ended, beside
        the classical methods; empty for no evaluation.
    """

    name: Annotated[str, AfterValidator(_name)] = "sweep"
    experiment: str | dict[str, Any]
    set: dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    runs: list[dict[str, Any]] = []
    out: str | None = None
    nodes: int = Field(1, ge=1)
    tasks_per_node: int | None = Field(None, ge=1)
    parallel: int = Field(4, ge=1)
    evaluate: tuple[Literal["train", "validation", "test"], ...] = ("test",)

    @field_validator("grid")
    @classmethod
    def _has_values(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in grid.items():
            if not values:
                raise ValueError(f"'{key}' has no values to try")
        return grid

    @model_validator(mode="after")
    def _varies(self) -> SweepSettings:
        if not self.grid and not self.runs:
            raise ValueError("nothing to vary: expected a grid, a list of runs, or both")
        return self
