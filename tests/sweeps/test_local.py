"""A sweep on this machine, with real processes and a training that takes no torch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweeps import fake_road

from hpc_srct.errors import MachineError
from hpc_srct.sweeps import Sweep, submission
from hpc_srct.sweeps.command import run_sweep
from hpc_srct.sweeps.status import State

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """An experiment and a sweep of it, and the package with a fake training in it."""
    source = fake_road.make_source(tmp_path / "source")
    monkeypatch.setattr("hpc_srct.sweeps.snapshot.files", lambda: source)
    monkeypatch.setattr("hpc_srct.sweeps.sweep.LOCAL_EVERY_S", 0.2)
    monkeypatch.setattr(submission, "gpus_here", lambda: 0)
    (tmp_path / "exp.yaml").write_text("epochs: 4\n")
    path = tmp_path / "sweep.yaml"
    path.write_text(f'experiment: exp.yaml\nname: here\nout: "{tmp_path}/it\'s a sweep"\n')
    return path


def processes(folder: Path) -> list[str]:
    """Command lines of processes that name `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(folder) in (text := path.read_bytes()):
                found.append(text.replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_runs_their_evaluation_and_the_table_and_one_failure(files, tmp_path, capfd):
    words = ["grid={seed: [1, 2, 13]}", "parallel=3", "tasks_per_node=1"]
    with pytest.raises(MachineError, match="1 of 3 runs failed"):
        run_sweep(files, words, cluster="local")
    told = capfd.readouterr()
    assert "the loss is not finite." in told.err
    assert "_0_log.err" in told.err
    out = tmp_path / "it's a sweep"
    table = (out / "results.md").read_text()
    assert "| 1 | done | 25.00 |" in table
    assert "| 2 | done | **26.00** |" in table
    assert "| 13 | failed |" in table
    assert "PSNR (dB), phantoms vs truth" in table
    # The evaluation had the two that are done.
    assert (out / "evaluation" / "table.md").read_text() == "2 runs on ('test',)\n"

    # Called again: nothing runs; asked to, the failed one runs and fails again.
    sweep = Sweep.from_file(files, words)
    assert sweep.submit("local") == []
    assert [s.state for s in sweep.status()] == [State.DONE, State.DONE, State.FAILED]


def test_two_ranks_stop_saved_and_go_on(files, tmp_path):
    """The caller is killed, its runs go on; asked to stop they save; called again they go on."""
    words = ["grid={seed: [1]}", "set={tiles.workers: 1}", "tasks_per_node=2", "evaluate=[]"]
    script = (
        "import sys; from pathlib import Path\n"
        "from sweeps import fake_road\n"
        "from hpc_srct.sweeps import Sweep, snapshot\n"
        "source = fake_road.make_source(Path(sys.argv[1]))\n"
        "snapshot.files = lambda: source\n"
        "sweep = Sweep.from_file(sys.argv[2], sys.argv[3:])\n"
        "sweep.submit('local')\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    caller = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "source", files, *words],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"},
    )
    assert caller.returncode == -9
    sweep = Sweep.from_file(files, words)
    [run] = sweep.runs
    metrics = sweep.ledger.run_folder(run.name) / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    [now] = sweep.status()
    assert (now.state, now.step["step"]) == (State.RUNNING, 1)
    assert sweep.submit("local") == [], "it runs already"

    assert sweep.stop_here() == []
    [now] = sweep.status()
    assert (now.state, now.error) == (State.STOPPED, "stopped by SIGTERM after step 1; saved.")
    assert processes(sweep.ledger.jobs) == []

    assert sweep.submit("local") == [run]
    [now] = sweep.wait()
    assert (now.state, now.attempts) == (State.DONE, 2)
    steps = [line for line in metrics.read_text().splitlines() if '"step", "step"' in line]
    assert len(steps) == 4, "no step was taken twice"
    assert (metrics.parent / "world").read_text() == "2"


def test_a_process_that_died_without_a_word_is_a_failure(files, monkeypatch):
    sweep = Sweep.from_file(files, ["grid={seed: [1]}"])
    [run] = sweep.runs
    dead = subprocess.Popen(["true"])
    dead.wait()
    [entry] = submission._entries({run.name: {}}, sweep.ledger, "t", "local", Path("code"))
    sweep.ledger.note(entry.__class__(**{**entry.__dict__, "job": str(dead.pid)}))
    assert sweep.status()[0].state is State.FAILED
    # A living process of that number, but another's.
    sweep.ledger.note(entry.__class__(**{**entry.__dict__, "job": str(os.getpid())}))
    assert sweep.status()[0].state is State.FAILED


def test_gpus_are_shared_out_to_the_runs_that_are_at_once(files, monkeypatch):
    asked = []
    monkeypatch.setattr(submission, "gpus_here", lambda: 4)

    class Executor:
        def __init__(self, *_: object, **__: object):
            pass

        def update_parameters(self, **options: object) -> None:
            asked.append((options["local_visible_gpus"], options["gpus_per_node"]))

        def submit(self, job: object) -> object:
            return type("Job", (), {"job_id": "1"})

    monkeypatch.setattr(submission, "AutoExecutor", Executor)
    sweep = Sweep.from_file(files, ["grid={seed: [1, 2, 3]}", "tasks_per_node=2", "parallel=2"])
    assert len(sweep.submit("local")) == 2
    assert asked == [((0, 1), 2), ((2, 3), 2)]
    # The first has ended: the third takes its place.
    sweep.queue.fill([sweep.runs[1].name])
    assert asked[2] == ((0, 1), 2)


def test_what_is_left_of_a_failed_run_is_ended(files, monkeypatch):
    """Its other tasks wait for the lost one, and submitit's controller waits for them."""
    sweep = Sweep.from_file(files, ["grid={seed: [1]}"])
    [run] = sweep.runs
    controller = subprocess.Popen(
        [
            *(sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"),
            *("submitit.local._local", str(sweep.ledger.jobs)),
        ]
    )
    [entry] = submission._entries({run.name: {}}, sweep.ledger, "t", "local", Path("code"))
    entry = entry.__class__(**{**entry.__dict__, "job": str(controller.pid)})
    sweep.ledger.note(entry)
    sweep.ledger.note_outcome(run.name, "t", "failed", "rank 0 was lost")
    submission.finish_off(entry, sweep.ledger)  # it may still be leaving by itself
    assert controller.poll() is None
    monkeypatch.setattr(submission, "_LEAVE_WITHIN_S", -2.0)
    deadline = time.monotonic() + 30
    while controller.poll() is None and time.monotonic() < deadline:
        submission.finish_off(entry, sweep.ledger)
        time.sleep(0.1)
    assert controller.poll() is not None
