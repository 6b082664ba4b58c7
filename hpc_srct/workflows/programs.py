"""Starting the commands of the road as processes, as a user would type them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpc_srct import console
from hpc_srct.errors import InputError, MachineError, SrctError, Stopped

# 130: interrupted before it had a state to save.
_ERRORS: dict[int, type[SrctError]] = {2: InputError, 75: Stopped, 130: Stopped}


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
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE if label else None,
        stderr=subprocess.STDOUT if label else None,
        text=True,
        errors="replace",
    )
    for line in process.stdout or ():
        console.out.print(f"{label}: {line.rstrip()}", markup=False)
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            # The terminal sent it to the command too: let it save and end by itself.
            continue
    if code != 0:
        kind = _ERRORS.get(code, MachineError)
        raise kind(f"`{shlex.join(shown)}` ended with code {code}; its own message stands above.")
