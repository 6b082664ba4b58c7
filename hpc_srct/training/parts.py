"""What a run is made of: its data, engine, checkpoints and folder, built and checked together."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from hpc_srct import console, models
from hpc_srct.errors import InputError, SrctError
from hpc_srct.models import files
from hpc_srct.settings.experiment import ExperimentSettings, ModelSettings
from hpc_srct.training import compilation, export, losses, memory, precision, run_folder
from hpc_srct.training.checkpoints import Checkpoints, Progress
from hpc_srct.training.data import Loader, PairedSlices, Tiles
from hpc_srct.training.engine import Engine, Ranks
from hpc_srct.training.losses import Loss

T = TypeVar("T")

# Bytes that take long enough to read for a progress bar.
_LONG_READ = 2e9


@dataclass
class Parts:
    """The parts of one run, each ready for its first step."""

    settings: ExperimentSettings
    run_dir: Path
    ranks: Ranks
    run: str
    loss: Loss
    slices: PairedSlices
    validation: PairedSlices | None
    tiles: Tiles
    loader: Loader
    engine: Engine
    checkpoints: Checkpoints
    best_models: export.BestModels
    description: dict[str, Any]
    progress: Progress
    # Whether this start computes otherwise than the one before.
    switched: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.tiles.micro_batches // self.settings.optimizer.accumulation

    def channels_last(self, training: bool = True) -> bool:
        """The memory order of the activations."""
        settings = self.settings
        return memory.channels_last(
            settings.channels_last, self.ranks.device, settings.precision, training
        )


def check(settings: ExperimentSettings, device: torch.device) -> None:
    """Refuse, before any data are read, what this program or device has not.

    Raises
    ------
    InputError
        An unknown loss or network.
    MachineError
        A precision that the device has not, or no compiler where one is asked for.
    """
    losses.get(settings.loss)
    if settings.model.name not in models.NAMES:
        known = ", ".join(models.NAMES)
        raise InputError(f"model.name: unknown '{settings.model.name}'; known: {known}.")
    precision.require(settings, device)
    if settings.compile:
        compilation.require_compiler(device)


def build(settings: ExperimentSettings, run_dir: Path, where: Ranks, resume: bool) -> Parts:
    """Check the settings, read the data, build or restore the network, make the run folder.

    The folder is made when all else is known to be right.

    Raises
    ------
    InputError
        Settings, data, run folder or checkpoint that do not fit.
    MachineError
        The device cannot do what is asked.
    """
    check(settings, where.device)
    run, resume = _open(settings, run_dir, where, resume)
    precision.prepare(settings, where.device, where.rank)
    if settings.compile:
        console.say("compile: the first step also compiles; that takes minutes.", rank=where.rank)
    slices, validation = _data(settings, where)
    tiles = Tiles(slices, settings.tiles, settings.seed, settings.optimizer.accumulation)
    _say_unused(settings, tiles, where.rank)
    engine, parameters = _engine(settings, where, None if resume else settings.init_from)
    identity = {
        "run": run,
        "architecture": settings.model.dump(),
        "precision": settings.precision,
    }
    checkpoints = Checkpoints(
        run_dir / "checkpoints", where, identity, settings.checkpoints.keep_last
    )
    description = export.describe(
        settings, slices.stores, slices.scales[0].describe(), run, parameters
    )
    pin = where.device.type == "cuda"
    parts = Parts(
        settings=settings,
        run_dir=run_dir,
        ranks=where,
        run=run,
        loss=losses.get(settings.loss),
        slices=slices,
        validation=validation,
        tiles=tiles,
        loader=Loader(tiles, where.rank, where.size, settings.tiles.workers, pin),
        engine=engine,
        checkpoints=checkpoints,
        best_models=export.BestModels(checkpoints.folder, settings.checkpoints.keep_best),
        description=description,
        progress=Progress(),
    )
    _restore(parts) if resume else _begin(parts)
    device = torch.cuda.get_device_name(where.device) if pin else "cpu"
    first = parts.progress.step + 1
    together(where, lambda: run_folder.write(run_dir, settings, run, where.size, device, first))
    return parts


def new_module(model: ModelSettings, init_from: str | None = None) -> nn.Module:
    """Make a network as the settings name it: new, or with the weights of a run or model file.

    Raises
    ------
    InputError
        An unknown network; no such model, or one of another architecture.
    """
    module = models.build(model.name, model.width, model.depth)
    if init_from is not None:
        weights, _ = files.load_weights(init_from)
        files.fit(module, weights, init_from)
    return module


def together(where: Ranks, action: Callable[[], T]) -> T:
    """Do something on rank 0 and give all ranks its answer, or its error."""
    answer: tuple[Any, SrctError | None] = (None, None)
    if where.rank == 0:
        try:
            answer = (action(), None)
        except SrctError as error:
            answer = (None, error)
    value, error = where.gather(answer)[0]
    if error is not None:
        raise error
    return value


def _open(
    settings: ExperimentSettings, run_dir: Path, where: Ranks, resume: bool
) -> tuple[str, bool]:
    """Look at the run folder; give the run's identity, and whether there is a state to resume."""

    def looked() -> tuple[str, bool]:
        if not resume or run_folder.never_began(run_dir):
            run_folder.refuse_existing(run_dir)
            if resume:
                console.say(f"{run_dir}: ended before its first step; starts from the beginning.")
            return run_folder.new_identity(), False
        run = run_folder.identity(run_dir)
        for change in run_folder.check_settings(run_dir, settings):
            console.say(f"changed on resume: {change}")
        return run, True

    return together(where, looked)


