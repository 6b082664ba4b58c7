"""Slices like a tooth: one irregular body in air, a few grey levels, holes, cracks, fine grain.

The proportions are those of a real tooth (APS, ``tooth.h5`` of TomoPy, 640 columns): about 0.4
of the field of view across, two layers of which one attenuates 0.6 times as much as the
other, an open cavity, jagged cracks one to four pixels wide that run into hairlines, and a
texture so weak that noise hides it.
"""

from __future__ import annotations

import numpy as np

from hpc_srct.settings.simulation import SimulationSettings
from hpc_srct.simulation.polygons import Painting
from hpc_srct.simulation.shapes import Shapes

_VERTICES = 160


def draw_tooth(random: np.random.Generator, settings: SimulationSettings) -> list[Shapes]:
    """Draw one slice.

    Parameters
    ----------
    random
        Where the numbers come from.
    settings
        size, object_size and texture.
    """
    radius = settings.size * random.uniform(*settings.object_size) / 2
    outline = _Outline(random, radius, settings.size / 2 - 3)
    room = max(settings.size / 2 - 2 - outline.radii.max(), 0) / np.sqrt(2)
    centre = random.uniform(-room, room, 2) * 0.5
    painting = Painting(centre + outline.points(outline.radii))
    _layers(random, painting, centre, outline)
    _inclusions(random, painting, centre, outline, radius)
    for _ in range(random.integers(0, 3)):
        _cavity(random, painting, centre, outline, radius)
    if settings.texture:
        _grain(random, painting, centre, outline, radius, settings.texture)
    for _ in range(random.integers(1, 7)):
        start = centre + outline.anywhere(random)
        width = 0.008 * radius * 10 ** random.uniform(-0.4, 0.6)
        _crack(random, painting, start, radius, width, branches=2)
    return [painting.polygons()]


