"""DeepSpeed behind a narrow door: start the ranks, build the engine, take steps, read masters.

Every run goes through DeepSpeed's ZeRO stage 1, on one CPU too, so that precisions differ in
their numbers alone. (With fp16 and stage 0 DeepSpeed does not scale the loss.)
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from hpc_srct import ranks
from hpc_srct.errors import MachineError
from hpc_srct.training import compilation

# A rank that dies must end the others within a minute, but a slow first read must not.
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """This process among the training ranks, and its device.

    `control` is a gloo group for flags and losses: asking through it never waits for a GPU.
    """

    rank: int
    size: int
    device: torch.device
    control: Any = None

    def reduce(self, values: list[float], how: str = "sum") -> list[float]:
        """Combine numbers over ranks: ``sum`` or ``max``."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        operation = {"sum": torch.distributed.ReduceOp.SUM, "max": torch.distributed.ReduceOp.MAX}
        torch.distributed.all_reduce(tensor, operation[how], group=self.control)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Give every rank each rank's value, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value, group=self.control)
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            torch.distributed.barrier(group=self.control)


@contextlib.contextmanager
def environment_restored() -> Iterator[None]:
    """Take back what `start` sets in the environment.

    A process that trains and then starts others must not hand them its own meeting place.
    """
    former = {name: os.environ.get(name) for name in ranks.torch_environment()}
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def start() -> Ranks:
    """Join the training ranks that this process was started with, or be alone.

    Raises
    ------
    MachineError
        The ranks do not find each other.
    """
    variables = ranks.torch_environment()
    use_cuda = torch.cuda.is_available()
    if use_cuda:
        # Under srun with GPUs bound to tasks each task sees one GPU, whatever its local rank.
        local = int(variables["LOCAL_RANK"]) % torch.cuda.device_count()
        variables["LOCAL_RANK"] = str(local)
        torch.cuda.set_device(local)
    os.environ.update(variables)
    # Named here, DeepSpeed does not search for one (and warn that it found none).
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if use_cuda else "cpu")
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    # DeepSpeed calls collectives by names that torch is about to change: nothing a user can mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # No compiled op is needed: Adam is torch's, and gloo does the work of shm_comm. Said here,
    # DeepSpeed does not try a compiler on each of them.
    deepspeed.ops.__compatible_ops__ = collections.defaultdict(bool)
    if not use_cuda:
        _share_cores(int(variables["WORLD_SIZE"]))
    backend = "nccl" if use_cuda else "gloo"
    try:
        if int(variables["WORLD_SIZE"]) == 1 and not torch.distributed.is_initialized():
            # Alone there is nobody to meet, and no port that another run could take first.
            torch.distributed.init_process_group(
                backend, store=torch.distributed.HashStore(), rank=0, world_size=1, timeout=TIMEOUT
            )
        deepspeed.init_distributed(
            dist_backend=backend,
            auto_mpi_discovery=False,
            verbose=False,
            timeout=TIMEOUT,
        )
    except (RuntimeError, torch.distributed.DistError) as error:
        where = f"{variables['MASTER_ADDR']}:{variables['MASTER_PORT']}"
        raise MachineError(
            f"rank {variables['RANK']} of {variables['WORLD_SIZE']}: no meeting at {where}: "
            f"{str(error).splitlines()[0]}."
        ) from error
    if not use_cuda:
        # Gloo's thread, met by the interpreter's end, now and then aborts a run that is done.
        atexit.register(_part)
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    control = None
    if size > 1:
        control = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)
    device = torch.device("cuda", torch.cuda.current_device()) if use_cuda else torch.device("cpu")
    return Ranks(rank, size, device, control)


def _share_cores(size: int) -> None:
    """Share a machine's cores between its ranks, unless the user has decided."""
    if size > 1 and "OMP_NUM_THREADS" not in os.environ:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", size)))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // max(here, 1)))


class ScaleExhausted(Exception):
    """Gradients overflow at the lowest loss scale."""


