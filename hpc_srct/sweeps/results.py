"""What a sweep found: a row for each run, or for each setting over its seeds; the best marked."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from hpc_srct.sweeps.ledger import EVALUATION, Ledger
from hpc_srct.sweeps.status import Status

SEED = "seed"
PRECISION = "precision"
EPOCHS = "epochs"
COSTS = ("training time (s)", "peak memory (MiB)")


@dataclass(frozen=True)
class Row:
    """A run, or the runs that differ by their seed alone.

    `figures` has a value for each column, `spread` the standard deviation over `seeds` runs.
    """

    values: dict[str, str]
    state: str
    figures: dict[str, float]
    spread: dict[str, float]
    seeds: int = 1
    name: str = ""


@dataclass(frozen=True)
class Results:
    """The table of a sweep.

    Attributes
    ----------
    keys
        The settings that vary.
    columns
        The figures, by name with unit.
    rows
        In the order of the sweep.
    best
        For each column the best rows' numbers.
    """

    keys: list[str]
    columns: list[str]
    rows: list[Row]
    best: dict[str, list[int]]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Results:
        """Make a table of rows; the best of a column is the highest, of costs the lowest."""
        keys = list(dict.fromkeys(key for row in rows for key in row.values))
        columns = list(dict.fromkeys(name for row in rows for name in row.figures))
        best = {}
        for column in columns:
            known = {i: r.figures[column] for i, r in enumerate(rows) if column in r.figures}
            if len(rows) > 1 and known and column != EPOCHS:
                wanted = (min if column in COSTS else max)(known.values())
                best[column] = [i for i, value in known.items() if value == wanted]
        return cls(keys, columns, list(rows), best)

    def over_seeds(self) -> Results:
        """Average the runs that differ by their seed alone; costs gain savings against O0."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            plain = {key: value for key, value in row.values.items() if key != SEED}
            groups.setdefault(json.dumps(plain), []).append(row)
        return Results.of(_with_savings([_averaged(group) for group in groups.values()]))

    def cell(self, number: int, column: str) -> str:
        """Write one figure, with its spread where there are several seeds."""
        row = self.rows[number]
        value = row.figures.get(column)
        if value is None:
            return ""
        digits = _digits(column)
        spread = row.spread.get(column)
        return f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")

    @property
    def _has_states(self) -> bool:
        """Runs that have all ended, and are only compared, have none."""
        return any(row.state for row in self.rows)

    def _header(self) -> list[str]:
        return [*self.keys, *(["state"] if self._has_states else []), *self.columns]

    def _words(self, number: int) -> list[str]:
        row = self.rows[number]
        states = [row.state] if self._has_states else []
        return [*(row.values.get(key, "") for key in self.keys), *states]

    def markdown(self) -> str:
        """Write the table as Markdown; the best figures are bold."""
        head = self._header()
        lines = [_line(head), _line(["---"] * len(self._words(0)) + ["---:"] * len(self.columns))]
        for number in range(len(self.rows)):
            figures = [self._marked(number, column, "**", "**") for column in self.columns]
            lines.append(_line([*map(_plain, self._words(number)), *figures]))
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Write the table as CSV; the last column names the figures in which a row is best."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        spread = [c for c in self.columns if any(c in row.spread for row in self.rows)]
        writer.writerow(["run", *self._header(), *(f"± {c}" for c in spread), "best in"])
        for number, row in enumerate(self.rows):
            best = [column for column, rows in self.best.items() if number in rows]
            figures = [row.figures.get(column, "") for column in self.columns]
            spreads = [row.spread.get(column, "") for column in spread]
            words = [row.name, *self._words(number)]
            writer.writerow([*words, *figures, *spreads, "; ".join(best)])
        return text.getvalue()

    def rich(self, title: str = "") -> Table:
        """Lay the table out for a terminal; the best figures are bold."""
        table = Table(title=title)
        for word in self._header()[: len(self._words(0))] if self.rows else ():
            table.add_column(escape(word))
        for column in self.columns:
            head = column.replace(", ", ",\n").replace(" (", "\n(")
            table.add_column(escape(head), justify="right")
        for number in range(len(self.rows)):
            figures = [self._marked(number, column, "[bold]", "[/bold]") for column in self.columns]
            table.add_row(*map(escape, self._words(number)), *figures)
        return table

    def _marked(self, number: int, column: str, before: str, after: str) -> str:
        text = self.cell(number, column)
        return f"{before}{text}{after}" if number in self.best.get(column, ()) else text


