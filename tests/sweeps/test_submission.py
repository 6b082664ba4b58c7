"""What reaches Slurm, what stays on disk, and what happens to a call that is killed."""

from __future__ import annotations

import pickle
import shlex
from dataclasses import replace

import pytest
from sweeps.fake_slurm import LIMIT, script

from hpc_srct.errors import InputError, MachineError
from hpc_srct.sweeps import Sweep, submission
from hpc_srct.sweeps.command import run_sweep
from hpc_srct.sweeps.status import State

GOLDEN = """\
#!/bin/bash

# Parameters
#SBATCH --account=bldesign
#SBATCH --array=0-2%2
#SBATCH --cpus-per-task=4
#SBATCH --error={jobs_error}
#SBATCH --gres=gpu:v100:4
#SBATCH --job-name=srct-{token}
#SBATCH --mem-per-cpu=12G
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output={jobs_output}
#SBATCH --partition=gpu
#SBATCH --qos=blnormal
#SBATCH --requeue
#SBATCH --signal=USR2@300
#SBATCH --time=1440

# setup
export PYTHONPATH={code}"${{PYTHONPATH:+:$PYTHONPATH}}"
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output {srun_output} --error {srun_error} --cpus-per-task=4 \
--kill-on-bad-exit=1 --wait=0 --mpi=none /opt/python -u -m submitit.core._submit {jobs}
"""


def test_the_sbatch_text_of_a_sweep(make, taken, site, tmp_path):
    sweep = make(nodes=2, parallel=2)
    sweep.submit("slurm", site)
    entry = sweep.ledger.entry(sweep.runs[0].name)
    jobs = sweep.folder / "jobs"

    def quoted(name: str) -> str:
        return shlex.quote(str(jobs / name))

    assert script(sweep, "101") == GOLDEN.format(
        token=entry.token,
        code=shlex.quote(str(sweep.folder / "code" / entry.code)),
        jobs=shlex.quote(str(jobs)),
        jobs_output=quoted("%A_%a_0_log.out"),
        jobs_error=quoted("%A_%a_0_log.err"),
        srun_output=quoted("%A_%a_%t_log.out"),
        srun_error=quoted("%A_%a_%t_log.err"),
    )
    assert not (tmp_path / "pwned").exists()


def test_a_dry_run_shows_the_same_text_and_does_nothing(make, slurm, site):
    sweep = make()
    shown = submission.sbatch_text(sweep.settings, site, sweep.ledger, "TOKEN", 3)
    sweep.dry_run("slurm", site)
    assert slurm.calls() == []
    assert not sweep.folder.exists()
    slurm.answer("sbatch", "Submitted batch job 101\n", "Submitted batch job 102\n")
    sweep.submit("slurm", site)
    token = sweep.ledger.entry(sweep.runs[0].name).token
    assert script(sweep, "101").splitlines() == shown.replace("TOKEN", token).splitlines()


def test_a_wckey_is_written_only_where_the_profile_has_one(make, taken, site):
    sweep = make()
    sweep.submit("slurm", site.model_copy(update={"wckey": "hepsct"}))
    assert "#SBATCH --wckey=hepsct\n" in script(sweep, "101")
    assert "wckey" not in GOLDEN


def test_the_ledger_and_the_settings_of_the_submission(make, taken, site):
    sweep = make()
    sweep.submit("slurm", site)
    for number, run in enumerate(sweep.runs):
        entry = sweep.ledger.entry(run.name)
        assert (entry.job, entry.cluster, entry.values) == (f"101_{number}", "slurm", run.values)
        assert f"seed: {run.values['seed']}\n" in sweep.ledger.settings_file(run.name).read_text()
        job = pickle.loads((sweep.ledger.jobs / f"101_{number}_submitted.pkl").read_bytes())
        assert (job.function.name, job.function.token) == (run.name, entry.token)


