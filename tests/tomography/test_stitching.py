"""Half-acquisition scans: the stitched views are those of a wide detector."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.tomography.projector import Projector
from hpc_srct.tomography.stitching import plan_stitching

# Gaussian blobs (x, y, width, height): their projections are Gaussians, exactly.
BLOBS = [(30.0, 12.0, 5.0, 1.0), (-41.0, 5.0, 4.0, 0.7), (2.0, -30.0, 7.0, 0.5), (0.0, 0.0, 3, 1)]


def projections(angles, columns, centre):
    s = np.arange(columns) - centre
    total = np.zeros((len(angles), columns))
    for x, y, width, height in BLOBS:
        at = x * np.cos(angles) + y * np.sin(angles)
        total += (
            height * width * np.sqrt(2 * np.pi) * np.exp(-((s - at[:, None]) ** 2) / 2 / width**2)
        )
    return total.astype(np.float32)


def stitched(angles, columns, centre):
    plan = plan_stitching(angles, columns, centre)
    views = projections(angles, columns, centre)
    every = np.arange(len(plan.views))
    wide = plan(views[plan.views], views[plan.partners[:, 0]], views[plan.partners[:, 1]], every)
    return plan, wide


@pytest.mark.parametrize("centre", [9.0, 12.37, 58.5, 67.25, 70.0, 39.5])
def test_stitched_views_are_those_of_a_wide_detector(centre):
    angles = 0.3 + np.arange(360) * 2 * np.pi / 360
    plan, wide = stitched(angles, 80, centre)
    assert wide.shape == (180, plan.columns)
    assert plan.columns == pytest.approx(2 * max(centre, 79 - centre) + 1, abs=1)
    exact = projections(plan.angles, plan.columns, plan.centre)
    np.testing.assert_allclose(wide, exact, atol=2e-3 * exact.max())


@pytest.mark.parametrize(
    "angles",
    [
        np.linspace(0, 2 * np.pi, 721),  # the end point repeated
        -np.linspace(0, 2 * np.pi, 720, endpoint=False),  # backwards
        np.random.default_rng(0).permutation(np.arange(720)) * np.pi / 360,  # in any order
        np.arange(721) * 2 * np.pi / 721,  # no view stands opposite another
    ],
)
def test_any_order_and_spacing_of_angles(angles):
    plan, wide = stitched(angles, 80, 67.25)
    exact = projections(plan.angles, plan.columns, plan.centre)
    np.testing.assert_allclose(wide, exact, atol=4e-3 * exact.max())
    assert np.ptp(plan.angles) < np.pi
    assert len(plan.angles) == pytest.approx(len(angles) / 2, abs=1)


def test_a_blob_outside_the_detectors_short_side_is_reconstructed():
    angles = np.arange(360) * 2 * np.pi / 360
    plan, wide = stitched(angles, 80, 67.25)
    image = Projector(plan.angles, plan.columns, plan.centre).fbp(wide)
    middle = (plan.columns - 1) / 2
    for x, y, _, height in BLOBS:
        row, column = round(middle - y), round(middle + x)
        assert image[row, column] == pytest.approx(height, rel=0.05)


def test_half_a_turn_cannot_be_stitched():
    with pytest.raises(InputError, match="full turn"):
        plan_stitching(np.linspace(0, np.pi, 181), 80, 70)
    with pytest.raises(InputError, match="inside the detector"):
        plan_stitching(np.linspace(0, 2 * np.pi, 181), 80, 79)
