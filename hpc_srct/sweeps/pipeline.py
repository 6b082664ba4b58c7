"""The whole road as dependent Slurm jobs: behind ``slurm/pipeline.sh`` and ``slurm/submit.sh``."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import yaml

from hpc_srct import console
from hpc_srct.errors import InputError, SrctError
from hpc_srct.files import write_json, write_text
from hpc_srct.settings.base import Settings, load
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.settings.site import Site, load_site
from hpc_srct.sweeps import scheduler, snapshot
from hpc_srct.sweeps.batch import KINDS, Batch, render
from hpc_srct.sweeps.scripts import scripts_folder

RECORD = "submitted.json"


def plan(
    scan: Path,
    experiment: Path,
    site: Site,
    out: Path,
    templates: Path,
    *,
    nodes: int = 1,
    tasks_per_node: int | None = None,
    preprocessing: Sequence[str] = (),
    training: Sequence[str] = (),
    code: Path | None = None,
) -> tuple[list[Batch], dict[Path, str]]:
    """Work out the three jobs that bring a scan to an enhanced volume.

    Parameters
    ----------
    scan, experiment
        A raw scan, and what to train. The experiment names its own stores; the scan's will be
        ``out/store``.
    out
        Folder for everything: ``store/``, ``run/``, ``enhanced/``, and in ``jobs/`` the scripts,
        the settings as submitted and the logs.
    templates
        The folder ``slurm``.
    nodes, tasks_per_node
        For the training; by default as many tasks as a node has GPUs.
    preprocessing, training
        ``key=value`` words laid over the defaults and over the experiment.

    Returns
    -------
    list of Batch, dict
        The jobs in order, each to start when those before it have ended well; and the settings
        files to write beside them.

    Raises
    ------
    InputError
        No such scan, or settings that are not valid.
    """
    if not scan.exists():
        raise InputError(f"{scan}: no such scan.")
    from hpc_srct.settings.preprocessing import PreprocessingSettings

    jobs = out / "jobs"
    settings = {
        jobs / "preprocessing.yaml": _text(load(PreprocessingSettings, None, preprocessing)),
        jobs / "experiment.yaml": _text(load(ExperimentSettings, experiment, training)),
    }
    how, what = map(str, settings)
    store, run = out / "store", out / "run"
    arguments: dict[str, tuple[str, ...]] = {
        "preprocess": (str(scan.resolve()), str(store), "--config", how),
        "train": (what, str(run)),
        "enhance": (str(store), str(run), str(out / "enhanced")),
    }
    shape = {"train": {"nodes": nodes, "tasks_per_node": tasks_per_node}}
    batches = [
        Batch(
            kind,
            render(_template(templates, kind), site, kind, code=code, **shape.get(kind, {})),
            jobs / f"{kind}.sbatch",
            words,
        )
        for kind, words in arguments.items()
    ]
    return batches, settings


def _template(folder: Path, kind: str) -> str:
    path = folder / f"{kind}.sbatch"
    try:
        return path.read_text()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error


def _text(settings: Settings) -> str:
    return yaml.safe_dump(settings.dump(), sort_keys=False)


def describe(batches: Sequence[Batch]) -> str:
    """Show exactly what would be submitted; a job id not known yet reads ``JOB_OF_kind``."""
    parts, before = [], []
    for batch in batches:
        after = before[-1:]
        parts.append(f"$ {shlex.join(batch.command(after))}\n# --- {batch.script}\n{batch.text}")
        before.append(f"JOB_OF_{batch.kind}")
    return "\n".join(parts)


def submit(batches: Sequence[Batch], site: str) -> dict[str, str]:
    """Submit jobs that follow one another; give their ids. All are submitted, or none.

    Raises
    ------
    InputError
        Slurm refused one.
    """
    record = batches[0].script.parent / RECORD
    ids: dict[str, str] = {}
    try:
        for batch in batches:
            ids[batch.kind] = batch.submit(site, list(ids.values())[-1:])
            write_json(record, ids)
    except BaseException:
        scheduler.cancel(ids.values())
        raise
    return ids


def _refuse_twice(jobs: Path) -> None:
    """Raise `InputError` where jobs of an earlier call still wait or run: they read its files."""
    try:
        earlier = json.loads((jobs / RECORD).read_text())
    except (OSError, ValueError):
        return
    known, _ = scheduler.states(earlier.values())
    busy = [job for job, state in known.items() if state in scheduler.WAITING | scheduler.RUNNING]
    if busy:
        raise InputError(
            f"{jobs}: jobs {', '.join(busy)} of an earlier call still wait or run.\n"
            f"Wait for them, or `scancel {' '.join(busy)}`, or choose another folder (-o)."
        )


Templates = Annotated[Path | None, typer.Option(hidden=True)]
SiteFile = Annotated[Path | None, typer.Option("--site", metavar="FILE", help="Site profile.")]
Nodes = Annotated[int, typer.Option(min=1, help="Nodes (of the training).")]
Tasks = Annotated[
    int | None, typer.Option(min=1, help="Tasks on each node; default: one for each GPU.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show exactly what would be submitted.")]

_EXAMPLE = (
    "Example:  slurm/pipeline.sh scan.h5 my.yaml --site my-site.yaml --dry-run "
    "preprocess.views=1/6 train.epochs=20"
)


def pipeline_door(
    scan: Annotated[Path, typer.Argument(metavar="SCAN")],
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="preprocess.KEY=VALUE or train.KEY=VALUE"),
    ] = None,
    templates: Templates = None,
    site_file: SiteFile = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder; default roads/SCAN-EXPERIMENT.")
    ] = None,
    nodes: Nodes = 1,
    tasks_per_node: Tasks = None,
    dry_run: DryRun = False,
) -> None:
    """Submit the whole road: preprocess, train, enhance; each job starts when the one before it
    has ended well."""
    site = load_site(site_file)
    out = (out or Path("roads") / f"{scan.stem}-{experiment.stem}").resolve()
    overrides = _overrides(words or ())
    code = _code(out / "jobs", dry_run)
    batches, files = plan(
        scan,
        experiment,
        site,
        out,
        templates or scripts_folder("slurm"),
        nodes=nodes,
        tasks_per_node=tasks_per_node,
        preprocessing=overrides["preprocess"],
        training=overrides["train"],
        code=snapshot.planned(code),
    )
    if dry_run:
        console.out.print(describe(batches), markup=False, emoji=False)
        return
    _refuse_twice(out / "jobs")
    snapshot.take(code)
    for path, text in files.items():
        write_text(path, text)
    _tell(batches, submit(batches, str(site_file)))


def one_door(
    kind: Annotated[str, typer.Argument(metavar="preprocess|train|enhance")],
    words: Annotated[list[str], typer.Argument(metavar="ARGUMENT...")],
    templates: Templates = None,
    site_file: SiteFile = None,
    jobs: Annotated[Path, typer.Option("--jobs", help="Folder of script and log.")] = Path("jobs"),
    nodes: Nodes = 1,
    tasks_per_node: Tasks = None,
    dry_run: DryRun = False,
) -> None:
    """Submit one job: preprocess SCAN STORE, train EXPERIMENT.yaml RUN_FOLDER, or
    enhance STORE_OR_SCAN RUN_OR_FILE OUT; what follows goes to the command of that name."""
    if kind not in KINDS:
        raise InputError(f"'{kind}': expected one of {', '.join(KINDS)}.")
    site = load_site(site_file)
    code = _code(jobs.resolve(), dry_run)
    text = render(
        _template(templates or scripts_folder("slurm"), kind),
        site,
        kind,
        nodes=nodes,
        tasks_per_node=tasks_per_node,
        code=snapshot.planned(code),
    )
    batch = Batch(kind, text, jobs.resolve() / f"{kind}.sbatch", tuple(words))
    if dry_run:
        console.out.print(describe([batch]), markup=False, emoji=False)
        return
    snapshot.take(code)
    _tell([batch], {kind: batch.submit(str(site_file))})


def _overrides(words: Sequence[str]) -> dict[str, list[str]]:
    sorted_out: dict[str, list[str]] = {"preprocess": [], "train": []}
    for word in words:
        kind, dot, rest = word.partition(".")
        if not dot or kind not in sorted_out or "=" not in rest:
            raise InputError(f"'{word}': expected preprocess.KEY=VALUE or train.KEY=VALUE.")
        sorted_out[kind].append(rest)
    return sorted_out


def _code(jobs: Path, dry_run: bool) -> Path:
    if "\n" in str(jobs):
        raise InputError(f"{str(jobs)!r}: Slurm cannot write a log below a name with a line break.")
    if not dry_run:
        scheduler.need("sbatch")
    return jobs / "code"


def _tell(batches: Sequence[Batch], ids: dict[str, str]) -> None:
    for batch in batches:
        job = ids[batch.kind]
        console.say(f"{job}  {batch.kind}: log {batch.script.with_suffix('')}-{job}.log")
    console.say(f"Look at them: squeue -j {','.join(ids.values())}")


def main(words: Sequence[str]) -> int:
    """Do what ``pipeline`` or ``one`` says, as the shell scripts ask; give the exit code."""
    door, *rest = words
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if door == "pipeline":
        app.command(epilog=_EXAMPLE)(pipeline_door)
    else:
        # What follows the kind belongs to the command, options too.
        settings = {"allow_interspersed_args": False}
        app.command(context_settings=settings)(one_door)
    try:
        app(rest, prog_name="slurm/pipeline.sh" if door == "pipeline" else "slurm/submit.sh")
    except SrctError as error:
        console.err.print(f"error: {error}", style="red", markup=False)
        return error.exit_code
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
