"""The store: what is written is what is read, whole or not at all, here or elsewhere."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_srct.errors import InputError, MachineError
from hpc_srct.slices import BLOCK_ROWS, SliceStore, StoreWriter
from hpc_srct.slices.writer import BlockWriter

N, V, SIZE = 40, 5, (12, 9)
ROWS = np.arange(100, 100 + N)


def slices(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, *SIZE)).astype(np.float32)


def made(folder: Path, skip: tuple[int, ...] = ()) -> Path:
    writer = StoreWriter(folder, N, SIZE, ROWS)
    sinogram = np.random.default_rng(9).normal(size=(N, V, SIZE[1]))
    for block in range(writer.n_blocks):
        i = list(writer.block_slices(block))
        arrays = {"low": slices(0)[i], "splits/0": slices(1)[i], "low/sinogram": sinogram[i]}
        writer.write_block(block, arrays, {"clipped": np.arange(N)[i]})
    writer.finish(
        {"source": {"path": "scan.h5"}},
        scale=0.5,
        field_of_view=4.0,
        centre=4.25,
        pixel_size=1e-6,
        low_angles=np.linspace(0, 3, V),
    )
    for block in skip:
        writer.block_path(block).unlink()
    return folder


def test_what_is_written_is_read(tmp_path):
    store = SliceStore(made(tmp_path / "store"))
    assert (store.n_slices, store.size, store.names) == (N, SIZE, ["low", "splits/0"])
    assert (store.scale, store.field_of_view, store.centre) == (0.5, 4.0, 4.25)
    assert store.pixel_size == 1e-6
    assert store.provenance == {"source": {"path": "scan.h5"}}
    np.testing.assert_array_equal(store.rows, ROWS)
    np.testing.assert_array_equal(store.low_angles, np.linspace(0, 3, V))
    whole = store.read("low", slice(None))
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, slices(0))
    np.testing.assert_array_equal(store.read("low", 33), slices(0)[33])
    np.testing.assert_array_equal(store.read("low", -1), slices(0)[-1])
    np.testing.assert_array_equal(store.read("splits/0", [35, 2, 2]), slices(1)[[35, 2, 2]])
    window = (slice(3, 7), slice(2, 9))
    np.testing.assert_array_equal(store.read("low", 8, window), slices(0)[8, 3:7, 2:9])
    np.testing.assert_array_equal(
        store.read("low", slice(30, 34), window), slices(0)[30:34, 3:7, 2:9]
    )
    assert store.sinogram(3).shape == (V, SIZE[1])
    assert len(store.missing("low")) == 0


def test_one_shard_per_block_named_by_its_rows(tmp_path):
    made(tmp_path / "store")
    shards = sorted(p.name for p in (tmp_path / "store/shards").iterdir())
    assert BLOCK_ROWS == 32
    assert shards == ["rows-00000-00031.h5", "rows-00032-00039.h5"]


def test_missing_shard_reads_as_nan(tmp_path):
    store = SliceStore(made(tmp_path / "store", skip=(1,)))
    assert np.isnan(store.read("low", slice(32, 40))).all()
    np.testing.assert_array_equal(store.read("low", slice(0, 32)), slices(0)[:32])
    np.testing.assert_array_equal(store.missing("low"), np.arange(32, 40))


def test_a_shard_that_was_cut_short_is_named(tmp_path):
    store = SliceStore(made(tmp_path / "store"))
    damaged = tmp_path / "store/shards/rows-00032-00039.h5"
    os.truncate(damaged, damaged.stat().st_size // 2)
    said = r"rows-00032-00039\.h5: is damaged: .*truncated(.|\n)*Remove it, run again"
    for read in (lambda: store.read("low", 35), lambda: store.sinogram([2, 35])):
        with pytest.raises(InputError, match=said):
            read()
    np.testing.assert_array_equal(store.read("low", 3), slices(0)[3])
    damaged.unlink()
    assert np.isnan(SliceStore(tmp_path / "store").read("low", 35)).all()


def test_plain_h5py_reads_a_store_that_was_moved(tmp_path):
    made(tmp_path / "store")
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    (tmp_path / "store").rename(moved)
    code = """
