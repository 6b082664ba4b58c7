"""Which tiles a rank sees and in which order; stores that lack something; the loss by name."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from training.tiny_runs import figures, lines, make_store, same, tiny

from hpc_srct.errors import InputError, MachineError
from hpc_srct.settings.experiment import ExperimentSettings, TileSettings
from hpc_srct.slices import SliceStore
from hpc_srct.training import losses, train
from hpc_srct.training.data import Loader, PairedSlices, Tiles


def tiles_of(stores, seed: int = 0, per_step: int = 1, **settings: object) -> Tiles:
    """Tiles of both stores together."""
    slices = PairedSlices([str(s) for s in stores], "low", "truth")
    settings = {"size": 16, "batch": 4, "per_slice": 2} | settings
    return Tiles(slices, TileSettings(**settings), seed, per_step)


def test_ranks_share_one_global_order(stores):
    tiles = tiles_of(stores)
    assert tiles.total == 16 and tiles.micro_batches == 4
    whole = tiles.batch(3, 1)
    assert whole.shape == (2, 4, 1, 16, 16) and whole.dtype == np.float32
    shares = [tiles.batch(3, 1, rank, 2) for rank in range(2)]
    assert np.array_equal(np.concatenate(shares, axis=1), whole)


def test_tiles_depend_on_seed_epoch_and_number_alone(stores):
    one, two = tiles_of(stores), tiles_of(stores)
    two.batch(5, 3)  # what was asked before does not matter
    assert np.array_equal(one.batch(1, 2), two.batch(1, 2))
    assert not np.array_equal(one.batch(1, 2), one.batch(2, 2))
    assert not np.array_equal(one.batch(1, 2), tiles_of(stores, seed=1).batch(1, 2))


def test_every_slice_has_its_tiles_in_every_epoch(stores):
    slices = PairedSlices([str(s) for s in stores], "low", "truth")
    seen: list = []
    read = slices.read
    slices.read = lambda pair, window=None: (seen.append(pair), read(pair, window))[1]
    tiles = Tiles(slices, TileSettings(size=16, batch=4, per_slice=2), 0)
    for number in range(tiles.micro_batches):
        tiles.batch(0, number)
    assert sorted((p.store, p.slice) for p in seen) == sorted(
        (p.store, p.slice) for p in slices.pairs for _ in range(2)
    )


def test_input_and_label_are_cut_and_turned_alike_and_normalised(stores):
    slices = PairedSlices([str(stores[0])], "low", "low")
    tiles = Tiles(slices, TileSettings(size=16, batch=4), 0)
    inputs, labels = tiles.batch(0, 0)
    assert np.array_equal(inputs, labels)
    store = slices.stores[0]
    assert np.allclose(slices.read(slices.pairs[2])[0], store.read("low", 2) / store.scale)


@pytest.mark.parametrize("workers", [0, 2])
def test_read_ahead_gives_the_same_batches_from_any_place(stores, workers):
    tiles = tiles_of(stores)
    loader = Loader(tiles, 0, 1, workers)
    for epoch, first in ((0, 0), (1, 2)):
        batches = [b.numpy() for b in loader.epoch(epoch, first)]
        assert len(batches) == 4 - first
        for number, batch in enumerate(batches, start=first):
            assert np.array_equal(batch, tiles.batch(epoch, number))


def test_an_epoch_has_whole_steps_and_says_what_it_leaves_out(stores, tmp_path, capfd):
    tiles = tiles_of(stores, batch=3, per_step=2)
    assert (tiles.total, tiles.micro_batches, tiles.unused) == (16, 4, 4)
    settings = tiny(stores, epochs=1, tiles={"size": 16, "batch": 5, "per_slice": 2})
    train(settings, tmp_path / "run")
    assert "leaves out 2 of its 12 tiles" in capfd.readouterr().out
    with pytest.raises(InputError, match="one step takes 16 × 2 tiles.*only 16"):
        tiles_of(stores, batch=16, per_step=2)


def test_a_tile_larger_than_the_slice_is_refused(stores):
    with pytest.raises(InputError, match=r"train: tiles\.size: a tile of 64 .* 40 × 40"):
        tiles_of(stores, size=64)


def test_whole_slices_must_be_of_one_size(stores, tmp_path):
    assert tiles_of(stores, size=None).batch(0, 0).shape == (2, 4, 1, 40, 40)
    other = make_store(tmp_path / "other", 2, size=32)
    with pytest.raises(InputError, match="null takes whole slices.*\nSet tiles.size to at most 32"):
        tiles_of([*stores, other], size=None)


def test_stores_that_lack_something(stores, tmp_path):
    bare = make_store(tmp_path / "bare", 2, names=("low", "full"))
    with pytest.raises(InputError, match="has no 'truth' to be the label; it has low, full"):
        PairedSlices([str(bare)], "low", "truth")
    with pytest.raises(InputError, match="train: no store is named"):
        train(ExperimentSettings(), tmp_path / "run")
    with pytest.raises(InputError, match="no such slice store"):
        train(tiny((tmp_path / "nowhere", stores[1])), tmp_path / "run")
    spoiled = make_store(tmp_path / "spoiled", 2, spoiled=(0, 1))
    with pytest.raises(InputError, match="every slice of .* has NaN"):
        train(tiny((spoiled, stores[1])), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_names_are_answered_with_the_known_ones(stores, tmp_path):
    with pytest.raises(InputError, match=r"'mes'; known: l1, mse\. Did you mean 'mse'"):
        losses.get("mes")
    with pytest.raises(InputError, match="unknown 'vnet'; known: unet, resattunet"):
        train(tiny(stores, model={"name": "vnet"}), tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (90, 90),
        ("90s", 90),
        ("30m", 1800),
        ("11.5h", 41400),
        ("01:30:00", 5400),
        ("1-0:0:1", 86401),
    ],
)
def test_times(text, expected):
    assert ExperimentSettings(time_limit=text).time_limit == expected


def test_data_that_vanish_stop_the_run_saved(stores, tmp_path, monkeypatch):
    """A shard removed while the run reads from disk."""
    store = shutil.copytree(stores[0], tmp_path / "store")
    settings = tiny((store, stores[1]), cache_gb=0, epochs=2)
    read = PairedSlices.read
    reads = []

    def vanishing(self: PairedSlices, pair, window=None):
        if self.role == "train" and len(reads) > 13 and (store / "shards").is_dir():
            shutil.rmtree(store / "shards")
            self.stores[0].close()
        reads.append(pair)
        return read(self, pair, window)

    with monkeypatch.context() as patch:
        patch.setattr(PairedSlices, "read", vanishing)
        with pytest.raises(MachineError, match=r"row 10\d was whole .*\n.*--resume goes on"):
            train(settings, tmp_path / "run")
    done = len(lines(tmp_path / "run"))
    assert done < 12
    shutil.copytree(stores[0] / "shards", store / "shards")
    train(settings, tmp_path / "run", resume=True)
    train(settings, tmp_path / "whole")
    same(tmp_path / "whole", tmp_path / "run")


def test_reading_from_disk_from_memory_and_by_workers_is_the_same_training(stores, tmp_path):
    changes = {
        "memory": {},
        "disk": {"cache_gb": 0},
        "workers": {"cache_gb": 0, "tiles": {"size": 16, "batch": 2, "per_slice": 2, "workers": 1}},
    }
    for name, change in changes.items():
        train(tiny(stores, epochs=1, **change), tmp_path / name)
    assert figures(tmp_path / "memory") == figures(tmp_path / "disk")
    assert figures(tmp_path / "memory") == figures(tmp_path / "workers")


def test_accumulated_micro_batches_hold_the_tiles_of_one_batch(stores, tmp_path):
    """A new network gives its input back, so that the first loss is that of the tiles alone.

    (That gradients are averaged is tested with the precisions.)
    """
    for name, batch, accumulation in (("one", 4, 1), ("four", 2, 2)):
        settings = tiny(
            stores,
            epochs=1,
            tiles={"size": 16, "batch": batch, "per_slice": 2, "augment": False},
            optimizer={"learning_rate": 1e-3, "accumulation": accumulation},
        )
        train(settings, tmp_path / name)
    one, four = lines(tmp_path / "one"), lines(tmp_path / "four")
    assert len(one) == len(four) == 3
    assert four[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-5)


def test_activation_checkpointing_is_the_same_training(stores, tmp_path):
    for name, wanted in (("kept", False), ("again", True)):
        settings = tiny(stores, epochs=1, activation_checkpointing=wanted)
        train(settings, tmp_path / name)
    same(tmp_path / "kept", tmp_path / "again")


def test_stores_that_were_filtered_differently_are_not_mixed(stores, monkeypatch):
    of = {str(store): name for store, name in zip(stores, ("ramp", "hann"), strict=False)}
    monkeypatch.setattr(SliceStore, "low_filter", property(lambda self: of[str(self.path)]))
    with pytest.raises(InputError, match="filtered with hann(.|\n)*with ramp(.|\n)*alike"):
        PairedSlices([str(s) for s in stores[:2]], "low", "truth")
    assert PairedSlices([str(stores[1])], "low", "truth").low_filter == "hann"
