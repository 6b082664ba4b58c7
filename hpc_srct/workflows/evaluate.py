"""`srct evaluate`: trained runs and classical methods on the same slices, in one table.

Each run's scores per slice go into its own folder (``evaluation/STORE.csv``), or beside the table
where that cannot be written; the table and the pictures into the output folder.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Group, RenderableType
from rich.text import Text

from hpc_srct import console
from hpc_srct.enhancement import Enhancer
from hpc_srct.enhancement.fit import check_fit
from hpc_srct.errors import MachineError
from hpc_srct.evaluation import figures, metrics
from hpc_srct.evaluation.metrics import Scores
from hpc_srct.evaluation.tables import Entry, Table
from hpc_srct.files import write_json, write_text
from hpc_srct.slices import SliceStore
from hpc_srct.workflows import baselines as classical
from hpc_srct.workflows.baselines import Baselines, Source
from hpc_srct.workflows.comparisons import Gain, gains_of, precision_gaps
from hpc_srct.workflows.costs import Costs, costs_of
from hpc_srct.workflows.judged import Judged, judged_slices, leaks
from hpc_srct.workflows.runs import Run, distinct_names, open_runs

FOLDER = "evaluation"
# What a network gains on slices that it, or the choice of it, has seen is not worth a sentence.
LEARNED = ("training", "validation")
# Networks beside input and label; more would be too small to see, and precisions look alike.
MOST_DRAWN = 4


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. Prints as a table; `to_json` is for scripts.

    Attributes
    ----------
    table : Table
    entries : list of Entry
        The scores of every slice.
    gains : list of Gain
        Each network against the best of the four post-processing rows.
    baselines : Baselines
        The tuned classical methods.
    costs : Costs or None
        Time and memory of the trainings, where their folders tell.
    pictures, files : list of Path
        What was drawn, what was written.
    """

    table: Table
    entries: list[Entry]
    gains: list[Gain]
    baselines: Baselines
    costs: Costs | None = None
    pictures: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def __rich__(self) -> RenderableType:
        told = (gain for gain in self.gains if gain.column.dataset not in LEARNED)
        lines = [gain.sentence() for gain in told if gain.is_number]
        lines += [f"picture: {path}" for path in self.pictures]
        lines += [f"written: {path}" for path in self.files]
        costs = [] if self.costs is None else [self.costs]
        return Group(self.table.rich(), *costs, Text("\n".join(lines)))

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return {
            **self.table.json(),
            "gains": [gain.to_json() for gain in self.gains],
            "costs": None if self.costs is None else self.costs.to_json(),
            "baselines": self.baselines.to_json(),
            "pictures": [str(path) for path in self.pictures],
            "files": [str(path) for path in self.files],
        }


