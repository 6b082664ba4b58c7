"""PSNR and SSIM: closed forms, scikit-image's own figures, and what a mask leaves out."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from hpc_srct.errors import InputError
from hpc_srct.evaluation import metrics


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    reference = rng.random((40, 50)).astype(np.float32)
    return reference + 0.1 * rng.standard_normal(reference.shape).astype(np.float32), reference


def test_psnr_of_a_constant_error_has_a_closed_form():
    reference = np.zeros((32, 32))
    reference[8:16] = 5.0
    assert metrics.psnr(reference + 0.05, reference) == pytest.approx(40.0)
    assert metrics.psnr(reference - 0.05, reference, value_range=50.0) == pytest.approx(60.0)


def test_psnr_does_not_move_with_the_scale_of_the_data(pair):
    image, reference = pair
    expected = metrics.psnr(image, reference)
    assert metrics.psnr(1e-3 * image + 7, 1e-3 * reference + 7) == pytest.approx(expected, abs=1e-3)


def test_psnr_is_that_of_scikit_image(pair):
    image, reference = pair
    span = float(reference.max() - reference.min())
    theirs = peak_signal_noise_ratio(reference, image, data_range=span)
    assert metrics.psnr(image, reference) == pytest.approx(theirs, abs=1e-5)


def test_ssim_without_a_mask_is_the_mean_of_scikit_images_map(pair):
    image, reference = pair
    span = float(reference.max() - reference.min())
    _, similarity = structural_similarity(reference, image, data_range=span, full=True)
    assert metrics.ssim(image, reference) == pytest.approx(similarity.mean(), abs=1e-6)


def test_ssim_of_constant_slices_has_a_closed_form():
    a, b, span = 2.0, 3.0, 10.0
    shape = (20, 20)
    c1 = (0.01 * span) ** 2
    expected = (2 * a * b + c1) / (a**2 + b**2 + c1)
    found = metrics.ssim(np.full(shape, a), np.full(shape, b), value_range=span)
    assert found == pytest.approx(expected, rel=1e-9)


def test_equal_slices(pair):
    _, reference = pair
    assert metrics.ssim(reference, reference) == pytest.approx(1.0)
    assert metrics.psnr(reference, reference) == float("inf")


def test_nothing_outside_the_mask_counts(pair):
    image, reference = pair
    mask = metrics.evaluation_mask(reference.shape, 15.0)
    spoiled, other = image.copy(), reference.copy()
    # SSIM's window of 7 reaches 3 pixels over the rim: what lies beyond is free to change.
    far = ~metrics.disc(reference.shape, 15.0 + 5)
    spoiled[far], other[far] = np.nan, 99.0
    assert metrics.psnr(spoiled, other, mask) == metrics.psnr(image, reference, mask)
    before, after = metrics.ssim(image, reference, mask), metrics.ssim(spoiled, other, mask)
    assert after == pytest.approx(before, abs=1e-9)


def test_the_range_is_that_of_the_reference_inside_the_mask():
    reference = np.zeros((31, 31))
    reference[15, 15] = 2.0
    reference[0, 0] = 100.0
    mask = metrics.disc(reference.shape, 10)
    assert metrics.data_range(reference, mask) == 2.0
    assert metrics.psnr(reference + 0.2, reference, mask) == pytest.approx(20.0)


def test_the_disc_has_its_area_and_is_centred():
    mask = metrics.disc((101, 101), 40.0)
    assert mask.sum() == pytest.approx(np.pi * 40**2, rel=0.01)
    assert (mask == mask[::-1]).all() and (mask == mask.T).all()
    assert mask[50, 10] and not mask[50, 9]
    assert metrics.evaluation_mask((101, 101), 40.0).sum() < mask.sum()


def test_missing_values_give_no_score_and_are_left_out_of_the_mean(pair):
    image, reference = pair
    hole = image.copy()
    hole[20, 20] = np.nan
    scores = [metrics.score(image, reference), metrics.score(hole, reference)]
    assert np.isnan(scores[1].psnr) and np.isnan(scores[1].ssim)
    mean, left_out = metrics.mean_scores(scores)
    assert (mean, left_out) == (scores[0], 1)


@pytest.mark.parametrize(
    ("image", "reference", "mask", "words"),
    [
        (np.ones((9, 9)), np.ones((9, 8)), None, r"\(9, 9\) and \(9, 8\)"),
        (np.ones((9, 9)), np.ones((9, 9)), None, "constant"),
        (np.eye(9), np.eye(9), np.zeros((9, 9)), "with 0"),
    ],
)
def test_what_cannot_be_scored_is_named(image, reference, mask, words):
    with pytest.raises(InputError, match=words):
        metrics.score(image, reference, mask)


def test_the_convention_names_reference_range_and_mask():
    for reference, words in (("truth", "truth of the simulation"), ("full", "noise of its own")):
        sentence = metrics.convention(reference)
        assert words in sentence and "0.97" in sentence and "maximum - minimum" in sentence
