"""Classical rows: tuned at their peak, on validation alone, and the same in any units."""

from __future__ import annotations

import json
import math
import shutil

import h5py
import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.evaluation.metrics import evaluation_mask, psnr
from hpc_srct.slices import SliceStore
from hpc_srct.workflows import baselines
from hpc_srct.workflows.baselines import (
    GAUSSIAN,
    HANN,
    NAMES,
    POST_PROCESSING,
    RAMP,
    TV,
    TV_DENOISED,
    Baselines,
    Source,
    best_post_processing,
    coarse_to_fine,
)


@pytest.fixture(scope="module")
def tuned(validation) -> Baselines:
    return baselines.tune([SliceStore(validation)])


def mean_psnr(images, store: SliceStore, index) -> float:
    mask = evaluation_mask(store.size, store.field_of_view)
    labels = store.read("truth", index)
    return float(np.mean([psnr(i, t, mask) for i, t in zip(images, labels, strict=True)]))


@pytest.mark.parametrize("peak", [0.003, 0.6, 7.0, 900.0])
def test_the_search_finds_a_peak_anywhere_in_few_trials(peak):
    tried = []

    def quality(value):
        tried.append(value)
        return -(math.log(value / peak) ** 2)

    best, value = coarse_to_fine(quality, start=1.0, ratio=2.0)
    assert abs(math.log2(best / peak)) <= 0.25 and value == -(math.log(best / peak) ** 2)
    assert len(tried) == len(set(tried)) <= 18


def test_the_search_stays_below_the_largest_value():
    assert coarse_to_fine(lambda v: v, 0.5, math.sqrt(2), largest=1.0) == (1.0, 1.0)


def test_every_method_is_tuned_and_recorded(tuned, validation):
    assert tuple(tuned.parameters) == NAMES
    assert math.isnan(tuned.parameters[RAMP])
    assert {slot["reference"] for slot in tuned.tuned_on} == {"truth"}
    assert len(tuned.tuned_on) == baselines.TUNING_SLICES
    assert all(tuned.validation_psnr[name] > tuned.validation_psnr[RAMP] for name in NAMES[1:])
    for words in ("cut-off", "sigma", "4 validation slices", "against truth"):
        assert words in tuned.sentence()


@pytest.mark.parametrize("name", [HANN, GAUSSIAN, TV_DENOISED, TV])
def test_parameters_stand_at_their_peak(tuned, validation, name):
    store = SliceStore(validation)
    source, index = Source(store), np.arange(store.n_slices)
    here = tuned.parameters[name]
    at_peak = mean_psnr(tuned.apply(name, source, index), store, index)
    for factor in (0.6, 1.6):
        value = min(here * factor, baselines.METHODS[name].largest)
        aside = Baselines({name: value}).apply(name, source, index)
        assert mean_psnr(aside, store, index) < at_peak + 0.1


def test_on_new_slices_tv_beats_smoothing_beats_the_plain_fbp(tuned, test_store):
    store = SliceStore(test_store)
    source, index = Source(store), np.arange(store.n_slices)
    found = {n: mean_psnr(tuned.apply(n, source, index), store, index) for n in NAMES}
    assert found[RAMP] + 1 < min(found[HANN], found[GAUSSIAN])
    assert max(found[HANN], found[GAUSSIAN]) < found[TV_DENOISED] < found[TV]
    assert best_post_processing(found) == TV_DENOISED


def test_the_ramp_row_is_the_networks_input(tuned, test_store):
    store = SliceStore(test_store)
    images = tuned.apply(RAMP, Source(store), np.arange(4))
    np.testing.assert_allclose(images, store.read("low", slice(None)), rtol=3e-7, atol=1e-9)


