"""The commands: parse, call one function, print.

Exit codes: 0 done; 1 the machine failed; 2 wrong usage or input; 75 stopped on request with
the state saved (run it again to go on).
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from hpc_srct import __version__, console
from hpc_srct.errors import SrctError, Stopped
from hpc_srct.settings import configs_folder, load

# Heavy libraries are imported inside the commands: `srct --help` and the sweep commands answer
# on a login node that has no torch.

app = typer.Typer(
    name="srct",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Deep-learning reconstruction of low-dose synchrotron CT.",
)


class Cluster(enum.StrEnum):
    """Where the runs of a sweep go."""

    slurm = "slurm"
    local = "local"


Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings, in YAML's spelling."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Config = Annotated[Path | None, typer.Option("-c", "--config", help="Settings file (YAML).")]
Layout = Annotated[
    Path | None, typer.Option("--layout", help="Layout file: which role is found where.")
]


def _version(wanted: bool) -> None:
    if wanted:
        console.out.print(f"srct {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a stack trace on errors.")] = False,
) -> None:
    """Deep-learning reconstruction of low-dose synchrotron CT."""


def _print_json(value: Any) -> None:
    console.out.print(json.dumps(value, indent=2, default=str), markup=False)


@contextlib.contextmanager
def _ranks_together() -> Iterator[Any]:
    """Join the MPI ranks; one that fails ends all, and the message is printed once."""
    from hpc_srct.ranks import communicator

    comm = communicator()
    try:
        yield comm
    except BaseException as error:
        if comm.size == 1:
            raise
        failures = comm.all_failed((_exit_code(error), str(error)))
        if failures is None:  # others work on, or wait for this rank
            comm.abort(_report(error))
            raise
        # All leave by themselves: an abort would add the launcher's lines to ours, and hide
        # from a batch job that a run only stopped.
        if comm.rank == 0:
            _report(error)
            for rank, (_, text) in enumerate(failures):
                if rank and text not in [said for _, said in failures[:rank]]:
                    console.err.print(f"rank {rank}: {text}", style="red", markup=False)
        codes = [code for code, _ in failures]
        raise SystemExit(next((c for c in codes if c != Stopped.exit_code), codes[0])) from error


@app.command(epilog="Example:  srct doctor")
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine has, what will not work, and why."""
    from hpc_srct.workflows.doctor import examine, render

    checks = examine()
    if as_json:
        _print_json([check.to_json() for check in checks])
    else:
        console.out.print(render(checks))
    if any(check.needed and not check.ok for check in checks):
        raise typer.Exit(1)


@app.command(epilog="Example:  srct simulate scan.h5 size=512 rows=8 photons=1000 seed=1")
def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT.h5", help="The raw scan to write.")],
    overrides: Overrides = None,
    config: Config = None,
) -> None:
    """Write a raw scan (DXchange) of a phantom, with its truth."""
    from hpc_srct.settings.simulation import SimulationSettings
    from hpc_srct.simulation import simulate_scan

    simulate_scan(load(SimulationSettings, config, overrides or ()), out)
    console.say(f"{out}: simulated scan written.")


