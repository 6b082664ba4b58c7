"""Stopping on request: a signal or a time budget raises a flag, the loop acts on it.

Nothing is saved in a signal handler. All ranks agree on the flag at a boundary (a step of
training, a block of slices), save together, and leave with `hpc_srct.errors.Stopped`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType

from hpc_srct.errors import Stopped
from hpc_srct.ranks import Communicator

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

# One Ctrl-C may come twice: from the terminal, and passed on by mpiexec.
_ONE_CTRL_C_S = 1.0


class Stopping:
    """Listens for SIGTERM, SIGUSR1, SIGUSR2 and SIGINT, and watches a time budget.

    Use as a context manager: the former handlers come back at its end. A second Ctrl-C ends the
    process at once.

    Parameters
    ----------
    time_limit
        Seconds from now after which to stop, or None.
    """

    def __init__(self, time_limit: float | None = None):
        self.reason: str | None = None
        self._limit = time_limit
        self._asked_at = 0.0
        self._start = time.monotonic()
        self._owner = os.getpid()
        self._former: dict[int, object] = {}

    def __enter__(self) -> Stopping:
        # Python delivers signals to the main thread only; a notebook's worker thread has none.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        # Loader workers inherit this handler. Slurm signals them too, and they must live until
        # the loop has saved.
        if os.getpid() != self._owner:
            return
        now = time.monotonic()
        if self.reason is None:
            self.reason, self._asked_at = signal.Signals(number).name, now
        elif number == signal.SIGINT and now > self._asked_at + _ONE_CTRL_C_S:
            raise KeyboardInterrupt  # asked twice: at once, without saving

    def wanted(self, margin: float = 0.0, budget: bool = True) -> bool:
        """Say whether this rank wants to stop.

        Parameters
        ----------
        margin
            Seconds that the next step and the saving will take: the budget is kept, not passed.
        budget
            Whether the budget counts yet.
        """
        if self.reason is None and self._limit is not None and budget:
            elapsed = time.monotonic() - self._start
            if elapsed + min(margin, 0.5 * self._limit) >= self._limit:
                self.reason = f"the time limit of {self._limit:g} s"
        return self.reason is not None


def stop_together(asked: bool, folder: Path, ranks: Communicator) -> None:
    """Stop all MPI ranks where one of them was asked to; also waits until all are here.

    Raises
    ------
    Stopped
        On every rank; what is done in `folder` stays.
    """
    if ranks.any(asked):
        raise Stopped(f"{folder}: stopped as asked; what is done stays. Run again to go on.")
