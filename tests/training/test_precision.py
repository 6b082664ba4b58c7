"""O0, O2 and bf16 through DeepSpeed's own machinery, fp16 emulated on the CPU.

The loss that is scaled is real; the network is small enough for fp16 on a CPU.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from training.tiny_runs import figures, lines, tiny

from hpc_srct.errors import InputError, MachineError
from hpc_srct.models import build
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.training import engine, loop, precision, selfcheck, train
from hpc_srct.training.diagnosis import first_not_finite
from hpc_srct.training.engine import Engine


@pytest.fixture(scope="module")
def where() -> engine.Ranks:
    ranks = engine.start()
    precision.prepare(ExperimentSettings(precision="O2", emulate_fp16=True), ranks.device)
    return ranks


def made(where: engine.Ranks, module: nn.Module, **settings: object) -> Engine:
    """An engine of batch 1."""
    settings = {"precision": "O2", "tiles": {"batch": 1}, "emulate_fp16": True} | settings
    config = precision.deepspeed_config(ExperimentSettings.model_validate(settings), 1, 100)
    return Engine(module, config, where)


class Weight(nn.Module):
    """One weight w; the output is w times the input."""

    def __init__(self, value: float = 1.0):
        super().__init__()
        self.w = nn.Parameter(torch.full((1,), value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w * x


def step(made: Engine, gradient: float) -> None:
    """Take a step whose unscaled gradient with respect to w is `gradient`."""
    output = made.forward(torch.ones(1, 1, 1, 1))
    made.backward((output * gradient).sum())
    made.step()


def test_the_scale_rises_after_a_window_and_falls_with_an_overflow(where):
    scaling = {"initial_power": 8, "window": 3, "hysteresis": 1}
    e = made(where, Weight(), loss_scale=scaling)
    scales = []
    for _ in range(8):
        step(e, 1.0)
        scales.append(e.loss_scale)
    assert scales[0] == 2**8
    assert max(scales) == scales[-1] == 2**10  # twice doubled in eight good steps
    assert e.skipped == 0

    weight, before = e.masters()["w"], e.module.w.detach().clone()
    step(e, 1e4)  # 1e4 · 2¹⁰ is beyond fp16's 65504
    assert e.overflow and not e.applied and e.skipped == 1
    assert e.gradient_norm == math.inf
    assert e.loss_scale == 2**9
    assert torch.equal(e.masters()["w"], weight) and torch.equal(e.module.w, before)
    step(e, 1.0)
    assert e.applied and not torch.equal(e.masters()["w"], weight)


def test_hysteresis_bears_an_overflow_before_the_scale_falls(where):
    e = made(where, Weight(), loss_scale={"initial_power": 8, "hysteresis": 2})
    scales = []
    for _ in range(3):
        step(e, 1e5)
        scales.append(e.loss_scale)
    assert scales == [2**8, 2**7, 2**6]
    assert e.skipped == 3


def test_small_gradients_survive_scaled_and_vanish_without(where):
    gradient = 1e-9  # below fp16's smallest number, 6e-8
    scaled = made(where, Weight(), loss_scale={"initial_power": 16})
    step(scaled, gradient)
    assert scaled.gradient_norm == pytest.approx(gradient, rel=0.05)
    moment = scaled.optimizer.optimizer.state_dict()["state"][0]["exp_avg"]
    assert float(moment.max()) == pytest.approx(0.1 * gradient, rel=0.05)

    bare = made(where, Weight(), loss_scale={"initial_power": 0})
    step(bare, gradient)
    assert bare.gradient_norm == 0.0
    assert torch.equal(bare.masters()["w"], torch.ones(1))


def test_masters_are_fp32_and_keep_what_fp16_would_lose(where):
    value = 1 + 2.0**-13  # fp16 has steps of 2⁻¹⁰ there
    e = made(where, Weight(value), loss_scale={"initial_power": 8})
    assert e.module.w.dtype == torch.float16 and e.module.w.item() == 1.0
    assert float(e.masters()["w"]) == value
    for _ in range(2):  # Adam moves w by its rate, 3e-4, in each
        step(e, 1.0)
    assert float(e.masters()["w"]) == pytest.approx(value - 6e-4, abs=1e-5)


def test_batch_norm_statistics_stay_fp32(where):
    e = made(where, build("resattunet", 2, 1))
    e.module.train()
    loss = e.forward(torch.randn(2, 1, 8, 8)).square().mean()
    e.backward(loss)
    e.step()
    kinds = {name: b.dtype for name, b in e.module.named_buffers() if "running" in name}
    assert set(kinds.values()) == {torch.float32}
    assert {p.dtype for p in e.module.parameters()} == {torch.float16}
    exported = e.state_dict()
    assert {t.dtype for t in exported.values() if t.is_floating_point()} == {torch.float32}


def test_a_gradient_is_the_mean_over_accumulated_micro_batches(where):
    for name in ("O0", "O2"):
        changes = {"optimizer": {"accumulation": 2}, "loss_scale": {"initial_power": 8}}
        e = made(where, Weight(), precision=name, **changes)
        for value in (1.0, 3.0):
            e.backward((e.forward(torch.ones(1, 1, 1, 1)) * value).sum())
            e.step()
        assert e.gradient_norm == pytest.approx(2.0)
        assert e.deepspeed.global_steps == 1


def test_o2_is_refused_on_a_cpu_without_fp16(where, monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_fp16", lambda: False)
    with pytest.raises(MachineError, match="no fp16 arithmetic.*\n.*emulate_fp16=true"):
        precision.prepare(ExperimentSettings(precision="O2"), torch.device("cpu"))


def test_emulation_and_slow_bf16_are_announced(where, monkeypatch, capfd):
    monkeypatch.setattr(precision, "cpu_has_fp16", lambda: False)
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    cpu = torch.device("cpu")
    precision.prepare(ExperimentSettings(precision="O2", emulate_fp16=True), cpu)
    precision.prepare(ExperimentSettings(precision="bf16"), cpu)
    out, err = capfd.readouterr()
    assert "precision O2: fp16 parameters" in out and "precision bf16: bf16 parameters" in out
    assert "EMULATED FP16" in err and "no bf16 arithmetic" in err


def test_a_batch_that_does_not_divide_is_answered():
    settings = ExperimentSettings(tiles={"batch": 4})
    assert precision.deepspeed_config(settings, 2, 10)["train_micro_batch_size_per_gpu"] == 2
    with pytest.raises(InputError, match=r"4 tiles do not divide among 3 ranks.*\n.*batch=3"):
        precision.deepspeed_config(settings, 3, 10)


def spoil(monkeypatch: pytest.MonkeyPatch, name: str, value: float, after: int = 0) -> None:
    """Set one weight of a run's network when `after` steps are done."""
    former = loop.Training._step

    def spoiled(self: loop.Training, micro_batches: list) -> tuple[float, float]:
        if self.progress.step == after:
            weights = self.engine.masters()
            weights[name].fill_(value)
            self.engine.set_masters(weights)
        return former(self, micro_batches)

    monkeypatch.setattr(loop.Training, "_step", spoiled)


