"""The simulated scan as a file: structure, beam, noise, geometry, seeds and bad outputs."""

from __future__ import annotations

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from hpc_srct.errors import InputError
from hpc_srct.settings.base import from_tree
from hpc_srct.settings.simulation import SimulationSettings
from hpc_srct.simulation import simulate_scan
from hpc_srct.simulation.beam import Beam, transmission
from hpc_srct.simulation.phantoms import phantom
from hpc_srct.simulation.shapes import pixel_means

SMALL = {"size": 48, "rows": 3, "views": 12, "flats": 4, "darks": 3, "bubbles": 60}
PHANTOMS = ("ellipses", "textured", "tooth", "foam")


def settings(**changes):
    return SimulationSettings(**{**SMALL, **changes})


def simulated(folder, name="scan.h5", **changes):
    path = folder / name
    simulate_scan(settings(**changes), path, progress=False)
    with h5py.File(path) as file:
        found = {}
        file.visititems(lambda key, item: found.update({key: item}))
        return {key: item[()] for key, item in found.items() if isinstance(item, h5py.Dataset)}


def corrected(scan):
    dark = scan["exchange/data_dark"].mean(axis=0)
    flat = scan["exchange/data_white"].mean(axis=0)
    return -np.log((scan["exchange/data"] - dark) / (flat - dark))


@pytest.mark.parametrize("kind", PHANTOMS)
def test_file_is_dxchange_with_the_truth(tmp_path, kind):
    scan = simulated(tmp_path, phantom=kind, angle_range=(10, 190), pixel_size=2.5e-6)
    assert scan["exchange/data"].shape == (12, 3, 48)
    assert scan["exchange/data"].dtype == np.uint16
    assert scan["exchange/data_white"].shape == (4, 3, 48)
    assert scan["exchange/data_dark"].shape == (3, 3, 48)
    np.testing.assert_allclose(scan["exchange/theta"], 10 + 15 * np.arange(12))
    truth = scan["simulation/truth/data"]
    assert truth.shape == (3, 48, 48)
    assert truth.dtype == np.float32
    assert truth.min() > -1e-7
    assert scan["simulation/centre"] == 23.5
    assert json.loads(scan["simulation/settings"])["pixel_size"] == 2.5e-6
    assert scan["measurement/instrument/detector/pixel_size_x"] == 2.5e-6
    with h5py.File(tmp_path / "scan.h5") as file:
        assert file["exchange/theta"].attrs["units"] == "deg"
        assert file["exchange/data"].attrs["axes"] == "theta:y:x"


@pytest.mark.parametrize("kind", PHANTOMS)
def test_every_view_has_the_mass_of_the_truth(tmp_path, kind):
    scan = simulated(tmp_path, phantom=kind, photons=None, attenuation=0.5, object_size=(0.5, 0.8))
    mass = scan["simulation/truth/data"].sum(axis=(1, 2))
    np.testing.assert_allclose(
        corrected(scan).sum(axis=2), np.tile(mass, (12, 1)), rtol=0.01, atol=0.02
    )


@pytest.mark.parametrize("kind", PHANTOMS)
def test_greatest_line_integral_is_the_one_asked_for(tmp_path, kind):
    scan = simulated(tmp_path, phantom=kind, photons=None, attenuation=0.8, bubbles=0)
    np.testing.assert_allclose(corrected(scan).max(axis=(0, 2)), 0.8, rtol=0.03)


def test_photons_have_the_mean_and_variance_of_poisson():
    beam = Beam(settings(size=400, views=500, photons=50, dark_current=20, read_noise=0))
    counts = beam.frames(0, np.full((500, 400), 0.4)).astype(float) - 20
    flats = (
        Beam(settings(size=400, flats=500, photons=50, dark_current=20, read_noise=0))
        .flats(0)
        .astype(float)
        - 20
    )
    assert beam.counts_per_photon == 1
    assert flats.mean() == pytest.approx(50, rel=0.005)
    assert counts.mean() == pytest.approx(20, rel=0.005)
    for frames in (counts, flats):
        ratio = frames.var(axis=0, ddof=1) / frames.mean(axis=0)
        assert ratio.mean() == pytest.approx(1, abs=0.02)
    # Independent from view to view.
    residual = counts - counts.mean(axis=0)
    assert abs((residual[1:] * residual[:-1]).mean() / residual.var()) < 0.01