def test_a_second_call_submits_nothing_that_is_done_or_under_way(make, taken, site):
    sweep = make()
    sweep.submit("slurm", site)
    names = [run.name for run in sweep.runs]
    sweep.ledger.note_outcome(names[0], sweep.ledger.entry(names[0]).token, "done")
    taken.answer("sacct", "101_0|COMPLETED\n101_1|RUNNING\n101_[2]|PENDING\n")
    again = make()
    assert [s.state for s in again.status()] == [State.DONE, State.RUNNING, State.WAITING]
    assert again.submit("slurm", site) == []
    assert len(taken.calls("sbatch")) == 2


def test_failed_runs_are_submitted_again_on_request_and_cancelled_ones_go_on(make, taken, site):
    sweep = make()
    sweep.submit("slurm", site)
    names = [run.name for run in sweep.runs]
    sweep.ledger.note_outcome(names[0], sweep.ledger.entry(names[0]).token, "failed", "no")
    taken.answer("sacct", "101_0|FAILED\n101_1|CANCELLED by 7\n101_2|NODE_FAIL\n")
    taken.answer("sbatch", "Submitted batch job 103\n")
    assert [run.name for run in make().submit("slurm", site)] == [names[1]]
    assert sweep.ledger.entry(names[1]).job == "103"  # one run is no array
    assert "--array" not in script(sweep, "103")
    taken.answer("sacct", "101_0|FAILED\n101_2|NODE_FAIL\n103|RUNNING\n")
    again = make().submit("slurm", site, retry_failed=True)
    assert [run.name for run in again] == [names[0], names[2]]
    assert sweep.ledger.entry(names[0]).attempts == 2


def test_changed_settings_are_new_runs_and_the_old_ones_stay(make, taken, site):
    first = make()
    first.submit("slurm", site)
    taken.answer("sbatch", "Submitted batch job 105\n")
    second = make(set={"epochs": 4})
    assert len(second.submit("slurm", site)) == 3
    assert {e.job for r in first.runs if (e := first.ledger.entry(r.name))} == {
        *("101_0", "101_1", "101_2")
    }


def test_a_call_killed_while_it_submitted_is_mended_by_the_next(make, taken, site):
    """The job ids are lost, but not the name under which Slurm knows the jobs."""
    sweep = make()
    sweep.submit("slurm", site)
    for run in sweep.runs:
        entry = sweep.ledger.entry(run.name)
        sweep.ledger.note(entry.__class__(**{**entry.__dict__, "job": None}))
    taken.answer("squeue", "101\n101\n")
    taken.answer("sbatch", "Submitted batch job 103\n", "Submitted batch job 104\n")
    assert len(make().submit("slurm", site)) == 3
    assert f"--name=srct-{entry.token}" in taken.calls("squeue")[0]
    assert taken.calls("scancel") == [["101"]]
    assert sweep.ledger.entry(sweep.runs[2].name).job == "103_2"


TIMED_OUT = ("", "slurm_load_jobs error: Socket timed out on send/recv operation\n", 1)


def test_what_a_killed_call_left_is_not_guessed_where_slurm_is_silent(make, taken, site):
    sweep = make()
    sweep.submit("slurm", site)
    for run in sweep.runs:
        sweep.ledger.note(replace(sweep.ledger.entry(run.name), job=None))
    taken.answer("squeue", TIMED_OUT)
    with pytest.raises(MachineError, match="Call again when squeue answers"):
        make().submit("slurm", site)
    assert len(taken.calls("sbatch")) == 2
    assert all(sweep.ledger.entry(run.name).job is None for run in sweep.runs)


def test_runs_of_which_a_silent_slurm_tells_nothing_are_left_alone(make, taken, site, monkeypatch):
    """Two jobs would write into one folder."""
    make().submit("slurm", site)
    monkeypatch.setattr("hpc_srct.sweeps.sweep._GRACE_S", -2)
    taken.answer("sacct", ("", "Slurm accounting storage is disabled\n", 1))
    taken.answer("squeue", TIMED_OUT)
    again = make()
    assert again.submit("slurm", site) == []
    assert len(taken.calls("sbatch")) == 2
    assert not any(again._given_up(now) for now in again.status())


def test_a_refusal_names_the_profile_and_leaves_nothing_submitted(make, slurm, site):
    slurm.answer("sbatch", ("", "sbatch: error: Invalid qos specification\n", 1))
    sweep = make()
    with pytest.raises(InputError, match="qos in my-site.yaml"):
        sweep.submit("slurm", site, site_name="my-site.yaml")
    assert all(s.state is State.NEW for s in sweep.status())