def evaluate(
    runs: Sequence[Path | str],
    store: Sequence[Path | str] | Path | str | None = None,
    *,
    out: Path | str | None = None,
    roles: Sequence[str] | None = None,
    tune_on: Sequence[Path | str] | None = None,
    reference: str | None = None,
    slices: int | None = None,
    precision: str = "O0",
    device: str | None = None,
) -> Evaluation:
    """Judge trained runs beside the classical methods.

    Parameters
    ----------
    runs
        Run folders, or ``.safetensors`` files. Runs that differ by their seed alone become one
        row: mean ± spread.
    store
        Slice stores to judge on; default those that the runs' settings name for `roles`.
    out
        Folder for the table and the pictures; default ``evaluation`` in the first run's folder.
    roles
        Which of ``train``, ``validation``, ``test`` to judge on, where `store` is not given;
        default ``test``.
    tune_on
        Stores that tune the classical methods, against what the first run learned from (its
        label) where they have it; default the runs' validation stores.
    reference
        ``truth`` or ``full``; by default the truth where a store has one.
    slices
        At most so many slices of each store, evenly spread; default all.
    precision, device
        See `Enhancer`.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        A run that has not ended, no stores to judge on, a store without a reference or with
        slices that a network does not know, an option that would have no effect.
    """
    found = open_runs(runs)
    data = judged_slices(found, store, roles, reference, slices)
    for part in data:
        for run in found:
            check_fit(part.store, run.description, run.path)
    for sentence in leaks(found, data):
        console.warn(sentence)
    out = Path(out) if out is not None else found[0].folder / FOLDER
    tuned = _tuned(found, tune_on, reference, out)

    entries: list[Entry] = []
    pictures: list[Path] = []
    count = sum(len(d.index) * (len(found) + len(tuned.names(Source(d.store)))) for d in data)
    with console.progress("evaluate", count) as steps:
        for part in data:
            entries += _classical_entries(part, tuned, steps)
            outputs: dict[str, np.ndarray] = {}
            shown = _shown_slice(part)
            for run in found:
                enhancer = Enhancer.from_file(run.model, precision, device)
                entries += _network_entries(part, run, enhancer, steps)
                if run.method not in outputs and shown is not None:
                    low = part.store.read(enhancer.description.get("input", "low"), shown)
                    outputs[run.method] = enhancer.enhance(low, part.store.scale)
            if shown is not None:
                pictures.append(_picture(part, shown, drawn(found, outputs), out))
    notes = [tuned.sentence(), f"Networks ran in {precision}."]
    methods = [*classical.NAMES, *dict.fromkeys(run.method for run in found)]
    table = Table.of(entries, methods=methods, notes=notes)
    table.notes.extend(precision_gaps(entries, found))
    gains = gains_of(table, methods[len(classical.NAMES) :])
    costs = costs_of(found)
    files = _write(table, entries, found, data, out) + (costs.write(out) if costs else [])
    result = Evaluation(table, entries, gains, tuned, costs, pictures, files)
    write_json(out / "table.json", result.to_json())
    return result


def _tuned(
    runs: Sequence[Run],
    given: Sequence[Path | str] | None,
    reference: str | None,
    out: Path,
) -> Baselines:
    """Tune the classical methods, or take what the same stores gave before."""
    if given is None:
        paths = list(dict.fromkeys(path for run in runs for path in run.stores("validation")))
        there = [path for path in paths if (path / "slices.h5").is_file()]
        for path in paths:
            if path not in there:
                console.warn(f"{path}: no such slice store; the classical rows are tuned without.")
    else:
        there = [Path(path) for path in given]
    stores = [SliceStore(path) for path in there]
    # Networks and classical methods are to have had the same aim.
    label = runs[0].description.get("label")
    if reference is None and stores and all(label in store.names for store in stores):
        reference = label
    record = out / "baselines.json"
    key = json.loads(
        json.dumps(
            {
                "stores": [[s.provenance, s.rows.tolist(), s.scale] for s in stores],
                "reference": reference,
                "methods": {n: [m.start, m.ratio] for n, m in classical.METHODS.items()},
                "tv_iterations": classical.TV_ITERATIONS,
            },
            default=str,
        )
    )
    if record.is_file():
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
            if before["key"] == key:
                return Baselines.from_json(before["baselines"])
        except (ValueError, KeyError, TypeError):
            console.warn(f"{record}: is damaged; tuning again.")
    tuned = classical.tune(stores, reference)
    write_json(record, {"baselines": tuned.to_json(), "key": key})
    return tuned


def _scored(image: np.ndarray, label: np.ndarray, mask: np.ndarray) -> Scores:
    """Score a slice; one that cannot be (missing values, nothing in it) has NaN."""
    if not np.isfinite(label[mask]).all() or metrics.data_range(label, mask) <= 0:
        return Scores(float("nan"), float("nan"))
    return metrics.score(image, label, mask)


def _classical_entries(part: Judged, tuned: Baselines, steps: console.Steps) -> Iterator[Entry]:
    source = Source(part.store)
    # Pairs, because two slices ride in one transform; as many as there are threads.
    chunk = 2 * torch.get_num_threads()
    for name in tuned.names(source):
        for first in range(0, len(part.index), chunk):
            index = part.index[first : first + chunk]
            images = tuned.apply(name, source, index)
            labels = part.store.read(part.reference, index)
            for number, image, label in zip(index, images, labels, strict=True):
                yield _entry(part, name, int(number), _scored(image, label, part.mask))
                steps.advance(note=f"{name} on {part.name}")


