"""Finding where a network's numbers stop being finite."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def first_not_finite(module: nn.Module, loss_of: Callable[[], Tensor]) -> str | None:
    """Name the first place, forward and then backward, that is not finite.

    Parameters
    ----------
    module
        The network; its gradients are not touched.
    loss_of
        Runs it and gives the loss, scaled as in training.

    Returns
    -------
    str or None
        Such as ``the output of encoder.0.first.0``; None where everything is finite.
    """
    found: list[str] = []

    def look(name: str, tensor: Tensor) -> None:
        if not found and not torch.isfinite(tensor).all():
            found.append(name)

    def forward(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            look(f"the output of {name}", output)
            if output.requires_grad:
                # A hook of the tensor: module hooks cannot stand operations in place.
                output.register_hook(partial(look, f"the gradient at the output of {name}"))

    layers = [(n, m) for n, m in module.named_modules() if n and not list(m.children())]
    hooks = [m.register_forward_hook(partial(forward, name)) for name, m in layers]
    try:
        loss = loss_of()
        look("the loss", loss)
        if found:
            return found[0]
        names, parameters = zip(*module.named_parameters(), strict=True)
        for name, gradient in zip(names, torch.autograd.grad(loss, parameters), strict=True):
            look(f"the gradient of {name}", gradient)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
