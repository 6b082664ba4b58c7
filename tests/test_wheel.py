"""A wheel built from the tree works outside it, with its configs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile

from conftest import CHECKOUT

PROBE = """
import hpc_srct
from hpc_srct.settings import configs_folder, find_config, load
from hpc_srct.settings.study import StudySettings
print(hpc_srct.__file__)
print(load(StudySettings, "demo.yaml").name, load(StudySettings, "configs/tooth.yaml").name)
print(find_config("deepspeed/O2.json"), find_config("layouts/bsrf-3w1.yaml"))
"""

SCRIPTS = ("slurm", "launch")
SITE = """
inherit: sites/generic.yaml
requeue: true
cpu: {time_limit: 1h, mem_per_cpu: 1G}
gpu: {time_limit: 1h, mem_per_cpu: 1G, gpus_per_node: 2}
"""


def test_the_wheel_carries_all_it_needs(tmp_path):
    tree = tmp_path / "tree"
    leave_out = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "__pycache__")
    for name in ("hpc_srct", "configs", "slurm", "launch"):
        shutil.copytree(CHECKOUT / name, tree / name, ignore=leave_out)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, tree)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, tree]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    modules = {str(p.relative_to(CHECKOUT)) for p in (CHECKOUT / "hpc_srct").rglob("*.py")}
    assert modules <= set(names), "a package is missing from setup.cfg"
    shipped = {
        f"hpc_srct/{p.relative_to(CHECKOUT)}"
        for p in (CHECKOUT / "configs").rglob("*")
        if p.suffix in (".yaml", ".json")
    }
    shipped |= {
        f"hpc_srct/{p.relative_to(CHECKOUT)}"
        for name in ("slurm", "launch")
        for p in (CHECKOUT / name).iterdir()
        if p.is_file()
    }
    assert shipped <= set(names)
    environment = {**os.environ, "PYTHONPATH": str(site), "SRCT_PYTHON": sys.executable}

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)

    answer = run(sys.executable, "-c", PROBE)
    assert answer.returncode == 0, answer.stderr
    assert str(site) in answer.stdout.splitlines()[0]
    assert answer.stdout.splitlines()[1] == "demo tooth"
    assert answer.stdout.count(str(site / "hpc_srct" / "configs")) == 2

    # The scripts of the doors, as a user without the tree has them.
    srct = (sys.executable, "-m", "hpc_srct")
    assert run(*srct, "scripts").stdout.split() == [f"{site}/hpc_srct/{x}" for x in SCRIPTS]
    copied = run(*srct, "scripts", "-o", tmp_path / "mine")
    assert copied.stdout.split() == [f"{tmp_path}/mine/{x}" for x in SCRIPTS], copied.stderr
    again = run(*srct, "scripts", "-o", tmp_path / "mine")
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    (tmp_path / "site.yaml").write_text(SITE)
    submit = (tmp_path / "mine/slurm/submit.sh", "--site", "site.yaml", "--dry-run")
    shown = run(*submit, "train", "demo.yaml", "run")
    assert "#SBATCH --gres=gpu:2" in shown.stdout, shown.stderr
