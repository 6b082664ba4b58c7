"""Training: build, train, validate, close.

One optimizer step reads a fixed number of micro-batches. At its start all ranks agree whether
to go on; between two steps the state is whole, and only there is it saved.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from hpc_srct import console, models
from hpc_srct.errors import InputError, MachineError, SrctError, Stopped
from hpc_srct.models import files
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.training import engine, export, losses, memory, precision, run_folder
from hpc_srct.training.checkpoints import Checkpoints, Progress
from hpc_srct.training.data import Loader, PairedSlices, Tiles
from hpc_srct.training.engine import Engine, Ranks
from hpc_srct.training.stopping import Stopping
from hpc_srct.training.telemetry import StepRecord, Telemetry, peak_memory
from hpc_srct.training.validation import Score, validate

T = TypeVar("T")


def train(settings: ExperimentSettings, run_dir: Path | str, resume: bool = False) -> None:
    """Train one network; every rank calls it.

    Parameters
    ----------
    settings
        The experiment.
    run_dir
        The run folder: new, or with `resume` that of the run to continue.
    resume
        Go on from the run's last whole checkpoint.

    Raises
    ------
    InputError
        Settings or data that do not fit; a run folder that exists, or with `resume` does not.
    MachineError
        A loss that is not finite, data that vanished, a full disk. The last checkpoint stays.
    Stopped
        A signal or the time limit: the state is saved, ``resume`` goes on.
    """
    where = engine.start()
    with _one_voice(where), Stopping(settings.time_limit) as stopping:
        training = Training(settings, Path(run_dir), where, stopping, resume)
        try:
            training.run()
        finally:
            training.close()


class Training:
    """One run: its parts, and the loop over epochs and steps."""

    def __init__(
        self,
        settings: ExperimentSettings,
        run_dir: Path,
        where: Ranks,
        stopping: Stopping,
        resume: bool,
    ):
        self.settings, self.run_dir, self.ranks, self.stopping = settings, run_dir, where, stopping
        self.telemetry: Telemetry | None = None
        self.loss = losses.get(settings.loss)
        run = self._open(resume)
        self._build_data()
        self._build_engine()
        self.checkpoints = Checkpoints(
            run_dir / "checkpoints",
            where,
            {
                "run": run,
                "architecture": settings.model.dump(),
                "precision": settings.precision,
            },
            settings.checkpoints.keep_last,
        )
        self.best_models = export.BestModels(
            self.checkpoints.folder, settings.checkpoints.keep_best
        )
        self.description = export.describe(
            settings, self.slices.stores, self.slices.scales[0].describe(), run, self.parameters
        )
        self.progress = self._restore() if resume else self._begin()
        _together(where, lambda: self._write_folder(run))
        self.telemetry = Telemetry(
            run_dir,
            where.rank,
            self.progress.metrics_bytes,
            self.progress.step,
            settings.tensorboard,
        )
        self._saved_at = time.monotonic()
        self._step_seconds = 0.0

    def run(self) -> None:
        """Train to the last epoch, and give the model away."""
        total = self.settings.epochs * self.steps_per_epoch
        with console.progress("training", total, rank=self.ranks.rank) as self._shown:
            self._shown.done = self.progress.step
            while self.progress.epoch < self.settings.epochs:
                self._train_epoch()
                self._validate()
                self._end_epoch()
        self._give_away()

    def close(self) -> None:
        """Let go of files and memory."""
        if self.telemetry is not None:
            self.telemetry.close()
        self.engine.close()

    # ---- the algorithm

    def _train_epoch(self) -> None:
        progress = self.progress
        rate = self._learning_rate(progress.epoch)
        self.engine.set_learning_rate(rate)
        self.module.train()
        accumulation = self.settings.optimizer.accumulation
        first = progress.step_in_epoch * accumulation
        batches = self.loader.epoch(progress.epoch, first)
        self._losses: list[float] = []
        with contextlib.closing(batches):
            while progress.step_in_epoch < self.steps_per_epoch:
                began = time.monotonic()
                micro_batches = self._fetch(batches, accumulation)
                fetched = time.monotonic()
                loss, scale = self._step(micro_batches)
                progress.step += 1
                progress.step_in_epoch += 1
                self._note(loss, scale, rate, fetched - began, time.monotonic() - began)

    def _step(self, micro_batches: list[torch.Tensor]) -> tuple[float, float]:
        """Take one optimizer step; give its mean loss, and the scale that the loss had."""
        total = 0.0
        for number, batch in enumerate(micro_batches):
            inputs, labels = batch.to(self.ranks.device, non_blocking=True)
            output = self.engine.forward(memory.ordered(inputs, self.channels_last))
            loss = self.loss(output, labels)
            self.engine.backward(loss)
            total += float(loss.detach())
            if number < len(micro_batches) - 1:
                self.engine.step()
        loss_here = total / len(micro_batches)
        mean = self.ranks.reduce([loss_here])[0] / self.ranks.size
        scale = self.engine.loss_scale
        if self.settings.precision != "O2" and not math.isfinite(mean):
            raise self._not_finite("the loss is not finite")
        self.engine.step()
        if self.settings.precision != "O2" and self.engine.overflow:
            raise self._not_finite("a gradient is not finite")
        return mean, scale

    def _validate(self) -> None:
        settings, progress = self.settings, self.progress
        epoch = progress.epoch + 1
        due = epoch % settings.validate_on.every_epochs == 0 or epoch == settings.epochs
        if self.validation is None or not due:
            self._say_epoch(epoch, None, False)
            return
        with self.engine.averaged_statistics():
            score = validate(
                self.module,
                self.validation,
                self.loss,
                settings.validate_on.tile,
                self.channels_last,
                self.ranks.reduce,
                (self.ranks.rank, self.ranks.size),
                lambda: self._agree([float(self.stopping.wanted())])[0] > 0,
            )
        if score is None:
            self._stop()
        self.telemetry.validation(progress.step, epoch, loss=score.loss, psnr=score.psnr)
        better = math.isfinite(score.psnr) and self.best_models.wants(progress.best, score.psnr)
        if better:
            entry = {"step": progress.step, "epoch": epoch, "psnr": score.psnr, "loss": score.loss}
            weights = self.engine.state_dict()
            if self.ranks.rank == 0:
                self.best_models.add(progress.best, entry, weights, self.description)
            progress.best = self.best_models.ranked(progress.best, entry)
        self._say_epoch(epoch, score, better and progress.best[0]["epoch"] == epoch)

    def _end_epoch(self) -> None:
        self.progress.epoch += 1
        self.progress.step_in_epoch = 0
        every = self.settings.checkpoints.every_epochs
        if (every and self.progress.epoch % every == 0) or (
            self.progress.epoch == self.settings.epochs
        ):
            self._save()

    def _learning_rate(self, epoch: int) -> float:
        optimizer = self.settings.optimizer
        return optimizer.learning_rate * optimizer.gamma ** (epoch // optimizer.step_size)

    # ---- at a step's boundary

    def _fetch(self, batches: Iterator[torch.Tensor], count: int) -> list[torch.Tensor]:
        """Take the next step's micro-batches; stop, save or fail here, all ranks together."""
        failure: SrctError | None = None
        micro_batches: list[torch.Tensor] = []
        stop = self.stopping.wanted(self._step_seconds + 2 * self.checkpoints.save_seconds)
        if not stop:
            try:
                micro_batches = [next(batches) for _ in range(count)]
            except SrctError as error:
                failure = error
        minutes = self.settings.checkpoints.every_minutes
        due = bool(minutes) and time.monotonic() - self._saved_at > 60 * minutes
        stop_all, failed, due_all = self._agree([float(stop), float(failure is not None), due])
        if failed:
            self._save()
            if failure is not None:
                raise type(failure)(
                    f"{failure}\nThe state of step {self.progress.step} is saved; --resume goes on."
                )
            raise MachineError("another rank could not read its data; the state is saved.")
        if stop_all:
            self._stop()
        if due_all:
            self._save()
        return micro_batches

    def _agree(self, flags: list[float]) -> list[float]:
        return self.ranks.reduce(flags, "max")

    def _save(self) -> None:
        self.progress.metrics_bytes = self.telemetry.sync() if self.telemetry else 0
        self.checkpoints.save(self.engine, self.progress)
        if self.ranks.rank == 0:
            self.best_models.prune(self.progress.best)
        self._saved_at = time.monotonic()

    def _stop(self) -> None:
        self._save()
        reasons = [reason for reason in self.ranks.gather(self.stopping.reason) if reason]
        progress = self.progress
        raise Stopped(
            f"stopped by {reasons[0]} after step {progress.step} (epoch {progress.epoch + 1} of "
            f"{self.settings.epochs}); saved in {self.run_dir}.\n"
            "The same command with --resume goes on."
        )

    def _not_finite(self, what: str) -> MachineError:
        return MachineError(
            f"step {self.progress.step + 1}: {what}; the weights were not changed by it.\n"
            "The last checkpoint is whole. Lower optimizer.learning_rate, or set "
            "optimizer.gradient_clipping=1, in a new run."
        )

    # ---- telling

    def _note(self, loss: float, scale: float, rate: float, wait: float, took: float) -> None:
        progress, settings = self.progress, self.settings
        self._losses.append(loss)
        # A running mean over about 20 steps.
        weight = 1.0 if self._step_seconds == 0 else 0.05
        self._step_seconds += weight * (took - self._step_seconds)
        left = settings.epochs * self.steps_per_epoch - progress.step
        tiles = settings.tiles.batch * settings.optimizer.accumulation
        record = StepRecord(
            step=progress.step,
            epoch=progress.epoch + 1,
            loss=loss,
            loss_scale=scale,
            overflow=self.engine.overflow,
            applied=self.engine.applied,
            skipped=self.engine.skipped,
            grad_norm=self.engine.gradient_norm,
            lr=rate,
            data_wait_s=wait,
            step_s=took,
            slices_per_s=tiles / took,
            peak_memory_bytes=peak_memory(self.ranks.device),
            time_left_s=left * self._step_seconds,
        )
        self.telemetry.step(record)
        note = f"epoch {record.epoch}/{settings.epochs}, loss {loss:.3g}, "
        note += f"{tiles / self._step_seconds:.3g} slices/s"
        if settings.precision == "O2":
            note += f", scale {scale:g}"
        self._shown.advance(1, note)

    def _say_epoch(self, epoch: int, score: Score | None, best: bool) -> None:
        parts = [f"epoch {epoch}/{self.settings.epochs}:"]
        if self._losses:
            parts.append(f"loss {sum(self._losses) / len(self._losses):.4g}")
        if score is not None:
            parts.append(f"validation loss {score.loss:.4g}, PSNR {score.psnr:.2f} dB")
        console.say(" ".join(parts) + (" (best)" if best else ""), rank=self.ranks.rank)

    # ---- building

    def _open(self, resume: bool) -> str:
        if self.settings.model.name not in models.NAMES:
            known = ", ".join(models.NAMES)
            raise InputError(f"model.name: unknown '{self.settings.model.name}'; known: {known}.")

        def check() -> str:
            if not resume:
                run_folder.refuse_existing(self.run_dir)
                return ""
            run = run_folder.identity(self.run_dir)
            for change in run_folder.check_settings(self.run_dir, self.settings):
                console.say(f"changed on resume: {change}")
            return run

        run = _together(self.ranks, check)
        precision.prepare(self.settings, self.ranks.device, self.ranks.rank)
        return run or _together(self.ranks, run_folder.new_identity)

    def _build_data(self) -> None:
        settings = self.settings
        cache = settings.cache_gb * 1e9
        self.slices = PairedSlices(settings.train, settings.input, settings.label, "train", cache)
        self.validation = None
        if settings.validation:
            self.validation = PairedSlices(
                settings.validation, settings.input, settings.label, "validation", cache / 4
            )
        for slices in filter(None, (self.slices, self.validation)):
            self._leave_out_nan(slices)
        self.tiles = Tiles(
            self.slices, settings.tiles, settings.seed, settings.optimizer.accumulation
        )
        self.steps_per_epoch = self.tiles.micro_batches // settings.optimizer.accumulation
        if self.tiles.unused:
            console.say(
                f"each epoch leaves out {self.tiles.unused} of its {self.tiles.total} tiles, "
                f"others each time: they do not fill a step of "
                f"{settings.tiles.batch * settings.optimizer.accumulation}.",
                rank=self.ranks.rank,
            )
        self.loader = Loader(
            self.tiles,
            self.ranks.rank,
            self.ranks.size,
            settings.tiles.workers,
            pin=self.ranks.device.type == "cuda",
        )

    def _leave_out_nan(self, slices: PairedSlices) -> None:
        # A rank that keeps the slices reads all of them; else the ranks share the reading.
        rank, size = self.ranks.rank, self.ranks.size
        part = slice(None) if slices.cached else slice(rank, None, size)
        found = self.ranks.gather(slices.spoiled(part))
        slices.leave_out(pair for bad in found for pair in bad)
        if slices.left_out:
            named = "; ".join(slices.left_out[:8]) + ("; …" if len(slices.left_out) > 8 else "")
            console.warn(
                f"{slices.role}: {len(slices.left_out)} slice(s) with NaN left out ({named}).",
                rank=rank,
            )

    def _build_engine(self) -> None:
        settings = self.settings
        torch.manual_seed(settings.seed)
        module = models.build(settings.model.name, settings.model.width, settings.model.depth)
        module.checkpointing = settings.activation_checkpointing
        if settings.init_from is not None:
            weights, _ = files.load_weights(settings.init_from)
            files.fit(module, weights, settings.init_from)
        self.parameters = sum(p.numel() for p in module.parameters())
        config = precision.deepspeed_config(settings, self.ranks.size, self.parameters)
        self.channels_last = memory.channels_last(
            settings.channels_last, self.ranks.device, settings.precision
        )
        self.engine = Engine(module, config, self.ranks)
        self.module = self.engine.module

    def _begin(self) -> Progress:
        _together(self.ranks, lambda: run_folder.begin(self.run_dir))
        progress = Progress()
        # So that a run killed before its first checkpoint can be resumed as any other.
        self.checkpoints.save(self.engine, progress)
        return progress

    def _restore(self) -> Progress:
        found = _together(self.ranks, self.checkpoints.latest)
        progress = self.checkpoints.restore(self.engine, found)
        console.say(
            f"goes on after step {progress.step} (epoch {progress.epoch + 1} of "
            f"{self.settings.epochs}), from {found.path.name}.",
            rank=self.ranks.rank,
        )
        return progress

    def _write_folder(self, run: str) -> None:
        run_folder.write(
            self.run_dir, self.settings, run, self.ranks.size, _device_name(self.ranks.device)
        )

    def _give_away(self) -> None:
        progress = self.progress
        weights, moment = None, {"step": progress.step, "epoch": progress.epoch, "chosen": "last"}
        if progress.best:
            best = progress.best[0]
            moment = export.moment(best) | {"chosen": "best validation PSNR"}
            if best["step"] != progress.step and self.ranks.rank == 0:
                weights = self.best_models.weights(best)
        if progress.best == [] or progress.best[0]["step"] == progress.step:
            weights = self.engine.state_dict()
        if self.ranks.rank == 0:
            files.save_model(weights, export.with_moment(self.description, **moment), self.run_dir)
        self.ranks.barrier()
        console.say(
            f"model of epoch {moment['epoch']} ({moment['chosen']}): {self.run_dir / files.NAME}",
            rank=self.ranks.rank,
        )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _together(where: Ranks, action: Callable[[], T]) -> T:
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


@contextlib.contextmanager
def _one_voice(where: Ranks) -> Iterator[None]:
    """Let rank 0 alone report what all ranks found alike; the others end with its exit code."""
    try:
        yield
    except (InputError, Stopped) as error:
        if where.rank != 0:
            raise SystemExit(error.exit_code) from error
        raise