def test_light_that_spreads_correlates_the_noise_of_neighbours():
    plain = Beam(settings(size=400, views=200, photons=500, read_noise=0))
    spread = Beam(settings(size=400, views=200, photons=500, read_noise=0, noise_blur=0.35))
    noise = {}
    for name, beam in (("plain", plain), ("spread", spread)):
        counts = beam.frames(0, np.full((200, 400), 0.5)).astype(float)
        noise[name] = counts - counts.mean(axis=0)
        assert counts.mean() == pytest.approx(100 + 250, rel=0.01)
    lag = {key: (n[:, 1:] * n[:, :-1]).mean() / n.var() for key, n in noise.items()}
    assert lag["plain"] == pytest.approx(0, abs=0.02)
    assert lag["spread"] == pytest.approx(0.18, abs=0.02)
    # Squares of the spread's weights, 0.077, 0.847, 0.077.
    assert noise["spread"].var() / noise["plain"].var() == pytest.approx(0.729, rel=0.03)


def test_darks_have_their_offset_and_read_noise():
    darks = Beam(settings(size=400, darks=300, dark_current=100, read_noise=3)).darks(0)
    assert darks.mean() == pytest.approx(100, abs=0.1)
    # Rounding to whole counts adds 1/12.
    assert darks.astype(float).var() == pytest.approx(9 + 1 / 12, rel=0.02)


def test_many_photons_fit_into_sixteen_bits():
    beam = Beam(settings(photons=1e6, size=400, views=50))
    assert beam.counts_per_photon < 0.05
    flats = beam.flats(0)
    assert 20_000 < flats.mean() < 60_000
    assert flats.max() < 65535


def test_no_photons_means_no_noise():
    beam = Beam(settings(photons=None))
    frames = beam.frames(0, np.full((12, 48), 0.5))
    assert (frames == frames[0]).all()
    assert (beam.darks(0) == 100).all()


def test_beam_and_pixels_differ_and_flats_know_it():
    beam = Beam(settings(size=300, photons=1e6, flats=50, views=50))
    flats = beam.flats(0).astype(float)
    assert flats.mean(axis=0).std() > 0.02 * flats.mean()
    air = beam.frames(0, np.ones((50, 300))).astype(float)
    ratio = (air.mean(axis=0) - 100) / (flats.mean(axis=0) - 100)
    assert ratio.std() < 5e-4


@pytest.mark.parametrize("seed", range(4))
def test_the_steepest_beam_has_light_everywhere(seed):
    """With a dome alone, or waves on it that add up, it fell below zero at a side."""
    beam = Beam(settings(size=64, beam_profile=0.99, photons=1e4, read_noise=0, seed=seed))
    light = beam.flats(0).mean(axis=0) - 100
    assert 50 < light.min() < 3000
    assert light.mean() == pytest.approx(1e4, rel=0.02)


def test_pixels_that_are_too_bright_are_counted_and_told(tmp_path, capsys):
    """The middle of a dome is brighter than its mean, for which there is room."""
    about = {"photons": 6e4, "counts_per_photon": 1, "beam_profile": 0.5}
    scan = simulated(tmp_path, **about)
    frames = np.concatenate([scan[f"exchange/data{kind}"] for kind in ("", "_white", "_dark")])
    share = (frames == 65535).mean()
    assert share > 0.05
    said = " ".join(capsys.readouterr().err.split())
    assert f"{share:.2%} of the pixels are brighter than 65535 counts" in said
    simulated(tmp_path, "fits.h5", **about | {"photons": 1e4}, zingers=0.01)
    assert "brighter" not in capsys.readouterr().err


def test_rings_remain_after_flat_fielding():
    beam = Beam(settings(size=300, photons=None, views=50, rings=0.01))
    air = beam.frames(0, np.ones((50, 300))) / beam.flats(0).mean(axis=0)
    assert air.mean(axis=0).std() == pytest.approx(0.01, rel=0.2)
    # They drift in the course of the scan.
    assert (air[-1] - air[0]).std() == pytest.approx(0.01, rel=0.25)


