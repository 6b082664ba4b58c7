"""The tables of `gpu.py`: costs beside the talk's, enhancement, and what was left out."""

from __future__ import annotations

from typing import Any

from gpu_cells import EPOCH_STEPS
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]

# What O2 saved against O0 in the talk, on 1200² slices.
TALK = {
    "resattunet": {"memory": 0.3201, "time": 0.4220},
    "unet": {"memory": 0.2016, "time": 0.3584},
}
AIM = {"memory": 0.45, "time": 0.60}
TITLES = {"unet": "UNet", "resattunet": "ResAttUnet"}


def options(row: Row) -> str:
    """Say what a cell of training has that the talk's has not."""
    named = []
    if row["checkpointing"]:
        named.append("checkpointing")
    if row["compile"]:
        named.append("compiled")
    if row["channels_last"] != "auto":
        named.append("channels last" if row["channels_last"] else "channels first")
    return ", ".join(named)


def add_savings(rows: list[Row]) -> None:
    """Add to each measured row what it saves against O0 of the same network and size.

    Checkpointing is compared with checkpointing, where O0 has it; all else with O0 as it is.
    """
    measured = [row for row in rows if row["kind"] == "training" and "step_s" in row]
    for row in measured:
        base = _base(row, measured)
        if base is None or base is row:
            continue
        row["saved"] = {
            "memory": 1 - row["peak_memory_bytes"] / base["peak_memory_bytes"],
            "time": 1 - row["step_s"] / base["step_s"],
        }
        row["saved_against"] = f"O0{', checkpointing' if base['checkpointing'] else ''}"


def _base(row: Row, measured: list[Row]) -> Row | None:
    def of(checkpointing: bool) -> Row | None:
        for other in measured:
            same = all(other[key] == row[key] for key in ("model", "size"))
            plain = not other["compile"] and other["channels_last"] == "auto"
            if (
                same
                and plain
                and other["precision"] == "O0"
                and other["checkpointing"] == checkpointing
            ):
                return other
        return None

    if row["checkpointing"]:
        return of(True) if row["precision"] != "O0" else of(False)
    return of(False)


def costs(rows: list[Row]) -> Table:
    """Make the talk's cost table."""
    table = Table(title="Training: whole slices, one in a step")
    for name in ("network", "size", "precision", "options", "peak, MiB", "s/step", "s/epoch"):
        table.add_column(name)
    for name in ("memory saved", "time saved", "talk, at 1200²"):
        table.add_column(name)
    for row in rows:
        if row["kind"] != "training":
            continue
        start = [TITLES[row["model"]], f"{row['size']}²", row["precision"], options(row)]
        if "step_s" not in row:
            table.add_row(*start, "left out")
            continue
        saved = row.get("saved")
        talk = ""
        if row["precision"] == "O2" and not options(row):
            figures = TALK[row["model"]]
            talk = f"{figures['memory']:.2%}, {figures['time']:.2%}"
        table.add_row(
            *start,
            f"{row['peak_memory_bytes'] / 2**20:.0f}",
            f"{row['step_s']:.4f}",
            f"{row['epoch_s']:.1f}",
            f"{saved['memory']:.1%}" if saved else "",
            f"{saved['time']:.1%}" if saved else "",
            talk,
        )
    return table


def enhancement(rows: list[Row]) -> Table:
    """Make the table of enhancement."""
    table = Table(title="Enhancement: whole slices, one at a time")
    for name in ("network", "size", "precision", "slices/s", "against O0, dB"):
        table.add_column(name)
    for row in rows:
        for found in row.get("rows", ()):
            start = [TITLES[row["model"]], f"{row['size']}²", found["precision"]]
            if "left_out" in found:
                table.add_row(*start, f"left out: {found['left_out']}")
                continue
            difference = found.get("difference_db")
            table.add_row(
                *start,
                f"{found['slices_per_s']:.3g}",
                "" if difference is None else f"{difference:+.4f}",
            )
    return table


def verdict(rows: list[Row]) -> list[str]:
    """Say whether ResAttUnet in O2 reaches the aim, at each size."""
    said = []
    for row in rows:
        if row["kind"] != "training" or options(row) or "saved" not in row:
            continue
        if row["model"] == "resattunet" and row["precision"] == "O2":
            for key, aim in AIM.items():
                word = "reached" if row["saved"][key] >= aim else "missed"
                said.append(
                    f"ResAttUnet O2 at {row['size']}²: {key} saved {row['saved'][key]:.1%}, aim "
                    f"{aim:.0%} {word} (talk: {TALK['resattunet'][key]:.2%})."
                )
    return said


def notes(rows: list[Row], facts: Row) -> list[str]:
    """Say how the figures were made, and what is missing."""
    said = []
    if facts["reduced"]:
        said.append(
            "REDUCED FORM, no GPU: tiny networks and slices on a CPU, half precision emulated; "
            "peak memory is the process's. The figures mean nothing."
        )
    steps = [row["steps"] for row in rows if "steps" in row]
    if steps:
        said.append(
            f"Time of a step: median of {min(steps)} to {max(steps)} steps; an epoch is "
            f"{EPOCH_STEPS} of them, extrapolated where fewer were taken; reading and validation "
            "not counted. Peak memory: of the allocator, after the first steps. O0 is without TF32."
        )
    for row in rows:
        if "left_out" in row:
            about = [TITLES[row["model"]], f"{row['size']}²", row.get("precision", row["kind"])]
            if row["kind"] == "training" and options(row):
                about.append(f"({options(row)})")
            said.append(f"Left out: {' '.join(about)}: {row['left_out']}.")
    return said


def show(rows: list[Row], facts: Row) -> None:
    """Print everything."""
    console = Console(width=130, highlight=False)
    console.print(costs(rows))
    console.print(enhancement(rows))
    for line in [*verdict(rows), *notes(rows, facts)]:
        console.print(line, soft_wrap=True, markup=False)
