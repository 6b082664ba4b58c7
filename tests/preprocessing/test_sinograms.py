"""Which rows a rank reads: its own where rows are cheap, all where they cost whole frames."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hpc_srct.preprocessing.frames import Times
from hpc_srct.preprocessing.reading import Reading
from hpc_srct.preprocessing.sinograms import SinogramReader
from hpc_srct.ranks import Communicator
from hpc_srct.scan import open_scan
from hpc_srct.settings.base import load
from hpc_srct.settings.preprocessing import PreprocessingSettings

from .conftest import write_scan

ROWS = np.array([1, 2, 3, 7, 8, 11])
SHARES = [slice(0, 2), slice(2, 6), slice(6, 6)]


class Watched:
    """A scan's frames; notes which rows were asked for."""

    def __init__(self, scan):
        self.scan, self.asked = scan, set()

    def projections(self, views, rows):
        self.asked.update(range(*rows.indices(self.scan.n_rows)))
        return self.scan.projections(views, rows)


def read(source, scan, shares, communicator, *settings):
    settings = load(PreprocessingSettings, overrides=settings)
    reader = SinogramReader(scan, source, settings, communicator, Times())
    sinograms, _, clipped = reader.read(ROWS, shares, Reading(scan.n_rows, 5, 5))
    return sinograms, clipped


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_reads_its_own_rows_and_waits_for_nobody(tmp_path, rank):
    scan = open_scan(write_scan(tmp_path / "scan.h5", rows=12, dtype=np.uint16))
    whole, clipped = read(scan, scan, [slice(0, 6)], Communicator())
    watched = Watched(scan)
    # No communicator of MPI's: any message would fail.
    mine, of_mine = read(watched, scan, SHARES, Communicator(rank, 3))
    np.testing.assert_array_equal(mine, whole[SHARES[rank]])
    np.testing.assert_array_equal(of_mine, clipped[SHARES[rank]])
    assert watched.asked == set(ROWS[SHARES[rank]].tolist())


@pytest.mark.parametrize(
    "chunk_rows, by_frame", [(None, False), (16, False), (64, True), (80, True), (160, True)]
)
def test_large_chunks_are_read_like_frames(tmp_path, chunk_rows, by_frame):
    path = write_scan(tmp_path / "scan.h5", rows=160, views=8, columns=16)
    if chunk_rows is not None:
        with h5py.File(path, "r+") as file:
            frames = file["exchange/data"][()]
            del file["exchange/data"]
            file.create_dataset("exchange/data", data=frames, chunks=(1, chunk_rows, 16))
    assert open_scan(path).chunked_by_frame == by_frame
