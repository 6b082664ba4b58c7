"""Checkpoints that are whole or not there.

A checkpoint is written under a hidden name, gets a manifest with the size and SHA-256 of each
file, is renamed, and becomes the current one by one rename of the pointer ``current``. A
folder that does not match its manifest is skipped with a word.

DeepSpeed's files are pickles: a checkpoint is trusted only in the run folder that wrote it.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hpc_srct import console
from hpc_srct.errors import InputError, MachineError
from hpc_srct.files import machine_error, sync_folder, write_text
from hpc_srct.training.engine import Engine, Ranks

FORMAT = 1
MANIFEST = "manifest.json"
POINTER = "current"
_TAG = "deepspeed"
_FP16_MAX = 65504.0


@dataclass
class Progress:
    """How far a run is: what a checkpoint knows beside weights and optimizer.

    `epoch` and `step_in_epoch` count what is done; `best` has the best validations, best first,
    each with ``step``, ``epoch``, ``psnr`` and ``loss``.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    metrics_bytes: int = 0
    best: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files match its manifest."""

    path: Path
    manifest: dict[str, Any]

    @property
    def progress(self) -> Progress:
        """How far the run was."""
        return Progress(**self.manifest["progress"])


class Checkpoints:
    """The ``checkpoints`` folder of a run.

    Parameters
    ----------
    folder
        Where they are.
    ranks
        All of them save and restore together.
    identity
        ``run``, ``architecture`` and ``precision``: what a checkpoint must agree with.
    keep_last
        Number of checkpoints kept.
    """

    def __init__(self, folder: Path, ranks: Ranks, identity: dict[str, Any], keep_last: int = 2):
        self.folder, self.ranks, self.identity = folder, ranks, identity
        self.keep_last = keep_last
        self.save_seconds = 0.0
        self._saved: Progress | None = None

    def save(self, engine: Engine, progress: Progress) -> Path:
        """Save the state of all ranks and make it the current one, unless it just was.

        Raises
        ------
        MachineError
            It cannot be written; the former checkpoint stays the current one.
        """
        began = time.monotonic()
        name = f"step-{progress.step:08d}"
        aside = self.folder / f".{name}.part"
        rank = self.ranks.rank
        if self._is_saved(name, progress):
            return self.folder / name
        with self._in_words(aside):
            if rank == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir()
            self.ranks.barrier()
            own = {n: b.detach().cpu().clone() for n, b in engine.module.named_buffers()}
            torch.save({"buffers": own}, aside / f"rank-{rank:05d}.pt")
            with engine.averaged_statistics():
                engine.deepspeed.save_checkpoint(str(aside), tag=_TAG, save_latest=False)
            self.ranks.barrier()
            if rank == 0:
                for script in aside.glob("zero_to_*.py"):
                    script.unlink()
                manifest = {
                    "format": FORMAT,
                    **self.identity,
                    "ranks": self.ranks.size,
                    "progress": asdict(progress),
                    "files": _files(aside),
                }
                write_text(aside / MANIFEST, json.dumps(manifest, indent=1) + "\n")
                sync_folder(aside)
                self._publish(aside, name)
            self.ranks.barrier()
        self._saved = copy.deepcopy(progress)
        self.save_seconds = time.monotonic() - began
        return self.folder / name

    def _is_saved(self, name: str, progress: Progress) -> bool:
        """Tell whether this state was the last one saved (an end of an epoch, then a stop)."""
        same = progress == self._saved
        if same and self.ranks.rank == 0:
            same = self._current() == name and (self.folder / name / MANIFEST).is_file()
        return all(self.ranks.gather(same))

    def _publish(self, aside: Path, name: str) -> None:
        final = self.folder / name
        former = _hidden(final)
        if final.exists():
            shutil.rmtree(former, ignore_errors=True)
            final.replace(former)
        aside.replace(final)
        sync_folder(self.folder)
        write_text(self.folder / POINTER, name + "\n")
        sync_folder(self.folder)
        shutil.rmtree(former, ignore_errors=True)
        for old in self._folders()[self.keep_last :]:
            if old != final:
                self._remove(old)

    def _remove(self, path: Path) -> None:
        """Rename first: a checkpoint half-removed must not look like one."""
        doomed = _hidden(path)
        shutil.rmtree(doomed, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            path.replace(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _settle(self) -> None:
        """Tidy up after a kill: what was moved out of the way comes back where nothing came."""
        for hidden in self.folder.glob(".step-*.old"):
            place = hidden.with_name(hidden.name[1:].removesuffix(".old"))
            if not place.exists():
                with contextlib.suppress(ValueError):
                    _verified(hidden)
                    hidden.replace(place)
            shutil.rmtree(hidden, ignore_errors=True)
        for unfinished in self.folder.glob(".step-*.part"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def _current(self) -> str | None:
        pointer = self.folder / POINTER
        return pointer.read_text().strip() if pointer.is_file() else None

    def _folders(self) -> list[Path]:
        """Checkpoints by name, the latest first."""
        return sorted(self.folder.glob("step-*"), reverse=True)

    def latest(self) -> Checkpoint:
        """Find the current checkpoint, or the latest whole one before it.

        Raises
        ------
        InputError
            There is none, or none is whole.
        """
        self._settle()
        folders, name = self._folders(), self._current()
        if name is not None:
            current = self.folder / name
            folders = [current, *(f for f in folders if f.name < current.name)] + [
                f for f in folders if f.name > current.name
            ]
        for folder in folders:
            try:
                return Checkpoint(folder, _verified(folder))
            except ValueError as error:
                console.warn(f"{folder}: skipped: {error}.", rank=self.ranks.rank)
        if folders:
            raise InputError(
                f"{self.folder}: none of its {len(folders)} checkpoints is whole; the run cannot "
                "go on.\nStart a new run; init_from= can take its model if one was saved."
            )
        raise InputError(
            f"{self.folder}: no checkpoint to resume from.\nStart the run without --resume, in a "
            "new folder."
        )

    def restore(self, engine: Engine, checkpoint: Checkpoint) -> Progress:
        """Bring all ranks back to a checkpoint's state.

        Raises
        ------
        InputError
            It is another run's, another architecture's, or another number of ranks'; or its
            weights do not fit the precision asked for.
        """
        manifest = checkpoint.manifest
        self._check(checkpoint)
        scaler = engine.optimizer.loss_scaler
        dynamic = engine.optimizer.dynamic_loss_scale
        try:
            with _named_as_saved(engine, manifest["precision"]):
                loaded, _ = engine.deepspeed.load_checkpoint(str(checkpoint.path), tag=_TAG)
            own = torch.load(checkpoint.path / f"rank-{self.ranks.rank:05d}.pt", weights_only=True)[
                "buffers"
            ]
        except (OSError, RuntimeError, KeyError) as error:
            reason = str(error).split("\n", 1)[0]
            raise MachineError(f"{checkpoint.path}: cannot be loaded: {reason}.") from error
        if loaded is None:
            raise MachineError(f"{checkpoint.path}: DeepSpeed found nothing to load in it.")
        if manifest["precision"] != self.identity["precision"]:
            # The scaler belongs to the precision; weights and moments are fp32 in all of them.
            engine.optimizer.loss_scaler = scaler
            engine.optimizer.dynamic_loss_scale = dynamic
            engine.optimizer.overflow = False
            self._check_range(engine, checkpoint)
            engine.optimizer.update_lp_params()
        with torch.no_grad():
            for name, buffer in engine.module.named_buffers():
                buffer.copy_(own[name])
        return checkpoint.progress

    def _check(self, checkpoint: Checkpoint) -> None:
        manifest, path = checkpoint.manifest, checkpoint.path
        if manifest.get("run") != self.identity["run"]:
            raise InputError(
                f"{path}: is a checkpoint of another run ({manifest.get('run')}; this one is "
                f"{self.identity['run']}).\nUse init_from= to start a new run from another's model."
            )
        if manifest["architecture"] != self.identity["architecture"]:
            raise InputError(
                f"{path}: is a checkpoint of {_named(manifest['architecture'])}; the settings "
                f"ask for {_named(self.identity['architecture'])}."
            )
        if manifest["ranks"] != self.ranks.size:
            was, now = manifest["ranks"], self.ranks.size
            raise InputError(
                f"{path}: was saved by {was} rank(s), and {now} started: ZeRO-1 keeps its "
                f"optimizer state in {was} part(s).\nResume with {was} rank(s), or start a new run "
                "from its weights: init_from=RUN, or one of its checkpoints/best-*.safetensors."
            )

    def _check_range(self, engine: Engine, checkpoint: Checkpoint) -> None:
        if self.identity["precision"] != "O2":
            return
        for name, weights in engine.masters().items():
            largest = float(weights.abs().max())
            if not largest < _FP16_MAX:
                raise InputError(
                    f"{checkpoint.path}: cannot go on in O2: {name} has a weight of {largest:.3g}, "
                    f"beyond fp16's largest number ({_FP16_MAX:g}).\nGo on in "
                    f"precision={checkpoint.manifest['precision']}."
                )

    @contextlib.contextmanager
    def _in_words(self, aside: Path) -> Iterator[None]:
        """Tell of a failed write, and what is left, instead of DeepSpeed's stack trace."""
        try:
            yield
        except MachineError:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        except (OSError, RuntimeError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            text = (
                str(machine_error(aside, error))
                if isinstance(error, OSError)
                else f"{aside}: cannot be written: {str(error).splitlines()[0]} (disk full?)."
            )
            raise MachineError(
                f"{text}\nThe former checkpoint is untouched; when there is space, --resume goes "
                "on from it."
            ) from error


def any_saved(run_dir: Path) -> bool:
    """Tell whether a run has saved a checkpoint."""
    return (run_dir / "checkpoints" / POINTER).is_file()


@contextlib.contextmanager
def _named_as_saved(engine: Engine, precision: str) -> Iterator[None]:
    """Let DeepSpeed find optimizer states that another precision saved.

    It puts ``bf16_`` before the names of bf16's, and looks for its own mode's names alone.
    """
    deepspeed = engine.deepspeed
    name_of = deepspeed._get_rank_zero_ckpt_name

    def named(*where: object, **which: object) -> str:
        return name_of(*where, **which | {"bf16_mode": precision == "bf16"})

    deepspeed._get_rank_zero_ckpt_name = named
    try:
        yield
    finally:
        del deepspeed._get_rank_zero_ckpt_name


def _hidden(path: Path) -> Path:
    """Name the place of a checkpoint that is moved out of the way."""
    return path.with_name(f".{path.name}.old")


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        name = path.relative_to(folder).as_posix()
        files[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return files


def _verified(folder: Path) -> dict[str, Any]:
    """Read a manifest and check every file against it; ValueError says what is wrong."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = manifest["files"]
    except OSError as error:
        raise ValueError("it has no manifest: its writing was cut short") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("its manifest is damaged") from error
    if manifest.get("format") != FORMAT:
        raise ValueError(f"its format is {manifest.get('format')}, expected {FORMAT}")
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise ValueError(f"{name} has {size} bytes, expected {expected['bytes']}")
        with open(path, "rb") as handle:
            if hashlib.file_digest(handle, "sha256").hexdigest() != expected["sha256"]:
                raise ValueError(f"{name} has changed since it was written (SHA-256)")
    return manifest


def _named(architecture: dict[str, Any]) -> str:
    return f"{architecture['name']} (width {architecture['width']}, depth {architecture['depth']})"
