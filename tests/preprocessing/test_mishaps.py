"""A disk that fills, a place that cannot be written, two runs on one store: real ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .conftest import Preprocess, environment, fingerprint, srct, wait_for, write_scan

WORDS = ["centre=31.5", "views=1/6"]


@pytest.fixture(scope="module")
def long_scan(tmp_path_factory) -> Path:
    """A scan of six blocks, that takes a moment."""
    folder = tmp_path_factory.mktemp("long")
    return write_scan(folder / "scan.h5", rows=192, views=200, columns=64)


@pytest.fixture(scope="module")
def expected(long_scan, preprocessed, tmp_path_factory) -> dict[str, str]:
    """What an undisturbed run makes of it."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    preprocessed(long_scan, store, *WORDS)
    return fingerprint(store)


def on_a_disk_of_its_own(script: str, folder: Path, scan: Path) -> subprocess.CompletedProcess:
    """Run a shell script in which $DISK can be mounted, $RUN preprocesses into $DISK/store."""
    disk = folder / "disk"
    disk.mkdir()
    command = " ".join(f"'{word}'" for word in srct("preprocess", scan, "-o", disk / "store"))
    words = " ".join(WORDS)
    head = f"DISK='{disk}'; KEPT='{folder}'; RUN=\"{command} {words}\"\n"
    probe = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none '{disk}'"]
    try:
        able = subprocess.run(probe, capture_output=True).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("no right to mount a file system here (unshare -m, mount)")
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", head + script],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )


def test_a_real_disk_that_fills(long_scan, expected, tmp_path):
    answer = on_a_disk_of_its_own(
        """
        mount -t tmpfs -o size=14m none "$DISK"
        eval "$RUN" & run=$!
        until ls "$DISK"/store/shards/rows-* >/dev/null 2>&1; do sleep 0.01; done
        dd if=/dev/zero of="$DISK/other" bs=4k 2>/dev/null
        wait $run; echo "code $?"
        ls -A "$DISK/store" "$DISK/store/shards"
        cp -r "$DISK/store" "$KEPT/half"
        rm "$DISK/other"
        eval "$RUN" && cp -r "$DISK/store" "$KEPT/whole"
        """,
        tmp_path,
        long_scan,
    )
    assert "code 1\n" in answer.stdout, answer.stdout + answer.stderr
    assert "the disk is full; free some space and run again" in " ".join(answer.stderr.split())
    assert answer.stderr.count("error: ") == 1
    half = fingerprint(tmp_path / "half")
    shards = [name for name in half if name.startswith("shards/")]
    assert 0 < len(shards) < 6
    assert all(expected[name] == mark for name, mark in half.items())
    assert fingerprint(tmp_path / "whole") == expected


def test_a_disk_that_is_read_only(long_scan, expected, tmp_path):
    answer = on_a_disk_of_its_own(
        """
        mount -t tmpfs -o size=14m none "$DISK"
        mount -o remount,ro "$DISK"
        eval "$RUN"; echo "code $?"
        mount -o remount,rw "$DISK"
        eval "$RUN" >/dev/null
        rm "$DISK/store/slices.h5" "$DISK/store/shards/rows-00064-00095.h5"
        mount -o remount,ro "$DISK"
        eval "$RUN"; echo "code $?"
        cp -r "$DISK/store" "$KEPT/left"
        """,
        tmp_path,
        long_scan,
    )
    assert answer.stdout.count("code 1\n") == 2, answer.stdout + answer.stderr
    said = " ".join(answer.stderr.split())
    assert said.count("the file system is read-only; choose another place") == 2
    assert said.count("error: ") == 2
    gone = ("slices.h5", "shards/rows-00064-00095.h5")
    left = {name: mark for name, mark in expected.items() if name not in gone}
    assert fingerprint(tmp_path / "left") == left


def test_two_runs_at_once(long_scan, expected, preprocessed: Preprocess, tmp_path):
    store = tmp_path / "store"
    first = subprocess.Popen(
        srct("preprocess", long_scan, "-o", store, *WORDS, ranks=2),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: (store / "preprocessing.json").exists(), first)
    second = preprocessed(long_scan, store, *WORDS, fails=True)
    _, said = first.communicate(timeout=60)
    assert (first.returncode, said) == (0, "")
    # Where the first was quick, the second found it done.
    assert (second.returncode == 2 and "another run is writing this store" in second.stderr) or (
        "is complete already" in second.stdout
    )
    assert fingerprint(store) == expected
