"""Angles that start anywhere, run backwards, are irregular, or repeat the end point."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_srct.scan.angles import AngleSummary


def summary(*degrees) -> AngleSummary:
    return AngleSummary.of(np.deg2rad(np.concatenate([np.atleast_1d(d) for d in degrees])))


def test_half_turn_without_its_end():
    found = summary(np.arange(181) * 180 / 181)
    assert (found.turn, found.regular, found.direction) == ("half", True, "rising")
    assert found.span == pytest.approx(179.0055, abs=1e-3)
    assert found.largest_gap == pytest.approx(found.step)
    assert not found.repeats_end
    assert found.notes() == []


@pytest.mark.parametrize(("start", "sign"), [(-88.2, 1), (0, 1), (270, -1)])
def test_end_point_repeated(start, sign):
    found = summary(start + sign * np.linspace(0, 180, 91))
    assert (found.turn, found.repeats_end) == ("half", True)
    assert found.direction == ("rising" if sign > 0 else "falling")
    assert any("repeats the first" in note for note in found.notes())


def test_full_turn():
    assert summary(np.arange(0, 360, 0.5)).turn == "full"
    assert summary(np.linspace(0, 360, 721)).repeats_end
    assert summary(np.arange(0, 720, 0.5)).turn == "other"


def test_missing_wedge():
    found = summary(np.linspace(-60, 60, 121))
    assert found.turn == "part"
    assert found.largest_gap == pytest.approx(60)
    assert "121°" in found.notes()[0]


def test_a_hole_in_the_middle():
    found = summary(np.arange(0, 50), np.arange(70, 180))
    assert (found.turn, found.regular) == ("half", False)
    assert any("wedge of 21°" in note for note in found.notes())


def test_a_full_turn_hides_a_hole_behind_its_opposite():
    found = summary(np.arange(0, 50), np.arange(70, 360))
    assert found.largest_gap == pytest.approx(1)


def test_golden_ratio_order():
    found = summary(np.mod(np.arange(89) * 111.246, 180))
    assert found.direction == "mixed"
    assert any("back and forth" in note for note in found.notes())


def test_repeated_and_single_views():
    assert summary(0, 0, 90, 90, 135).repeated == 2
    assert summary(30).span == 0
