"""What a real Slurm refuses, and what it does not have, in words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from cluster.mini_slurm import MiniSlurm
from cluster.road import ROOT, User

from hpc_srct.settings.site import load_site
from hpc_srct.sweeps import Sweep
from hpc_srct.sweeps.status import State


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gpu": {"partition": "fast"}}, "Look at partition in site.yaml"),
        ({"gpu": {"account": "nobody"}}, "Look at account, which must go with partition in site"),
        ({"gpu": {"qos": "best"}}, "Look at qos in site.yaml"),
        ({"gpu": {"gpu_type": "h900"}}, "gpu_type"),
        ({"gpu": {"gpus_per_node": 8}}, "Look at"),
        ({"gpu": {"time_limit": "9d"}}, "Look at"),
        ({"gpu": {"mem_per_cpu": "900G"}}, "Look at"),
        ({"gpu": {"partition": None, "time_limit": None}}, "time_limit"),
    ],
)
def test_what_slurm_refuses_is_put_into_words(user, experiment, changes, said):
    user.site(**changes)
    tasks = changes["gpu"].get("gpus_per_node", 1)
    words = ["--site", "site.yaml", "--tasks-per-node", tasks, "train", experiment, "run"]
    refused(user, said, ROOT / "slurm" / "submit.sh", *words)
    assert not Path(user.folder / "run").exists()
    sweep = [*write_sweep(user.folder, experiment), "--site", "site.yaml"]
    refused(user, said, *sweep, f"tasks_per_node={tasks}")
    assert not user.do("squeue", "-h").stdout


def test_a_folder_that_is_read_only(user, experiment):
    shared = user.folder / "shared"
    shared.mkdir()
    user.do("mount", "-t", "tmpfs", "-o", "ro", "none", shared)
    submit = [ROOT / "slurm" / "submit.sh", "--site", "site.yaml"]
    said = "cannot be written: the file system is read-only; choose another place."
    train = ["train", experiment, shared / "run"]
    refused(user, said, *submit, "--jobs", shared / "jobs", *train, code=1)
    scan = user.folder / "scan.h5"
    scan.touch()
    road = [ROOT / "slurm" / "pipeline.sh", scan, experiment, "--site", "site.yaml"]
    refused(user, said, *road, "-o", shared / "road", code=1)
    sweep = [*write_sweep(user.folder, experiment), "--site", "site.yaml"]
    refused(user, said, *sweep, f"out={shared}/sweep", code=1)
    # Found by the job: in the log that submit.sh has named.
    job = user.submit(*train)
    user.until(job, "FAILED")
    assert said in user.log(job)
    user.do("umount", shared)


def refused(user: User, said: str, *words: object, code: int = 2) -> None:
    """Check that a command is refused with a line or two."""
    done = user.do(*words, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2, done.stderr


def write_sweep(folder: Path, experiment: Path, **changes: object) -> list[object]:
    """Write a sweep of two runs of an epoch; give the command that submits it."""
    tree = {
        "experiment": str(experiment),
        "set": {"epochs": 1},
        "grid": {"seed": [1, 2]},
        "out": str(folder / "sweep"),
        "evaluate": [],
        **changes,
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(tree))
    return [sys.executable, "-m", "hpc_srct", "sweep", folder / "sweep.yaml"]


def test_without_accounting_it_is_said_once_and_the_polling_goes_on(
    tmp_path, experiment, wait, monkeypatch, capfd
):
    slurm = MiniSlurm(tmp_path / "slurm", accounting=False)
    slurm.start()
    try:
        user = User(slurm, tmp_path, wait)
        assert "disabled" in user.do("sacct", check=False).stderr
        runs = [{"seed": 1}, {"train": [str(tmp_path / "nowhere")]}]
        write_sweep(tmp_path, experiment, grid={}, runs=runs)
        for name, value in slurm.environment.items():
            monkeypatch.setenv(name, value)
        sweep = Sweep.from_file(tmp_path / "sweep.yaml")
        sweep.submit("slurm", load_site(tmp_path / "site.yaml"))
        found = sweep.wait(every=0.5)
        assert [now.state for now in found] == [State.DONE, State.FAILED]
        said = capfd.readouterr()
        assert said.err.count("accounting does not answer") == 1
        assert "running" in said.out, "the queue told"
    finally:
        slurm.stop()
