"""A study from file to table: what is shipped is valid, and a tiny one runs and goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from hpc_srct.enhancement import Enhancer
from hpc_srct.errors import InputError
from hpc_srct.settings import configs_folder, load
from hpc_srct.settings.study import StudySettings
from hpc_srct.slices import SliceStore
from hpc_srct.workflows.study import experiments, run_study

TINY = {
    "name": "tiny",
    "scans": {
        "train": {"size": 72, "rows": 2, "views": 24, "seed": 1},
        "validation": {"size": 72, "rows": 2, "views": 24, "seed": 2},
        "test": {"size": 72, "rows": 2, "views": 24, "seed": 3},
    },
    "preprocessing": {"views": "1/3"},
    "ranks": 1,
    "experiment": {
        "train": ["train"],
        "validation": ["validation"],
        "test": ["test"],
        "model": {"width": 4, "depth": 2},
        "tiles": {"size": 32, "batch": 1, "per_slice": 8},
        "optimizer": {"learning_rate": 3e-3},
        "epochs": 2,
    },
    "models": ["unet"],
}


def written(folder, **changes):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


def study(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "hpc_srct", "study", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("name", ["demo.yaml", "tooth.yaml", "talk-small.yaml", "talk.yaml"])
def test_shipped_studies_are_valid_and_their_worlds_differ(name):
    settings = load(StudySettings, name)
    assert configs_folder().joinpath(name).is_file()
    assert settings.preprocessing.views


def test_training_and_test_phantoms_must_differ(tmp_path):
    same = {**TINY["scans"], "test": TINY["scans"]["train"]}
    with pytest.raises(InputError, match="train and test scans share a seed"):
        load(StudySettings, written(tmp_path, scans=same))


def test_a_run_for_every_model_precision_and_seed(tmp_path):
    path = written(tmp_path, models=["unet", "resattunet"], precisions=["O0", "bf16"], seeds=[0, 1])
    runs = experiments(load(StudySettings, path), tmp_path / "out")
    assert len({run.name for run in runs}) == len(runs) == 8
    assert runs[-1].model.name == "resattunet"
    assert (runs[-1].precision, runs[-1].seed) == ("bf16", 1)
    assert runs[0].test == (str(tmp_path / "out" / "stores" / "test"),)


def test_a_tiny_study_runs_to_its_table_and_goes_on_and_its_network_has_no_seams(tmp_path):
    path = written(tmp_path)
    first = study(path, "-o", "a study", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "FBP (ramp)" in first.stdout
    assert "picture:" in first.stdout
    assert (tmp_path / "a study/runs/unet-O0-0/model.safetensors").is_file()

    weights = (tmp_path / "a study/runs/unet-O0-0/model.safetensors").stat().st_mtime_ns
    again = study(path, "slices=1", "-o", "a study", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "$ srct" not in again.stdout, "nothing was missing"
    assert (tmp_path / "a study/runs/unet-O0-0/model.safetensors").stat().st_mtime_ns == weights

    store = SliceStore(tmp_path / "a study/stores/test")
    run = tmp_path / "a study/runs/unet-O0-0"
    whole, tiled = (
        Enhancer.from_file(run, tile=tile).enhance(store.read("low", slice(None)), store.scale)
        for tile in (None, 56)
    )
    low = store.read("low", slice(None))
    assert np.abs(whole - low).max() > 1e-2 * low.std(), "trained: it changes its input"
    assert np.abs(whole - tiled).max() < 1e-5 * low.std(axis=(1, 2)).min()

    with pytest.raises(InputError, match=r"other settings: seeds=\[0\], now \[5\]\."):
        run_study(load(StudySettings, path, ["seeds=[5]"]), tmp_path / "a study")


def test_a_step_that_fails_says_which_and_passes_its_code_on(tmp_path):
    path = written(tmp_path, preprocessing={"views": "1/3", "centre": 500})
    answer = study(path, "-o", "out", cwd=tmp_path)
    assert answer.returncode == 2
    assert "off the detector" in answer.stderr
    assert "srct preprocess" in answer.stderr and "ended with code 2" in answer.stderr


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="exists and holds no study"):
        run_study(load(StudySettings, written(tmp_path)), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_seeds_may_be_named_for_each_precision(tmp_path):
    seeds = {"O0": [0, 1, 2], "bf16": [0]}
    path = written(tmp_path, precisions=["O0", "bf16"], seeds=seeds)
    runs = experiments(load(StudySettings, path), tmp_path / "out")
    assert [run.name for run in runs] == [f"unet-O0-{n}" for n in range(3)] + ["unet-bf16-0"]
    with pytest.raises(InputError, match="seeds are named for O0, precisions are O0, bf16"):
        load(StudySettings, written(tmp_path, precisions=["O0", "bf16"], seeds={"O0": [0]}))


def test_runs_side_by_side_say_which_they_are(tmp_path):
    path = written(tmp_path, seeds=[0, 1], parallel=2, evaluate=["validation", "test"])
    done = study(path, "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("unet-O0-0", "unet-O0-1"):
        assert f"\n{name}: precision O0" in done.stdout
        assert (tmp_path / "out" / "runs" / name / "model.safetensors").is_file()
    assert "Cost of training" in done.stdout
    table = (tmp_path / "out" / "table.md").read_text()
    assert "PSNR validation (vs truth)" in table and " ± " in table


def test_ctrl_c_stops_runs_side_by_side_with_their_state_saved(tmp_path):
    experiment = TINY["experiment"] | {"epochs": 2000, "test": []}
    changes = {"experiment": experiment, "evaluate": ["validation"]}
    path = written(tmp_path, **changes, seeds=[0, 1], parallel=2)
    words = [sys.executable, "-m", "hpc_srct", "study", str(path), "-o", "out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        words,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    runs = [tmp_path / "out" / "runs" / f"unet-O0-{seed}" for seed in (0, 1)]
    try:
        for _ in range(4000):
            logs = [run / "metrics.jsonl" for run in runs]
            if all(log.is_file() and log.stat().st_size for log in logs):
                break
            time.sleep(0.1)
        os.killpg(started.pid, signal.SIGINT)
        said, complained = started.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 75, said + complained
    assert "Traceback" not in said + complained
    for run in runs:
        assert any((run / "checkpoints").iterdir())
