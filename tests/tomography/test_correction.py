"""Counts to line integrals: limits, and pixels that tell lies."""

import os
import subprocess
import sys

import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.tomography.correction import (
    AT_ONCE,
    dead_pixels,
    line_integrals,
    median_frame,
    minus_log,
    transmission,
)


def scan(views=5, rows=3, columns=16, flat=1000, dark=10):
    truth = np.random.default_rng(0).uniform(0.2, 0.9, (views, rows, columns)).astype(np.float32)
    flats = np.full((rows, columns), flat, np.float32)
    darks = np.full((rows, columns), dark, np.float32)
    return truth, truth * (flats - darks) + darks, flats, darks


def test_gives_back_the_transmission():
    truth, frames, flat, dark = scan()
    found, clipped = transmission(frames, flat, dark)
    np.testing.assert_allclose(found, truth, rtol=1e-5)
    assert found.dtype == np.float32
    assert clipped.dtype == np.int64
    np.testing.assert_array_equal(clipped, 0)
    np.testing.assert_allclose(minus_log(found), -np.log(truth), rtol=1e-4, atol=1e-5)


def test_counts_below_dark_are_dense_never_air():
    _, frames, flat, dark = scan()
    counts = frames.astype(np.uint16)
    counts[1, 2, 3:5] = (0, 10)  # below the dark level and at it: unsigned must not wrap round
    found, clipped = transmission(counts, flat, dark, floor=0.002)
    np.testing.assert_allclose(found[1, 2, 3:5], 0.002)
    np.testing.assert_array_equal(clipped, [0, 0, 2])
    assert minus_log(found)[1, 2, 3] == pytest.approx(-np.log(0.002))


def test_dead_pixels_are_mended_from_their_row():
    truth, frames, flat, dark = scan()
    ramp = np.linspace(0.3, 0.8, 16, dtype=np.float32)
    frames[:] = ramp * 990 + 10
    for column in (0, 6, 7, 15):
        flat[1, column] = 10  # flat == dark
    flat[1, 9] = np.nan
    frames[:, 1, [0, 6, 7, 9, 15]] = 10
    np.testing.assert_array_equal(
        np.flatnonzero(dead_pixels(flat, dark)), 16 + np.r_[0, 6, 7, 9, 15]
    )
    found, clipped = transmission(frames, flat, dark)
    expected = ramp.copy()
    expected[[0, 15]] = ramp[[1, 14]]
    np.testing.assert_allclose(found[:, 1], np.tile(expected, (5, 1)), rtol=1e-5)
    np.testing.assert_allclose(found[:, [0, 2]], np.tile(ramp, (5, 2, 1)), rtol=1e-5)
    assert not clipped.any()


def test_noisy_dead_pixels_are_found_where_the_beam_is_weak():
    rng = np.random.default_rng(0)
    alive = np.ones((4, 400), bool)
    alive[:, 3::10] = False  # and at the very edge
    alive[:, [0, 200, 201, 202, 399]] = False
    noise = 100 + 3 * rng.normal(size=(2, 20, 4, 400))
    flat = median_frame(np.rint(noise[0] + alive * rng.poisson(1000, (20, 4, 400))))
    dark = median_frame(np.rint(noise[1]))
    np.testing.assert_array_equal(dead_pixels(flat, dark), ~alive)
    np.testing.assert_array_equal(dead_pixels(np.stack([flat, 0.4 * flat + 60]), dark), ~alive)


def test_hot_pixels_are_mended():
    ramp = np.linspace(0.2, 0.6, 64, dtype=np.float32)
    _, frames, flat, dark = scan(columns=64, flat=20000, dark=100)
    frames[:] = ramp * 19900 + 100
    dark[1, 20], flat[1, 20], frames[:, 1, 20] = 40000, 65535, 65535
    dark[1, 40:42] += 8000  # warm, but far from saturated
    flat[1, 40:42] += 8000
    frames[:, 1, 40:42] += 8000
    np.testing.assert_array_equal(np.flatnonzero(dead_pixels(flat, dark)), [64 + 20])
    found, _ = transmission(frames, flat, dark)
    np.testing.assert_allclose(found, np.broadcast_to(ramp, found.shape), rtol=1e-4)


