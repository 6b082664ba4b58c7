"""Who am I among how many, under each launcher."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hpc_srct import ranks
from hpc_srct.errors import InputError

MPIEXEC = Path(sys.executable).parent / "mpiexec"
WHO = (
    "from hpc_srct.ranks import communicator; c = communicator();"
    "seen = c.gather((c.rank, c.size, c.broadcast(c.rank + 7)));"
    "print(seen) if c.rank == 0 else None"
)


def test_alone_without_a_launcher():
    assert ranks.communicator({}) == ranks.Communicator(0, 1, None)


def test_three_mpi_ranks_find_each_other():
    answer = subprocess.run(
        [MPIEXEC, "-n", "3", sys.executable, "-c", WHO], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[(0, 3, 7), (1, 3, 7), (2, 3, 7)]"


def test_alone_among_several_slurm_tasks_is_refused():
    with pytest.raises(InputError, match="--mpi=pmi2"):
        ranks.communicator({"SLURM_STEP_NUM_TASKS": "4"})


def test_the_batch_step_is_alone_though_its_job_has_many_tasks():
    environ = {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    assert ranks.communicator(environ).size == 1
    assert ranks.torch_environment(environ)["WORLD_SIZE"] == "1"


def test_a_launchers_variables_stand():
    given = {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu007",
        "MASTER_PORT": "29500",
        "SLURM_STEP_NUM_TASKS": "9",
    }
    assert ranks.torch_environment(given | {"HOME": "/"}) == {
        k: v for k, v in given.items() if not k.startswith("SLURM")
    }


def test_srun_gives_all_five_from_the_step(monkeypatch):
    monkeypatch.setattr(ranks, "first_host", lambda nodes: f"first of {nodes}")
    step = {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NODELIST": "gpu[003-004]",
        "SLURM_JOB_ID": "41234",
    }
    found = ranks.torch_environment(step)
    assert found["RANK"] == "2"
    assert found["WORLD_SIZE"] == "4"
    assert found["MASTER_ADDR"] == "first of gpu[003-004]"
    other = ranks.torch_environment(step | {"SLURM_PROCID": "3"})
    assert other["MASTER_PORT"] == found["MASTER_PORT"], "ranks must agree without talking"
