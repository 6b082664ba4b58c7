"""A sweep: its runs, submitted once each, looked at, and brought into one table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from hpc_srct import console
from hpc_srct.errors import InputError, MachineError
from hpc_srct.files import write_text
from hpc_srct.settings.base import find_config, from_tree, load
from hpc_srct.settings.site import Site
from hpc_srct.settings.sweep import SweepSettings
from hpc_srct.sweeps import results, scheduler, status, submission
from hpc_srct.sweeps.grid import Run, expand
from hpc_srct.sweeps.here import Queue
from hpc_srct.sweeps.ledger import EVALUATION, Entry, Ledger, seconds_since
from hpc_srct.sweeps.results import Results
from hpc_srct.sweeps.status import Observer, State, Status

CLUSTERS = ("slurm", "local")
LOCAL_EVERY_S, SLURM_EVERY_S = 2.0, 15.0
_GRACE_S = 120.0  # how long Slurm's accounting may take to learn of a job


class Sweep:
    """Many runs of one experiment.

    Parameters
    ----------
    settings
        What to vary, and where.
    beside
        Folder in which the experiment's file is looked for, too.

    Attributes
    ----------
    runs : list of Run
        In the order of the grid.
    folder : Path
        Where everything is.

    Examples
    --------
    >>> sweep = Sweep.from_file("configs/sweeps/talk.yaml")      # doctest: +SKIP
    >>> sweep.submit("slurm", site)                              # doctest: +SKIP
    >>> sweep.wait()                                             # doctest: +SKIP
    >>> print(sweep.results().markdown())                        # doctest: +SKIP
    """

    def __init__(self, settings: SweepSettings | dict, beside: Path | None = None):
        if isinstance(settings, dict):
            settings = from_tree(SweepSettings, settings, "sweep")
        self.settings = settings
        self.runs = expand(settings, beside)
        self.folder = Path(settings.out or Path("sweeps") / settings.name).absolute()
        self.ledger = Ledger(self.folder)
        self.observer = Observer(self.ledger)
        self.queue = Queue(settings, self.ledger)

    @classmethod
    def from_file(cls, path: Path | str, overrides: Sequence[str] = ()) -> Sweep:
        """Read a sweep's file; `overrides` are ``key=value`` words."""
        return cls(load(SweepSettings, path, overrides), find_config(path).parent)

    # ---- submitting

    def submit(
        self,
        cluster: str = "slurm",
        site: Site | None = None,
        retry_failed: bool = False,
        site_name: str = "the site profile",
    ) -> list[Run]:
        """Submit what is neither done nor under way.

        Runs that were stopped go on where they were; failed ones only with `retry_failed`. On
        this machine (``local``) as many start as may run at once; `wait` starts the others.

        Returns
        -------
        list of Run
            What was submitted now.

        Raises
        ------
        InputError
            An unknown cluster, no Slurm or no site profile, or Slurm refused.
        MachineError
            Slurm does not answer.
        """
        if cluster not in CLUSTERS:
            raise InputError(f"'{cluster}': expected --cluster {' or '.join(CLUSTERS)}.")
        submission.check_folder(self.folder)
        if cluster == "slurm" and site is None:
            raise InputError("A site profile is needed to submit to Slurm.")
        with self.ledger.alone():
            self._recover()
            todo = self._todo(retry_failed)
            judge = self._to_be_judged_again(todo)
            if cluster == "local":
                if judge:
                    self.ledger.forget(EVALUATION)  # and `wait` starts it
                self.queue.waiting = list(todo)
                return self.queue.fill(self._running())
            if todo:
                submission.to_slurm(self.settings, todo, self.runs, site, self.ledger, site_name)
            elif judge:
                submission.evaluation_to_slurm(
                    self.settings, self.runs, site, self.ledger, site_name, self._under_way()
                )
            return todo

    def _running(self) -> list[str]:
        return [now.name for now in self.status() if now.state is State.RUNNING]

    def _to_be_judged_again(self, todo: Sequence[Run]) -> bool:
        if todo or not self.settings.evaluate:
            return False
        judged, found = self.observer.evaluation(), self.status()
        # It may have been refused, or cut off after the runs were submitted.
        if judged is None:
            return any(now.state is not State.FAILED for now in found)
        if judged.state is State.DONE:
            return self._older_than_runs(found)
        return judged.state in (State.FAILED, State.STOPPED)

    def _under_way(self) -> list[str]:
        """Give the jobs, arrays by their own id, of runs that wait or run."""
        jobs = [now.job for now in self.status() if not now.state.is_over and now.job]
        return list(dict.fromkeys(job.partition("_")[0] for job in jobs))

    def _recover(self) -> None:
        """Mend a submission that was cut short: its job ids are lost, but its name is not."""
        lost = [e for e in self._entries() if e.job is None]
        for name in {entry.job_name for entry in lost if entry.cluster == "slurm"}:
            jobs = scheduler.named(name)
            if jobs is None:
                raise MachineError(
                    f"{self.folder}: an earlier call was cut short, and Slurm does not say which "
                    "jobs it left.\nCall again when squeue answers."
                )
            scheduler.cancel(jobs)
        for entry in lost:
            self.ledger.forget(entry.name)

    def _entries(self) -> list[Entry]:
        names = [*(run.name for run in self.runs), EVALUATION]
        return [entry for name in names if (entry := self.ledger.entry(name))]

    def _todo(self, retry_failed: bool) -> list[Run]:
        wanted = {State.NEW, State.STOPPED} | ({State.FAILED} if retry_failed else set())
        found = self.status()
        return [
            run
            for run, now in zip(self.runs, found, strict=True)
            if now.state in wanted or (now.state is State.UNKNOWN and self._is_lost(now))
        ]

    def _is_lost(self, now: Status) -> bool:
        """Tell a job that Slurm has forgotten from one that it has not heard of yet."""
        entry = self.ledger.entry(now.name)
        if entry is None:
            return True
        late = seconds_since(entry.submitted) > _GRACE_S
        return late and scheduler.named(entry.job_name) == []

    def dry_run(self, cluster: str = "slurm", site: Site | None = None) -> RenderableType:
        """Show the table of runs, and for Slurm the sbatch text."""
        submission.check_folder(self.folder)
        shown = status.table(self.status(), f"{self.settings.name}: {len(self.runs)} runs")
        if cluster == "local":
            return shown
        if site is None:
            raise InputError("A site profile is needed to show what Slurm would get.")
        todo = self._todo(False)
        if not todo:
            return shown
        token = f"{self.settings.name}-TOKEN"
        text = submission.sbatch_text(self.settings, site, self.ledger, token, len(todo))
        return Group(shown, Text(text))

    # ---- looking

    def status(self) -> list[Status]:
        """Look at every run, in the order of `runs`."""
        return self.observer.look(self.runs)

    def results(self) -> Results:
        """Read what the runs have left so far."""
        return results.collect(self.status(), self.ledger)

    def write_results(self) -> list[Path]:
        """Write ``results.csv`` and ``results.md``, by run and averaged over seeds."""
        found = self.results()
        mean = found.over_seeds()
        text = f"# {self.settings.name}\n\n{found.markdown()}"
        if len(mean.rows) < len(found.rows):
            text += f"\nMean ± standard deviation over seeds:\n\n{mean.markdown()}"
        elif mean.columns != found.columns:
            text += f"\nWith what a precision saves against O0:\n\n{mean.markdown()}"
        written = {"results.md": text, "results.csv": found.csv(), "results-seeds.csv": mean.csv()}
        for name, content in written.items():
            write_text(self.folder / name, content)
        return [self.folder / name for name in written]

    def wait(self, every: float | None = None) -> list[Status]:
        """Show the runs until all have ended, and their evaluation with them.

        Ctrl-C only ends the watching of Slurm jobs; runs of this machine save and stop.

        Returns
        -------
        list of Status
            How each run ended. One that failed does not hide the others.
        """
        local = any(entry.cluster == "local" for entry in self._entries())
        every = every or (LOCAL_EVERY_S if local else SLURM_EVERY_S)
        said = ""
        live = console.out.is_terminal
        with Live(console=console.out, auto_refresh=False) if live else _Nothing() as screen:
            while True:
                found = self.status()
                if local:
                    self.queue.tend(self.runs, found)
                screen.update(status.table(found, self.settings.name), refresh=True)
                now = status.counts(found)
                if not live and now != said:
                    console.say(f"{self.settings.name}: {now}")
                    said = now
                over = all(s.state.is_over or self._given_up(s) for s in found)
                if over and not self.queue.waiting and self._judged(found, local):
                    return found
                time.sleep(every)

    def stop_here(self) -> list[str]:
        """Tell the runs of this machine to save and stop; name those that do not in time."""
        return self.queue.stop(self.runs)

    def _given_up(self, now: Status) -> bool:
        return now.state is State.UNKNOWN and self._is_lost(now)

    def _judged(self, found: Sequence[Status], local: bool) -> bool:
        """Tell whether the evaluation has ended, too; on this machine, start it when it is time."""
        judging = self.observer.evaluation()
        if not local:
            return judging is None or judging.state.is_over or judging.state is State.UNKNOWN
        if not self.settings.evaluate or not any(s.state is State.DONE for s in found):
            return True
        if judging is None or (judging.state.is_over and self._older_than_runs(found)):
            self.queue.judge(self.runs)
            return False
        return judging.state.is_over

    def _older_than_runs(self, found: Sequence[Status]) -> bool:
        entry = self.ledger.entry(EVALUATION)
        if entry is None:
            return True
        judged = (self.ledger.outcome(EVALUATION, entry.token) or {}).get("ended", entry.submitted)
        ends = [
            outcome["ended"]
            for s in found
            if s.state is State.DONE and (outcome := self.ledger.outcome(s.name))
        ]
        return any(end > judged for end in ends)

    def conclude(self, found: Sequence[Status]) -> None:
        """Print the table, where it was written, and the last lines of each failed run's log.

        Raises
        ------
        MachineError
            Some runs failed.
        """
        table = self.results()
        mean = table.over_seeds()
        shown = mean if len(mean.rows) < len(table.rows) or mean.columns != table.columns else table
        status.show(shown.rich(self.settings.name))
        judging = self.observer.evaluation()
        failed = [s for s in found if s.state in (State.FAILED, State.UNKNOWN)]
        for now in [*failed, *([judging] if judging and judging.state is State.FAILED else [])]:
            self._tell_failure(now)
        for path in self.write_results():
            console.say(f"written: {path}")
        if judging and judging.state is State.DONE:
            console.say(f"written: {self.folder / EVALUATION / 'table.md'}")
        if failed:
            raise MachineError(
                f"{len(failed)} of {len(found)} runs failed (logs above); the others stand in the "
                "table.\n--retry-failed submits those again."
            )

    def _tell_failure(self, now: Status) -> None:
        why = now.error or "Slurm knows nothing of it any more"
        console.err.print(f"{now.name}: failed: {why}", style="red", markup=False)
        for line in status.log_tail(now.log):
            console.err.print(f"    {line}", markup=False)
        where = now.log or f"no log: can the nodes of the cluster write to {self.ledger.jobs}?"
        console.err.print(f"    ({where})", markup=False)


class _Nothing:
    """What a live screen is where there is none."""

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, *_: object, **__: object) -> None:
        pass
