"""The doors that people copy: they hand on what they are given, whatever is in it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = 'it\'s a "name" $(touch pwned) `touch pwned`\nsecond line'


@pytest.fixture
def python(tmp_path):
    """A Python that notes how it was started where it would start ranks, else is the real one.

    The launcher that it stands for starts a rank of its own and ends with the rank's code.
    """
    rank = tmp_path / "rank.py"
    rank.write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (print('saved'), sys.exit(75)))\n"
        "pathlib.Path(__file__).with_name('listens').touch()\n"
        "time.sleep(60)\n"
    )
    path = tmp_path / "python"
    path.write_text(
        "#!/bin/bash\n"
        f"note() {{ printf '%s\\0' \"$@\" > {shlex.quote(str(tmp_path / 'asked'))}; }}\n"
        "case $2 in\n"
        '    deepspeed.launcher.runner) note "$@"\n'
        "        [[ -v ONE_RANK ]] || exit 0\n"
        f"        {shlex.join([sys.executable, str(rank)])} -m hpc_srct --local_rank=0\n"
        "        exit $? ;;\n"
        '    hpc_srct) note "$@" ;;\n'
        f'    *) exec {shlex.quote(sys.executable)} "$@" ;;\n'
        "esac\n"
    )
    path.chmod(0o755)
    return path


def start(python: Path, words: list[str | Path], **environment: str) -> subprocess.Popen[str]:
    path = {"PYTHONPATH": str(ROOT), "PATH": f"{python.parent}:{os.environ['PATH']}"}
    return subprocess.Popen(
        [str(word) for word in words],
        cwd=python.parent,
        env={**os.environ, **path, "SRCT_PYTHON": str(python), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def asked(python: Path) -> list[str]:
    return (python.parent / "asked").read_text().split("\0")[:-1]


@pytest.fixture
def experiment(tmp_path):
    folder = tmp_path / HOSTILE
    folder.mkdir()
    path = folder / "exp.yaml"
    path.write_text("name: tiny\n")
    return path


def test_the_workstation_door_hands_on_its_words(python, experiment):
    hostile = f"input={json.dumps(HOSTILE)}"
    process = start(python, [ROOT / "launch/workstation.sh", experiment, "2", hostile])
    assert process.wait() == 0, process.stderr.read()
    words = asked(python)
    assert words[:4] == ["-m", "deepspeed.launcher.runner", "--num_accelerators", "2"]
    assert words[6:] == [
        *("--module", "hpc_srct", "train", str(experiment)),
        *("--run-dir", "runs/tiny", hostile),
    ]
    assert not (python.parent / "pwned").exists()


def smi(folder: Path, count: int) -> None:
    """Put an nvidia-smi of a machine with so many GPUs on PATH."""
    path = folder / "nvidia-smi"
    path.write_text("#!/bin/bash\n" + "".join(f"echo 'GPU {i}: a GPU'\n" for i in range(count)))
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("visible", "number", "expected"),
    [
        ("2,3", [], ["--include", "localhost:2,3"]),
        ("3,1", ["1"], ["--include", "localhost:3"]),
        ("", [], ["--num_accelerators", "4"]),
        ("", ["2"], ["--num_accelerators", "2"]),
    ],
)
def test_the_workstation_door_takes_the_gpus_that_are_named(
    python, experiment, visible, number, expected
):
    smi(python.parent, 4)
    words = [ROOT / "launch/workstation.sh", experiment, *number]
    process = start(python, words, CUDA_VISIBLE_DEVICES=visible)
    assert process.wait() == 0, process.stderr.read()
    assert asked(python)[2:4] == expected


@pytest.mark.parametrize("visible", ["2,3", "GPU-0a1b"])
def test_the_workstation_door_refuses_gpus_that_are_not_there(python, experiment, visible):
    smi(python.parent, 4)
    words = [ROOT / "launch/workstation.sh", experiment, "3"]
    process = start(python, words, CUDA_VISIBLE_DEVICES=visible)
    assert process.wait() == 2
    assert f"CUDA_VISIBLE_DEVICES={visible}" in process.stderr.read()
    assert not (python.parent / "asked").exists()


def test_the_workstation_door_resumes_what_began(python, experiment):
    run = python.parent / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "settings.yaml").touch()
    process = start(python, [ROOT / "launch/workstation.sh", experiment, "1"])
    assert process.wait() == 0
    assert asked(python)[-1] == "--resume"


def test_ctrl_c_reaches_the_ranks_alone_and_says_how_to_go_on(python, experiment):
    process = start(python, [ROOT / "launch/workstation.sh", experiment, "1"], ONE_RANK="yes")
    while not (python.parent / "listens").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "saved" in out
    assert "runs/tiny; the same command goes on" in err


def test_the_workstation_door_refuses_bad_settings_in_words(python, experiment):
    process = start(python, [ROOT / "launch/workstation.sh", experiment, "1", "epoch=3"])
    _, err = process.communicate()
    assert process.returncode == 2
    assert err.strip().endswith("did you mean 'epochs'?")


@pytest.fixture
def mpiexec(python, tmp_path) -> None:
    """An mpiexec that says the number of ranks; none stands beside this Python."""
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text('#!/bin/bash\n[[ $1 == -n ]] && echo "ranks $2" && shift 2 && exec "$@"\n')
    mpiexec.chmod(0o755)
    text = python.read_text().replace("*) exec", f"*) echo {shlex.quote(str(tmp_path))} ;; x) exec")
    python.write_text(text)


def test_the_preprocessing_door_hands_on_its_words(python, mpiexec):
    words = [ROOT / "launch/preprocess.sh", HOSTILE, "a store", "3", "views=1/6"]
    out, err = start(python, words).communicate()
    assert out == "ranks 3\n", err
    assert asked(python) == ["-m", "hpc_srct", "preprocess", HOSTILE, "-o", "a store", "views=1/6"]


@pytest.mark.parametrize("threads", ["1", "7"])
def test_the_preprocessing_door_counts_cores_whatever_the_threads(python, mpiexec, threads):
    words = [ROOT / "launch/preprocess.sh", "scan.h5", "store"]
    out, err = start(python, words, OMP_NUM_THREADS=threads, OMP_THREAD_LIMIT=threads).communicate()
    assert out == f"ranks {len(os.sched_getaffinity(0))}\n", err


def test_the_notebook_example_is_short_and_runs(tmp_path, site_file, slurm):
    """Up to the waiting, which is interrupted; with what Slurm was handed."""
    script = ROOT / "launch" / "sweep.py"
    assert len(script.read_text().splitlines()) <= 40
    slurm.answer("sbatch", "Submitted batch job 101\n", "Submitted batch job 102\n")
    slurm.answer("sacct", "101_[0-7]|CANCELLED\n102|CANCELLED\n")
    done = subprocess.run(
        [sys.executable, script, site_file],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "| unet | 16 | 2 stopped |" in done.stdout
    assert [call[0].rpartition("/")[2][:16] for call in slurm.calls("sbatch")] == [
        ".submission_file"
    ] * 2
    entries = [json.loads(p.read_text()) for p in (tmp_path / "sweeps/widths/ledger").iterdir()]
    assert sorted(e["job"] for e in entries) == sorted([f"101_{i}" for i in range(8)] + ["102"])
