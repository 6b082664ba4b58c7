"""`torch.compile` for the training step, where it is asked for.

The network is compiled in place: names, weights and checkpoints stay what they are. Only the
steps run compiled. Validation, whose slices have many sizes, and the search for what is not
finite, whose hooks compiled code does not call, run as without it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

import torch
from torch import nn

from hpc_srct.errors import MachineError
from hpc_srct.models import convolution

BACKEND = "inductor"


def require_compiler(device: torch.device) -> None:
    """Refuse early where `torch.compile` cannot work.

    Raises
    ------
    MachineError
        On a CPU it writes C++, and there is no compiler for it.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise MachineError(
            f"compile: torch.compile needs a C++ compiler on a CPU, and '{compiler}' is not here; "
            "set compile=false, or CXX to a compiler."
        )


def compile_in_place(module: nn.Module) -> None:
    """Compile a network's forward and backward at its first call; its state keeps its names.

    Parameters
    ----------
    module
        All its batches must have one shape.
    """
    # Compiled code of former networks counts against a limit.
    torch.compiler.reset()
    torch.compiler.assume_constant_result(convolution.cpu_lacks)
    # In one graph or not at all: a break inside a checkpointed block would run it as it is, and
    # then update the statistics of batch norm twice.
    # `forward` and not the module: DeepSpeed's hooks round it measure time, which is no graph.
    module.forward = torch.compile(module.forward, backend=BACKEND, fullgraph=True, dynamic=False)


def uncompiled() -> contextlib.AbstractContextManager[object]:
    """Run compiled networks as if they were not."""
    return torch.compiler.set_stance("force_eager")


@contextlib.contextmanager
def compiler_in_words() -> Iterator[None]:
    """Tell in one line that compiling failed.

    Raises
    ------
    MachineError
        It did.
    """
    try:
        yield
    except RuntimeError as error:
        # Each part of the compiler has errors of its own; where they come from is what they share.
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # "backend='inductor' raised:" stands above what it raised.
        lines = [line for line in lines if not line.endswith(" raised:")]
        reason = lines[0][:200] if lines else type(error).__name__
        raise MachineError(
            f"compile: torch.compile failed on this machine ({reason}); set compile=false, or "
            "remove its cache (TORCHINDUCTOR_CACHE_DIR) if a run was killed while it compiled."
        ) from error
