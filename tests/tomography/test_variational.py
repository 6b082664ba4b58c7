"""Total variation: identities of its parts, limits, and what it is for."""

import numpy as np
import pytest

from benchmarks import phantom
from hpc_srct.errors import InputError
from hpc_srct.tomography.projector import Projector
from hpc_srct.tomography.variational import (
    _Weighting,
    divergence,
    gradient,
    tv_denoise,
    tv_reconstruct,
)


def few_views(size=64, views=20, photons=2e4):
    angles = np.arange(views) * np.pi / views
    image = phantom.image(size) * (3 / size)
    exact = phantom.sinogram(angles, size) * (3 / size)
    counts = np.random.default_rng(0).poisson(photons * np.exp(-exact))
    return Projector(angles, size), (-np.log(counts / photons)).astype(np.float32), image


def rmse(found, image):
    return np.sqrt(np.mean((found - image)[phantom.disc_mask(len(image))] ** 2))


def total_variation(image):
    return np.sqrt((gradient(image[None]) ** 2).sum(axis=0)).sum()


def test_divergence_is_minus_the_transpose_of_the_gradient():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 7, 10), np.float32)
    p = rng.standard_normal((2, 3, 7, 10), np.float32)
    assert np.vdot(gradient(x), p) == pytest.approx(-np.vdot(x, divergence(p)), rel=1e-4)


def test_weighting_is_symmetric_and_positive():
    projector, *_ = few_views()
    weigh = _Weighting(projector)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((1, 20, 64), np.float32) for _ in range(2))
    assert np.vdot(weigh(a), b) == pytest.approx(np.vdot(a, weigh(b)), rel=1e-3)
    assert np.vdot(weigh(a), a) > 0


def test_few_views_of_a_flat_object_come_back():
    projector, sinogram, image = few_views()
    found = tv_reconstruct(projector, sinogram, 0.01 * image.max(), 60)
    assert found.min() >= 0
    assert rmse(found, image) < 0.5 * rmse(projector.fbp(sinogram, "hann"), image)


def test_the_answer_is_a_minimum():
    """No step towards other images lowers the objective: it is convex, so that is enough."""
    projector, sinogram, image = few_views(size=32, views=24)
    weigh, weight = _Weighting(projector), 0.02 * image.max()
    found = tv_reconstruct(projector, sinogram, weight, 600, non_negative=False)

    def objective(x):
        residual = (projector.forward(x) - sinogram).astype(np.float64)
        fit = np.vdot(residual, weigh(residual.astype(np.float32)[None])[0]) / 2
        return fit + weight * total_variation(x)

    lowest = objective(found)
    rng = np.random.default_rng(0)
    others = [image, 0 * image, projector.fbp(sinogram), found + rng.normal(0, 1e-3, found.shape)]
    for other in others:
        for share in (1e-2, 0.1, 1.0):
            assert objective((found + share * (other - found)).astype(np.float32)) > lowest


def test_without_regularisation_the_data_are_fitted():
    projector, sinogram, image = few_views(size=32, views=24)
    found = tv_reconstruct(projector, sinogram, 0.0, 200, non_negative=False)
    start = projector.forward(projector.fbp(sinogram, "hann")) - sinogram
    residual = projector.forward(found) - sinogram
    assert np.linalg.norm(residual) < 0.5 * np.linalg.norm(start)


def test_scale_of_the_data_does_not_matter():
    projector, sinogram, image = few_views(size=32)
    once = tv_reconstruct(projector, sinogram, 1e-3, 20)
    hundred = tv_reconstruct(projector, 100 * sinogram, 0.1, 20)
    np.testing.assert_allclose(hundred, 100 * once, atol=1e-3 * hundred.max())
    noisy = image + np.random.default_rng(0).normal(0, 0.01, image.shape)
    once, hundred = tv_denoise(noisy, 0.01), tv_denoise(100 * noisy, 1.0)
    np.testing.assert_allclose(hundred, 100 * once, atol=1e-3 * hundred.max())


def test_batches_are_the_slices_one_by_one():
    projector, sinogram, image = few_views(size=32)
    both = np.stack([sinogram, sinogram[:, ::-1]])
    found = tv_reconstruct(projector, both, 1e-3, 20)
    for slice_, alone in zip(found, both, strict=True):
        np.testing.assert_allclose(
            slice_, tv_reconstruct(projector, alone, 1e-3, 20), atol=1e-3 * image.max()
        )
    images = np.stack([image, image.T])
    np.testing.assert_array_equal(tv_denoise(images, 0.01)[1], tv_denoise(image.T, 0.01))


def test_denoising_limits():
    rng = np.random.default_rng(0)
    image = phantom.image(64)
    noisy = (image + rng.normal(0, 0.1, image.shape)).astype(np.float32)
    np.testing.assert_array_equal(tv_denoise(noisy, 0), noisy)
    assert rmse(tv_denoise(noisy, 0.1), image) < 0.65 * rmse(noisy, image)
    flat = tv_denoise(noisy, 1e3, iterations=3000)
    assert flat.std() < 0.1 * noisy.std()
    assert flat.mean() == pytest.approx(noisy.mean(), abs=1e-3)
    assert flat.dtype == np.float32


def test_wrong_input_is_named():
    projector, sinogram, _ = few_views(size=32)
    with pytest.raises(InputError, match="weight >= 0"):
        tv_reconstruct(projector, sinogram, -1)
    with pytest.raises(InputError, match="iterations >= 1"):
        tv_reconstruct(projector, sinogram, 1, iterations=0)
