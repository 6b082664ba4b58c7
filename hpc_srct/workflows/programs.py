"""Starting the commands of the road as processes, as a user would type them."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from hpc_srct import console
from hpc_srct.errors import InputError, MachineError, SrctError, Stopped

# 130: interrupted before it had a state to save.
_ERRORS: dict[int, type[SrctError]] = {2: InputError, 75: Stopped, 130: Stopped}


class _Commands:
    """Those that run, those that are just being started, and the signal that asked to stop."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[str]] = set()
        self.starting: set[object] = set()
        self.asked: int | None = None


_commands = _Commands()


@contextlib.contextmanager
def signals_passed_on() -> Iterator[None]:
    """Pass what asks to stop on to the commands that `run` has started: they save and end.

    A Ctrl-C the terminal sends to all of them by itself.

    Raises
    ------
    Stopped
        Asked while no command ran; while one did, its own code says so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if not _commands.running and not _commands.starting:
            name = signal.Signals(number).name
            raise Stopped(f"stopped by {name}. The same command again goes on.")
        _commands.asked = number
        for process in list(_commands.running):
            process.send_signal(number)

    asking = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    former = {number: signal.signal(number, pass_on) for number in asking}
    try:
        yield
    finally:
        _commands.asked = None
        for number, handler in former.items():
            signal.signal(number, handler)


def find_program(name: str) -> str | None:
    """Find a program beside this Python first, so that it belongs to the same environment."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def run(
    words: Sequence[str | Path],
    *,
    ranks: int = 1,
    environment: Mapping[str, str] | None = None,
    label: str = "",
) -> None:
    """Run ``srct WORDS``, on MPI ranks where asked, with its output on this terminal.

    Parameters
    ----------
    words
        Command and arguments.
    ranks
        MPI ranks.
    environment
        Variables to set.
    label
        Stands before each line of its output, so that commands may run side by side.

    Raises
    ------
    Stopped, InputError, MachineError
        The command ended with 75, with 2, or otherwise not well.
    """
    words = [str(word) for word in words]
    command = [sys.executable, "-m", "hpc_srct", *words]
    shown = ["srct", *words]
    if ranks > 1:
        mpiexec = find_program("mpiexec")
        if mpiexec is None:
            console.warn("no mpiexec here: one rank does the work.")
        else:
            command = [mpiexec, "-n", str(ranks), *command]
            shown = ["mpiexec", "-n", str(ranks), *shown]
    console.out.print(f"$ {shlex.join(shown)}", style="bold", markup=False)
    this = object()
    _commands.starting.add(this)
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE if label else None,
            stderr=subprocess.STDOUT if label else None,
            text=True,
            errors="replace",
        )
        _commands.running.add(process)
    finally:
        _commands.starting.discard(this)
    if _commands.asked is not None:  # while it was being started
        process.send_signal(_commands.asked)
    try:
        for line in process.stdout or ():
            console.out.print(f"{label}: {line.rstrip()}", markup=False)
        code = _code_of(process)
    finally:
        _commands.running.discard(process)
    if code != 0:
        kind = _ERRORS.get(code, MachineError)
        raise kind(f"`{shlex.join(shown)}` ended with code {code}; its own message stands above.")


def _code_of(process: subprocess.Popen[str]) -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal sent it to the command too: let it save and end by itself.
            continue
