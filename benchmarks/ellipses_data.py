"""DIVal's ellipses: the images, the projections, and what is done to them to fit our projector.

The recipe is that of jleuschn/dival (`EllipsesDataset`, `get_standard_dataset('ellipses')`), with
the fixed seeds of oterobaguer/dip-ct-benchmark, so that image k here is image k there up to a
quarter turn: in ODL the first index is x, here the second is.

References
----------
Leuschner, Schmidt, Ganguly, Andriiashen, Coban, Denker, Bauer, Hadjifaradji, Batenburg, Maass,
van Eijnatten, "Quantitative comparison of deep learning-based image reconstruction methods for
low-dose and sparse-angle CT applications", Journal of Imaging 7 (2021) 44. Joseph, "An improved
algorithm for reprojecting rays through pixel images", IEEE Trans. Medical Imaging 1 (1982) 192.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from skimage.transform import resize

SIZE = 128
VIEWS = 30
DETECTOR = 183
# The detector spans the square's diagonal, so that its pixels are a little less than the image's.
PITCH = SIZE * np.sqrt(2) / DETECTOR
ANGLES = (np.arange(VIEWS) + 0.5) * np.pi / VIEWS
FINE = 400
NOISE = 0.025
LENGTHS = {"train": 32_000, "validation": 3_200, "test": 3_200}
IMAGE_SEEDS = {"train": 42, "validation": 2, "test": 1}
NOISE_SEEDS = {"train": 1, "validation": 2, "test": 3}
MOST = 70

# Detector columns once a column is as wide as a pixel of the image (within 1.1e-4).
COLUMNS = 181


class Sample(NamedTuple):
    """One image (128, 128) in 0..1, and its noisy sinogram (30, 181); pixel = column = 1."""

    image: NDArray[np.float32]
    sinogram: NDArray[np.float32]


def samples(part: str, count: int) -> Iterator[Sample]:
    """Give the first images of ``train``, ``validation`` or ``test``, and their sinograms."""
    if not 1 <= count <= LENGTHS[part]:
        raise ValueError(f"{part} has 1 to {LENGTHS[part]} images; asked for {count}")
    noise = np.random.RandomState(NOISE_SEEDS[part])  # noqa: NPY002 - the published numbers
    for image in images(part, count):
        clean = project(image)
        noisy = clean + noise.normal(0, NOISE * np.abs(clean).mean(), clean.shape)
        yield Sample(image, to_pixels(noisy))


# ---- images


def images(part: str, count: int) -> Iterator[NDArray[np.float32]]:
    """Draw the first images of a part: (128, 128), x to the right and y up, 0..1."""
    random = np.random.RandomState(IMAGE_SEEDS[part])  # noqa: NPY002 - the published numbers
    for _ in range(count):
        yield normalised(phantom(draw(random)))


def draw(random: np.random.RandomState) -> NDArray[np.float64]:
    """Draw one image's ellipses: (70, 6) of value, two semi-axes, x, y and angle in radians.

    Lengths are in halves of the image's side. Ellipses beyond the drawn number have value 0.
    """
    value = random.uniform(-0.4, 1.0, MOST)
    a, b = 0.2 * random.exponential(1.0, MOST), 0.2 * random.exponential(1.0, MOST)
    x, y = random.uniform(-0.9, 0.9, MOST), random.uniform(-0.9, 0.9, MOST)
    angle = random.uniform(0.0, 2 * np.pi, MOST)
    value[min(random.poisson(40), MOST) :] = 0
    return np.stack((value, a, b, x, y, angle), axis=1)


def phantom(ellipses: NDArray, size: int = SIZE) -> NDArray[np.float32]:
    """Add ellipses up as ODL's `ellipsoid_phantom` does, in our orientation.

    A pixel belongs to an ellipse if its middle does, the middles of the outermost pixels standing
    at −1 and 1. ODL looks only inside a box that can miss a line of pixels at an ellipse's edge,
    and so does this.
    """
    image = np.zeros((size, size), np.float32)
    grid = np.linspace(-1, 1, size)
    for value, a, b, x, y, angle in ellipses:
        if value == 0:
            continue
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.array([[cosine, sine], [-sine, cosine]])
        radius = np.sqrt(np.abs(turn) @ [a**2, b**2]) * size / 2
        middle = (np.array([x, y]) + 1) * size / 2
        low = np.maximum(np.floor(middle - radius).astype(int), 0)
        high = np.ceil(middle + radius).astype(int)
        dx = grid[low[0] : high[0], None] - x
        dy = grid[None, low[1] : high[1]] - y
        u, v = cosine * dx + sine * dy, -sine * dx + cosine * dy
        box = image[low[0] : high[0], low[1] : high[1]]
        box[(u / a) ** 2 + (v / b) ** 2 <= 1] += np.float32(value)
    return np.ascontiguousarray(np.rot90(image))


def normalised(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take the image's minimum off the pixels that are not 0, then divide by the maximum."""
    image = image.copy()
    image[image != 0] -= image.min()
    return image / image.max()


