"""The evaluation of a sweep is made once its runs have ended, whatever came between."""

from __future__ import annotations

import pickle

import pytest
from sweeps.fake_slurm import LIMIT, script

from hpc_srct.errors import InputError
from hpc_srct.sweeps import ledger, submission
from hpc_srct.sweeps.ledger import EVALUATION


def test_an_evaluation_that_was_refused_is_told_and_made_by_the_next_call(make, slurm, site):
    slurm.answer("sbatch", "Submitted batch job 101\n", LIMIT)
    with pytest.raises(InputError, match=r"runs are submitted \(101\); their evaluation was not"):
        make().submit("slurm", site)
    slurm.answer("sacct", "101_0|COMPLETED\n101_1|RUNNING\n101_2|RUNNING\n")
    slurm.answer("sbatch", "Submitted batch job 103\n")
    sweep = make()
    assert sweep.submit("slurm", site) == []
    assert sweep.ledger.entry(EVALUATION).job == "103"
    assert "#SBATCH --dependency=afterany:101\n" in script(sweep, "103")


def test_an_evaluation_that_a_killed_call_never_asked_for_is_made(make, taken, site, monkeypatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    sweep = make()
    with monkeypatch.context() as patch:
        patch.setattr(submission, "evaluation_to_slurm", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep.submit("slurm", site)
    for run in sweep.runs:
        sweep.ledger.note_outcome(run.name, sweep.ledger.entry(run.name).token, "done")
    assert make().submit("slurm", site) == []
    assert sweep.ledger.entry(EVALUATION).job == "102"
    assert "--dependency" not in script(sweep, "102")


def test_an_evaluation_older_than_a_run_is_made_again(make, taken, site, monkeypatch):
    sweep = make()
    sweep.submit("slurm", site)
    for hour, name in enumerate([EVALUATION, *(run.name for run in sweep.runs)]):
        token = sweep.ledger.entry(name).token
        monkeypatch.setattr(ledger, "now", lambda at=hour: f"2030-01-01T1{at}:00:00+0000")
        sweep.ledger.note_outcome(name, token, "done")
    taken.answer("sbatch", "Submitted batch job 103\n")
    assert make().submit("slurm", site) == []
    token = sweep.ledger.entry(EVALUATION).token
    monkeypatch.setattr(ledger, "now", lambda: "2030-01-01T19:00:00+0000")
    sweep.ledger.note_outcome(EVALUATION, token, "done")
    assert make().submit("slurm", site) == []
    assert len(taken.calls("sbatch")) == 3, "once"


def test_the_evaluation_follows_the_array(make, taken, site):
    sweep = make()
    sweep.submit("slurm", site)
    text = script(sweep, "102")
    assert "#SBATCH --dependency=afterany:101\n" in text
    assert "#SBATCH --ntasks-per-node=1\n" in text
    assert "#SBATCH --gres=gpu:v100:1\n" in text
    job = pickle.loads((sweep.ledger.jobs / "102_submitted.pkl").read_bytes()).function
    assert (job.runs, job.roles) == (tuple(r.name for r in sweep.runs), ("test",))


def test_without_evaluation_one_job_is_submitted(make, taken, site):
    make(evaluate=[]).submit("slurm", site)
    assert len(taken.calls("sbatch")) == 1


def test_an_evaluation_that_failed_is_asked_for_again(make, taken, site):
    sweep = make()
    sweep.submit("slurm", site)
    for run in sweep.runs:
        sweep.ledger.note_outcome(run.name, sweep.ledger.entry(run.name).token, "done")
    token = sweep.ledger.entry(EVALUATION).token
    sweep.ledger.note_outcome(EVALUATION, token, "failed", "no")
    taken.answer("sbatch", "Submitted batch job 107\n")
    assert make().submit("slurm", site) == []
    assert sweep.ledger.entry(EVALUATION).job == "107"
    assert "--dependency" not in script(sweep, "107")