def _data(settings: ExperimentSettings, where: Ranks) -> tuple[PairedSlices, PairedSlices | None]:
    cache = settings.cache_gb * 1e9
    names = settings.input, settings.label
    slices = PairedSlices(settings.train, *names, "train", cache)
    validation = None
    if settings.validation:
        validation = PairedSlices(settings.validation, *names, "validation", cache / 4)
    for part in (slices, validation):
        if part is not None:
            _leave_out_nan(part, where)
    return slices, validation


def _leave_out_nan(slices: PairedSlices, where: Ranks) -> None:
    # A rank that keeps the slices reads all of them; else the ranks share the reading.
    share = slice(None) if slices.cached else slice(where.rank, None, where.size)
    shown = contextlib.nullcontext()
    if slices.bytes > _LONG_READ:
        total = len(slices.pairs[share])
        shown = console.progress(f"reading {slices.role} slices", total, rank=where.rank)
    with shown as steps:
        spoiled = slices.spoiled(share, *([steps.advance] if steps else []))
    slices.leave_out(pair for bad in where.gather(spoiled) for pair in bad)
    if slices.left_out:
        named = "; ".join(slices.left_out[:8]) + ("; …" if len(slices.left_out) > 8 else "")
        console.warn(
            f"{slices.role}: {len(slices.left_out)} slice(s) with NaN left out ({named}).",
            rank=where.rank,
        )


def _say_unused(settings: ExperimentSettings, tiles: Tiles, rank: int) -> None:
    if tiles.unused:
        step = settings.tiles.batch * settings.optimizer.accumulation
        console.say(
            f"each epoch leaves out {tiles.unused} of its {tiles.total} tiles, others each time: "
            f"they do not fill a step of {step}.",
            rank=rank,
        )


def _engine(
    settings: ExperimentSettings, where: Ranks, init_from: str | None
) -> tuple[Engine, int]:
    """Build the network; a run that is resumed asks no more for the model that it began from."""
    torch.manual_seed(settings.seed)
    module = new_module(settings.model, init_from)
    module.checkpointing = settings.activation_checkpointing
    parameters = sum(p.numel() for p in module.parameters())
    config = precision.deepspeed_config(settings, where.size, parameters)
    return Engine(module, config, where, settings.compile), parameters


def _begin(parts: Parts) -> None:
    together(parts.ranks, lambda: run_folder.begin(parts.run_dir))
    # So that a run killed before its first checkpoint can be resumed as any other.
    parts.checkpoints.save(parts.engine, parts.progress)


def _restore(parts: Parts) -> None:
    found = together(parts.ranks, parts.checkpoints.latest)
    parts.progress = parts.checkpoints.restore(parts.engine, found)
    parts.switched = found.manifest["precision"] != parts.settings.precision
    _refuse_past_the_end(parts)
    if parts.progress.epoch < parts.settings.epochs:
        # The model of an end that is no more the end: it would pass for this run's.
        together(parts.ranks, lambda: files.remove_model(parts.run_dir))
    progress, epochs = parts.progress, parts.settings.epochs
    told = f"goes on after step {progress.step} (epoch {progress.epoch + 1} of {epochs})"
    if progress.epoch == epochs:
        told = f"has taken all of its {progress.step} steps ({epochs} epochs)"
    console.say(f"{told}, from {found.path.name}.", rank=parts.ranks.rank)


def _refuse_past_the_end(parts: Parts) -> None:
    """Refuse fewer epochs than are done: the record would name a training that never was."""
    done, wanted = parts.progress.step / parts.steps_per_epoch, parts.settings.epochs
    if done > wanted:
        raise InputError(
            f"epochs: {wanted} asked for, but {parts.run_dir} has taken {parts.progress.step} "
            f"steps, {done:.4g} epochs.\nResume with epochs={math.ceil(done)} or more, or start a "
            "new run."
        )