import sys, json, h5py
with h5py.File(sys.argv[1], "r") as f:
    low = f["entry/low"]
    print(json.dumps({
        "complete": bool(f.attrs["complete"]), "sum": float(f["entry/low/data"][:].sum()),
        "signal": low.attrs["signal"], "axes": list(low.attrs["axes"]),
        "axes_there": all(a in low for a in low.attrs["axes"]),
        "class": low.attrs["NX_class"], "pixel": low.attrs["pixel_size"],
        "units": [low["data"].attrs["units"], low["x"].attrs["units"]],
        "default": f[f.attrs["default"]].attrs["default"],
        "rows": f["entry/rows"][:].tolist(), "angles": f["entry/low/angles"].attrs["units"],
        "provenance": json.loads(f["entry/provenance"][()]),
        "ours": [m for m in sys.modules if m.startswith("hpc_srct")],
    }))
"""
    answer = subprocess.run(
        [sys.executable, "-c", code, str(moved / "slices.h5")],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    found = json.loads(answer.stdout)
    assert found["ours"] == []
    assert found["complete"] is True
    assert found["sum"] == pytest.approx(float(slices(0).sum()), rel=1e-4)
    assert (found["class"], found["signal"], found["axes"]) == ("NXdata", "data", ["row", "y", "x"])
    assert found["axes_there"]
    assert found["units"] == ["1/pixel", "m"]
    assert found["angles"] == "rad"
    assert found["pixel"] == 1e-6
    assert found["default"] == "low"
    assert found["rows"] == ROWS.tolist()


def test_bytes_do_not_depend_on_the_order_of_writing(tmp_path):
    # Wider than a chunk and no multiple of one: edge chunks have a part that is no pixel's.
    data = np.random.default_rng(0).normal(size=(5, 300, 270)).astype(np.float32)
    for name, order in (("a", range(5)), ("b", (4, 0, 2, 1, 3))):
        writer = StoreWriter(tmp_path / name, 5, (300, 270))
        with writer.block(0) as shard:
            for i in order:
                shard.write("low", i, data[i : i + 1])
        time.sleep(1.1 if name == "a" else 0)  # HDF5 would stamp whole seconds
        writer.finish({})
    for file in ("shards/rows-00000-00004.h5", "slices.h5"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("size", [(12, 9), (300, 270), (256, 512), (64, 1030)])
def test_chunks_written_past_hdf5_are_those_that_it_writes(tmp_path, size):
    data = np.random.default_rng(0).normal(size=(4, *size)).astype(np.float32)
    data[0] = 0  # where nothing but zeros is written a hole is left
    data[1] = -0.0  # its bytes are no zeros
    data[2, :, :7] = 0
    counts = np.arange(40).reshape(4, 5, 2)
    writer = StoreWriter(tmp_path, 4, size)
    with writer.block(0) as shard:
        shard.write("low", 2, np.asfortranarray(data[2:]))
        shard.write("low", 0, data[:2])
        shard.note("counts", 0, counts)
    with open(tmp_path / "plain.h5", "wb+", buffering=0) as raw, h5py.File(raw, "w") as file:
        plain = BlockWriter(file, 4, size, tmp_path)
        for path, values in (("/entry/low/data", data), ("/entry/per_slice/counts", counts)):
            plain._make(path, values.shape[1:], values.dtype)
            file[path][:] = values
    assert writer.block_path(0).read_bytes() == (tmp_path / "plain.h5").read_bytes()


def test_a_shard_does_not_hold_its_room_twice(tmp_path):
    # The chunks are laid out when the first slice comes: nothing but that slice is on the disk.
    with StoreWriter(tmp_path, 32, (512, 512)).block(0) as shard:
        shard.write("low", 0, np.ones((1, 512, 512)))
        (part,) = (tmp_path / "shards").iterdir()
        assert part.stat().st_size > 32 << 20
        assert part.stat().st_blocks * 512 < 2 << 20
        shard.write("low", 1, np.zeros((31, 512, 512)))


def test_a_block_that_fails_leaves_no_shard(tmp_path):
    writer = StoreWriter(tmp_path / "store", N, SIZE)
    with pytest.raises(KeyboardInterrupt), writer.block(0) as shard:
        shard.write("low", 0, slices()[:3])
        raise KeyboardInterrupt
    assert not writer.is_done(0)
    assert list((tmp_path / "store/shards").iterdir()) == []
    with pytest.raises(MachineError, match="never given slice 3"), writer.block(0) as shard:
        shard.write("low", 0, slices()[:3])
    assert not writer.is_done(0)


def test_master_is_not_written_while_a_shard_is_missing(tmp_path):
    writer = StoreWriter(tmp_path / "store", N, SIZE)
    writer.write_block(1, {"low": slices()[32:]})
    assert writer.blocks_to_do() == [0]
    with pytest.raises(MachineError, match=r"rows-00000-00031\.h5.*1 of 2"):
        writer.finish({})
    with pytest.raises(InputError, match="not finished"):
        SliceStore(tmp_path / "store")


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    made(tmp_path / "store")
    half = tmp_path / "store/shards/.rows-00000-00031.h5.123.part"
    half.write_bytes(b"half")
    StoreWriter(tmp_path / "store", N, SIZE).remove_leftovers()
    assert not half.exists()
    assert SliceStore(tmp_path / "store").n_slices == N


@pytest.mark.parametrize("writes", [200_000, 4096, 0])
def test_a_write_that_the_system_refuses_is_a_machine_error(tmp_path, writes):
    # A file-size limit is the full disk that a test can have.
    code = f"""