def collect(statuses: Sequence[Status], ledger: Ledger) -> Results:
    """Read what the runs of a sweep left behind. One that failed has a row too."""
    return Results.of(
        [
            Row(
                {key: str(value) for key, value in status.values.items()},
                status.state.value,
                figures_of(ledger.run_folder(status.name)),
                {},
                name=status.name,
            )
            for status in statuses
        ]
    )


def figures_of(run: Path) -> dict[str, float]:
    """Read a run's figures: epochs, best validation, scores by store, what it cost.

    PSNR in dB, time in seconds of the steps alone, memory of rank 0.
    """
    epochs, memory, seconds, steps = 0, 0, 0.0, 0
    best = -math.inf
    for line in _lines(run / "metrics.jsonl"):
        if line.get("kind") == "validation" and line.get("psnr") is not None:
            best = max(best, line["psnr"])
        elif line.get("kind") == "step":
            epochs = max(epochs, line.get("epoch") or 0)
            memory = max(memory, line.get("peak_memory_bytes") or 0)
            seconds += line.get("step_s") or 0.0
            steps += 1
    figures: dict[str, float] = {}
    if math.isfinite(best):
        figures["best validation PSNR (dB)"] = best
    figures |= _scores(run / EVALUATION)
    if steps:
        figures |= {
            EPOCHS: epochs,
            "training time (s)": seconds,
            "peak memory (MiB)": memory / 2**20,
        }
    return figures


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    try:
        with open(path, encoding="utf-8") as handle:
            for line in handle:
                try:
                    found.append(json.loads(line))
                except ValueError:  # being written
                    continue
    except OSError:
        return []
    return [line for line in found if isinstance(line, dict)]


def _scores(folder: Path) -> dict[str, float]:
    """Average a run's scores per slice, as `srct evaluate` writes them beside it."""
    figures: dict[str, float] = {}
    for path in sorted(folder.glob("*.csv")):
        scores: dict[str, list[tuple[float, float]]] = {}
        with open(path, encoding="utf-8", newline="") as handle:
            for line in csv.DictReader(handle):
                try:
                    pair = float(line["psnr_db"]), float(line["ssim"])
                    if line["seed"] and math.isfinite(pair[0]):  # classical rows have no seed
                        scores.setdefault(f"{line['store']} vs {line['reference']}", []).append(
                            pair
                        )
                except (KeyError, ValueError, TypeError):
                    continue
        for title, pairs in scores.items():
            figures[f"PSNR (dB), {title}"] = statistics.fmean(p for p, _ in pairs)
            figures[f"SSIM, {title}"] = statistics.fmean(s for _, s in pairs)
    return figures


def _averaged(rows: Sequence[Row]) -> Row:
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    known = {name: [row.figures[name] for row in rows if name in row.figures] for name in names}
    states = dict.fromkeys(row.state for row in rows)
    counted = [(sum(row.state == state for row in rows), state) for state in states if state]
    return Row(
        {key: value for key, value in rows[0].values.items() if key != SEED},
        ", ".join(f"{count} {state}" for count, state in counted),
        {name: statistics.fmean(values) for name, values in known.items()},
        {name: statistics.stdev(values) for name, values in known.items() if len(values) > 1},
        len(rows),
    )


def _with_savings(rows: Sequence[Row]) -> list[Row]:
    """Add what a precision saves against the O0 row of otherwise the same settings, in percent."""

    def others(row: Row) -> str:
        return json.dumps({k: v for k, v in row.values.items() if k != PRECISION})

    full = {others(row): row for row in rows if row.values.get(PRECISION) == "O0"}
    result = []
    for row in rows:
        against = full.get(others(row))
        saved = {}
        if against is not None and against is not row:
            for column in COSTS:
                before, after = against.figures.get(column), row.figures.get(column)
                if before and after is not None:
                    word = column.partition(" (")[0]
                    saved[f"{word} saved (%)"] = 100 * (1 - after / before)
        result.append(
            Row(row.values, row.state, {**row.figures, **saved}, row.spread, row.seeds, row.name)
        )
    return result


def _digits(column: str) -> int:
    return 4 if column.startswith("SSIM") else 0 if column == EPOCHS else 2


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _line(words: Sequence[str]) -> str:
    return "| " + " | ".join(words) + " |"
