"""From a sweep's file to its runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpc_srct.errors import InputError
from hpc_srct.settings.base import from_tree, load
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.settings.sweep import SweepSettings
from hpc_srct.sweeps import Sweep
from hpc_srct.sweeps.grid import Run, expand
from hpc_srct.sweeps.ledger import Ledger


@pytest.fixture
def runs(tmp_path):
    """Expand a sweep over a small experiment."""
    (tmp_path / "exp.yaml").write_text(
        "epochs: 3\ntrain: [stores/a]\nmodel: {width: 8}\noptimizer: {gamma: 0.5}\n"
    )

    def spelled_out(**settings: object) -> list[Run]:
        tree = {"experiment": "exp.yaml", **settings}
        return expand(from_tree(SweepSettings, tree, "sweep.yaml"), tmp_path)

    return spelled_out


def test_a_grid_is_every_combination_in_order(runs):
    found = runs(grid={"model.name": ["unet", "resattunet"], "seed": [1, 2, 3]})
    assert [(r.settings.model.name, r.settings.seed) for r in found] == [
        (name, seed) for name in ("unet", "resattunet") for seed in (1, 2, 3)
    ]
    assert all(r.settings.epochs == 3 and r.settings.model.width == 8 for r in found)
    assert found[0].name.startswith("unet-seed1-")


def test_a_list_names_each_run(runs):
    found = runs(runs=[{"optimizer.learning_rate": 1e-3, "epochs": 5}, {"model.width": 4}])
    rates = [(r.settings.optimizer.learning_rate, r.settings.epochs) for r in found]
    assert rates == [(1e-3, 5), (3e-4, 3)]
    # What a value does not name stays the experiment's.
    assert found[0].settings.optimizer.gamma == 0.5
    assert found[1].settings.model.width == 4


def test_a_list_is_tried_at_every_point_of_a_grid(runs):
    found = runs(grid={"seed": [1, 2]}, runs=[{"epochs": 5}, {"epochs": 6}])
    assert [(r.settings.seed, r.settings.epochs) for r in found] == [(1, 5), (1, 6), (2, 5), (2, 6)]


def test_a_list_counts_more_than_a_grid(runs):
    [run] = runs(grid={"seed": [1]}, runs=[{"seed": 9}])
    assert run.settings.seed == 9


def test_the_experiment_may_stand_in_the_sweep(runs):
    [run] = runs(experiment={"epochs": 9, "model": {"width": 4}}, grid={"seed": [1]})
    assert (run.settings.epochs, run.settings.model.width) == (9, 4)


def test_the_talks_sweep_is_its_models_and_precisions_over_seeds():
    sweep = Sweep.from_file("sweeps/talk.yaml")
    kinds = {(r.settings.model.name, r.settings.precision) for r in sweep.runs}
    assert kinds == {(m, p) for m in ("unet", "resattunet") for p in ("O0", "O2")}
    assert len(sweep.runs) == 12
    recipe = sweep.runs[0].settings
    assert (recipe.epochs, recipe.loss, recipe.optimizer.learning_rate) == (65, "mse", 3e-4)
    assert (recipe.optimizer.step_size, recipe.optimizer.gamma) == (10, 0.95)
    assert sweep.settings.evaluate == ("train", "validation", "test")


def test_values_for_all_runs(runs):
    found = runs(set={"epochs": 7, "model.depth": 2}, grid={"seed": [1, 2]})
    assert {(r.settings.epochs, r.settings.model.depth, r.settings.model.width) for r in found} == {
        (7, 2, 8)
    }


def test_changed_settings_are_another_run_and_the_same_are_the_same(runs):
    before = runs(grid={"seed": [1, 2]})
    assert [r.name for r in runs(grid={"seed": [1, 2]})] == [r.name for r in before]
    after = runs(set={"epochs": 4}, grid={"seed": [1, 2]})
    assert {r.name for r in before}.isdisjoint(r.name for r in after)


def test_stores_are_the_same_from_wherever_it_is_called(runs, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert runs(grid={"seed": [1]})[0].settings.train == (f"{tmp_path}/stores/a",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": {"model.nmae": ["unet"]}}, "unknown key 'model.nmae'; did you mean 'name'"),
        ({"grid": {"epochs": [0]}}, "epochs=0"),
        ({"grid": {"seed": [1, 1]}}, "are the same run"),
        ({"grid": {"seed": []}}, "no values to try"),
        ({}, "nothing to vary"),
        ({"experiment": "missing.yaml", "grid": {"seed": [1]}}, "missing.yaml: no such"),
        ({"name": "a/b", "grid": {"seed": [1]}}, "letters, digits"),
        ({"grdi": {"seed": [1]}}, "did you mean 'grid'"),
    ],
)
def test_refused(runs, settings, message):
    with pytest.raises(InputError) as caught:
        runs(**settings)
    assert message in str(caught.value)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@example(value="\x85")
@settings(deadline=None, max_examples=25)
@given(value=text)
def test_any_value_survives_the_way_through_yaml_and_gives_a_safe_name(value, tmp_path_factory):
    folder = Path(tmp_path_factory.getbasetemp())
    (folder / "exp.yaml").write_text("{}\n")
    sweep = SweepSettings(experiment="exp.yaml", grid={"input": [value]})
    [run] = expand(sweep, folder)
    assert run.settings.input == value
    ledger = Ledger(folder / "sweep")
    ledger.write_settings("run", run.settings)
    assert load(ExperimentSettings, ledger.settings_file("run")) == run.settings
    assert run.name.isascii()
    assert not set(run.name) & set(" /\\'\"$`\n%;&|<>()*?")
    assert run.name[0] not in "-."
