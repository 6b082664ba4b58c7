"""The sbatch door: what is written into the scripts, and what is handed to Slurm."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hpc_srct.errors import InputError
from hpc_srct.sweeps import batch, pipeline, snapshot

ROOT = Path(__file__).resolve().parents[2]
SLURM = ROOT / "slurm"
KINDS = ("preprocess", "train", "enhance")

HOSTILE = 'it\'s a "scan"; touch pwned #$(touch pwned) `touch pwned` 100%j'


def template(kind: str) -> str:
    return (SLURM / f"{kind}.sbatch").read_text()


def directives(text: str) -> list[str]:
    return [
        line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")
    ]


def test_the_training_script_of_ihep(site):
    text = batch.render(template("train"), site, "train", nodes=2, code=Path("/code/123"))
    assert directives(text) == [
        "--job-name=srct-train",
        "--open-mode=append",
        "--partition=gpu",
        "--account=bldesign",
        "--qos=blnormal",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--cpus-per-task=4",
        "--mem-per-cpu=12G",
        "--gres=gpu:v100:4",
        "--time=1440",
        "--requeue",
        "--signal=USR2@300",
    ]
    assert "export SRCT_PYTHON=/opt/python\n" in text
    assert "export PYTHONPATH=/code/123" in text


def test_the_preprocessing_script_of_ihep(site):
    text = batch.render(template("preprocess"), site, "preprocess")
    assert directives(text) == [
        "--job-name=srct-preprocess",
        "--open-mode=append",
        "--partition=bldesign",
        "--account=bldesign",
        "--qos=blregular",
        "--nodes=1",
        "--ntasks-per-node=8",
        "--cpus-per-task=1",
        "--mem-per-cpu=2048",
        "--time=120",
        "--requeue",
        "--signal=TERM@300",
    ]
    assert "export SRCT_MPI=pmi2\n" in text


@pytest.mark.parametrize("kind", KINDS)
def test_all_directives_come_before_the_first_command(site, kind):
    """Slurm reads none after it."""
    site = site.model_copy(update={"modules": ("cuda/12",), "setup": ("umask 002",)})
    lines = batch.render(template(kind), site, kind).splitlines()
    commands = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert last < commands[0]
    assert lines[0] == "#!/bin/bash"


def test_the_set_up_comes_before_the_modules(site):
    """It may be what makes ``module`` known."""
    site = site.model_copy(
        update={
            "setup": (". /etc/profile.d/lmod.sh",),
            "modules": ("cuda/12",),
            "environment": {"A": "1"},
        }
    )
    text = batch.render(template("train"), site, "train")
    assert ". /etc/profile.d/lmod.sh\nmodule load cuda/12\nexport A=1\n" in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_themselves_are_valid_scripts(kind):
    subprocess.run(["bash", "-n", SLURM / f"{kind}.sbatch"], check=True)
    assert "--requeue" in directives(template(kind))


def test_a_site_that_does_not_requeue(site):
    site = site.model_copy(update={"requeue": False, "wckey": "w", "options": {"exclusive": True}})
    options = directives(batch.render(template("train"), site, "train"))
    assert "--no-requeue" in options
    assert "--requeue" not in options
    assert {"--wckey=w", "--exclusive"} <= set(options)


def test_more_tasks_than_gpus_are_refused(site):
    with pytest.raises(InputError, match="gpus_per_node"):
        batch.render(template("train"), site, "train", tasks_per_node=5)


def run_script(text: str, folder: Path, words: list[str], path: str) -> list[str]:
    """Run a batch script as Slurm would, with a python that only notes what it was asked."""
    python = folder / "python"
    python.write_text(
        '#!/bin/bash\nprintf "%s\\0" "$@" >> ' + shlex.quote(f"{folder}/asked") + "\n"
    )
    python.chmod(0o755)
    script = folder / "job.sh"
    script.write_text(text)
    environment = {**os.environ, "PATH": path, "SRCT_PYTHON": str(python)}
    subprocess.run(["bash", script, *words], check=True, cwd=folder, env=environment)
    return (folder / "asked").read_text().split("\0")[:-1]


def test_hostile_arguments_arrive_as_they_are(slurm, tmp_path):
    run = HOSTILE + "\nsecond line"
    words = ["my exp.yaml", run, "name='a b'", 'train=["it\'s"]']
    asked = run_script(template("train"), tmp_path, words, slurm.path)
    assert slurm.calls("srun") == [
        [
            "--kill-on-bad-exit=0",
            "--wait=30",
            "--mpi=none",
            str(tmp_path / "python"),
            *["-m", "hpc_srct", "train", "my exp.yaml", "--run-dir", run],
            *["name='a b'", 'train=["it\'s"]'],
        ]
    ]
    assert asked == [
        *["-m", "hpc_srct.sweeps.restarts", "before", run],
        *["-m", "hpc_srct.sweeps.restarts", "after", run, "0"],
    ]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_each_task_gets_the_cpus_that_the_job_got(slurm, tmp_path, kind, monkeypatch):
    """Since Slurm 22.05 srun does not take them from the job."""
    for cpus in ("3", None):
        if cpus is None:
            monkeypatch.delenv("SLURM_CPUS_PER_TASK")
        else:
            monkeypatch.setenv("SLURM_CPUS_PER_TASK", cpus)
        run_script(template(kind), tmp_path, ["a", "b", "c"], slurm.path)
        asked = [word for word in slurm.calls("srun")[-1] if word.startswith("--cpus-per-task")]
        assert asked == ([f"--cpus-per-task={cpus}"] if cpus else [])


def test_hostile_values_of_a_profile_stay_values(site, slurm, tmp_path):
    hostile = site.model_copy(
        update={
            "python": f"{tmp_path}/python",
            "environment": {"A": HOSTILE},
        }
    )
    text = batch.render(template("enhance"), hostile, "enhance", code=tmp_path / HOSTILE)
    text += f'printf %s "$A" > {shlex.quote(str(tmp_path))}/value\n'
    run_script(text, tmp_path, ["a store", "m", "out"], slurm.path)
    assert (tmp_path / "value").read_text() == HOSTILE
    assert not (tmp_path / "pwned").exists()


def test_the_code_of_the_submission(tmp_path):
    code = snapshot.take(tmp_path / "code")
    assert code == snapshot.take(tmp_path / "code") == snapshot.planned(tmp_path / "code")
    where = subprocess.run(
        [
            sys.executable,
            "-c",
            "import hpc_srct, hpc_srct.settings as s; print(hpc_srct.__file__, s.configs_folder())",
        ],
        cwd=ROOT,  # a checkout in the current folder must not come first
        env={**os.environ, **snapshot.environment(code)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where == f"{code}/hpc_srct/__init__.py {code}/configs\n"


# ---- the whole road


@pytest.fixture
def road(tmp_path, site_file):
    """A scan, an experiment, and the words that bring them down the road."""
    scan, experiment = tmp_path / "my scan.h5", tmp_path / "exp.yaml"
    scan.touch()
    experiment.write_text("train: [a store]\nepochs: 3\n")
    return [
        "pipeline",
        "--templates",
        str(SLURM),
        str(scan),
        str(experiment),
        "--site",
        str(site_file),
    ]


def test_a_dry_run_shows_what_a_real_one_submits(road, slurm, tmp_path, capfd, monkeypatch):
    """The same commands, and the same scripts, to the letter."""
    out = tmp_path / HOSTILE
    monkeypatch.setattr(snapshot, "files", lambda: [("hpc_srct/a.py", Path(__file__))])
    words = [*road, "-o", str(out), "train.seed=3", "preprocess.views=1/6"]
    assert pipeline.main([*words, "--dry-run"]) == 0
    shown = capfd.readouterr().out
    assert slurm.calls() == []
    assert not out.exists()

    slurm.answer("sbatch", "101\n", "102\n", "103\n")
    assert pipeline.main(words) == 0
    calls = slurm.calls("sbatch")
    assert [call[1] for call in calls] == [
        f"--output={out}/jobs/{kind}-%j.log".replace("100%j", "100%%j") for kind in KINDS
    ]
    for number, (kind, call) in enumerate(zip(KINDS, calls, strict=True)):
        known = {f"JOB_OF_{k}": str(101 + i) for i, k in enumerate(KINDS)}
        line = next(x for x in shown.splitlines() if x.startswith("$ ") and f"/{kind}.sbatch" in x)
        for name, job in known.items():
            line = line.replace(name, job)
        assert shlex.split(line.removeprefix("$ ")) == ["sbatch", *call]
        assert (out / "jobs" / f"{kind}.sbatch").read_text() in shown
        depends = [word for word in call if word.startswith("--dependency")]
        assert depends == ([f"--dependency=afterok:{100 + number}"] if number else [])
    told = capfd.readouterr().out
    assert f"102  train: log {out}/jobs/train-102.log\n" in told


def test_settings_are_those_of_the_submission(road, slurm, tmp_path):
    slurm.answer("sbatch", "101\n")
    assert pipeline.main([*road, "-o", str(tmp_path / "out"), "train.seed=3"]) == 0
    written = yaml.safe_load((tmp_path / "out" / "jobs" / "experiment.yaml").read_text())
    assert (written["seed"], written["epochs"], written["train"]) == (3, 3, ["a store"])
    train = slurm.calls("sbatch")[1]
    assert train[-2:] == [f"{tmp_path}/out/jobs/experiment.yaml", f"{tmp_path}/out/run"]
    assert slurm.calls("sbatch")[2][-3:] == [
        f"{tmp_path}/out/{x}" for x in ("store", "run", "enhanced")
    ]


def test_one_that_is_refused_takes_the_others_back(road, slurm, tmp_path, capfd):
    slurm.answer("sbatch", "101\n", ("", "sbatch: error: Invalid qos specification\n", 1))
    assert pipeline.main([*road, "-o", str(tmp_path / "out")]) == 2
    assert slurm.calls("scancel") == [["101"]]
    error = capfd.readouterr().err
    assert "my-site.yaml" in error
    assert "qos" in error


def test_it_is_not_submitted_twice(road, slurm, tmp_path, capfd):
    slurm.answer("sbatch", "101\n", "102\n", "103\n")
    words = [*road, "-o", str(tmp_path / "out")]
    assert pipeline.main(words) == 0
    slurm.answer("sacct", "101|COMPLETED\n102|RUNNING\n103|PENDING\n")
    jobs = tmp_path / "out" / "jobs"
    before = {path: path.read_bytes() for path in jobs.iterdir() if path.is_file()}
    assert pipeline.main([*words, "train.seed=4", "preprocess.views=1/6"]) == 2
    assert "scancel 102 103" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in before} == before, "the jobs read these"
    slurm.answer("sacct", "101|COMPLETED\n102|FAILED\n103|CANCELLED by 0\n")
    assert pipeline.main(words) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.epoch=3"], "did you mean 'epochs'"),
        (["preprocess.veiws=1/6"], "did you mean 'views'"),
        (["epochs=3"], "expected preprocess.KEY=VALUE or train.KEY=VALUE"),
        (["-o", "two\nlines"], "line break"),
        (["--tasks-per-node", "8"], "gpus_per_node"),
    ],
)
def test_bad_words_are_refused_before_anything_is_submitted(road, slurm, words, message, capfd):
    assert pipeline.main([*road, *words]) == 2
    assert message in capfd.readouterr().err
    assert slurm.calls("sbatch") == []


def test_a_scan_that_is_not_there(road, slurm, tmp_path, capfd):
    (tmp_path / "my scan.h5").unlink()
    assert pipeline.main(road) == 2
    assert "my scan.h5: no such scan" in capfd.readouterr().err


def test_no_slurm_here(road, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert pipeline.main([*road, "-o", str(tmp_path / "out")]) == 2
    assert "no sbatch on this machine" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(road, slurm, tmp_path, capfd):
    (tmp_path / "file").touch()
    assert pipeline.main([*road, "-o", str(tmp_path / "file" / "out")]) == 1
    assert "cannot be written" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("pipeline.sh", ["{scan}", "{exp}", "--site", "{site}", "--dry-run"]),
        ("submit.sh", ["--site", "{site}", "--dry-run", "train", "{exp}", "runs/a b", "seed=2"]),
    ],
)
def test_the_shell_scripts(road, tmp_path, site_file, script, words):
    names = {"scan": road[3], "exp": road[4], "site": site_file}
    done = subprocess.run(
        [SLURM / script, *(word.format(**names) for word in words)],
        env={**os.environ, "SRCT_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --gres=gpu:v100:4" in done.stdout
    if script == "submit.sh":
        assert done.stdout.splitlines()[0].endswith(f"train.sbatch {road[4]} 'runs/a b' seed=2")
