"""A store through a network: same rows, resumed, shared by ranks, nothing overwritten."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from enhancement.cases import ROWS, described, restless, volume, write_store

from hpc_srct.enhancement import Enhancer, enhance_store, export_tiff
from hpc_srct.errors import InputError
from hpc_srct.models import build
from hpc_srct.models.files import save_model
from hpc_srct.slices import SliceStore
from hpc_srct.slices.lock import StoreLock

MPIEXEC = Path(sys.executable).parent / "mpiexec"


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


@pytest.fixture(scope="module")
def enhanced(store, model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("enhanced") / "out"
    enhance_store(store, model, out, device="cpu")
    return out


def test_the_output_is_a_store_like_its_input(store, model, enhanced):
    before, after = SliceStore(store), SliceStore(enhanced)
    assert after.names == ["enhanced"]
    np.testing.assert_array_equal(after.rows, ROWS)
    assert (after.size, after.scale, after.pixel_size, after.field_of_view) == (
        before.size,
        before.scale,
        before.pixel_size,
        before.field_of_view,
    )
    assert [p.name for p in sorted((enhanced / "shards").iterdir())] == [
        p.name for p in sorted((store / "shards").iterdir())
    ]
    expected = Enhancer.from_file(model, device="cpu").enhance(before.read("low", 40), before.scale)
    np.testing.assert_array_equal(after.read("enhanced", 40), expected)


def test_provenance_names_model_and_source(store, model, enhanced):
    provenance = SliceStore(enhanced).provenance
    assert provenance["model"]["path"] == str(model)
    assert provenance["model"]["architecture"] == "unet"
    assert len(provenance["settings"]["model_sha256"]) == 64
    assert provenance["source"]["provenance"]["source"] == "made for a test"
    assert provenance["rows_missing"] == []


def test_it_opens_with_plain_h5py_and_can_be_moved(enhanced, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(enhanced, moved)
    with h5py.File(moved / "slices.h5") as file:
        data = file["/entry/enhanced/data"]
        assert data.shape == (70, 48, 56) and np.isfinite(data[69]).all()


def test_a_rerun_makes_only_what_is_missing(store, model, enhanced, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(enhanced, out)
    expected = shards(out)
    first, second, _ = sorted((out / "shards").iterdir())
    (out / "slices.h5").unlink()
    second.unlink()
    (out / "shards" / f".{second.name}.123.part").write_bytes(b"half")
    kept = first.stat().st_mtime_ns
    enhance_store(store, model, out, device="cpu")
    assert first.stat().st_mtime_ns == kept
    assert shards(out) == expected, "and no leftovers"
    assert SliceStore(out).names == ["enhanced"]


def test_a_complete_store_is_left_alone(store, model, enhanced, capsys):
    before = (enhanced / "slices.h5").stat().st_mtime_ns
    enhance_store(store, model, enhanced, device="cpu")
    assert (enhanced / "slices.h5").stat().st_mtime_ns == before
    assert "nothing to do" in capsys.readouterr().out


def test_a_complete_store_may_lie_on_a_read_only_disk(store, model, enhanced, tmp_path):
    """Nothing is written into it, not even a lock: it is there to be exported."""
    before = enhanced.stat().st_mtime_ns
    with StoreLock(enhanced):
        locked = enhanced.stat().st_mtime_ns
        done = enhance_store(store, model, enhanced, device="cpu")
        assert enhanced.stat().st_mtime_ns == locked != before
    export_tiff(done, tmp_path / "tiff", bits=8)
    assert len(list((tmp_path / "tiff").glob("*.tif"))) == 70


def test_two_ranks_give_the_same_bytes(store, model, enhanced, tmp_path):
    out = tmp_path / "by two"
    code = (
        "from hpc_srct.ranks import communicator\n"
        "from hpc_srct.enhancement import enhance_store\n"
        f"enhance_store({str(store)!r}, {str(model)!r}, {str(out)!r}, communicator(), device='cpu')"
    )
    subprocess.run(
        [MPIEXEC, "-n", "2", sys.executable, "-c", code],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert shards(out) == shards(enhanced)
    assert SliceStore(out).n_slices == 70


def test_slices_with_missing_values_are_named(model, tmp_path, capsys):
    low = volume(5)
    low[3, 20, 20] = np.nan
    store = write_store(tmp_path / "scan", low)
    out = enhance_store(store, model, tmp_path / "out", device="cpu")
    assert np.isnan(out.read("enhanced", 3)).all()
    assert np.isfinite(out.read("enhanced", np.array([0, 1, 2, 4]))).all()
    assert "rows 103" in capsys.readouterr().err
    assert out.provenance["rows_missing"] == [103]


def test_another_model_precision_or_source_is_refused(store, model, enhanced, tmp_path):
    other = save_model(restless("unet", seed=9), described(), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="another model;"):
        enhance_store(store, other, enhanced, device="cpu")
    with pytest.raises(InputError, match="another precision;"):
        enhance_store(store, model, enhanced, precision="bf16", device="cpu")
    rescaled = write_store(tmp_path / "scan", volume(), scale=0.04)
    with pytest.raises(InputError, match="another slice store;"):
        enhance_store(rescaled, model, enhanced, device="cpu")


def test_nothing_else_is_overwritten(store, model, tmp_path):
    with pytest.raises(InputError, match="is the input"):
        enhance_store(store, model, store, device="cpu")
    other = write_store(tmp_path / "other", volume(2))
    before = shards(other)
    with pytest.raises(InputError, match="not an enhanced store"):
        enhance_store(store, model, other, device="cpu")
    assert shards(other) == before
    with pytest.raises(InputError, match="is a file"):
        enhance_store(store, model, model, device="cpu")


def test_missing_shards_and_arrays_are_named(model, tmp_path):
    store = write_store(tmp_path / "scan", volume(40))
    (store / "shards" / "rows-00032-00039.h5").unlink()
    with pytest.raises(InputError, match="8 slices of 'low' have no shard .rows 132 to 139"):
        enhance_store(store, model, tmp_path / "out", device="cpu")
    description = described() | {"input": "splits/0"}
    split = save_model(build("unet", 4, 2), description, tmp_path / "split.safetensors")
    with pytest.raises(InputError, match="no 'splits/0' inside.*it has low"):
        enhance_store(store, split, tmp_path / "out", device="cpu")
    whole = write_store(tmp_path / "whole", volume(2))
    with pytest.raises(InputError, match="tile: 20 pixels leave nothing.*choose at least"):
        enhance_store(whole, model, tmp_path / "out", tile=20, device="cpu")
    assert not (tmp_path / "out").exists(), "nothing is left behind"


def test_a_damaged_shard_is_the_inputs_not_the_outputs(model, tmp_path):
    store = write_store(tmp_path / "scan", volume(40))
    damaged = store / "shards" / "rows-00032-00039.h5"
    os.truncate(damaged, damaged.stat().st_size // 2)
    with pytest.raises(InputError) as caught:
        enhance_store(store, model, tmp_path / "out", device="cpu")
    assert str(caught.value).startswith(f"{damaged}: is damaged")
