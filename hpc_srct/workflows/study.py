"""A whole experiment from one file: scans → stores → runs → table and picture.

Every step is a command that a user could type, run as a process of its own; a step whose
result is there is done, so that a study that was stopped goes on where it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from hpc_srct import console
from hpc_srct.errors import InputError
from hpc_srct.files import write_text
from hpc_srct.models import files
from hpc_srct.settings import load
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.settings.simulation import SimulationSettings
from hpc_srct.settings.study import StudySettings
from hpc_srct.training import run_folder
from hpc_srct.workflows.evaluate import Evaluation, evaluate
from hpc_srct.workflows.feasible import check_study, named_scans
from hpc_srct.workflows.programs import run, signals_passed_on

RECORD = "study.yaml"


@signals_passed_on()
def run_study(settings: StudySettings, out: Path) -> Evaluation:
    """Do what is missing of a study in folder `out`, and evaluate its runs.

    Parameters
    ----------
    settings
        What to do.
    out
        Folder: ``scans/``, ``stores/``, ``runs/``, ``settings/`` (a file for each command),
        and the table and picture.

    Returns
    -------
    Evaluation
        The table of all runs beside the classical methods.

    Raises
    ------
    InputError
        The folder holds another study, or something else; settings that a later step would
        refuse.
    MachineError
        A precision that this machine has not.
    """
    start = time.monotonic()
    _refuse_another(settings, out)
    wanted, scans = experiments(settings, out), named_scans(settings)
    check_study(
        settings,
        to_begin=[run for run in wanted if not _began(run, out)],
        to_train=[run for run in wanted if not _ended(run, out)],
        to_reconstruct=[name for name in scans if not _complete(name, out)],
    )
    if (out / RECORD).exists():
        console.say(f"{out}: going on with what is there.")
    write_text(out / RECORD, yaml.safe_dump(settings.dump(), sort_keys=False))
    for name in settings.scans:
        if name in scans:
            _reconstructed(name, settings, out)
        else:
            console.say(f"scans.{name}: left out, experiment names it in no role.")
    runs = _all_trained(wanted, settings.parallel, out)
    result = evaluate(runs, out=out, roles=settings.evaluate, slices=settings.slices)
    console.say(f"{settings.name}: done in {time.monotonic() - start:.0f} s.")
    return result


def experiments(settings: StudySettings, out: Path) -> list[ExperimentSettings]:
    """Spell out the runs: every model in every precision with every seed."""
    shared = settings.experiment
    stores = {
        role: tuple(
            str(_store(name, out)) if name in settings.scans else name
            for name in getattr(shared, role)
        )
        for role in ("train", "validation", "test")
    }
    return [
        shared.model_copy(
            update={
                **stores,
                "name": f"{model}-{precision}-{seed}",
                "model": shared.model.model_copy(update={"name": model}),
                "precision": precision,
                "seed": seed,
            }
        )
        for model in settings.models
        for precision in settings.precisions
        for seed in settings.seeds_of(precision)
    ]


def _store(name: str, out: Path) -> Path:
    return out / "stores" / name


def _complete(name: str, out: Path) -> bool:
    return (_store(name, out) / "slices.h5").exists()


def _folder(run: ExperimentSettings, out: Path) -> Path:
    return out / "runs" / run.name


def _began(run: ExperimentSettings, out: Path) -> bool:
    return (_folder(run, out) / run_folder.SETTINGS).exists()


def _ended(run: ExperimentSettings, out: Path) -> bool:
    return (_folder(run, out) / files.NAME).exists()


def _refuse_another(settings: StudySettings, out: Path) -> None:
    record = out / RECORD
    if record.exists():
        # As settings, not as text: a key that a newer version added stands at its default.
        found = load(StudySettings, record).differences(settings)
        if found:
            more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
            raise InputError(
                f"{record}: this folder holds a study with other settings: {found[0]}{more}.\n"
                "Choose another folder (-o) or remove this one."
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and holds no study; choose another folder (-o).")


def _settings_file(name: str, tree: dict, out: Path) -> Path:
    path = out / "settings" / f"{name}.yaml"
    write_text(path, yaml.safe_dump(tree, sort_keys=False))
    return path


def _reconstructed(name: str, settings: StudySettings, out: Path) -> None:
    if _complete(name, out):
        return
    scan = settings.scans[name]
    raw = Path(scan) if isinstance(scan, str) else out / "scans" / f"{name}.h5"
    if isinstance(scan, SimulationSettings) and not raw.exists():
        run(["simulate", raw, "-c", _settings_file(name, scan.dump(), out)])
    how = _settings_file("preprocessing", settings.preprocessing.dump(), out)
    run(
        ["preprocess", raw, "-o", _store(name, out), "-c", how],
        ranks=settings.ranks,
        environment={"OMP_NUM_THREADS": "1"},
    )


def _all_trained(runs: list[ExperimentSettings], parallel: int, out: Path) -> list[Path]:
    """Train what is not trained yet, so many at once; what was begun is finished first."""
    if parallel == 1:
        return [_trained(experiment, out) for experiment in runs]
    share = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // parallel))}
    with ThreadPoolExecutor(parallel) as pool:
        begun = [pool.submit(_trained, run, out, run.name, share) for run in runs]
        try:
            return [future.result() for future in begun]
        except BaseException as error:
            # None is begun any more; those that run end. Ctrl-C has reached them too: they save,
            # and what they say of it stands above.
            pool.shutdown(cancel_futures=True)
            ended = (future.exception() for future in begun if not future.cancelled())
            raise next((own for own in ended if own is not None), error) from None


def _trained(
    experiment: ExperimentSettings,
    out: Path,
    label: str = "",
    environment: Mapping[str, str] | None = None,
) -> Path:
    folder = _folder(experiment, out)
    if _ended(experiment, out):
        run_folder.judge_on(folder, experiment.absolute().test)
        return folder
    words = ["train", _settings_file(experiment.name, experiment.dump(), out)]
    words += ["--run-dir", folder] + (["--resume"] if _began(experiment, out) else [])
    run(words, label=label, environment=environment)
    return folder
