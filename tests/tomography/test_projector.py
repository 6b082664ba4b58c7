"""The projector against exact line integrals, known grey values, identities and scikit-image."""

import functools
import subprocess
import sys

import numpy as np
import pytest
import torch
from skimage.transform import iradon

from benchmarks import phantom
from hpc_srct.errors import InputError
from hpc_srct.tomography.geometry import field_of_view
from hpc_srct.tomography.projector import ENGINES, Projector


@pytest.fixture(params=ENGINES)
def make(request):
    """Make a projector of either engine; what holds for one holds for the other."""
    return functools.partial(Projector, engine=request.param)


def turn(views, last=np.pi):
    return np.arange(views) * last / views


def blobs_image(size, blobs):
    x = np.arange(size) - (size - 1) / 2
    return sum(
        v * np.exp(-((x - x0) ** 2 + (-x[:, None] - y0) ** 2) / (2 * w**2))
        for v, x0, y0, w in blobs
    ).astype(np.float32)


def blobs_sinogram(angles, columns, centre, blobs):
    s = np.arange(columns) - centre
    return sum(
        v
        * w
        * np.sqrt(2 * np.pi)
        * np.exp(-((s - (x0 * np.cos(angles) + y0 * np.sin(angles))[:, None]) ** 2) / (2 * w**2))
        for v, x0, y0, w in blobs
    ).astype(np.float32)


BLOBS = ((1.0, 5.0, -9.0, 3.0), (0.5, -14.0, 6.0, 4.0), (-0.3, 0.0, 15.0, 2.5))


def inside(size, share=0.97):
    return phantom.disc_mask(size, share)


@pytest.mark.parametrize("columns", [64, 65])
@pytest.mark.parametrize("shift", [0.0, 0.5, -3.3])
def test_forward_equals_exact_line_integrals(make, columns, shift):
    centre = (columns - 1) / 2 + shift
    angles = turn(50) + 0.3
    exact = blobs_sinogram(angles, columns, centre, BLOBS)
    found = make(angles, columns, centre).forward(blobs_image(columns, BLOBS))
    assert np.abs(found - exact).max() < 2e-4 * np.abs(exact).max()


@pytest.mark.parametrize("columns", [64, 65])
@pytest.mark.parametrize("shift", [0.0, 0.5, -3.3])
def test_fbp_of_smooth_objects_is_the_object(make, columns, shift):
    centre = (columns - 1) / 2 + shift
    angles = turn(120) - 1.0
    sinogram = blobs_sinogram(angles, columns, centre, BLOBS)
    found = make(angles, columns, centre).fbp(sinogram)
    mask = inside(columns, 0.85)
    assert np.abs(found - blobs_image(columns, BLOBS))[mask].max() < 3e-3


def test_forward_of_a_disc_is_its_chords(make):
    size, radius = 128, 40.3
    ellipses = ((0.02, 2 * radius / size, 2 * radius / size, 0.1, -0.2, 0.0),)
    angles = turn(20)
    exact = phantom.sinogram(angles, size, ellipses=ellipses, samples=16)
    found = make(angles, size).forward(phantom.image(size, ellipses))
    error = found - exact
    assert np.sqrt(np.mean(error**2)) < 5e-3 * exact.max()
    # Every ray's integral over the detector is the area: the mass has no ringing.
    area = 0.02 * np.pi * radius**2
    np.testing.assert_allclose(found.sum(axis=1), area, rtol=1e-3)


@pytest.mark.parametrize("filter", ["ramp", "hann", "parzen"])
def test_disc_of_known_attenuation_has_its_grey_value(make, filter):
    size, value = 256, 0.013
    ellipses = ((value, 0.6, 0.6, 0.05, -0.1, 0.0),)
    sinogram = phantom.sinogram(turn(300), size, ellipses=ellipses)
    found = make(turn(300), size).fbp(sinogram, filter=filter)
    x = (np.arange(size) - (size - 1) / 2) * 2 / size
    core = (x - 0.05) ** 2 + (-x[:, None] + 0.1) ** 2 < 0.55**2
    beside = inside(size) & ((x - 0.05) ** 2 + (-x[:, None] + 0.1) ** 2 > 0.65**2)
    assert abs(found[core].mean() / value - 1) < 0.005
    assert abs(found[beside].mean() / value) < 0.005


