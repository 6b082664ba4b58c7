"""The losses that a network is trained with, by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from hpc_srct.errors import InputError

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Loss] = {"mse": functional.mse_loss, "l1": functional.l1_loss}


def get(name: str) -> Loss:
    """Give the loss called `name`: (prediction, label), both (B, 1, H, W) fp32, to a scalar.

    ``mse`` is the talk's criterion. ``l1`` blurs edges less.

    Raises
    ------
    InputError
        There is none of that name; the known ones are listed.
    """
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise InputError(f"loss: unknown name '{name}'; known: {', '.join(sorted(LOSSES))}.{hint}")
    return LOSSES[name]