def test_at_the_lowest_scale_the_run_stops_and_names_the_first_layer(stores, tmp_path, monkeypatch):
    spoil(monkeypatch, "encoder.1.first.0.weight", 6e4)
    settings = tiny(
        stores,
        precision="O2",
        self_check=False,
        loss_scale={"initial_power": 2, "hysteresis": 1},
    )
    with pytest.raises(MachineError) as stop:
        train(settings, tmp_path / "run")
    told = str(stop.value)
    assert "step 3: gradients overflow at the lowest loss scale, 1" in told
    assert "the last ones: 4, 2, 1" in told
    assert "First not finite: the output of encoder.1.first.0." in told
    steps = lines(tmp_path / "run")
    assert [s["skipped"] for s in steps] == [1, 2]
    assert [s["grad_norm"] for s in steps] == [None, None]  # JSON has no infinity


def test_a_gradient_that_overflows_is_found_where_it_does():
    """Forward all is finite; backward the gradient first overflows fp16 at the second layer."""
    module = nn.Sequential(*(nn.Conv2d(1, 1, 1, bias=False, dtype=torch.float16) for _ in range(3)))
    with torch.no_grad():
        for layer, weight in zip(module, (1.0, 1e3, 1e3), strict=True):
            layer.weight.fill_(weight)
    x = torch.full((1, 1, 1, 1), 1e-3, dtype=torch.float16)

    def loss(scale: float) -> torch.Tensor:
        return scale * module(x).float().sum()

    assert first_not_finite(module, lambda: loss(1e-3)) is None
    found = first_not_finite(module, lambda: loss(50.0))
    assert found == "the gradient at the output of 0"  # 50 · 10³ is finite, times 10³ not


