"""What `srct train` reads: one network, its data, its recipe, its precision.

The defaults are the talk's recipe: mean squared error, Adam at 3e-4, the rate times 0.95 every
ten epochs, 65 epochs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from hpc_srct.settings.base import Settings

PRECISIONS = ("O0", "O2", "bf16")
# What stores are for.
ROLES = ("train", "validation", "test")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: object) -> object:
    """Read a time: seconds, ``90s``, ``30m``, ``11.5h``, or Slurm's ``[D-]HH:MM:SS``."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if match := re.fullmatch(r"([0-9.]+) *(s|m|min|h|d)?", text):
        return float(match[1]) * _UNITS[match[2] or ""]
    if match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+)(?::(\d+))?", text):
        days, first, second, third = match.groups()
        if third is None and days is None:  # MM:SS, as Slurm reads it
            return 60.0 * int(first) + int(second)
        return 86400.0 * int(days or 0) + 3600.0 * int(first) + 60.0 * int(second) + int(third or 0)
    raise ValueError("expected a time such as 90s, 30m, 11.5h or 11:30:00")


Seconds = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
Stores = tuple[str, ...]


class ModelSettings(Settings):
    """Which network: `name`, `width` (channels at full resolution), `depth` (halvings of size)."""

    name: str = "resattunet"
    width: int = Field(32, ge=1)
    depth: int = Field(4, ge=1, le=8)


class TileSettings(Settings):
    """How training samples are drawn from the slices.

    `size` is the tile's edge in pixels, or null for whole slices. `per_slice` tiles are drawn from
    every slice in each epoch. `batch` is the number of tiles in one micro-batch, over all ranks
    together, so that the number of ranks does not change the training. `workers` is the number
    of loader processes on each rank; with 0 one thread reads ahead. `augment` mirrors and turns
    tiles at random.
    """

    size: int | None = Field(256, ge=8)
    per_slice: int = Field(1, ge=1)
    batch: int = Field(4, ge=1)
    workers: int = Field(0, ge=0)
    augment: bool = True


class OptimizerSettings(Settings):
    """Adam and its schedule. `learning_rate` is multiplied by `gamma` every `step_size` epochs.

    `accumulation` micro-batches make one optimizer step; `gradient_clipping` 0 clips nothing.
    """

    learning_rate: float = Field(3e-4, gt=0)
    step_size: int = Field(10, ge=1)
    gamma: float = Field(0.95, gt=0, le=1)
    gradient_clipping: float = Field(0.0, ge=0)
    accumulation: int = Field(1, ge=1)


class LossScaleSettings(Settings):
    """The dynamic loss scale of O2: 2 to the `initial_power`, doubled after `window` good steps.

    `hysteresis` overflows are borne before it is halved; below `minimum` the run ends.
    """

    initial_power: int = Field(16, ge=0, le=24)
    window: int = Field(1000, ge=1)
    hysteresis: int = Field(2, ge=1)
    minimum: int = Field(1, ge=1)


class CheckpointSettings(Settings):
    """When the state is saved (also at every stop and at the end), and how many are kept.

    It is saved every `every_epochs` epochs and every `every_minutes` minutes; null: not for that.
    The last `keep_last` are kept. `keep_best` models of the best validations are kept as weights
    alone.
    """

    every_epochs: int | None = Field(1, ge=1)
    every_minutes: float | None = Field(15.0, gt=0)
    keep_last: int = Field(2, ge=1)
    keep_best: int = Field(1, ge=0)


class ValidationSettings(Settings):
    """Validation every `every_epochs` epochs; slices larger than `tile` are passed in tiles."""

    every_epochs: int = Field(1, ge=1)
    tile: int = Field(1024, ge=64)


class ExperimentSettings(Settings):
    """One training run.

    `name` is that of its folder, ``runs/NAME``; `seed` draws its first weights and its tiles.
    `train`, `validation` and `test` name slice stores; `input` and `label` the volumes in them
    that make a pair. `precision` is one of O0, O2 and bf16. `emulate_fp16` lets O2 run
    on a CPU without fp16, no faster than O0. `init_from` starts from the weights of a run or a
    model file. `model`, `tiles`, `optimizer`, `loss_scale`, `checkpoints` and `validate_on` are
    described above. `loss` is mse or l1; `epochs` is the run's length.
    `time_limit` stops the run, saved, after that much time. `channels_last` is the memory order
    of the activations: auto chooses by device and precision. `activation_checkpointing` computes
    activations again in the backward pass instead of keeping them. `compile` sends the training
    step through `torch.compile`; what is saved and exported has the same form. `self_check`
    compares early steps with O0 where they are O2, bf16 or compiled. Slices stay in memory where
    they fit in `cache_gb` gigabytes. `tensorboard` writes the curves for it, too.
    """

    name: str = "experiment"
    seed: int = Field(0, ge=0)
    precision: Literal["O0", "O2", "bf16"] = "O0"
    emulate_fp16: bool = False
    init_from: str | None = None
    time_limit: Seconds | None = None
    train: Stores = ()
    validation: Stores = ()
    test: Stores = ()
    input: str = "low"
    label: str = "truth"
    model: ModelSettings = ModelSettings()
    tiles: TileSettings = TileSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    loss_scale: LossScaleSettings = LossScaleSettings()
    loss: str = "mse"
    epochs: int = Field(65, ge=1)
    checkpoints: CheckpointSettings = CheckpointSettings()
    validate_on: ValidationSettings = ValidationSettings()
    channels_last: bool | Literal["auto"] = "auto"
    activation_checkpointing: bool = False
    compile: bool = False
    self_check: bool = True
    cache_gb: float = Field(2.0, ge=0)
    tensorboard: bool = True

    def absolute(self) -> ExperimentSettings:
        """Fix all paths: the same stores, from wherever the settings are read again."""
        stores = {
            role: tuple(str(Path(store).absolute()) for store in getattr(self, role))
            for role in ROLES
        }
        start = None if self.init_from is None else str(Path(self.init_from).absolute())
        return self.model_copy(update={**stores, "init_from": start})

    @field_validator(*ROLES, mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str | Path) else value
