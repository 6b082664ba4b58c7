"""From a store, or from a raw scan, to an enhanced volume and TIFF."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from hpc_srct.errors import InputError
from hpc_srct.models.files import load_model, save_model
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices import SliceStore
from hpc_srct.workflows.reconstruct import reconstruct


def test_a_raw_scan_uses_all_its_views_unless_told_otherwise(make_run, test_store, tmp_path):
    scan, run = test_store.parent / "scan.h5", make_run("a")
    settings = PreprocessingSettings(centre=31.5)
    enhanced = reconstruct(
        scan, run, tmp_path / "out", preprocessing=settings, tiff=tmp_path / "tiff", bits=16
    )
    seen = SliceStore(tmp_path / "out" / "input")
    assert len(seen.low_angles) == 72 and not seen.has_sinogram
    np.testing.assert_allclose(
        enhanced.read("enhanced", slice(None)), seen.read("low", slice(None)), atol=1e-6
    )
    np.testing.assert_array_equal(seen.rows, enhanced.rows)
    assert tifffile.imread(tmp_path / "tiff" / "slice_00003.tif").dtype == np.uint16

    fewer = PreprocessingSettings(centre=31.5, views="1/4")
    reconstruct(scan, run, tmp_path / "fewer", preprocessing=fewer)
    assert len(SliceStore(tmp_path / "fewer" / "input").low_angles) == 18


def test_a_rerun_goes_on(make_run, test_store, tmp_path, capsys):
    scan, run = test_store.parent / "scan.h5", make_run("a")
    settings = PreprocessingSettings(centre=31.5)
    reconstruct(scan, run, tmp_path / "out", preprocessing=settings)
    before = (tmp_path / "out" / "slices.h5").stat().st_mtime_ns
    reconstruct(scan, run, tmp_path / "out", preprocessing=settings)
    assert (tmp_path / "out" / "slices.h5").stat().st_mtime_ns == before
    assert "nothing to do" in capsys.readouterr().out


def test_a_store_is_taken_as_it_is(make_run, test_store, tmp_path):
    enhanced = reconstruct(
        test_store, make_run("a"), tmp_path / "out", preprocessing=PreprocessingSettings()
    )
    assert enhanced.n_slices == 4 and not (tmp_path / "out" / "input").exists()


def test_what_would_have_no_effect_or_no_end_is_refused_at_once(make_run, test_store, tmp_path):
    run, out = make_run("a"), tmp_path / "out"
    with pytest.raises(InputError, match="preprocessing settings have no effect"):
        reconstruct(test_store, run, out, preprocessing=PreprocessingSettings(views="1/2"))
    scan = test_store.parent / "scan.h5"
    with pytest.raises(InputError, match="expected 32, 16 or 8; found 24"):
        reconstruct(scan, run, out, bits=24)
    with pytest.raises(InputError, match="no such model"):
        reconstruct(scan, tmp_path / "none", out)
    assert not out.exists()


def test_a_network_sees_slices_filtered_as_in_its_training(make_run, test_store, tmp_path):
    run = make_run("trained on smooth slices")
    module, description = load_model(run)
    save_model(module, description | {"low_filter": "hann"}, run)
    with pytest.raises(InputError, match="with ramp; .* trained on hann(.|\n)*low_filter=hann"):
        reconstruct(test_store, run, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()

    reconstruct(test_store.parent / "scan.h5", run, tmp_path / "out")
    assert SliceStore(tmp_path / "out" / "input").low_filter == "hann"