class _Outline:
    """A closed curve r(φ): waves, a stretch, and cuts that leave corners."""

    def __init__(self, random: np.random.Generator, radius: float, longest: float):
        self.angles = 2 * np.pi * np.arange(_VERTICES) / _VERTICES
        radii = 1 + waves(random, self.angles, random.uniform(0.05, 0.25))
        stretch, axis = random.uniform(0.65, 1.0), random.uniform(0, np.pi)
        turned = self.angles - axis
        radii = np.maximum(radii, 0.35) / np.hypot(np.cos(turned), np.sin(turned) / stretch)
        for _ in range(random.integers(0, 3)):
            away = np.minimum(
                np.abs(np.angle(np.exp(1j * (self.angles - random.uniform(0, 6.3))))), 1.4
            )
            # Hardly curved: a straight edge would throw a streak that no real sample does.
            bend = 1 - random.uniform(0.05, 0.3) * np.tan(away) ** 2
            side = random.uniform(0.45, 0.9) / np.cos(away) * np.maximum(bend, 0.5)
            radii = np.minimum(radii, np.where(away < 1.4, side, np.inf))
        radii *= 1 + waves(random, self.angles, 0.01)
        across = radii + np.roll(radii, _VERTICES // 2)
        self.radii = radii * min(2 * radius / across.max(), longest / radii.max())

    def points(self, radii: np.ndarray) -> np.ndarray:
        return np.stack((radii * np.cos(self.angles), radii * np.sin(self.angles)), axis=1)

    def anywhere(self, random: np.random.Generator, reach: float = 1.0) -> np.ndarray:
        """Draw a point inside, the body scaled by `reach`."""
        vertex = random.integers(_VERTICES)
        distance = self.radii[vertex] * reach * np.sqrt(random.uniform())
        angle = self.angles[vertex]
        return distance * np.array((np.cos(angle), np.sin(angle)))


def waves(random: np.random.Generator, angles: np.ndarray, strength: float) -> np.ndarray:
    """Draw a smooth closed curve about 0 whose standard deviation is about `strength`."""
    order = np.arange(1, 13)
    phase = random.uniform(0, 2 * np.pi, len(order))
    height = random.normal(size=len(order)) / order**1.6
    curve = height @ np.cos(order[:, None] * angles + phase[:, None])
    return strength * curve / max(np.sqrt((height**2).sum() / 2), 1e-3)


def _layers(
    random: np.random.Generator, painting: Painting, centre: np.ndarray, outline: _Outline
) -> None:
    """Nest up to three layers; grey levels repeat, as enamel within dentine within enamel."""
    levels = (1.0, random.uniform(0.45, 0.75), random.uniform(0.8, 1.15))
    radii, level = outline.radii, 1.0
    for _ in range(random.integers(1, 4)):
        share = random.uniform(0.5, 0.85)
        wave = waves(random, outline.angles, random.uniform(0.05, 0.35))
        radii = radii * np.clip(share * (1 + wave), 0.1, 0.95)
        following = random.choice([other for other in levels if other != level])
        painting.add_inside(centre + outline.points(radii), following - level)
        level = following


def _star(random: np.random.Generator, vertices: int, radius: float) -> np.ndarray:
    """Draw a small irregular outline about the origin."""
    angles = 2 * np.pi * np.arange(vertices) / vertices
    radii = radius * np.clip(1 + waves(random, angles, random.uniform(0.1, 0.4)), 0.25, 2.5)
    points = np.stack((radii * np.cos(angles), radii * np.sin(angles)), axis=1)
    stretch, tilt = random.uniform(0.3, 1.0), random.uniform(0, np.pi)
    cosine, sine = np.cos(tilt), np.sin(tilt)
    return points * (1, stretch) @ np.array(((cosine, sine), (-sine, cosine)))


def _inclusions(random, painting, centre, outline, radius) -> None:
    """Set patches of another grey level, apart from each other."""
    taken: list[tuple[np.ndarray, float]] = []
    for _ in range(random.integers(0, 4)):
        where = centre + outline.anywhere(random)
        shape = _star(random, 24, radius * random.uniform(0.05, 0.3))
        factor = random.choice((random.uniform(0.5, 0.8), random.uniform(1.1, 1.4)))
        size = np.linalg.norm(shape, axis=1).max()
        if all(np.linalg.norm(where - other) > size + its for other, its in taken):
            painting.multiply_star(where, where + shape, factor)
            taken.append((where, size))


def _cavity(random, painting, centre, outline, radius) -> None:
    """Cut a hole; near the side it opens to the air."""
    where = centre + outline.anywhere(random, reach=1.1)
    shape = _star(random, 28, radius * random.uniform(0.04, 0.35))
    painting.multiply_star(where, where + shape, random.choice((0.0, random.uniform(0, 0.3))))


def _crack(random, painting, start, radius, width, branches) -> None:
    """Walk across the body, narrowing; neighbouring pieces share an edge."""
    steps = random.integers(4, 16)
    heading = random.uniform(0, 2 * np.pi) + np.cumsum(random.normal(0, 0.3, steps))
    length = radius * random.uniform(0.04, 0.16, steps)
    pieces = length[:, None] * np.stack((np.cos(heading), np.sin(heading)), axis=1)
    spine = start + np.concatenate(([[0.0, 0.0]], np.cumsum(pieces, axis=0)))
    along = np.gradient(spine, axis=0)
    normal = np.stack((-along[:, 1], along[:, 0]), axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    taper = np.linspace(1, random.uniform(0.1, 0.8), steps + 1)
    half = 0.5 * width * taper * random.uniform(0.7, 1.3, steps + 1)
    left, right = spine + half[:, None] * normal, spine - half[:, None] * normal
    remains = random.choice((0.0, random.uniform(0, 0.6)))
    for k in range(steps):
        painting.multiply(np.stack((left[k], right[k], right[k + 1], left[k + 1])), remains)
    if branches and random.uniform() < 0.4:
        fork = random.integers(1, steps)
        _crack(random, painting, spine[fork], 0.6 * radius, 0.6 * width, branches - 1)


def _grain(random, painting, centre, outline, radius, strength) -> None:
    """Strew small pentagons a few percent lighter or darker."""
    scale = radius * 10 ** random.uniform(-2.2, -1.7)
    contrast = random.uniform(0.02, 0.08) * strength
    beneath = len(painting)
    for _ in range(random.integers(40, 160)):
        where = centre + outline.anywhere(random)
        angles = 2 * np.pi / 5 * np.arange(5) + random.uniform(0, 2 * np.pi)
        shape = np.stack((np.cos(angles), np.sin(angles)), axis=1)
        shape *= scale * 10 ** random.uniform(-0.2, 0.5, 2)
        # Bounded, so that a few that overlap do not go below zero.
        change = np.clip(random.normal(0, contrast), -0.2, 0.2)
        painting.multiply(where + shape, 1 + change, beneath)
