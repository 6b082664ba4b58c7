"""The picture beside the table: one slice by each method, with a part of it magnified.

All images share one grey scale, taken from the label, so that no method looks better by its
contrast. The same square is marked on every full view and shown magnified below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from scipy.ndimage import gaussian_gradient_magnitude, uniform_filter

from hpc_srct.errors import InputError
from hpc_srct.evaluation.metrics import data_range, disc, score
from hpc_srct.files import written_aside

GREY_PERCENTILES = (0.5, 99.5)
MAGNIFICATION = 4.0
MARK = "#ffb000"


def grey_scale(label: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Choose black and white from the label's percentiles inside the mask, with some air."""
    low, high = np.percentile(label[mask], GREY_PERCENTILES)
    air = 0.05 * (high - low) or 1.0
    return float(low - air), float(high + air)


def busiest_square(label: np.ndarray, mask: np.ndarray, side: int) -> tuple[int, int]:
    """Find the square of the label with the most detail, wholly inside the mask.

    Detail is the share of pixels that belong to edges (the steepest sixth of the gently
    smoothed label), times the square root of the contrast: one strong edge alone, or noise
    alone, weighs less than structure.

    Returns
    -------
    tuple of int
        Row and column of its upper left corner.
    """
    image = np.where(mask, label, label[mask].mean()).astype(np.float64)
    image = np.clip(image, *np.percentile(image[mask], GREY_PERCENTILES))
    gradient = gaussian_gradient_magnitude(image, 1.0)
    edges = gradient > np.percentile(gradient[mask], 83)
    mean = uniform_filter(image, side)
    deviation = np.sqrt(np.maximum(uniform_filter(image**2, side) - mean**2, 0))
    detail = uniform_filter(edges.astype(np.float64), side) * np.sqrt(deviation)
    inside = uniform_filter(mask.astype(np.float64), side) > 1 - 0.5 / side**2
    half = side // 2
    fits = np.zeros_like(inside)
    fits[half : label.shape[0] - side + half + 1, half : label.shape[1] - side + half + 1] = True
    allowed = inside & fits if (inside & fits).any() else fits
    row, column = np.unravel_index(np.argmax(np.where(allowed, detail, -1)), label.shape)
    return int(row) - half, int(column) - half


def panel(
    images: Mapping[str, np.ndarray],
    label: np.ndarray,
    field_of_view: float,
    *,
    label_name: str = "label",
    square: tuple[int, int, int] | None = None,
    mask: np.ndarray | None = None,
    caption: str = "",
) -> Figure:
    """Draw input, outputs and label side by side, and one square of them magnified below.

    Parameters
    ----------
    images
        Title → slice (y, x), drawn in this order; PSNR and SSIM stand under each title.
    label
        The slice (y, x) that they are compared with, drawn last.
    field_of_view
        Radius in pixels of the disc that every view sees; what lies outside is not drawn.
    label_name
        Title of the label.
    square
        Upper left row, column, and side of the magnified square; the busiest one by default.
    mask
        Pixels that count for PSNR and SSIM; 0.97 of the field of view by default.
    caption
        One line at the bottom: data, views, what the label is.

    Raises
    ------
    InputError
        An image of another shape than the label's, or a label with no finite contrast.
    """
    for title, image in images.items():
        if image.shape != label.shape:
            raise InputError(f"{title}: expected a slice of {label.shape}; found {image.shape}.")
    seen = disc(label.shape, field_of_view)
    mask = disc(label.shape, 0.97 * field_of_view) if mask is None else mask
    if not np.isfinite(label[mask]).all() or data_range(label, mask) <= 0:
        raise InputError("The label of the picture has missing values or no contrast.")
    low, high = grey_scale(label, mask)
    side = max(8, round(2 * field_of_view / MAGNIFICATION))
    row, column, side = square or (*busiest_square(label, mask, side), side)

    columns = len(images) + 1
    inch, title_inch, gap = 3.0, 0.52, 0.04
    caption_inch = 0.3 if caption else 0.06
    width, height = columns * (inch + gap) + gap, title_inch + 2 * (inch + gap) + gap + caption_inch
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    everything = {**images, label_name: label}
    for index, (title, image) in enumerate(everything.items()):
        left = (gap + index * (inch + gap)) / width
        box = (left, (caption_inch + inch + 2 * gap) / height, inch / width, inch / height)
        view = figure.add_axes(box)
        _draw(view, np.where(seen, image, np.nan), low, high)
        _frame_on_disc(view, label.shape, field_of_view)
        view.add_patch(
            Rectangle((column - 0.5, row - 0.5), side, side, fill=False, ec=MARK, lw=1.4)
        )
        box = (left, (caption_inch + gap) / height, inch / width, inch / height)
        inset = figure.add_axes(box)
        _draw(inset, image[row : row + side, column : column + side], low, high, magnified=True)
        for spine in inset.spines.values():
            spine.set(visible=True, color=MARK, linewidth=1.6)
        middle, top = left + inch / width / 2, 1 - 0.06 / height
        size = min(12.0, 12.0 * 30 / max(len(title), 1))
        figure.text(middle, top, title, ha="center", va="top", fontsize=size, weight="bold")
        if image is not label:
            scores = score(image, label, mask)
            under = f"{scores.psnr:.2f} dB   SSIM {scores.ssim:.3f}"
            figure.text(middle, top - 0.25 / height, under, ha="center", va="top", fontsize=10)
    if caption:
        figure.text(0.5, 0.09 / height, caption, ha="center", va="bottom", fontsize=9, color="0.3")
    return figure


def save(figure: Figure, path: Path | str) -> Path:
    """Write a figure as PNG, whole or not at all."""
    path = Path(path)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png")
    return path


def _draw(axes, image: np.ndarray, low: float, high: float, magnified: bool = False) -> None:
    # A full view of 2048 pixels must not alias; a magnified pixel must stay a square.
    how = "nearest" if magnified else "auto"
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation=how)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _frame_on_disc(axes, shape: tuple[int, int], radius: float) -> None:
    """Zoom to the field of view and give it a fine rim."""
    middle_y, middle_x = ((n - 1) / 2 for n in shape)
    axes.add_patch(Circle((middle_x, middle_y), radius, fill=False, ec="0.7", lw=0.6))
    reach = radius + 1
    axes.set_xlim(middle_x - reach, middle_x + reach)
    axes.set_ylim(middle_y + reach, middle_y - reach)