def _network_entries(
    part: Judged, run: Run, enhancer: Enhancer, steps: console.Steps
) -> Iterator[Entry]:
    name = enhancer.description.get("input", "low")
    for number in part.index:
        image = enhancer.enhance(part.store.read(name, int(number)), part.store.scale)
        label = part.store.read(part.reference, int(number))
        scores = _scored(image, label, part.mask)
        yield _entry(part, run.method, int(number), scores, run.seed)
        steps.advance(note=f"{run.method} on {part.name}")


def _entry(
    part: Judged, method: str, number: int, scores: Scores, seed: int | None = None
) -> Entry:
    row = int(part.store.rows[number])
    return Entry(method, part.dataset, part.reference, f"{part.name}:{row}", scores, seed)


def _shown_slice(part: Judged) -> int | None:
    """Choose the slice to draw: the one nearest the middle that is whole."""
    if part.role != "test":
        return None
    middle = part.index[np.argsort(np.abs(part.index - np.median(part.index)), kind="stable")]
    for number in middle:
        label = part.store.read(part.reference, int(number))
        low = part.store.read("low", int(number))
        if np.isfinite(low).all() and np.isfinite(_scored(low, label, part.mask).ssim):
            return int(number)
    return None


def drawn(runs: Sequence[Run], outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Choose what is drawn: all, or of many networks each in its first precision alone."""
    if len(outputs) <= MOST_DRAWN:
        return dict(outputs)
    first: dict[str, str] = {}
    for run in runs:
        first.setdefault(run.method.replace(f" ({run.precision})", "", 1), run.method)
    return {method: outputs[method] for method in first.values() if method in outputs}


def _picture(part: Judged, number: int, outputs: dict[str, np.ndarray], out: Path) -> Path:
    label = part.store.read(part.reference, number)
    settings = part.store.provenance.get("settings") or {}
    window = (settings.get("low_filter") or settings.get("filter") or "").replace("hann", "Hann")
    images = {f"input (FBP, {window})" if window else "input": part.store.read("low", number)}
    # The precision stands in the title only where it tells two networks apart.
    short = [method.partition(" (")[0] for method in outputs]
    titles = short if len(set(short)) == len(short) else list(outputs)
    images |= dict(zip(titles, outputs.values(), strict=True))
    views = part.store.provenance.get("views") or {}
    dose = f", {len(views['low'])} of {views['scan']} views" if views else ""
    what = {"truth": "label: truth of the simulation", "full": "label: FBP of all views"}
    figure = figures.panel(
        images,
        label,
        part.field_of_view,
        label_name="label",
        mask=part.mask,
        caption=f"{part.name}, row {part.store.rows[number]}{dose}; {what[part.reference]};"
        " one grey scale",
    )
    return figures.save(figure, out / f"panel-{part.name}.png")


def _write(
    table: Table,
    entries: Sequence[Entry],
    runs: Sequence[Run],
    data: Sequence[Judged],
    out: Path,
) -> list[Path]:
    written = [out / "table.md", out / "table.csv", out / "table.json"]
    write_text(written[0], table.markdown())
    write_text(written[1], table.csv())
    names = distinct_names([run.folder for run in runs])
    for run, name in zip(runs, names, strict=True):
        for part in data:
            path, text = run.folder / FOLDER / f"{part.name}.csv", _per_slice(part, run, entries)
            try:
                write_text(path, text)
            except MachineError as error:
                # Models are shared from places that only few may write to.
                path = out / name / path.name
                console.warn(f"{error}\nThese scores go into {path}.")
                write_text(path, text)
            written.append(path)
    return written


def _per_slice(part: Judged, run: Run, entries: Sequence[Entry]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "seed", "store", "row", "reference", "psnr_db", "ssim"])
    for entry in entries:
        store, _, row = entry.slice.rpartition(":")
        if store != part.name or entry.reference != part.reference:
            continue
        if entry.method in classical.NAMES or (entry.method, entry.seed) == (run.method, run.seed):
            seed = "" if entry.seed is None else entry.seed
            scores = (f"{entry.scores.psnr:.6g}", f"{entry.scores.ssim:.6g}")
            writer.writerow([entry.method, seed, store, row, entry.reference, *scores])
    return text.getvalue()
