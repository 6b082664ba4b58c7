"""Handing a sweep's runs to submitit: one Slurm array, or processes on this machine."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from submitit import AutoExecutor
from submitit.core.utils import FailedJobError, environment_variables
from submitit.slurm.slurm import _make_sbatch_string

from hpc_srct.errors import InputError, SrctError
from hpc_srct.settings.site import Site
from hpc_srct.settings.sweep import SweepSettings
from hpc_srct.sweeps import batch, scheduler, snapshot
from hpc_srct.sweeps.grid import Run
from hpc_srct.sweeps.job import EvaluateJob, TrainJob
from hpc_srct.sweeps.ledger import EVALUATION, Entry, Ledger, now, seconds_since

# submitit counts stops by a time limit; whether a job still makes progress is ours to judge.
_TIMEOUTS = 100_000
_YEAR_MIN = 365 * 24 * 60
_LEAVE_WITHIN_S = 60.0


def new_token(sweep: SweepSettings) -> str:
    """Name a submission; it stands in the queue, too."""
    return f"{sweep.name}-{uuid.uuid4().hex[:8]}"


def parameters(
    sweep: SweepSettings, site: Site, token: str, code: Path, tasks_per_node: int | None = None
) -> dict[str, Any]:
    """Give what stands in the sbatch file, by submitit's names for its options.

    A killed task ends the whole step; tasks that end well before rank 0 do not end it.
    """
    options = dict(batch.directives(site, "train", sweep.nodes, sweep.tasks_per_node))
    if tasks_per_node is not None:
        options = dict(batch.directives(site, "train", 1, tasks_per_node))
    known = ("partition", "account", "qos", "nodes", "ntasks-per-node", "cpus-per-task",
             "mem-per-cpu", "gres", "time")  # fmt: skip
    named = {name.replace("-", "_"): options.pop(name) for name in known if name in options}
    options.pop("wckey", None)
    return {
        **named,
        "job_name": f"srct-{token}",
        "wckey": site.wckey,
        "signal_delay_s": int(site.stop_before_end),
        "array_parallelism": sweep.parallel,
        "setup": [*batch.environment_lines(site), *snapshot.shell_lines(code)],
        # Since Slurm 22.05 srun does not know by itself how many CPUs a task got.
        "srun_args": [
            f"--cpus-per-task={named['cpus_per_task']}",
            *("--kill-on-bad-exit=1", "--wait=0", "--mpi=none"),
        ],
        "additional_parameters": options,
    }


def sbatch_text(sweep: SweepSettings, site: Site, ledger: Ledger, token: str, count: int) -> str:
    """Give the sbatch file of `count` runs, as it would be submitted."""
    code = snapshot.planned(ledger.folder / "code")
    return _make_sbatch_string(
        command=f"{_python(site)} -u -m submitit.core._submit {shlex.quote(str(ledger.jobs))}",
        folder=ledger.jobs,
        map_count=count if count > 1 else None,
        **parameters(sweep, site, token, code),
    )


def _python(site: Site) -> str:
    return shlex.quote(site.python or sys.executable)


def check_folder(folder: Path) -> None:
    """Raise `InputError` for a folder whose name Slurm or submitit would read as a pattern."""
    bad = next((c for c in "%\n\\" if c in str(folder)), None)
    if bad:
        raise InputError(
            f"{str(folder)!r}: Slurm cannot write logs below a name with {bad!r}; choose another "
            "with out=."
        )


def _entries(
    runs: Mapping[str, dict[str, Any]], ledger: Ledger, token: str, cluster: str, code: Path
) -> list[Entry]:
    """Write down that runs are being submitted; without a job id until Slurm has given it."""
    entries = []
    for name, values in runs.items():
        before = ledger.entry(name)
        attempts = (before.attempts if before else 0) + 1
        entry = Entry(name, token, None, cluster, now(), attempts, code.name, values)
        ledger.note(entry)
        entries.append(entry)
    return entries


def to_slurm(
    sweep: SweepSettings,
    todo: Sequence[Run],
    runs: Sequence[Run],
    site: Site,
    ledger: Ledger,
    site_name: str,
) -> list[Entry]:
    """Submit the runs that are to do as one array, and the evaluation of all to follow it.

    Raises
    ------
    InputError, MachineError
        Slurm refused, or does not answer; then the ledger is as before. Where it took the runs
        and refused their evaluation alone, the message says so.
    """
    scheduler.need("sbatch")
    scheduler.need("srun")
    code = snapshot.take(ledger.folder / "code")
    token = new_token(sweep)
    for run in todo:
        ledger.write_settings(run.name, run.settings)
    jobs = {run.name: TrainJob(str(ledger.folder), run.name, token) for run in todo}
    values = {run.name: run.values for run in todo}
    options = parameters(sweep, site, token, code)
    entries = _submit(jobs, values, ledger, token, code, site, site_name, options)
    if sweep.evaluate:
        mother = str(entries[0].job).partition("_")[0]
        try:
            evaluation_to_slurm(sweep, runs, site, ledger, site_name, [mother])
        except SrctError as error:
            raise type(error)(
                f"The runs are submitted ({mother}); their evaluation was not: {error}\n"
                "The same command submits it when that is mended."
            ) from error
    return entries


def evaluation_to_slurm(
    sweep: SweepSettings,
    runs: Sequence[Run],
    site: Site,
    ledger: Ledger,
    site_name: str,
    after: Sequence[str] = (),
) -> None:
    """Submit the evaluation of all runs, to start when the jobs `after` have ended, well or not."""
    code = snapshot.take(ledger.folder / "code")
    token = new_token(sweep)
    options = parameters(sweep, site, token, code, tasks_per_node=1)
    if after:
        options["dependency"] = f"afterany:{':'.join(after)}"
    job = evaluation(sweep, runs, ledger, token)
    _submit({EVALUATION: job}, {EVALUATION: {}}, ledger, token, code, site, site_name, options)


def evaluation(
    sweep: SweepSettings, runs: Sequence[Run], ledger: Ledger, token: str
) -> EvaluateJob:
    """Make the job that judges all runs of a sweep together."""
    names = tuple(run.name for run in runs)
    return EvaluateJob(str(ledger.folder), EVALUATION, token, names, tuple(sweep.evaluate))


def _submit(
    jobs: Mapping[str, Any],
    values: Mapping[str, dict[str, Any]],
    ledger: Ledger,
    token: str,
    code: Path,
    site: Site,
    site_name: str,
    options: dict[str, Any],
) -> list[Entry]:
    before = {name: ledger.entry(name) for name in jobs}
    entries = _entries(values, ledger, token, "slurm", code)
    try:
        executor = AutoExecutor(
            ledger.jobs,
            cluster="slurm",
            slurm_max_num_timeout=_TIMEOUTS,
            slurm_python=_python(site),
        )
        executor.update_parameters(
            **{f"slurm_{name}": value for name, value in options.items() if value is not None}
        )
        executor.parameters.setdefault("wckey", None)  # else submitit writes one of its own
        # submitit prints what sbatch said, which stands in its error, too.
        with contextlib.redirect_stderr(io.StringIO()):
            submitted = executor.submit_array(list(jobs.values()))
    except BaseException as error:
        for name, entry in before.items():
            # A run that failed is not a new one because Slurm refused to try it again.
            ledger.note(entry) if entry else ledger.forget(name)
        if isinstance(error, FailedJobError):
            raise scheduler.refusal(str(error), site_name) from error
        raise
    noted = [replace(entry, job=job.job_id) for entry, job in zip(entries, submitted, strict=True)]
    for entry in noted:
        ledger.note(entry)
    return noted


# ---- on this machine


def gpus_here() -> int:
    """Count this machine's GPUs, without torch."""
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())


