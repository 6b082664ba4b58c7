"""Stopping on request: a signal or a time budget raises a flag, the loop acts on it.

Nothing is saved in a signal handler. All ranks agree on the flag at a step boundary, save
together, and leave with `hpc_srct.errors.Stopped`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class Stopping:
    """Listens for SIGTERM, SIGUSR2 and SIGINT, and watches a time budget.

    Use as a context manager: the former handlers come back at its end.

    Parameters
    ----------
    time_limit
        Seconds from now after which to stop, or None.
    """

    def __init__(self, time_limit: float | None = None):
        self.reason: str | None = None
        self._limit = time_limit
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
        if number == signal.SIGINT and self.reason is not None:
            raise KeyboardInterrupt  # asked twice: at once, without saving
        self.reason = signal.Signals(number).name

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
