"""The run folder: made once, resumed only by settings that continue the same training.

``settings.yaml`` (resolved, paths absolute) and ``environment.json`` are written by rank 0. A
folder is a run once ``settings.yaml`` is in it. The latter names the folder, so that a run that
was moved together with its stores finds them.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

import hpc_srct
from hpc_srct.errors import InputError
from hpc_srct.files import machine_error, refuse_to_overwrite, write_json, write_text
from hpc_srct.models.convolution import emulated
from hpc_srct.settings.base import flat
from hpc_srct.settings.experiment import ROLES, ExperimentSettings
from hpc_srct.training.precision import DTYPES

SETTINGS = "settings.yaml"
ENVIRONMENT = "environment.json"

# What may differ on resume: how long, how often, how it is shown; not what is computed.
# (precision, compile: every one goes on from the fp32 masters of any other.)
CHANGEABLE = (
    "name",
    "epochs",
    "time_limit",
    "precision",
    "emulate_fp16",
    "compile",
    "activation_checkpointing",
    "self_check",
    "checkpoints",
    "validate_on",
    "test",
    "init_from",
    "cache_gb",
    "tensorboard",
    "tiles.workers",
)

_PACKAGES = ("torch", "deepspeed", "numpy", "h5py", "safetensors")


def refuse_existing(run_dir: Path) -> None:
    """Refuse a folder that holds something, unless it is a run that never got to begin.

    Raises
    ------
    InputError
        It holds a run (``--resume`` continues it) or something else, or would lie in a file.
    """
    above = next((folder for folder in run_dir.absolute().parents if folder.exists()), run_dir)
    if above.is_file():
        raise InputError(f"{run_dir}: {above} is a file, not a folder; choose another --run-dir.")
    if (run_dir / SETTINGS).is_file():
        raise InputError(
            f"{run_dir}: is a run already; continue it with --resume, or choose another --run-dir."
        )
    if never_began(run_dir):
        return
    refuse_to_overwrite(run_dir, "the run folder")


def never_began(run_dir: Path) -> bool:
    """Tell whether a folder is what a run leaves that is killed before its first step."""
    if not run_dir.is_dir() or (run_dir / SETTINGS).is_file():
        return False
    names = {path.name for path in run_dir.iterdir()}
    return bool(names) and names <= {"checkpoints", ENVIRONMENT}


def begin(run_dir: Path) -> None:
    """Make the folder, without what a run that never got to begin has left in it.

    Raises
    ------
    MachineError
        It cannot be made.
    """
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / ENVIRONMENT).unlink(missing_ok=True)
    except OSError as error:
        raise machine_error(run_dir, error) from error


def moved(path: Path | str, run_dir: Path) -> Path:
    """Say where a path of a run's settings leads if it was moved together with the run folder.

    Returns
    -------
    Path
        It lies to the run folder as `path` lay to it when the settings were written; `path`
        itself where the folder has not moved, or does not say where it was.
    """
    try:
        record = json.loads((run_dir / ENVIRONMENT).read_text(encoding="utf-8"))
        before = record["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return Path(path)
    return Path(os.path.normpath(run_dir.absolute() / os.path.relpath(path, before)))


def new_identity() -> str:
    """Name a new run."""
    return uuid.uuid4().hex[:12]


def identity(run_dir: Path) -> str:
    """Read a run's identity.

    Raises
    ------
    InputError
        The folder is not a run.
    """
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such run to resume; start it without --resume.")
    if not (run_dir / SETTINGS).is_file():
        raise InputError(
            f"{run_dir}: is not a run to resume: there is no {SETTINGS} in it.\nStart it without "
            "--resume."
        )
    try:
        return json.loads((run_dir / ENVIRONMENT).read_text())["run"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{run_dir / ENVIRONMENT}: does not name the run; expected a key 'run'."
        ) from error


def check_settings(run_dir: Path, settings: ExperimentSettings) -> list[str]:
    """Compare the settings with those that the run began with.

    Returns
    -------
    list of str
        What has changed and may.

    Raises
    ------
    InputError
        Something has changed that would make it another training.
    """
    stored = yaml.safe_load((run_dir / SETTINGS).read_text(encoding="utf-8"))
    # A run that began before a setting was there began with its default.
    before, now = flat(ExperimentSettings().dump()) | flat(stored), flat(settings.dump())
    for key in (*ROLES, "init_from"):
        if _same_paths(run_dir, before[key], now[key]):
            before[key] = now[key]
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    for key in changed:
        if not any(key == free or key.startswith(free + ".") for free in CHANGEABLE):
            raise InputError(
                f"{run_dir / SETTINGS}: the run began with {key}={before.get(key)!r}; found "
                f"{now.get(key)!r}. It cannot change on resume.\nSet it back, or start a new run "
                "(init_from= takes this one's weights)."
            )
    return [f"{key}: {before.get(key)!r} → {now.get(key)!r}" for key in changed]


def judge_on(run_dir: Path, stores: Sequence[str]) -> None:
    """Write other test stores into the settings of a run: they matter after its end alone."""
    tree = yaml.safe_load((run_dir / SETTINGS).read_text(encoding="utf-8"))
    if not _same_paths(run_dir, tree.get("test"), list(stores)):
        text = yaml.safe_dump(tree | {"test": list(stores)}, sort_keys=False)
        write_text(run_dir / SETTINGS, text)


def _same_paths(run_dir: Path, before: list[str] | str | None, now: list[str] | str | None) -> bool:
    """Tell whether paths lead to the same places, or to where those were moved with the run."""
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(
            _same_paths(run_dir, *pair) for pair in zip(before, now, strict=True)
        )
    if not isinstance(before, str) or not isinstance(now, str):
        return before == now
    places = Path(before), moved(before, run_dir)
    return Path(now).resolve() in [place.resolve() for place in places]


def write(
    run_dir: Path,
    settings: ExperimentSettings,
    run: str,
    ranks: int,
    device: str,
    first_step: int = 1,
) -> None:
    """Write settings and environment; each start of the run adds one entry to the latter.

    The paths in `settings` are to be absolute.
    `first_step` is the first that this start takes, counted from 1.
    """
    path = run_dir / ENVIRONMENT
    starts: list[Any] = []
    if path.is_file():
        starts = json.loads(path.read_text()).get("starts", [])
    starts.append({"first_step": first_step, **_environment(settings, ranks, device)})
    write_json(path, {"run": run, "folder": str(run_dir.absolute()), "starts": starts})
    text = yaml.safe_dump(settings.dump(), sort_keys=False)
    write_text(run_dir / SETTINGS, text)


def versions() -> dict[str, str]:
    """Versions of this package and of those that decide the numbers."""
    found = {"hpc_srct": hpc_srct.__version__, "python": platform.python_version()}
    return found | {name: metadata.version(name) for name in _PACKAGES}


def _environment(settings: ExperimentSettings, ranks: int, device: str) -> dict[str, Any]:
    dtype = DTYPES[settings.precision]
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "device": device,
        "emulated": device == "cpu" and emulated(torch.empty(0, dtype=dtype)),
        "precision": settings.precision,
        "compile": settings.compile,
        "activation_checkpointing": settings.activation_checkpointing,
        "ranks": ranks,
        "threads": torch.get_num_threads(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "command": sys.argv,
        "versions": versions(),
    }
