"""What runs inside a job of a sweep. torch is imported there, and nowhere before.

Training stops at a step boundary when it is told to and raises `Stopped` on every rank, its
state saved. Only then is submitit's own handler called, which puts the job back into the queue:
nothing is saved inside a signal handler.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment

from hpc_srct import console
from hpc_srct.errors import MachineError, SrctError, Stopped
from hpc_srct.settings.base import load
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.sweeps import restarts, scheduler
from hpc_srct.sweeps.ledger import EVALUATION, Ledger

# Named, not imported: sweeps stand beside training and evaluation, not on them.
TRAINING = ("hpc_srct.training", "train")
EVALUATING = ("hpc_srct.workflows.evaluate", "evaluate")

# So often may an evaluation, which begins anew each time, be put back into the queue.
_EVALUATION_RESTARTS = 2

# How long other ranks give rank 0 to tell what went wrong before their end ends it.
_LAST_WORDS_S = 10.0


def _entry(name: tuple[str, str]) -> Callable[..., Any]:
    return getattr(importlib.import_module(name[0]), name[1])


@dataclass
class _Job:
    """One submission of one entry of the ledger."""

    folder: str
    name: str
    token: str

    def checkpoint(self) -> DelayedSubmission:
        """Give the same call again: what is done is found on disk."""
        return DelayedSubmission(self)

    @property
    def ledger(self) -> Ledger:
        return Ledger(Path(self.folder))

    def _refuse_if_replaced(self) -> None:
        entry = self.ledger.entry(self.name)
        if entry is None or entry.token != self.token:
            # The outcome is the other job's to tell.
            print(
                f"{self.name}: was submitted again since; this job does nothing.", file=sys.stderr
            )
            raise SystemExit(1)

    def _failed(self, error: BaseException) -> None:
        text = str(error) if isinstance(error, SrctError) else f"{type(error).__name__}: {error}"
        self.ledger.note_outcome(self.name, self.token, "failed", text)
        if isinstance(error, SrctError):
            print(f"error: {text}", file=sys.stderr)
            raise SystemExit(error.exit_code) from error


@dataclass
class TrainJob(_Job):
    """Train one run; called by submitit on every task."""

    def __call__(self) -> str:
        """Train, or go on training.

        Raises
        ------
        SystemExit
            With the exit code of what went wrong; 0 on ranks other than the first when the run
            was stopped, so that nothing is killed before rank 0 has requeued the job.
        """
        environment = JobEnvironment()
        rank = environment.global_rank
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's; training replaces it for a while
        try:
            if rank != 0:
                return self._follow()
            self._refuse_if_replaced()
            if environment.cluster == "slurm":
                restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
                restarts.note_start(self._run_folder, environment.job_id, restart)
            self._train()
        except Stopped as stopped:
            self._stopped(stopped, environment, requeue)
        except Exception as error:
            self._failed(error)
            raise
        self.ledger.note_outcome(self.name, self.token, "done")
        return str(self._run_folder)

    @property
    def _run_folder(self) -> Path:
        return self.ledger.run_folder(self.name)

    def _train(self) -> None:
        torch_environment = TorchDistributedEnvironment()
        if JobEnvironment().cluster != "slurm":
            # One machine, whose own name need not resolve.
            torch_environment.master_addr = "127.0.0.1"
        # Its default would leave each task one device, and DeepSpeed chooses by LOCAL_RANK.
        torch_environment.export(set_cuda_visible_devices=False, overwrite=True)
        folder = self._run_folder
        settings = load(ExperimentSettings, self.ledger.settings_file(self.name))
        _entry(TRAINING)(settings, folder, restarts.is_run(folder))

    def _follow(self) -> str:
        try:
            self._train()
        except (Stopped, SystemExit) as error:
            code = getattr(error, "exit_code", None) or getattr(error, "code", 1)
            if code == Stopped.exit_code:
                raise SystemExit(0) from error
            time.sleep(_LAST_WORDS_S)
            raise
        except Exception:
            time.sleep(_LAST_WORDS_S)
            raise
        return ""

    def _stopped(
        self, stopped: Stopped, environment: JobEnvironment, requeue: Callable[..., None]
    ) -> None:
        """Put the job back into the queue where that is allowed and of use; does not return."""
        print(stopped, file=sys.stderr)
        if environment.cluster == "slurm":
            try:
                restarts.check_progress(self._run_folder, environment.job_id)
            except MachineError as error:
                self._failed(error)
            reason = scheduler.why_not_requeue(environment.job_id)
            if reason is None and callable(requeue):
                requeue(signal.SIGUSR2, None)  # exits
            print(f"not requeued: {reason}", file=sys.stderr)
        self.ledger.note_outcome(self.name, self.token, "stopped", str(stopped).splitlines()[0])
        raise SystemExit(Stopped.exit_code)


@dataclass
class EvaluateJob(_Job):
    """Judge the runs that are done, together; called by submitit on one task."""

    runs: tuple[str, ...]
    roles: tuple[str, ...]

    def __call__(self) -> str:
        """Evaluate into ``OUT/evaluation``.

        Raises
        ------
        SystemExit
            With the exit code of what went wrong, or it never comes to an end in its time.
        """
        if JobEnvironment().cluster != "slurm":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing to save: end when told to
        try:
            self._refuse_if_replaced()
            if int(os.environ.get("SLURM_RESTART_COUNT") or 0) > _EVALUATION_RESTARTS:
                raise MachineError(
                    f"the evaluation was stopped {_EVALUATION_RESTARTS + 1} times before its end; "
                    "it is not made again by itself.\n"
                    "Give it more time (gpu.time_limit in the site profile) and call the sweep "
                    "again."
                )
            # The runs may have been submitted again since: done is done, by whichever.
            done = [n for n in self.runs if (self.ledger.outcome(n) or {}).get("state") == "done"]
            if not done:
                raise MachineError("no run of the sweep is done; there is nothing to evaluate.")
            out = self.ledger.folder / EVALUATION
            folders = [self.ledger.run_folder(name) for name in done]
            result = _entry(EVALUATING)(folders, out=out, roles=self.roles)
        except Exception as error:
            self._failed(error)
            raise
        self.ledger.note_outcome(self.name, self.token, "done")
        console.out.print(result)  # its table, into the log
        return str(out)
