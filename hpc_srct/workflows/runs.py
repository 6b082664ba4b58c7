"""Trained runs as rows of a table: which are one experiment under several seeds.

Two runs belong to one row when their settings differ by nothing but the seed and what does not
change the training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from hpc_srct.errors import InputError
from hpc_srct.models.files import NAME, load_weights
from hpc_srct.settings import flat
from hpc_srct.settings.experiment import ROLES
from hpc_srct.slices.blocks import MASTER
from hpc_srct.training.run_folder import moved

TITLES = {"unet": "UNet", "resattunet": "ResAttUnet"}

# How a run is called, stopped, saved or shown: not what is trained.
_NO_MATTER = (
    "name",
    "seed",
    "test",
    "time_limit",
    "emulate_fp16",
    "channels_last",
    "activation_checkpointing",
    "compile",
    "self_check",
    "checkpoints",
    "validate_on",
    "cache_gb",
    "tensorboard",
    "tiles.workers",
)


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes
    ----------
    path : Path
        As given: a run folder or a ``.safetensors`` file.
    model : Path
        The safetensors file.
    description : dict
        What ``model.json`` says.
    settings : dict
        What ``settings.yaml`` says; empty for a lone model file.
    method : str
        Its row in the table.
    """

    path: Path
    model: Path
    description: dict[str, Any]
    settings: dict[str, Any]
    method: str = ""

    @property
    def folder(self) -> Path:
        """Where what belongs to the run is written."""
        return self.path.parent / self.path.stem if self.path.is_file() else self.path

    @property
    def seed(self) -> int | None:
        """Seed of the training, where it is known."""
        seed = self.settings.get("seed", self.description.get("provenance", {}).get("seed"))
        return None if seed is None else int(seed)

    @property
    def precision(self) -> str:
        """Precision of the training."""
        return str(self.description.get("precision", "O0"))

    @property
    def precisions(self) -> list[str]:
        """Every precision that it was trained in, in order: a resumed run may have changed it."""
        try:
            record = json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))
            starts = [start["precision"] for start in record["starts"] if "precision" in start]
        except (OSError, ValueError, KeyError, TypeError):
            starts = []
        return list(dict.fromkeys([*starts, self.precision]))

    @property
    def title(self) -> str:
        """Network and precision."""
        architecture = self.description["architecture"]
        return f"{TITLES.get(architecture, architecture)} ({self.precision})"

    def stores(self, role: str) -> list[Path]:
        """The slice stores that its settings name for ``train``, ``validation`` or ``test``.

        One that is not where it was is looked for where it would be, had it been moved together
        with the run folder.
        """
        named = self.settings.get(role) or []
        if not named and role == "train":
            named = self.description.get("stores") or []
        found = []
        for path in named:
            before = self._started_in / path
            places = store_folder(before), store_folder(moved(before, self.folder))
            there = (place for place in places if (place / MASTER).is_file())
            found.append(next(there, places[0]))
        return found

    @property
    def learned(self) -> set[Path]:
        """The stores that it was trained on, by its settings and by its model."""
        in_model = self.description.get("stores") or []
        return {*self.stores("train"), *(store_folder(path) for path in in_model)}

    @property
    def _started_in(self) -> Path:
        """Where its training was started, for settings of old that name stores relative to it.

        The model names the training stores absolutely: what stands before the same name there.
        """
        in_model = self.description.get("stores") or []
        for named, path in zip(self.settings.get("train") or [], in_model, strict=False):
            tail, parts = Path(named).parts, Path(path).parts
            tail = tail[:-1] if tail[-1:] == (MASTER,) else tail
            if not Path(named).is_absolute() and parts[-len(tail) :] == tail:
                return Path(*parts[: -len(tail)])
        return Path()

    def what_matters(self) -> dict[str, Any]:
        """Give the settings that make it another experiment."""
        if not self.settings:
            return {"model file": str(self.path.resolve())}
        stores = {role: [str(path) for path in self.stores(role)] for role in ROLES}
        return {
            key: value
            for key, value in flat({**self.settings, **stores}).items()
            if not any(key == free or key.startswith(free + ".") for free in _NO_MATTER)
        }


def open_runs(paths: Sequence[Path | str]) -> list[Run]:
    """Open runs and name their rows.

    Raises
    ------
    InputError
        No runs, a run that has not ended, or two runs of the same settings and seed.
    """
    if not paths:
        raise InputError("No run to evaluate: give at least one run folder.")
    unique = dict.fromkeys(Path(path) for path in paths)
    return _with_methods([_opened(path) for path in unique])


def _opened(path: Path) -> Run:
    _, description = load_weights(path)
    if path.suffix == ".safetensors":
        return Run(path, path, description, {})
    record = path / "settings.yaml"
    settings: dict[str, Any] = {}
    if record.is_file():
        try:
            settings = yaml.safe_load(record.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise InputError(f"{record}: is not valid YAML.") from error
    return Run(path, path / NAME, description, settings)


def _with_methods(runs: list[Run]) -> list[Run]:
    """Give each group of runs that differ by their seed alone a title of its own."""
    groups: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        key = json.dumps([run.title, run.what_matters()], sort_keys=True, default=str)
        groups.setdefault(key, []).append(number)
    for members in groups.values():
        first_of: dict[int | None, Run] = {}
        for run in (runs[number] for number in members):
            other = first_of.setdefault(run.seed, run)
            if other is not run:
                raise InputError(
                    f"{run.path}: has the settings and the seed ({run.seed}) of {other.path};"
                    " evaluate one of them."
                )
    named = list(runs)
    by_title: dict[str, list[list[int]]] = {}
    for members in groups.values():
        by_title.setdefault(runs[members[0]].title, []).append(members)
    for title, several in by_title.items():
        settings = [runs[members[0]].what_matters() for members in several]
        keys = sorted({key for tree in settings for key in tree})
        differing = [k for k in keys if len({str(tree.get(k)) for tree in settings}) > 1]
        extras = ["".join(f", {k}={tree.get(k)}" for k in differing) for tree in settings]
        if max(map(len, extras)) > 60:
            folders = distinct_names([runs[members[0]].path for members in several])
            extras = [f", {folder}" for folder in folders]
        for members, extra in zip(several, extras, strict=True):
            for number in members:
                named[number] = replace(runs[number], method=title + extra)
    return named


def store_folder(path: Path | str) -> Path:
    """Give the folder of a store, one for all its names: relative, a link, its ``slices.h5``."""
    path = Path(path)
    return (path.parent if path.name == MASTER else path).resolve()


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Name folders by as many of their path's last parts as tell them apart."""
    folders = [store_folder(path) for path in paths]
    longest = max(len(path.parts) for path in folders)
    for depth in range(1, longest + 1):
        names = ["-".join(path.parts[-depth:]).replace("/", "") for path in folders]
        if len(set(names)) == len(set(folders)):
            break
    return names
