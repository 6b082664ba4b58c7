"""The house keeps its order: imports flow one way, as setup.cfg says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import CHECKOUT


def test_imports_flow_one_way():
    lint = Path(sys.executable).parent / "lint-imports"
    answer = subprocess.run([lint, "--no-cache"], cwd=CHECKOUT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "0 broken" in answer.stdout


def test_the_command_line_and_sweeps_import_without_torch():
    code = (
        "import sys, hpc_srct.cli, hpc_srct.sweeps, hpc_srct.settings\n"
        "print(sorted({'torch', 'deepspeed', 'mpi4py'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr
