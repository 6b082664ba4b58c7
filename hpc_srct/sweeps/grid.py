"""From a sweep's settings to its runs, each with settings of its own and a name that tells them."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_srct.errors import InputError
from hpc_srct.settings.base import find_config, from_tree, read_tree
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.settings.sweep import SweepSettings

# A run's own name says what it is without these keys.
_PLAIN = ("model.name", "precision")
_LONGEST = 60


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes
    ----------
    name
        Of its folder: what varies, and the first digits of `digest`.
    values
        What varies: setting → value.
    settings
        All of its settings.
    digest
        Of all settings but the name: other settings are another run.
    """

    name: str
    values: dict[str, Any]
    settings: ExperimentSettings
    digest: str


def expand(sweep: SweepSettings, beside: Path | None = None) -> list[Run]:
    """Spell out the runs of a sweep.

    Parameters
    ----------
    sweep
        What to vary. With a grid and a list, each of the list is tried at every point of the
        grid; where both set a value, the list's counts.
    beside
        Folder in which the experiment is looked for, too.

    Raises
    ------
    InputError
        No such experiment, a setting that does not exist or does not fit, two equal runs.
    """
    base, source = sweep.experiment, "experiment"
    if isinstance(base, str):
        base, source = read_tree(find_config(base, beside)), base
    base = _with_values(base, sweep.set)
    points = [
        dict(zip(sweep.grid, values, strict=True))
        for values in itertools.product(*sweep.grid.values())
    ]
    runs: dict[str, Run] = {}
    for point in points:
        for listed in sweep.runs or [{}]:
            run = _run(base, {**point, **listed}, f"{source} of sweep '{sweep.name}'")
            if run.digest in runs:
                twins = f"{_told(run.values)} and {_told(runs[run.digest].values)}"
                raise InputError(
                    f"sweep '{sweep.name}': {twins} are the same run; list each value once."
                )
            runs[run.digest] = run
    return list(runs.values())


def _run(base: dict[str, Any], values: dict[str, Any], source: str) -> Run:
    tree = _with_values(base, values)
    settings = from_tree(ExperimentSettings, tree, f"{source} ({_told(values)})").absolute()
    plain = settings.dump()
    plain.pop("name")
    text = json.dumps(plain, sort_keys=True, ensure_ascii=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    name = f"{_label(values)}-{digest[:8]}".lstrip("-")
    return Run(name, values, settings.model_copy(update={"name": name}), digest)


def _with_values(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Set dotted keys in a tree, which stays as it is."""
    result = dict(tree)
    for key, value in values.items():
        first, dot, rest = str(key).partition(".")
        if not dot:
            result[first] = value
            continue
        branch = result.get(first)
        result[first] = _with_values(branch if isinstance(branch, Mapping) else {}, {rest: value})
    return result


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items()) or "no changes"


def _label(values: Mapping[str, Any]) -> str:
    words = []
    for key, value in values.items():
        last = "" if key in _PLAIN else str(key).rpartition(".")[2]
        words.append(f"{last}{value}")
    text = re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(words))[:_LONGEST]
    # A name must not hide, or look like an option.
    return text.strip("-.")
