"""A run's stores are the same ones, from wherever it is judged and however they are named."""

from __future__ import annotations

import json
import shutil

import pytest

from hpc_srct.errors import InputError
from hpc_srct.models.files import load_model, save_model
from hpc_srct.workflows.baselines import NAMES
from hpc_srct.workflows.evaluate import evaluate
from hpc_srct.workflows.judged import judged_slices, leaks
from hpc_srct.workflows.runs import open_runs


def with_stores_in_model(run, *stores):
    module, description = load_model(run)
    save_model(module, {**description, "stores": [str(store) for store in stores]}, run)
    return run


def test_relative_stores_of_old_runs_are_those_of_the_training(
    make_run, test_store, validation, tmp_path, monkeypatch
):
    """Its settings name them as they were typed, its model absolutely."""
    project = tmp_path / "project"
    shutil.copytree(test_store, project / "stores" / "test")
    shutil.copytree(validation, project / "stores" / "train")
    run = make_run("old", train=["stores/train"], test=["stores/test"], validation=["stores/val"])
    with_stores_in_model(run, project / "stores" / "train")
    # Another store of that name, where it is called.
    shutil.copytree(validation, tmp_path / "elsewhere" / "stores" / "test")
    shutil.copytree(validation, tmp_path / "elsewhere" / "stores" / "val")
    monkeypatch.chdir(tmp_path / "elsewhere")
    (found,) = open_runs([run])
    assert found.stores("train") == [project / "stores" / "train"]
    assert found.stores("test") == [project / "stores" / "test"]
    assert found.stores("validation") == [project / "stores" / "val"]
    (warning,) = leaks([found], judged_slices([found], project / "stores" / "train"))
    assert f"was trained on {project / 'stores' / 'train'}" in warning


def test_what_the_model_says_of_its_training_counts_as_seen(make_run, test_store):
    (run,) = open_runs([with_stores_in_model(make_run("a"), test_store)])
    (warning,) = leaks([run], judged_slices([run]))
    assert f"was trained on {test_store}" in warning


def test_a_run_that_was_moved_finds_the_stores_that_were_moved_with_it(
    make_run, test_store, tmp_path
):
    before, now = tmp_path / "before", tmp_path / "now"
    names = {role: [str(before / "stores" / "test")] for role in ("train", "test")}
    run = make_run("a", **names, validation=["/nowhere/validation"])
    record = {"run": "a", "folder": str(before / "runs" / "a"), "starts": []}
    (run / "environment.json").write_text(json.dumps(record))
    shutil.copytree(run, now / "runs" / "a")
    shutil.copytree(test_store, now / "stores" / "test")
    (found,) = open_runs([now / "runs" / "a"])
    assert found.stores("test") == [now / "stores" / "test"]
    assert len(list(leaks([found], judged_slices([found])))) == 1
    # Where there is nothing at either place, the one that was written is named.
    assert [str(path) for path in found.stores("validation")] == ["/nowhere/validation"]
    with pytest.raises(InputError, match="/nowhere/validation: no such slice store"):
        judged_slices([found], roles=["validation"])


def test_a_store_is_the_same_by_its_folder_by_its_file_and_by_a_link(
    make_run, test_store, validation, tmp_path, capsys
):
    (tmp_path / "link").symlink_to(test_store)
    runs = [
        make_run("a", validation=[str(validation / "slices.h5")]),
        make_run("b", test=[str(tmp_path / "link")], train=[str(test_store / "slices.h5")], seed=1),
    ]
    found = evaluate(runs, slices=1, device="cpu")
    # The first is tuned; test slices are scored once; training slices are known as such.
    assert set(NAMES) < set(found.table.methods)
    assert [column.dataset for column in found.table.columns] == ["test"]
    assert "was trained on" in capsys.readouterr().err
    twice = [test_store, tmp_path / "link", test_store / "slices.h5"]
    assert len(judged_slices(open_runs(runs), twice)) == 1


def test_stores_named_in_other_ways_make_no_other_experiment(make_run, validation):
    runs = [make_run("a"), make_run("b", seed=1, validation=[str(validation / "slices.h5")])]
    assert [run.method for run in open_runs(runs)] == ["UNet (O0)"] * 2
