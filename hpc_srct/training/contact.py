"""Ranks that cannot work together, and how it is told: once, and by whom it concerns."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import torch

from hpc_srct.errors import InputError, MachineError, Stopped
from hpc_srct.training import checkpoints
from hpc_srct.training.engine import Ranks


@contextlib.contextmanager
def one_voice(where: Ranks, run_dir: Path) -> Iterator[None]:
    """Let rank 0 alone report what all ranks found alike; the others end with its exit code.

    A rank that dies is reported by those that it leaves behind.
    """
    try:
        yield
    except (InputError, Stopped) as error:
        if where.rank != 0:
            raise SystemExit(error.exit_code) from error
        raise
    except RuntimeError as error:
        if where.size > 1 and _is_lost_contact(error):
            told = (
                f"rank {where.rank}: another of the {where.size} ranks is gone "
                f"({str(error).splitlines()[0][:120]}).\nIts log says why."
            )
            if checkpoints.any_saved(run_dir):
                told += " The last checkpoint is whole: --resume goes on from it."
            raise MachineError(told) from error
        raise


def refuse_shared_gpus(where: Ranks) -> None:
    """See that each rank has a GPU of its own; collective.

    Raises
    ------
    InputError
        Ranks share one: NCCL would refuse it later, in words that do not help.
    """
    if where.device.type != "cuda":
        return
    uuid = torch.cuda.get_device_properties(where.device).uuid
    gpus = where.gather((socket.gethostname(), str(uuid)))
    most = max(gpus.count(gpu) for gpu in gpus)
    if most > 1:
        host = next(host for host, uuid in gpus if gpus.count((host, uuid)) == most)
        raise InputError(
            f"{most} ranks share one GPU of {host}.\nStart one rank for each GPU, such as "
            "launch/workstation.sh EXPERIMENT.yaml 1 where there is one."
        )


def _is_lost_contact(error: RuntimeError) -> bool:
    """Tell whether an error of torch's means that another rank is gone."""
    text = str(error).lower()
    if "invalid usage" in text:
        return False  # NCCL's word for what this process asked of it
    if isinstance(error, torch.distributed.DistError):
        return True
    return any(mark in text for mark in ("connection", "gloo", "broken pipe", "nccl"))
