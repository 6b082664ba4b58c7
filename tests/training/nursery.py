"""Starts training processes quickly: torch and DeepSpeed are imported once, then forked.

Run as a script it reads one JSON object a line, each a process to start, and answers with its
process id; when a process has ended it says so. Used through `Nursery`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from hpc_srct.settings.experiment import ExperimentSettings

TORCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Process:
    """A training process."""

    def __init__(self, pid: int, log: Path):
        self.pid, self.log = pid, log
        self.code: int | None = None
        self.ended = threading.Event()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        if not self.ended.is_set():
            os.kill(self.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """Wait for the end; give the exit code, negative for a signal."""
        if not self.ended.wait(seconds):
            self.kill()
            raise AssertionError(f"still running after {seconds} s:\n{self.log.read_text()}")
        return self.code


class Nursery:
    """Where training processes come from."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.running: dict[int, Process] = {}
        self._count = 0
        self._script = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k not in TORCH} | {"OMP_NUM_THREADS": "1"},
        )
        self._born = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(
        self,
        settings: ExperimentSettings,
        run: Path,
        resume: bool = False,
        **environment: str,
    ) -> Process:
        """Start one process of a run; `environment` has its torch variables."""
        self._count += 1
        log = self.folder / f"log-{self._count}"
        order = {
            "settings": settings.dump(),
            "run": str(run),
            "resume": resume,
            "environment": environment,
            "log": str(log),
        }
        self._born.clear()
        self._script.stdin.write(json.dumps(order) + "\n")
        self._script.stdin.flush()
        assert self._born.wait(280), "the nursery does not answer"
        return self._last

    def ranks(
        self, count: int, settings: ExperimentSettings, run: Path, resume: bool = False
    ) -> list[Process]:
        """Start the ranks of a run, as a launcher does."""
        from hpc_srct.ranks import free_port

        shared = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        return [
            self.start(
                settings,
                run,
                resume,
                **{k: str(v) for k, v in shared.items()},
                RANK=str(rank),
                LOCAL_RANK=str(rank),
            )
            for rank in range(count)
        ]

    def close(self) -> None:
        """End everything."""
        for process in list(self.running.values()):
            process.kill()
        self._script.kill()
        self._script.wait()

    def _listen(self) -> None:
        for line in self._script.stdout:
            told = json.loads(line)
            if "born" in told:
                self._last = Process(told["born"], Path(told["log"]))
                self.running[told["born"]] = self._last
                self._born.set()
            else:
                process = self.running.pop(told["dead"])
                process.code = told["code"]
                process.ended.set()


def wait_for_steps(run: Path, count: int, process: Process, seconds: float = 120) -> None:
    """Wait until a run has taken so many steps, or has ended."""
    metrics = run / "metrics.jsonl"
    end = time.monotonic() + seconds
    while not process.ended.is_set():
        if metrics.is_file() and metrics.read_bytes().count(b'"kind": "step"') >= count:
            return
        assert time.monotonic() < end, f"{count} steps never came:\n{process.log.read_text()}"
        time.sleep(0.002)


def _child(order: dict) -> None:
    from hpc_srct.errors import SrctError
    from hpc_srct.training import train

    with open(order["log"], "wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.update(order["environment"])
    try:
        train(ExperimentSettings(**order["settings"]), order["run"], order["resume"])
        code = 0
    except SrctError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve() -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401 - the slowest of its imports

    import hpc_srct.training.loop  # noqa: F401

    lock = threading.Lock()

    def tell(**what: object) -> None:
        with lock:
            print(json.dumps(what), flush=True)

    def watch(pid: int) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        tell(dead=pid, code=code)

    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            _child(order)
        tell(born=pid, log=order["log"])
        threading.Thread(target=watch, args=(pid,), daemon=True).start()


if __name__ == "__main__":
    _serve()
