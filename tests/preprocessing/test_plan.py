"""The plan: every slice once, within the memory, in few passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_srct.errors import InputError
from hpc_srct.preprocessing import Work, make_plan
from hpc_srct.preprocessing.plan import GIB, MIB

LARGE = Work(
    n_slices=2048, n_views=1500, n_low=250, columns=2048, frame_rows=2048, chunked_by_frame=True
)


@settings(max_examples=80, deadline=None)
@given(
    n_slices=st.integers(1, 400),
    ranks=st.integers(1, 7),
    memory=st.integers(275, 3000),
    chunked=st.booleans(),
    skip=st.integers(1, 4),
)
def test_every_slice_is_made_once_and_pairs_stay_together(n_slices, ranks, memory, chunked, skip):
    work = Work(n_slices, 300, 50, 256, n_slices, chunked_by_frame=chunked)
    blocks = list(range(0, -(-n_slices // 32), skip))
    plan = make_plan(work, ranks, memory * MIB, blocks)
    made, makers = [], {}
    for one in plan.passes:
        assert len(one) == ranks
        # Rows of a pass rise over the ranks: the exchange relies on it.
        order = [i for share in one for p in share for i in range(p.start, p.stop)]
        assert order == sorted(order)
        for rank, share in enumerate(one):
            for portion in share:
                made += range(portion.start, portion.stop)
                assert makers.setdefault(portion.block, rank) == rank
                assert portion.start % 2 == 0
                assert portion.stop % 2 == 0 or portion.stop == n_slices
                assert portion.start // 32 == (portion.stop - 1) // 32 == portion.block
    assert sorted(made) == [i for b in blocks for i in range(32 * b, min(32 * b + 32, n_slices))]
    assert plan.memory <= memory * MIB


def test_more_memory_means_fewer_readings_of_a_scan_kept_by_frames():
    readings = [make_plan(LARGE, 2, gib * GIB).readings for gib in (1, 4, 16, 64)]
    assert readings == sorted(readings, reverse=True)
    assert readings[0] > readings[1] > readings[2]
    # With memory for everything: once for the rows, once for the centre.
    assert make_plan(LARGE, 8, 64 * GIB).readings == 2
    assert make_plan(LARGE, 8, 64 * GIB, finds_centre=False).readings == 1


def test_more_ranks_mean_fewer_readings():
    few, many = (make_plan(LARGE, ranks, 4 * GIB) for ranks in (1, 8))
    assert many.readings < few.readings


def test_a_scratch_folder_means_one_reading():
    assert make_plan(LARGE, 2, 2 * GIB, finds_centre=False).readings > 1
    staged = make_plan(LARGE, 2, 2 * GIB, scratch=True, finds_centre=False)
    assert (staged.readings, staged.staged) == (1, True)
    assert staged.scratch == 2048 * 1500 * 2048 * 2
    in_rows = Work(2048, 1500, 250, 2048, 2048, chunked_by_frame=False)
    assert not make_plan(in_rows, 2, 2 * GIB, scratch=True).staged


def test_phase_retrieval_needs_whole_frames_in_every_pass_but_one_with_scratch():
    phase = replace(LARGE, chunked_by_frame=False, whole_frames=True)
    plan = make_plan(phase, 2, 2 * GIB)
    assert plan.phase_retrievals == plan.readings == len(plan.passes) > 1
    staged = make_plan(phase, 2, 2 * GIB, scratch=True)
    assert (staged.phase_retrievals, staged.readings, staged.staged) == (1, 1, True)
    assert staged.scratch == 2048 * 1500 * 2048 * 4
    assert staged.memory <= 2 * GIB
    assert make_plan(LARGE, 2, 2 * GIB).phase_retrievals == 0


def test_peak_memory_does_not_grow_with_the_scan():
    peaks = {
        make_plan(Work(rows, 512, 86, 1024, rows), ranks, 4 * GIB).memory
        for rows in (64, 512, 4096)
        for ranks in (1,)
    }
    assert len(peaks) == 1
    by_frame = [
        make_plan(Work(rows, 512, 86, 1024, rows, chunked_by_frame=True), 2, GIB).memory
        for rows in (512, 4096)
    ]
    assert max(by_frame) <= GIB


def test_too_little_memory_is_refused_with_the_least_that_does():
    with pytest.raises(InputError, match=r"memory: 200 MiB.*memory=\d+MiB") as refusal:
        make_plan(LARGE, 1, 200 * MIB)
    least = int(str(refusal.value).rpartition("memory=")[2].partition("MiB")[0])
    assert make_plan(LARGE, 1, least * MIB).rows_per_rank == 2
    with pytest.raises(InputError):
        make_plan(LARGE, 1, (least - 1) * MIB)


def test_disk_is_that_of_the_arrays():
    work = Work(40, 100, 20, 64, 40, truth=True)
    assert make_plan(work, 1, GIB).disk == 40 * 4 * (3 * 64 * 64 + 20 * 64)
    assert make_plan(work, 1, GIB, blocks=[1]).disk == 8 * 4 * (3 * 64 * 64 + 20 * 64)
    assert make_plan(work, 1, GIB).describe()["passes"] == 2


def test_pairs_that_are_not_full_take_the_memory_of_full_ones():
    five, eight = (make_plan(Work(rows, 2000, 333, 1024, rows), 1, 4 * GIB) for rows in (5, 8))
    images_and_rows = 3 * (1024**2 + (2000 + 333) * 1024) * 4
    assert eight.memory - five.memory == pytest.approx(1.05 * images_and_rows, rel=0.01)


def test_an_axis_at_the_side_makes_longer_lines():
    middle, side = (
        make_plan(Work(8, 2000, 333, 1024, 8, axis=axis), 1, 4 * GIB).memory for axis in (None, 20)
    )
    more = np.sqrt(0.5) * 1024 + 1003 - max(1026, np.sqrt(0.5) * 1024 + 511.5)
    # Waves of four pairs, and what is kept of each point.
    assert side - middle > 0.95 * more * (2000 * 32 + (2000 + 333) * 28)
