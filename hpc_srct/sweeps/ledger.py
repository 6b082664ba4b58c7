"""A sweep's memory on disk, so that its caller may be killed at any moment and called again.

::

    OUT/settings/RUN.yaml     the run's settings, as submitted
    OUT/ledger/RUN.json       who was asked to do it, and when
    OUT/outcomes/RUN.json     how it ended, written by the job
    OUT/runs/RUN/             the run folder
    OUT/jobs/                 sbatch text and logs
    OUT/code/DIGEST/          the code, as submitted

Caller and job never write the same file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from hpc_srct import console
from hpc_srct.errors import InputError
from hpc_srct.files import machine_error, write_json, write_text
from hpc_srct.settings.base import Settings

EVALUATION = "evaluation"  # the ledger's entry for the evaluation of all runs


@dataclass(frozen=True)
class Entry:
    """Who was asked to do a run.

    Attributes
    ----------
    name
        Of the run.
    token
        Of this submission. A job with another one has been replaced and must not run.
    job
        Slurm's job id (``12`` or ``12_3``) or the local controller's process id; None while it
        is being submitted.
    cluster
        ``slurm`` or ``local``.
    attempts
        How often it was submitted.
    """

    name: str
    token: str
    job: str | None
    cluster: str
    submitted: str
    attempts: int
    code: str
    values: dict[str, Any]

    @property
    def job_name(self) -> str:
        """What the job is called in the queue; it can be found by that if its id was lost."""
        return f"srct-{self.token}"


class Ledger:
    """The folder of a sweep."""

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self.jobs = self.folder / "jobs"

    def run_folder(self, name: str) -> Path:
        """Give the run folder of a run."""
        return self.folder / "runs" / name

    def settings_file(self, name: str) -> Path:
        """Give the file with a run's settings."""
        return self.folder / "settings" / f"{name}.yaml"

    def write_settings(self, name: str, settings: Settings) -> None:
        """Fix a run's settings."""
        text = yaml.safe_dump(settings.dump(), sort_keys=False)
        write_text(self.settings_file(name), text)

    def entry(self, name: str) -> Entry | None:
        """Read who was asked to do a run; None where nobody was."""
        values = _read(self.folder / "ledger" / f"{name}.json")
        try:
            return Entry(**values) if values else None
        except TypeError as error:
            raise InputError(
                f"{self.folder / 'ledger' / name}.json: is not this program's; remove it to submit "
                "the run again."
            ) from error

    def note(self, entry: Entry) -> None:
        """Write down who was asked."""
        write_json(self.folder / "ledger" / f"{entry.name}.json", asdict(entry))

    def forget(self, name: str) -> None:
        """Take back an entry whose submission came to nothing."""
        (self.folder / "ledger" / f"{name}.json").unlink(missing_ok=True)

    def outcome(self, name: str, token: str | None = None) -> dict[str, Any] | None:
        """Read how a run ended; None where it has not, or where another submission is asked for."""
        found = _read(self.folder / "outcomes" / f"{name}.json")
        if found and token is not None and found.get("token") != token:
            return None
        return found

    def note_outcome(self, name: str, token: str, state: str, error: str | None = None) -> None:
        """Write down how a run ended: ``done``, ``failed`` or ``stopped``."""
        outcome = {"state": state, "token": token, "error": error, "ended": now()}
        write_json(self.folder / "outcomes" / f"{name}.json", outcome)

    def logs(self, job: str, tasks: int = 1) -> Sequence[Path]:
        """Give the logs of a job that exist, its first task's first."""
        kinds = [self.jobs / f"{job}_{t}_log.{end}" for t in range(tasks) for end in ("err", "out")]
        return [path for path in kinds if path.is_file()]

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other callers from submitting at the same time.

        Raises
        ------
        InputError
            Another one does.
        """
        path = self.folder / ".lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(path, "w")  # noqa: SIM115 - held to the end of the block
        except OSError as error:
            raise machine_error(path, error) from error
        with lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise InputError(
                    f"{self.folder}: another call submits this sweep right now; wait for it."
                ) from error
            except OSError:
                console.warn(f"{path}: this file system has no locks; call one sweep at a time.")
            yield


_TIME = "%Y-%m-%dT%H:%M:%S%z"


def now() -> str:
    """Give the time as the ledger writes it."""
    return time.strftime(_TIME)


def seconds_since(moment: str) -> float:
    """Measure the time since a moment that `now` gave."""
    return time.time() - datetime.strptime(moment, _TIME).timestamp()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