import resource, sys, numpy as np
resource.setrlimit(resource.RLIMIT_FSIZE, ({writes}, resource.RLIM_INFINITY))
from hpc_srct.errors import MachineError
from hpc_srct.slices import StoreWriter
try:
    StoreWriter(sys.argv[1], 4, (256, 256)).write_block(0, {{"low": np.ones((4, 256, 256))}})
except MachineError as error:
    print("said:", error)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert "said:" in answer.stdout and "rows-00000-00003.h5" in answer.stdout
    assert list((tmp_path / "store/shards").iterdir()) == []


def test_opened_again_after_a_fork_and_in_a_pickle(tmp_path):
    store = SliceStore(made(tmp_path / "store"))
    before = store.read("low", 3)
    handle = store._handle
    pid = os.fork()
    if pid == 0:
        same = np.array_equal(store.read("low", 3), before) and store._handle is not handle
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    np.testing.assert_array_equal(store.read("low", 3), before)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read("low", 3), before)


def test_reading_takes_no_lock(tmp_path):
    store = SliceStore(made(tmp_path / "store"))
    store.read("low", 0)
    # With HDF5's locks the writer would be refused while the reader has the file open.
    code = "import h5py, sys; h5py.File(sys.argv[1], 'r+', locking=True).close()"
    subprocess.run([sys.executable, "-c", code, str(store.master)], check=True)


def test_questions_that_cannot_be_answered(tmp_path):
    store = SliceStore(made(tmp_path / "store"))
    with pytest.raises(InputError, match="no 'full' inside; it has low, splits/0"):
        store.read("full", 0)
    with pytest.raises(IndexError, match="no slice 40"):
        store.read("low", 40)
    with pytest.raises(InputError, match="no such slice store"):
        SliceStore(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected a slices\.h5"):
        SliceStore(tmp_path / "empty")
    (tmp_path / "text").write_text("no")
    with pytest.raises(InputError, match="is a file"):
        SliceStore(tmp_path / "text")
    (tmp_path / "empty/slices.h5").write_text("no")
    with pytest.raises(InputError, match="not an HDF5 file"):
        SliceStore(tmp_path / "empty")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    (tmp_path / "other.h5").rename(tmp_path / "empty/slices.h5")
    with pytest.raises(InputError, match="'complete' is not true"):
        SliceStore(tmp_path / "empty")
    StoreWriter(tmp_path / "bare", 2, SIZE).write_block(0, {"low": slices()[:2]})
    StoreWriter(tmp_path / "bare", 2, SIZE).finish({})
    with pytest.raises(InputError, match="sinogram=true"):
        SliceStore(tmp_path / "bare").sinogram(0)


def test_slices_of_another_size_are_refused(tmp_path):
    writer = StoreWriter(tmp_path / "store", N, SIZE)
    with pytest.raises(InputError, match=r"\(12, 9\) expected"):
        writer.write_block(0, {"low": np.zeros((32, 9, 12))})
    with pytest.raises(InputError, match="do not fit"):
        writer.write_block(1, {"low": slices()[:32]})
    said = r"of \(5, 9\), not of \(4, 9\)"
    with pytest.raises(InputError, match=said), writer.block(0) as shard:
        shard.write("low/sinogram", 0, np.zeros((1, 5, 9)))
        shard.write("low/sinogram", 1, np.zeros((1, 4, 9)))
    with pytest.raises(InputError, match="one detector row per slice"):
        StoreWriter(tmp_path / "other", N, SIZE, rows=np.arange(3))
