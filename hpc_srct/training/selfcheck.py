"""The start-up check: early O2, bf16 or compiled steps against the same steps in plain O0.

Hours of training can be lost to a loss that is not scaled, a layer computed in the wrong
precision, or a kernel that is broken (or compiled wrongly) on one machine. So the first steps are
computed a second time in fp32, from the fp32 masters, and loss and gradient compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_srct import console
from hpc_srct.errors import MachineError
from hpc_srct.training import parts
from hpc_srct.training.telemetry import forget_peak_memory

Step = tuple[float, dict[str, Tensor]]

# Checked steps, counted among those applied since the start, or since a switch of precision. A new
# network gives its input back: at the first step only its last layer has a gradient; a few steps
# later all layers do.
STEPS = (1, 4)

# Most that loss and gradient length may differ (relative), least cosine between the gradients of
# one layer. What is right stays far inside: on networks of width 8, O2 was seen with cosines above
# 0.98 and bf16, with 8 bits of mantissa, above 0.9. What is wrong falls far outside.
# O0 differs from O0 where it is compiled: by the order of its sums.
TOLERANCE = {
    "O0": {"loss": 0.001, "norm": 0.01, "cosine": 0.99},
    "O2": {"loss": 0.02, "norm": 0.1, "cosine": 0.9},
    "bf16": {"loss": 0.05, "norm": 0.2, "cosine": 0.6},
}


@dataclass(frozen=True)
class Agreement:
    """How a step agrees with fp32.

    Relative differences of loss and whole gradient's length; the least cosine between the
    gradients of one layer's weights, and which layer that is.
    """

    loss: float
    norm: float
    cosine: float
    layer: str

    def fails(self, precision: str) -> list[str]:
        """List what lies outside the tolerance (a NaN does)."""
        limit = TOLERANCE[precision]
        found = []
        if not self.loss <= limit["loss"]:
            found.append(f"the loss differs by {self.loss:.2%} (at most {limit['loss']:.0%})")
        if not self.norm <= limit["norm"]:
            found.append(
                f"the gradient's length differs by {self.norm:.2%} (at most {limit['norm']:.0%})"
            )
        if not self.cosine >= limit["cosine"]:
            found.append(
                f"the gradients of {self.layer} have a cosine of {self.cosine:.3f} (at least "
                f"{limit['cosine']})"
            )
        return found

    def __str__(self) -> str:
        return (
            f"loss within {self.loss:.2%}, gradient's length within {self.norm:.2%}, every layer's "
            f"direction with a cosine of at least {self.cosine:.3f}"
        )


class SelfCheck:
    """Checks the first steps of a run that is new, or has another precision than before.

    In plain O0 there is nothing to check.

    Parameters
    ----------
    built
        The run.
    """

    def __init__(self, built: parts.Parts):
        settings = built.settings
        plain = settings.precision == "O0" and not settings.compile
        begins = built.switched or not built.progress.step
        self._parts, self._expected = built, None
        done = self._applied()
        wanted = settings.self_check and not plain and begins
        self._steps = [done + step for step in STEPS] if wanted else []

    def _applied(self) -> int:
        engine = self._parts.engine
        return engine.deepspeed.global_steps - engine.skipped

    def before(self, micro_batches: list[Tensor]) -> None:
        """Compute the coming step in fp32 where it is one to be checked; collective."""
        if not self._steps or self._applied() + 1 < self._steps[0]:
            return
        self._expected = reference(self._parts, micro_batches)
        forget_peak_memory(self._parts.ranks.device)
        if self._expected is None:
            self._steps = []
            console.warn(
                "self-check: left out, the device has not the memory for a step in fp32.",
                rank=self._parts.ranks.rank,
            )

    def after(self, loss: float) -> None:
        """Compare the step's loss and gradient, before the weights change; collective.

        Raises
        ------
        MachineError
            They do not agree.
        """
        if self._expected is None:
            return
        settings = self._parts.settings
        precision = settings.precision
        name = f"{precision}, compiled," if settings.compile else precision
        other = "precision=O0, compile=false" if settings.compile else "precision=O0"
        agreement = compare(self._expected, loss, self._parts.engine.gradients())
        self._expected = None
        if agreement is None:
            return  # an overflow: the next step is checked instead
        step = self._steps.pop(0)
        if failures := agreement.fails(precision):
            raise MachineError(
                f"self-check: {name} does not agree with O0 at applied step {step}: "
                f"{'; '.join(failures)}.\nThis network cannot be trusted in {name} on this "
                f"machine: use {other}, or self_check=false if you know why."
            )
        console.say(
            f"self-check: {name} agrees with O0 at applied step {step}: {agreement}.",
            rank=self._parts.ranks.rank,
        )


def reference(built: parts.Parts, micro_batches: list[Tensor]) -> Step | None:
    """Compute a step's loss and gradient in fp32, averaged over ranks; collective.

    Parameters
    ----------
    micro_batches
        Each (2, tiles, 1, y, x).

    Returns
    -------
    tuple or None
        None where a GPU has not the memory: O2 may be used because fp32 does not fit.
    """
    where = built.ranks
    weights = built.engine.state_dict()
    total, gradients = 0.0, {}
    try:
        module = parts.new_module(built.settings.model).to(where.device).train()
        module.checkpointing = built.settings.activation_checkpointing
        module.load_state_dict(weights)
        for batch in micro_batches:
            inputs, labels = batch.to(where.device)
            value = built.loss(module(inputs), labels) / len(micro_batches)
            value.backward()
            total += float(value.detach())
        gradients = {name: p.grad for name, p in module.named_parameters()}
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
    if where.reduce([float(not gradients)], "max")[0]:
        return None
    if where.size > 1:
        for gradient in gradients.values():
            torch.distributed.all_reduce(gradient)
            gradient /= where.size
    return where.reduce([total])[0] / where.size, gradients


def compare(expected: Step, loss: float, gradients: dict[str, Tensor]) -> Agreement | None:
    """Compare a step with its reference; None where its gradient overflowed."""
    right = {name: g.double().flatten() for name, g in expected[1].items()}
    found = {name: gradients[name].double().flatten() for name in right}
    if not all(torch.isfinite(g).all() for g in found.values()):
        return None
    tiny = torch.finfo(torch.float32).tiny
    cosine, layer = 1.0, "no layer"
    for name, g in right.items():
        # What a batch norm takes away again has a gradient that is all rounding: a bias, and a
        # weight that is one number for each channel (the 1×1 convolution of the one-channel input).
        shape, length = expected[1][name].shape, float(g.norm())
        if len(shape) < 2 or shape[1:].numel() < 2 or length < tiny:
            continue
        here = float(g @ found[name]) / max(length * float(found[name].norm()), tiny)
        if not here >= cosine:
            cosine, layer = here, name
    norm_right, norm_found = (
        math.sqrt(sum(float(g.square().sum()) for g in which.values())) for which in (right, found)
    )
    return Agreement(
        loss=abs(loss - expected[0]) / max(abs(expected[0]), tiny),
        norm=abs(norm_found / max(norm_right, tiny) - 1),
        cosine=cosine,
        layer=layer,
    )