def to_this_machine(
    sweep: SweepSettings, run: Run | None, runs: Sequence[Run], ledger: Ledger, slot: int = 0
) -> Entry:
    """Start one run, or with None the evaluation of all, as processes of this machine.

    Parameters
    ----------
    slot
        Which place of those that run at once: it decides the GPUs.
    """
    code = snapshot.take(ledger.folder / "code")
    token = new_token(sweep)
    tasks = (sweep.tasks_per_node or 1) if run else 1
    if run:
        ledger.write_settings(run.name, run.settings)
    name, values = (run.name, run.values) if run else (EVALUATION, {})
    [entry] = _entries({name: values}, ledger, token, "local", code)
    executor = AutoExecutor(ledger.jobs, cluster="local")
    options: dict[str, Any] = {"timeout_min": _YEAR_MIN, "tasks_per_node": tasks}
    if gpus := gpus_here():
        share = tuple((slot * tasks + task) % gpus for task in range(tasks))
        options |= {"gpus_per_node": tasks, "local_visible_gpus": share}
    executor.update_parameters(**options)
    job = (
        TrainJob(str(ledger.folder), name, token) if run else evaluation(sweep, runs, ledger, token)
    )
    with _not_interrupted(), environment_variables(**_local_environment(code)):
        submitted = executor.submit(job)
    entry = replace(entry, job=submitted.job_id)
    ledger.note(entry)
    return entry


def _local_environment(code: Path) -> dict[str, str]:
    environment = snapshot.environment(code)
    if before := os.environ.get("PYTHONPATH"):
        environment["PYTHONPATH"] += os.pathsep + before
    return environment


@contextlib.contextmanager
def _not_interrupted() -> Iterator[None]:
    """Let Ctrl-C pass by the processes started within.

    submitit's controller would kill its tasks a second later. Training listens again by itself,
    and answers Ctrl-C by saving.
    """
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: then no Ctrl-C comes here
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def alive(entry: Entry, ledger: Ledger) -> bool:
    """Tell whether the local process of an entry still runs; its number may be another's by now."""
    try:
        command = Path(f"/proc/{int(entry.job or 0)}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return False
    return b"submitit.local._local" in command and os.fsencode(ledger.jobs) in command


def finish_off(entry: Entry, ledger: Ledger) -> None:
    """End what is left of a run that has failed: its other tasks may wait for the lost one.

    Slurm does that by itself; submitit's local controller does not.
    """
    outcome = ledger.outcome(entry.name, entry.token)
    if outcome is None or outcome["state"] != "failed" or not alive(entry, ledger):
        return
    if seconds_since(outcome["ended"]) < _LEAVE_WITHIN_S:
        return
    children = Path(f"/proc/{entry.job}/task/{entry.job}/children")
    with contextlib.suppress(OSError):
        for pid in children.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
