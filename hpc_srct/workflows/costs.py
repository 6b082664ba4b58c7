"""What trainings cost: time and memory, and what a precision saves against O0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from hpc_srct.files import write_text
from hpc_srct.sweeps.results import COSTS, EPOCHS, PRECISION, SEED, Results, Row, figures_of
from hpc_srct.workflows.runs import Run

EMULATED = (
    "Emulated on a CPU (arithmetic in fp32, rounded): {}. Its scores are those of the precision,"
    " its time and memory say nothing of hardware that has it."
)
SWITCHED = "{}: trained in {}; what it cost, and its gap, would be no single precision's."
MEASURED = (
    "Training time: the steps alone, without validation and saving. Peak memory: the device's, or"
    " the whole process's on a CPU."
)


@dataclass(frozen=True)
class Costs:
    """A row for each network and precision, over its seeds; `notes` are printed below."""

    table: Results
    notes: list[str]

    def __rich__(self) -> RenderableType:
        return Group(self.table.rich("Cost of training"), Text("\n".join(self.notes)))

    def markdown(self) -> str:
        """Write the table in Markdown, its notes below as a list."""
        return "\n".join([self.table.markdown(), *(f"- {note}" for note in self.notes)]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        rows = [
            {**row.values, "seeds": row.seeds, **row.figures, "spread": row.spread}
            for row in self.table.rows
        ]
        return {"rows": rows, "notes": self.notes}

    def write(self, folder: Path) -> list[Path]:
        """Write ``costs.md`` and ``costs.csv``."""
        paths = [folder / "costs.md", folder / "costs.csv"]
        write_text(paths[0], self.markdown())
        write_text(paths[1], self.table.csv())
        return paths


def costs_of(runs: Sequence[Run]) -> Costs | None:
    """Read from run folders what the trainings took; None where no folder tells."""
    rows, notes = [], [MEASURED]
    for run in runs:
        if len(run.precisions) > 1:
            notes.append(SWITCHED.format(run.path, " then ".join(run.precisions)))
            continue
        figures = {k: v for k, v in figures_of(run.folder).items() if k in (EPOCHS, *COSTS)}
        if run.settings and figures:
            network = run.method.replace(f" ({run.precision})", "", 1)
            values = {"network": network, PRECISION: run.precision, SEED: str(run.seed)}
            rows.append(Row(values, "", figures, {}, name=run.path.name))
    if not rows:
        return None
    emulated = dict.fromkeys(run.precision for run in runs if _was_emulated(run.folder))
    if emulated:
        notes.append(EMULATED.format(", ".join(emulated)))
    return Costs(Results.of(rows).over_seeds(), notes)


def _was_emulated(folder: Path) -> bool:
    try:
        starts = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["starts"]
        return any(start.get("emulated") for start in starts)
    except (OSError, ValueError, KeyError, AttributeError):
        return False
