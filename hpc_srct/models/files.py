"""A trained network on disk: ``model.safetensors`` and, for people and scripts, ``model.json``.

The weights are fp32 whatever the training's precision. The description travels twice: in the
sidecar, and in the header of the safetensors file, so that the latter works alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hpc_srct.errors import InputError
from hpc_srct.files import machine_error, write_json, written_aside

FORMAT = 1
NAME = "model.safetensors"
_HEADER_KEY = "hpc_srct"


def save_model(
    weights: nn.Module | Mapping[str, Tensor], description: Mapping[str, Any], path: Path | str
) -> Path:
    """Write weights and their description, each file whole or not at all.

    Parameters
    ----------
    weights
        A network, or its state dictionary. Floating-point tensors are stored in fp32.
    description
        What ``model.json`` says: at least ``architecture``, ``width``, ``depth``, ``channels``
        and ``normalisation``. ``format`` and ``parameters`` are added.
    path
        A folder, or a file name ending in ``.safetensors``; the sidecar stands beside it.

    Returns
    -------
    Path
        The safetensors file.
    """
    file = _file(Path(path))
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    tensors = {
        name: (t.float() if t.is_floating_point() else t).detach().cpu().contiguous().clone()
        for name, t in state.items()
    }
    description = {"format": FORMAT, **description}
    description.setdefault(
        "parameters",
        sum(t.numel() for name, t in tensors.items() if not _is_statistic(name)),
    )
    header = {_HEADER_KEY: json.dumps(description, default=str)}
    with written_aside(file) as aside:
        save_file(tensors, str(aside), metadata=header)
    write_json(file.with_suffix(".json"), description)
    return file


def remove_model(path: Path | str) -> None:
    """Remove what `save_model` has written to `path`, where it is there.

    Raises
    ------
    MachineError
        It cannot be removed.
    """
    file = _file(Path(path))
    try:
        # The weights first: without them nothing takes the sidecar for a model.
        file.unlink(missing_ok=True)
        file.with_suffix(".json").unlink(missing_ok=True)
    except OSError as error:
        raise machine_error(file, error) from error


def load_model(path: Path | str) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a network from a run folder or a ``.safetensors`` file.

    Returns
    -------
    module : nn.Module
        On the CPU, fp32, in evaluation mode.
    description : dict
        What ``model.json`` says.

    Raises
    ------
    InputError
        There is no model, it is damaged, or its weights do not fit its architecture.
    """
    from hpc_srct.models import build

    weights, description = load_weights(path)
    file = _file(Path(path))
    try:
        module = build(
            description["architecture"],
            width=description["width"],
            depth=description["depth"],
            channels=description.get("channels", 1),
        )
    except KeyError as error:
        raise InputError(
            f"{file}: its description lacks {error}; it is not a whole model."
        ) from error
    fit(module, weights, str(file))
    return module.eval(), description


def load_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a model's state dictionary and description without building it.

    Raises
    ------
    InputError
        As `load_model`.
    """
    path = Path(path)
    file = _file(path)
    if not file.is_file():
        raise InputError(_nothing_there(path, file))
    try:
        with safe_open(str(file), framework="pt") as handle:
            header = handle.metadata() or {}
            weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a whole safetensors file ({error}).") from error
    text = header.get(_HEADER_KEY)
    if text is None:
        raise InputError(
            f"{file}: a safetensors file, but not one of this toolkit: its header lacks "
            f"'{_HEADER_KEY}'."
        )
    description = json.loads(text)
    if description.get("format") != FORMAT:
        raise InputError(
            f"{file}: model format {description.get('format')!r}; this version reads {FORMAT}."
        )
    return weights, description


def fit(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load `weights` into `module`, exactly or not at all.

    Raises
    ------
    InputError
        Names or shapes differ: the weights are another architecture's.
    """
    own = module.state_dict()
    missing, foreign = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape]
    if missing or foreign or shapes:
        if missing or foreign:
            what = f"{len(missing)} tensors missing, {len(foreign)} unknown" + (
                f" (such as {(missing or foreign)[0]})"
            )
        else:
            name = min(shapes)
            what = (
                f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
                f" ({len(shapes)} such)"
            )
        raise InputError(
            f"{source}: its weights are of another architecture: {what}.\n"
            "Set model.name, model.width and model.depth to those in its model.json."
        )
    with torch.no_grad():
        module.load_state_dict(dict(weights))


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def _file(path: Path) -> Path:
    return path if path.suffix == ".safetensors" else path / NAME


def _nothing_there(path: Path, file: Path) -> str:
    if not path.exists():
        return f"{path}: no such model; expected a run folder or a .safetensors file."
    if (path / "checkpoints").is_dir():
        best = sorted((path / "checkpoints").glob("best-*.safetensors"))
        hint = f"\nIts best model so far is {best[-1]}." if best else ""
        return (
            f"{file}: not there: the run has not ended; go on with `srct train … --run-dir {path} "
            f"--resume`.{hint}"
        )
    return f"{path}: expected a run folder with {NAME}, or a .safetensors file."
