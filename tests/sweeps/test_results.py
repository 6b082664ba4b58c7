"""The table of a sweep: averages, spreads, savings, the best marked, nothing hidden."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from hpc_srct.sweeps.results import Results, Row, figures_of
from hpc_srct.sweeps.status import State, Status, counts, last_lines, log_tail, table

PSNR, TIME, MEMORY = "best validation PSNR (dB)", "training time (s)", "peak memory (MiB)"


def row(model: str, precision: str, seed: int, psnr: float, time: float, memory: float) -> Row:
    values = {"model.name": model, "precision": precision, "seed": str(seed)}
    return Row(values, "done", {PSNR: psnr, TIME: time, MEMORY: memory}, {}, name=f"{model}-{seed}")


# The talk's own costs: its table says 32.01 % and 42.20 % for ResAttUnet, 20.16 % and 35.84 %.
TALK = [
    row("resattunet", "O0", 1, 29.0, 1401.1953, 7021),
    row("resattunet", "O2", 1, 29.1, 809.8071, 4773),
    row("unet", "O0", 1, 28.0, 953.6296, 5575),
    row("unet", "O2", 1, 28.5, 611.7596, 4451),
]


def test_savings_are_the_talks():
    found = Results.of(TALK).over_seeds()
    saved = [
        (r.figures.get("peak memory saved (%)"), r.figures.get("training time saved (%)"))
        for r in found.rows
    ]
    assert saved[0] == saved[2] == (None, None)
    # 4773 of 7021 is 32.02 %; the talk cut the last digit off.
    assert saved[1] == (pytest.approx(32.01, abs=0.02), pytest.approx(42.20, abs=0.01))
    assert saved[3] == (pytest.approx(20.16, abs=0.01), pytest.approx(35.84, abs=0.011))


def test_seeds_are_averaged_with_their_spread():
    rows = [row("unet", "O0", s, p, 1, 1) for s, p in ((1, 30.0), (2, 31.0), (3, 32.0))]
    found = Results.of([*rows, row("resattunet", "O0", 1, 31.5, 2, 2)]).over_seeds()
    assert [r.seeds for r in found.rows] == [3, 1]
    assert found.cell(0, PSNR) == "31.00 ± 1.00"
    assert found.cell(1, PSNR) == "31.50"
    assert found.keys == ["model.name", "precision"]


def test_the_best_is_marked_the_highest_score_and_the_lowest_cost():
    found = Results.of(TALK)
    lines = found.markdown().splitlines()[2:]
    assert "**29.10**" in lines[1]
    assert "**611.76**" in lines[3]
    assert "**4451.00**" in lines[3]
    assert sum("**" in line for line in lines) == 2
    last = list(csv.DictReader(io.StringIO(found.csv())))
    assert [line["best in"] for line in last] == ["", PSNR, "", f"{TIME}; {MEMORY}"]
    assert float(last[1][PSNR]) == 29.1
    assert last[1]["run"] == "resattunet-1"


def test_equals_are_both_best_and_a_lone_run_is_not():
    two = [row("unet", "O0", s, 30.0, s, 1) for s in (1, 2)]
    assert Results.of(two).best[PSNR] == [0, 1]
    assert Results.of(two[:1]).best == {}


def test_a_failed_run_has_its_row_and_hides_nothing():
    failed = Row({"model.name": "x|y\nz", "seed": "4"}, "failed", {}, {})
    found = Results.of([*TALK, failed])
    assert found.markdown().splitlines()[-1] == "| x\\|y z |  | 4 | failed |  |  |  |"
    rows = list(csv.DictReader(io.StringIO(found.csv())))
    assert rows[-1]["model.name"] == "x|y\nz"
    assert found.best == Results.of(TALK).best
    mixed = Results.of(
        [TALK[0], Row({**TALK[0].values, "seed": "2"}, "failed", {}, {})]
    ).over_seeds()
    assert mixed.rows[0].state == "1 done, 1 failed"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lines = [
        {
            "kind": "step",
            "step": 1,
            "epoch": 1,
            "step_s": 0.5,
            "peak_memory_bytes": 2**20,
            "loss": 2,
        },
        {"kind": "validation", "step": 1, "epoch": 1, "psnr": 30.0},
        {
            "kind": "step",
            "step": 2,
            "epoch": 2,
            "step_s": 1.5,
            "peak_memory_bytes": 2**21,
            "loss": 1,
        },
        {"kind": "validation", "step": 2, "epoch": 2, "psnr": None},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"kind": "step", "st')
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "phantoms.csv").write_text(
        "method,seed,store,row,reference,psnr_db,ssim\n"
        "FBP (ramp),,phantoms,0,truth,10,0.1\n"
        "UNet (O0),1,phantoms,0,truth,30,0.9\n"
        "UNet (O0),1,phantoms,1,truth,32,0.8\n"
        "UNet (O0),1,phantoms,2,truth,nan,nan\n"
    )
    return tmp_path


def test_the_figures_of_a_run(run):
    assert figures_of(run) == {
        "best validation PSNR (dB)": 30.0,
        "PSNR (dB), phantoms vs truth": 31.0,
        "SSIM, phantoms vs truth": pytest.approx(0.85),
        "epochs": 2,
        "training time (s)": 2.0,
        "peak memory (MiB)": 2.0,
    }
    assert figures_of(run / "nothing") == {}


def test_the_last_lines_of_the_metrics(run):
    step, validation = last_lines(run / "metrics.jsonl")
    assert (step["step"], validation["step"]) == (2, 2)
    with open(run / "metrics.jsonl", "a") as log:  # far more than the tail that is read
        log.write("\n" + "".join(f'{{"kind": "step", "step": {i}}}\n' for i in range(3, 9000)))
    step, validation = last_lines(run / "metrics.jsonl")
    assert (step["step"], validation) == (8999, None)
    assert last_lines(run / "none.jsonl") == (None, None)


def test_a_log_that_is_not_there_and_one_in_another_encoding(tmp_path):
    assert log_tail(None) == log_tail(tmp_path / "none") == []
    (tmp_path / "log").write_bytes(b"one\ntwo \xff\n")
    assert log_tail(tmp_path / "log", 1) == ["two \N{REPLACEMENT CHARACTER}"]


def test_the_table_of_states():
    step = {"epoch": 3, "loss": 0.01234, "loss_scale": 65536.0, "time_left_s": 5400.0}
    found = [
        Status("a[b]", {}, State.RUNNING, 65, "7", "RUNNING", 1, step, {"psnr": 31.234}),
        Status("b", {}, State.NEW, 65),
    ]
    shown = table(found, "title")
    cells = [[str(c) for c in column.cells] for column in shown.columns]
    assert cells[2:] == [
        ["3/65", "-/65"],
        ["0.01234", ""],
        ["31.23 dB", ""],
        ["65536", ""],
        ["1.5 h", ""],
    ]
    assert counts(found) == "1 new, 1 running"
