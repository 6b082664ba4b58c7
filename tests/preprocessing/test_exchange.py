"""Frames for rows: every number arrives at its place, on real ranks and in pieces."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.preprocessing.exchange import frames_for_rows, share_of_views, together
from hpc_srct.ranks import Communicator

from .conftest import MPIEXEC, environment

# Each number says where it came from.
DRIVER = """
import sys
import numpy as np
from mpi4py import MPI
from hpc_srct.preprocessing.exchange import frames_for_rows, share_of_views, total, together
from hpc_srct.ranks import Communicator
from hpc_srct.errors import InputError

world = MPI.COMM_WORLD
comm = Communicator(world.Get_rank(), world.Get_size(), world)
V, W, N = 11, 7, 3
asked = []

def produce(views):
    asked.extend(views.tolist())
    frames = views[:, None, None] * 10000 + np.arange(W)[:, None] * 100 + np.arange(N)
    return frames.astype(np.float32)

cuts = [0, 4, 4, 7] if comm.size == 3 else np.linspace(0, W, comm.size + 1).astype(int).tolist()
shares = [slice(a, b) for a, b in zip(cuts, cuts[1:])]
for at_once in (1, 3, 100):
    asked.clear()
    rows = frames_for_rows(produce, V, N, shares, comm, at_once)
    mine = np.arange(W)[shares[comm.rank]]
    right = np.arange(V)[:, None] * 10000 + mine[:, None, None] * 100 + np.arange(N)
    assert rows.dtype == np.float32 and np.array_equal(rows, right), rows
    # No view is read by two ranks.
    assert asked == share_of_views(V, comm.rank, comm.size).tolist()
assert total(np.array([comm.rank, 1]), comm).tolist() == [sum(range(comm.size)), comm.size]
assert together(comm, lambda: comm.rank + 5) == 5
try:
    together(comm, lambda: (_ for _ in ()).throw(InputError("said once")))
except InputError as error:
    assert str(error) == "said once"
else:
    raise AssertionError
print("fine", flush=True)
"""


@pytest.mark.parametrize("ranks", [2, 3])
def test_on_real_ranks(ranks):
    answer = subprocess.run(
        [str(MPIEXEC), "-n", str(ranks), sys.executable, "-c", DRIVER],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("fine") == ranks


def test_alone():
    frames = np.arange(5 * 4 * 3, dtype=np.float32).reshape(5, 4, 3)
    for at_once in (1, 2, 9):
        rows = frames_for_rows(
            lambda views: frames[views], 5, 3, [slice(1, 4)], Communicator(), at_once
        )
        np.testing.assert_array_equal(rows, frames[:, 1:4].swapaxes(0, 1))


def test_shares_of_views_cover_all_in_order():
    for n_views in (1, 2, 7, 100):
        for ranks in (1, 2, 3, 8):
            views = np.concatenate([share_of_views(n_views, r, ranks) for r in range(ranks)])
            assert views.tolist() == list(range(n_views))


def test_an_error_alone_is_raised_as_it_is():
    def fail() -> None:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        together(Communicator(), fail)
