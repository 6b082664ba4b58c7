"""A block goes to the disk while the next is made: slow and broken disks, requests to stop."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_srct.errors import MachineError, Stopped
from hpc_srct.preprocessing import preprocess
from hpc_srct.settings.base import load
from hpc_srct.settings.preprocessing import PreprocessingSettings

from .conftest import MPIEXEC, environment, fingerprint, write_scan

SETTINGS = load(PreprocessingSettings, overrides=["centre=23.5"])


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """A scan of three blocks."""
    return write_scan(tmp_path_factory.mktemp("scan") / "scan.h5", rows=70)


@pytest.fixture(scope="module")
def expected(scan, tmp_path_factory) -> dict[str, str]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    preprocess(scan, store, SETTINGS)
    return fingerprint(store)


def when_synced(monkeypatch: pytest.MonkeyPatch, act) -> None:
    """Have `act` called with the name of each shard that is brought to the disk."""
    fsync = os.fsync

    def synced(handle: int) -> None:
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        if name.startswith(".rows-"):
            act(name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)


def shards(store: Path) -> list[str]:
    return sorted(path.name for path in (store / "shards").iterdir())


@pytest.mark.parametrize("block", ["00000-00031", "00064-00069"])
def test_a_block_that_the_disk_refuses_late(scan, expected, tmp_path, monkeypatch, block):
    store = tmp_path / "store"

    def refuse(name: str) -> None:
        if block in name:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        when_synced(patch, refuse)
        with pytest.raises(MachineError, match=rf"rows-{block}\.h5: .* the disk is full; free"):
            preprocess(scan, store, SETTINGS)
    assert not (store / "slices.h5").exists()
    left = shards(store)
    assert f"rows-{block}.h5" not in left
    assert all(name.startswith("rows-") for name in left)
    preprocess(scan, store, SETTINGS)
    assert fingerprint(store) == expected


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_name_that_cannot_be_given_ends_all_ranks_with_one_message(scan, tmp_path, ranks):
    code = f"""
import sys
from pathlib import Path
replace = Path.replace
def refused(aside, path):
    if "rows-00032" in str(path):
        raise OSError(28, "No space left on device")
    return replace(aside, path)
Path.replace = refused
sys.argv = ["srct", "preprocess", {str(scan)!r}, "-o", {str(tmp_path / "store")!r}, "centre=23.5"]
from hpc_srct.cli import main
main()
"""
    launcher = [str(MPIEXEC), "-n", str(ranks)] if ranks > 1 else []
    answer = subprocess.run(
        [*launcher, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )
    assert answer.returncode == 1, answer.stderr
    assert answer.stderr.count("error: ") == 1
    said = " ".join(answer.stderr.split())
    assert "rows-00032-00063.h5: cannot be written: the disk is full; free some" in said
    assert not (tmp_path / "store/slices.h5").exists()
    assert "rows-00032-00063.h5" not in shards(tmp_path / "store")


def test_stopping_waits_for_the_disk(scan, expected, tmp_path, monkeypatch):
    store = tmp_path / "store"

    def stop_then_take_long(name: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.0)

    with monkeypatch.context() as patch:
        when_synced(patch, stop_then_take_long)
        with pytest.raises(Stopped, match="stopped as asked"):
            preprocess(scan, store, SETTINGS)
        left = shards(store)
    assert 0 < len(left) <= 3
    assert all(name.startswith("rows-") for name in left)
    preprocess(scan, store, SETTINGS)
    assert fingerprint(store) == expected


def test_a_disk_that_refuses_while_a_run_stops_is_told(scan, tmp_path, monkeypatch):
    def stop_and_refuse(name: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError(errno.ENOSPC, "No space left on device")

    when_synced(monkeypatch, stop_and_refuse)
    with pytest.raises(MachineError, match="the disk is full"):
        preprocess(scan, tmp_path / "store", SETTINGS)
    assert shards(tmp_path / "store") == []


def test_waiting_for_the_disk_is_counted_as_writing(scan, tmp_path, monkeypatch):
    when_synced(monkeypatch, lambda name: time.sleep(0.3))
    summary = preprocess(scan, tmp_path / "store", SETTINGS)
    assert summary.times[0].write > 0.3  # the last block's at least
    assert summary.times[0].total <= summary.seconds
