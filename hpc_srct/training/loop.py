"""Training: build, train, validate, close.

One optimizer step reads a fixed number of micro-batches. At its start all ranks agree whether
to go on; between two steps the state is whole, and only there is it saved.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import torch

from hpc_srct import console
from hpc_srct.errors import MachineError, SrctError, Stopped
from hpc_srct.models import files
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.stopping import Stopping
from hpc_srct.training import engine, export, memory, parts
from hpc_srct.training.contact import one_voice, refuse_shared_gpus
from hpc_srct.training.diagnosis import first_not_finite
from hpc_srct.training.parts import Parts
from hpc_srct.training.selfcheck import SelfCheck
from hpc_srct.training.telemetry import StepRecord, Telemetry, forget_peak_memory, peak_memory
from hpc_srct.training.validation import Score, validate


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
        Settings or data that do not fit; a run folder that exists, or with `resume` does not;
        ranks that share a GPU.
    MachineError
        A loss that is not finite, data that vanished, a full disk. The last checkpoint stays.
    Stopped
        A signal or the time limit: the state is saved, ``resume`` goes on.
    """
    settings = settings.absolute()
    with engine.environment_restored():
        where = engine.start()
        folder = Path(run_dir)
        with one_voice(where, folder), Stopping(settings.time_limit) as stopping:
            refuse_shared_gpus(where)
            training = Training(parts.build(settings, folder, where, resume), stopping)
            try:
                training.run()
            finally:
                training.close()


