"""One real Slurm for all cluster tests: up at the first that asks, taken down at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from cluster.mini_slurm import CannotStart, MiniSlurm, missing_programs
from cluster.road import ROOT, User, processes_of

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder, and skip it where it was not asked for."""
    asked = os.environ.get("SRCT_REQUIRE_CLUSTER") == "1"
    here = "no Slurm here; make test-cluster installs it and" if missing_programs() else None
    why = here or "make test-cluster"
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            if not asked:
                # With its name: pytest shows the skipped tests of a file as one line.
                name = item.nodeid.partition("::")[2].partition("[")[0]
                item.add_marker(pytest.mark.skip(reason=f"{name}: {why} runs this"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniSlurm]:
    """A two-node Slurm with accounting and fake GPUs, of which nothing stays behind."""
    slurm = MiniSlurm(tmp_path_factory.mktemp("slurm"))
    before = system_files()
    try:
        slurm.start()
    except CannotStart as error:
        pytest.fail(str(error))
    try:
        yield slurm
    finally:
        slurm.stop()
    assert processes_of(slurm.folder) == []
    assert system_files() == before


def system_files() -> dict[str, tuple[int, int]]:
    """What packages of Slurm have on this host, and its host names: when changed, how long."""
    roots = [Path(root) for root in ("/etc", "/run", "/var/lib", "/var/log", "/var/spool")]
    ours = [p for root in roots for name in ("slurm*", "munge*", "mysql*") for p in root.glob(name)]
    files = [Path("/etc/hosts"), *(p for one in ours for p in (one, *one.rglob("*")))]
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in files}


@pytest.fixture
def wait() -> Callable[..., None]:
    """Wait until something holds, or fail saying what did not."""

    def until(what: str, holds: Callable[[], object], within_s: float = 120.0) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
            time.sleep(0.25)

    return until


@pytest.fixture
def user(cluster: MiniSlurm, tmp_path: Path, wait: Callable[..., None]) -> Iterator[User]:
    """Somebody at the login node, whose jobs end with the test."""
    yield User(cluster, tmp_path, wait)
    cluster.run("scancel", "--user=root")
    wait("the queue is empty", lambda: not cluster.run("squeue", "-h").stdout)


# Long enough to be stopped in the middle of it, short enough to wait for.
EXPERIMENT = {
    "name": "tiny",
    "seed": 1,
    "model": {"name": "unet", "width": 2, "depth": 1},
    "tiles": {"size": 16, "batch": 2, "per_slice": 2},
    "optimizer": {"learning_rate": 3e-3, "step_size": 2, "gamma": 0.9},
    "epochs": 40,
    "checkpoints": {"every_epochs": None},
    "validate_on": {"every_epochs": 10},
    "tensorboard": False,
}


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of 240 steps on tiny stores."""
    from training.tiny_runs import make_store

    folder = tmp_path_factory.mktemp("experiment")
    stores = {
        "train": [str(make_store(folder / "train", 6, 1))],
        "validation": [str(make_store(folder / "validation", 2, 2))],
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**EXPERIMENT, **stores}))
    return path


@pytest.fixture(scope="session")
def undisturbed(
    cluster: MiniSlurm, experiment: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The experiment's run by two processes of the deepspeed launcher, which nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = subprocess.run(
        [ROOT / "launch" / "workstation.sh", experiment, "2"],
        cwd=folder,
        env={**os.environ, "SRCT_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "tiny"
