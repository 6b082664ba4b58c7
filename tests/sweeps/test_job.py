"""Inside a job: who saves, who requeues, who ends with which code."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path

import pytest

from hpc_srct.errors import InputError, Stopped
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.sweeps import job as module
from hpc_srct.sweeps.job import EvaluateJob, TrainJob
from hpc_srct.sweeps.ledger import EVALUATION, Entry, Ledger

MAY = "JobId=7 JobState=RUNNING Requeue=1"


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    ledger = Ledger(tmp_path / "sweep")
    for name in ("run", EVALUATION):
        ledger.note(Entry(name, "t1", "7_0", "slurm", "now", 1, "code", {}))
    ledger.write_settings("run", ExperimentSettings(seed=5))
    return ledger


@pytest.fixture
def training(monkeypatch, slurm, tmp_path):
    """Act as one task of a Slurm job, with a training that does as told; give what it was told."""
    told = {"calls": [], "does": lambda *_: None, "requeued": 0}

    def enter(rank: int = 0, restart: int = 0) -> None:
        for name, value in {
            "SUBMITIT_EXECUTOR": "slurm",
            "SUBMITIT_FOLDER": str(tmp_path),
            "SLURM_JOB_ID": "8",
            "SLURM_ARRAY_JOB_ID": "7",
            "SLURM_ARRAY_TASK_ID": "0",
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank),
            "SLURM_NTASKS": "2",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_RESTART_COUNT": str(restart),
            "MASTER_PORT": "12345",
        }.items():
            monkeypatch.setenv(name, value)

    def train(settings, folder, resume):
        told["calls"].append((settings.seed, folder, resume))
        told["does"](folder)

    def requeue(number, frame):
        told["requeued"] += 1
        raise SystemExit(-1)

    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "_entry", lambda name: train)
    monkeypatch.setattr(module, "_LAST_WORDS_S", 0.0)
    before = signal.signal(signal.SIGUSR2, requeue)
    slurm.answer("scontrol", MAY)
    told["enter"] = enter
    enter()
    yield told
    signal.signal(signal.SIGUSR2, before)


def stop(folder: Path) -> None:
    raise Stopped("stopped by SIGUSR2 after step 3; saved.\nGo on.")


def work(ledger: Ledger, token: str = "t1") -> str:
    return TrainJob(str(ledger.folder), "run", token)()


def test_it_trains_with_the_settings_of_the_submission(training, ledger):
    assert work(ledger) == str(ledger.run_folder("run"))
    assert training["calls"] == [(5, ledger.run_folder("run"), False)]
    assert ledger.outcome("run", "t1")["state"] == "done"


def test_a_run_that_began_is_resumed(training, ledger):
    folder = ledger.run_folder("run")
    folder.mkdir(parents=True)
    (folder / "settings.yaml").touch()
    work(ledger)
    assert training["calls"][0][2] is True


def test_the_ranks_find_each_other(training, ledger, monkeypatch):
    import os

    seen = {}
    training["does"] = lambda _: seen.update(os.environ)
    training["enter"](rank=1)
    assert work(ledger) == ""
    assert {k: seen[k] for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")} == {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "n1",
    }
    assert ledger.outcome("run") is None, "rank 0 tells"


def test_stopped_on_rank_0_chains_to_submitit(training, ledger):
    training["does"] = stop
    with pytest.raises(SystemExit) as end:
        work(ledger)
    assert end.value.code == -1
    assert training["requeued"] == 1
    assert ledger.outcome("run") is None, "it is not over"


def test_slurm_is_asked_for_the_task_and_not_for_its_array(training, ledger, slurm):
    training["does"] = stop
    with pytest.raises(SystemExit):
        work(ledger)
    assert slurm.calls("scontrol")[0][-1] == "7_0"


def test_stopped_on_other_ranks_ends_well(training, ledger):
    """A bad exit code would have srun kill rank 0 before it has requeued the job."""

    def leave(_):
        raise SystemExit(75)

    training["does"] = leave
    training["enter"](rank=1)
    with pytest.raises(SystemExit) as end:
        work(ledger)
    assert end.value.code == 0
    assert training["requeued"] == 0


def test_cancelled_is_not_requeued(training, ledger, slurm):
    slurm.answer("scontrol", "JobId=7 JobState=COMPLETING Requeue=1")
    training["does"] = stop
    with pytest.raises(SystemExit) as end:
        work(ledger)
    assert end.value.code == 75
    assert training["requeued"] == 0
    assert ledger.outcome("run", "t1")["state"] == "stopped"


def test_no_progress_between_two_restarts_ends_it(training, ledger):
    training["does"] = stop
    for restart in (0, 1):
        training["enter"](restart=restart)
        with pytest.raises(SystemExit) as end:
            work(ledger)
    assert end.value.code == 1
    assert training["requeued"] == 1
    outcome = ledger.outcome("run", "t1")
    assert outcome["state"] == "failed"
    assert "no progress" in outcome["error"]


def test_a_failure_is_told_with_its_code(training, ledger, capfd):
    def fail(_):
        raise InputError("stores/a: no such store.")

    training["does"] = fail
    with pytest.raises(SystemExit) as end:
        work(ledger)
    assert end.value.code == 2
    assert ledger.outcome("run", "t1")["error"] == "stores/a: no such store."
    assert "stores/a: no such store." in capfd.readouterr().err


def test_a_fault_keeps_its_stack_trace(training, ledger):
    def fail(_):
        raise ZeroDivisionError("one")

    training["does"] = fail
    with pytest.raises(ZeroDivisionError):  # submitit prints it
        work(ledger)
    assert ledger.outcome("run", "t1")["error"] == "ZeroDivisionError: one"


def test_a_job_that_was_replaced_does_nothing(training, ledger):
    with pytest.raises(SystemExit) as end:
        work(ledger, token="t0")
    assert end.value.code == 1
    assert training["calls"] == []
    assert ledger.outcome("run") is None


def test_the_checkpoint_is_the_same_call_again(ledger):
    job = TrainJob(str(ledger.folder), "run", "t1")
    again = pickle.loads(pickle.dumps(job.checkpoint()))
    assert again.function == job
    assert again.args == ()


def test_the_evaluation_takes_what_is_done(training, ledger, monkeypatch):
    ledger.note_outcome("a", "any", "done")
    ledger.note_outcome("b", "any", "failed")
    seen = []
    monkeypatch.setattr(module, "_entry", lambda name: lambda runs, **kw: seen.append((runs, kw)))
    EvaluateJob(str(ledger.folder), EVALUATION, "t1", ("a", "b", "c"), ("test",))()
    assert seen == [
        ([ledger.run_folder("a")], {"out": ledger.folder / "evaluation", "roles": ("test",)})
    ]
    assert ledger.outcome(EVALUATION, "t1")["state"] == "done"


def test_an_evaluation_of_nothing_fails(training, ledger):
    with pytest.raises(SystemExit):
        EvaluateJob(str(ledger.folder), EVALUATION, "t1", ("a",), ("test",))()
    assert "nothing to evaluate" in ledger.outcome(EVALUATION, "t1")["error"]


def test_an_evaluation_that_never_ends_in_its_time_is_given_up(training, ledger, monkeypatch):
    """It begins anew each time, so that another restart would be of no use."""
    ledger.note_outcome("a", "any", "done")
    calls = []
    monkeypatch.setattr(module, "_entry", lambda name: lambda runs, **kw: calls.append(runs))
    job = EvaluateJob(str(ledger.folder), EVALUATION, "t1", ("a",), ("test",))
    training["enter"](restart=2)
    job()
    training["enter"](restart=3)
    with pytest.raises(SystemExit):
        job()
    assert len(calls) == 1
    outcome = ledger.outcome(EVALUATION, "t1")
    assert outcome["state"] == "failed"
    assert "gpu.time_limit" in outcome["error"]
