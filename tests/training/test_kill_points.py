"""A checkpoint of the same step saved again, and killed at every point of the exchange."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hpc_srct.errors import InputError
from hpc_srct.training import checkpoints
from hpc_srct.training.checkpoints import Checkpoints, Progress
from hpc_srct.training.engine import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


class Killed(BaseException):
    """The process ends here: nothing but `finally` runs after it."""


class SmallEngine:
    """What saving asks of an engine; `content` is what it saves."""

    def __init__(self, content: str):
        self.content, self.saves = content, 0
        self.module = torch.nn.Linear(1, 1)
        self.averaged_statistics = contextlib.nullcontext
        self.deepspeed = SimpleNamespace(save_checkpoint=self._save)

    def _save(self, folder: str, tag: str, save_latest: bool) -> None:
        self.saves += 1
        (Path(folder) / tag).mkdir()
        for name in ("model", "optimizer"):
            (Path(folder) / tag / name).write_text(self.content)


def of(folder: Path, keep_last: int = 1) -> Checkpoints:
    """The checkpoints as a process that has just started sees them."""
    return Checkpoints(folder, ALONE, {"run": "r"}, keep_last)


def kill_at(patch: pytest.MonkeyPatch, point: int) -> None:
    """Kill before the so-many-th rename or removal; a removal has begun by then."""
    done = iter(range(1000))
    replace, rmtree = os.replace, shutil.rmtree

    def replacing(source: Path, target: Path) -> Path:
        if next(done) == point:
            raise Killed
        replace(source, target)
        return Path(target)

    def removing(path: Path, ignore_errors: bool = False) -> None:
        if Path(path).exists() and next(done) == point:
            min(f for f in Path(path).rglob("*") if f.is_file()).unlink()
            raise Killed
        rmtree(path, ignore_errors=ignore_errors)

    patch.setattr(Path, "replace", replacing)
    patch.setattr(checkpoints.shutil, "rmtree", removing)


def saved_again_and_killed(folder: Path, point: int, step: int) -> bool:
    """Save a step over what is there, killed at a point; False where the save ended before it."""
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, point)
        try:
            of(folder).save(SmallEngine("second"), Progress(step=step))
        except Killed:
            return True
    return False


@pytest.mark.parametrize("step", [10, 20])
def test_killed_at_any_point_of_saving_a_whole_checkpoint_is_left(tmp_path, step):
    for point in range(100):
        folder = tmp_path / str(point)
        of(folder).save(SmallEngine("first"), Progress(step=10))
        killed = saved_again_and_killed(folder, point, step)
        found = of(folder).latest()
        assert found.progress.step in (10, step)
        assert not list(folder.glob(".step-*")), "what is hidden is put back or removed"
        # And once more, from what that left.
        saved_again_and_killed(folder, point, step)
        assert of(folder).latest().progress.step in (10, step)
        if not killed:
            break
    assert point > 3
    assert (found.path / "deepspeed" / "model").read_text() == "second"


def test_a_checkpoint_moved_out_of_the_way_and_damaged_does_not_come_back(tmp_path):
    of(tmp_path).save(SmallEngine("first"), Progress(step=10))
    hidden = tmp_path / ".step-00000010.old"
    (tmp_path / "step-00000010").rename(hidden)
    (hidden / "deepspeed" / "model").write_text("other")
    with pytest.raises(InputError):
        of(tmp_path).latest()
    assert not hidden.exists()


def test_the_same_state_is_saved_once(tmp_path):
    engine, kept, progress = SmallEngine("first"), of(tmp_path, 2), Progress(step=10)
    assert kept.save(engine, progress) == kept.save(engine, progress)
    assert engine.saves == 1
    progress.best = [{"step": 10}]  # the same step, but more is known
    kept.save(engine, progress)
    assert engine.saves == 2
    shutil.rmtree(tmp_path / "step-00000010")
    kept.save(engine, progress)
    assert engine.saves == 3
    of(tmp_path, 2).save(engine, progress)
    assert engine.saves == 4, "what another process saved is written anew"
