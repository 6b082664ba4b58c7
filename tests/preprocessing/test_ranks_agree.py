"""Real MPI ranks: one, two or three give the same bytes; one that fails ends all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_srct.preprocessing import preprocess
from hpc_srct.settings.base import load
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices import SliceStore

from .conftest import (
    environment,
    fingerprint,
    kill_group,
    ranks_of,
    srct,
    wait_for,
    write_scan,
)


@pytest.fixture(scope="module")
def tooth_stores(scans, preprocessed, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tooth")
    for ranks in (1, 2, 3):
        preprocessed(scans / "aps_tooth_dx.h5", folder / str(ranks), "views=1/6", ranks=ranks)
    return folder


def test_the_tooth_is_the_same_on_1_2_and_3_ranks(tooth_stores):
    alone = fingerprint(tooth_stores / "1")
    assert set(alone) == {"preprocessing.json", "slices.h5", "shards/rows-00000-00001.h5"}
    assert fingerprint(tooth_stores / "2") == alone
    assert fingerprint(tooth_stores / "3") == alone


def test_the_tooth_opens_with_plain_h5py(tooth_stores):
    code = """
import h5py, json, sys
import numpy as np
with h5py.File(sys.argv[1], "r") as file:
    low, full = file["entry/low/data"], file["entry/full/data"]
    story = json.loads(file["entry/provenance"][()])
    print(json.dumps({
        "complete": bool(file.attrs["complete"]),
        "shapes": [low.shape, full.shape, file["entry/low/sinogram"].shape],
        "types": [str(low.dtype), str(full.dtype)],
        "finite": bool(np.isfinite(low[:]).all() and np.isfinite(full[:]).all()),
        "rows": file["entry/rows"][:].tolist(),
        "angles": len(file["entry/low/angles"]),
        "centre": story["centre"]["value"],
    }))
