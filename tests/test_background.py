"""Files on their way to the disk while the caller works on."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from hpc_srct.background import NamesInBackground, start_writeback
from hpc_srct.errors import MachineError
from hpc_srct.files import written_aside


class Disk:
    """A disk that is slow or broken where a test says so: stands in for `os.fsync`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.free, self.fails = threading.Event(), None
        self.begun, self.events = threading.Event(), []
        fsync, replace = os.fsync, Path.replace

        def synced(handle: int) -> None:
            folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            self.begun.set()
            assert self.free.wait(20)
            if self.fails is not None:
                raise self.fails
            fsync(handle)
            self.events.append("folder synced" if folder else "file synced")

        def replaced(aside: Path, path: Path) -> Path:
            self.events.append("named")
            return replace(aside, path)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(Path, "replace", replaced)


def hand_over(names: NamesInBackground, path: Path) -> None:
    with written_aside(path, names) as aside:
        aside.write_text("whole")


@pytest.fixture
def disk(monkeypatch) -> Disk:
    return Disk(monkeypatch)


def test_no_name_before_the_disk_has_the_bytes(tmp_path, disk):
    names = NamesInBackground()
    with written_aside(tmp_path / "one", names) as aside:
        aside.write_text("1")
    # Here the next file is made, while the disk is at work.
    assert disk.begun.wait(20)
    assert aside.exists() and not (tmp_path / "one").exists()
    disk.free.set()
    names.wait()
    assert disk.events == ["file synced", "named", "folder synced"]
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_one_file_at_most_is_on_its_way(tmp_path, disk):
    names = NamesInBackground()
    with written_aside(tmp_path / "one", names) as aside:
        aside.write_text("1")
    threading.Timer(0.3, disk.free.set).start()
    with written_aside(tmp_path / "two", names) as aside:
        aside.write_text("2")
        assert not (tmp_path / "one").exists()
    assert (tmp_path / "one").exists()  # closing the second waited for it
    names.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_what_the_disk_refuses_in_the_background_is_told_by_the_next_file(tmp_path, disk):
    disk.free.set()
    disk.fails = OSError(errno.ENOSPC, "No space left on device")
    names = NamesInBackground()
    hand_over(names, tmp_path / "one")
    with pytest.raises(MachineError, match=r"one: cannot be written: the disk is full; free some"):
        hand_over(names, tmp_path / "two")
    names.wait()  # told once
    assert list(tmp_path.iterdir()) == []


def test_what_is_whole_is_kept_when_the_file_before_failed(tmp_path, disk):
    disk.free.set()
    disk.fails = OSError(errno.EIO, "Input/output error")
    names = NamesInBackground()
    hand_over(names, tmp_path / "one")
    assert names._named.wait(20)
    disk.fails = None
    with pytest.raises(MachineError, match="one: "):
        hand_over(names, tmp_path / "two")
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


def test_a_name_that_cannot_be_given_in_the_background(tmp_path):
    (tmp_path / "taken" / "by").mkdir(parents=True)
    said = "taken: cannot be written: IsADirectoryError"
    names = NamesInBackground()
    with written_aside(tmp_path / "taken", names) as aside:
        aside.write_text("1")
    with pytest.raises(MachineError, match=said), names:
        pass  # leaving it waits
    assert not aside.exists()


@pytest.mark.parametrize(("error", "waits"), [(RuntimeError, True), (KeyboardInterrupt, False)])
def test_an_error_elsewhere_loses_no_file_but_ctrl_c_is_quick(tmp_path, disk, error, waits):
    if waits:
        threading.Timer(0.3, disk.free.set).start()
    with pytest.raises(error), NamesInBackground() as names:
        with written_aside(tmp_path / "one", names) as aside:
            aside.write_text("1")
        raise error
    assert (tmp_path / "one").exists() == waits
    disk.free.set()
    names.wait()


def test_the_system_is_asked_to_begin_early(tmp_path):
    names = NamesInBackground()
    with names:
        with written_aside(tmp_path / "one", names) as aside:
            for _ in range(3):
                with aside.open("ab") as file:
                    file.write(bytes(5000))
                names.begin(aside)
        names.begin(tmp_path / "never there")
    assert (tmp_path / "one").read_bytes() == bytes(15000)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_it_is_linux_that_is_asked(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    asked = []

    class System:
        """Stands in for the C library, and passes the call on."""

        def __init__(self, name: None):
            self.real = real(name)

        @property
        def sync_file_range(self):
            def call(*words: int) -> int:
                asked.append((*words[1:], self.real.sync_file_range(*words)))

            return call

    real = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", System)
    start_writeback(path)
    assert asked == [(0, 0, 2, 0)]  # all of the file, to be written, and it was taken


def test_where_the_system_cannot_be_asked_nothing_is_done(tmp_path, monkeypatch):
    start_writeback(tmp_path / "absent")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    (tmp_path / "file").write_text("1")
    start_writeback(tmp_path / "file")


def test_without_a_thread_the_name_is_given_at_once(tmp_path, monkeypatch):
    def no_more(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", no_more)
    (tmp_path / "aside").write_text("whole")
    with NamesInBackground() as names:
        names.begin(tmp_path / "aside")
        names(tmp_path / "aside", tmp_path / "name")
        assert (tmp_path / "name").read_text() == "whole"
