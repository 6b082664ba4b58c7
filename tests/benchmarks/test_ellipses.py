"""The DIVal ellipses benchmark: its data as published, its figures, its table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage.transform import iradon

from hpc_srct.tomography.projector import Projector

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import ellipses  # noqa: E402
import ellipses_data as data  # noqa: E402
import ellipses_networks as networks  # noqa: E402


def test_ellipses_are_distributed_as_published() -> None:
    random = np.random.RandomState(0)  # noqa: NPY002
    drawn = np.stack([data.draw(random) for _ in range(300)])
    counts = (drawn[..., 0] != 0).sum(axis=1)
    assert abs(counts.mean() - 40) < 1.5  # Poisson(40): a mean of 300 has a deviation of 0.37
    assert abs(counts.var() / 40 - 1) < 0.35
    assert counts.max() <= data.MOST
    values = drawn[..., 0][drawn[..., 0] != 0]
    assert values.min() >= -0.4
    assert values.max() <= 1
    assert abs(values.mean() - 0.3) < 0.02
    for axis in (1, 2):  # 0.2·Exp(1): mean and deviation alike
        assert abs(drawn[..., axis].mean() - 0.2) < 0.006
        assert abs(drawn[..., axis].std() - 0.2) < 0.01
    for axis in (3, 4):
        assert 0.89 < drawn[..., axis].max() <= 0.9
        assert abs(drawn[..., axis].std() - 0.9 / np.sqrt(3)) < 0.01
    assert 6.27 < drawn[..., 5].max() <= 2 * np.pi


def test_ellipses_are_drawn_in_the_published_order() -> None:
    ours, plain = np.random.RandomState(42), np.random.RandomState(42)  # noqa: NPY002
    for _ in range(2):  # an array's length matters too: the second image comes after the first
        drawn = data.draw(ours)
        value, a, b = plain.uniform(-0.4, 1, 70), plain.exponential(1, 70), plain.exponential(1, 70)
        x, y, turn = (plain.uniform(*span, 70) for span in ((-0.9, 0.9),) * 2 + ((0, 2 * np.pi),))
        count = plain.poisson(40)
        np.testing.assert_array_equal(drawn[:count, 0], value[:count])
        assert not drawn[count:, 0].any()
        np.testing.assert_array_equal(drawn[:, 1:].T, [0.2 * a, 0.2 * b, x, y, turn])


def test_a_phantom_is_the_one_of_odls_documentation() -> None:
    found = data.phantom(np.array([[1, 1, 1, 0, 0, 0], [1, 0.6, 0.6, 0, 0, 0]], float), size=5)
    expected = "00100 01210 12221 01210 00100"
    assert [list(map(int, row)) for row in found] == [list(map(int, r)) for r in expected.split()]


@pytest.mark.parametrize(("x", "y", "row", "column"), [(0.5, 0, 64, 95), (0, 0.5, 32, 64)])
def test_x_is_to_the_right_and_y_up(x: float, y: float, row: int, column: int) -> None:
    found = data.phantom(np.array([[1, 0.1, 0.2, x, y, 0.3]]))
    middle = [np.average(at, weights=found) for at in np.indices(found.shape)]
    np.testing.assert_allclose(middle, [row, column], atol=0.8)


def test_the_minimum_is_taken_off_what_is_not_background() -> None:
    found = data.normalised(np.array([[-1, 0, 3], [1, 0, 0]], np.float32))
    np.testing.assert_array_equal(found, np.array([[0, 0, 4], [2, 0, 0]]) / 4)


def test_a_point_is_projected_to_its_place() -> None:
    size, pixel, step = 21, 0.5, 0.001
    image = np.zeros((size, size))
    image[4, 15] = 1
    x, y = (15 - 10) * pixel, (10 - 4) * pixel
    angles, s = np.array([0.1, 0.9, 1.6, 2.4]), np.arange(-6, 6, step)
    shadow = (data.joseph(angles, s, size, pixel) @ image.ravel()).reshape(len(angles), -1)
    np.testing.assert_allclose(shadow.sum(axis=1) * step, pixel**2, rtol=1e-3)
    middle = (shadow * s).sum(axis=1) / shadow.sum(axis=1)
    np.testing.assert_allclose(middle, x * np.cos(angles) + y * np.sin(angles), atol=1e-3)


def test_projections_are_a_discs_chords() -> None:
    disc = data.phantom(np.array([[1, 0.5, 0.5, 0.2, -0.1, 0]]))
    found = data.project(disc)
    s = (np.arange(data.DETECTOR) - (data.DETECTOR - 1) / 2) * data.PITCH
    # Pixels' middles, not edges, stand at ±1: lengths are in halves of 127 pixels.
    radius, x, y = 0.5 * 63.5, 0.2 * 63.5, -0.1 * 63.5
    off = s - (x * np.cos(data.ANGLES) + y * np.sin(data.ANGLES))[:, None]
    chords = 2 * np.sqrt(np.maximum(radius**2 - off**2, 0))
    assert found.shape == (30, 183)
    assert np.sqrt(np.mean((found - chords) ** 2)) < 0.02 * chords.max()


def test_columns_become_pixels() -> None:
    def blob(columns: int) -> np.ndarray:
        s = (np.arange(columns) - (columns - 1) / 2) * (data.SIZE * np.sqrt(2) / columns)
        return np.exp(-(((s - 20.3) / 3) ** 2))

    np.testing.assert_allclose(data.to_pixels(blob(183)), blob(data.COLUMNS), atol=1e-6)


def test_noise_is_of_the_published_strength() -> None:
    sample = next(data.samples("test", 1))
    clean = data.project(sample.image)
    noise = sample.sinogram - data.to_pixels(clean)
    assert abs(noise.std() / (0.025 * clean.mean()) - 1) < 0.05


def test_fbp_agrees_with_scikit_image() -> None:
    sinogram = next(data.samples("test", 1)).sinogram
    # Odd sizes: scikit-image's axis is a pixel, not a border between two.
    ours = Projector(data.ANGLES, data.COLUMNS, size=129).fbp(sinogram, "hann")
    theirs = iradon(
        sinogram.T, np.degrees(data.ANGLES), 129, filter_name="hann", circle=False
    ).astype(np.float32)
    y, x = np.indices(ours.shape) - 64
    within = np.hypot(x, y) < 61
    assert np.linalg.norm((ours - theirs)[within]) < 0.05 * np.linalg.norm(theirs[within])


def test_fbp_lands_at_the_published_figure() -> None:
    test = ellipses.Images("test", 24)
    scores = test.scores(networks.projector().fbp(test.sinograms, "hann", 0.705))
    assert abs(scores["psnr"] - ellipses.PUBLISHED_FBP[0]) < 0.5
    assert abs(scores["ssim"] - ellipses.PUBLISHED_FBP[1]) < 0.05


def test_psnr_is_over_the_whole_image_with_the_truths_range() -> None:
    test = ellipses.Images.__new__(ellipses.Images)
    ramp = np.linspace(0.25, 0.75, 64, dtype=np.float32).reshape(8, 8)
    test.truth = np.stack([ramp, ramp])
    scores = test.scores(test.truth + np.float32([0.05, 0.025])[:, None, None])
    # Range 0.5, errors 0.05 and 0.025: 20 and 26.02 dB.
    assert scores["psnr"] == pytest.approx((20 + 26.0206) / 2, abs=2e-3)
    assert scores["psnr_se"] == pytest.approx(6.0206 / 2, abs=2e-3)


def test_published_epochs() -> None:
    shares = (0.001, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
    epochs = [networks.published_epochs(share) for share in shares]
    assert epochs == [5000, 5000, 2500, 1000, 700, 280, 70]


def test_the_device_decides_what_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks.torch.cuda, "is_available", lambda: True)
    on_gpu = networks.Recipe.fitting(320, width=None, seed=3)
    assert (on_gpu.passes, on_gpu.width, on_gpu.batch, on_gpu.seed) == (5000, 32, 16, 3)
    monkeypatch.setattr(networks.torch.cuda, "is_available", lambda: False)
    on_cpu = networks.Recipe.fitting(320, width=8)
    assert (on_cpu.passes, on_cpu.width) == (networks.CPU_BUDGET // 320, 8)


def test_the_recipe_sees_each_image_as_often_as_it_says(tmp_path: Path) -> None:
    recipe = networks.Recipe(passes=47)
    settings = recipe.experiment("unet", tmp_path, tmp_path)
    assert settings.epochs * settings.tiles.per_slice == recipe.describe()["passes"] == 40
    last = settings.optimizer.learning_rate * settings.optimizer.gamma ** (settings.epochs - 1)
    assert last == pytest.approx(networks.LAST_RATE * recipe.learning_rate)


def test_quick_mode_fills_every_row(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--quick", "--dir", str(tmp_path / "runs"), "--out", str(tmp_path / "result.json")]
    ellipses.main(words)
    printed = capsys.readouterr().out
    for figure in ("24.18", "27.96"):
        assert figure in printed
    result = json.loads((tmp_path / "result.json").read_text())
    kinds = [row["method"].split(" (")[0] for row in result["rows"]]
    assert kinds == ["FBP", "TV", "FBP + UNet", "FBP + ResAttUnet"]
    assert [row["published_psnr"] for row in result["rows"][:2]] == [24.18, 27.96]
    fbp, tv, *learned = result["rows"]
    assert tv["psnr"] > fbp["psnr"] + 1
    for (
        row
    ) in learned:  # two passes over four images: hardly more than the FBP that they start from
        assert row["psnr"] > 20
        assert row["cost"]["steps"] == 4
        assert row["parameters"]["passes"] == 2
    # Once more: what is trained is measured again, not trained again.
    runs = sorted((tmp_path / "runs").glob("*/metrics.jsonl"))
    before = [run.stat().st_mtime_ns for run in runs]
    ellipses.main(words)
    assert len(runs) == 2
    assert [run.stat().st_mtime_ns for run in runs] == before
    again = json.loads((tmp_path / "result.json").read_text())
    assert again["rows"] == result["rows"]