# ---- projections


def project(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Integrate an image along the rays, (30, 183), from its bilinear upscaling to 400²."""
    fine = resize(image, (FINE, FINE), order=1)
    rays = joseph(ANGLES, (np.arange(DETECTOR) - (DETECTOR - 1) / 2) * PITCH, FINE, SIZE / FINE)
    return (rays @ fine.ravel()).reshape(VIEWS, DETECTOR)


def joseph(
    angles: NDArray, positions: NDArray, size: int, pixel: float = 1.0
) -> scipy.sparse.csr_array:
    """Make the matrix of Joseph's method (1982), which is ASTRA's ``linear`` and its GPU kernel.

    It shares nothing with `hpc_srct.tomography`: data made by a method's own projector would
    flatter it.

    Parameters
    ----------
    angles, positions
        Rays: x·cos θ + y·sin θ = s for each angle (radians) and each s (in lengths).
    size, pixel
        Pixels on a side of the image, and their size.

    Returns
    -------
    csr_array (angles × positions, size²)
        Along the axis that a ray runs along more, it is sampled in each line of pixels, between
        two neighbours linearly.
    """
    key = tuple(map(float, angles)), tuple(map(float, positions)), size, float(pixel)
    return _joseph(*key)


@cache
def _joseph(
    angles: tuple[float, ...], positions: tuple[float, ...], size: int, pixel: float
) -> scipy.sparse.csr_array:
    s = np.array(positions)[:, None] / pixel
    line = np.arange(size)[None]
    middle = (size - 1) / 2
    blocks = []
    for angle in angles:
        cosine, sine = np.cos(angle), np.sin(angle)
        if abs(cosine) >= abs(sine):  # one sample in each row
            along = cosine
            at = (s - (middle - line) * sine) / cosine + middle
            row_step, across_step = size, 1
        else:
            along = sine
            at = middle - (s - (line - middle) * cosine) / sine
            row_step, across_step = 1, size
        first = np.floor(at).astype(np.int64)
        part = at - first
        rays = np.broadcast_to(np.arange(len(positions))[:, None], at.shape)
        entries = []
        for neighbour, weight in ((first, 1 - part), (first + 1, part)):
            inside = (neighbour >= 0) & (neighbour < size)
            pixels = line * row_step + neighbour * across_step
            entries.append((weight[inside] * pixel / abs(along), rays[inside], pixels[inside]))
        weights, rays, pixels = (np.concatenate(each) for each in zip(*entries, strict=True))
        shape = len(positions), size * size
        blocks.append(scipy.sparse.csr_array((weights, (rays, pixels)), shape=shape))
    return scipy.sparse.csr_array(scipy.sparse.vstack(blocks))


def to_pixels(sinogram: NDArray) -> NDArray[np.float32]:
    """Bring detector columns of 0.989 pixels to columns of one pixel: (…, 183) to (…, 181).

    Our projector knows one length for both. By Fourier series over the detector's width, which
    keeps every frequency that 181 columns can hold; their width is then 1.0001.
    """
    columns = sinogram.shape[-1]
    width = columns * PITCH
    wanted = round(width)
    waves = np.fft.rfft(sinogram, axis=-1)[..., : wanted // 2 + 1]
    # The middles of the two first columns are half a difference of widths apart.
    apart = (width / wanted - PITCH) / 2
    waves = waves * np.exp(2j * np.pi * np.arange(waves.shape[-1]) * apart / width)
    return (np.fft.irfft(waves, wanted, axis=-1) * wanted / columns).astype(np.float32)
