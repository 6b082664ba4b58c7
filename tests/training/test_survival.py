"""Real processes: killed, signalled, out of time, and two of them together."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from training.nursery import Nursery, wait_for_steps
from training.tiny_runs import lines, same, tiny

from hpc_srct.models.files import load_weights

RANKS = 2


@pytest.fixture(scope="module")
def undisturbed(stores, nursery: Nursery, tmp_path_factory) -> Path:
    """A run of one rank in O2, never interrupted."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert nursery.start(long(stores), run).wait() == 0
    return run


def long(stores: tuple[Path, Path], **changes: object):
    """Settings of a run of 12 epochs of 6 steps, often saved, its loss scale on the move."""
    return tiny(
        stores,
        precision="O2",
        loss_scale={"window": 5, "initial_power": 12},
        epochs=12,
        checkpoints={"keep_last": 2},
        **changes,
    )


def kill_at_random(nursery: Nursery, settings, run: Path, kills: int, seed: int) -> None:
    """Kill a run that many times at random moments, then let it end."""
    random.seed(seed)
    total = settings.epochs * 6
    killed, resume = 0, False
    while killed < kills:
        process = nursery.start(settings, run, resume)
        done = len(lines(run)) if resume else 0
        wait_for_steps(run, min(done + random.randint(1, 6), total), process)
        time.sleep(random.uniform(0, 0.05))
        process.kill()
        if process.wait() == -signal.SIGKILL:
            killed += 1
        resume = (run / "settings.yaml").is_file()
        if resume and len(lines(run)) >= total - 6:
            break  # too near the end to be killed once more
    assert nursery.start(settings, run, resume).wait() == 0
    assert killed == kills


def test_killed_three_times_it_is_the_undisturbed_run(stores, nursery, undisturbed, tmp_path):
    kill_at_random(nursery, long(stores), tmp_path / "run", 3, seed=1)
    same(undisturbed, tmp_path / "run")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_killed_twenty_times(stores, nursery, undisturbed, tmp_path, seed):
    kill_at_random(nursery, long(stores), tmp_path / "run", 4, seed)
    same(undisturbed, tmp_path / "run")


def test_signals_and_the_time_limit_stop_it_saved(stores, nursery, undisturbed, tmp_path):
    run = tmp_path / "run"
    for number, name in enumerate(("SIGTERM", "SIGUSR2", "SIGINT"), start=1):
        process = nursery.start(long(stores), run, resume=number > 1)
        wait_for_steps(run, 9 * number, process)
        process.kill(getattr(signal, name))
        assert process.wait() == 75, process.log.read_text()
        assert f"stopped by {name} after step" in process.log.read_text()
        assert "--resume goes on" in process.log.read_text()
        assert not (run / "model.safetensors").exists()
    # Shorter than anything: each start takes one step all the same.
    done = len(lines(run))
    process = nursery.start(long(stores, time_limit=0.001), run, resume=True)
    assert process.wait() == 75
    assert f"stopped by the time limit of 0.001 s after step {done + 1} " in process.log.read_text()
    assert nursery.start(long(stores), run, resume=True).wait() == 0
    same(undisturbed, run)


def test_two_ranks_stop_together_and_resume_to_the_bit(stores, nursery, tmp_path):
    settings = tiny(stores, epochs=3, tiles={"size": 16, "batch": 4, "per_slice": 4})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert [p.wait() for p in nursery.ranks(RANKS, settings, whole)] == [0, 0]

    processes = nursery.ranks(RANKS, settings, broken)
    wait_for_steps(broken, 8, processes[0])
    processes[1].kill(signal.SIGTERM)  # one of them alone
    assert [p.wait() for p in processes] == [75, 75], processes[0].log.read_text()
    assert "stopped by SIGTERM" in processes[0].log.read_text()
    assert "stopped by" not in processes[1].log.read_text()  # said once

    alone = nursery.start(settings, broken, resume=True)
    assert alone.wait() == 2
    assert "was saved by 2 rank(s), and 1 started" in alone.log.read_text()
    assert "Resume with 2 rank(s)" in alone.log.read_text()

    assert [p.wait() for p in nursery.ranks(RANKS, settings, broken, resume=True)] == [0, 0]
    same(whole, broken)
    check_statistics_are_averaged(whole)


def test_a_rank_that_dies_is_reported_by_the_other(stores, nursery, tmp_path):
    settings = tiny(stores, epochs=50, tiles={"size": 16, "batch": 4, "per_slice": 4})
    processes = nursery.ranks(RANKS, settings, tmp_path / "run")
    wait_for_steps(tmp_path / "run", 2, processes[0])
    processes[1].kill()
    assert processes[0].wait(60) == 1
    told = processes[0].log.read_text()
    assert "rank 0: another of the 2 ranks is gone" in told and "--resume goes on" in told


def check_statistics_are_averaged(run: Path) -> None:
    """Each rank has statistics of its own; what is saved and given away is their mean."""
    folder = run / "checkpoints" / (run / "checkpoints" / "current").read_text().strip()
    own = [
        torch.load(folder / f"rank-{rank:05d}.pt", weights_only=True)["buffers"]
        for rank in range(RANKS)
    ]
    name = "encoder.0.first.1.running_mean"
    assert not torch.equal(own[0][name], own[1][name])
    mean = (own[0][name].double() + own[1][name].double()) / 2
    saved = torch.load(folder / "deepspeed" / "mp_rank_00_model_states.pt", weights_only=False)
    assert torch.allclose(saved["module"][name].double(), mean, rtol=1e-6)
    weights, about = load_weights(run)
    assert about["provenance"]["step"] == 18  # the best is the last: the same moment
    assert torch.equal(weights[name], saved["module"][name])