def test_a_beam_that_fades_a_glowing_dark_and_a_wide_gap():
    column = np.arange(500)
    dark = np.tile(100 + 900 * np.exp(-column / 60), (2, 1))  # more than the beam
    beam = np.tile(800 * np.exp(-(((column - 250) / 130) ** 2)), (2, 1))  # 2.5 % at the edge
    noise = np.random.default_rng(0).normal(size=beam.shape)
    assert not dead_pixels(dark + beam + 2 * noise, dark).any()
    steps = np.where(column < 250, 1, 0.02) * np.full((2, 1), 1000.0)  # the edge of a slit
    assert not dead_pixels(dark + steps, dark).any()
    beam[1, 100:200] = 0
    dead = dead_pixels(dark + beam, dark)
    np.testing.assert_array_equal(np.flatnonzero(dead), 500 + np.arange(100, 200))


def test_a_row_without_beam_is_nan_and_its_neighbours_are_not():
    truth, frames, flat, dark = scan()
    flat[1] = dark[1]
    found, clipped = transmission(frames, flat, dark)
    assert np.isnan(found[:, 1]).all()
    np.testing.assert_allclose(found[:, [0, 2]], truth[:, [0, 2]], rtol=1e-5)
    assert not clipped.any()
    assert np.isnan(minus_log(found)[:, 1]).all()


def test_not_a_number_in_a_frame_is_mended_there_alone():
    truth, frames, flat, dark = scan()
    frames[2, 0, 5] = np.nan
    frames[3, 1, 0] = np.inf
    found, _ = transmission(frames, flat, dark)
    assert found[2, 0, 5] == pytest.approx((truth[2, 0, 4] + truth[2, 0, 6]) / 2, rel=1e-4)
    assert found[3, 1, 0] == pytest.approx(truth[3, 1, 1], rel=1e-4)
    found[2, 0, 5], found[3, 1, 0] = truth[2, 0, 5], truth[3, 1, 0]
    np.testing.assert_allclose(found, truth, rtol=1e-5)


def test_flats_are_interpolated_between_groups_and_held_outside():
    truth, _, flat, dark = scan(views=7)
    groups = np.stack([flat, 2 * flat, flat])
    positions = np.array([-1.0, 0, 2, 4, 5, 8, 9])  # flats at 0, 4 and 8
    level = np.interp(positions, [0, 4, 8], [1, 2, 1])[:, None, None]
    frames = truth * (level * flat - dark) + dark
    found, _ = transmission(frames, groups, dark, flat_positions=[0, 4, 8], positions=positions)
    np.testing.assert_allclose(found, truth, rtol=1e-5)
    with pytest.raises(InputError, match="3 groups of flats"):
        transmission(frames, groups, dark)
    with pytest.raises(InputError, match="rising"):
        transmission(frames, groups, dark, flat_positions=[0, 8, 4], positions=positions)


def test_rows_do_not_depend_on_the_rows_beside_them():
    _, frames, flat, dark = scan(rows=6)
    flat[2:] *= 1e-4
    flat[4, 3] = np.nan
    whole, clipped = transmission(frames, flat, dark)
    for row in range(6):
        part, count = transmission(
            frames[:, row : row + 1], flat[row : row + 1], dark[row : row + 1]
        )
        np.testing.assert_array_equal(part[:, 0], whole[:, row])
        assert count[0] == clipped[row]


def test_median_ignores_one_zinger():
    frames = np.full((5, 2, 3), 100, np.uint16)
    frames[3, 1, 1] = 60000
    np.testing.assert_array_equal(median_frame(frames), 100)
    with pytest.raises(InputError, match="frames"):
        median_frame(np.zeros((0, 2, 3)))


def test_wrong_input_is_named():
    _, frames, flat, dark = scan()
    with pytest.raises(InputError, match="floor 0"):
        transmission(frames, flat, dark, floor=0)
    with pytest.raises(InputError, match="expected"):
        transmission(frames, flat[:2], dark)
    with pytest.raises(InputError, match="above 0"):
        minus_log(np.array([0.5, 0.0], np.float32))


def test_a_block_without_a_number_stays_so():
    nothing = np.full((2, 3, 4), np.nan, np.float32)
    assert np.isnan(minus_log(nothing)).all()


