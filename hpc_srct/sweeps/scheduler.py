"""The questions put to Slurm, and its answers in our words. Nothing goes through a shell."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence

from hpc_srct.errors import InputError, MachineError


def _value(key: str, hint: str) -> str:
    return f"Look at {key} in {{site}}; {hint}."


_RIGHTS = "your rights: `sacctmgr show assoc where user=$USER format=Account,QOS,Partition -P`"
_LIMITS = "sacctmgr show qos format=Name,MaxSubmitPU,MaxJobsPU,MaxTRESPU,MaxWall -P"

# What sbatch says, and what to do: mostly, which value of the site profile to mend.
_REFUSALS = (
    (
        "accounting/qos policy",
        "That is more jobs, larger or longer ones, than your account and qos in {site} may submit; "
        f"the limits: `{_LIMITS}`.",
    ),
    (
        "invalid job array",
        "One array cannot have so many runs (`scontrol show config | grep MaxArraySize`); make "
        "several sweeps of it.",
    ),
    ("account", _value("account, which must go with partition", _RIGHTS)),
    ("partition", _value("partition", '`sinfo -o "%P %l %G"` lists them')),
    ("qos", _value("qos", _RIGHTS)),
    ("gres", _value("gpu_type and gpus_per_node", '`sinfo -o "%P %G"` lists what nodes have')),
    ("wckey", _value("wckey", "null asks for none")),
    ("time limit", _value("time_limit", '`sinfo -o "%P %l"` lists the limits')),
    ("node count", _value("the number of nodes", '`sinfo -o "%P %D"` lists how many there are')),
    (
        "node configuration",
        _value(
            "gpus_per_node, gpu_type, cpus_per_task and mem_per_cpu",
            '`sinfo -o "%P %c %m %G"` lists what nodes have',
        ),
    ),
)
_ASK_WITHIN_S = 60

# Slurm's states, by what they mean to a run.
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "CONFIGURING", "RESIZING"}
RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SUSPENDED", "STOPPED", "SIGNALING"}


def need(program: str = "sbatch") -> None:
    """Raise `InputError` where Slurm's commands are not on this machine."""
    if shutil.which(program) is None:
        raise InputError(
            f"There is no {program} on this machine, so nothing can be submitted from here.\n"
            "Log in to a node of the cluster (or load its Slurm module), or use --cluster local; "
            "--dry-run works everywhere."
        )


def _ask(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_ASK_WITHIN_S)
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", "no answer in time")


def refusal(message: str, site: str) -> InputError | MachineError:
    """Put what sbatch said into words: what to mend, mostly in the site profile, and how."""
    lines = [line.partition("error: ")[2] or line for line in message.splitlines() if line.strip()]
    said = lines[-1].strip() if lines else "no reason given"
    said = said.removeprefix("Batch job submission failed: ").rstrip(".")
    for fragment, advice in _REFUSALS:
        if fragment in message.lower():
            return InputError(f"Slurm refused the job: {said}.\n{advice.format(site=site)}")
    return MachineError(f"Slurm took no job: {said}.")


def submit(command: Sequence[str], site: str) -> str:
    """Run ``sbatch --parsable …``; give the job id.

    Raises
    ------
    InputError, MachineError
        Slurm refused the job, or does not answer; `site` is the profile to name.
    """
    answer = _ask(command)
    match = re.match(r"(\d+)", answer.stdout.strip())
    if answer.returncode or not match:
        raise refusal(answer.stderr or answer.stdout, site)
    return match[1]


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs; those that have ended do not matter."""
    if jobs := list(jobs):
        _ask(["scancel", *jobs])


def named(name: str) -> list[str] | None:
    """Find this user's jobs of one name that wait or run; None where Slurm does not answer."""
    answer = _ask(["squeue", "--me", "--noheader", "--format=%A", f"--name={name}"])
    return sorted(set(answer.stdout.split())) if answer.returncode == 0 else None


def states(jobs: Iterable[str]) -> tuple[dict[str, str], bool]:
    """Ask for the states of jobs (``12`` or ``12_3``).

    Returns
    -------
    dict, bool
        State by job id, for the jobs that Slurm knows; and whether accounting answered. Of jobs
        that accounting does not know the queue is asked, which forgets a job minutes after its
        end; and of preempted ones, which it may hold again.
    """
    jobs = list(dict.fromkeys(jobs))
    if not jobs:
        return {}, True
    sacct = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State"]
    squeue = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T"]
    found, accounting = _told(sacct, jobs)
    # Accounting hears late of jobs, and last of those that wait for others.
    if unsure := [job for job in jobs if found.get(job) in (None, "PREEMPTED")]:
        queued, answered = _told(squeue, unsure)
        for job in unsure:
            if job in queued:
                found[job] = queued[job]
            elif not answered:
                found.pop(job, None)
    return {job: found[job] for job in jobs if job in found}, accounting


def _told(command: list[str], jobs: list[str]) -> tuple[dict[str, str], bool]:
    """Ask one program of Slurm's for the states of jobs, and say whether it answered."""
    mothers = ",".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
    answer = _ask([*command, f"--jobs={mothers}"])
    found: dict[str, str] = {}
    for line in answer.stdout.splitlines():
        name, _, state = line.partition("|")
        word = (state.split() or ["UNKNOWN"])[0].rstrip("+")  # "CANCELLED by 0"
        for job in _spelled_out(name):
            # A job that was requeued has a line for each start; the last counts.
            found[job] = word
    # squeue fails for a single job that it has forgotten, and that is an answer, too.
    return found, answer.returncode == 0 or "invalid job id" in answer.stderr.lower()


def _spelled_out(name: str) -> list[str]:
    """Spell out ``12_[0-2,5%3]``, which stands for the tasks that have not begun."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", name)
    if not match:
        return [name]
    tasks: list[str] = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        tasks += [f"{match[1]}_{i}" for i in range(int(first), int(last or first) + 1)]
    return tasks


def why_not_requeue(job: str) -> str | None:
    """Say why a job (``12`` or ``12_3``) must not be put back into the queue; None where it may.

    A cancelled job may not, though Slurm would take it: while its script still runs it counts
    as completing.
    """
    answer = _ask(["scontrol", "show", "job", "--oneliner", job])
    fields = _record(answer.stdout, job)
    if answer.returncode or "JobState" not in fields:
        return "Slurm does not answer"
    if fields["JobState"] != "RUNNING":
        return "it was cancelled, or its time is over"
    if fields.get("Requeue") != "1":
        return "this site does not requeue jobs"
    return None


def _record(text: str, job: str) -> dict[str, str]:
    """Pick a job's record: the id of an array, which its last task has, too, stands for all."""
    records = [
        dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        for line in text.splitlines()
    ]
    if len(records) > 1:
        records = [
            r
            for r in records
            if job in (r.get("JobId"), f"{r.get('ArrayJobId')}_{r.get('ArrayTaskId')}")
        ]
    return records[0] if len(records) == 1 else {}


def requeue(job: str) -> None:
    """Put a job back into the queue."""
    answer = _ask(["scontrol", "requeue", job])
    if answer.returncode:
        raise MachineError(f"job {job} could not be requeued: {answer.stderr.strip()}")
