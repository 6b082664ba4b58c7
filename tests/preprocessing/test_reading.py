"""Chunks of many views: each is unpacked once in a pass, whatever else the memory asks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_srct.preprocessing import Work, make_plan, plan, preprocess
from hpc_srct.preprocessing.centre import WHERE
from hpc_srct.preprocessing.plan import GIB, MIB
from hpc_srct.preprocessing.reading import Reading, sweeps
from hpc_srct.ranks import Communicator
from hpc_srct.scan import open_scan, stack
from hpc_srct.settings.base import load
from hpc_srct.settings.preprocessing import PreprocessingSettings

from .conftest import MPIEXEC, environment, fingerprint, write_scan

ROWS, VIEWS, COLUMNS = 72, 48, 48


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """A scan that is not packed."""
    path = tmp_path_factory.mktemp("scans") / "plain.h5"
    return write_scan(path, rows=ROWS, views=VIEWS, columns=COLUMNS, dtype=np.uint16)


def packed(path: Path, plain: Path, chunk: tuple[int, int, int]) -> Path:
    """Copy a scan; pack its projections in such chunks."""
    path.write_bytes(plain.read_bytes())
    with h5py.File(path, "r+") as file:
        counts = file["exchange/data"][()]
        del file["exchange/data"]
        file.create_dataset("exchange/data", data=counts, chunks=chunk, compression="gzip")
    return path


class Unpacked:
    """Counts the chunks of projections that are unpacked: each read unpacks those it touches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, chunk: tuple[int, int, int]):
        self.count = 0
        real = stack.Stack._read_piece

        def counting(this, dataset, piece, rows, out):
            if dataset.chunks == chunk:
                touched = [
                    range(part.start // size, (part.stop - 1) // size + 1)
                    for part, size in zip((piece, rows), chunk, strict=False)
                ]
                self.count += len(touched[0]) * len(touched[1])
            return real(this, dataset, piece, rows, out)

        monkeypatch.setattr(stack.Stack, "_read_piece", counting)


def made(scan: Path, out: Path, *words: str, ranks: Communicator | None = None):
    return preprocess(scan, out, load(PreprocessingSettings, overrides=words), ranks).plan


def looked_at(chunk: tuple[int, ...]) -> int:
    """Count the chunks of the rows that are looked at for light; none where that costs frames."""
    if chunk[1] >= 64:
        return 0
    rows = {int(part * (ROWS - 1) + 0.5) for part in WHERE}
    return -(-VIEWS // chunk[0]) * len({row // chunk[1] for row in rows})


PHASE = ["phase.energy_kev=20", "phase.distance_m=0.05", "phase.delta_beta=300"]
PHASE += ["phase.pixel_size_m=1e-6"]


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        ((VIEWS, 1, COLUMNS), []),
        ((VIEWS, 4, COLUMNS), ["photons=2000", "gain=1", "views=1/5"]),
        ((20, 8, COLUMNS), ["rows=3:71"]),
        ((20, ROWS, COLUMNS), []),
        ((VIEWS, ROWS, COLUMNS), ["photons=2000", "gain=1", "views=[7,3,30]"]),
        ((20, 8, COLUMNS), PHASE),
        ((16, ROWS, COLUMNS), [*PHASE, "photons=2000", "gain=1"]),
    ],
)
def test_every_chunk_is_unpacked_once_and_not_a_byte_differs(
    tmp_path, frames, monkeypatch, chunk, words
):
    words = ["centre=23.5", *words]
    made(frames, tmp_path / "plain", *words)
    scan = packed(tmp_path / "plain.h5", frames, chunk)
    # What is read at once would be less than a chunk's views.
    monkeypatch.setattr(plan, "PIECE", 50_000)
    unpacked = Unpacked(monkeypatch, chunk)
    done = made(scan, tmp_path / "packed", *words)
    first = 3 if "rows=3:71" in words else 0
    chunks = 0
    for (share,) in done.passes:
        top, bottom = first + share[0].start, first + share[-1].stop
        if PHASE[0] in words:
            top, bottom = 0, ROWS
        chunks += -(-VIEWS // chunk[0]) * len({row // chunk[1] for row in range(top, bottom)})
    assert unpacked.count == chunks + looked_at(chunk)
    of_plain, of_packed = (fingerprint(tmp_path / name) for name in ("plain", "packed"))
    shards = [name for name in of_plain if name.startswith("shards")]
    assert len(shards) == 3
    assert [of_plain[name] for name in shards] == [of_packed[name] for name in shards]


def test_a_keyed_scan_has_its_chunks_where_its_frames_are(tmp_path, frames, monkeypatch):
    scan = packed(tmp_path / "scan.h5", frames, (16, 8, COLUMNS))
    with h5py.File(scan, "r+") as file:
        parts = [file[f"exchange/{name}"][()] for name in ("data_white", "data", "data_dark")]
        turn = np.concatenate([np.zeros(len(parts[0])), file["exchange/theta"][()], [0, 0]])
        del file["exchange"]
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        entry["definition"] = "NXtomo"
        detector = entry.create_group("instrument/detector")
        counts = np.concatenate(parts)
        detector.create_dataset("data", data=counts, chunks=(16, 8, COLUMNS), compression="gzip")
        detector["image_key"] = np.repeat([1, 0, 2], [len(part) for part in parts])
        entry["sample/rotation_angle"] = turn
        entry["sample/rotation_angle"].attrs["units"] = "deg"
    assert open_scan(scan).chunk_starts.tolist() == [0, 10, 26, 42]
    made(frames, tmp_path / "plain", "centre=23.5")
    monkeypatch.setattr(plan, "PIECE", 50_000)
    made(scan, tmp_path / "keyed", "centre=23.5")
    with (
        h5py.File(tmp_path / "plain/slices.h5") as one,
        h5py.File(tmp_path / "keyed/slices.h5") as other,
    ):
        for name in ("low", "full"):
            data = f"entry/{name}/data"
            np.testing.assert_array_equal(one[data][()], other[data][()])


DRIVER = """
import json, sys
import pytest
from hpc_srct.preprocessing import plan
from hpc_srct.ranks import communicator
sys.path.insert(0, sys.argv[1])
from tests.preprocessing.test_reading import Unpacked, made
plan.PIECE = 50_000
ranks = communicator()
with pytest.MonkeyPatch.context() as patches:
    unpacked = Unpacked(patches, tuple(json.loads(sys.argv[2])))
    done = made(*sys.argv[3:], ranks=ranks)
counts = ranks.gather(unpacked.count)
if ranks.rank == 0:
    print("RESULT", json.dumps([counts, len(done.passes)]))
"""


@pytest.mark.parametrize("chunk", [(VIEWS, 1, COLUMNS), (VIEWS, 64, COLUMNS), (16, 72, COLUMNS)])
def test_ranks_do_not_unpack_a_chunk_for_each_other(tmp_path, frames, chunk):
    made(frames, tmp_path / "plain", "centre=23.5")
    scan = packed(tmp_path / "plain.h5", frames, chunk)
    answer = subprocess.run(
        [MPIEXEC, "-n", "2", sys.executable, "-c", DRIVER, Path(__file__).parents[2]]
        + [json.dumps(chunk), scan, tmp_path / "packed", "centre=23.5"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )
    assert answer.returncode == 0, answer.stderr
    line = next(line for line in answer.stdout.splitlines() if line.startswith("RESULT"))
    counts, passes = json.loads(line.removeprefix("RESULT"))
    chunks = -(-VIEWS // chunk[0]) * -(-ROWS // chunk[1])
    assert sum(counts) == chunks * (passes if chunk[1] > 1 else 1) + looked_at(chunk)
    assert min(counts) > 0
    of_plain, of_packed = (fingerprint(tmp_path / name) for name in ("plain", "packed"))
    shards = [name for name in of_plain if name.startswith("shards")]
    assert [of_plain[name] for name in shards] == [of_packed[name] for name in shards]


@settings(max_examples=60, deadline=None)
@given(
    n_rows=st.integers(1, 40),
    n_views=st.integers(1, 40),
    ranks=st.integers(1, 5),
    frames=st.integers(1, 50),
    height=st.integers(1, 50),
    several=st.integers(1, 3),
    step=st.integers(1, 60),
    first=st.integers(0, 9),
    whole=st.booleans(),
)
def test_sweeps_reach_every_pixel_once_and_cut_no_chunk(
    n_rows, n_views, ranks, frames, height, several, step, first, whole
):
    rows = first + np.arange(n_rows) * 2
    chunk = (np.arange(n_views) + first) // frames
    starts = np.flatnonzero(np.diff(chunk, prepend=-1))
    reading = Reading(height, frames * several if whole else step, step, whole)
    seen = np.zeros((n_rows, n_views), int)
    chunks = []
    for steps in sweeps(rows, n_views, reading, starts, ranks):
        for one in steps:
            seen[one.rows, one.views] += 1
            assert one.read.start <= one.views.start < one.views.stop <= one.read.stop
            assert one.views.stop - one.views.start <= step
            assert len({row // height for row in rows[one.rows].tolist()}) == 1
            if one.read.start == one.views.start:
                there = set(chunk[one.read].tolist())
                chunks += [(int(rows[one.rows.start]) // height, number) for number in there]
                assert one.read.stop - one.read.start <= max(reading.views, frames)
    assert (seen == 1).all()
    n_bands = len({row // height for row in rows.tolist()})
    if whole and n_bands * len(starts) >= ranks:
        assert len(chunks) == len(set(chunks))
    elif whole:  # fewer chunks than ranks
        assert len(chunks) < n_bands * len(starts) + ranks


def test_the_plan_reads_whole_chunks_where_the_memory_bears_them():
    def planned(frames: int, rows: int, memory: int, **more: bool):
        pixels = frames * rows * 2048
        by_frame = rows >= 64
        work = Work(2048, 1500, 250, 2048, 2048, 2, 2, by_frame, pixels, frames, rows, **more)
        found = make_plan(work, 2, memory)
        assert found.memory <= memory
        return found.reading

    # Sinogram by sinogram: all views of a row, corrected in parts.
    reading = planned(1500, 1, 4 * GIB)
    assert (reading.rows, reading.views, reading.whole) == (1, 1500, True)
    assert reading.step < 1500
    # A few rows of frames, as many as fit 32 MiB.
    reading = planned(16, 4, 4 * GIB)
    assert (reading.rows % 4, reading.views, reading.whole) == (0, 16, True)
    reading = planned(64, 64, 4 * GIB)
    assert (reading.rows, reading.views, reading.whole) == (64, 64, True)
    # One chunk is 384 MiB: beside it there is no room for what is taken of it.
    assert not planned(1500, 64, 1140 * MIB).whole
    assert planned(1500, 64, 4 * GIB).whole
    # Phase retrieval wants whole frames, of all views of a chunk.
    assert planned(64, 64, 8 * GIB, whole_frames=True).views == 64
    # Nothing to keep together.
    assert planned(1, 2048, 4 * GIB) == Reading(2048, *[planned(1, 2048, 4 * GIB).step] * 2)