def plainly(frames, flats, dark, dead, floor, share):
    """The definition, value by value, in double precision; `share` of the second group."""
    out = np.full(frames.shape, np.nan)
    low = np.zeros(frames.shape, bool)
    for view, row in np.ndindex(frames.shape[:2]):
        beam = flats[:, row].astype(float) - dark[row]
        beam = beam[0] if len(beam) == 1 else beam[0] + share[view] * (beam[1] - beam[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            passed = (frames[view, row].astype(float) - dark[row]) / beam
        good = np.flatnonzero(np.isfinite(passed) & ~dead[row])
        if len(good):
            mended = np.interp(np.arange(len(passed)), good, passed[good])
            low[view, row], out[view, row] = mended < floor, np.maximum(mended, floor)
    return out, low.sum(axis=(0, 2))


DTYPES = ("u1", "u2", "i2", "i4", "u4", "f2", "f4", "f8", ">u2")


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_as_done_plainly(dtype, groups):
    rng = np.random.default_rng(0)
    views, rows, columns = 4, 7, 61
    flats = rng.uniform(180, 250, (groups, rows, columns)).astype(np.float32)
    dark = rng.uniform(2, 6, (rows, columns)).astype(np.float32)
    flats[0, 2, [0, 1, 30, 31, 60]] = 0  # dead, in one group alone
    flats[:, 3] = dark[3]  # a row without beam
    flats[-1, 4, 1:] = np.nan  # and one with a single live pixel
    frames = rng.integers(0, 120, (views, rows, columns)).astype(dtype)
    if frames.dtype.kind == "f":
        frames[0, 0, [0, 9, 10, 60]] = np.nan
        frames[1, 2, [2, 29, 32]] = np.nan, np.inf, -np.inf  # beside dead ones
        frames[2, 5] = np.nan
        frames[3, 6, :-1] = np.nan
    dead = dead_pixels(flats, dark)
    assert dead[3].all() and not dead[4, 0] and dead[4, 1:].all()
    positions = np.array([0.0, 2.5, 5, 12])
    where = {"flat_positions": [0, 10][:groups], "positions": positions, "floor": 0.1}
    expected, low = plainly(
        frames, flats, dark, dead, np.float32(0.1), np.clip(positions / 10, 0, 1)
    )
    found, clipped = transmission(frames, flats, dark, **where)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(clipped, low)
    assert low[0] and not low[3]
    integrals, clipped = line_integrals(frames, flats, dark, **where, dead=dead)
    np.testing.assert_allclose(integrals, -np.log(expected), rtol=2e-6, atol=1e-6)
    np.testing.assert_array_equal(clipped, low)


def test_line_integrals_are_the_logarithm_of_the_transmission():
    ratios = np.concatenate([np.geomspace(2e-38, 1e38, 40001), np.linspace(0.5, 2, 40001)])
    one = np.ones((1, len(ratios)), np.float32)
    ratios = ratios.astype(np.float32).reshape(1, *one.shape)
    found, _ = line_integrals(ratios, one, 0 * one, floor=1e-45)
    exact = -np.log(ratios.astype(np.float64))
    assert (np.abs(found - exact) <= np.spacing(np.abs(exact).astype(np.float32))).all()
    assert (found[ratios == 1] == 0).all()


def test_any_rows_at_once_into_any_array():
    rng = np.random.default_rng(0)
    rows, columns = 5, AT_ONCE // 2  # the last row is alone
    frames = rng.integers(50, 900, (2, rows, columns)).astype(np.uint16)
    flat, dark = rng.uniform(900, 1000, (rows, columns)), rng.uniform(5, 9, (rows, columns))
    whole, _ = line_integrals(frames, flat, dark)
    np.testing.assert_allclose(whole, -np.log((frames - dark) / (flat - dark)), rtol=1e-4)
    by_rows = np.zeros((rows, 3, columns), np.float32)
    given, _ = line_integrals(frames, flat, dark, out=by_rows[:, 1:].swapaxes(0, 1))
    np.testing.assert_array_equal(by_rows[:, 1:], whole.swapaxes(0, 1))
    assert np.shares_memory(given, by_rows) and not by_rows[:, 0].any()
    none, clipped = line_integrals(frames[:0], flat, dark)
    assert none.shape == (0, rows, columns) and clipped.tolist() == [0] * rows


def test_compiled_code_that_cannot_be_kept_still_runs(tmp_path):
    program = """
import resource, sys
import numpy as np
from hpc_srct.tomography.correction import transmission
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
found, _ = transmission(np.full((1, 1, 8), 50, np.uint16), np.full((1, 8), 100), np.zeros((1, 8)))
assert (found == 0.5).all()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
