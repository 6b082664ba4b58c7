"""`torch.compile` in training: the same steps, the same files, and words where it cannot be.

Most tests take a backend that runs the compiled graphs without generating code: it needs no
compiler, and its arithmetic is that of the network as it is.
"""

from __future__ import annotations

import math

import pytest
import torch
from training.test_loop import stop_after
from training.test_precision import spoil
from training.tiny_runs import figures, lines, same, tiny

from hpc_srct.enhancement import Enhancer
from hpc_srct.errors import MachineError, Stopped
from hpc_srct.models.files import load_model, load_weights
from hpc_srct.training import compilation, run_folder, selfcheck, train


@pytest.fixture
def graphs_alone(monkeypatch):
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")


@pytest.mark.parametrize(
    ("name", "precision", "checkpointing"),
    [("resattunet", "O0", True), ("unet", "O2", True), ("unet", "bf16", False)],
)
def test_a_compiled_run_is_the_run(
    stores, tmp_path, graphs_alone, capfd, name, precision, checkpointing
):
    model = {"name": name, "width": 2, "depth": 1}
    settings = {"precision": precision, "model": model, "epochs": 2}
    train(tiny(stores, **settings), tmp_path / "plain")
    compiled = tiny(stores, **settings, compile=True, activation_checkpointing=checkpointing)
    train(compiled, tmp_path / "compiled")
    assert f"self-check: {precision}, compiled, agrees with O0 at applied" in capfd.readouterr().out
    # Weights, batch norm's statistics, names, every step: nothing tells the two apart.
    same(tmp_path / "plain", tmp_path / "compiled")


def test_what_is_compiled_is_stopped_resumed_and_used_as_any_other(stores, tmp_path, monkeypatch):
    """With the code that torch.compile generates."""
    settings = tiny(stores, compile=True, epochs=2)
    train(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(Stopped):
            train(settings, tmp_path / "broken")
    train(settings, tmp_path / "broken", resume=True)
    same(tmp_path / "whole", tmp_path / "broken")

    train(tiny(stores, epochs=2), tmp_path / "plain")
    for one, other in zip(lines(tmp_path / "whole"), lines(tmp_path / "plain"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    assert load_weights(tmp_path / "whole")[0].keys() == load_weights(tmp_path / "plain")[0].keys()
    module, _ = load_model(tmp_path / "whole")
    image = torch.randn(37, 41).numpy()
    assert Enhancer.from_file(tmp_path / "whole", device="cpu").enhance(image, 1.0).shape == (
        37,
        41,
    )
    assert not module.training


def test_it_may_be_switched_on_resume(stores, tmp_path, graphs_alone, capfd):
    train(tiny(stores), tmp_path / "plain")
    train(tiny(stores, epochs=1, compile=True), tmp_path / "run")
    train(tiny(stores), tmp_path / "run", resume=True)
    assert "changed on resume: compile: True → False" in capfd.readouterr().out
    assert figures(tmp_path / "plain") == figures(tmp_path / "run")


def test_a_run_from_before_a_setting_was_there_goes_on(stores, tmp_path):
    settings = tiny(stores, epochs=1)
    train(settings, tmp_path / "run")
    file = tmp_path / "run" / "settings.yaml"
    text = file.read_text()
    assert "self_check: true\n" in text and "channels_last: auto\n" in text
    file.write_text(text.replace("channels_last: auto\n", ""))
    assert run_folder.check_settings(tmp_path / "run", settings) == []


def test_a_layer_that_is_not_finite_is_found_in_a_compiled_run(
    stores, tmp_path, graphs_alone, monkeypatch
):
    spoil(monkeypatch, "encoder.1.first.0.weight", math.nan, after=2)
    with pytest.raises(MachineError, match=r"First not finite: the output of encoder\.1\.first\.0"):
        train(tiny(stores, compile=True, self_check=False), tmp_path / "run")


def test_the_self_check_catches_what_is_compiled_wrongly(stores, tmp_path, monkeypatch):
    def wrong(graph: torch.fx.GraphModule, _inputs: list) -> object:
        return lambda *values: [1.1 * value for value in graph(*values)]

    monkeypatch.setattr(compilation, "BACKEND", wrong)
    with pytest.raises(MachineError, match=r"O0, compiled, does not agree .*\n.*compile=false"):
        train(tiny(stores, compile=True), tmp_path / "run")
    assert selfcheck.TOLERANCE["O0"]["loss"] < selfcheck.TOLERANCE["O2"]["loss"]


def test_without_a_compiler_one_line_says_so(stores, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MachineError) as refusal:
        train(tiny(stores, compile=True), tmp_path / "run")
    assert "needs a C++ compiler on a CPU, and 'no-such-compiler' is not here" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_a_compiler_that_fails_is_told_in_one_line(stores, tmp_path, monkeypatch):
    def broken(_graph: torch.fx.GraphModule, _inputs: list) -> object:
        raise RuntimeError("Cannot find a working triton installation\nand much more")

    monkeypatch.setattr(compilation, "BACKEND", broken)
    with pytest.raises(MachineError) as refusal:
        train(tiny(stores, compile=True), tmp_path / "run")
    assert "torch.compile failed on this machine" in str(refusal.value)
    assert "triton" in str(refusal.value) and "\n" not in str(refusal.value)