def test_shepp_logan_error_is_that_of_a_correct_fbp(make):
    """Toft's phantom, pixel-averaged sinogram, 8 × 8 area-averaged image, radius 0.97."""
    size, views = 512, 400
    found = make(turn(views), size).fbp(phantom.sinogram(turn(views), size))
    error = (found - phantom.image(size))[inside(size)]
    assert np.sqrt(np.mean(error**2)) <= 0.016
    assert abs(error.mean()) < 1e-3


def test_agrees_with_scikit_image_on_smooth_objects(make):
    size, views = 96, 150
    sinogram = blobs_sinogram(turn(views), size, size // 2, BLOBS)
    # iradon's axis is at N // 2, half a pixel from the middle of an even detector.
    degrees = np.degrees(turn(views))
    theirs = iradon(sinogram.T.astype(float), theta=degrees, interpolation="cubic")
    ours = make(turn(views), size + 1, size // 2).fbp(np.pad(sinogram, ((0, 0), (0, 1))))
    mask = inside(size, 0.85)
    assert np.abs(ours[:size, :size] - theirs)[mask].max() < 5e-3


@pytest.mark.parametrize(
    "columns, views, size, centre",
    [(64, 45, None, None), (63, 45, None, 31.5), (50, 31, 81, 20.0), (80, 31, 41, 44.25)],
)
def test_forward_and_adjoint_are_an_adjoint_pair(make, columns, views, size, centre):
    rng = np.random.default_rng(1)
    projector = make(rng.uniform(-4, 4, views), columns, centre, size)
    x = rng.standard_normal((3, projector.size, projector.size), np.float32)
    y = rng.standard_normal((3, views, columns), np.float32)
    ax, aty = projector.forward(x).astype(float), projector.adjoint(y).astype(float)
    assert abs(np.vdot(ax, y) - np.vdot(x, aty)) < 1e-4 * abs(np.vdot(ax, y))
    # The inner products of each slice, so that an error between partners shows.
    for i in range(3):
        scale = np.linalg.norm(ax[i]) * np.linalg.norm(y[i])
        assert abs(np.vdot(ax[i], y[i]) - np.vdot(x[i], aty[i])) < 1e-5 * scale


def test_any_size_shows_the_same_object(make):
    angles, columns = turn(150), 101
    sinogram = blobs_sinogram(angles, columns, 50.0, BLOBS)
    whole = make(angles, columns, 50.0).fbp(sinogram)
    for size in (61, 151):
        part = make(angles, columns, 50.0, size).fbp(sinogram)
        cut = min(size, columns) // 2 - 8
        a, b = (columns - 1) // 2, (size - 1) // 2
        np.testing.assert_allclose(
            part[b - cut : b + cut, b - cut : b + cut],
            whole[a - cut : a + cut, a - cut : a + cut],
            atol=4e-3,
        )


def test_order_of_views_does_not_matter(make):
    angles = turn(90)
    sinogram = blobs_sinogram(angles, 64, 31.5, BLOBS)
    order = np.random.default_rng(0).permutation(90)
    straight = make(angles, 64).fbp(sinogram)
    shuffled = make(angles[order], 64).fbp(sinogram[order])
    np.testing.assert_allclose(shuffled, straight, atol=1e-5)


def test_full_turn_and_repeated_end_point_give_the_same_slice(make):
    half = make(turn(120), 64).fbp(blobs_sinogram(turn(120), 64, 31.5, BLOBS))
    for angles in (turn(240, 2 * np.pi), np.linspace(0, np.pi, 121), np.linspace(0, -np.pi, 121)):
        found = make(angles, 64).fbp(blobs_sinogram(angles, 64, 31.5, BLOBS))
        np.testing.assert_allclose(found, half, atol=2e-3)


def test_a_slice_depends_on_its_pair_alone_and_on_no_thread():
    angles = turn(40)
    rng = np.random.default_rng(2)
    sinograms = rng.standard_normal((7, 40, 48), np.float32)
    whole = Projector(angles, 48).fbp(sinograms)
    assert whole.shape == (7, 48, 48)
    np.testing.assert_array_equal(Projector(angles, 48, threads=3).fbp(sinograms), whole)
    np.testing.assert_array_equal(Projector(angles, 48).fbp(sinograms[2:4]), whole[2:4])
    np.testing.assert_array_equal(Projector(angles, 48).fbp(sinograms[6]), whole[6])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_never_reaches_the_partner(make, bad):
    angles = turn(40)
    sinograms = np.random.default_rng(3).standard_normal((4, 40, 48)).astype(np.float32)
    spoilt = sinograms.copy()
    spoilt[1, 5, 7] = bad
    zeroed = sinograms.copy()
    zeroed[1] = 0
    projector = make(angles, 48)
    for operator in (projector.fbp, projector.adjoint):
        found = operator(spoilt)
        assert np.isnan(found[1]).all()
        np.testing.assert_array_equal(found[[0, 2, 3]], operator(zeroed)[[0, 2, 3]])
    images = np.random.default_rng(3).standard_normal((2, 48, 48)).astype(np.float32)
    images[0, 3, 3] = bad
    found = projector.forward(images)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_little_leaks_between_partners(make):
    sinogram = phantom.sinogram(turn(200), 128)
    found = make(turn(200), 128).fbp(np.stack([sinogram, np.zeros_like(sinogram)]))
    assert np.abs(found[1][inside(128)]).max() < 1e-4 * np.ptp(found[0])


def test_input_is_left_as_it_was_and_dtypes_are_taken(make):
    counts = np.random.default_rng(0).integers(0, 9, (2, 30, 32)).astype(np.uint16)
    before = counts.copy()
    projector = make(turn(30), 32)
    found = projector.fbp(counts)
    np.testing.assert_array_equal(counts, before)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, projector.fbp(counts.astype(np.float64)))


@pytest.mark.parametrize("name", ["fbp", "forward", "adjoint"])
def test_torch_gradient_is_the_transpose(make, name):
    """The gradient of ⟨op(x), y⟩ is opᵀ y: checked against op itself on random directions."""
    projector = make(turn(21) + 0.1, 26, 12.3, 24)
    generator = torch.Generator().manual_seed(0)
    shape = (3, 24, 24) if name == "forward" else (3, 21, 26)
    x = torch.randn(shape, generator=generator, requires_grad=True)
    out = getattr(projector, name)(x)
    y = torch.randn(out.shape, generator=generator)
    (gradient,) = torch.autograd.grad((out * y).sum(), x)
    direction = torch.randn(shape, generator=generator)
    expected = (getattr(projector, name)(direction) * y).double().sum()
    scale = direction.norm() * gradient.norm()
    assert abs((gradient * direction).double().sum() - expected) < 1e-5 * scale
    np.testing.assert_array_equal(
        out.detach().numpy(), getattr(projector, name)(x.detach().numpy())
    )


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"\(30, 32\).*found \(2, 31, 32\)"):
        Projector(turn(30), 32).fbp(np.zeros((2, 31, 32), np.float32))
    with pytest.raises(InputError, match="rotation centre 40"):
        Projector(turn(30), 32, centre=40)
    with pytest.raises(InputError, match="view 1 is not a number"):
        Projector([0.0, np.nan], 32)
    with pytest.raises(InputError, match="shepp"):
        Projector(turn(30), 32).fbp(np.zeros((30, 32), np.float32), filter="sheep")


