"""The test cluster itself does what the other tests rely on, and leaves nothing behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.mini_slurm import CannotStart, MiniSlurm, foreign_slurm
from cluster.road import processes_of


def submit(cluster, folder: Path, body: str, *options: str) -> str:
    """Submit a batch script; give its job id."""
    script = folder / "job.sh"
    script.write_text(f"#!/bin/bash\n{body}\n")
    done = cluster.run("sbatch", "--parsable", f"--output={folder}/%x-%a.log", *options, script)
    return done.stdout.strip()


def states(cluster, job: str) -> list[str]:
    """What accounting says of a job's allocation(s)."""
    done = cluster.run("sacct", "-n", "-X", "-P", "-o", "State", "-j", job)
    return done.stdout.split()


def test_a_job_over_two_nodes_has_a_gpu_on_each(cluster, tmp_path, wait):
    body = "srun bash -c 'echo $SLURMD_NODENAME $SLURM_PROCID $CUDA_VISIBLE_DEVICES'"
    job = submit(
        cluster, tmp_path, body, "--job-name=two", "-N2", "--ntasks-per-node=1", "--gres=gpu:v100:1"
    )
    wait("the job is done", lambda: states(cluster, job) == ["COMPLETED"])
    assert sorted((tmp_path / "two-4294967294.log").read_text().splitlines()) == [
        "n1 0 0",
        "n2 1 0",
    ]


def test_node_names_resolve_inside_a_job(cluster, tmp_path, wait):
    job = submit(cluster, tmp_path, "getent hosts n1 n2", "--job-name=names")
    wait("the job is done", lambda: states(cluster, job) == ["COMPLETED"])
    assert (tmp_path / "names-4294967294.log").read_text().count("127.0.0.1") == 2
    # The host's own file is another one.
    assert "n1 n2" not in Path("/etc/hosts").read_text()


def test_an_array_keeps_its_parallelism_limit(cluster, tmp_path, wait):
    mark = f"{tmp_path}/running"
    body = (
        f'mkdir "{mark}" || exit 3\n'  # two at once and one of them fails
        f'sleep 0.5; rmdir "{mark}"; exit 0'
    )
    job = submit(cluster, tmp_path, body, "--array=0-2%1")
    wait("the array is done", lambda: states(cluster, job) == ["COMPLETED"] * 3, within_s=90)


def test_a_requeued_job_starts_again(cluster, tmp_path, wait):
    body = 'if [ -z "$SLURM_RESTART_COUNT" ]; then scontrol requeue $SLURM_JOB_ID; sleep 60; fi'
    job = submit(cluster, tmp_path, body + '\necho "restarts: $SLURM_RESTART_COUNT"', "--requeue")
    wait("it is done", lambda: states(cluster, job) == ["COMPLETED"], within_s=180)
    assert "restarts: 1" in "".join(p.read_text() for p in tmp_path.glob("*.log"))


def test_accounting_tells_a_failure(cluster, tmp_path, wait):
    job = submit(cluster, tmp_path, "exit 75")
    wait("it has failed", lambda: states(cluster, job) == ["FAILED"])
    answer = cluster.run("sacct", "-n", "-X", "-P", "-o", "ExitCode", "-j", job)
    assert answer.stdout.strip() == "75:0"


def test_an_unknown_account_is_refused(cluster, tmp_path):
    with pytest.raises(AssertionError, match="Invalid account"):
        submit(cluster, tmp_path, "true", "--account=nobody")


def test_a_host_with_a_slurm_is_refused_and_a_test_cluster_is_none(cluster, tmp_path):
    assert foreign_slurm() is None
    daemon = tmp_path / "slurmd"
    shutil.copy("/bin/sleep", daemon)
    with subprocess.Popen([daemon, "60"]) as foreign:
        try:
            with pytest.raises(CannotStart, match=rf"already: slurmd runs .process {foreign.pid}"):
                MiniSlurm(tmp_path / "second").start()
        finally:
            foreign.kill()


def test_what_a_slurm_left_that_is_gone_does_not_matter(tmp_path, monkeypatch):
    conf = tmp_path / "slurm.conf"
    conf.touch()
    monkeypatch.setattr("cluster.mini_slurm.SYSTEM_CONF", (str(conf),))
    assert foreign_slurm() is None


def test_a_folder_with_files_in_it_is_refused(tmp_path):
    (tmp_path / "precious").write_text("data")
    with pytest.raises(CannotStart, match="not empty"):
        MiniSlurm(tmp_path).start()
    assert (tmp_path / "precious").read_text() == "data"


def test_taking_it_down_leaves_nothing_running(tmp_path, wait):
    slurm = MiniSlurm(tmp_path / "slurm", accounting=False)
    slurm.start()
    slurm.run("sbatch", "--wrap=sleep 1000", "--output=/dev/null")
    wait("the job runs", lambda: "sleep 1000" in " ".join(processes_of(tmp_path / "slurm")))
    slurm.stop()
    assert processes_of(tmp_path / "slurm") == []


def test_it_ends_with_the_process_that_brought_it_up(tmp_path, wait):
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, cluster.mini_slurm as m, time\n"
            "slurm = m.MiniSlurm(sys.argv[1], accounting=False); slurm.start()\n"
            "slurm.run('sbatch', '--wrap=sleep 1000', '--output=/dev/null')\n"
            "print('up', flush=True); time.sleep(1000)",
            tmp_path / "slurm",
        ],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout.readline() == "up\n"
    wait("the job runs", lambda: "sleep 1000" in " ".join(processes_of(tmp_path / "slurm")))
    parent.kill()
    parent.wait()
    wait("nothing of it runs", lambda: not processes_of(tmp_path / "slurm"))
