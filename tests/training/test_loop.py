"""A run from its stores to its model, stopped and resumed, in one process."""

from __future__ import annotations

import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training.tiny_runs import lines, make_store, same, tiny

from hpc_srct.errors import InputError, Stopped
from hpc_srct.models.files import load_model
from hpc_srct.training import loop, train


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Raise the stopping flag when that many steps are done, as a signal would."""
    note = loop.Training._note

    def noting(self: loop.Training, *figures: float) -> None:
        note(self, *figures)
        if self.progress.step == step:
            self.stopping.reason = "SIGTERM"

    monkeypatch.setattr(loop.Training, "_note", noting)


@pytest.mark.parametrize("precision", ["O0", "bf16", "O2"])
def test_stopped_and_resumed_mid_epoch_is_the_undisturbed_run(stores, tmp_path, precision):
    settings = tiny(stores, precision=precision, loss_scale={"window": 4})
    train(settings, tmp_path / "whole")

    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(Stopped, match=r"SIGTERM after step 8 \(epoch 2 of 3\)") as stop:
            train(settings, tmp_path / "broken")
    assert stop.value.exit_code == 75
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    # Lines of steps after the checkpoint, as a killed run leaves them, are cut away.
    with open(tmp_path / "broken" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "step": 9, "loss": 1.0}\n{"kind": "st')
    train(settings, tmp_path / "broken", resume=True)

    same(tmp_path / "whole", tmp_path / "broken")
    steps = lines(tmp_path / "whole")
    assert [s["step"] for s in steps] == list(range(1, 19))
    assert [s["lr"] for s in steps] == [3e-3] * 12 + [1.5e-3] * 6
    validations = lines(tmp_path / "whole", "validation")
    assert validations[-1]["psnr"] > validations[0]["psnr"]
    if precision == "O2":
        assert steps[0]["loss_scale"] == 2**16
        assert steps[-1]["loss_scale"] > 2**16  # the window of 4 has passed


def test_the_model_of_the_best_validation_is_given_away(stores, tmp_path):
    before = dict(os.environ)
    train(tiny(stores, tensorboard=True), tmp_path / "run")
    assert {k for k in os.environ.keys() - before.keys() if k != "DS_ACCELERATOR"} == set()
    curves = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    losses = [event.value for event in curves.Scalars("train/loss")]
    assert losses == pytest.approx([s["loss"] for s in lines(tmp_path / "run")])
    train_curves = ("loss", "loss_scale", "overflow", "skipped", "applied", "grad_norm", "lr")
    cost_curves = ("data_wait_s", "slices_per_s", "peak_memory_bytes")
    tags = {f"train/{name}" for name in train_curves} | {f"cost/{name}" for name in cost_curves}
    assert tags | {"validation/loss", "validation/psnr"} == set(curves.Tags()["scalars"])
    for line in lines(tmp_path / "run"):
        assert {*train_curves, *cost_curves} < line.keys()
        assert line["peak_memory_bytes"] > 0 and 0 <= line["data_wait_s"] <= line["step_s"]
    validations = lines(tmp_path / "run", "validation")
    best = max(validations, key=lambda v: v["psnr"])
    module, about = load_model(tmp_path / "run")
    assert about["provenance"]["validation"] == {k: best[k] for k in ("psnr", "loss")}
    assert about["parameters"] == sum(p.numel() for p in module.parameters())
    assert about["normalisation"]["policy"] == "per-scan"
    kept = [p.name for p in (tmp_path / "run" / "checkpoints").glob("best-*.safetensors")]
    assert kept == [f"best-{best['step']:08d}.safetensors"]


def test_a_run_folder_is_not_overwritten_and_nothing_is_not_resumed(stores, tmp_path, capfd):
    settings = tiny(stores, epochs=1)
    with pytest.raises(InputError, match="no such run to resume"):
        train(settings, tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match=r"no settings\.yaml in it"):
        train(settings, tmp_path / "run", resume=True)
    # What a run leaves that is killed while it saves its start: there is nothing to lose.
    (tmp_path / "run" / "checkpoints" / ".step-00000000.part").mkdir(parents=True)
    train(settings, tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="is a run already; continue it with --resume"):
        train(settings, tmp_path / "run")
    # A run that has ended says so by doing nothing more.
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    train(settings, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert "has taken all of its 6 steps (1 epochs)" in capfd.readouterr().out

    with pytest.raises(InputError, match=r"began with tiles\.batch=2; found 4"):
        train(tiny(stores, epochs=1, tiles={"size": 16, "batch": 4}), tmp_path / "run", resume=True)


def test_slices_with_nan_are_named_left_out_and_counted(stores, tmp_path, capfd):
    store = make_store(tmp_path / "spoiled", 4, spoiled=(1, 2))
    settings = tiny((store, stores[1]), epochs=1)
    train(settings, tmp_path / "run")
    told = capfd.readouterr().err
    assert "train: 2 slice(s) with NaN left out" in told
    assert f"{store}: row 101; {store}: row 102" in told
    assert len(lines(tmp_path / "run")) == 2  # two slices, two tiles each, batches of two


def test_a_run_that_goes_on_to_more_epochs_has_no_model_until_its_new_end(stores, tmp_path):
    run = tmp_path / "run"
    train(tiny(stores, epochs=1), run)
    assert load_model(run)[1]["provenance"]["epoch"] == 1
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(Stopped):
            train(tiny(stores, epochs=3), run, resume=True)
    assert not (run / "model.safetensors").exists() and not (run / "model.json").exists()
    # What evaluate, enhance and init_from say of it:
    with pytest.raises(InputError, match="the run has not ended"):
        load_model(run)
    with pytest.raises(InputError, match="the run has not ended"):
        train(tiny(stores, init_from=str(run)), tmp_path / "other")
    train(tiny(stores, epochs=3), run, resume=True)
    train(tiny(stores, epochs=3), tmp_path / "whole")
    same(run, tmp_path / "whole")


def test_fewer_epochs_than_are_done_are_refused(stores, tmp_path):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(Stopped):
            train(tiny(stores), run)
    before = {path: path.read_bytes() for path in run.glob("*.*")}
    with pytest.raises(InputError, match=r"8 steps, 1\.333 epochs\.\nResume with epochs=2 or more"):
        train(tiny(stores, epochs=1), run, resume=True)
    assert {path: path.read_bytes() for path in run.glob("*.*")} == before
    train(tiny(stores, epochs=2), run, resume=True)
    assert lines(run)[-1]["step"] == 12
    with pytest.raises(InputError, match="epochs=2 or more"):
        train(tiny(stores, epochs=1), run, resume=True)
    assert load_model(run)[1]["provenance"]["step"] <= 12


def test_a_time_limit_at_the_end_of_an_epoch_does_not_stop_every_start(stores, tmp_path):
    run, settings = tmp_path / "run", tiny(stores, time_limit=0.001)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 6)  # the last step of the epoch: its validation is still to come
        with pytest.raises(Stopped, match=r"after step 6 \(epoch 1"):
            train(tiny(stores), run)
    # Shorter than a start and a validation: the next start gets past both all the same.
    with pytest.raises(Stopped, match=r"time limit of 0\.001 s after step 7 \(epoch 2"):
        train(settings, run, resume=True)
    assert [line["epoch"] for line in lines(run, "validation")] == [1]
