"""Checkpoints that are cut short, foreign or unwritable; models that do not fit."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from training.tiny_runs import figures, lines, same, tiny

from hpc_srct.errors import InputError, MachineError
from hpc_srct.models import build
from hpc_srct.models.files import load_model, load_weights, save_model
from hpc_srct.training import checkpoints, train


@pytest.fixture(scope="module")
def ended(stores, tmp_path_factory) -> Path:
    """A run of two epochs."""
    run = tmp_path_factory.mktemp("ended") / "run"
    train(tiny(stores, epochs=2), run)
    return run


@pytest.fixture
def run(ended, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(ended, tmp_path / "run")


def folders(run: Path) -> list[str]:
    """Names of the checkpoints."""
    return sorted(p.name for p in (run / "checkpoints").glob("step-*"))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def changed(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    ("damage", "file", "told"),
    [
        (cut_short, "deepspeed/mp_rank_00_model_states.pt", "bytes, expected"),
        (changed, "deepspeed/zero_pp_rank_0_mp_rank_00_optim_states.pt", "SHA-256"),
        (Path.unlink, "rank-00000.pt", "rank-00000.pt is missing"),
        (Path.unlink, "manifest.json", "no manifest: its writing was cut short"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_a_word(stores, ended, run, capfd, damage, file, told):
    assert folders(run) == ["step-00000006", "step-00000012"]
    damage(run / "checkpoints" / "step-00000012" / file)
    (run / "model.safetensors").unlink()
    train(tiny(stores, epochs=2), run, resume=True)
    out, err = capfd.readouterr()
    assert "step-00000012: skipped: " in err and told in err
    assert "goes on after step 6 (epoch 2 of 2), from step-00000006" in out
    same(ended, run)


def test_without_a_whole_checkpoint_there_is_no_resuming(stores, run):
    for name in folders(run):
        (run / "checkpoints" / name / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="none of its 2 checkpoints is whole"):
        train(tiny(stores, epochs=3), run, resume=True)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        train(tiny(stores, epochs=3), run, resume=True)


def test_keep_last_and_keep_best(stores, tmp_path):
    keep = {"keep_last": 3, "keep_best": 2}
    train(tiny(stores, epochs=5, checkpoints=keep), tmp_path / "run")
    assert folders(tmp_path / "run") == [f"step-{6 * e:08d}" for e in (3, 4, 5)]
    scores = sorted(lines(tmp_path / "run", "validation"), key=lambda v: -v["psnr"])
    best = sorted(f"best-{v['step']:08d}.safetensors" for v in scores[:2])
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").glob("*.safetensors")) == best


def test_a_lost_best_model_does_not_lose_the_run(stores, run, capfd):
    best = json.loads((run / "model.json").read_text())["provenance"]["step"]
    (run / "model.safetensors").unlink()
    for file in (run / "checkpoints").glob("best-*"):
        file.unlink()
    train(tiny(stores, epochs=2), run, resume=True)
    assert f"best-{best:08d}.safetensors" in capfd.readouterr().err
    assert json.loads((run / "model.json").read_text())["provenance"]["chosen"] == "last"


def test_another_runs_checkpoint_is_refused(stores, run, tmp_path):
    train(tiny(stores, epochs=2), tmp_path / "other")
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", run / "checkpoints")
    with pytest.raises(InputError, match="is a checkpoint of another run"):
        train(tiny(stores, epochs=3), run, resume=True)


def test_another_architecture_is_refused(stores, run):
    wider = {"model": {"name": "unet", "width": 4, "depth": 1}}
    with pytest.raises(InputError, match=r"began with model\.width=2; found 4"):
        train(tiny(stores, epochs=3, **wider), run, resume=True)
    # Also where somebody has edited the settings in the run folder.
    text = (run / "settings.yaml").read_text()
    (run / "settings.yaml").write_text(text.replace("width: 2", "width: 4"))
    with pytest.raises(InputError, match=r"checkpoint of unet \(width 2, depth 1\).*width 4"):
        train(tiny(stores, epochs=3, **wider), run, resume=True)


def test_a_disk_that_fills_leaves_the_former_checkpoint(stores, run, ended, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(MachineError, match="the disk is full.*\n.*former checkpoint is unt"):
            train(tiny(stores, epochs=3), run, resume=True)
    assert folders(run) == folders(ended)
    assert not list((run / "checkpoints").glob(".*"))
    train(tiny(stores, epochs=3), run, resume=True)
    assert len(lines(run)) == 18 and figures(run)[:12] == figures(ended)


def test_every_minutes_saves_between_epochs(stores, tmp_path, monkeypatch):
    saved = []
    former = checkpoints.Checkpoints.save

    def saving(self, engine, progress):
        saved.append(progress.step)
        return former(self, engine, progress)

    monkeypatch.setattr(checkpoints.Checkpoints, "save", saving)
    often = {"every_epochs": None, "every_minutes": 1e-9}
    train(tiny(stores, epochs=1, checkpoints=often), tmp_path / "run")
    assert saved == [0, 0, 1, 2, 3, 4, 5, 6]


def test_init_from_starts_from_a_models_weights(stores, ended, tmp_path):
    weights, _ = load_weights(ended)
    for name, source in (("run", ended), ("file", next(ended.glob("checkpoints/best-*.saf*")))):
        train(tiny(stores, epochs=1, init_from=str(source)), tmp_path / name)
        start = tmp_path / name / "checkpoints/step-00000000/deepspeed/mp_rank_00_model_states.pt"
        for key, value in torch.load(start, weights_only=False)["module"].items():
            assert torch.equal(value, weights[key])
    assert load_weights(tmp_path / "run")[1]["provenance"]["init_from"] == str(ended)
    wider = {"model": {"name": "resattunet", "width": 2, "depth": 1}}
    with pytest.raises(InputError, match="of another architecture.*\n.*model.json"):
        train(tiny(stores, init_from=str(ended), **wider), tmp_path / "wider")
    assert not (tmp_path / "wider").exists()


def test_a_fine_tuned_run_goes_on_without_the_model_that_it_began_from(stores, ended, tmp_path):
    source = shutil.copytree(ended, tmp_path / "source")
    train(tiny(stores, epochs=1, init_from=str(source)), tmp_path / "run")
    shutil.rmtree(source)
    train(tiny(stores, epochs=2, init_from=str(source)), tmp_path / "run", resume=True)
    train(tiny(stores, epochs=2, init_from=str(ended)), tmp_path / "whole")
    same(tmp_path / "whole", tmp_path / "run")


DESCRIPTION = {"architecture": "unet", "width": 2, "depth": 1, "channels": 1, "normalisation": {}}


def test_a_model_file_works_alone_and_gives_the_same_results(tmp_path):
    module = build("unet", 2, 1)
    with torch.no_grad():
        module.last.weight.normal_()
    save_model(module, DESCRIPTION, tmp_path / "here")
    alone = tmp_path / "elsewhere.safetensors"
    shutil.copy(tmp_path / "here" / "model.safetensors", alone)
    again, description = load_model(alone)
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 9, 7))).float()
    assert torch.equal(module.eval()(image), again(image))
    assert json.loads((tmp_path / "here" / "model.json").read_text()) == description


def test_half_precision_weights_are_stored_in_fp32(tmp_path):
    state = {name: t.half() for name, t in build("unet", 2, 1).state_dict().items()}
    weights, _ = load_weights(save_model(state, DESCRIPTION, tmp_path))
    assert {t.dtype for t in weights.values()} == {torch.float32}


def test_models_that_are_none(tmp_path, ended):
    with pytest.raises(InputError, match="no such model"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(InputError, match="expected a run folder with model.safetensors"):
        load_model(tmp_path)
    (tmp_path / "text.safetensors").write_text("not one")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_model(tmp_path / "text.safetensors")
    cut = shutil.copy(ended / "model.safetensors", tmp_path / "cut.safetensors")
    cut_short(cut)
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_model(cut)
    save_model(build("unet", 4, 1), DESCRIPTION, tmp_path / "wide.safetensors")
    with pytest.raises(InputError, match=r"0\.weight is \(4, 8, 3, 3\), expected \(2, 4, 3, 3\)"):
        load_model(tmp_path / "wide.safetensors")
    unfinished = shutil.copytree(ended, tmp_path / "unfinished")
    (unfinished / "model.safetensors").unlink()
    with pytest.raises(InputError, match="has not ended; go on with.*\n.*best model so far is"):
        load_model(unfinished)