def test_zingers_hit_the_share_asked_for():
    beam = Beam(settings(size=300, photons=None, views=100, zingers=0.01))
    bright = beam.frames(0, np.full((100, 300), 0.1)) > 0.2 * 40_000
    assert bright.mean() == pytest.approx(0.01 * np.exp(-0.1), rel=0.3)
    clean = Beam(settings(size=300, photons=None, views=100))
    assert not (clean.frames(0, np.full((100, 300), 0.1)) > 0.2 * 40_000).any()


def test_centre_offset_moves_the_projections_and_not_the_truth(tmp_path):
    plain = simulated(tmp_path, "a.h5", photons=None)
    moved = simulated(tmp_path, "b.h5", photons=None, centre_offset=3)
    assert moved["simulation/centre"] == 26.5
    truths = [scan["simulation/truth/data"] for scan in (plain, moved)]
    np.testing.assert_allclose(*truths, rtol=1e-6, atol=1e-9)
    one, other = corrected(plain), corrected(moved)
    np.testing.assert_allclose(other[..., 3:], one[..., :-3], atol=2e-3)


def test_intensities_are_averaged_over_the_pixel_not_line_integrals():
    """A pixel half covered by something opaque sees half the beam."""
    integrals = np.array([[0.0, 0.0, 50.0, 50.0]])
    assert transmission(integrals, settings())[0, 0] == pytest.approx(0.5)


def test_blur_widens_an_edge_and_keeps_the_beam():
    integrals = np.zeros((1, 4 * 60))
    integrals[:, 120:] = 1.0
    sharp = transmission(integrals, settings(detector_blur=0))
    soft = transmission(integrals, settings(detector_blur=2.0))
    assert soft.sum() == pytest.approx(sharp.sum(), rel=1e-6)
    slope = -np.diff(soft[0])
    position = np.arange(59) - slope @ np.arange(59) / slope.sum()
    width = np.sqrt(slope @ position**2 / slope.sum())
    # The pixel itself adds 1/12 twice: its own width, and the difference between pixels.
    assert width == pytest.approx(np.sqrt(4 + 1 / 6), rel=0.02)


def test_phase_contrast_enhances_edges_by_the_amount_of_paganin():
    """A Gaussian dip: (1 − k·d²/dx²) of it is known."""
    x = (np.arange(4 * 80) + 0.5) / 4 - 40
    sigma, k, blur = 6.0, 5.0, 1.0
    dip = 0.5 * np.exp(-(x**2) / (2 * sigma**2))
    seen = transmission(-np.log1p(-dip)[None], settings(detector_blur=blur, phase_contrast=k))[0]
    wide = np.hypot(sigma, blur)
    pixel = np.arange(80) - 39.5
    blurred = 0.5 * sigma / wide * np.exp(-(pixel**2) / (2 * wide**2))
    curvature = blurred * (pixel**2 / wide**4 - 1 / wide**2)
    np.testing.assert_allclose(seen, 1 - blurred + k * curvature, atol=2e-3)


@pytest.mark.parametrize("kind", PHANTOMS)
def test_same_settings_give_the_same_file(tmp_path, kind):
    one, other = (simulated(tmp_path, name, phantom=kind) for name in ("a.h5", "b.h5"))
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_array_equal(value, other[key])


@pytest.mark.parametrize("kind", PHANTOMS)
def test_another_seed_is_another_world(tmp_path, kind):
    one, other = (
        simulated(tmp_path, f"{seed}.h5", phantom=kind, seed=seed)["simulation/truth/data"]
        for seed in (1, 2)
    )
    for row in one:
        for other_row in other:
            assert np.corrcoef(row.ravel(), other_row.ravel())[0, 1] < 0.999
            assert not np.allclose(row, other_row, rtol=0.01, atol=1e-4)


def test_rows_are_different_objects_whatever_their_number(tmp_path):
    few, many = (simulated(tmp_path, f"{n}.h5", rows=n) for n in (2, 4))
    for key in ("exchange/data", "exchange/data_white"):
        np.testing.assert_array_equal(few[key], many[key][:, :2])
    truth = many["simulation/truth/data"]
    np.testing.assert_array_equal(few["simulation/truth/data"], truth[:2])
    for row in range(1, 4):
        assert not np.allclose(truth[row], truth[row - 1], atol=0.1 * truth.max())


