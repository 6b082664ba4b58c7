"""Where the runs of a sweep are: from their files, and from Slurm where it is asked."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from hpc_srct import console
from hpc_srct.sweeps import scheduler, submission
from hpc_srct.sweeps.grid import Run
from hpc_srct.sweeps.ledger import EVALUATION, Entry, Ledger

_TAIL_BYTES = 65536
_LOG_LINES = 12


class State(StrEnum):
    """Where a run is."""

    NEW = "new"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    UNKNOWN = "unknown"

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in (State.NEW, State.DONE, State.FAILED, State.STOPPED)


_COLOURS = {
    State.DONE: "green",
    State.FAILED: "red",
    State.RUNNING: "cyan",
    State.STOPPED: "yellow",
}


@dataclass(frozen=True)
class Status:
    """One run as it is now.

    `step` and `validation` are the last lines of its metrics; `slurm` is Slurm's own word;
    `error` and `log` say why and where it failed.
    """

    name: str
    values: dict[str, Any]
    state: State
    epochs: int
    job: str | None = None
    slurm: str | None = None
    attempts: int = 0
    step: dict[str, Any] | None = None
    validation: dict[str, Any] | None = None
    error: str | None = None
    log: Path | None = None


class Observer:
    """Looks at the runs of a sweep; says once what it cannot know."""

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self._told = False

    def look(self, runs: Sequence[Run]) -> list[Status]:
        """Look at all runs: one question to Slurm, a few lines of each run's files."""
        entries = {run.name: self.ledger.entry(run.name) for run in runs}
        slurm = self._ask([entry for entry in entries.values() if entry])
        return [self._status(run, entries[run.name], slurm) for run in runs]

    def evaluation(self) -> Status | None:
        """Look at the evaluation of all runs; None where none was asked for."""
        entry = self.ledger.entry(EVALUATION)
        if entry is None:
            return None
        state, error = self._state(entry, self._ask([entry]))
        return Status(EVALUATION, {}, state, 0, entry.job, error=error, log=self._log(entry, state))

    def _ask(self, entries: Sequence[Entry]) -> dict[str, str]:
        jobs = [
            entry.job
            for entry in entries
            if entry.cluster == "slurm"
            and entry.job
            and self.ledger.outcome(entry.name, entry.token) is None
        ]
        known, accounting = scheduler.states(jobs)
        if jobs and not accounting and not self._told:
            self._told = True
            console.warn(
                "Slurm's accounting does not answer: states come from the queue and from the runs' "
                "own files."
            )
        return known

    def _status(self, run: Run, entry: Entry | None, slurm: dict[str, str]) -> Status:
        if entry is None:
            return Status(run.name, run.values, State.NEW, run.settings.epochs)
        state, error = self._state(entry, slurm)
        step, validation = last_lines(self.ledger.run_folder(run.name) / "metrics.jsonl")
        return Status(
            run.name,
            run.values,
            state,
            run.settings.epochs,
            entry.job,
            slurm.get(entry.job or ""),
            entry.attempts,
            step,
            validation,
            error,
            self._log(entry, state),
        )

    def _state(self, entry: Entry, slurm: dict[str, str]) -> tuple[State, str | None]:
        outcome = self.ledger.outcome(entry.name, entry.token)
        if outcome is not None:
            return State(outcome["state"]), outcome.get("error")
        if entry.job is None:
            return State.UNKNOWN, "its submission was cut short; call the sweep again"
        if entry.cluster == "local":
            if submission.alive(entry, self.ledger):
                return State.RUNNING, None
            return State.FAILED, "its processes ended without a word"
        word = slurm.get(entry.job)
        if word is None:
            # Accounting learns of a job a moment late; without it, what ended long ago is gone.
            return State.UNKNOWN, None
        if word in scheduler.WAITING:
            return State.WAITING, None
        if word in scheduler.RUNNING:
            return State.RUNNING, None
        if word in ("CANCELLED", "PREEMPTED"):
            return State.STOPPED, f"it was {word.lower()}"
        return State.FAILED, f"Slurm says {word}"

    def _log(self, entry: Entry, state: State) -> Path | None:
        if entry.job is None or state in (State.WAITING, State.NEW):
            return None
        logs = self.ledger.logs(entry.job)
        return logs[0] if logs else None


def last_lines(metrics: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Give the last step and the last validation of a ``metrics.jsonl``, from its tail."""
    step = validation = None
    try:
        with open(metrics, "rb") as handle:
            handle.seek(0, os.SEEK_END)
            handle.seek(max(0, handle.tell() - _TAIL_BYTES))
            lines = handle.read().splitlines()
    except OSError:
        return None, None
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except ValueError:  # cut off by the tail, or being written
            continue
        if not isinstance(values, dict):
            continue
        if values.get("kind") == "validation":
            validation = validation or values
        elif values.get("kind") == "step":
            step = step or values
        if step and validation:
            break
    return step, validation


def log_tail(log: Path | None, count: int = _LOG_LINES) -> list[str]:
    """Give the last lines of a log."""
    if log is None:
        return []
    try:
        with open(log, encoding="utf-8", errors="replace") as handle:
            return [line.rstrip() for line in deque(handle, count)]
    except OSError:
        return []


def table(statuses: Sequence[Status], title: str) -> Table:
    """Lay the runs out for a terminal: state, epoch, loss, loss scale, time left."""
    shown = Table(title=title)
    shown.add_column("run", overflow="fold")  # a name that is cut tells nothing
    shown.add_column("state")
    for column in ("epoch", "loss", "validation", "loss scale", "time left"):
        shown.add_column(column, justify="right", no_wrap=True)
    for status in statuses:
        step, validation = status.step or {}, status.validation or {}
        colour = _COLOURS.get(status.state)
        word = status.state.value + (f" ({status.slurm})" if status.slurm else "")
        left = step.get("time_left_s") if status.state is State.RUNNING else None
        shown.add_row(
            status.name,
            f"[{colour}]{word}[/]" if colour else word,
            f"{step['epoch']}/{status.epochs}" if step else f"-/{status.epochs}",
            _figure(step.get("loss"), ".4g"),
            _figure(validation.get("psnr"), ".2f", " dB"),
            _figure(step.get("loss_scale"), "g"),
            _duration(left),
        )
    return shown


def show(table: Table) -> None:
    """Print a table as wide as it is, into a log or a terminal: no figure is cut."""
    wide = console.out.options.update(max_width=10_000)
    wanted = Measurement.get(console.out, wide, table).maximum
    Console(width=max(console.out.width, wanted), highlight=False).print(table)


def counts(statuses: Sequence[Status]) -> str:
    """Say how many runs are in which state: ``2 running, 1 done``."""
    parts = [(sum(s.state is state for s in statuses), state.value) for state in State]
    return ", ".join(f"{count} {word}" for count, word in parts if count)


def _figure(value: float | None, pattern: str, unit: str = "") -> str:
    return "" if value is None or not math.isfinite(value) else format(value, pattern) + unit


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, hours = seconds / 60, seconds / 3600
    return (
        f"{hours:.1f} h"
        if hours >= 1
        else f"{minutes:.0f} min"
        if minutes >= 1
        else f"{seconds:.0f} s"
    )
