"""A cylinder full of bubbles: the 3-D phantom of Noise2Inverse (after foam_ct_phantom).

Pelt, Hendriksen & Batenburg, "Foam-like phantoms for comparing tomography algorithms",
J. Synchrotron Rad. 29 (2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpc_srct.simulation.shapes import Ellipses, Shapes

# Heights at which a detector row is cut: bubbles change within a row.
_CUTS = 3
# Places tried for each bubble; the roomiest is taken.
_TRIES = 24


@dataclass(frozen=True)
class Foam:
    """A cylinder about the rotation axis, with spherical holes that do not overlap.

    Parameters
    ----------
    radius
        Of the cylinder, pixels.
    centres
        (bubbles, 3): x, y from the axis and z down from the first row's upper edge, pixels.
    radii
        (bubbles,) pixels.
    """

    radius: float
    centres: np.ndarray
    radii: np.ndarray
    one_object = True

    @classmethod
    def drawn(
        cls, random: np.random.Generator, radius: float, rows: int, bubbles: int, size: int
    ) -> Foam:
        """Place bubbles one after the other, each where there is room.

        Parameters
        ----------
        random
            Where the numbers come from.
        radius
            Of the cylinder, pixels.
        rows
            Height of the scan; the foam goes on beyond both ends.
        bubbles
            Number in a stretch as high as `size`.
        size
            Detector columns.
        """
        largest = 0.22 * radius
        bottom, top = -largest, rows + largest
        count = max(round(bubbles * (top - bottom) / size), 1 if bubbles else 0)
        centres, radii = np.empty((count, 3)), np.empty(count)
        placed = 0
        for _ in range(20 * count):
            if placed == count:
                break
            # A few large ones, many small ones.
            wanted = largest * max(random.uniform() ** 2, 0.04)
            distance = radius * np.sqrt(random.uniform(size=_TRIES))
            angle = random.uniform(0, 2 * np.pi, _TRIES)
            points = np.stack(
                (
                    distance * np.cos(angle),
                    distance * np.sin(angle),
                    random.uniform(bottom, top, _TRIES),
                ),
                axis=1,
            )
            gaps = points[:, None] - centres[:placed]
            room = np.sqrt(np.einsum("tbi,tbi->tb", gaps, gaps)) - radii[:placed]
            # A thin wall is left between neighbours, and to the cylinder's side.
            room = np.minimum(room.min(axis=1, initial=np.inf), radius - distance) - 0.5
            best = np.argmax(room)
            if room[best] > 1.0:
                centres[placed], radii[placed] = points[best], min(wanted, room[best])
                placed += 1
        return cls(radius, centres[:placed], radii[:placed])

    def sections(self, row: int) -> list[Sequence[Shapes]]:
        """Cut the foam at heights spread over the row: a disc with round holes."""
        return [self.cut(row + (k + 0.5) / _CUTS) for k in range(_CUTS)]

    def cut(self, z: float) -> list[Shapes]:
        """Cut the foam at one height; the greatest chord of the cylinder is 1."""
        height = self.centres[:, 2] - z
        crossed = np.abs(height) < self.radii
        hole = np.sqrt(self.radii[crossed] ** 2 - height[crossed] ** 2)
        radius = np.concatenate(([self.radius], hole))
        density = np.full(len(radius), -0.5 / self.radius)
        density[0] *= -1
        return [
            Ellipses(
                np.concatenate(([0.0], self.centres[crossed, 0])),
                np.concatenate(([0.0], self.centres[crossed, 1])),
                radius,
                radius,
                np.zeros(len(radius)),
                density,
            )
        ]
