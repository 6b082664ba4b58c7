"""A linear numpy operator as a torch function, its gradient being the transpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hpc_srct.errors import InputError

Map = Callable[[NDArray], NDArray]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, there: Map, back: Map) -> torch.Tensor:
        ctx.there, ctx.back = there, back
        return _mapped(there, x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _Linear.apply(gradient, ctx.back, ctx.there), None, None


def _mapped(operator: Map, x: torch.Tensor) -> torch.Tensor:
    array = x.detach().to(torch.float32).cpu().numpy()
    return torch.from_numpy(np.ascontiguousarray(operator(array))).to(x.device, x.dtype)


def apply_linear(x: Any, there: Map, back: Map) -> torch.Tensor:
    """Apply `there` to a tensor; its gradient flows through `back`, the transpose.

    Raises
    ------
    InputError
        `x` is not a tensor.
    """
    if not isinstance(x, torch.Tensor):
        raise InputError(f"expected a numpy array or a torch tensor, found {type(x).__name__}.")
    return _Linear.apply(x, there, back)