def test_without_accounting_files_and_queue_tell_and_it_is_said_once(make, taken, site, capfd):
    sweep = make()
    sweep.submit("slurm", site)
    names = [run.name for run in sweep.runs]
    sweep.ledger.note_outcome(names[0], sweep.ledger.entry(names[0]).token, "done")
    taken.answer("sacct", ("", "Slurm accounting storage is disabled\n", 1))
    taken.answer("squeue", "101_1|RUNNING\n")
    for _ in range(2):
        states = [now.state for now in sweep.status()]
    assert states == [State.DONE, State.RUNNING, State.UNKNOWN]
    assert capfd.readouterr().err.count("accounting does not answer") == 1


def test_a_run_that_was_preempted_for_good_goes_on(make, taken, site):
    """Where Slurm does not requeue what it preempts."""
    sweep = make()
    sweep.submit("slurm", site)
    taken.answer("sacct", "101_0|PREEMPTED\n101_1|PREEMPTED\n101_2|RUNNING\n102|PENDING\n")
    taken.answer("squeue", "101_1|PENDING\n")
    found = [(now.state, now.error) for now in make().status()]
    assert found[0] == (State.STOPPED, "it was preempted")
    assert [state for state, _ in found[1:]] == [State.WAITING, State.RUNNING]
    taken.answer("sbatch", "Submitted batch job 103\n", "Submitted batch job 104\n")
    assert make().submit("slurm", site) == [sweep.runs[0]]


def test_a_job_that_slurm_forgot_is_submitted_again(make, taken, site, monkeypatch):
    sweep = make()
    sweep.submit("slurm", site)
    taken.answer("sacct", "")
    taken.answer("sbatch", "Submitted batch job 103\n", "Submitted batch job 104\n")
    assert make().submit("slurm", site) == []  # accounting may just be late
    monkeypatch.setattr("hpc_srct.sweeps.sweep._GRACE_S", -2)
    assert len(make().submit("slurm", site)) == 3


def test_an_outcome_of_an_earlier_submission_does_not_count(make, taken, site):
    sweep = make()
    sweep.submit("slurm", site)
    sweep.ledger.note_outcome(sweep.runs[0].name, "another-token", "done")
    taken.answer("sacct", "101_0|RUNNING\n")
    assert sweep.status()[0].state is State.RUNNING


def test_only_one_call_at_a_time(make, taken, site):
    import multiprocessing

    sweep = make()
    with sweep.ledger.alone():
        child = multiprocessing.get_context("fork").Process(
            target=_submit_and_tell, args=(sweep, site)
        )
        child.start()
        child.join()
    assert child.exitcode == 2
    assert taken.calls("sbatch") == []


def _submit_and_tell(sweep: Sweep, site: object) -> None:
    try:
        sweep.submit("slurm", site)
    except InputError as error:
        assert "another call" in str(error)
        raise SystemExit(error.exit_code) from error


@pytest.mark.parametrize("name", ["100%j", "two\nlines", "back\\slash"])
def test_folders_that_slurm_would_misread_are_refused(make, slurm, site, name, tmp_path):
    with pytest.raises(InputError, match="out="):
        make(out=str(tmp_path / name)).submit("slurm", site)
    assert slurm.calls() == []


def test_the_command_without_a_profile(make, slurm, tmp_path):
    (tmp_path / "sweep.yaml").write_text("experiment: exp.yaml\ngrid: {seed: [1]}\n")
    (tmp_path / "exp.yaml").write_text("{}\n")
    with pytest.raises(InputError, match="--site"):
        run_sweep(tmp_path / "sweep.yaml", [f"out={tmp_path}/out"])
    with pytest.raises(InputError, match="slurm or local"):
        run_sweep(tmp_path / "sweep.yaml", [f"out={tmp_path}/out"], cluster="lsf")


