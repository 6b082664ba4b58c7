"""Slurm's commands as scripts that note what they were asked and give a prepared answer."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from hpc_srct.sweeps import Sweep

PROGRAMS = ("sbatch", "srun", "sacct", "squeue", "scontrol", "scancel")

SCRIPT = """\
#!{python} -S
import json, os, sys
name = os.path.basename(sys.argv[0])
folder = {folder!r}
with open(folder + "/calls.jsonl", "a") as log:
    log.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
try:
    answers = json.load(open(folder + "/" + name + ".json"))
except FileNotFoundError:
    answers = [["", "", 0]]
out, err, code = answers[0]
if len(answers) > 1:
    json.dump(answers[1:], open(folder + "/" + name + ".json", "w"))
sys.stdout.write(out); sys.stderr.write(err); sys.exit(code)
"""


# What sbatch answers where an account has submitted as much as it may.
LIMIT = (
    "",
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit "
    "limit, user's size and/or time limits)\n",
    1,
)


class FakeSlurm:
    """Commands in `folder`; put them first on PATH."""

    def __init__(self, folder: Path):
        self.folder = folder
        bin_folder = folder / "bin"
        bin_folder.mkdir(parents=True)
        for name in PROGRAMS:
            script = bin_folder / name
            script.write_text(SCRIPT.format(python=sys.executable, folder=str(folder)))
            script.chmod(0o755)
        self.path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"

    def answer(self, program: str, *answers: str | tuple[str, str, int]) -> None:
        """Prepare answers, given one after the other; the last one stays.

        Each is what it prints, or (standard output, standard error, exit code).
        """
        whole = [(a, "", 0) if isinstance(a, str) else a for a in answers]
        (self.folder / f"{program}.json").write_text(json.dumps(whole))

    def calls(self, program: str | None = None) -> list[list[str]]:
        """What was asked, in order; of one program, or of all with their names first."""
        log = self.folder / "calls.jsonl"
        every = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return every if program is None else [call[1:] for call in every if call[0] == program]


def script(sweep: Sweep, job: str) -> str:
    """Read the batch script of a sweep's job."""
    return (sweep.ledger.jobs / f"{job}_submission.sh").read_text()
