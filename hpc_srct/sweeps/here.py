"""The runs of a sweep on this machine: so many at once, the next when one has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence

from hpc_srct.settings.sweep import SweepSettings
from hpc_srct.sweeps import submission
from hpc_srct.sweeps.grid import Run
from hpc_srct.sweeps.ledger import EVALUATION, Ledger
from hpc_srct.sweeps.status import State, Status

_SAVE_WITHIN_S = 120.0


class Queue:
    """Starts runs as processes of this machine while there is room.

    Attributes
    ----------
    waiting : list of Run
        Not started yet.
    """

    def __init__(self, settings: SweepSettings, ledger: Ledger):
        self.settings, self.ledger = settings, ledger
        self.waiting: list[Run] = []
        self._slots: dict[str, int] = {}

    def fill(self, running: Sequence[str]) -> list[Run]:
        """Start waiting runs beside those that are `running`; give those that were started."""
        started = []
        while self.waiting and len(running) + len(started) < self.settings.parallel:
            run = self.waiting.pop(0)
            busy = {self._slots.get(name) for name in (*running, *(r.name for r in started))}
            slot = next(i for i in range(self.settings.parallel + 1) if i not in busy)
            self._slots[run.name] = slot
            submission.to_this_machine(self.settings, run, (), self.ledger, slot)
            started.append(run)
        return started

    def tend(self, runs: Sequence[Run], found: Sequence[Status]) -> None:
        """Start what there is room for, and end what is left of runs that have failed."""
        if self.waiting:
            self.fill([now.name for now in found if now.state is State.RUNNING])
        for run in runs:
            entry = self.ledger.entry(run.name)
            if entry is not None and entry.cluster == "local":
                submission.finish_off(entry, self.ledger)

    def judge(self, runs: Sequence[Run]) -> None:
        """Start the evaluation of all runs."""
        submission.to_this_machine(self.settings, None, runs, self.ledger)

    def stop(self, runs: Sequence[Run]) -> list[str]:
        """Tell all that run here to save and stop, and wait for them.

        Returns
        -------
        list of str
            Those that have not stopped in time.
        """
        self.waiting.clear()
        deadline = time.monotonic() + _SAVE_WITHIN_S
        while True:
            entries = [self.ledger.entry(name) for name in (*(r.name for r in runs), EVALUATION)]
            alive = [
                entry
                for entry in entries
                if entry and entry.cluster == "local" and submission.alive(entry, self.ledger)
            ]
            if not alive or time.monotonic() > deadline:
                return [entry.name for entry in alive]
            for entry in alive:
                # Again and again: one that is still loading does not listen yet.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry.job), signal.SIGTERM)
            time.sleep(1.0)
