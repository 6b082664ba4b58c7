"""A job goes on where it was, and not for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_srct.errors import MachineError, Stopped
from hpc_srct.sweeps import restarts, scheduler
from hpc_srct.workflows.reconstruct import INPUT

MAY = "JobId=7 JobState=RUNNING Requeue=1"


def advance(run: Path, step: int) -> None:
    """What training leaves behind after a save."""
    checkpoints = run / "checkpoints"
    (checkpoints / f"step-{step:08d}").mkdir(parents=True)
    (checkpoints / "current").write_text(f"step-{step:08d}\n")
    (run / "settings.yaml").touch()


def life(run: Path, restart: int) -> str:
    """Start the job for the `restart`-th time after the first."""
    return restarts.before(run, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restart)})


def stop(run: Path, code: int = 75) -> None:
    restarts.after(run, code, {"SLURM_JOB_ID": "7"})


def test_a_new_run_begins_and_an_old_one_is_resumed(tmp_path):
    assert life(tmp_path / "run", 0) == ""
    assert not (tmp_path / "run").exists(), "training makes its own folder"
    advance(tmp_path / "run", 1)
    assert life(tmp_path / "run", 0) == "--resume"


def test_progress_of_runs_and_of_stores(tmp_path):
    assert restarts.progress(tmp_path / "nothing") == 0
    advance(tmp_path / "run", 12)
    assert restarts.progress(tmp_path / "run") == 12
    shards = tmp_path / "store" / "shards"
    shards.mkdir(parents=True)
    for name in ("rows-00000-00031.h5", "rows-00032-00063.h5", ".rows-00064-00095.h5.9.part"):
        (shards / name).touch()
    assert restarts.progress(tmp_path / "store") == 2


def test_a_scan_that_is_reconstructed_before_it_is_enhanced_is_progress(tmp_path):
    out = tmp_path / "out"
    shards = out / INPUT / "shards"
    shards.mkdir(parents=True)
    for restart in range(4):
        life(out, restart)
        (shards / f"rows-{32 * restart:05d}-{32 * restart + 31:05d}.h5").touch()
    assert restarts.progress(out) == 4
    # Then the other half of the work, over the input that is whole.
    (out / "shards").mkdir()
    (out / "shards" / "rows-00000-00031.h5").touch()
    life(out, 4)
    with pytest.raises(MachineError, match="no progress"):
        life(out, 5)


@pytest.mark.parametrize("code", [75, 128 + 12, 128 + 15])
def test_a_job_that_stopped_is_requeued_and_does_not_end_well(
    slurm, tmp_path, code, monkeypatch, capsys
):
    slurm.answer("scontrol", MAY)
    life(tmp_path / "run", 0)
    requeue, said = scheduler.requeue, []
    monkeypatch.setattr(
        scheduler, "requeue", lambda job: (said.append(capsys.readouterr().out), requeue(job))
    )
    with pytest.raises(Stopped, match="requeued") as caught:
        stop(tmp_path / "run", code)
    assert caught.value.exit_code == 75, "a dependent job must not start"
    assert slurm.calls("scontrol")[-1] == ["requeue", "7"]
    # Slurm may end this very process in the call.
    assert "; requeued." in said[0].replace("\n", " ")


@pytest.mark.parametrize("code", [1, 2, 137])
def test_a_job_that_failed_keeps_its_code_and_is_not_requeued(slurm, tmp_path, code):
    slurm.answer("scontrol", MAY)
    with pytest.raises(MachineError, match="submit the job again") as caught:
        stop(tmp_path / "run", code)
    assert caught.value.exit_code == code
    assert slurm.calls() == []


@pytest.mark.parametrize("state", ["JobState=COMPLETING Requeue=1", "JobState=RUNNING Requeue=0"])
def test_a_cancelled_job_stays_cancelled(slurm, tmp_path, state):
    slurm.answer("scontrol", state)
    with pytest.raises(Stopped, match="not requeued"):
        stop(tmp_path / "run")
    assert ["requeue", "7"] not in slurm.calls("scontrol")


def test_without_progress_between_two_restarts_it_ends(slurm, tmp_path):
    slurm.answer("scontrol", MAY)
    run = tmp_path / "run"
    life(run, 0)
    with pytest.raises(Stopped):  # the first life may be short: preempted while it loaded
        stop(run)
    life(run, 1)
    with pytest.raises(MachineError, match="no progress"):
        stop(run)


def test_with_progress_it_goes_on(slurm, tmp_path):
    slurm.answer("scontrol", MAY)
    run = tmp_path / "run"
    for restart in range(4):
        life(run, restart)
        advance(run, restart + 1)
        with pytest.raises(Stopped, match="requeued"):
            stop(run)


def test_restarts_by_slurm_itself_count_too(tmp_path):
    run = tmp_path / "run"
    life(run, 0)
    life(run, 1)
    with pytest.raises(MachineError, match="no progress"):
        life(run, 2)


def test_another_job_on_the_same_folder_starts_afresh(tmp_path):
    run = tmp_path / "run"
    life(run, 0)
    life(run, 1)
    assert restarts.before(run, {"SLURM_JOB_ID": "8", "SLURM_RESTART_COUNT": "2"}) == ""


def test_a_good_end_leaves_no_record(tmp_path):
    run = tmp_path / "run"
    life(run, 0)
    assert list(tmp_path.glob(".*")) != []
    run.mkdir()
    (run / "model.safetensors").touch()
    stop(run, 0)
    assert list(tmp_path.glob(".*")) == []


def test_a_good_end_with_nothing_to_show_is_a_failure(tmp_path):
    """srun may say 0 where it could not start the tasks."""
    for folder, product in (("run", "model.safetensors"), ("store", "slices.h5")):
        with pytest.raises(MachineError, match="not complete"):
            stop(tmp_path / folder, 0)
        (tmp_path / folder).mkdir()
        (tmp_path / folder / product).touch()
        stop(tmp_path / folder, 0)


def test_as_a_command(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    advance(tmp_path / "run", 3)
    assert restarts.main(["before", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == "--resume"
    assert restarts.main(["after", str(tmp_path / "run"), "0"]) == 1
    assert "not complete" in capsys.readouterr().err
    assert restarts.main(["after", str(tmp_path / "run"), "2"]) == 2
    assert "mend it" in capsys.readouterr().err
