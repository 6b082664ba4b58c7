"""What a table says: networks against classical rows, one precision against another."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hpc_srct.evaluation.tables import Column, Entry, Table, plain
from hpc_srct.workflows import baselines as classical
from hpc_srct.workflows.runs import Run

# Rounding in fp32 alone gives 140 dB: slices above this equal their reference.
EQUAL_DB = 120.0


@dataclass(frozen=True)
class Gain:
    """A network against the best post-processing row of a column, in PSNR and in SSIM.

    `over_psnr` and `over_ssim` name the row that is best in each. `psnr` is NaN where one of the
    two equals the reference.
    """

    method: str
    column: Column
    psnr: float
    ssim: float
    over_psnr: str
    over_ssim: str

    @property
    def is_number(self) -> bool:
        return math.isfinite(self.psnr) and math.isfinite(self.ssim)

    def sentence(self) -> str:
        return (
            f"{self.method} on {self.column.title}: {self.psnr:+.2f} dB over {self.over_psnr},"
            f" {self.ssim:+.4f} SSIM over {self.over_ssim} (the best post-processing rows)."
        )

    def to_json(self) -> dict[str, Any]:
        """Give plain values; what is not a number is null."""
        values = {key: plain(value) for key, value in asdict(self).items() if key != "column"}
        return {**asdict(self.column), **values}


def gains_of(table: Table, networks: Sequence[str]) -> list[Gain]:
    """Set each network against the best post-processing row of each column."""
    gains = []
    for column in table.columns:
        rows = {m: c for m in table.methods if (c := table.cell(m, column)) is not None}
        over_psnr = classical.best_post_processing({m: c.psnr for m, c in rows.items()})
        over_ssim = classical.best_post_processing({m: c.ssim for m, c in rows.items()})
        if over_psnr is None or over_ssim is None:
            continue
        gains += [
            Gain(
                method,
                column,
                _decibels(rows[method].psnr, rows[over_psnr].psnr),
                rows[method].ssim - rows[over_ssim].ssim,
                over_psnr,
                over_ssim,
            )
            for method in networks
            if method in rows
        ]
    return gains


def _decibels(psnr: float, other: float) -> float:
    return psnr - other if max(psnr, other) < EQUAL_DB else math.nan


def precision_gaps(entries: Sequence[Entry], runs: Sequence[Run]) -> Iterator[str]:
    """Name what another precision than O0 costs, where the same training was run in both.

    Over the seeds that both have: three seeds against one would measure the seeds.
    """
    same: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        matters = {k: v for k, v in run.what_matters().items() if k != "precision"}
        if run.settings and len(run.precisions) == 1:
            key = json.dumps([run.description["architecture"], matters], default=str)
            same.setdefault(key, {}).setdefault(run.precision, []).append(run)
    for by_precision in same.values():
        for precision, others in by_precision.items():
            if precision != "O0" and "O0" in by_precision:
                yield from _gaps(entries, by_precision["O0"], others)


def _gaps(entries: Sequence[Entry], full: Sequence[Run], other: Sequence[Run]) -> Iterator[str]:
    seeds = {run.seed for run in full} & {run.seed for run in other}
    if not seeds:
        return
    methods = full[0].method, other[0].method
    both = Table.of([e for e in entries if e.method in methods and e.seed in seeds])
    which = ", ".join(str(seed) for seed in sorted(seeds, key=str))
    for column in both.columns:
        before, after = (both.cells[method, column] for method in methods)
        psnr, ssim = _decibels(before.psnr, after.psnr), before.ssim - after.ssim
        if math.isfinite(psnr) and math.isfinite(ssim):
            yield (
                f"O0 − {other[0].precision} gap of {methods[0].partition(' (')[0]} on"
                f" {column.title}: {psnr:+.2f} dB, {ssim:+.4f} SSIM (seed {which} of both)."
            )
