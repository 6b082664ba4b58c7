"""Real processes told to stop: what is done stays, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from enhancement.cases import volume, write_store
from preprocessing.conftest import ranks_of

from hpc_srct.enhancement import Enhancer, enhance_store
from hpc_srct.errors import InputError
from hpc_srct.slices import SliceStore
from hpc_srct.slices.lock import StoreLock

MPIEXEC = Path(sys.executable).parent / "mpiexec"
BLOCKS = 20


@pytest.fixture(scope="module")
def long_store(tmp_path_factory) -> Path:
    """A store of so many blocks that a run can be stopped in the middle of it."""
    return write_store(tmp_path_factory.mktemp("stores") / "long", volume(32 * BLOCKS))


def start(store: Path, model: Path, out: Path, ranks: int = 1) -> subprocess.Popen[str]:
    launcher = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
    return subprocess.Popen(
        [
            *launcher,
            sys.executable,
            "-m",
            "hpc_srct",
            "enhance",
            store,
            "--model",
            model,
            "-o",
            out,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


def done(out: Path) -> int:
    return len(list(out.glob("shards/rows-*.h5")))


def wait_for_more(out: Path, run: subprocess.Popen[str]) -> int:
    """Wait until the run has written a block."""
    before, deadline = done(out), time.monotonic() + 120
    while done(out) == before:
        assert run.poll() is None, run.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return done(out)


def test_signals_stop_it_at_a_block_and_the_same_command_goes_on(long_store, model, tmp_path):
    out = tmp_path / "out"
    for name in ("SIGTERM", "SIGUSR2", "SIGINT"):
        run = start(long_store, model, out)
        there = wait_for_more(out, run)
        run.send_signal(getattr(signal, name))
        said, _ = run.communicate(timeout=120)
        assert run.returncode == 75, (name, said)
        assert f"{out}: stopped as asked; what is done stays. Run again to go on." in said
        assert there <= done(out) < BLOCKS
        assert not (out / "slices.h5").exists()
        assert not [*out.glob(".lock*"), *out.glob("shards/.*")], "nothing half-written"
    kept = {path: path.stat().st_mtime_ns for path in out.glob("shards/rows-*.h5")}
    run = start(long_store, model, out)
    said, _ = run.communicate(timeout=240)
    assert run.returncode == 0, said
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    before, after = SliceStore(long_store), SliceStore(out)
    enhancer = Enhancer.from_file(model, device="cpu")
    for index in (0, 32 * BLOCKS - 1):
        expected = enhancer.enhance(before.read("low", index), before.scale)
        np.testing.assert_array_equal(after.read("enhanced", index), expected)


def test_one_of_two_ranks_that_is_told_stops_both(long_store, model, tmp_path):
    out = tmp_path / "out"
    run = start(long_store, model, out, ranks=2)
    wait_for_more(out, run)
    os.kill(ranks_of(run.pid)[1], signal.SIGUSR1)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 75, said
    assert said.count("stopped as asked") == 1, "said once"
    assert done(out) < BLOCKS


def test_two_runs_on_one_folder(store, model, tmp_path):
    out = tmp_path / "out"
    with StoreLock(out), pytest.raises(InputError, match="another run is writing this store"):
        enhance_store(store, model, out, device="cpu")
    enhance_store(store, model, out, device="cpu")
    assert not (out / ".lock").exists()
