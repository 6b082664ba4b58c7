"""The lock: held while its process lives, taken over when it is gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from hpc_srct.errors import InputError
from hpc_srct.slices import lock
from hpc_srct.slices.lock import StoreLock

HOLDER = """
import sys, time
from pathlib import Path
from hpc_srct.slices.lock import StoreLock
StoreLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_held_by_a_living_process_and_free_when_it_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {holder.pid}, since 20"):
            StoreLock(tmp_path)
        # Killed and not yet waited for: a zombie holds nothing.
        holder.kill()
        time.sleep(0.2)
        StoreLock(tmp_path).release()
    finally:
        holder.kill()
        holder.wait()
    assert list(tmp_path.iterdir()) == []


def write_lock(folder, **owner):
    (folder / ".lock").write_text(json.dumps(owner))


def test_a_number_that_another_process_got_later_is_no_owner(tmp_path):
    write_lock(tmp_path, host=socket.gethostname(), pid=os.getpid(), started="boot:1", time="")
    StoreLock(tmp_path).release()


def test_another_host_counts_until_nobody_touches_its_lock(tmp_path):
    write_lock(tmp_path, host="elsewhere", pid=1, time="2020-01-01")
    with pytest.raises(InputError, match="host elsewhere, process 1, since 2020"):
        StoreLock(tmp_path)
    long_ago = time.time() - 2 * lock.STALE_AFTER_S
    os.utime(tmp_path / ".lock", (long_ago, long_ago))
    StoreLock(tmp_path).release()


def test_the_owner_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "TOUCH_EVERY_S", 0.02)
    with StoreLock(tmp_path) as held:
        os.utime(held.path, (1, 1))
        deadline = time.monotonic() + 10
        while held.path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert held.path.stat().st_mtime > 1


def test_a_lock_that_was_taken_over_is_not_removed(tmp_path):
    held = StoreLock(tmp_path)
    write_lock(tmp_path, host="elsewhere", pid=1)
    held.release()
    assert (tmp_path / ".lock").exists()


def test_rubbish_in_the_lock_counts_as_another_host(tmp_path):
    (tmp_path / ".lock").write_text("[]")
    with pytest.raises(InputError, match="another run"):
        StoreLock(tmp_path)
