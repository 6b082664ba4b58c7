"""The objects in a simulated scan: families of slices drawn at random, and a foam in 3-D.

A row of a scan is drawn from the seed and its own number alone, so that rows are independent
and a scan with more rows begins with the same ones. Bodies have density 1 before scaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hpc_srct.settings.simulation import SimulationSettings
from hpc_srct.simulation.foam import Foam
from hpc_srct.simulation.shapes import Ellipses, Gaussians, Shapes
from hpc_srct.simulation.tooth import draw_tooth

_PHANTOM, _FOAM = 0, 1


class Phantom(Protocol):
    """What stands in the beam."""

    one_object: bool
    """True where the rows are slices of one object, whose greatest chord is 1 already."""

    def sections(self, row: int) -> list[Sequence[Shapes]]:
        """Cut the object at several heights within a detector row (one where it has none)."""
        ...


class Rows:
    """A phantom whose every row is another object."""

    one_object = False

    def __init__(self, settings: SimulationSettings):
        self._settings = settings
        self._draw = FAMILIES[settings.phantom]

    def sections(self, row: int) -> list[Sequence[Shapes]]:
        """Draw the row's object; it is the same at all heights within the row."""
        random = np.random.default_rng([self._settings.seed, _PHANTOM, row])
        return [self._draw(random, self._settings)]


def phantom(settings: SimulationSettings) -> Phantom:
    """Make the phantom that the settings name."""
    if settings.phantom == "foam":
        random = np.random.default_rng([settings.seed, _FOAM])
        diameter = settings.size * random.uniform(*settings.object_size)
        return Foam.drawn(random, diameter / 2, settings.rows, settings.bubbles, settings.size)
    return Rows(settings)


class _Canvas:
    """Ellipses in one body, drawn so that the density is nowhere below zero."""

    def __init__(self, random: np.random.Generator, settings: SimulationSettings):
        self.random = random
        diameter = settings.size * random.uniform(*settings.object_size)
        aspect = random.uniform(0.7, 1.0)
        self.a, self.b = diameter / 2, diameter / 2 * aspect
        self.tilt = random.uniform(0, np.pi)
        room = max(settings.size / 2 - 2 - self.a, 0.0) / np.sqrt(2)
        self.x, self.y = random.uniform(-room, room, 2)
        self.rows = [(self.x, self.y, self.a, self.b, self.tilt, 1.0)]

    def inside(self, margin: float) -> tuple[float, float]:
        """Draw a point at least `margin` pixels inside the body."""
        radius = np.sqrt(self.random.uniform())
        angle = self.random.uniform(0, 2 * np.pi)
        u = radius * max(self.a - margin, 0) * np.cos(angle)
        v = radius * max(self.b - margin, 0) * np.sin(angle)
        cosine, sine = np.cos(self.tilt), np.sin(self.tilt)
        return self.x + cosine * u - sine * v, self.y + sine * u + cosine * v

    def add(self, a: float, b: float, density: float, tilt: float | None = None) -> None:
        """Add an ellipse somewhere inside; darker ones turn bright where too many overlap."""
        x, y = self.inside(max(a, b) + 1)
        if density < 0:
            dark = np.array([row for row in self.rows if row[5] < 0]).reshape(-1, 6)
            reach = np.maximum(dark[:, 2], dark[:, 3]) + max(a, b)
            near = np.hypot(dark[:, 0] - x, dark[:, 1] - y) < reach
            if 1 + dark[near, 5].sum() + density < 0:
                density = abs(density) / 2
        tilt = self.random.uniform(0, np.pi) if tilt is None else tilt
        self.rows.append((x, y, a, b, tilt, density))

    def sign(self) -> float:
        return 1.0 if self.random.uniform() < 0.5 else -1.0

    def ellipses(self) -> Ellipses:
        return Ellipses(*np.array(self.rows).T)


def draw_ellipses(random: np.random.Generator, settings: SimulationSettings) -> list[Shapes]:
    """Draw a body with 6 to 24 ellipses of different density in it: piecewise constant."""
    canvas = _Canvas(random, settings)
    for _ in range(random.integers(6, 25)):
        a, b = canvas.b * 10 ** random.uniform(-1.7, -0.35, 2)
        canvas.add(a, b, canvas.sign() * random.uniform(0.1, 0.5))
    return [canvas.ellipses()]


def draw_textured(random: np.random.Generator, settings: SimulationSettings) -> list[Shapes]:
    """Draw a body with inclusions, holes, cracks, grains and soft clouds.

    Grains (small ellipses) and clouds (Gaussians) are scaled by the setting `texture`; with 0
    the object is piecewise constant.
    """
    canvas = _Canvas(random, settings)
    radius = canvas.b
    for _ in range(random.integers(3, 9)):
        a, b = radius * random.uniform(0.06, 0.4, 2)
        canvas.add(a, b, canvas.sign() * random.uniform(0.08, 0.3))
    for _ in range(random.integers(2, 9)):
        a = radius * 10 ** random.uniform(-1.8, -0.9)
        canvas.add(a, a * random.uniform(0.5, 1), -random.uniform(0.5, 1.0))
    for _ in range(random.integers(1, 7)):
        length, width = radius * random.uniform(0.15, 0.6), random.uniform(0.4, 1.6)
        canvas.add(length, width, -random.uniform(0.3, 0.9))
    if settings.texture == 0:
        return [canvas.ellipses()]
    strength = settings.texture
    grain = random.uniform(0.7, 2.5)
    for _ in range(random.integers(100, 300)):
        a, b = grain * 10 ** random.uniform(-0.1, 0.4, 2)
        canvas.add(a, b, canvas.sign() * min(strength * random.uniform(0.05, 0.25), 1.0))
    return [canvas.ellipses(), _clouds(canvas, strength)]


def _clouds(canvas: _Canvas, strength: float) -> Gaussians:
    """Draw soft changes of density; all together never darker than the air."""
    random = canvas.random
    count = random.integers(10, 40)
    sigma = canvas.b * 10 ** random.uniform(-1.6, -0.9, count)
    x, y = np.array([canvas.inside(4 * s) for s in sigma]).T
    density = strength * random.uniform(0.0, 0.12, count)
    return Gaussians(x, y, sigma, density)


FAMILIES = {"ellipses": draw_ellipses, "textured": draw_textured, "tooth": draw_tooth}
