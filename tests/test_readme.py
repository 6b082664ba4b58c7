"""What the README tells a newcomer to type works as it stands there."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import CHECKOUT

from hpc_srct import settings

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def block(title: str) -> list[list[str]]:
    """Read the commands of the first shell block after a heading."""
    section = re.split(rf"^#+ {re.escape(title)}$", README, flags=re.M)[1]
    lines = re.search(r"```sh\n(.*?)```", section, re.S)[1].replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_a_first_real_scan(scans, tmp_path):
    """The five lines run, in order, on the tooth, with a model trained for a moment."""
    environ = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def run(words: list[str]) -> str:
        answer = subprocess.run(
            words, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=280
        )
        assert answer.returncode == 0, f"{shlex.join(words)}\n{answer.stdout}{answer.stderr}"
        return answer.stdout

    (tmp_path / "scan.h5").symlink_to(scans / "aps_tooth_dx.h5")
    commands = block("A first real scan")
    assert [words[0] for words in commands] == ["srct", "mpiexec", "srct", "srct"]
    store = commands[1][commands[1].index("-o") + 1]
    model = commands[2][commands[2].index("--model") + 1]
    assert model.startswith("demo/runs/"), "the demo's model, of which a small one stands in here"
    run(commands[0])
    run(commands[1])
    experiment = tmp_path / "small.yaml"
    settings = {"train": [store], "test": [store], "label": "full"}
    settings |= {"model": {"name": "resattunet", "width": 4, "depth": 2}, "epochs": 1}
    settings |= {"tiles": {"size": 64, "batch": 1}}
    experiment.write_text(yaml.safe_dump(settings))
    run(["srct", "train", str(experiment), "--run-dir", model])
    run(commands[2])
    assert len(list((tmp_path / "enhanced-tiff").glob("*.tif"))) == 2
    assert "FBP (ramp)" in run(commands[3])


@pytest.mark.parametrize("title", ["Two commands", "A first real scan", "Commands"])
def test_every_srct_command_that_is_named_exists(title):
    import typer

    from hpc_srct.cli import app

    known = set(typer.main.get_command(app).commands)
    section = re.split(rf"^#+ {re.escape(title)}$", README, flags=re.M)[1].split("\n## ")[0]
    assert set(re.findall(r"\bsrct ([a-z]+)", section)) <= known


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (CHECKOUT / target).exists(), target


def test_the_commands_that_print_json_are_those_named():
    import typer

    from hpc_srct.cli import app

    commands = typer.main.get_command(app).commands
    able = [
        name for name in commands if "--json" in {o for p in commands[name].params for o in p.opts}
    ]
    sentence = re.search(r"example; (.*?) print JSON with `--json`", README, re.S)[1]
    assert sorted(re.findall(r"`(\w+)`", sentence)) == sorted(able)


def test_every_key_has_its_description():
    for module in pkgutil.iter_modules(settings.__path__):
        importlib.import_module(f"{settings.__name__}.{module.name}")
    kinds = list(settings.Settings.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
    checked = 0
    for kind in (kind for kind in kinds if kind.__module__.startswith(settings.__name__)):
        words = " ".join(base.__doc__ or "" for base in kind.__mro__)
        for name, field in kind.model_fields.items():
            described = field.description or re.search(rf"[`\s]{name}[`,\s]", words)
            assert described, f"{kind.__name__}.{name}"
            checked += 1
    assert checked > 100
