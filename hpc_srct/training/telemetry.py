"""What a run tells about itself: ``metrics.jsonl``, TensorBoard, and a live line.

``metrics.jsonl`` has one JSON object a line. ``kind`` is ``step`` or ``validation``. What is
not finite is written as null.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import resource
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from hpc_srct import console
from hpc_srct.files import machine_error


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step.

    Attributes
    ----------
    step, epoch
        Counted from 1.
    loss
        Mean over the step's tiles and ranks, before the update.
    loss_scale
        What this step's loss was multiplied by.
    overflow, applied
        Whether a gradient was not finite; whether the weights changed.
    skipped
        Steps without update so far.
    grad_norm
        Unscaled, before clipping.
    lr
        Adam's rate.
    data_wait_s, step_s
        Seconds spent waiting for tiles; seconds of the whole step, the waiting included.
    slices_per_s
        Tiles (or whole slices, where tiles.size is null) per second, over all ranks.
    peak_memory_bytes
        Of rank 0 since the last validation: the GPU's allocator's, else the process's.
    time_left_s
        Estimate until the end of the run.
    """

    step: int
    epoch: int
    loss: float
    loss_scale: float
    overflow: bool
    applied: bool
    skipped: int
    grad_norm: float
    lr: float
    data_wait_s: float
    step_s: float
    slices_per_s: float
    peak_memory_bytes: int
    time_left_s: float


_CURVES = ("loss", "loss_scale", "overflow", "applied", "skipped", "grad_norm", "lr")
_COSTS = ("data_wait_s", "slices_per_s", "peak_memory_bytes")


class Telemetry:
    """Writes what rank 0 is told; on other ranks it does nothing.

    Parameters
    ----------
    folder
        The run folder.
    rank
        This rank.
    keep_bytes
        On resume, how much of ``metrics.jsonl`` belongs to the checkpoint: what follows was
        written by steps that are taken again.
    step
        The checkpoint's step, from which TensorBoard's curves are cut too.
    tensorboard
        Whether to write TensorBoard's files.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        keep_bytes: int = 0,
        step: int = 0,
        tensorboard: bool = True,
    ):
        self.path = folder / "metrics.jsonl"
        self._file: BinaryIO | None = None
        self._board: Any = None
        if rank != 0:
            return
        try:
            self._file = open(self.path, "ab")  # noqa: SIM115 - lives as long as the run
            if self._file.tell() < keep_bytes:
                console.warn(f"{self.path}: is shorter than at the checkpoint; the rest is lost.")
            self._file.truncate(min(keep_bytes, self._file.tell()))
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise machine_error(self.path, error) from error
        if tensorboard:
            self._board = _board(folder / "tensorboard", step)

    def step(self, record: StepRecord) -> None:
        """Note one optimizer step."""
        values = asdict(record)
        self._write({"kind": "step", **values})
        self._curves("train", {name: values[name] for name in _CURVES}, record.step)
        self._curves("cost", {name: values[name] for name in _COSTS}, record.step)

    def validation(self, step: int, epoch: int, **figures: float | None) -> None:
        """Note the figures of one validation; None is a figure that there is not."""
        self._write({"kind": "validation", "step": step, "epoch": epoch, **figures})
        known = {name: value for name, value in figures.items() if value is not None}
        self._curves("validation", known, step)

    def sync(self) -> int:
        """Make everything noted last through a crash; give the length of ``metrics.jsonl``."""
        if self._file is None:
            return 0
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise machine_error(self.path, error) from error
        return self._file.tell()

    def close(self) -> None:
        """Close the files."""
        if self._board is not None:
            with contextlib.suppress(OSError):
                self._board.close()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = self._board = None

    def _write(self, values: dict[str, Any]) -> None:
        if self._file is None:
            return
        plain = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in values.items()
        }
        try:
            self._file.write(json.dumps(plain).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise machine_error(self.path, error) from error

    def _curves(self, group: str, values: dict[str, Any], step: int) -> None:
        if self._board is None:
            return
        try:
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", float(value), step)
        except OSError as error:
            # The same figures are in metrics.jsonl: not worth a run.
            console.warn(f"{self._board.log_dir}: TensorBoard's files stop here: {error}.")
            self._board = None


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        console.warn("tensorboard is not installed: its files are not written.")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def peak_memory(device: torch.device) -> int:
    """Measure the most memory used so far, in bytes: the GPU's allocator's, or the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024
    except (OSError, TypeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak_memory(device: torch.device) -> None:
    """Count the most memory used from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # not allowed in some containers
        Path("/proc/self/clear_refs").write_text("5")
