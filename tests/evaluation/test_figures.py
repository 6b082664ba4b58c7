"""The picture: what is on it, one grey scale, and where the magnified square goes."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from hpc_srct.errors import InputError
from hpc_srct.evaluation import figures
from hpc_srct.evaluation.metrics import disc


@pytest.fixture
def label():
    rng = np.random.default_rng(5)
    image = disc((96, 96), 40).astype(np.float32)
    image[40:56, 30:46] += rng.random((16, 16), np.float32)
    return image


def test_the_busiest_square_holds_the_texture(label):
    row, column = figures.busiest_square(label, disc(label.shape, 46), 20)
    assert abs(row - 38) <= 4 and abs(column - 28) <= 4


@pytest.mark.parametrize("side", [7, 8, 21, 24])
def test_the_busiest_square_lies_inside_the_field_of_view(side):
    rng = np.random.default_rng(1)
    mask = disc((65, 80), 31)
    row, column = figures.busiest_square(rng.random((65, 80)), mask, side)
    assert mask[row : row + side, column : column + side].shape == (side, side)
    assert mask[row : row + side, column : column + side].all()


def test_panel_draws_all_with_one_grey_scale_and_marks_the_square(label, tmp_path):
    outputs = {"input": label + 3.0, "UNet": label * 0.5, "ResAttUnet": label + 0.1}
    figure = figures.panel(outputs, label, 46.0, caption="16 of 96 views")
    assert len(figure.axes) == 8
    drawn = [axes.images[0] for axes in figure.axes]
    scale = figures.grey_scale(label, disc(label.shape, 0.97 * 46))
    assert {image.get_clim() for image in drawn} == {scale}
    words = [text.get_text() for text in figure.texts]
    for title in ("input", "UNet", "ResAttUnet", "label", "16 of 96 views"):
        assert title in words
    assert sum("dB" in word for word in words) == 3
    boxes = [axes.patches[-1].get_bbox().bounds for axes in figure.axes[::2]]
    assert len(set(boxes)) == 1
    x, y, side, _ = (int(v + 0.5) for v in boxes[0])
    np.testing.assert_array_equal(drawn[-1].get_array(), label[y : y + side, x : x + side])

    pixels = imread(figures.save(figure, tmp_path / "panel.png"))
    assert pixels.shape[1] > 1000 and pixels.std() > 0.1


def test_a_missing_label_or_another_shape_is_refused(label):
    with pytest.raises(InputError, match="missing values or no contrast"):
        figures.panel({}, np.full_like(label, np.nan), 46.0)
    with pytest.raises(InputError, match="UNet: expected a slice of"):
        figures.panel({"UNet": label[1:]}, label, 46.0)
