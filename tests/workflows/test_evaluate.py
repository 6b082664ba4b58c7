"""Runs beside classical rows: the input's own figures, seeds averaged, references kept apart."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from hpc_srct import console
from hpc_srct.errors import InputError
from hpc_srct.evaluation.metrics import Scores
from hpc_srct.evaluation.tables import Column, Entry, Table
from hpc_srct.models import build
from hpc_srct.models.files import load_model, save_model
from hpc_srct.workflows import evaluate as workflow
from hpc_srct.workflows.baselines import NAMES, RAMP
from hpc_srct.workflows.comparisons import gains_of
from hpc_srct.workflows.costs import costs_of
from hpc_srct.workflows.evaluate import evaluate
from hpc_srct.workflows.runs import distinct_names, open_runs


def offset(by: float) -> torch.nn.Module:
    """A network that adds a constant."""
    module = build("unet", 2, 1)
    with torch.no_grad():
        module.last.bias.fill_(by)
    return module.eval()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluated") / "out"


@pytest.fixture(scope="module")
def result(make_run, out):
    runs = [make_run("a"), make_run("b", architecture="resattunet")]
    return evaluate(runs, out=out, device="cpu")


def test_a_network_that_does_nothing_scores_as_its_input(result):
    column = Column("test", "truth")
    assert result.table.columns == [column]
    for method in ("UNet (O0)", "ResAttUnet (O0)"):
        ours, plain = result.table.cell(method, column), result.table.cell(RAMP, column)
        assert ours.psnr == pytest.approx(plain.psnr, abs=1e-4)
        assert ours.ssim == pytest.approx(plain.ssim, abs=1e-5)


def test_all_classical_rows_stand_above_the_networks(result):
    assert result.table.methods == [*NAMES, "UNet (O0)", "ResAttUnet (O0)"]


def test_gains_are_over_the_best_post_processing_row(result):
    gain = result.gains[0]
    column = Column("test", "truth")
    best = max(result.table.cell(name, column).psnr for name in NAMES[:4])
    assert gain.method == "UNet (O0)" and gain.over_psnr in NAMES[1:4]
    assert gain.psnr == pytest.approx(result.table.cell("UNet (O0)", column).psnr - best)
    assert gain.psnr < 0 and f"{gain.psnr:+.2f} dB over {gain.over_psnr}" in gain.sentence()


def test_per_slice_files_lie_in_the_runs(result):
    for name, method in (("a", "UNet (O0)"), ("b", "ResAttUnet (O0)")):
        (path,) = (p for p in result.files if p.parts[-3:] == (name, "evaluation", "test.csv"))
        rows = list(csv.DictReader(path.open()))
        assert {row["method"] for row in rows} == {*NAMES, method}
        own = [row for row in rows if row["method"] == method]
        assert [int(row["row"]) for row in own] == [0, 1, 2, 3]
        assert {row["seed"] for row in own} == {"0"} and {r["reference"] for r in own} == {"truth"}
        mean = np.mean([float(row["psnr_db"]) for row in own])
        assert mean == pytest.approx(
            result.table.cell(method, Column("test", "truth")).psnr, abs=1e-3
        )


def test_table_and_picture_are_written(result, out):
    assert (out / "table.md").read_text() == result.table.markdown()
    plain = json.loads((out / "table.json").read_text())
    assert plain == json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert set(plain["baselines"]["parameters"]) == set(NAMES)
    assert plain["gains"][0]["over_psnr"] in NAMES[1:4]
    assert result.pictures == [out / "panel-test.png"]
    assert imread(result.pictures[0]).std() > 0.1
    notes = " ".join(plain["notes"])
    assert "tuned by PSNR on 4 validation slices of validation (against truth)" in notes
    assert "Networks ran in O0" in notes


def test_it_prints_with_convention_gains_and_paths(result, capsys):
    console.out.print(result)
    text = " ".join(capsys.readouterr().out.split())
    for words in ("data range = maximum", "TV reconstruction", "over", "panel-test.png"):
        assert words in text


def test_runs_that_differ_by_seed_alone_are_averaged(make_run, tmp_path, test_store):
    runs = [make_run(f"s{seed}", offset(0.02 * seed), seed=seed) for seed in (0, 1, 2)]
    found = evaluate(runs, tune_on=[], device="cpu")
    assert found.table.methods == [RAMP, "UNet (O0)"]
    column = Column("test", "truth")
    cell = found.table.cell("UNet (O0)", column)
    alone = [
        evaluate([run], tune_on=[], out=tmp_path / "alone", device="cpu").table.cell(
            "UNet (O0)", column
        )
        for run in runs
    ]
    psnrs = [single.psnr for single in alone]
    assert len(set(psnrs)) == 3 and cell.seeds == 3
    assert cell.psnr == pytest.approx(np.mean(psnrs))
    assert cell.psnr_spread == pytest.approx(np.std(psnrs, ddof=1))


def test_rows_are_named_by_the_settings_that_differ(make_run):
    runs = [make_run("a"), make_run("b", loss="l1", seed=1), make_run("c", loss="mse", seed=2)]
    runs += [make_run("d", precision="bf16", time_limit=60.0)]
    assert [run.method for run in open_runs(runs)] == [
        "UNet (O0), loss=None",
        "UNet (O0), loss=l1",
        "UNet (O0), loss=mse",
        "UNet (bf16)",
    ]
    seeds = [make_run("e", seed=5, epochs=9), make_run("f", seed=6, epochs=9)]
    assert [run.method for run in open_runs(seeds)] == ["UNet (O0)"] * 2


def test_experiments_whose_folders_have_one_name_are_not_averaged(make_run):
    long = "stores/" + "a" * 60
    runs = [make_run("unet"), make_run("unet", seed=1, train=[long])]
    first, second = (run.method for run in open_runs(runs))
    assert first != second
    assert first.endswith("-unet") and second.endswith("-unet")


def test_two_runs_of_one_seed_are_refused(make_run):
    with pytest.raises(InputError, match="has the settings and the seed .0. of"):
        open_runs([make_run("a"), make_run("again")])


def test_the_precision_gap_is_named(make_run):
    runs = [make_run("o0", seed=0), make_run("half", offset(0.05), seed=0, precision="bf16")]
    found = evaluate(runs, tune_on=[], device="cpu")
    full, half = (
        found.table.cells[m, Column("test", "truth")] for m in ("UNet (O0)", "UNet (bf16)")
    )
    gap = f"O0 − bf16 gap of UNet on test (vs truth): {full.psnr - half.psnr:+.2f} dB"
    assert any(gap in note for note in found.table.notes)


def test_the_gap_is_over_the_seeds_of_both(make_run):
    runs = [make_run("one", seed=1), make_run("two", offset(0.2), seed=2)]
    runs.append(make_run("half", seed=1, precision="bf16"))
    found = evaluate(runs, tune_on=[], device="cpu")
    (gap,) = (note for note in found.table.notes if "gap" in note)
    assert "+0.00 dB" in gap and "(seed 1 of both)" in gap
    assert found.table.cells["UNet (O0)", Column("test", "truth")].seeds == 2


def with_metrics(run, seconds, mebibytes, emulated=False):
    step = {"kind": "step", "epoch": 1, "step_s": seconds, "peak_memory_bytes": mebibytes * 2**20}
    (run / "metrics.jsonl").write_text(json.dumps(step) + "\n")
    (run / "environment.json").write_text(json.dumps({"starts": [{"emulated": emulated}]}))
    return run


def test_costs_are_averaged_over_seeds_and_savings_are_against_o0(make_run, tmp_path):
    runs = [
        with_metrics(make_run("one", seed=1), 10.0, 300),
        with_metrics(make_run("two", seed=2), 30.0, 300),
        with_metrics(make_run("half", seed=1, precision="O2"), 5.0, 225, emulated=True),
    ]
    costs = costs_of(open_runs(runs))
    full, half = costs.table.rows
    assert full.values == {"network": "UNet", "precision": "O0"}
    assert full.figures["training time (s)"] == 20.0 and full.seeds == 2
    assert half.figures["training time saved (%)"] == pytest.approx(75)
    assert half.figures["peak memory saved (%)"] == pytest.approx(25)
    assert "Emulated" in costs.notes[1] and "O2" in costs.notes[1]
    costs.write(tmp_path)
    text = (tmp_path / "costs.md").read_text()
    assert "| network | precision |" in text and "state" not in text
    assert "20.00 ± 14.14" in text


def test_a_run_that_changed_its_precision_has_no_costs_and_no_gap(make_run):
    runs = [with_metrics(make_run("one"), 10.0, 300)]
    runs.append(with_metrics(make_run("half", precision="O2"), 5.0, 225))
    starts = [{"precision": "O0", "first_step": 1}, {"precision": "O2", "first_step": 4}]
    (runs[1] / "environment.json").write_text(json.dumps({"starts": starts}))
    costs = costs_of(open_runs(runs))
    assert [row.values["precision"] for row in costs.table.rows] == ["O0"]
    assert f"{runs[1]}: trained in O0 then O2" in costs.notes[1]
    found = evaluate(runs, tune_on=[], device="cpu")
    assert not any("gap of" in note for note in found.table.notes)


def test_runs_without_metrics_have_no_costs(result):
    assert result.costs is None


def test_of_many_networks_one_precision_each_is_drawn(make_run):
    runs = open_runs(
        [
            make_run(f"{net}-{precision}", architecture=net, precision=precision)
            for net in ("unet", "resattunet")
            for precision in ("O0", "O2", "bf16")
        ]
    )
    outputs = {run.method: np.zeros(1) for run in runs}
    assert list(workflow.drawn(runs, outputs)) == ["UNet (O0)", "ResAttUnet (O0)"]
    few = {"UNet (O0)": np.zeros(1), "UNet (O2)": np.zeros(1)}
    assert list(workflow.drawn(runs[:2], few)) == list(few)


def test_truth_and_full_view_fbp_stand_in_columns_of_their_own(make_run, make_store, test_store):
    """The same store judged twice, and a store that has no truth."""
    run = make_run("a")
    against_truth = evaluate([run], tune_on=[], device="cpu")
    against_full = evaluate([run], tune_on=[], reference="full", device="cpu")
    (truth,), (full,) = against_truth.table.columns, against_full.table.columns
    assert (truth.reference, full.reference) == ("truth", "full")
    assert "noise of its own" in " ".join(against_full.table.footnotes())
    # Input and full-view FBP share their noise: against it the input looks better.
    cells = (against_truth.table.cell(RAMP, truth), against_full.table.cell(RAMP, full))
    assert cells[0].psnr < cells[1].psnr


def test_given_stores_and_roles(make_run, validation, test_store, tmp_path, capsys):
    run = make_run("a", train=[str(test_store)])
    found = evaluate([run], [validation, test_store], slices=2, tune_on=[], device="cpu")
    assert [c.dataset for c in found.table.columns] == ["validation", "test"]
    assert found.table.cell(RAMP, found.table.columns[0]).slices == 2
    assert "was trained on" in capsys.readouterr().err
    found = evaluate(
        [run], roles=("train", "validation"), slices=1, out=tmp_path / "o", device="cpu"
    )
    assert [c.dataset for c in found.table.columns] == ["training", "validation"]
    assert found.pictures == []


def test_what_was_tuned_is_kept_for_the_next_time(make_run, tmp_path, monkeypatch):
    run = make_run("a")
    first = evaluate([run], slices=1, device="cpu")

    def never(*_):
        raise AssertionError("tuned again")

    monkeypatch.setattr(workflow.classical, "tune", never)
    again = evaluate([run], slices=1, device="cpu")
    assert again.to_json() == first.to_json()
    with pytest.raises(AssertionError, match="tuned again"):
        evaluate([run], slices=1, reference="full", device="cpu")


def test_the_classical_rows_aim_at_what_the_network_learned(make_run):
    """A run whose label is the full-view FBP: tuned against it, unless a reference is named."""
    run = make_run("a", label="full")
    aims = {None: "full", "truth": "truth"}
    for reference, aim in aims.items():
        found = evaluate([run], slices=1, reference=reference, device="cpu")
        assert {slot["reference"] for slot in found.baselines.tuned_on} == {aim}


def test_a_lone_model_file_can_be_judged(make_run, test_store):
    model = make_run("a") / "model.safetensors"
    found = evaluate([model], test_store, device="cpu")
    assert found.table.methods == [RAMP, "UNet (O0)"]
    assert (model.parent / "model" / "evaluation" / "test.csv").is_file()


@pytest.mark.parametrize(
    ("trained_on", "message"),
    [
        ({"low_filter": "hann"}, "with ramp; .* trained on hann"),
        ({"input": "splits/0"}, "no 'splits/0' inside"),
    ],
)
def test_slices_that_a_network_does_not_know_are_refused(make_run, trained_on, message):
    """At once: before the classical rows are tuned."""
    runs = [make_run("a"), make_run("b", seed=1)]
    module, description = load_model(runs[1])
    save_model(module, description | trained_on, runs[1])
    with pytest.raises(InputError, match=message):
        evaluate(runs, device="cpu")
    assert not (runs[0] / "evaluation").exists()


def test_scores_go_beside_the_table_where_the_run_cannot_be_written(make_run, tmp_path, capsys):
    run, out = make_run("shared"), tmp_path / "out"
    # A file in the folder's place: permissions and read-only disks do not stop every tester.
    (run / "evaluation").touch()
    found = evaluate([run], tune_on=[], out=out, slices=1, device="cpu")
    rows = list(csv.DictReader((out / "shared" / "test.csv").open()))
    assert {row["method"] for row in rows} == {RAMP, "UNet (O0)"}
    plain = json.loads((out / "table.json").read_text())
    assert str(out / "shared" / "test.csv") in plain["files"] and plain == found.to_json()
    assert "cannot be written" in capsys.readouterr().err


def test_what_equals_its_reference_gives_no_number(make_run, make_store, capsys):
    """All views in both: the input is its own reference, as in the store that enhance makes."""
    store = make_store("same", {"views": None})
    runs = [make_run("a", offset(0.02)), make_run("b", precision="bf16")]
    found = evaluate(runs, store, reference="full", device="cpu")
    text = (runs[0] / "evaluation" / "table.json").read_text()

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    gains = json.loads(text, parse_constant=refuse)["gains"]
    assert [gain["psnr"] for gain in gains] == [None, None]
    console.out.print(found)
    printed = capsys.readouterr().out
    assert "dB over" not in printed and "gap of" not in printed
    # To the last bit, too.
    scores = {RAMP: Scores(np.inf, 1.0), "UNet": Scores(30.0, 0.9), "ResAttUnet": Scores(np.inf, 1)}
    table = Table.of([Entry(name, "same", "full", 0, score) for name, score in scores.items()])
    for gain in gains_of(table, ["UNet", "ResAttUnet"]):
        assert not gain.is_number and gain.to_json()["psnr"] is None


def test_slices_without_a_number_are_left_out_and_named():
    nan = float("nan")
    entries = [Entry("UNet (O0)", "t", "truth", "t:0", Scores(nan, nan), 0)]
    entries += [Entry("UNet (O0)", "t", "truth", "t:1", Scores(30.0, 0.9), 0)]
    assert any("1 slice(s) without a score" in note for note in Table.of(entries).footnotes())


def test_stores_of_one_name_are_told_apart(tmp_path):
    paths = [tmp_path / "x" / "scan", tmp_path / "y" / "scan" / "slices.h5"]
    assert distinct_names(paths) == ["x-scan", "y-scan"]
    assert distinct_names(paths[:1]) == ["scan"]


def test_what_cannot_be_judged_is_said(make_run, tmp_path, validation):
    run = make_run("a", test=[])
    with pytest.raises(InputError, match="name no test store; give one with --store"):
        evaluate([run], device="cpu")
    with pytest.raises(InputError, match="no such slice store"):
        evaluate([run], tmp_path / "nowhere", device="cpu")
    with pytest.raises(InputError, match="no such model"):
        evaluate([tmp_path / "nothing"], validation, device="cpu")
    with pytest.raises(InputError, match="give at least one run"):
        evaluate([], device="cpu")
    with pytest.raises(InputError, match="role 'exam': unknown"):
        evaluate([run], roles=["exam"], device="cpu")
    with pytest.raises(InputError, match="--role: has no effect on the stores given"):
        evaluate([run], validation, roles=["train"], device="cpu")
    for array in ("low", "enhanced"):
        with pytest.raises(InputError, match=f"expected truth or full; found '{array}'"):
            evaluate([run], validation, reference=array, device="cpu")
