"""The table: means over slices then seeds, columns that never mix references, four forms."""

from __future__ import annotations

import csv
import io
import json

import pytest
from rich.console import Console

from hpc_srct.errors import InputError
from hpc_srct.evaluation.metrics import Scores
from hpc_srct.evaluation.tables import Column, Entry, Table

NAN = float("nan")


@pytest.fixture
def table():
    entries = [Entry("FBP (ramp)", "foam", "truth", i, Scores(20.0 + i, 0.5)) for i in range(2)]
    for seed, shift in ((0, 0.0), (1, 1.0), (2, 2.0)):
        entries += [
            Entry("UNet", "foam", "truth", i, Scores(30.0 + i + shift, 0.9), seed) for i in range(2)
        ]
    entries += [Entry("FBP (ramp)", "tooth", "full", 0, Scores(25.0, 0.7))]
    return Table.of(entries, methods=["FBP (ramp)", "UNet"], notes=["tuned on foam-b"])


def test_mean_over_slices_then_seeds_with_spread(table):
    cell = table.cell("UNet", Column("foam", "truth"))
    assert (cell.psnr, cell.psnr_spread) == (pytest.approx(31.5), pytest.approx(1.0))
    assert (cell.slices, cell.seeds, cell.ssim_spread) == (2, 3, pytest.approx(0.0))
    classical = table.cell("FBP (ramp)", Column("foam", "truth"))
    assert (classical.psnr, classical.psnr_spread) == (20.5, None)
    assert table.cell("UNet", Column("tooth", "full")) is None


def test_truth_and_full_view_fbp_are_never_one_column():
    both = [Entry("FBP", "foam", ref, 0, Scores(20.0, 0.5)) for ref in ("truth", "full")]
    table = Table.of(both)
    assert [c.reference for c in table.columns] == ["truth", "full"]
    titles = [c.title for c in table.columns]
    assert titles == ["foam (vs truth)", "foam (vs full-view FBP)"]
    notes = " ".join(table.footnotes())
    assert "noise of its own" in notes and "truth of the simulation" in notes


def test_best_among_some(table):
    column = Column("foam", "truth")
    assert table.best(column) == "UNet"
    assert table.best(column, among=["FBP (ramp)"]) == "FBP (ramp)"
    assert table.best(column, among=["TV"]) is None


def test_markdown(table):
    text = table.markdown()
    lines = text.splitlines()
    bars = {line.count("|") for line in lines if line.startswith("|")}
    assert bars == {6}
    assert "| UNet | **31.50 ± 1.00** | **0.9000 ± 0.0000** | – | – |" in lines
    assert any(line.startswith("- PSNR and SSIM") for line in lines)
    assert "- tuned on foam-b" in lines


def test_csv_and_json_carry_the_same_values(table):
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    plain = json.loads(json.dumps(table.json(), allow_nan=False))
    assert len(rows) == len(plain["rows"]) == 3
    for row, record in zip(rows, plain["rows"], strict=True):
        assert (row["method"], float(row["psnr"])) == (record["method"], record["psnr"])
    assert "data range" in plain["convention"]


def test_rich_table_shows_convention_and_every_value(table):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table.rich())
    text = " ".join(console.export_text().split())
    for words in ("31.50 ± 1.00", "20.50", "0.7000", "data range", "± 0.0000"):
        assert words in text


def test_brackets_in_names_are_shown():
    datasets = ("st [hann]", "st [/ramp]")
    table = Table.of(
        [Entry("UNet", name, "truth", 0, Scores(30.0, 0.9)) for name in datasets],
        notes=["tuned on [bold]"],
        title="[red]",
    )
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table.rich())
    text = console.export_text()
    for words in (*datasets, "tuned on [bold]", "[red]"):
        assert words in text


def test_slices_without_a_score_are_left_out_and_named():
    table = Table.of(
        [Entry("UNet", "foam", "truth", 0, Scores(30.0, 0.9))]
        + [Entry("UNet", "foam", "truth", 1, Scores(NAN, NAN))]
        + [Entry("TV", "foam", "truth", 0, Scores(NAN, NAN))]
    )
    assert table.cell("UNet", table.columns[0]).psnr == 30.0
    assert any("UNet on foam: 1 slice(s)" in line for line in table.footnotes())
    assert "| TV | – | – |" in table.markdown()
    assert json.dumps(table.json(), allow_nan=False)


def test_a_slice_scored_twice_is_refused():
    twice = [Entry("UNet", "foam", "truth", 4, Scores(30.0, 0.9), 0)] * 2
    with pytest.raises(InputError, match="slice 4 was scored twice"):
        Table.of(twice)


def test_a_table_of_nothing_is_refused():
    with pytest.raises(InputError, match="found none"):
        Table.of([])
