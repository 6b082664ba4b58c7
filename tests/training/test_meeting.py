"""How training ranks find each other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

ALONE = """
import torch
from hpc_srct.training import engine
ranks = engine.start()
number = torch.ones(1)
torch.distributed.all_reduce(number)
print("RANKS", ranks.size, number.item())
"""


def test_a_run_alone_needs_no_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        meeting = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        meeting["MASTER_PORT"] = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", ALONE],
            env=os.environ | meeting,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert "RANKS 1 1.0" in done.stdout