@app.command(epilog="Example:  srct inspect scan.h5")
def inspect(
    scan: Annotated[Path, typer.Argument(metavar="SCAN", help="Raw scan: DXchange or NXtomo.")],
    overrides: Overrides = None,
    layout: Layout = None,
    config: Config = None,
    ranks: Annotated[
        int, typer.Option("--ranks", min=1, help="MPI ranks that preprocessing will have.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Say what is in a scan file, where its rotation centre is, and what preprocessing takes.

    Settings are those of preprocess: angle_range, memory, without_flats and the like.
    """
    from hpc_srct.settings.preprocessing import PreprocessingSettings
    from hpc_srct.workflows.inspect import inspect as look

    settings = load(PreprocessingSettings, config, overrides or ())
    found = look(scan, layout=layout, settings=settings, ranks=ranks)
    if as_json:
        _print_json(found.to_json())
    else:
        console.out.print(found)


@app.command(epilog="Example:  mpiexec -n 2 srct preprocess scan.h5 -o stores/scan views=1/6")
def preprocess(
    scan: Annotated[Path, typer.Argument(metavar="SCAN", help="Raw scan: DXchange or NXtomo.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="STORE", help="Folder to write.")],
    overrides: Overrides = None,
    config: Config = None,
    centres: Annotated[
        str | None,
        typer.Option(
            "--try-centres",
            metavar="FIRST:LAST:STEP",
            help="Only draw one slice with several rotation centres, as STORE.png.",
        ),
    ] = None,
) -> None:
    """Reconstruct a scan, low-dose and in full, into a slice store; alone or on MPI ranks."""
    from hpc_srct.preprocessing import preprocess as run
    from hpc_srct.preprocessing import try_centres
    from hpc_srct.settings.preprocessing import PreprocessingSettings

    with _ranks_together() as ranks:
        settings = load(PreprocessingSettings, config, overrides or ())
        if centres is not None:
            if ranks.rank == 0:
                console.say(f"{try_centres(scan, out, centres, settings)}: contact sheet written.")
            return
        run(scan, out, settings, ranks)
        console.say(f"{out}: slice store complete.", rank=ranks.rank)


# The demo writes that file.
@app.command(
    epilog="Example:  srct train demo/settings/unet-O0-0.yaml epochs=20 --run-dir runs/unet"
)
def train(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml")],
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Run folder; default runs/NAME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
) -> None:
    """Train a network with DeepSpeed; alone, under `deepspeed`, or under `srun`."""
    from hpc_srct.settings.experiment import ExperimentSettings
    from hpc_srct.training import train as run

    settings = load(ExperimentSettings, experiment, overrides or ())
    run(settings, run_dir or Path("runs") / settings.name, resume)


@app.command(epilog="Example:  srct enhance stores/scan --model runs/unet -o stores/enhanced")
def enhance(
    source: Annotated[Path, typer.Argument(metavar="STORE_OR_SCAN")],
    model: Annotated[
        Path, typer.Option("--model", metavar="RUN_OR_FILE", help="Run folder or .safetensors.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="Folder to write.")],
    overrides: Overrides = None,
    config: Config = None,
    tiff: Annotated[Path | None, typer.Option("--tiff", metavar="DIR", help="Export TIFF.")] = None,
    bits: Annotated[int | None, typer.Option("--bits", help="TIFF: 32 (default), 16, 8.")] = None,
    per_metre: Annotated[
        bool, typer.Option("--per-metre", help="TIFF in attenuation per metre.")
    ] = False,
    precision: Annotated[str, typer.Option("--precision", help="O0, bf16 or O2.")] = "O0",
    tile: Annotated[int | None, typer.Option("--tile", help="Tile edge in pixels.")] = None,
) -> None:
    """Turn a low-dose reconstruction into one that looks fully measured."""
    from hpc_srct.settings.preprocessing import PreprocessingSettings
    from hpc_srct.workflows.reconstruct import reconstruct

    with _ranks_together() as ranks:
        reconstruct(
            source,
            model,
            out,
            ranks,
            preprocessing=load(PreprocessingSettings, config, overrides or ()),
            precision=precision,
            tile=tile,
            tiff=tiff,
            bits=bits,
            per_metre=per_metre,
        )
        console.say(f"{out}: enhanced volume complete.", rank=ranks.rank)


@app.command(epilog="Example:  srct evaluate runs/unet runs/resattunet --store stores/test")
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...")],
    store: Annotated[
        list[Path] | None, typer.Option("--store", help="Slice store; default the run's tests.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder for the table.")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="Whose stores, without --store: train, validation or test."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Judge against truth or full.")
    ] = None,
    slices: Annotated[
        int | None, typer.Option("--slices", min=1, help="At most so many slices of each store.")
    ] = None,
    precision: Annotated[str, typer.Option("--precision", help="O0, bf16 or O2.")] = "O0",
    as_json: AsJson = False,
) -> None:
    """PSNR and SSIM of trained networks beside the classical methods, and what they cost."""
    from hpc_srct.workflows.evaluate import evaluate as judge

    result = judge(
        runs,
        store,
        out=out,
        roles=role,
        reference=reference,
        slices=slices,
        precision=precision,
    )
    if as_json:
        _print_json(result.to_json())
    else:
        console.out.print(result)


@app.command(epilog="Example:  srct sweep configs/sweeps/talk.yaml --site my-site.yaml")
def sweep(
    settings: Annotated[Path, typer.Argument(metavar="SWEEP.yaml")],
    overrides: Overrides = None,
    site: Annotated[
        Path | None, typer.Option("--site", metavar="FILE", help="Site profile of the cluster.")
    ] = None,
    cluster: Annotated[
        Cluster, typer.Option("--cluster", help="Where the runs go.")
    ] = Cluster.slurm,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs and the sbatch text; do nothing.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Watch until all runs have ended.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show where the runs are.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Submit failed runs again.")
    ] = False,
) -> None:
    """Many runs from one file, as one Slurm array or on this machine, and one table."""
    from hpc_srct.sweeps.command import run_sweep

    run_sweep(
        settings,
        overrides or (),
        site=site,
        cluster=cluster.value,
        dry_run=dry_run,
        wait=wait,
        show_status=status,
        retry_failed=retry_failed,
    )


@app.command(epilog="Example:  srct scripts -o .")
def scripts(
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Copy them into DIR.")
    ] = None,
) -> None:
    """Say where the scripts of the doors are (slurm/, launch/), or copy them."""
    from hpc_srct.sweeps.scripts import FOLDERS, copy_scripts, scripts_folder

    for folder in copy_scripts(out) if out else map(scripts_folder, FOLDERS):
        console.say(str(folder))


@app.command(epilog="Example:  srct study configs/tooth.yaml scans.test=scan.h5 -o tooth")
def study(
    settings: Annotated[Path, typer.Argument(metavar="STUDY.yaml")],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder; default its name.")
    ] = None,
) -> None:
    """A whole experiment from one file: scans, stores, runs, table and picture."""
    from hpc_srct.settings.study import StudySettings
    from hpc_srct.workflows.study import run_study

    wanted = load(StudySettings, settings, overrides or ())
    console.out.print(run_study(wanted, out or Path(wanted.name)))


@app.command(epilog="Example:  srct demo -o demo")
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR")] = Path("demo"),
) -> None:
    """The whole road on simulated scans: minutes on a laptop."""
    from hpc_srct.settings.study import StudySettings
    from hpc_srct.workflows.study import run_study

    console.out.print(run_study(load(StudySettings, configs_folder() / "demo.yaml"), out))


def _exit_code(error: BaseException) -> int:
    if isinstance(error, SrctError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _report(error: BaseException) -> int:
    """Print an error as its user should see it; give the exit code."""
    if isinstance(error, SrctError):
        # One that stopped says so in its own words.
        word, style = ("", "yellow") if isinstance(error, Stopped) else ("error: ", "red")
        console.err.print(f"{word}{error}", style=style, markup=False)
    elif isinstance(error, KeyboardInterrupt):
        console.err.print("interrupted", style="yellow")
    else:
        first_line = (str(error).splitlines() or [""])[0]
        console.err.print(
            f"error: {type(error).__name__}: {first_line}\n"
            "This is a fault of the program or the machine; --debug shows where.",
            style="red",
            markup=False,
        )
    return _exit_code(error)


def _without_launcher_words(words: list[str]) -> tuple[list[str], bool]:
    """Take out what launchers add: deepspeed puts ``--local_rank=N`` before the command."""
    kept, debug = [], False
    for word in words:
        if word.startswith(("--local_rank=", "--local-rank=")):
            os.environ.setdefault("LOCAL_RANK", word.partition("=")[2])
        elif word == "--debug":
            debug = True
        else:
            kept.append(word)
    return kept, debug


def main() -> None:
    """Run one command and exit with its code."""
    words, debug = _without_launcher_words(sys.argv[1:])
    try:
        app(args=words, prog_name="srct")
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        sys.exit(_report(error))
