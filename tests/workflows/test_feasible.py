"""What a study refuses before its first scan; what of it may change when it goes on."""

from __future__ import annotations

import pytest
import yaml

from hpc_srct.errors import InputError, MachineError, Stopped
from hpc_srct.settings.base import from_tree
from hpc_srct.settings.study import StudySettings
from hpc_srct.training import precision
from hpc_srct.workflows import study

SCAN = {"size": 64, "rows": 2, "views": 24}
TINY = {
    "scans": {
        "train": {**SCAN, "seed": 1},
        "validation": {**SCAN, "seed": 2},
        "test": {**SCAN, "seed": 3},
    },
    "preprocessing": {"views": "1/3"},
    "ranks": 1,
    "experiment": {
        "train": ["train"],
        "validation": ["validation"],
        "test": ["test"],
        "model": {"width": 2, "depth": 1},
        "tiles": {"size": 32},
        "epochs": 1,
    },
    "models": ["unet"],
}


def settings(**changes) -> StudySettings:
    """A tiny study; `experiment` and `scans` are laid over those above."""
    tree = TINY | changes
    for part in ("experiment", "scans"):
        tree[part] = TINY[part] | changes.get(part, {})
    return from_tree(StudySettings, tree, "study.yaml")


@pytest.fixture
def commands(monkeypatch):
    """Note the commands that would run, and run none."""
    noted = []
    monkeypatch.setattr(study, "run", lambda words, **_: noted.append([str(w) for w in words]))
    return noted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ["vgg"]}, "unknown 'vgg'; known: unet, resattunet"),
        ({"experiment": {"loss": "foo"}}, "unknown name 'foo'; known: l1, mse"),
        ({"experiment": {"label": "trouth"}}, r"experiment\.label: .* found 'trouth'"),
        ({"experiment": {"init_from": "nowhere"}}, "nowhere: no such model"),
        ({"experiment": {"tiles": {"size": 128}}}, r"scans\.train: tiles\.size: .* at most 64"),
        ({"experiment": {"test": ["nostore"]}}, "'nostore' is no scan of this study"),
        ({"experiment": {"train": ["nostore"]}}, "'nostore' is no scan of this study"),
        ({"experiment": {"test": ["."]}}, "is not a slice store"),
        ({"experiment": {"test": []}}, "names no test store to judge on"),
        ({"scans": {"test": "nofile.h5"}}, r"scans\.test: nofile\.h5"),
        ({"preprocessing": {"views": "1/3", "rows": "5:9"}}, r"scans\.train: rows: "),
        ({"preprocessing": {"views": "1/40+30"}}, r"scans\.train: views"),
    ],
)
def test_what_would_fail_later_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, commands, changes, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        study.run_study(settings(**changes), tmp_path / "out")
    assert commands == [] and list(tmp_path.iterdir()) == []


def test_a_precision_that_this_machine_has_not_is_refused_first(tmp_path, monkeypatch, commands):
    monkeypatch.setattr(precision, "cpu_has_fp16", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(MachineError, match="no fp16 arithmetic"):
        study.run_study(settings(precisions=["O0", "O2"]), tmp_path / "out")
    assert commands == [] and not (tmp_path / "out").exists()


def test_a_real_scan_without_truth_cannot_be_learned_from_its_truth(tmp_path, make_store, commands):
    import h5py

    raw = make_store("real", seed=5).parent / "scan.h5"
    with h5py.File(raw, "r+") as file:
        del file["simulation"]
    with pytest.raises(InputError, match=r"scans\.train: .* no truth to learn .*label=full"):
        study.run_study(settings(scans={"train": str(raw)}), tmp_path / "out")
    assert commands == []
    # To be tested on, it need not have one. (Nothing ran, so there is no run to evaluate.)
    with pytest.raises(InputError, match="no such model"):
        study.run_study(settings(scans={"test": str(raw)}), tmp_path / "out")
    assert [words[0] for words in commands].count("preprocess") == 3


def test_outside_stores_are_opened_first(tmp_path, validation, test_store, commands):
    outside = {"train": [str(validation)], "validation": [], "test": [str(test_store)]}
    with pytest.raises(InputError, match="no 'tv' to be the label"):
        study.run_study(settings(experiment={**outside, "label": "tv"}), tmp_path / "out")
    assert commands == []


def test_a_scan_that_no_role_names_is_left_out(tmp_path, monkeypatch, capsys, test_store):
    noted = []

    def stop_at_training(words, **_):
        noted.append([str(word) for word in words])
        if words[0] == "train":
            raise Stopped("enough")

    monkeypatch.setattr(study, "run", stop_at_training)
    with pytest.raises(Stopped):
        study.run_study(settings(experiment={"test": [str(test_store)]}), tmp_path / "out")
    scans = [words[1] for words in noted if words[0] == "simulate"]
    assert [scan.rpartition("/")[2] for scan in scans] == ["train.h5", "validation.h5"]
    assert "scans.test: left out" in capsys.readouterr().out


def test_where_it_is_tested_may_change_and_what_is_trained_may_not(
    tmp_path, monkeypatch, make_run, test_store, commands
):
    out = tmp_path / "out"
    wanted = settings()
    (out / "runs").mkdir(parents=True)
    (out / "study.yaml").write_text(yaml.safe_dump(wanted.dump()))
    make_run("unet-O0-0").rename(out / "runs" / "unet-O0-0")
    judged = []
    monkeypatch.setattr(study, "evaluate", lambda runs, **_: judged.extend(runs))
    changed = {"test": [str(test_store)], "emulate_fp16": True}
    study.run_study(settings(experiment=changed), out)
    assert not any(words[0] == "train" for words in commands), "the run has ended"
    record = yaml.safe_load((judged[0] / "settings.yaml").read_text())
    assert record["test"] == [str(test_store)]
    assert record["train"] == ["nowhere"], "the rest of the record stays"
    with pytest.raises(InputError, match=r"experiment\.epochs=1, now 2"):
        study.run_study(settings(experiment=changed | {"epochs": 2}), out)
