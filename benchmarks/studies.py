"""Quality of the shipped studies: the tables of the README, with the machine that made them.

    python benchmarks/studies.py demo
    python benchmarks/studies.py tooth scans.test=aps_tooth_dx.h5

A study that is there already in the folder (``--dir``, default the study's name) is evaluated
again, not trained again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import common

from hpc_srct import console
from hpc_srct.settings import load
from hpc_srct.settings.study import StudySettings
from hpc_srct.workflows.study import run_study


def training(run: Path) -> dict[str, Any]:
    """Sum up a run's cost: steps, seconds in them, share of it spent waiting for tiles."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    seconds = sum(line["step_s"] for line in steps)
    threads = json.loads((run / "environment.json").read_text())["starts"][-1]["threads"]
    return {
        "steps": len(steps),
        "step_seconds": round(seconds, 1),
        "waiting_for_tiles": round(sum(line["data_wait_s"] for line in steps) / seconds, 5),
        "threads": threads,
        "peak_memory_mib": round(max(line["peak_memory_bytes"] for line in steps) / 2**20),
    }


def main() -> None:
    """Run one study and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="name of a shipped study, such as demo")
    parser.add_argument("settings", nargs="*", help="key=value laid over it")
    parser.add_argument("--dir", type=Path, help="the study's folder")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    words = parser.parse_args()
    settings = load(StudySettings, f"{words.study}.yaml", words.settings)
    folder = words.dir or Path(settings.name)
    result = run_study(settings, folder)
    console.out.print(result)
    shown = settings.dump()
    for name, scan in shown["scans"].items():
        if isinstance(scan, str):  # where it lies is this machine's business
            shown["scans"][name] = Path(scan).name
    table = result.to_json()
    common.write_result(
        words.study,
        table.pop("rows"),
        words.out,
        versions=common.versions("torch", "deepspeed", "numba", "scikit-image"),
        settings=shown,
        training={run.name: training(run) for run in sorted((folder / "runs").iterdir())},
        **table,
    )


if __name__ == "__main__":
    main()
