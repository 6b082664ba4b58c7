"""What a command says while it works: lines, warnings and progress, from the first rank alone.

On a terminal progress is a live bar; elsewhere (a log file, a Slurm job) it is a plain line
now and then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# A file name may have :x: in it, which rich would make a picture of.
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

PLAIN_LINE_EVERY_S = 10.0


def say(text: str, *, rank: int = 0) -> None:
    """Print one line on standard output, from rank 0 alone."""
    if rank == 0:
        out.print(text, markup=False)


def warn(text: str, *, rank: int = 0) -> None:
    """Print one warning on standard error, from rank 0 alone."""
    if rank == 0:
        err.print(f"warning: {text}", style="yellow", markup=False)


class Steps:
    """A running count of work done; `advance` moves it on."""

    def __init__(self, title: str, total: int, bar: Progress | None, rank: int):
        self.title, self.total, self.done = title, total, 0
        self._bar, self._rank = bar, rank
        self._task = bar.add_task(title, total=total, note="") if bar else None
        self._start = self._last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more as done; `note` (a loss, a name) stands beside the count."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=note)
            return
        now = time.monotonic()
        if self._rank == 0 and (
            now - self._last >= PLAIN_LINE_EVERY_S or self.done >= self.total > self.done - count
        ):
            self._last = now
            elapsed = now - self._start
            left = elapsed / max(self.done, 1) * (self.total - self.done)
            say(f"{self.title}: {self.done}/{self.total} {note} {elapsed:.0f} s, {left:.0f} s left")


@contextmanager
def progress(title: str, total: int, *, rank: int = 0) -> Iterator[Steps]:
    """Show progress over `total` steps of work."""
    if rank == 0 and out.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=out) as bar:
            yield Steps(title, total, bar, rank)
    else:
        yield Steps(title, total, None, rank)
