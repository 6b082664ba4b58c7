"""Killed at any moment and run again, preprocessing completes with the same bytes."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import Preprocess, environment, fingerprint, kill_group, srct, wait_for, write_scan

ROWS, BLOCKS = 200, 7


def killed_once(scan: Path, store: Path, ranks: int, chance: random.Random) -> bool:
    """Start a run and kill it: while it starts, after some shard, or near the end.

    Returns
    -------
    bool
        False where it was done before the blow fell.
    """
    there = len(list(store.glob("shards/rows-*")))
    stage = chance.choice(("start", "record", "shards", "shards", "shards"))
    wanted = chance.randint(there, BLOCKS)
    delay = chance.random() * (2.0 if stage == "start" else 0.1)
    run = subprocess.Popen(
        srct("preprocess", scan, "-o", store, ranks=ranks),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        if stage == "record":
            wait_for(lambda: (store / "preprocessing.json").exists() or run.poll() == 0, run)
        if stage == "shards":
            wait_for(lambda: len(list(store.glob("shards/rows-*"))) >= wanted, run)
        time.sleep(delay)
        return run.poll() is None
    finally:
        kill_group(run)


def kill_many(times: int, seed: int, folder: Path, preprocessed: Preprocess) -> None:
    """Kill runs on 1 to 3 ranks; now and then let one complete, and compare."""
    chance = random.Random(seed)
    scan = write_scan(folder / "scan.h5", rows=ROWS, views=120, columns=64)
    preprocessed(scan, folder / "undisturbed")
    expected = fingerprint(folder / "undisturbed")
    store = folder / "store"
    blows = 0
    while blows < times:
        ranks = chance.randint(1, 3)
        blows += killed_once(scan, store, ranks, chance)
        whole = {name: mark for name, mark in fingerprint(store).items() if "/." not in name}
        # What has its final name is whole, whenever the blow fell.
        for name, mark in whole.items():
            assert name.startswith(".") or expected[name] == mark, (name, seed, blows)
        if (store / "slices.h5").exists() or blows == times or chance.random() < 0.2:
            preprocessed(scan, store, ranks=chance.randint(1, 3))
            assert fingerprint(store) == expected, (seed, blows)
            store.rename(folder / f"done-{blows}-{time.monotonic_ns()}")


def test_killed_five_times(tmp_path, preprocessed):
    kill_many(5, 5, tmp_path, preprocessed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_fifty_times(tmp_path, preprocessed):
    kill_many(50, int(time.time()), tmp_path, preprocessed)
