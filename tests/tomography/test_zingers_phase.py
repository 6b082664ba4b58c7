"""Zingers and phase retrieval: what goes, what stays, and the physics of the filter."""

import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.tomography.phase import Paganin, wavelength
from hpc_srct.tomography.zingers import remove_zingers


def smooth_images(count=3, shape=(40, 50)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    one = (0.6 + 0.2 * np.sin(x / 9) * np.cos(y / 11)).astype(np.float32)
    return np.stack([one * (1 + 0.1 * i) for i in range(count)])


def test_specks_go_and_nothing_else():
    images = smooth_images()
    spoilt = images.copy()
    specks = [(0, 5, 5), (0, 0, 0), (2, 39, 49), (2, 20, 30), (2, 20, 31)]
    for i, y, x in specks:
        spoilt[i, y, x] *= 3
    found, replaced = remove_zingers(spoilt)
    np.testing.assert_array_equal(replaced, [2, 0, 3])
    changed = np.argwhere(found != spoilt)
    assert {tuple(c) for c in changed} == set(specks)
    np.testing.assert_allclose(found, images, rtol=0.08)


def test_dark_specks_and_darkness_are_left_alone():
    images = smooth_images(1)
    images[0, 10, 10] = 0
    found, replaced = remove_zingers(images)
    np.testing.assert_array_equal(found, images)
    dark = np.zeros((1, 20, 20), np.float32)
    dark[0, 4, 4] = 1e-6
    assert remove_zingers(dark)[1][0] == 0
    with pytest.raises(InputError, match="threshold > 0"):
        remove_zingers(images, threshold=0)


def test_counts_of_any_type_are_taken():
    counts = (smooth_images() * 1000).astype(np.uint16)
    counts[1, 7, 7] = 60000
    found, replaced = remove_zingers(counts)
    assert replaced.sum() == 1
    assert found[1, 7, 7] == pytest.approx(float(counts[1, 7, 6]), rel=0.05)


SETUP = {"energy_kev": 20.0, "distance_m": 0.1, "pixel_size_m": 1e-6, "delta_beta": 300.0}


def test_wavelength_of_a_known_energy():
    assert wavelength(12.398419843) == pytest.approx(1e-10)


def test_flat_fields_are_kept_and_waves_are_damped_as_the_paper_says():
    shape = (60, 80)
    retrieve = Paganin(shape, **SETUP)
    np.testing.assert_allclose(retrieve(np.full(shape, 0.37, np.float32)), 0.37, rtol=1e-5)
    # A wave of 8 pixels across: divided by 1 + π λ z (δ/β) f². A δ/β of 10 reaches 2 pixels,
    # so that the middle knows nothing of the edges.
    wave = (1 + 0.1 * np.cos(2 * np.pi * np.arange(80) / 8)) * np.ones((60, 1))
    gain = 1 / (1 + np.pi * wavelength(20) * 0.1 * 10 * (1 / 8e-6) ** 2)
    assert 0.2 < gain < 0.8
    found = Paganin(shape, **{**SETUP, "delta_beta": 10})(wave)[20:40, 24:56]
    np.testing.assert_allclose(found, 1 + gain * (wave[20:40, 24:56] - 1), atol=2e-5)


def test_undoes_the_contrast_of_a_defocused_object():
    """Transport of intensity: I(z) = (1 − z λ δ/β / 4π ∇²) exp(−μT), solved exactly."""
    shape = (96, 128)
    y, x = np.mgrid[: shape[0], : shape[1]]
    attenuation = 0.8 * np.exp(-((x - 60) ** 2 + (y - 50) ** 2) / 200)
    absorbed = np.exp(-attenuation)
    strength = SETUP["distance_m"] * wavelength(20) * 300 / (4 * np.pi) / 1e-6**2
    f2 = np.fft.fftfreq(96)[:, None] ** 2 + np.fft.fftfreq(128) ** 2
    seen = np.fft.ifft2(np.fft.fft2(absorbed) * (1 + strength * 4 * np.pi**2 * f2)).real
    found = Paganin(shape, **SETUP)(seen)
    assert np.abs(seen - absorbed).max() > 0.02
    np.testing.assert_allclose(-np.log(found), attenuation, atol=3e-3)


def test_edges_do_not_wrap_round():
    ramp = np.tile(np.linspace(0.2, 1.0, 80, dtype=np.float32), (60, 1))
    found = Paganin((60, 80), **SETUP)(ramp)
    assert found[:, 0].max() < 0.3
    assert found[:, -1].min() > 0.9


def test_frames_nan_and_shapes():
    frames = np.random.default_rng(0).uniform(0.3, 1, (3, 31, 43)).astype(np.float32)
    retrieve = Paganin((31, 43), **SETUP)
    alone = retrieve(frames[2])
    frames[1, 2, 2] = np.nan
    found = retrieve(frames)
    assert np.isnan(found[1, 2]).all() and np.isfinite(np.delete(found[1], 2, axis=0)).all()
    np.testing.assert_array_equal(found[2], alone)
    with pytest.raises(InputError, match=r"\(31, 43\)"):
        retrieve(frames[:, :30])
    with pytest.raises(InputError, match=r"energy \(keV\)"):
        Paganin((8, 8), **{**SETUP, "energy_kev": 0})
