"""Normalisation: scans of any absorption look alike, and attenuation comes back."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.slices import Normalisation, SliceStore, StoreWriter
from hpc_srct.slices.normalisation import intensity, mean_intensity


def disc(n: int = 64, radius: float = 20, value: float = 0.02) -> np.ndarray:
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    return np.where(np.hypot(y, x) <= radius, value, 0).astype(np.float32)


def test_intensity_of_a_disc_is_its_attenuation():
    assert intensity(disc(), 31.5) == pytest.approx(0.02, rel=1e-6)


def test_intensity_grows_with_the_attenuation():
    rng = np.random.default_rng(0)
    image = disc() + rng.normal(0, 0.002, (64, 64)).astype(np.float32)
    assert intensity(4 * image, 31.5) == pytest.approx(4 * intensity(image, 31.5), rel=1e-6)


def test_noise_of_single_pixels_is_averaged_away():
    rng = np.random.default_rng(0)
    noisy = disc(256, 100) + rng.normal(0, 0.02, (256, 256))
    # The plain percentile is more than three times too high.
    assert np.percentile(noisy, 99) > 0.05
    assert intensity(noisy, 127.5) == pytest.approx(0.03, abs=0.003)


def test_what_lies_outside_the_field_of_view_does_not_count():
    image = disc()
    y, x = np.mgrid[:64, :64] - 31.5
    image[np.hypot(y, x) > 28] = 50.0
    assert intensity(image, 24) == pytest.approx(0.02, rel=1e-6)


def test_nan_and_empty_slices():
    image = disc()
    image[:8] = np.nan
    assert intensity(image, 31.5) == pytest.approx(0.02, rel=1e-6)
    assert np.isnan(intensity(np.full((16, 16), np.nan), 8))
    assert mean_intensity([1.0, np.nan, 3.0]) == 2.0
    assert mean_intensity([np.nan]) == 1.0
    assert mean_intensity([0.0, 0.0]) == 1.0
    assert intensity(np.ones((3, 3)), 1.0) == 1.0


@pytest.mark.parametrize("shape", [(64, 64), (50, 61), (9, 4), (3, 7), (1, 1)])
@pytest.mark.parametrize("radius", [30.0, 11.3, 2.0, -1.0])
def test_intensity_is_the_percentile_of_the_means_inside(shape, radius):
    image = np.random.default_rng(0).normal(1, 1, shape).astype(np.float32)
    image[shape[0] // 2, shape[1] // 3 :: 9] = np.nan
    step = min(4, *shape)
    means, inside = [], []
    for y, x in np.ndindex(shape[0] // step, shape[1] // step):
        part = image[y * step : (y + 1) * step, x * step : (x + 1) * step]
        means.append(part.astype(np.float64).mean())
        middle = (np.array([y, x]) + 0.5) * step - np.array(shape) / 2
        inside.append(np.hypot(*middle) <= radius)
    values = np.array(means)[inside] if any(inside) else np.array(means)
    values = values[~np.isnan(values)]
    expected = np.percentile(values, 99) if len(values) else np.nan
    assert intensity(image, radius) == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_undo_gives_attenuation_back():
    image = disc()
    there = Normalisation(0.025)
    np.testing.assert_allclose(there.undo(there.apply(image)), image, rtol=1e-6)
    assert there.apply(image).dtype == np.float32
    assert there.apply(image).max() == pytest.approx(0.8)


def test_description_carries_the_policy_and_not_the_scale(tmp_path):
    description = Normalisation(0.025).describe()
    assert description["policy"] == "per-scan"
    assert Normalisation.from_description(description, 3.0) == Normalisation(3.0)
    with pytest.raises(InputError, match="policy 'fixed' is not known"):
        Normalisation.from_description({"policy": "fixed"}, 1.0)


def test_from_store(tmp_path):
    writer = StoreWriter(tmp_path / "store", 1, (8, 8))
    writer.write_block(0, {"low": np.ones((1, 8, 8))})
    writer.finish({}, scale=0.5)
    assert Normalisation.from_store(SliceStore(tmp_path / "store")) == Normalisation(0.5)
    writer.finish({})
    with pytest.raises(InputError, match="no attribute 'scale'"):
        Normalisation.from_store(SliceStore(tmp_path / "store"))
