"""How a job begins, ends, and goes on: the words that a batch script asks.

::

    python -m hpc_srct.sweeps.restarts before FOLDER        # prints --resume, or nothing
    python -m hpc_srct.sweeps.restarts after FOLDER CODE    # requeues, or gives the exit code
    python -m hpc_srct.sweeps.restarts folder EXPERIMENT [key=value ...]  # prints its run folder

FOLDER is what the job makes: a run folder or a slice store. A job that stopped with its state
saved goes back into the queue, unless it was cancelled, or made no progress since its last
restart: then it would go on for ever.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpc_srct import console
from hpc_srct.errors import InputError, MachineError, SrctError, Stopped
from hpc_srct.files import write_json
from hpc_srct.settings import load
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.sweeps import scheduler

SAVED = 75
# 128 + SIGUSR2 and SIGTERM: told to stop before the program listened. Nothing is lost by that.
_STOPPED = (SAVED, 128 + 12, 128 + 15)


def is_run(folder: Path) -> bool:
    """Tell whether a training began here, so that it is resumed and not begun."""
    return (folder / "settings.yaml").is_file()


def is_complete(folder: Path) -> bool:
    """Tell whether a run folder has its model, or a slice store its master file."""
    return any((folder / name).is_file() for name in ("model.safetensors", "slices.h5"))


def progress(folder: Path) -> int:
    """Measure how far the work in a folder is: steps saved, or shards that are whole.

    `srct enhance` of a raw scan reconstructs it first, into a store inside its output.
    """
    checkpoints = folder / "checkpoints"
    names = [path.name for path in checkpoints.glob("step-*")]
    pointer = checkpoints / "current"
    if pointer.is_file():
        names = [pointer.read_text().strip()]
    steps = [int(n.removeprefix("step-")) for n in names if n.removeprefix("step-").isdigit()]
    shards = [*folder.glob("shards/rows-*.h5"), *folder.glob("input/shards/rows-*.h5")]
    return max(steps, default=0) + len(shards)


def _record(folder: Path) -> Path:
    # Beside the folder: one with foreign files in it would not be begun.
    return folder.with_name(f".{folder.name}.starts.json")


def _starts(folder: Path, job: str) -> list[dict[str, int]]:
    try:
        record = json.loads(_record(folder).read_text())
        return record["starts"] if record["job"] == job else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def note_start(folder: Path, job: str, restart: int) -> None:
    """Note that a job starts on `folder` for the `restart`-th time after the first.

    Raises
    ------
    MachineError
        The life before this one began with a restart, too, and got no further.
    """
    starts = _starts(folder, job)
    done = progress(folder)
    if starts and starts[-1]["restart"] >= 1 and starts[-1]["progress"] >= done:
        raise MachineError(_no_progress(folder, restart))
    write_json(
        _record(folder), {"job": job, "starts": [*starts, {"restart": restart, "progress": done}]}
    )


def check_progress(folder: Path, job: str) -> None:
    """Raise `MachineError` where this start of a job was a restart and got no further."""
    starts = _starts(folder, job)
    if starts and starts[-1]["restart"] >= 1 and starts[-1]["progress"] >= progress(folder):
        raise MachineError(_no_progress(folder, starts[-1]["restart"]))


def _no_progress(folder: Path, restart: int) -> str:
    return (
        f"{folder}: no progress between two restarts ({restart} so far); the job is not requeued "
        "again.\nGive it more time (time_limit in the site profile) or smaller steps; what is "
        "saved stays, and submitting it again goes on."
    )


def before(folder: Path, environ: Mapping[str, str] = os.environ) -> str:
    """Note the start of a job; give the word that its command needs to go on."""
    job = environ.get("SLURM_JOB_ID")
    if job:
        note_start(folder, job, int(environ.get("SLURM_RESTART_COUNT") or 0))
    return "--resume" if is_run(folder) else ""


def after(folder: Path, code: int, environ: Mapping[str, str] = os.environ) -> None:
    """End a job as its command ended; one that stopped with its state saved is requeued.

    Raises
    ------
    Stopped
        It stopped and was requeued, or may not be: dependent jobs must not start.
    MachineError
        It failed, made no progress, or left nothing that is complete.
    """
    job = environ.get("SLURM_JOB_ID", "")
    if code == 0:
        if not is_complete(folder):
            # srun may say 0 where it could not start the tasks.
            raise MachineError(
                f"job {job} ended with code 0, but {folder} is not complete; the log tells more.\n"
                "Submit the job again to go on from there."
            )
        _record(folder).unlink(missing_ok=True)
        return
    if code not in _STOPPED:
        killed = " (a task was killed)" if code == 128 + 9 else ""
        mend = "mend it and submit" if code == InputError.exit_code else "submit"
        raise _Ended(
            f"job {job} ended with code {code}{killed}; the reason stands above, in its log.\n"
            f"What is saved in {folder} stays; {mend} the job again to go on from there.",
            code,
        )
    check_progress(folder, job)
    reason = scheduler.why_not_requeue(job)
    if reason:
        raise Stopped(
            f"job {job} stopped with its state saved in {folder}; not requeued: {reason}.\n"
            "Submitting it again goes on from there."
        )
    # Said first: Slurm ends this process while it requeues the job.
    console.say(f"job {job} stopped with its state saved in {folder}; requeued.")
    scheduler.requeue(job)
    raise Stopped(f"job {job}: requeued.")


class _Ended(MachineError):
    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.exit_code = code


def main(words: Sequence[str]) -> int:
    """Run one of the three; give the exit code."""
    try:
        if words[0] == "before":
            print(before(Path(words[1])), end="")
        elif words[0] == "folder":
            print(Path("runs") / load(ExperimentSettings, words[1], words[2:]).name)
        else:
            after(Path(words[1]), int(words[2]))
    except SrctError as error:
        print("" if isinstance(error, Stopped) else "error: ", error, sep="", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
