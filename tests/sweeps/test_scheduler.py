"""Slurm's answers, read."""

from __future__ import annotations

import pytest

from hpc_srct.errors import InputError, MachineError
from hpc_srct.sweeps import scheduler


def test_states_of_jobs_and_of_array_tasks(slurm):
    slurm.answer(
        "sacct",
        "12|COMPLETED\n13_0|CANCELLED by 0\n13_1|NODE_FAIL\n13_1|RUNNING\n13_[2-3,5%2]|PENDING\n",
    )
    jobs = ["12", "13_0", "13_1", "13_2", "13_3", "13_4", "13_5"]
    assert scheduler.states(jobs) == (
        {
            "12": "COMPLETED",
            "13_0": "CANCELLED",
            "13_1": "RUNNING",
            "13_2": "PENDING",
            "13_3": "PENDING",
            "13_5": "PENDING",
        },
        True,
    )
    # One question for the whole array.
    assert slurm.calls("sacct")[0][-1] == "--jobs=12,13"


def test_without_accounting_the_queue_is_asked(slurm):
    slurm.answer("sacct", ("", "Slurm accounting storage is disabled\n", 1))
    slurm.answer("squeue", "12_1|RUNNING\n")
    assert scheduler.states(["12_0", "12_1"]) == ({"12_1": "RUNNING"}, False)


def test_of_a_job_that_accounting_has_not_heard_of_the_queue_is_asked(slurm):
    slurm.answer("sacct", "12_0|COMPLETED\n")
    slurm.answer("squeue", "12_0|COMPLETING\n14|PENDING\n")
    known = {"12_0": "COMPLETED", "14": "PENDING"}
    assert scheduler.states(["12_0", "14", "15"]) == (known, True)
    assert slurm.calls("squeue")[0][-1] == "--jobs=14,15"


@pytest.mark.parametrize(
    ("queue", "state"),
    [
        ("12|PENDING\n", "PENDING"),
        ("", "PREEMPTED"),
        (("", "slurm_load_jobs error: Invalid job id specified\n", 1), "PREEMPTED"),
        (("", "slurm_load_jobs error: Socket timed out on send/recv operation\n", 1), None),
    ],
)
def test_whether_a_preempted_job_is_queued_again_the_queue_knows(slurm, queue, state):
    slurm.answer("sacct", "12|PREEMPTED\n")
    slurm.answer("squeue", queue)
    assert scheduler.states(["12"]) == ({"12": state} if state else {}, True)


def test_nothing_is_asked_about_no_jobs(slurm):
    assert scheduler.states([]) == ({}, True)
    assert slurm.calls() == []


def test_no_slurm_here(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no sbatch on this machine"):
        scheduler.need("sbatch")
    assert scheduler.states(["1"]) == ({}, False)


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("sbatch: error: invalid partition specified: fast\nsbatch: error: Batch job submission "
         "failed: Invalid partition name specified", "partition"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition "
         "combination specified", "account"),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "qos"),
        ("sbatch: error: Invalid generic resource (gres) specification", "gpu_type"),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not "
         "available", "gpus_per_node"),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or "
         "exceeds some limit)", "time_limit"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_value_to_mend(slurm, said, key):
    slurm.answer("sbatch", ("", said, 1))
    with pytest.raises(InputError, match="my-site.yaml") as caught:
        scheduler.submit(["sbatch", "job.sh"], "my-site.yaml")
    message = str(caught.value)
    assert f"Look at {key}" in message
    assert "sbatch: error" not in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job "
         "violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
         "more jobs, larger or longer ones"),
        ("sbatch: error: Batch job submission failed: Invalid job array specification",
         "several sweeps"),
    ],
)  # fmt: skip
def test_too_much_is_told_as_such(said, advice):
    refused = scheduler.refusal(said, "my-site.yaml")
    assert isinstance(refused, InputError)
    assert advice in str(refused)


def test_a_silent_controller_is_the_machines_fault(slurm):
    slurm.answer("sbatch", ("", "sbatch: error: Unable to contact slurm controller\n", 1))
    with pytest.raises(MachineError, match="Unable to contact slurm controller"):
        scheduler.submit(["sbatch", "job.sh"], "my-site.yaml")


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ("JobId=7 JobState=RUNNING Requeue=1 Restarts=0", None),
        ("JobId=7 JobState=RUNNING Requeue=0 Restarts=0", "does not requeue"),
        ("JobId=7 JobState=COMPLETING Requeue=1", "cancelled"),
        ("JobId=7 JobState=CANCELLED Requeue=1", "cancelled"),
        ("", "does not answer"),
    ],
)
def test_who_may_be_requeued(slurm, job, reason):
    slurm.answer("scontrol", job)
    answer = scheduler.why_not_requeue("7")
    assert answer is None if reason is None else reason in answer


ARRAY = (
    "JobId=12 ArrayJobId=12 ArrayTaskId=2 JobState={last} Requeue=1\n"
    "JobId=13 ArrayJobId=12 ArrayTaskId=0 JobState={first} Requeue=1\n"
)


@pytest.mark.parametrize("job", ["12", "12_2"])
def test_the_last_task_of_an_array_is_not_taken_for_its_sisters(slurm, job):
    """It has the array's own id."""
    slurm.answer("scontrol", ARRAY.format(last="RUNNING", first="COMPLETED"))
    assert scheduler.why_not_requeue(job) is None
    slurm.answer("scontrol", ARRAY.format(last="CANCELLED", first="RUNNING"))
    assert "cancelled" in scheduler.why_not_requeue(job)
    slurm.answer("scontrol", ARRAY.format(last="RUNNING", first="RUNNING"))
    assert "does not answer" in scheduler.why_not_requeue("12_7")