def test_row_blocks_do_not_matter(tmp_path, monkeypatch):
    whole = simulated(tmp_path, "a.h5", rows=5)
    monkeypatch.setattr("hpc_srct.simulation.run._BLOCK_BYTES", 2 * 12 * 48 * 2)
    blocks = simulated(tmp_path, "b.h5", rows=5)
    for key, value in whole.items():
        np.testing.assert_array_equal(value, blocks[key])


def test_foam_bubbles_lie_inside_and_do_not_overlap():
    foam = phantom(settings(phantom="foam", size=128, rows=32, bubbles=400))
    assert len(foam.radii) > 100
    gaps = np.linalg.norm(foam.centres[:, None] - foam.centres, axis=2)
    gaps -= foam.radii[:, None] + foam.radii
    np.fill_diagonal(gaps, np.inf)
    assert gaps.min() > 0
    assert (np.hypot(*foam.centres[:, :2].T) + foam.radii < foam.radius).all()


def test_foam_is_one_object_of_spheres():
    """The volume of a bubble is that of a sphere: what its cuts leave out of the cylinder."""
    foam = phantom(settings(phantom="foam", size=128, rows=64, bubbles=30, seed=3))
    inside = (foam.centres[:, 2] > foam.radii) & (foam.centres[:, 2] < 64 - foam.radii)
    one = np.argmax(np.where(inside, foam.radii, 0))
    alone = type(foam)(foam.radius, foam.centres[one : one + 1], foam.radii[one : one + 1])
    removed = 0.0
    for row in range(64):
        for (shape,) in alone.sections(row):
            removed -= np.pi * (shape.a[1:] ** 2 * shape.density[1:]).sum() / 3
    volume = 4 / 3 * np.pi * foam.radii[one] ** 3
    assert removed * 2 * foam.radius == pytest.approx(volume, rel=0.01)


@pytest.mark.parametrize(("kind", "more"), [("textured", 1.2), ("tooth", 1.02)])
def test_texture_can_be_left_out(kind, more):
    """Small differences between neighbours that are not edges: grain has many."""
    edges = {}
    for texture in (0, 1):
        scene = phantom(settings(phantom=kind, texture=texture, size=256, seed=4))
        image = sum(pixel_means(scene.sections(row)[0], 256) for row in range(2))
        edges[texture] = (np.abs(np.diff(image, axis=1)) > 1e-3).sum()
    assert edges[1] > more * edges[0]


@pytest.mark.parametrize("kind", PHANTOMS)
def test_objects_stay_on_the_detector(tmp_path, kind):
    scan = simulated(tmp_path, phantom=kind, photons=None, object_size=(0.9, 0.9), views=40)
    assert np.abs(corrected(scan)[..., [0, -1]]).max() < 0.01


def test_existing_file_is_refused(tmp_path):
    path = tmp_path / "scan.h5"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        simulate_scan(settings(), path, progress=False)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("limit", [200, 20_000, 40_000])
def test_full_disk_leaves_nothing_and_is_named(tmp_path, limit):
    """A limit on the size of files stands for the disk that fills."""
    script = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from pathlib import Path
from hpc_srct.errors import MachineError
from hpc_srct.settings.simulation import SimulationSettings
from hpc_srct.simulation import simulate_scan
try:
    simulate_scan(SimulationSettings(**{SMALL!r}), Path(sys.argv[1]), progress=False)
except MachineError as error:
    print(error)
"""
    path = tmp_path / "scan.h5"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert str(path) in done.stdout
    assert "cannot be written" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"photon": 5}, "did you mean 'photons'"),
        ({"phantom": "potato"}, "phantom"),
        ({"photons": -1}, "photons"),
        ({"angle_range": [90, 90]}, "empty"),
        ({"object_size": [0.9, 0.2]}, "object_size"),
        ({"phase_contrast": 3}, "detector_blur"),
        ({"centre_offset": 500}, "off the detector"),
        ({"photons": 1e6, "counts_per_photon": 1}, "1000100 counts in the open beam.*65535"),
        ({"photons": None, "counts_per_photon": 2}, "80100 counts"),
        ({"dark_current": 70000}, "70000 counts"),
        ({"photons": 1e20}, "photons"),
    ],
)
def test_settings_that_make_no_scan_are_refused(tree, words):
    with pytest.raises(InputError, match=words):
        from_tree(SimulationSettings, tree, "test")
