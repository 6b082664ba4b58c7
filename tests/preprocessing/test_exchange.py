"""Frames for rows: every number arrives at its place, on real ranks and in pieces."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.preprocessing.exchange import frames_for_rows, together
from hpc_srct.preprocessing.reading import Reading, sweeps
from hpc_srct.ranks import Communicator

from .conftest import MPIEXEC, environment

# Each number says where it came from.
DRIVER = """
import sys
import numpy as np
from mpi4py import MPI
from hpc_srct.preprocessing.exchange import frames_for_rows, total, together
from hpc_srct.preprocessing.reading import Reading, sweeps
from hpc_srct.ranks import Communicator
from hpc_srct.errors import InputError

world = MPI.COMM_WORLD
comm = Communicator(world.Get_rank(), world.Get_size(), world)
V, W, N = 11, 7, 3
asked = []

LOW = np.array([0, 3, 4, 9])

def produce(step, into):
    views, rows = (np.arange(part.start, part.stop) for part in (step.views, step.rows))
    asked.extend((row, view) for row in rows.tolist() for view in views.tolist())
    for kind, frames in zip((views, -np.intersect1d(views, LOW)), into, strict=True):
        frames[:] = kind[:, None, None] * 10000 + rows[:, None] * 100 + np.arange(N)

cuts = [0, 4, 4, 7] if comm.size == 3 else np.linspace(0, W, comm.size + 1).astype(int).tolist()
shares = [slice(a, b) for a, b in zip(cuts, cuts[1:])]
readings = [Reading(W, step, step) for step in (1, 3, 100)]
readings += [Reading(W, 4, 3, True), Reading(2, 4, 3, True), Reading(2, 8, 8, True)]
for reading in readings:
    asked.clear()
    all_steps = sweeps(np.arange(W), V, reading, np.array([0, 2, 6, 10]), comm.size)
    rows, low = frames_for_rows(produce, [np.arange(V), LOW], N, shares, comm, all_steps)
    mine = np.arange(W)[shares[comm.rank]]
    right = np.arange(V)[:, None] * 10000 + mine[:, None, None] * 100 + np.arange(N)
    assert rows.dtype == np.float32 and np.array_equal(rows, right), rows
    right = -LOW[:, None] * 10000 + mine[:, None, None] * 100 + np.arange(N)
    assert np.array_equal(low, right), low
    # Nothing is read by two ranks.
    read = [pixel for part in comm.mpi.allgather(asked) for pixel in part]
    assert sorted(read) == [(row, view) for row in range(W) for view in range(V)]
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
    for step, height in ((1, 4), (2, 4), (9, 4), (3, 3), (2, 1)):
        steps = sweeps(np.arange(4), 5, Reading(height, step, step), np.arange(5), 1)
        (rows,) = frames_for_rows(
            lambda step, into: np.copyto(into[0], frames[step.views, step.rows]),
            [np.arange(5)],
            3,
            [slice(0, 4)],
            Communicator(),
            steps,
        )
        np.testing.assert_array_equal(rows, frames.swapaxes(0, 1))


def test_an_error_alone_is_raised_as_it_is():
    def fail() -> None:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        together(Communicator(), fail)
