"""Training with sbatch over two nodes: disturbed in every way, it is the undisturbed training."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from cluster.road import ROOT, steps
from training.tiny_runs import same


def test_two_tasks_under_srun_equal_two_processes_of_the_launcher(user, experiment, undisturbed):
    run = user.folder / "a run's folder"
    job = user.submit("train", experiment, run)
    user.until(job, "COMPLETED", "FAILED")
    assert user.state(job) == "COMPLETED", user.log(job)
    same(run, undisturbed)


def test_a_preempted_job_saves_requeues_and_goes_on(user, experiment, undisturbed):
    run = user.folder / "run"
    job = user.submit("train", experiment, run)
    user.until_steps(run, 3)
    with user.held("-m hpc_srct train", signal.SIGUSR2):
        urgent = user.preempt()
    user.until(urgent, "COMPLETED")
    assert 0 < steps(run) < 240, "it was to be stopped in the middle"
    user.until(job, "COMPLETED", "FAILED")
    assert user.state(job) == "COMPLETED", user.log(job)
    log = user.log(job)
    assert "requeued" in log
    assert "goes on after step" in log
    same(run, undisturbed)


def test_cancelled_then_a_rank_killed_then_undisturbed(user, experiment, undisturbed):
    run = user.folder / "run"
    job = user.submit("train", experiment, run)
    user.until_steps(run, 3)
    user.do("scancel", job)
    user.until(job, "CANCELLED")
    time.sleep(8)  # KillWait: after that its script can requeue nothing any more
    assert user.state(job) == "CANCELLED", user.log(job)
    cancelled_at = steps(run)
    assert 0 < cancelled_at < 240

    job = user.submit("train", experiment, run)
    user.until_steps(run, cancelled_at + 3)
    user.do("kill", "-9", user.ranks()[-1])
    user.until(job, "FAILED", within_s=60)
    assert "(a task was killed)" in user.log(job)
    assert f"What is saved in {run} stays" in user.log(job)

    job = user.submit("train", experiment, run)
    user.until(job, "COMPLETED", "FAILED")
    assert user.state(job) == "COMPLETED", user.log(job)
    same(run, undisturbed)


def test_a_job_that_gets_nowhere_is_not_requeued_for_ever(user, experiment, wait):
    """Told to stop while it still loads, in two lives: it ends, and says why."""
    run = user.folder / "run"
    job = user.submit("train", experiment, run, nodes=1)
    for _ in range(2):
        wait("its task has started", user.ranks, 300)
        user.do("scancel", "--signal=USR2", job)
        wait("its task has ended", lambda: not user.ranks(), 120)
    user.until(job, "FAILED")
    log = user.log(job)
    assert log.count("; requeued.") == 1
    assert "no progress between two restarts" in log
    assert steps(run) == 0


def test_ctrl_c_on_a_workstation_saves_and_the_same_command_goes_on(
    user, experiment, undisturbed, tmp_path
):
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [ROOT / "launch" / "workstation.sh", experiment, "2"],
            cwd=tmp_path,
            env={**user.cluster.environment, "SRCT_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    run = tmp_path / "runs" / "tiny"
    process = start()
    user.until_steps(run, 3)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 75, told
    assert "the same command goes on" in told
    assert steps(run) < 240
    process = start()
    told, _ = process.communicate(timeout=600)
    assert process.returncode == 0, told
    same(run, undisturbed)