class Training:
    """One run: the loop over epochs and steps."""

    def __init__(self, built: Parts, stopping: Stopping):
        self.parts, self.stopping = built, stopping
        self.settings, self.ranks, self.engine = built.settings, built.ranks, built.engine
        self.progress = built.progress
        self.telemetry = Telemetry(
            built.run_dir,
            self.ranks.rank,
            self.progress.metrics_bytes,
            self.progress.step,
            self.settings.tensorboard,
        )
        self.self_check = SelfCheck(built)
        self._channels_last = built.channels_last()
        self._saved_at = time.monotonic()
        self._step_seconds = 0.0
        self._steps_here = 0
        self._waited = self._stepped = 0.0
        self._scales: deque[float] = deque(maxlen=20)
        self._losses: list[float] = []
        self._flat_told = False

    def run(self) -> None:
        """Train to the last epoch, and give the model away."""
        left = self.settings.epochs * self.parts.steps_per_epoch - self.progress.step
        with console.progress("training", left, rank=self.ranks.rank) as self._shown:
            while self.progress.epoch < self.settings.epochs:
                self._train_epoch()
                self._validate()
                self._end_epoch()
        self._give_away()

    def close(self) -> None:
        """Let go of files and memory."""
        self.telemetry.close()
        self.engine.close()

    # ---- the algorithm

    def _train_epoch(self) -> None:
        progress, accumulation = self.progress, self.settings.optimizer.accumulation
        rate = self._learning_rate(progress.epoch)
        self.engine.set_learning_rate(rate)
        self.engine.module.train()
        self._losses = []
        first = progress.step_in_epoch * accumulation
        with contextlib.closing(self.parts.loader.epoch(progress.epoch, first)) as batches:
            while progress.step_in_epoch < self.parts.steps_per_epoch:
                began = time.monotonic()
                micro_batches, wait = self._fetch(batches, accumulation)
                loss, scale = self._step(micro_batches)
                progress.step += 1
                progress.step_in_epoch += 1
                self._note(loss, scale, rate, wait, time.monotonic() - began)

    def _step(self, micro_batches: list[torch.Tensor]) -> tuple[float, float]:
        """Take one optimizer step; give its mean loss, and the scale that the loss had."""
        self.self_check.before(micro_batches)
        total = 0.0
        for number, batch in enumerate(micro_batches):
            loss = self._loss(batch, self.engine.forward)
            self.engine.backward(loss)
            total += float(loss.detach())
            if number < len(micro_batches) - 1:
                self.engine.step()
        mean = self.ranks.reduce([total / len(micro_batches)])[0] / self.ranks.size
        scale = self.engine.loss_scale
        self._scales.append(scale)
        self.self_check.after(mean)
        # A scaled loss may overflow: DeepSpeed then skips the step and lowers the scale.
        scaled = self.settings.precision == "O2"
        if not scaled and not math.isfinite(mean):
            raise self._not_finite("the loss is not finite", micro_batches)
        try:
            self.engine.step()
        except engine.ScaleExhausted as error:
            what = f"gradients overflow at the lowest loss scale, {scale:g}"
            raise self._not_finite(what, micro_batches) from error
        if not scaled and self.engine.overflow:
            raise self._not_finite("a gradient is not finite", micro_batches)
        return mean, scale

    def _loss(
        self, batch: torch.Tensor, network: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        inputs, labels = batch.to(self.ranks.device, non_blocking=True)
        return self.parts.loss(network(memory.ordered(inputs, self._channels_last)), labels)

    def _validate(self) -> None:
        settings, progress, best = self.settings, self.progress, self.parts.best_models
        epoch = progress.epoch + 1
        due = epoch % settings.validate_on.every_epochs == 0 or epoch == settings.epochs
        if self.parts.validation is None or not due:
            self._say_epoch(epoch, None, False)
            return
        score = self._score()
        # What a step takes, not what a whole slice takes: the cost tables read it from the steps.
        forget_peak_memory(self.ranks.device)
        self._say_flat(score)
        self.telemetry.validation(progress.step, epoch, loss=score.loss, psnr=score.psnr)
        entry = {"step": progress.step, "epoch": epoch, "psnr": score.psnr, "loss": score.loss}
        better = best.wants(progress.best, entry)
        if better:
            weights = self.engine.state_dict()
            if self.ranks.rank == 0:
                best.write(entry, weights, self.parts.description)
            progress.best = best.ranked(progress.best, entry)
        self._say_epoch(epoch, score, better and progress.best[0]["epoch"] == epoch)

    def _score(self) -> Score:
        """Judge the network; stop or fail here, all ranks together, where there is no score."""
        failure: SrctError | None = None
        # A start that has taken no step yet comes to the end of a validation, and so to a step.
        budget = self._steps_here > 0
        try:
            with self.engine.averaged_statistics(), self.engine.uncompiled():
                score = validate(
                    self.engine.module,
                    self.parts.validation,
                    self.parts.loss,
                    self.settings.validate_on.tile,
                    self.parts.channels_last(training=False),
                    self.ranks.reduce,
                    (self.ranks.rank, self.ranks.size),
                    lambda failed: any(
                        self._agree([float(failed or self.stopping.wanted(budget=budget))])
                    ),
                )
        except SrctError as error:
            failure, score = error, None
        if score is None:
            if any(self._agree([float(failure is not None)])):
                self._fail(failure)
            self._stop()
        return score

    def _end_epoch(self) -> None:
        self.progress.epoch += 1
        self.progress.step_in_epoch = 0
        every = self.settings.checkpoints.every_epochs
        last = self.progress.epoch == self.settings.epochs
        if last or (every and self.progress.epoch % every == 0):
            self._save()

    def _learning_rate(self, epoch: int) -> float:
        optimizer = self.settings.optimizer
        return optimizer.learning_rate * optimizer.gamma ** (epoch // optimizer.step_size)

    def _give_away(self) -> None:
        """Write the model of the best validation, or without validation the last one."""
        progress, best = self.progress, self.parts.best_models
        moment = {"step": progress.step, "epoch": progress.epoch, "chosen": "last"}
        if progress.best and parts.together(self.ranks, lambda: best.is_there(progress.best[0])):
            moment = export.moment(progress.best[0]) | {
                "chosen": f"best validation {export.measure(progress.best[0])}"
            }
        if moment["step"] == progress.step:
            weights = self.engine.state_dict()
        elif self.ranks.rank == 0:
            weights = best.weights(progress.best[0])
        if self.ranks.rank == 0:
            description = export.with_moment(self.parts.description, **moment)
            files.save_model(weights, description, self.parts.run_dir)
        self.ranks.barrier()
        console.say(
            f"model of epoch {moment['epoch']} ({moment['chosen']}): "
            f"{self.parts.run_dir / files.NAME}",
            rank=self.ranks.rank,
        )
        if self._stepped:
            console.say(
                f"steps took {self._stepped:.1f} s, of which {self._waited / self._stepped:.2%} "
                "waiting for tiles.",
                rank=self.ranks.rank,
            )

    # ---- between two steps

    def _fetch(
        self, batches: Iterator[torch.Tensor], count: int
    ) -> tuple[list[torch.Tensor], float]:
        """Take the next step's micro-batches; stop, save or fail here, all ranks together.

        Returns
        -------
        micro_batches : list of Tensor
        wait : float
            Seconds until they were there.
        """
        failure: SrctError | None = None
        micro_batches: list[torch.Tensor] = []
        margin = self._step_seconds + 2 * self.parts.checkpoints.save_seconds
        # Every start takes one step: restarts under a short time limit still come to an end.
        stop = self.stopping.wanted(margin, budget=self._step_seconds > 0)
        began = time.monotonic()
        if not stop:
            try:
                micro_batches = [next(batches) for _ in range(count)]
            except SrctError as error:
                failure = error
        wait = time.monotonic() - began
        minutes = self.settings.checkpoints.every_minutes
        due = bool(minutes) and time.monotonic() - self._saved_at > 60 * minutes
        flags = [float(stop), float(failure is not None), float(due)]
        stop_all, failed, due_all = self._agree(flags)
        if failed:
            self._fail(failure)
        if stop_all:
            self._stop()
        if due_all:
            self._save()
        return micro_batches, wait

    def _agree(self, flags: list[float]) -> list[float]:
        return self.ranks.reduce(flags, "max")

    def _save(self) -> None:
        self.progress.metrics_bytes = self.telemetry.sync()
        self.parts.checkpoints.save(self.engine, self.progress)
        if self.ranks.rank == 0:
            self.parts.best_models.prune(self.progress.best)
        self._saved_at = time.monotonic()

    def _fail(self, failure: SrctError | None) -> NoReturn:
        """Save and end: this rank, or another one, could not read its data."""
        self._save()
        if failure is None:
            raise MachineError("another rank could not read its data; the state is saved.")
        raise MachineError(
            f"{failure}\nThe state of step {self.progress.step} is saved; --resume goes on."
        ) from failure

    def _stop(self) -> NoReturn:
        self._save()
        reasons = [reason for reason in self.ranks.gather(self.stopping.reason) if reason]
        progress = self.progress
        raise Stopped(
            f"stopped by {reasons[0]} after step {progress.step} (epoch {progress.epoch + 1} of "
            f"{self.settings.epochs}); saved in {self.parts.run_dir}.\n"
            "The same command with --resume goes on."
        )

    def _not_finite(self, what: str, micro_batches: list[torch.Tensor]) -> MachineError:
        module, scale, dtype = self.engine.module, self._scales[-1], self.engine.dtype

        def loss_of(batch: torch.Tensor) -> torch.Tensor:
            return scale * self._loss(batch, lambda x: module(x.to(dtype)).float())

        with self.engine.uncompiled():
            found = [first_not_finite(module, lambda b=b: loss_of(b)) for b in micro_batches]
        places = [place for rank in self.ranks.gather(found) for place in rank if place]
        if len(set(self._scales)) > 1:
            what += f" (the last ones: {', '.join(f'{s:g}' for s in self._scales)})"
        return MachineError(
            f"step {self.progress.step + 1}: {what}. First not finite: "
            f"{places[0] if places else 'nothing, on a second look'}.\n"
            "The last checkpoint is whole. In a new run lower optimizer.learning_rate, set "
            "optimizer.gradient_clipping=1, or choose another precision."
        )

    # ---- telling

    def _note(self, loss: float, scale: float, rate: float, wait: float, took: float) -> None:
        progress, settings = self.progress, self.settings
        self._losses.append(loss)
        self._waited, self._stepped = self._waited + wait, self._stepped + took
        self._steps_here += 1
        # A running mean over about 20 steps, without the first: it compiles, or tries kernels.
        weight = 0.05 if self._steps_here > 2 else 1.0
        self._step_seconds += weight * (took - self._step_seconds)
        left = settings.epochs * self.parts.steps_per_epoch - progress.step
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
        told = f"epoch {epoch}/{self.settings.epochs}:"
        if self._losses:
            told += f" loss {sum(self._losses) / len(self._losses):.4g}"
        if score is not None:
            told += f", validation loss {score.loss:.4g}"
            if score.psnr is not None:
                told += f", PSNR {score.psnr:.2f} dB"
        console.say(told + (" (best)" if best else ""), rank=self.ranks.rank)

    def _say_flat(self, score: Score) -> None:
        if not score.flat or self._flat_told:
            return
        self._flat_told = True
        told = f"validation: {score.flat} of {len(self.parts.validation.pairs)} slice(s) have a "
        told += "constant label, thus no PSNR, and are left out of its mean"
        if score.psnr is None:
            told += "; the best model is that of the lowest loss"
        console.warn(f"{told}.", rank=self.ranks.rank)
