"""`srct sweep`: one function, which the command line calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpc_srct import console
from hpc_srct.errors import Stopped
from hpc_srct.settings.site import load_site
from hpc_srct.sweeps import status
from hpc_srct.sweeps.status import State
from hpc_srct.sweeps.sweep import Sweep


def run_sweep(
    path: Path | str,
    overrides: Sequence[str] = (),
    *,
    site: Path | str | None = None,
    cluster: str = "slurm",
    dry_run: bool = False,
    wait: bool = False,
    show_status: bool = False,
    retry_failed: bool = False,
) -> None:
    """Do what ``srct sweep SWEEP.yaml`` asks: submit, show, or wait and conclude.

    Parameters
    ----------
    path
        The sweep's file.
    overrides
        ``key=value`` words laid over it.
    site
        Site profile; needed where something goes to Slurm.
    cluster
        ``slurm`` or ``local``. On this machine the call waits in any case: it starts the runs.
    dry_run
        Show the runs and the sbatch text, and do nothing.
    wait
        Watch until all runs have ended, then print the table.
    show_status
        Show where the runs are, and write the tables of what there is.
    retry_failed
        Submit failed runs again.

    Raises
    ------
    InputError, MachineError
        Something is missing or was refused; or some runs failed (after the table of the others).
    Stopped
        Runs of this machine were interrupted; they are saved.
    """
    sweep = Sweep.from_file(path, overrides)
    if dry_run:
        profile = load_site(site) if cluster == "slurm" else None
        console.out.print(sweep.dry_run(cluster, profile), markup=False)
        return
    if show_status:
        found = sweep.status()
        shown = status.table(found, sweep.settings.name)
        (console.out.print if console.out.is_terminal else status.show)(shown)
        console.say(f"{status.counts(found)}; results so far: {sweep.write_results()[0]}")
        if all(now.state.is_over and now.state is not State.NEW for now in found):
            sweep.conclude(found)
        return
    profile = load_site(site) if cluster == "slurm" else None
    submitted = sweep.submit(cluster, profile, retry_failed, str(site))
    _tell(sweep, len(submitted))
    if cluster == "local":
        _wait_here(sweep)
    elif wait:
        _watch(sweep)
    else:
        console.say(f"Look at them: srct sweep {path} --status")


def _tell(sweep: Sweep, count: int) -> None:
    others = len(sweep.runs) - count
    console.say(
        f"{sweep.settings.name}: {count} of {len(sweep.runs)} runs submitted"
        + (f" ({others} done, under way, or waiting for --retry-failed)" if others else "")
        + f"; everything is in {sweep.folder}"
    )


def _wait_here(sweep: Sweep) -> None:
    try:
        found = sweep.wait()
    except KeyboardInterrupt:
        console.say("Stopping: the runs under way save their state ...")
        left = sweep.stop_here()
        raise Stopped(
            f"{sweep.settings.name}: interrupted; "
            + (f"still running: {', '.join(left)}.\n" if left else "its runs are saved.\n")
            + "The same command goes on."
        ) from None
    sweep.conclude(found)


def _watch(sweep: Sweep) -> None:
    try:
        found = sweep.wait()
    except KeyboardInterrupt:
        console.say("The jobs go on; --status looks at them, scancel ends them.")
        return
    sweep.conclude(found)
