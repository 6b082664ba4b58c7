"""The package with training and evaluation replaced by ones that take a second and no torch."""

from __future__ import annotations

from pathlib import Path

from hpc_srct.sweeps import snapshot

TRAINING = '''\
"""Training as a sweep sees it: files, signals, ranks. `seed` 13 fails; `tiles.workers` 1 waits."""
import json, os, signal, sys, time
from hpc_srct.errors import MachineError, Stopped

def train(settings, run_dir, resume=False):
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    stop = []
    before = signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    if settings.seed == 13:
        raise MachineError("the loss is not finite.")
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run_dir / f"here-{rank}-{resume}").touch()  # as real ranks, they begin together
    while not all((run_dir / f"here-{r}-{resume}").exists() for r in range(world)):
        time.sleep(0.02)
    first = 0
    if resume:
        first = int((run_dir / "checkpoints" / "current").read_text().removeprefix("step-"))
    (run_dir / "settings.yaml").touch()
    for step in range(first + 1, settings.epochs + 1):
        while settings.tiles.workers and step == 2 and not resume and not stop:
            time.sleep(0.05)
        if stop:
            (run_dir / "checkpoints" / "current").write_text(f"step-{step - 1:08d}")
            if rank:
                raise SystemExit(75)
            raise Stopped(f"stopped by SIGTERM after step {step - 1}; saved.\\nGo on.")
        if rank == 0:
            scale = {"O0": 1, "O2": 65536, "bf16": 1}[settings.precision]
            line = dict(kind="step", step=step, epoch=step, loss=1 / step, loss_scale=scale,
                        step_s=2.0 / scale ** 0.1, peak_memory_bytes=2**20 * 100, time_left_s=1.0)
            with open(run_dir / "metrics.jsonl", "a") as log:
                log.write(json.dumps(line) + "\\n")
                psnr = 20 + step + settings.seed
                log.write(json.dumps(dict(kind="validation", step=step, epoch=step, psnr=psnr,
                                          loss=0.1)) + "\\n")
    (run_dir / "world").write_text(os.environ["WORLD_SIZE"])
    print("trained", settings.seed, os.environ.get("MASTER_ADDR"))
'''

EVALUATING = '''\
"""Evaluation as a sweep sees it: scores per slice beside each run, and a table."""

def evaluate(runs, store=None, *, out=None, roles=("test",)):
    out.mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(runs):
        (run / "evaluation").mkdir(exist_ok=True)
        (run / "evaluation" / "phantoms.csv").write_text(
            "method,seed,store,row,reference,psnr_db,ssim\\n"
            "FBP (ramp),,phantoms,0,truth,10,0.1\\n"
            f"UNet (O0),{number},phantoms,0,truth,{30 + number},0.9\\n"
            f"UNet (O0),{number},phantoms,1,truth,{32 + number},0.8\\n"
        )
    (out / "table.md").write_text(f"{len(runs)} runs on {roles}\\n")
    return f"judged {len(runs)}"
'''


def make_source(folder: Path) -> list[tuple[str, Path]]:
    """Write the replaced files into `folder`; give all files of the package, as a snapshot does."""
    replaced = {
        "hpc_srct/training/__init__.py": TRAINING,
        "hpc_srct/workflows/__init__.py": "",
        "hpc_srct/workflows/evaluate.py": EVALUATING,
    }
    files = [
        (name, path)
        for name, path in snapshot.files()
        if not name.startswith(("hpc_srct/training/", "hpc_srct/workflows/"))
    ]
    for name, text in replaced.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        files.append((name, path))
    return files