def test_the_command_without_a_slurm(site_file, tmp_path, monkeypatch):
    (tmp_path / "sweep.yaml").write_text("experiment: exp.yaml\ngrid: {seed: [1]}\n")
    (tmp_path / "exp.yaml").write_text("{}\n")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(InputError, match="no sbatch on this machine") as refused:
        run_sweep(tmp_path / "sweep.yaml", [f"out={tmp_path}/out"], site=site_file)
    assert len(str(refused.value).splitlines()) == 2
    run_sweep(tmp_path / "sweep.yaml", [f"out={tmp_path}/out"], site=site_file, dry_run=True)


def test_the_command_submits_shows_and_concludes(make, taken, site_file, tmp_path, capfd):
    (tmp_path / "sweep.yaml").write_text("experiment: exp.yaml\ngrid: {seed: [1, 2]}\nname: mine\n")
    words = [f"out={tmp_path}/out", "evaluate=[]"]
    run_sweep(tmp_path / "sweep.yaml", words, site=site_file, dry_run=True)
    assert "#SBATCH --array=0-1%2" in capfd.readouterr().out
    run_sweep(tmp_path / "sweep.yaml", words, site=site_file)
    assert "2 of 2 runs submitted" in capfd.readouterr().out
    taken.answer("sacct", "101_0|RUNNING\n101_[1]|PENDING\n")
    run_sweep(tmp_path / "sweep.yaml", words, show_status=True)
    assert "1 waiting, 1 running" in capfd.readouterr().out
    sweep = Sweep.from_file(tmp_path / "sweep.yaml", words)
    first, second = (run.name for run in sweep.runs)
    token = sweep.ledger.entry(first).token
    sweep.ledger.note_outcome(first, token, "done")
    log = sweep.ledger.jobs / "101_1_0_log.err"
    log.write_text("".join(f"line {i}\n" for i in range(40)) + "Killed\n")
    taken.answer("sacct", "101_1|OUT_OF_MEMORY\n")
    with pytest.raises(MachineError, match="1 of 2 runs failed"):
        run_sweep(tmp_path / "sweep.yaml", words, site=site_file, wait=True)
    told = capfd.readouterr()
    assert f"{second}: failed: Slurm says OUT_OF_MEMORY" in told.err
    assert "Killed" in told.err
    assert str(log) in told.err
    assert "line 3\n" not in told.err
    assert "| 1 | done |" in (tmp_path / "out" / "results.md").read_text()
    assert "| 2 | failed |" in (tmp_path / "out" / "results.md").read_text()


def test_a_retry_that_is_refused_leaves_failed_runs_failed(make, taken, site):
    sweep = make()
    sweep.submit("slurm", site)
    for run in sweep.runs:
        sweep.ledger.note_outcome(run.name, sweep.ledger.entry(run.name).token, "failed", "no")
    taken.answer("sacct", "102|RUNNING\n")
    taken.answer("sbatch", LIMIT)
    with pytest.raises(InputError, match="may submit"):
        make().submit("slurm", site, retry_failed=True)
    again = make()
    assert [(now.state, now.error) for now in again.status()] == [(State.FAILED, "no")] * 3
    assert again.submit("slurm", site) == [], "failed ones only on request"


def test_a_folder_that_cannot_be_written(make, slurm, site, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot be written"):
        make(out=str(tmp_path / "file" / "out")).submit("slurm", site)
    assert slurm.calls("sbatch") == []


def test_jobs_that_left_nothing_at_all_are_told_with_a_hint(make, taken, site, monkeypatch, capfd):
    """The compute nodes cannot write there; or Slurm has forgotten the jobs."""
    sweep = make(evaluate=[])
    sweep.submit("slurm", site)
    taken.answer("sacct", "101_0|FAILED\n101_1|COMPLETED\n")
    monkeypatch.setattr("hpc_srct.sweeps.sweep._GRACE_S", -2)
    with pytest.raises(MachineError, match="3 of 3 runs failed"):
        sweep.conclude(sweep.wait(every=0.01))
    told = capfd.readouterr().err
    assert told.count("can the nodes of the cluster write to") == 3
    assert "Slurm says COMPLETED" in told  # but no outcome was written
    assert "Slurm knows nothing of it any more" in told
