"""Tiles: training tiles repeat from the seed; inference tiles fit without a seam."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve

from hpc_srct.errors import InputError
from hpc_srct.slices.tiles import TileSampler, TrainingTile, inference_tiles


def test_a_tile_depends_on_seed_epoch_and_index_alone():
    sampler = TileSampler(6, (50, 70), 16, per_slice=3, seed=4)
    tiles = [sampler.draw(2, i) for i in range(len(sampler))]
    again = TileSampler(6, (50, 70), 16, per_slice=3, seed=4)
    # Asked backwards and from the middle, as a resumed run would.
    assert [again.draw(2, i) for i in reversed(range(18))][::-1] == tiles
    assert [sampler.draw(3, i) for i in range(18)] != tiles
    assert [TileSampler(6, (50, 70), 16, 3, seed=5).draw(2, i) for i in range(18)] != tiles
    order = sampler.order(2)
    assert [sampler.draw(2, i, order[i]) for i in range(18)] == tiles


def test_every_slice_comes_equally_often_in_every_epoch():
    sampler = TileSampler(6, (50, 70), 16, per_slice=3)
    for epoch in range(3):
        assert np.bincount(sampler.order(epoch)).tolist() == [3] * 6
    assert sampler.order(0).tolist() != sampler.order(1).tolist()
    with pytest.raises(IndexError):
        sampler.draw(0, 18)


def test_tiles_stay_inside_and_take_every_turn():
    sampler = TileSampler(4, (20, 33), 16, per_slice=100, field_of_view=None)
    tiles = [sampler.draw(0, i) for i in range(400)]
    assert {tile.y for tile in tiles} == set(range(5))
    assert {tile.x for tile in tiles} == set(range(18))
    assert len({(tile.mirrored, tile.quarter_turns) for tile in tiles}) == 8
    plain = TileSampler(4, (20, 33), 16, per_slice=10, augment=False)
    assert {(t.mirrored, t.quarter_turns) for t in (plain.draw(0, i) for i in range(40))} == {
        (False, 0)
    }


def test_middles_lie_inside_the_field_of_view():
    sampler = TileSampler(1, (100, 100), 10, per_slice=300, field_of_view=40)
    for i in range(300):
        tile = sampler.draw(0, i)
        assert np.hypot(tile.y + 5 - 50, tile.x + 5 - 50) <= 40


def test_turning_is_that_of_numpy_and_keeps_pairs_together():
    image = np.arange(9).reshape(3, 3)
    tile = TrainingTile(0, 0, 0, 3, mirrored=True, quarter_turns=1)
    np.testing.assert_array_equal(tile.turn(image), np.rot90(np.fliplr(image)))
    pair = tile.turn(np.stack([image, 10 * image]))
    np.testing.assert_array_equal(pair[1], 10 * pair[0])
    assert pair.flags.c_contiguous


def test_a_tile_larger_than_the_slice_is_refused():
    with pytest.raises(InputError, match="choose at most 50"):
        TileSampler(6, (50, 70), 64)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    stride=st.sampled_from([1, 2, 4, 8]),
    reach=st.integers(0, 10),
    extra=st.integers(1, 30),
)
def test_inference_tiles_cover_each_pixel_once_with_a_whole_halo(size, stride, reach, extra):
    tile = 2 * (-(-reach // stride) * stride) + stride + extra - 1
    count = np.zeros(size, dtype=int)
    for piece in inference_tiles(size, tile, stride, reach):
        count[piece.keep] += 1
        for read, keep, inside, length in zip(
            piece.read, piece.keep, piece.inside, size, strict=True
        ):
            assert read.start % stride == 0
            assert read.stop % stride == 0 or read.stop == length
            assert read.stop - read.start <= max(tile, 1)
            assert keep.start - read.start >= reach or read.start == 0 == keep.start
            assert read.stop - keep.stop >= reach or read.stop == length == keep.stop
            assert (inside.start, inside.stop) == (
                keep.start - read.start,
                keep.stop - read.start,
            )
    assert (count == 1).all()


def test_tiled_equals_untiled_for_a_filter_of_that_reach():
    image = np.random.default_rng(0).normal(size=(61, 83))
    kernel = np.random.default_rng(1).normal(size=(7, 7))
    whole = convolve(image, kernel, mode="constant")
    tiled = np.full_like(image, np.nan)
    for piece in inference_tiles(image.shape, 24, 4, 3):
        tiled[piece.keep] = convolve(image[piece.read], kernel, mode="constant")[piece.inside]
    np.testing.assert_allclose(tiled, whole, atol=1e-12)
    # One pixel less of halo is seen: the test can fail.
    seamed = np.full_like(image, np.nan)
    for piece in inference_tiles(image.shape, 24, 1, 2):
        seamed[piece.keep] = convolve(image[piece.read], kernel, mode="constant")[piece.inside]
    assert np.abs(seamed - whole).max() > 1e-3


def test_a_slice_that_fits_is_one_tile():
    for tile in (None, 100, 4000):
        (only,) = inference_tiles((100, 90), tile, 16, 40)
        assert only.read == only.keep == (slice(0, 100), slice(0, 90))


def test_a_tile_that_is_all_halo_is_refused():
    with pytest.raises(InputError, match="halo of 48.*at least 112"):
        inference_tiles((1000, 1000), 64, 16, 40)
