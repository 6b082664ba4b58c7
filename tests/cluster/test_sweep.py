"""A sweep as one array over two nodes, whose last task comes to its time limit."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import yaml
from cluster.road import steps
from training.tiny_runs import same

from hpc_srct.sweeps import Sweep
from hpc_srct.sweeps.status import State


def test_the_last_array_task_out_of_time_requeues_and_ends_as_if_undisturbed(
    user, experiment, undisturbed, monkeypatch
):
    folder = user.folder / "it's a sweep"
    tree = {
        "name": "two",
        "experiment": str(experiment),
        "grid": {"seed": [2, 1]},
        "out": str(folder),
        "nodes": 2,
        "tasks_per_node": 1,
        "parallel": 1,
        "evaluate": ["validation"],
    }
    file = user.folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(tree))
    srct = [sys.executable, "-m", "hpc_srct", "sweep", file]
    # Slurm looks at its time limits every half minute, and warns up to as much too early.
    user.site("site.yaml", gpu={"time_limit": "2m"}, stop_before_end="25s")
    told = user.do(*srct, "--site", "site.yaml").stdout
    assert "2 of 2 runs submitted" in told

    # Looked at from here, with Slurm's own commands.
    for name, value in user.cluster.environment.items():
        monkeypatch.setenv(name, value)
    sweep = Sweep.from_file(file)
    first, last = (sweep.ledger.run_folder(run.name) for run in sweep.runs)
    # The last task has the array's own job id, and a sister that has ended.
    user.until_steps(last, 3)
    with user.held("submitit.core._submit", signal.SIGUSR2):
        before, now = sweep.status()
        assert now.state is State.RUNNING
        assert before.state in (State.DONE, State.WAITING)  # waiting: out of time itself
    assert 0 < steps(last) < 240, "it was to be stopped in the middle"

    found = sweep.wait(every=2)
    assert [now.state for now in found] == [State.DONE, State.DONE], logs(folder)
    assert f"Requeued job {now.job}" in logs(folder)
    assert "goes on after step" in logs(folder)
    same(last, undisturbed)
    assert steps(first) == 240
    assert (first / "model.safetensors").exists()

    # Called again, nothing is submitted; what was lost is made again.
    assert "0 of 2 runs submitted" in user.do(*srct, "--site", "site.yaml").stdout
    sweep.conclude(found)
    results = (folder / "results.md").read_text()
    assert results.count("| done |") == 2
    assert "PSNR (dB), validation vs truth" in results
    table = (folder / "evaluation" / "table.md").read_text()
    assert "UNet" in table
    assert "±" in table, "two seeds make one row"
    shown = user.do(*srct, "--status").stdout
    assert "2 done" in shown


def test_a_killed_rank_and_a_cancelled_task_are_told_and_go_on(user, experiment, monkeypatch):
    folder = user.folder / "sweep"
    for name, value in user.cluster.environment.items():
        monkeypatch.setenv(name, value)
    from hpc_srct.settings.site import load_site

    sweep = Sweep(
        {
            "experiment": str(experiment),
            "grid": {"seed": [1]},
            "out": str(folder),
            "nodes": 2,
            "tasks_per_node": 1,
            "evaluate": [],
        }
    )
    site = load_site(user.folder / "site.yaml")
    [run] = sweep.submit("slurm", site)
    run_folder = sweep.ledger.run_folder(run.name)
    user.until_steps(run_folder, 3)
    ranks = user.ranks("submitit.core._submit")
    user.do("kill", "-9", ranks[-1])
    user.until(sweep.ledger.entry(run.name).job, "FAILED", within_s=60)
    [now] = sweep.status()
    assert now.state is State.FAILED
    assert now.log is not None

    assert sweep.submit("slurm", site) == [], "failed ones only on request"
    done = steps(run_folder)
    assert sweep.submit("slurm", site, retry_failed=True) == [run]
    user.until_steps(run_folder, done + 3)
    job = sweep.ledger.entry(run.name).job
    user.do("scancel", job)
    user.until(job, "CANCELLED")
    user._wait("it is known as stopped", lambda: sweep.status()[0].state is State.STOPPED, 60)
    assert sweep.submit("slurm", site) == [run], "what was cancelled goes on"
    user.until_steps(run_folder, steps(run_folder) + 3)


def logs(folder: Path) -> str:
    return "".join(p.read_text() for p in sorted((folder / "jobs").glob("*_log.*")))
