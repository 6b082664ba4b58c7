"""Preprocessing over MPI, and the whole road as dependent jobs."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from cluster.road import ROOT, SITE, shards
from enhancement.cases import described, restless, volume, write_store
from preprocessing.conftest import write_scan

from hpc_srct.models.files import save_model

OPEN_MPI = Path("/usr/lib/x86_64-linux-gnu/libmpi.so.40")
PMIX = Path("/usr/lib/x86_64-linux-gnu/libpmix.so")


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """A simulated scan of three blocks of rows."""
    from hpc_srct.settings.simulation import SimulationSettings
    from hpc_srct.simulation import simulate_scan

    path = tmp_path_factory.mktemp("scans") / "it's a scan.h5"
    settings = {"phantom": "ellipses", "size": 48, "rows": 80, "views": 60, "seed": 3}
    simulate_scan(SimulationSettings.model_validate(settings), path)
    return path


def volumes(store: Path) -> dict[str, np.ndarray]:
    with h5py.File(store / "slices.h5") as file:
        return {name: file[f"entry/{name}/data"][:] for name in ("low", "full")}


def test_embedded_and_own_mpi_make_the_same_store_and_none_is_refused(user, scan):
    stores = [user.folder / "a store", user.folder / "b"]
    job = user.submit("preprocess", scan, stores[0], "views=1/6")
    user.until(job, "COMPLETED", "FAILED")
    assert user.state(job) == "COMPLETED", user.log(job)
    assert "2 rank(s)" in user.log(job)

    user.site("none.yaml", mpi="none")
    job = user.submit("preprocess", scan, user.folder / "c", site="none.yaml")
    user.until(job, "FAILED")
    assert "Slurm started 2 tasks but MPI (MPICH) sees only one" in user.log(job)
    assert not (user.folder / "c" / "slices.h5").exists()

    if not (OPEN_MPI.exists() and PMIX.exists()):
        pytest.skip("no Open MPI with PMIx on this machine")
    own = {"MPI4PY_MPIABI": "openmpi", "MPI4PY_LIBMPI": str(OPEN_MPI)}
    user.site("own.yaml", mpi="pmix", environment={**SITE["environment"], **own})
    # On one node: PMIx's folders of two nodes on one host are the same.
    job = user.submit("preprocess", scan, stores[1], "views=1/6", nodes=1, tasks=2, site="own.yaml")
    user.until(job, "COMPLETED", "FAILED")
    assert user.state(job) == "COMPLETED", user.log(job)
    embedded, other = map(volumes, stores)
    for name, made in embedded.items():
        np.testing.assert_array_equal(made, other[name])


def test_a_preprocessing_that_is_told_to_stop_is_requeued_and_makes_what_is_missing(user):
    scan = write_scan(user.folder / "scan.h5", rows=640, views=120, columns=96)
    store = user.folder / "store"
    job = user.submit("preprocess", scan, store, "views=1/6", "centre=47.5")
    user.until_shards(store)
    with user.held("-m hpc_srct preprocess", signal.SIGTERM):
        user.do("scancel", "--signal=TERM", job)
    goes_on_with_what_is_missing(user, job, store, 20)
    assert all(np.isfinite(volume).all() for volume in volumes(store).values())


def test_a_preempted_enhancement_is_requeued_and_makes_what_is_missing(user):
    model = save_model(restless("unet"), described(), user.folder / "a model.safetensors")
    source = write_store(user.folder / "source", volume(32 * 20))
    out = user.folder / "it's enhanced"
    job = user.submit("enhance", source, model, out)
    user.until_shards(out)
    with user.held("-m hpc_srct enhance", signal.SIGTERM):
        user.preempt()
    goes_on_with_what_is_missing(user, job, out, 20)
    with h5py.File(out / "slices.h5") as file:
        assert np.isfinite(file["entry/enhanced/data"][:]).all()


def goes_on_with_what_is_missing(user, job: str, store: Path, count: int) -> None:
    """Check that a job that was told to stop is requeued, and keeps what it had made."""
    user._wait("it is requeued", lambda: "; requeued." in user.log(job), 120)
    kept = shards(store)
    assert 0 < len(kept) < count
    user.until(job, "COMPLETED", "FAILED")
    assert user.state(job) == "COMPLETED", user.log(job)
    made = shards(store)
    assert len(made) == count
    assert kept.items() <= made.items()


@pytest.fixture
def road(user, scan) -> list[object]:
    """A scan's whole road: the experiment trains on the scan's own store."""
    out = user.folder / 'an "out" folder'
    store = str(out / "store")
    tree = {
        "train": [store],
        "validation": [store],
        "label": "full",
        "model": {"name": "unet", "width": 2, "depth": 1},
        "tiles": {"size": 16, "batch": 2},
        "epochs": 1,
        "tensorboard": False,
    }
    (user.folder / "exp.yaml").write_text(yaml.safe_dump(tree))
    return [ROOT / "slurm/pipeline.sh", scan, "exp.yaml", "-o", out, "--tasks-per-node", 1]


def jobs(told: str) -> list[str]:
    return [line.split()[0] for line in told.splitlines() if ": log " in line]


def test_the_whole_road_as_it_was_shown_though_one_job_is_requeued(user, road, wait):
    words = [*road, "--site", "site.yaml", "--nodes", 2, "preprocess.views=1/6"]
    shown = user.do(*words, "--dry-run").stdout
    assert not user.do("squeue", "-h").stdout
    ids = jobs(user.do(*words).stdout)
    for name, job in zip(("preprocess", "train", "enhance"), ids, strict=True):
        # Slurm gives back the script that it has.
        text = user.do("scontrol", "write", "batch_script", job, "-").stdout
        assert text.strip() in shown
        line = next(x for x in shown.splitlines() if x.startswith("$ ") and f"/{name}." in x)
        details = user.do("scontrol", "show", "job", job).stdout
        for word in shlex.split(line):
            if word.startswith("--output="):
                assert f"StdOut={word.removeprefix('--output=').replace('%j', job)}" in details
    wait("the training has started", user.ranks, 400)
    user.do("scancel", "--signal=USR2", ids[1])
    wait("it is requeued", lambda: "; requeued." in user.log(ids[1]), 120)
    # Accounting may not have heard yet of a job that could not start so far.
    queued = user.do("squeue", "-h", "-o", "%T", "-j", ids[2]).stdout.split()
    assert queued == ["PENDING"], "what depends on it waits"
    user.until(ids[2], "COMPLETED", "FAILED", "CANCELLED", within_s=500)
    assert [user.state(job) for job in ids] == ["COMPLETED"] * 3, "".join(map(user.log, ids))
    with h5py.File(road[4] / "enhanced" / "slices.h5") as file:
        assert np.isfinite(file["entry/enhanced/data"][:]).all()


def test_a_training_that_stopped_unfinished_does_not_start_the_enhancement(user, road):
    user.site("once.yaml", requeue=False)
    words = [*road, "--site", "once.yaml", "train.time_limit=0.01s"]
    _, train, enhance = jobs(user.do(*words).stdout)
    user.until(train, "FAILED")
    assert "not requeued: this site does not requeue jobs" in user.log(train)
    answer = user.do("sacct", "-n", "-X", "-P", "-o", "ExitCode", "-j", train)
    assert answer.stdout.strip() == "75:0"
    user.until(enhance, "CANCELLED")
    assert not (road[4] / "enhanced").exists()
