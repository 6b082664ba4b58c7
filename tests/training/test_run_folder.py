"""What is written into a run folder is read back as it was."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import yaml
from training.tiny_runs import tiny

from hpc_srct.errors import InputError, MachineError
from hpc_srct.training import run_folder, train


def test_settings_with_any_character_are_those_of_the_run(tmp_path):
    # U+0085 ends a line for YAML, unless it is written as an escape.
    stores = tmp_path / 'it\'s "a" b\x85c\u2028d\ne: [µ', tmp_path / "other"
    settings = tiny(stores)
    run_folder.begin(tmp_path / "run")
    run_folder.write(tmp_path / "run", settings, "identity", ranks=1, device="cpu")
    assert run_folder.check_settings(tmp_path / "run", settings) == []
    assert run_folder.check_settings(tmp_path / "run", tiny(stores, epochs=4)) == ["epochs: 3 → 4"]


def test_each_start_says_how_it_computes_and_from_which_step(stores, tmp_path):
    train(tiny(stores, epochs=1), tmp_path / "run")
    changed = tiny(stores, epochs=2, precision="bf16", activation_checkpointing=True)
    train(changed, tmp_path / "run", resume=True)
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"]
    keys = ("first_step", "precision", "compile", "activation_checkpointing")
    told = [tuple(start[key] for key in keys) for start in starts]
    assert told == [(1, "O0", False, False), (7, "bf16", False, True)]


def test_paths_are_written_as_absolute_and_compared_as_such(stores, tmp_path, monkeypatch):
    folder, run = stores[0].parent, tmp_path / "runs" / "run"
    monkeypatch.chdir(folder)
    train(tiny(("train", "validation"), test=["later"], epochs=1), run)
    settings = yaml.safe_load((run / "settings.yaml").read_text())
    named = [settings[role] for role in ("train", "validation", "test")]
    assert named == [[str(folder / name)] for name in ("train", "validation", "later")]

    monkeypatch.chdir(tmp_path)
    elsewhere = [os.path.relpath(store) for store in stores]
    later = os.path.relpath(folder / "later")
    assert run_folder.check_settings(run, tiny(elsewhere, test=[later], epochs=1).absolute()) == []
    train(tiny(elsewhere, test=[later], epochs=2), run, resume=True)
    with pytest.raises(InputError, match="the run began with train="):
        train(tiny(("train", "validation"), epochs=2), run, resume=True)


def test_a_run_that_was_moved_with_its_stores_goes_on(stores, tmp_path):
    before, now = tmp_path / "before", tmp_path / "now" / "here"
    for store in stores:
        shutil.copytree(store, before / "stores" / store.name)
    places = [before / "stores" / store.name for store in stores]
    train(tiny(places, epochs=1), before / "runs" / "run")
    now.parent.mkdir()
    before.rename(now)
    moved = [now / "stores" / store.name for store in stores]
    assert run_folder.check_settings(now / "runs" / "run", tiny(moved, epochs=1)) == []
    train(tiny(moved, epochs=2), now / "runs" / "run", resume=True)
    settings = yaml.safe_load((now / "runs" / "run" / "settings.yaml").read_text())
    assert settings["train"] == [str(moved[0])]
    # The same slices at a place of their own were not moved with it.
    with pytest.raises(InputError, match="the run began with train="):
        train(tiny(stores, epochs=2), now / "runs" / "run", resume=True)


def test_a_run_folder_that_cannot_be_is_refused_by_name(stores, tmp_path, monkeypatch):
    (tmp_path / "scan.h5").write_text("")
    with pytest.raises(InputError, match=r"scan\.h5 is a file, not a folder; choose another --run"):
        train(tiny(stores), tmp_path / "scan.h5" / "deep" / "run")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_folder.Path, "mkdir", denied)
    with pytest.raises(MachineError, match="run: cannot be written: permission denied"):
        run_folder.begin(tmp_path / "run")
