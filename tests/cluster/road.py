"""Helpers of the cluster tests: submit as a user would, and look at what became of it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from cluster.mini_slurm import MARK, MiniSlurm

ROOT = Path(__file__).resolve().parents[2]

SITE = {
    "inherit": "sites/generic.yaml",
    "requeue": True,
    # Slurm 22.05's pmi2 garbled UCX's long addresses once in 250 starts; libfabric's are short.
    "environment": {"OMP_NUM_THREADS": "1", "MPIR_CVAR_CH4_NETMOD": "ofi"},
    "stop_before_end": "60s",
    "cpu": {"time_limit": "10m", "mem_per_cpu": 1000, "tasks_per_node": 1},
    "gpu": {
        "partition": "gpu",
        "time_limit": "10m",
        "mem_per_cpu": 1000,
        "gpus_per_node": 2,
        "gpu_type": "v100",
        "cpus_per_task": 1,
    },
}


class User:
    """Somebody at the cluster's login node, in a folder of their own."""

    def __init__(self, cluster: MiniSlurm, folder: Path, wait: Callable[..., None]):
        self.cluster, self.folder, self._wait = cluster, folder, wait
        self.site()

    def site(self, name: str = "site.yaml", **changes: object) -> Path:
        """Write a site profile."""
        path = self.folder / name
        tree = {**SITE, **{k: v for k, v in changes.items() if not isinstance(v, dict)}}
        for key, values in changes.items():
            if isinstance(values, dict):
                tree[key] = {**SITE.get(key, {}), **values}
        path.write_text(yaml.safe_dump(tree))
        return path

    def do(self, *words: object, check: bool = True, timeout: float = 120):
        """Run a command with this project's Python first on PATH."""
        environment = {
            **self.cluster.environment,
            "SRCT_PYTHON": sys.executable,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        return self.cluster.run(
            *words, check=check, cwd=self.folder, env=environment, timeout=timeout
        )

    def submit(
        self, *words: object, nodes: int = 2, tasks: int = 1, site: str = "site.yaml"
    ) -> str:
        """Submit with ``slurm/submit.sh``; give the job id."""
        options = ["--site", site, "--nodes", nodes, "--tasks-per-node", tasks]
        return self.do(ROOT / "slurm" / "submit.sh", *options, *words).stdout.split()[0]

    def state(self, job: str) -> str:
        """What accounting says of a job now."""
        done = self.do("sacct", "-n", "-X", "-P", "-o", "State", "-j", job)
        return (done.stdout.split() or ["UNKNOWN"])[0]

    def log(self, job: str) -> str:
        """The log of a job that ``submit`` or the pipeline made."""
        return "".join(p.read_text() for p in self.folder.glob(f"**/*-{job}.log"))

    def until(self, job: str, *states: str, within_s: float = 400) -> None:
        """Wait until a job is in one of these states."""
        self._wait(
            f"job {job} is {' or '.join(states)}\n{self.log(job)}",
            lambda: self.state(job) in states,
            within_s,
        )

    def until_steps(self, run: Path, count: int, within_s: float = 300) -> None:
        """Wait until a run has taken so many steps."""
        self._wait(f"{run} has {count} steps", lambda: steps(run) >= count, within_s)

    def ranks(self, of: str = "-m hpc_srct train") -> list[str]:
        """Process ids of a job's tasks, as numbered inside the cluster."""
        pattern = rf"^[^ ]*python[^ ]* .*{of}"
        return self.do("pgrep", "-f", pattern, check=False).stdout.split()

    @contextmanager
    def held(self, of: str, number: signal.Signals) -> Iterator[None]:
        """Hold a job's tasks where they are, until Slurm has sent them a signal.

        However slow or fast the machine is, they are told in the middle of their work.
        """
        ranks = self.ranks(of)
        assert ranks, f"nothing of '{of}' runs"
        self.do("kill", "-STOP", *ranks)
        try:
            yield
            self._wait(
                f"{number.name} has come",
                lambda: all(self._is_told(rank, number) for rank in ranks),
                300,
            )
        finally:
            self.do("kill", "-CONT", *ranks, check=False)

    def _is_told(self, rank: str, number: signal.Signals) -> bool:
        lines = self.do("cat", f"/proc/{rank}/status", check=False).stdout.splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if not status.get("State", "").startswith("T"):
            return True  # with TERM, Slurm also tells it to go on
        return bool(int(status["ShdPnd"], 16) >> (number - 1) & 1)

    def until_shards(self, store: Path, within_s: float = 240) -> None:
        """Wait until a store has its first shard, and be quick to notice."""
        deadline = time.monotonic() + within_s
        while not shards(store):
            assert time.monotonic() < deadline, f"no shard in {store}"
            time.sleep(0.01)

    def preempt(self) -> str:
        """Submit a job that takes both nodes from whoever has them; give its id."""
        words = ["--parsable", "--partition=urgent", "--nodes=2", "--exclusive"]
        return self.do("sbatch", *words, "--output=/dev/null", "--wrap=sleep 1").stdout.strip()


def shards(store: Path) -> dict[str, int]:
    """The shards of a store that are whole, with the time at which each was made."""
    return {path.name: path.stat().st_mtime_ns for path in store.glob("shards/rows-*.h5")}


def steps(run: Path) -> int:
    """Count the steps in a run's metrics."""
    try:
        return (run / "metrics.jsonl").read_text().count('"kind": "step"')
    except OSError:
        return 0


def processes_of(cluster: Path) -> list[str]:
    """Every process of the cluster in a folder, which they name in their environment."""
    mark, found = f"{MARK}={cluster}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
