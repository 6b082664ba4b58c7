"""A request to stop, remembered until a good moment: a batch system's warning before the end."""

from __future__ import annotations

import signal
import threading
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Within it, SIGTERM and SIGUSR1 set `asked` in place of ending the process."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in ASKING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