class Engine:
    """A network in training.

    Parameters
    ----------
    module
        In fp32; DeepSpeed casts it in place.
    config
        DeepSpeed's configuration.
    where
        The ranks.
    compiled
        Whether `forward` and `backward` go through `torch.compile`.
    """

    def __init__(
        self, module: nn.Module, config: dict[str, Any], where: Ranks, compiled: bool = False
    ):
        import deepspeed

        self.ranks, self.compiled = where, compiled
        exact = {name: p.detach().clone() for name, p in module.named_parameters()}
        with _quiet():
            self.deepspeed, *_ = deepspeed.initialize(
                model=module,
                model_parameters=list(module.parameters()),
                config=config,
                dist_init_required=False,
            )
        self.module: nn.Module = self.deepspeed.module
        self.dtype = next(module.parameters()).dtype
        if self.dtype != torch.float32:
            # DeepSpeed makes its fp32 masters from the weights that it has rounded already.
            self.set_masters(exact)
        if compiled:
            compilation.compile_in_place(self.module)

    @property
    def optimizer(self) -> Any:
        """DeepSpeed's ZeRO optimizer."""
        return self.deepspeed.optimizer

    @property
    def loss_scale(self) -> float:
        """The live loss scale (``engine.loss_scale()`` of DeepSpeed is the configured one)."""
        return float(self.optimizer.cur_scale)

    @property
    def overflow(self) -> bool:
        """Whether the last step met a gradient that is not finite."""
        return bool(self.optimizer.overflow)

    @property
    def applied(self) -> bool:
        """Whether the last step changed the weights."""
        return bool(self.deepspeed.was_step_applied())

    @property
    def skipped(self) -> int:
        """Steps skipped so far."""
        return int(self.deepspeed.skipped_steps)

    @property
    def gradient_norm(self) -> float:
        """Norm of the last step's gradient, unscaled, before clipping; inf after an overflow."""
        norm = self.deepspeed.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the network on a (B, C, H, W) batch; the result is fp32.

        Raises
        ------
        MachineError
            It was to be compiled and cannot be.
        """
        with self._compiler_in_words():
            return self.deepspeed(inputs.to(self.dtype)).float()

    def backward(self, loss: Tensor) -> None:
        """Find the gradient of a micro-batch, loss scaling included.

        Raises
        ------
        MachineError
            It was to be compiled and cannot be.
        """
        with self._compiler_in_words():
            self.deepspeed.backward(loss)

    def uncompiled(self) -> contextlib.AbstractContextManager[object]:
        """Run the network without `torch.compile`: on shapes of any kind, with hooks."""
        return compilation.uncompiled() if self.compiled else contextlib.nullcontext()

    def _compiler_in_words(self) -> contextlib.AbstractContextManager[None]:
        return compilation.compiler_in_words() if self.compiled else contextlib.nullcontext()

    def step(self) -> None:
        """End a micro-batch; the last one of a step updates the weights.

        Raises
        ------
        ScaleExhausted
            A gradient overflows and the loss scale is at its minimum.
        """
        try:
            self.deepspeed.step()
        except Exception as error:
            # DeepSpeed raises a bare Exception; nothing but its text tells it apart.
            if "loss scale already at minimum" in str(error):
                raise ScaleExhausted(str(error)) from error
            raise

    def set_learning_rate(self, rate: float) -> None:
        """Set Adam's rate. (The talk's schedule counts epochs, DeepSpeed's schedulers steps.)"""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def masters(self) -> dict[str, Tensor]:
        """Collect the fp32 weights by name, on the CPU. All ranks must call it."""
        from deepspeed.utils import safe_get_full_fp32_param

        return {
            name: safe_get_full_fp32_param(p).detach().cpu().clone()
            for name, p in self.module.named_parameters()
        }

    def set_masters(self, weights: Mapping[str, Tensor]) -> None:
        """Set the fp32 weights, and from them those that compute. All ranks must call it."""
        from deepspeed.utils import safe_set_full_fp32_param

        with torch.no_grad():
            for name, p in self.module.named_parameters():
                safe_set_full_fp32_param(p, weights[name].to(p.device, torch.float32))
        self.optimizer.update_lp_params()

    def gradients(self) -> dict[str, Tensor]:
        """Collect the unscaled fp32 gradients between `backward` and `step`; collective."""
        from deepspeed.utils import safe_get_full_grad

        scale = self.loss_scale
        return {
            name: safe_get_full_grad(p).detach().float() / scale
            for name, p in self.module.named_parameters()
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Give the network as it is exported: fp32 masters, batch norm averaged; collective."""
        with self.averaged_statistics():
            buffers = {name: b.detach().cpu().clone() for name, b in self.module.named_buffers()}
        state = self.masters() | buffers
        return {name: state[name] for name in self.module.state_dict()}

    @contextlib.contextmanager
    def averaged_statistics(self) -> Iterator[None]:
        """Put the batch norm statistics of all ranks together, for validation and saving.

        Each rank's own come back afterwards: training goes on as if nobody had looked, so
        that the moments of saving leave no trace in the result.
        """
        buffers = [b for b in self.module.buffers() if b.is_floating_point()]
        if self.ranks.size == 1 or not buffers:
            yield
            return
        own = [b.clone() for b in buffers]
        flat = torch.cat([b.double().flatten() for b in own])
        torch.distributed.all_reduce(flat)
        flat /= self.ranks.size
        with torch.no_grad():
            for buffer, mean in zip(buffers, flat.split([b.numel() for b in own]), strict=True):
                buffer.copy_(mean.view_as(buffer))
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, former in zip(buffers, own, strict=True):
                    buffer.copy_(former)

    def close(self) -> None:
        """Let go of hooks and memory."""
        with contextlib.suppress(Exception):
            self.deepspeed.destroy()


def _part() -> None:
    with contextlib.suppress(Exception):
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed resets its logger's level from the configuration; keep errors only."""
    import deepspeed

    logger = deepspeed.utils.logger
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(max(level, logging.ERROR))
