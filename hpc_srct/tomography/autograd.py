"""A linear operator as a torch function, its gradient being the transpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_srct.errors import InputError

# Of numpy arrays or of tensors.
Map = Callable[[Any], Any]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Map, back: Map) -> Tensor:
        ctx.there, ctx.back = there, back
        return there(x.detach()).to(x.device, x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Linear.apply(gradient, ctx.back, ctx.there), None, None


def as_tensor(array: NDArray) -> Tensor:
    """Give a numpy array of any number type as a float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def apply_linear(x: Any, there: Map, back: Map, through_numpy: bool) -> Tensor:
    """Apply `there` to a tensor; its gradient flows through `back`, the transpose.

    Parameters
    ----------
    x
        A tensor on any device and of any floating type, which the result has too.
    there, back
        The operator and its transpose.
    through_numpy
        They take and give numpy arrays, not tensors.

    Raises
    ------
    InputError
        `x` is not a tensor.
    """
    if not isinstance(x, Tensor):
        raise InputError(f"expected a numpy array or a torch tensor, found {type(x).__name__}.")
    if through_numpy:
        return _Linear.apply(x, _on_tensors(there), _on_tensors(back))
    return _Linear.apply(x, there, back)


def _on_tensors(operator: Map) -> Map:
    def mapped(x: Tensor) -> Tensor:
        return torch.from_numpy(operator(x.to(torch.float32).cpu().numpy()))

    return mapped
