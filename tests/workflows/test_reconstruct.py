"""From a store, or from a raw scan, to an enhanced volume and TIFF."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
import tifffile
import yaml

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
        reconstruct(scan, run, out, tiff=tmp_path / "tiff", bits=24)
    for how in ({"bits": 16}, {"bits": 32}, {"per_metre": True}):
        with pytest.raises(InputError, match="--tiff DIR"):
            reconstruct(scan, run, out, **how)
    with pytest.raises(InputError, match="no such model"):
        reconstruct(scan, tmp_path / "none", out)
    assert not out.exists()


@pytest.fixture
def bare_scan(test_store, tmp_path):
    """The scan without its pixel size."""
    scan = shutil.copy(test_store.parent / "scan.h5", tmp_path / "scan.h5")
    with h5py.File(scan, "r+") as file:
        del file["measurement/instrument"]
    return scan


def trained_otherwise(run, **description):
    module, before = load_model(run)
    save_model(module, before | description, run)
    return run


def test_nothing_is_reconstructed_that_the_network_will_refuse(make_run, bare_scan, tmp_path):
    plain, out = make_run("plain"), tmp_path / "out"
    hann = trained_otherwise(make_run("hann"), low_filter="hann")
    split = trained_otherwise(make_run("split"), input="splits/1")
    for how, settings, words in (
        ({"model": plain, "tile": 12}, {}, "tile: 12 pixels leave nothing.*choose at least"),
        ({"model": hann}, {"filter": "ramp"}, "with ramp; .*on hann(.|\n)*leave both"),
        ({"model": hann}, {"filter": "hann", "low_filter": "cosine"}, "with cosine; .*on hann"),
        ({"model": split}, {}, "on 'splits/1', which .* they make low, full. Set splits"),
        ({"model": split}, {"splits": 2, "centre": 31.5}, None),
    ):
        settings = PreprocessingSettings(**settings)
        if words is None:
            done = reconstruct(bare_scan, out=out, preprocessing=settings, **how)
            assert done.n_slices == 4
            continue
        with pytest.raises(InputError, match=words):
            reconstruct(bare_scan, out=out, preprocessing=settings, **how)
        assert not out.exists()


def test_nothing_is_reconstructed_for_a_place_that_is_taken(
    make_run, test_store, bare_scan, tmp_path
):
    run, out = make_run("a"), tmp_path / "out"
    other = trained_otherwise(make_run("other"), label="full")
    reconstruct(test_store, other, out, tiff=tmp_path / "of another")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "scaling.json").write_text("{")
    new = tmp_path / "new"
    for how, words in (
        ({"out": out}, "was made with another model"),
        ({"out": out, "model": other, "precision": "bf16"}, "was made with another precision"),
        ({"out": new, "tiff": tmp_path / "photos"}, "not a TIFF export"),
        ({"out": new, "tiff": tmp_path / "of another"}, "TIFF export of something else"),
        ({"out": new, "tiff": tmp_path / "damaged"}, "scaling.json: is damaged"),
        ({"out": new, "tiff": tmp_path / "t", "per_metre": True}, "pixel size is not known"),
    ):
        with pytest.raises(InputError, match=words):
            reconstruct(bare_scan, **({"model": run} | how))
        assert not new.exists() and not (out / "input").exists()
    # A store, too, is not enhanced first.
    with pytest.raises(InputError, match="not a TIFF export"):
        reconstruct(test_store, run, new, tiff=tmp_path / "photos")
    assert not new.exists()


def test_a_scan_may_be_a_folder(make_run, test_store, tmp_path):
    run, folder = make_run("a"), tmp_path / "scan"
    folder.mkdir()
    roles = {"projections": "data", "flats": "data_white", "darks": "data_dark", "angles": "theta"}
    layout = {"base": "none"}
    for role, name in roles.items():
        with (
            h5py.File(test_store.parent / "scan.h5") as whole,
            h5py.File(folder / f"{role}.h5", "w") as part,
        ):
            whole.copy(f"exchange/{name}", part, "data")
        layout[role] = {"file": f"{role}.h5", "path": "/data"}
    (tmp_path / "apart.yaml").write_text(yaml.safe_dump(layout))
    settings = PreprocessingSettings(layout=str(tmp_path / "apart.yaml"), centre=31.5)
    enhanced = reconstruct(folder, run, tmp_path / "out", preprocessing=settings)
    whole = SliceStore(test_store).read("full", slice(None))
    np.testing.assert_allclose(enhanced.read("enhanced", slice(None)), whole, atol=1e-6)

    with pytest.raises(InputError, match=r"without a slices\.h5(.|\n)*layout=NAME"):
        reconstruct(folder, run, tmp_path / "none", preprocessing=PreprocessingSettings(centre=31))


def test_a_network_sees_slices_filtered_as_in_its_training(make_run, test_store, tmp_path):
    run = trained_otherwise(make_run("trained on smooth slices"), low_filter="hann")
    with pytest.raises(InputError, match="with ramp; .* trained on hann(.|\n)*low_filter=hann"):
        reconstruct(test_store, run, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()

    reconstruct(test_store.parent / "scan.h5", run, tmp_path / "out")
    assert SliceStore(tmp_path / "out" / "input").low_filter == "hann"
