"""What the doctor says of machines that are not this one."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from hpc_srct.workflows import doctor


@pytest.mark.parametrize(
    ("states", "tunables", "ok", "helped"),
    [
        ("[always] madvise never", "", True, False),
        ("always [madvise] never", "", False, True),
        ("always [madvise] never", "glibc.malloc.hugetlb=1", True, False),
        ("always madvise [never]", "", False, False),
    ],
)
def test_huge_pages(states, tunables, ok, helped, tmp_path, monkeypatch):
    (tmp_path / "enabled").write_text(states + "\n")
    monkeypatch.setattr(doctor, "HUGE_PAGES", tmp_path / "enabled")
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    checks = {check.name: check for check in doctor.examine()}
    assert checks["huge pages"].ok == ok
    assert ("GLIBC_TUNABLES" in checks["huge pages"].note) == helped
    assert not checks["huge pages"].needed


def test_no_word_of_huge_pages_where_the_system_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "HUGE_PAGES", tmp_path / "nowhere")
    assert "huge pages" not in {check.name for check in doctor.examine()}


@pytest.mark.parametrize(
    "said",
    ["cannot load MPI library [/opt/openmpi/lib/libmpi.so.40]", "[node01:12345] *** An error"],
)
def test_what_is_in_brackets_is_reported_as_it_is(said):
    shown = Console(width=300, file=io.StringIO())
    shown.print(doctor.render([doctor.Check("mpi", said, False, True, "see [mpi]")]))
    assert f"{said} " in shown.file.getvalue()
    assert "see [mpi]" in shown.file.getvalue()


def test_a_package_that_cannot_be_imported_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    (check,) = doctor._hdf5()
    assert not check.ok
    assert check.found.startswith("ModuleNotFoundError: ")
    assert check.note == "no scan can be read"


def program(folder: Path, name: str, does: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("sinfo", "note"),
    [(None, "no sinfo"), ("exec /bin/sleep 60", "does not answer"), ("exit 1", "does not answer")],
)
def test_a_slurm_that_is_not_whole(sinfo, note, tmp_path, monkeypatch):
    program(tmp_path, "sbatch", "echo slurm 22.05")
    if sinfo:
        program(tmp_path, "sinfo", sinfo)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_ANSWER_WITHIN_S", 5)
    check = doctor._slurm()
    assert (check.found, check.ok) == ("slurm 22.05", False)
    assert note in check.note


def test_accounting_that_does_not_answer_is_off(tmp_path, monkeypatch):
    program(tmp_path, "sbatch", "echo slurm 22.05")
    program(tmp_path, "sinfo", "echo gpu")
    program(tmp_path, "sacct", "exec /bin/sleep 60")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_ANSWER_WITHIN_S", 5)
    check = doctor._slurm()
    assert (check.found, check.ok) == ("slurm 22.05: gpu", True)
    assert "accounting is off" in check.note


def test_an_mpiexec_that_hangs(tmp_path, monkeypatch):
    mpiexec = program(tmp_path, "mpiexec", "exec /bin/sleep 60")
    python = program(tmp_path, "python", "echo an MPI")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(doctor, "find_program", lambda name: str(mpiexec))
    monkeypatch.setattr(doctor, "_ANSWER_WITHIN_S", 5)
    library, ranks = doctor._mpi()
    assert library.found == "an MPI"
    assert not ranks.ok
    assert "no answer from two ranks" in ranks.note