def test_hann_is_less_noisy_than_the_ramp_and_keeps_the_mean(tuned, test_store):
    store = SliceStore(test_store)
    source = Source(store)
    mask = evaluation_mask(store.size, store.field_of_view)
    air = mask & (store.read("truth", 0) == 0)
    ramp, hann = (tuned.apply(name, source, [0])[0] for name in (RAMP, HANN))
    assert hann[air].std() < 0.7 * ramp[air].std()
    assert hann[mask].mean() == pytest.approx(ramp[mask].mean(), rel=0.03)


def test_another_filter_in_the_store_does_not_change_the_rows(make_store, tuned, test_store):
    other = SliceStore(make_store("hann", {"filter": "hann"}, phantom="ellipses", seed=2))
    ramp, hann = (Source(s).slices(np.arange(4)) for s in (SliceStore(test_store), other))
    scale = Source(other).store.scale / SliceStore(test_store).scale
    np.testing.assert_allclose(hann.low * scale, ramp.low, atol=2e-3 * np.abs(ramp.low).max())


def test_tuned_values_serve_a_scan_of_any_attenuation(tuned, test_store, tmp_path):
    """The same object, four times as absorbing: everything comes out times four."""
    denser = tmp_path / "denser"
    shutil.copytree(test_store, denser)
    for shard in (denser / "shards").iterdir():
        with h5py.File(shard, "r+") as file:
            for path in ("low/data", "low/sinogram", "truth/data"):
                file[f"entry/{path}"][...] *= 4
    with h5py.File(denser / "slices.h5", "r+") as file:
        file["entry"].attrs["scale"] *= 4
    thin, thick = Source(SliceStore(test_store)), Source(SliceStore(denser))
    for name in NAMES:
        once, four = (tuned.apply(name, source, [0, 1]) for source in (thin, thick))
        np.testing.assert_allclose(four, 4 * once, atol=1e-4 * np.abs(four).max())


def test_missing_values_stay_and_spoil_nobody(tuned, test_store, tmp_path):
    holed = tmp_path / "holed"
    shutil.copytree(test_store, holed)
    with h5py.File(next((holed / "shards").iterdir()), "r+") as file:
        file["entry/low/data"][1] = np.nan
        file["entry/low/sinogram"][1] = np.nan
    whole, source = Source(SliceStore(test_store)), Source(SliceStore(holed))
    for name in NAMES:
        images = tuned.apply(name, source, [0, 1])
        assert np.isnan(images[1]).all()
        expected = tuned.apply(name, whole, [0])[0]
        np.testing.assert_allclose(images[0], expected, atol=2e-3 * np.abs(expected).max())


def test_without_a_sinogram_the_rows_that_need_none_remain(make_store, tuned):
    store = SliceStore(make_store("plain", {"sinogram": False}, phantom="ellipses", seed=3))
    assert tuned.names(Source(store)) == [RAMP, GAUSSIAN, TV_DENOISED]
    assert list(baselines.tune([store], n_slices=1).parameters) == [RAMP, GAUSSIAN, TV_DENOISED]


def test_what_was_tuned_survives_json(tuned):
    back = Baselines.from_json(json.loads(json.dumps(tuned.to_json(), allow_nan=False)))
    assert math.isnan(back.parameters.pop(RAMP))
    assert back.parameters == {k: v for k, v in tuned.parameters.items() if k != RAMP}
    assert (back.validation_psnr, back.tuned_on) == (tuned.validation_psnr, tuned.tuned_on)


def test_the_tv_reconstruction_is_no_post_processing_row():
    scores = dict.fromkeys(POST_PROCESSING, 20.0) | {TV: 30.0, "UNet": 31.0, HANN: 25.0}
    assert best_post_processing(scores) == HANN
    assert best_post_processing({TV: 30.0, RAMP: math.nan}) is None


def test_nothing_to_tune_on():
    assert list(baselines.tune([]).parameters) == [RAMP]
    assert "validation" in baselines.tune([]).sentence()


def test_a_store_without_a_reference_is_refused(test_store):
    with pytest.raises(InputError, match="no 'tv' inside to compare with; it has low, full, truth"):
        baselines.tune([SliceStore(test_store)], reference="tv")
