"""What of a study can be refused before its first scan is simulated: hours lie behind that."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from hpc_srct.errors import InputError
from hpc_srct.preprocessing.run import opened
from hpc_srct.settings.experiment import ROLES, ExperimentSettings
from hpc_srct.settings.simulation import SimulationSettings
from hpc_srct.settings.study import StudySettings
from hpc_srct.slices import SliceStore
from hpc_srct.slices.tiles import TileSampler
from hpc_srct.training import parts
from hpc_srct.training.data import PairedSlices
from hpc_srct.workflows.judged import reference_of

# What preprocessing makes of a scan; the truth only of one that was simulated.
VOLUMES = ("low", "full", "truth")
# Roles whose stores hold pairs to learn from.
LEARNED = ("train", "validation")


def named_scans(settings: StudySettings) -> list[str]:
    """List the study's scans that some role names, in the order of the file."""
    names = {name for role in ROLES for name in getattr(settings.experiment, role)}
    return [name for name in settings.scans if name in names]


def check_study(
    settings: StudySettings,
    to_begin: Sequence[ExperimentSettings],
    to_train: Sequence[ExperimentSettings],
    to_reconstruct: Collection[str],
) -> None:
    """Refuse what would fail in a later step of a study; nothing is written.

    Parameters
    ----------
    settings
        The study.
    to_begin, to_train
        Its runs that have not begun; those that have not ended.
    to_reconstruct
        Its scans that have no store yet.

    Raises
    ------
    InputError
        A name that nothing has, a file or store that is not there or does not fit.
    MachineError
        A precision that this machine has not.
    """
    shared = settings.experiment
    if not any(getattr(shared, role) for role in settings.evaluate):
        roles = " or ".join(settings.evaluate)
        raise InputError(f"evaluate: experiment names no {roles} store to judge on.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for run in to_train:
        parts.check(run, device)
    if shared.init_from is not None:
        for run in to_begin:
            parts.new_module(run.model, shared.init_from)
    _check_volumes(settings)
    for name in to_reconstruct:
        _check_scan(name, settings)
    _check_outside_stores(settings, bool(to_train))


def _check_volumes(settings: StudySettings) -> None:
    shared = settings.experiment
    for key in ("input", "label"):
        volume = getattr(shared, key)
        made = any(name in settings.scans for role in LEARNED for name in getattr(shared, role))
        if made and volume not in VOLUMES:
            raise InputError(
                f"experiment.{key}: a scan's store has {', '.join(VOLUMES)}; found '{volume}'."
            )


def _check_scan(name: str, settings: StudySettings) -> None:
    scan, how, shared = settings.scans[name], settings.preprocessing, settings.experiment
    try:
        if isinstance(scan, SimulationSettings):
            how.chosen_rows(scan.rows // how.binning)
            how.low_views(scan.views)
            columns = len(how.chosen_columns(scan.size)) // how.binning
            first, last = scan.angle_range
            # A full turn may be stitched, to wider slices.
            if name in shared.train and shared.tiles.size and abs(last - first) <= 180:
                TileSampler(scan.rows, (columns, columns), shared.tiles.size)
            return
        raw = opened(scan, how)
        how.low_views(raw.n_views)
    except InputError as error:
        raise InputError(f"scans.{name}: {error}") from error
    learned = any(name in getattr(shared, role) for role in LEARNED)
    if learned and "truth" in (shared.input, shared.label) and raw.truth(slice(0, 1)) is None:
        raise InputError(
            f"scans.{name}: {scan} has no truth to learn from; set experiment.label=full."
        )


def _check_outside_stores(settings: StudySettings, training: bool) -> None:
    shared = settings.experiment
    outside = {
        role: [name for name in getattr(shared, role) if name not in settings.scans]
        for role in ROLES
    }
    if not training:  # nothing is read any more to learn from
        outside = {"test": outside["test"]}
    for role, paths in outside.items():
        for path in paths:
            if not Path(path).exists():
                raise InputError(
                    f"experiment.{role}: '{path}' is no scan of this study "
                    f"({', '.join(settings.scans)}), and there is no slice store of that name."
                )
        if role == "test":
            for path in paths:
                reference_of(SliceStore(path))
        elif paths:
            PairedSlices(paths, shared.input, shared.label, role)
