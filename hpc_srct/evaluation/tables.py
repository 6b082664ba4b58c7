"""Scores of many methods, slices and seeds as one table: for the eye, Markdown, CSV and JSON.

A column is a data set together with what it is compared with. A truth and a full-view FBP
never share one, because the FBP has noise of its own.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table as RichTable

from hpc_srct.errors import InputError
from hpc_srct.evaluation.metrics import REFERENCES, Scores, convention, mean_scores

MARKS = {"truth": "vs truth", "full": "vs full-view FBP"}


@dataclass(frozen=True)
class Entry:
    """The scores of one slice: by which method and seed, on which data, against what."""

    method: str
    dataset: str
    reference: str
    slice: int | str
    scores: Scores
    seed: int | None = None


@dataclass(frozen=True)
class Cell:
    """One method on one column.

    Mean over slices, then over seeds; spread: standard deviation over seeds (n - 1), None for
    a single seed; `left_out`: slices with NaN that no mean counts, summed over seeds.
    """

    psnr: float
    ssim: float
    psnr_spread: float | None
    ssim_spread: float | None
    slices: int
    seeds: int
    left_out: int


@dataclass(frozen=True)
class Column:
    """A data set and what it is compared with."""

    dataset: str
    reference: str

    @property
    def title(self) -> str:
        return f"{self.dataset} ({MARKS.get(self.reference, 'vs ' + self.reference)})"


@dataclass(frozen=True)
class Table:
    """Methods by columns. `notes` are printed below, with the convention."""

    methods: list[str]
    columns: list[Column]
    cells: dict[tuple[str, Column], Cell]
    notes: list[str] = field(default_factory=list)
    title: str = "PSNR (dB) and SSIM"

    @classmethod
    def of(
        cls,
        entries: Iterable[Entry],
        *,
        methods: Sequence[str] = (),
        notes: Sequence[str] = (),
        title: str = "PSNR (dB) and SSIM",
    ) -> Table:
        """Average entries into a table.

        Parameters
        ----------
        entries
            Scores per slice; every entry of one method, column and seed must be of another
            slice.
        methods
            Order of the rows; methods not named follow in order of appearance.
        notes
            Sentences to print below the table.

        Raises
        ------
        InputError
            No entries, or the same slice was scored twice for one method and seed.
        """
        groups: dict[tuple[str, Column], dict[int | None, dict[int | str, Scores]]] = {}
        for entry in entries:
            key = (entry.method, Column(entry.dataset, entry.reference))
            slices = groups.setdefault(key, {}).setdefault(entry.seed, {})
            if entry.slice in slices:
                raise InputError(
                    f"{entry.method} on {entry.dataset}: slice {entry.slice} was scored twice"
                    f" for seed {entry.seed}; two runs of one seed, or two data sets of one name?"
                )
            slices[entry.slice] = entry.scores
        if not groups:
            raise InputError("A table needs at least one slice with scores; found none.")
        seen = list(dict.fromkeys(method for method, _ in groups))
        rows = [m for m in methods if m in seen] + [m for m in seen if m not in methods]
        columns = list(dict.fromkeys(column for _, column in groups))
        cells = {key: _cell(by_seed) for key, by_seed in groups.items()}
        return cls(rows, columns, cells, list(notes), title)

    def cell(self, method: str, column: Column) -> Cell | None:
        """Give one cell, or None where the method was not run on that data."""
        return self.cells.get((method, column))

    def best(self, column: Column, among: Sequence[str] | None = None) -> str | None:
        """Name the method with the highest PSNR in a column, of all or `among` some."""
        names = [
            m
            for m in (self.methods if among is None else among)
            if (cell := self.cell(m, column)) is not None and not math.isnan(cell.psnr)
        ]
        return max(names, key=lambda m: self.cells[m, column].psnr, default=None)

    def footnotes(self) -> list[str]:
        """Give what must stand below the table: the convention, spread and slices left out."""
        references = dict.fromkeys(column.reference for column in self.columns)
        lines = [convention()]
        lines += [f"'{MARKS[r]}': compared with {REFERENCES[r]}." for r in references if r in MARKS]
        if any(cell.seeds > 1 for cell in self.cells.values()):
            lines.append("±: standard deviation over seeds.")
        for (method, column), cell in self.cells.items():
            if cell.left_out:
                lines.append(
                    f"{method} on {column.dataset}: {cell.left_out} slice(s) without a score"
                    " (missing values or an empty reference) left out."
                )
        return lines + self.notes

    def rich(self) -> RichTable:
        """Lay the table out for a terminal; the best PSNR and SSIM of a column are bold."""
        table = RichTable(title=escape(self.title), caption=escape("\n".join(self.footnotes())))
        table.caption_justify = "left"
        table.add_column("", no_wrap=True)
        rows = self._texts()
        widths = [max((len(row[i][0]) for row in rows), default=0) for i in range(len(rows[0]))]
        heads = [f"{what}\n{c.title}" for c in self.columns for what in ("PSNR", "SSIM")]
        for head, width in zip(heads, widths[1:], strict=True):
            table.add_column(escape(head), justify="right", min_width=width)
        for row in rows:
            table.add_row(*(f"[bold]{escape(t)}[/bold]" if best else escape(t) for t, best in row))
        return table

    def markdown(self) -> str:
        """Write the table in Markdown, its footnotes below as a list."""
        heads = [""] + [f"{what} {c.title}" for c in self.columns for what in ("PSNR", "SSIM")]
        lines = [_pipe(heads), "|:--|" + "--:|" * (len(heads) - 1)]
        lines += [_pipe(f"**{t}**" if best else t for t, best in row) for row in self._texts()]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.footnotes())]) + "\n"

    def csv(self) -> str:
        """Write one line per method and column, with a header; no footnotes."""
        text = io.StringIO()
        names = ["method", "dataset", "reference", *Cell.__dataclass_fields__]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        for record in self._records():
            writer.writerow({k: "" if v is None else v for k, v in record.items()})
        return text.getvalue()

    def json(self) -> dict[str, Any]:
        """Give plain values for JSON; what is not a number is null."""
        return {
            "title": self.title,
            "convention": convention(),
            "columns": [asdict(column) for column in self.columns],
            "methods": self.methods,
            "rows": list(self._records()),
            "notes": self.footnotes()[1:],
        }

    def _records(self) -> Iterable[dict[str, Any]]:
        for method in self.methods:
            for column in self.columns:
                if (cell := self.cell(method, column)) is not None:
                    values = {k: plain(v) for k, v in asdict(cell).items()}
                    yield {"method": method, **asdict(column), **values}

    def _texts(self) -> list[list[tuple[str, bool]]]:
        rows: list[list[tuple[str, bool]]] = [[(method, False)] for method in self.methods]
        for column in self.columns:
            cells = [self.cell(method, column) for method in self.methods]
            for name, digits in (("psnr", 2), ("ssim", 4)):
                texts = [_number(cell, name, digits) for cell in cells]
                means = [getattr(cell, name) if cell else -math.inf for cell in cells]
                top = max((m for m in means if not math.isnan(m)), default=-math.inf)
                for row, text, mean in zip(rows, texts, means, strict=True):
                    row.append((text, len(rows) > 1 and mean == top > -math.inf))
        return rows


def plain(value: Any) -> Any:
    """Give a value that JSON knows: null for what is not a finite number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(by_seed: dict[int | None, dict[int | str, Scores]]) -> Cell:
    means = [mean_scores(slices.values()) for slices in by_seed.values()]
    psnrs, ssims = [m.psnr for m, _ in means], [m.ssim for m, _ in means]
    several = len(means) > 1
    return Cell(
        psnr=float(np.mean(psnrs)),
        ssim=float(np.mean(ssims)),
        psnr_spread=float(np.std(psnrs, ddof=1)) if several else None,
        ssim_spread=float(np.std(ssims, ddof=1)) if several else None,
        slices=max(len(slices) for slices in by_seed.values()),
        seeds=len(means),
        left_out=sum(missing for _, missing in means),
    )


def _number(cell: Cell | None, name: str, digits: int) -> str:
    if cell is None or math.isnan(getattr(cell, name)):
        return "–"
    spread = getattr(cell, f"{name}_spread")
    plus_minus = "" if spread is None else f" ± {spread:.{digits}f}"
    return f"{getattr(cell, name):.{digits}f}{plus_minus}"


def _pipe(texts: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
