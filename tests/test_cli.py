"""The command line as its user meets it: real processes, their output and exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import CHECKOUT

from hpc_srct.cli import app, main
from hpc_srct.settings import configs_folder, load
from hpc_srct.settings.study import StudySettings
from hpc_srct.workflows.study import experiments


def srct(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "hpc_srct", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


def srct_here(monkeypatch, *words) -> int:
    """Call what the installed `srct` calls, in this process; give its exit code."""
    monkeypatch.setattr(sys, "argv", ["srct", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_every_command_has_help_with_an_example(monkeypatch, capfd):
    commands = typer.main.get_command(app).commands
    assert {"doctor", "simulate", "inspect", "preprocess", "train", "enhance"} <= set(commands)
    for name in commands:
        assert srct_here(monkeypatch, name, "--help") == 0
        assert "Example:" in capfd.readouterr().out, name
    answer = srct("enhance", "--help")
    assert answer.returncode == 0
    assert "Example:" in answer.stdout


def test_the_settings_files_that_examples_name_are_there():
    made = load(StudySettings, "demo.yaml")
    files = {f"demo/settings/{run.name}.yaml" for run in experiments(made, Path("demo"))}
    files |= {str(path.relative_to(CHECKOUT)) for path in configs_folder().rglob("*.yaml")}
    named = []
    for command in typer.main.get_command(app).commands.values():
        named += re.findall(r"[^ ]+/[^ ]+\.yaml", command.epilog)
    assert "configs/tooth.yaml" in named
    assert set(named) <= files


def test_doctor_knows_this_machine():
    checks = {check["name"]: check for check in json.loads(srct("doctor", "--json").stdout)}
    assert checks["torch"]["ok"]
    assert checks["mpiexec"]["ok"]
    assert checks["hdf5"]["ok"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "nowhere.h5"], "nowhere.h5"),
        (["inspect", "."], "folder"),
        (["preprocess", "nowhere.h5", "-o", "out"], "nowhere.h5"),
        (["simulate", "x.h5", "sise=3"], "did you mean 'size'"),
        (["train", "nowhere.yaml"], "no such settings file"),
        (["enhance", "nowhere", "--model", "m", "-o", "out"], "m: no such model"),
        (["evaluate", "nowhere"], "nowhere"),
        (["reconstruct"], "No such command"),
    ],
)
def test_wrong_input_is_two_lines_and_exit_code_2(tmp_path, words, message):
    answer = srct(*words, cwd=tmp_path)
    assert answer.returncode == 2, answer.stderr
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    if "No such command" not in answer.stderr:
        assert len(answer.stderr.strip().splitlines()) <= 2, answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_demo_is_the_shipped_one(tmp_path, monkeypatch, capfd):
    """Not a file of its name that lies where it is called."""
    (tmp_path / "demo.yaml").write_text("name: mine\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert srct_here(monkeypatch, "demo", "-o", "taken") == 2
    assert "taken: exists and holds no study" in capfd.readouterr().err


def test_debug_shows_the_stack_trace(tmp_path):
    answer = srct("--debug", "inspect", "nowhere.h5", cwd=tmp_path)
    assert "Traceback" in answer.stderr


def test_a_file_name_is_not_made_a_picture_of(tmp_path):
    answer = srct("inspect", str(tmp_path / "gone:x:y.h5"))
    assert "gone:x:y.h5" in answer.stderr
