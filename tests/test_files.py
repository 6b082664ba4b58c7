"""A name that exists is a file that is whole."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from hpc_srct.errors import InputError, MachineError
from hpc_srct.files import (
    NamesInBackground,
    machine_error,
    refuse_to_overwrite,
    write_text,
    written_aside,
)


def test_a_file_appears_only_when_whole(tmp_path):
    target = tmp_path / "new" / "settings.yaml"
    with written_aside(target) as aside:
        aside.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "metrics.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), written_aside(target) as aside:
        aside.write_text("new")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_said_to_be_full(tmp_path):
    said = r"out\.h5: cannot be written: the disk is full"
    with pytest.raises(MachineError, match=said), written_aside(tmp_path / "out.h5"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_real_full_device_is_recognised():
    with pytest.raises(OSError) as caught, open("/dev/full", "w") as handle:
        handle.write("x")
        handle.flush()
    assert "the disk is full" in str(machine_error("/dev/full", caught.value))


def test_h5py_errors_carry_their_number_in_the_text(tmp_path):
    error = OSError("Can't write data (file write failed: errno = 28, error message = 'No space')")
    assert error.errno is None
    assert "the disk is full" in str(machine_error(tmp_path, error))


def test_a_parent_that_is_a_file_is_an_error_with_its_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="file"):
        write_text(tmp_path / "file" / "x.txt", "text")


def test_nothing_is_overwritten_but_an_empty_folder_is_no_loss(tmp_path):
    (tmp_path / "empty").mkdir()
    refuse_to_overwrite(tmp_path / "empty", "store")
    refuse_to_overwrite(tmp_path / "absent", "store")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("full", "full/x", "dangling"):
        with pytest.raises(InputError, match="exists already"):
            refuse_to_overwrite(tmp_path / name, "store")


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
    with written_aside(tmp_path / "one", names) as aside:
        aside.write_text("1")
    said = r"one: cannot be written: the disk is full; free some space"
    with pytest.raises(MachineError, match=said), written_aside(tmp_path / "two", names) as aside:
        aside.write_text("2")
    names.wait()  # told once
    assert list(tmp_path.iterdir()) == []


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
