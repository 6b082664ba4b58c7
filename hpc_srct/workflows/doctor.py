"""What this machine has for the toolkit, what will not work, and why."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from hpc_srct.workflows.programs import find_program

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ANSWER_WITHIN_S = 60
TUNABLE = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment makes FBPs a little faster"


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes
    ----------
    name, found
        What was looked at, and what was seen.
    ok
        It works here.
    needed
        Without it the toolkit cannot do its main job.
    note
        What follows, or what to do; empty where nothing does.
    """

    name: str
    found: str
    ok: bool
    needed: bool = False
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return asdict(self)


def _ask(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a program; one that is missing or gives no answer has failed, too."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=_ANSWER_WITHIN_S)
    except OSError as error:
        return subprocess.CompletedProcess(words, 127, "", f"{words[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        late = f"{words[0]}: no answer in {_ANSWER_WITHIN_S} s"
        return subprocess.CompletedProcess(words, 124, "", late)


def _package(name: str, role: str) -> Check:
    try:
        return Check(name, importlib.metadata.version(name), True, needed=True)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "missing", False, True, f"{role}; pip install -c constraints.txt {name}")


def _broken(name: str, error: Exception, note: str) -> Check:
    """Report a package that is there and cannot be imported."""
    return Check(name, f"{type(error).__name__}: {error}", False, True, note)


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("python", platform.python_version(), ok, True, "" if ok else "3.11 is the oldest")


def _machine() -> Check:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0))
    return Check("machine", f"{cores} cores, {pages / 2**30:.0f} GiB of memory", True)


def _huge_pages() -> list[Check]:
    """See whether memory comes in pages of 4 KiB: FBPs spend some of their time on that."""
    try:
        states = HUGE_PAGES.read_text(encoding="utf-8")
    except OSError:
        return []
    found = states.partition("[")[2].partition("]")[0]
    asked = "glibc.malloc.hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "")
    ok = found == "always" or (found == "madvise" and asked)
    note = "" if ok or found != "madvise" else TUNABLE
    return [Check("huge pages", found or states.strip(), ok, note=note)]


def _torch() -> list[Check]:
    try:
        import torch
    except Exception as error:
        return [_broken("torch", error, "training needs it")]
    from hpc_srct.models.convolution import cpu_has_bf16, cpu_has_fp16

    checks = [Check("torch", torch.__version__, True, True)]
    if torch.cuda.is_available():
        names = ", ".join(
            f"{torch.cuda.get_device_name(i)}"
            f" ({torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB)"
            for i in range(torch.cuda.device_count())
        )
        checks.append(Check("cuda", names, True))
        checks.append(Check("fp16", "in hardware", True, note="O2 runs"))
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        checks.append(Check("bf16", "in hardware" if bf16 else "missing", bf16))
        return checks
    checks.append(Check("cuda", "none", False, note="training runs on the CPU with gloo"))
    fp16 = cpu_has_fp16()
    checks.append(
        Check(
            "fp16",
            "in hardware" if fp16 else "missing",
            fp16,
            note="" if fp16 else "O2 runs with emulate_fp16=true, no faster than O0",
        )
    )
    bf16 = cpu_has_bf16()
    checks.append(
        Check(
            "bf16",
            "in hardware" if bf16 else "emulated",
            bf16,
            note="" if bf16 else "bf16 trains here, no faster than O0",
        )
    )
    return checks


def _deepspeed() -> Check:
    # Importing it costs seconds and prints; the version is enough to tell what is known of it.
    check = _package("deepspeed", "training needs it")
    if not check.ok:
        return check
    major_minor = tuple(int(part) for part in check.found.split(".")[:2])
    tested = major_minor == (0, 19)
    note = "" if tested else "tested with 0.19 only: fp16 with ZeRO changed between versions"
    return Check("deepspeed", check.found, tested, True, note)


def _mpi() -> list[Check]:
    probe = "from mpi4py import MPI; print(MPI.Get_library_version().split('\\n')[0].strip())"
    answer = _ask(sys.executable, "-c", probe)
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["no answer"])[-1]
        note = "pip install mpi4py mpich, or load the cluster's MPI module"
        return [Check("mpi", last, False, True, note)]
    library = " ".join(answer.stdout.split())
    mpiexec = find_program("mpiexec")
    checks = [Check("mpi", library, True, True)]
    if mpiexec is None:
        checks.append(Check("mpiexec", "missing", False, note="preprocessing runs on one rank"))
        return checks
    # One rank prints: lines of several come out interleaved.
    count = (
        "from mpi4py.MPI import COMM_WORLD as c; n = c.allreduce(1)\n"
        "if c.Get_rank() == 0: print(n, c.Get_size())"
    )
    trial = _ask(mpiexec, "-n", "2", sys.executable, "-c", count)
    works = trial.stdout.split() == ["2", "2"]
    note = "" if works else "this mpiexec does not belong to the MPI that mpi4py loads"
    if trial.returncode == 124:
        note = f"no answer from two ranks in {_ANSWER_WITHIN_S} s"
    checks.append(Check("mpiexec", mpiexec, works, note=note))
    return checks


def _hdf5() -> list[Check]:
    try:
        import h5py
        import hdf5plugin
    except Exception as error:
        return [_broken("hdf5", error, "no scan can be read")]

    wanted = {"blosc": 32001, "lz4": 32004, "bitshuffle": 32008, "zstd": 32015}
    missing = [name for name, number in wanted.items() if not h5py.h5z.filter_avail(number)]
    found = f"{h5py.version.hdf5_version}, hdf5plugin {hdf5plugin.version}"
    note = f"files compressed with {', '.join(missing)} cannot be read" if missing else ""
    return [Check("hdf5", found, not missing, True, note)]


def _slurm() -> Check:
    if shutil.which("sbatch") is None:
        return Check("slurm", "no sbatch", False, note="sweeps run with --cluster local")
    version = _ask("sbatch", "--version").stdout.strip() or "sbatch without a version"
    answer = _ask("sinfo", "-h", "-o", "%P")
    if answer.returncode == 127:
        return Check("slurm", version, False, note="sbatch is here, and no sinfo")
    if answer.returncode != 0:
        return Check("slurm", version, False, note="the controller does not answer")
    partitions = ", ".join(answer.stdout.split())
    accounting = _ask("sacct", "-n", "-X")
    note = "" if accounting.returncode == 0 else "accounting is off: job states come from files"
    return Check("slurm", f"{version}: {partitions}", True, note=note)


def examine() -> list[Check]:
    """Look at everything that the toolkit uses."""
    looks: list[Callable[[], Check | list[Check]]] = [
        _python,
        _machine,
        _huge_pages,
        _torch,
        _deepspeed,
        _mpi,
        _hdf5,
        lambda: _package("numba", "reconstruction needs it"),
        lambda: _package("scikit-image", "metrics need it"),
        lambda: _package("submitit", "sweeps need it"),
        _slurm,
    ]
    checks: list[Check] = []
    for look in looks:
        answer = look()
        checks += answer if isinstance(answer, list) else [answer]
    return checks


def render(checks: list[Check]) -> Table:
    """Lay the checks out as a table."""
    table = Table(title="srct doctor", title_justify="left")
    for column in ("", "", "found", "what follows"):
        table.add_column(column, overflow="fold")
    for check in checks:
        mark = "[green]✓[/]" if check.ok else "[red]✗[/]" if check.needed else "[yellow]–[/]"
        # As text: what is in brackets would be taken for styles, or as a fault in them.
        table.add_row(mark, *map(Text, (check.name, check.found, check.note)))
    return table
