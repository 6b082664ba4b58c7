"""Who am I among how many: the only place that asks.

Preprocessing and enhancement ask for MPI ranks (`communicator`); training asks for torch's
(`torch_environment`), so that mpi4py never comes between DeepSpeed and its launcher.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpc_srct.errors import InputError

# Set by the launchers of MPICH (Hydra, PMI-2 under srun), Open MPI and PMIx.
_MPI_MARKS = ("PMI_RANK", "PMI_FD", "PMI_PORT", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE")
# How long a rank that failed waits for the others to fail too.
PATIENCE_S = 3.0


@dataclass(frozen=True)
class Communicator:
    """Ranks that work together. `mpi` is mpi4py's communicator, None for a rank alone.

    `apart` is a copy of it on which ranks that fail find each other: no message of the work, at
    whatever point it broke off, can be mistaken for theirs.
    """

    rank: int = 0
    size: int = 1
    mpi: Any = None
    apart: Any = None

    def barrier(self) -> None:
        """Wait until every rank is here, asleep: MPI's own waiting keeps a processor busy."""
        if self.mpi is None:
            return
        request, pause = self.mpi.Ibarrier(), 1e-4
        while not request.Test():
            time.sleep(pause)
            pause = min(1.5 * pause, 0.02)

    def any(self, value: bool) -> bool:
        """Tell every rank whether `value` holds on one of them."""
        if self.mpi is None:
            return value
        self.barrier()
        return any(self.mpi.allgather(value))

    def broadcast(self, value: Any, root: int = 0) -> Any:
        """Give every rank the value that `root` holds."""
        return value if self.mpi is None else self.mpi.bcast(value, root=root)

    def gather(self, value: Any) -> list[Any] | None:
        """Give rank 0 every rank's value, in rank order; None on the others."""
        return [value] if self.mpi is None else self.mpi.gather(value, root=0)

    def all_failed(self, failure: Any) -> list[Any] | None:
        """Meet the other ranks after a failure.

        Parameters
        ----------
        failure
            What to tell the others of it.

        Returns
        -------
        list or None
            Every rank's failure, in rank order, where all failed: each may leave by itself.
            None where some work on, which wait for this one and must be ended (`abort`).
        """
        if self.apart is None:
            return None
        request, deadline = self.apart.Ibarrier(), time.monotonic() + PATIENCE_S
        while not request.Test():
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)
        return self.apart.allgather(failure)

    def abort(self, code: int) -> None:
        """End every rank now: one that fails must not leave the others waiting."""
        if self.mpi is not None and self.size > 1:
            sys.stdout.flush()
            sys.stderr.flush()
            # The launcher ends us before it has passed on what was said a moment ago.
            time.sleep(0.5)
            self.mpi.Abort(code)
            os._exit(code)  # MPICH's Abort may return


def slurm_step_tasks(environ: Mapping[str, str] = os.environ) -> int:
    """Count the tasks of this Slurm step; 1 outside one.

    The batch step itself has SLURM_NTASKS > 1 and SLURM_PROCID 0 though it is alone, so only
    the step's own count is asked.
    """
    return int(environ.get("SLURM_STEP_NUM_TASKS", "1") or 1)


def communicator(environ: Mapping[str, str] = os.environ) -> Communicator:
    """Join the MPI ranks that this process was started with, or be alone.

    Raises
    ------
    InputError
        This process is one of several Slurm tasks but MPI sees it alone: all of them would
        do the same work over each other.
    """
    tasks = slurm_step_tasks(environ)
    if tasks == 1 and not any(mark in environ for mark in _MPI_MARKS):
        return Communicator()
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    if world.Get_size() == 1 and tasks > 1:
        library = MPI.Get_library_version().split()[0]
        raise InputError(
            f"Slurm started {tasks} tasks but MPI ({library}) sees only one.\n"
            "Start them with `srun --mpi=pmi2` (or pmix), or set `mpi:` in the site profile."
        )
    if world.Get_size() == 1:
        return Communicator()
    return Communicator(world.Get_rank(), world.Get_size(), world, world.Dup())


def first_host(nodelist: str) -> str:
    """Name the first host of a Slurm node list such as ``gpu[003-006]``."""
    answer = subprocess.run(
        ["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=True
    )
    return answer.stdout.split()[0]


def free_port() -> int:
    """Find a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torch_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Work out torch's five rendezvous variables.

    A launcher's own (deepspeed, torchrun) stand; under ``srun`` they come from the step;
    otherwise the process is alone.

    Returns
    -------
    dict
        RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT. All five are set, because
        DeepSpeed starts MPI discovery when one is missing.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if all(name in environ for name in names):
        return {name: environ[name] for name in names}
    tasks = slurm_step_tasks(environ)
    if tasks > 1:
        port = environ.get("MASTER_PORT") or str(20000 + int(environ["SLURM_JOB_ID"]) % 20000)
        return {
            "RANK": environ["SLURM_PROCID"],
            "LOCAL_RANK": environ["SLURM_LOCALID"],
            "WORLD_SIZE": str(tasks),
            "MASTER_ADDR": environ.get("MASTER_ADDR") or first_host(environ["SLURM_STEP_NODELIST"]),
            "MASTER_PORT": port,
        }
    return {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