"""
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tooth_stores / "2/slices.h5")],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    found = json.loads(answer.stdout)
    assert found["complete"] and found["finite"]
    assert found["shapes"] == [[2, 640, 640], [2, 640, 640], [2, 31, 640]]
    assert found["types"] == ["float32", "float32"]
    assert (found["rows"], found["angles"]) == ([0, 1], 31)
    assert found["centre"] == pytest.approx(295.5, abs=0.5)


def test_the_pin_is_reconstructed(scans, tmp_path):
    settings = load(PreprocessingSettings, overrides=["rows=118:122"])
    preprocess(scans / "i13_24737.nxs", tmp_path / "pin", settings)
    store = SliceStore(tmp_path / "pin")
    assert store.centre == pytest.approx(86.0, abs=0.5)
    slice_ = store.read("full", 2)
    pin, matrix = slice_[60:90, 50:90], slice_[130:140, 60:80]
    assert pin.mean() > 5 * abs(matrix.mean())
    assert pin.std() < 0.2 * pin.mean()


def test_blocks_over_ranks_give_the_same_bytes(preprocessed, tmp_path):
    scan = write_scan(tmp_path / "scan.h5", rows=70, chunked=True, drift=0.7)
    for ranks in (1, 2, 3):
        preprocessed(scan, tmp_path / str(ranks), ranks=ranks)
    alone = fingerprint(tmp_path / "1")
    assert len(alone) == 5
    assert fingerprint(tmp_path / "2") == alone
    assert fingerprint(tmp_path / "3") == alone


def test_an_error_of_all_is_said_once(preprocessed, tmp_path):
    answer = preprocessed(tmp_path / "nowhere.h5", tmp_path / "store", ranks=2, fails=True)
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: ")
    assert "nowhere.h5" in answer.stderr
    # One message, and nothing of the launcher's: no rank had to end another.
    assert answer.stderr.count("\n") <= 2, answer.stderr
    assert "Abort" not in answer.stdout + answer.stderr
    assert "BAD TERMINATION" not in answer.stdout + answer.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("words", [["rows=90:99"], ["no_such_setting=1"], ["photons=1e12"]])
def test_settings_that_no_rank_can_use_are_said_once(scan, preprocessed, tmp_path, words):
    answer = preprocessed(scan, tmp_path / "store", *words, ranks=3, fails=True)
    assert answer.returncode == 2
    assert answer.stderr.count("error: ") == 1
    assert "Abort" not in answer.stdout + answer.stderr


def test_an_error_on_one_rank_ends_all(preprocessed, tmp_path):
    scan = write_scan(tmp_path / "scan.h5", rows=8, columns=32, chunked=True)
    with h5py.File(scan) as file:
        place = file["exchange/data"].id.get_chunk_info(47)  # the last rank's
    with open(scan, "r+b") as raw:
        raw.seek(place.byte_offset)
        raw.write(os.urandom(place.size))
    start = time.monotonic()
    answer = preprocessed(scan, tmp_path / "store", "centre=15.5", ranks=3, fails=True)
    assert answer.returncode == 2
    assert "frame 47" in answer.stderr
    assert time.monotonic() - start < 60
    assert not list((tmp_path / "store").glob("*.h5"))


def test_a_rank_that_dies_ends_all(tmp_path):
    scan = write_scan(tmp_path / "scan.h5", rows=192, views=200, columns=64)
    run = subprocess.Popen(
        srct("preprocess", scan, "-o", tmp_path / "store", "centre=31.5", ranks=2),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_for(lambda: list(tmp_path.glob("store/shards/rows-*")), run)
        victim = ranks_of(run.pid)[-1]
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        said = run.communicate(timeout=20)[0].decode()
        assert run.returncode != 0
        assert time.monotonic() - killed < 10
        assert "KILLED" in said.upper()  # the launcher names the signal
    finally:
        kill_group(run)
    assert not (tmp_path / "store/slices.h5").exists()


def test_a_request_to_stop_is_heard(tmp_path):
    scan = write_scan(tmp_path / "scan.h5", rows=320, views=200, columns=64)
    run = subprocess.Popen(
        srct("preprocess", scan, "-o", tmp_path / "store", "centre=31.5"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: list(tmp_path.glob("store/shards/rows-*")), run)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 75, said
    assert "stopped as asked; what is done stays. Run again to go on" in said
    done = list(tmp_path.glob("store/shards/*"))
    assert 0 < len(done) < 10
    assert all(path.name.startswith("rows-") for path in done)
    again = load(PreprocessingSettings, overrides=["centre=31.5"])
    assert preprocess(scan, tmp_path / "store", again).slices == 320 - 32 * len(done)
    with h5py.File(tmp_path / "store/slices.h5") as file:
        assert np.isfinite(file["entry/full/data"][:]).all()


def test_a_disk_that_fills_keeps_what_was_done(tmp_path):
    scan = write_scan(tmp_path / "scan.h5", rows=70)
    store = tmp_path / "store"
    settings = load(PreprocessingSettings, overrides=["centre=23.5"])
    # A file-size limit stands for the full disk: the short last block still fits, others do not.
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
sys.argv = ["srct", "preprocess", {str(scan)!r}, "-o", {str(store)!r}, "centre=23.5"]
from hpc_srct.cli import main
main()
"""
    preprocess(scan, store, settings)
    expected = fingerprint(store)
    for lost in ("slices.h5", "shards/rows-00000-00031.h5"):
        (store / lost).unlink()
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert answer.returncode == 1, answer.stderr
    assert "rows-00000-00031.h5: cannot be written" in answer.stderr
    left = {name: mark for name, mark in expected.items() if name in fingerprint(store)}
    assert fingerprint(store) == left
    assert sorted(left) == [
        "preprocessing.json",
        "shards/rows-00032-00063.h5",
        "shards/rows-00064-00069.h5",
    ]
    preprocess(scan, store, settings)
    assert fingerprint(store) == expected
