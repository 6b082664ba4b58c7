"""A name that exists is a file that is whole."""

from __future__ import annotations

import errno

import pytest

from hpc_srct.errors import InputError, MachineError
from hpc_srct.files import machine_error, refuse_to_overwrite, write_text, written_aside


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


def test_no_two_files_aside_have_one_name(tmp_path):
    # The first may still be on its way to the disk when the second is begun.
    with written_aside(tmp_path / "file") as first, written_aside(tmp_path / "file") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