def test_a_loss_that_is_not_finite_stops_an_o0_run(stores, tmp_path, monkeypatch):
    spoil(monkeypatch, "last.bias", math.nan, after=2)
    with pytest.raises(MachineError) as stop:
        train(tiny(stores), tmp_path / "run")
    told = str(stop.value)
    assert "step 3: the loss is not finite" in told
    assert "First not finite: the output of last." in told
    assert len(lines(tmp_path / "run")) == 2


def test_the_self_check_passes_what_is_right_and_catches_an_unscaled_loss(
    stores, tmp_path, monkeypatch, capfd
):
    for name in ("O2", "bf16"):
        train(tiny(stores, precision=name, epochs=1), tmp_path / name)
        told = capfd.readouterr().out
        assert f"self-check: {name} agrees with O0 at applied step 1" in told
        assert f"self-check: {name} agrees with O0 at applied step 4" in told

    # What DeepSpeed does with fp16 and ZeRO stage 0: the loss is not multiplied by the scale.
    def unscaled(self: Engine, loss: torch.Tensor) -> None:
        self.deepspeed.backward(loss / self.loss_scale)

    monkeypatch.setattr(Engine, "backward", unscaled)
    with pytest.raises(MachineError, match="O2 does not agree with O0.*gradient's length differs"):
        train(tiny(stores, precision="O2", epochs=1), tmp_path / "broken")


def test_the_self_check_looks_at_every_layer():
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(8, 8, generator=generator)
    small = 1e-4 * torch.randn(4, 4, generator=generator)
    right = (1.0, {"large": large, "small": small})
    assert selfcheck.compare(right, 1.0, {"large": large, "small": small}).fails("O2") == []
    # The whole gradient hardly changes when the small layer's is lost.
    lost = selfcheck.compare(right, 1.0, {"large": large, "small": torch.zeros(4, 4)})
    assert lost.layer == "small" and "small" in lost.fails("O2")[0]
    assert selfcheck.compare(right, 1.0, {"large": large * math.inf, "small": small}) is None


def test_the_self_check_does_not_judge_a_gradient_that_is_all_rounding(stores, tmp_path, capfd):
    """A batch norm undoes what the 1×1 convolution of a one-channel input multiplies by."""
    model = {"name": "resattunet", "width": 2, "depth": 1}
    for name in ("O2", "bf16"):
        train(tiny(stores, precision=name, epochs=1, model=model), tmp_path / name)
        assert f"self-check: {name} agrees with O0 at applied step 4" in capfd.readouterr().out


def test_precision_is_switched_on_resume_from_the_fp32_masters(stores, tmp_path, capfd):
    for epochs, name in enumerate(("O0", "O2", "bf16"), start=1):
        train(tiny(stores, precision=name, epochs=epochs), tmp_path / "run", resume=epochs > 1)
        told = capfd.readouterr().out
        if name != "O0":  # six steps were taken in each precision before
            assert f"self-check: {name} agrees with O0 at applied step {6 * epochs - 5}" in told
    train(tiny(stores), tmp_path / "whole")
    steps = lines(tmp_path / "run")
    assert [s["loss_scale"] for s in steps] == [1.0] * 6 + [2.0**16] * 6 + [1.0] * 6
    # The same training but for the rounding of fp16 and bf16.
    for here, there in zip(steps, lines(tmp_path / "whole"), strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-2)
        assert here["lr"] == there["lr"]
    assert figures(tmp_path / "run")[:6] == figures(tmp_path / "whole")[:6]


def test_a_switch_to_o2_is_refused_where_a_weight_is_beyond_fp16(stores, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        spoil(patch, "decoder.0.first.1.bias", 1e5)
        train(tiny(stores, epochs=1), tmp_path / "run")
    with pytest.raises(InputError, match=r"decoder\.0\.first\.1\.bias has a weight of 1e\+05"):
        train(tiny(stores, epochs=2, precision="O2"), tmp_path / "run", resume=True)


def test_a_loss_scale_without_effect_is_told(capfd):
    for name, told in (("O0", True), ("bf16", True), ("O2", False)):
        settings = ExperimentSettings(precision=name, emulate_fp16=True, loss_scale={"window": 4})
        precision.prepare(settings, torch.device("cpu"))
        assert (f"loss_scale: has no effect in {name}" in capfd.readouterr().out) == told
    precision.prepare(ExperimentSettings(), torch.device("cpu"))
    assert "loss_scale" not in capfd.readouterr().out
