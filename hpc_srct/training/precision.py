"""O0, O2 and bf16: what each means, what the machine can do, and DeepSpeed's settings for it.

The names are the talk's. O0 is fp32 throughout. O2 keeps parameters and does arithmetic in fp16,
with fp32 masters in the optimizer (Micikevicius et al. 2018, Mixed Precision Training). bf16
has fp32's range, so it needs no loss scaling.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from hpc_srct import console
from hpc_srct.errors import InputError, MachineError
from hpc_srct.models.convolution import cpu_has_bf16, cpu_has_fp16
from hpc_srct.settings import configs_folder
from hpc_srct.settings.experiment import ExperimentSettings, LossScaleSettings

DTYPES = {"O0": torch.float32, "O2": torch.float16, "bf16": torch.bfloat16}

SENTENCES = {
    "O0": "precision O0: fp32 throughout, TF32 off, no loss scaling.",
    "O2": (
        "precision O2: fp16 parameters and arithmetic, fp32 masters in the optimizer, batch norm "
        "in fp32 with fp32 statistics (its weights are stored in fp16 like all others), dynamic "
        "loss scaling."
    ),
    "bf16": (
        "precision bf16: bf16 parameters and arithmetic, fp32 masters in the optimizer, batch norm "
        "in fp32 with fp32 statistics, no loss scaling."
    ),
}


def deepspeed_config(settings: ExperimentSettings, ranks: int, parameters: int) -> dict[str, Any]:
    """Resolve `settings` to the configuration that DeepSpeed gets.

    Parameters
    ----------
    settings
        The experiment; its precision names the file under ``configs/deepspeed``.
    ranks
        Number of ranks.
    parameters
        Number of the network's parameters.

    Raises
    ------
    InputError
        The batch does not divide by the ranks.
    """
    batch = settings.tiles.batch
    if batch % ranks:
        near = [n for n in range(1, 4 * max(batch, ranks)) if n % ranks == 0]
        near.sort(key=lambda n: abs(n - batch))
        raise InputError(
            f"tiles.batch: {batch} tiles do not divide among {ranks} ranks; every rank must get as "
            f"many.\nSet tiles.batch={near[0]} (or another multiple of {ranks}), or start a number "
            f"of ranks that divides {batch}."
        )
    path = configs_folder() / "deepspeed" / f"{settings.precision}.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: DeepSpeed's settings for {settings.precision} are missing."
        ) from error
    config["train_micro_batch_size_per_gpu"] = batch // ranks
    config["gradient_accumulation_steps"] = settings.optimizer.accumulation
    # DeepSpeed's own default is 1.0, which would clip silently.
    config["gradient_clipping"] = settings.optimizer.gradient_clipping
    config["optimizer"]["params"]["lr"] = settings.optimizer.learning_rate
    # DeepSpeed allocates a gradient buffer of this many elements: its default of 5e8 would be
    # 1 to 2 GB beside networks of a few MB. An even number, as its all-gather asks.
    bucket = parameters + parameters % 2 + 2
    zero = config["zero_optimization"]
    zero.setdefault("reduce_bucket_size", bucket)
    zero.setdefault("allgather_bucket_size", bucket)
    if "fp16" in config:
        config["fp16"] |= {
            "initial_scale_power": settings.loss_scale.initial_power,
            "loss_scale_window": settings.loss_scale.window,
            "hysteresis": settings.loss_scale.hysteresis,
            "min_loss_scale": settings.loss_scale.minimum,
        }
    return config


def require(settings: ExperimentSettings, device: torch.device) -> None:
    """Refuse a precision that a device has not.

    Raises
    ------
    MachineError
        The device cannot do it, or only emulate it and `emulate_fp16` is not set.
    """
    precision = settings.precision
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        name = torch.cuda.get_device_name(device)
        raise MachineError(f"precision: {name} has no bf16; choose O2 or O0.")
    if precision == "O2" and emulates_fp16(device) and not settings.emulate_fp16:
        raise MachineError(
            "precision: this CPU has no fp16 arithmetic, so O2 would be emulated: fp16's "
            "results, none of its savings.\nUse precision=O0 or bf16 here, O2 on a GPU, or "
            "set emulate_fp16=true for what O2 does to the results."
        )


def emulates_fp16(device: torch.device) -> bool:
    """Tell whether a device would emulate fp16."""
    return device.type == "cpu" and not cpu_has_fp16()


def prepare(settings: ExperimentSettings, device: torch.device, rank: int = 0) -> None:
    """Make this process ready for a precision that it has, and say in one sentence what it means.

    Raises
    ------
    MachineError
        As `require`.
    """
    require(settings, device)
    precision = settings.precision
    # Every precision's fp32 parts are true fp32.
    torch.set_float32_matmul_precision("highest")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        # Tiles have one size: the fastest convolution is searched for once.
        torch.backends.cudnn.benchmark = True
    console.say(SENTENCES[precision], rank=rank)
    if precision != "O2" and settings.loss_scale != LossScaleSettings():
        console.say(f"loss_scale: has no effect in {precision}; O2 alone scales.", rank=rank)
    if precision == "bf16" and device.type == "cpu" and not cpu_has_bf16():
        console.warn(
            "this CPU has no bf16 arithmetic (AVX512-BF16 or AMX): convolutions compute in fp32 "
            "and round to bf16, so this run has bf16's results but not its speed.",
            rank=rank,
        )
    if precision == "O2" and emulates_fp16(device):
        _pretend_fp16()
        console.warn(
            "EMULATED FP16: this CPU has no fp16 arithmetic. O2 runs because emulate_fp16=true: "
            "convolutions compute in fp32 and round to fp16. Its times and memory mean nothing.",
            rank=rank,
        )


def _pretend_fp16() -> None:
    from deepspeed.accelerator import get_accelerator

    # DeepSpeed refuses fp16 by this answer alone; PyTorch itself has every fp16 kernel on CPU.
    get_accelerator().is_fp16_supported = lambda: True