def test_engines_agree():
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, np.pi, 37)
    one, other = (Projector(angles, 45, 20.3, 50, engine=e) for e in ENGINES)
    x = rng.standard_normal((3, 50, 50)).astype(np.float32)
    y = rng.standard_normal((3, 37, 45)).astype(np.float32)
    for name, data, tolerance in (("forward", x, 3e-4), ("adjoint", y, 3e-4), ("fbp", y, 1e-2)):
        found, expected = getattr(one, name)(data), getattr(other, name)(data)
        assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)


def test_torch_engine_takes_batches_of_any_length(monkeypatch):
    from hpc_srct.tomography import sparse_gridding

    projector = Projector(turn(20), 24, engine="torch")
    y = np.random.default_rng(0).standard_normal((7, 20, 24)).astype(np.float32)
    whole = projector.fbp(y)
    monkeypatch.setattr(sparse_gridding, "PAIRS_AT_ONCE", 2)
    np.testing.assert_allclose(projector.fbp(y), whole, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_the_cpu():
    y = np.random.default_rng(0).standard_normal((3, 60, 64)).astype(np.float32)
    found = Projector(turn(60), 64, device="cuda").fbp(torch.from_numpy(y).cuda())
    assert found.device.type == "cuda"
    expected = Projector(turn(60), 64, engine="torch").fbp(y)
    np.testing.assert_allclose(found.cpu().numpy(), expected, atol=1e-4 * np.ptp(expected))


def test_unknown_engines_are_named():
    with pytest.raises(InputError, match="'astra'"):
        Projector(turn(10), 16, engine="astra")
    with pytest.raises(InputError, match="on cuda"):
        Projector(turn(10), 16, device="cuda", engine="numba")


def test_field_of_view_is_what_every_view_sees():
    assert field_of_view(101) == 50
    assert field_of_view(101, 30.5) == 30.5
    assert field_of_view(101, 80) == 20


def test_the_torch_engine_does_without_numba():
    code = """
import sys
sys.modules["numba"] = None
import numpy as np
from hpc_srct.tomography.projector import Projector
angles = np.arange(8) * np.pi / 8
print(Projector(angles, 16, engine="torch").fbp(np.ones((2, 8, 16), np.float32)).shape)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "(2, 16, 16)", answer.stderr


def test_compiled_code_needs_no_folder_of_its_own():
    """Installed where nothing may be written, the home neither, it is compiled in each run."""
    code = """
import numba
import numpy as np
njit = numba.njit
def without_a_folder(*function, **options):
    if options.pop("cache", False):
        raise RuntimeError("cannot cache function: no locator available")
    return njit(*function, **options)
numba.njit = without_a_folder
from hpc_srct.tomography.projector import Projector
angles = np.arange(8) * np.pi / 8
print(Projector(angles, 16).fbp(np.ones((2, 8, 16), np.float32)).shape)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "(2, 16, 16)", answer.stderr


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_slices_go_where_they_are_asked_to(engine):
    rng = np.random.default_rng(5)
    projector = Projector(np.linspace(0, np.pi, 40, endpoint=False), 31, engine=engine)
    sinograms = rng.normal(size=(3, 40, 31)).astype(np.float32)
    out = np.full((4, 31, 31), 7, np.float32)
    found = projector.fbp(sinograms, out=out[:3])
    np.testing.assert_array_equal(out[:3], projector.fbp(sinograms))
    assert np.shares_memory(found, out) and (out[3] == 7).all()
    locked = out[:3].copy()
    locked.flags.writeable = False
    for wrong in (out, out[:3].astype(float), out[:3].transpose(0, 2, 1), out[0], locked):
        with pytest.raises(InputError, match="contiguous float32"):
            projector.fbp(sinograms, out=wrong)
    with pytest.raises(InputError, match="batch of numpy's"):
        projector.fbp(torch.from_numpy(sinograms), out=out[:3])
