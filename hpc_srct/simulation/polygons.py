"""Polygons whose line integrals and pixel averages are exact, and painting with them.

A painting multiplies what is there already: holes, layers, cracks and grains stay inside the
body, and no density falls below zero. Each stroke is clipped against everything beneath it,
so the sum of all polygons is the painting, exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from hpc_srct.simulation.shapes import add_steps, line_height, lines_crossed

# Edges times views that are projected at once: bounds the memory.
_ENTRIES = 1 << 20


class Polygons:
    """Polygons of constant density, counter-clockwise (clockwise ones count negative).

    Parameters
    ----------
    outlines
        (vertices, 2) arrays of x and y.
    densities
        One for each outline.
    """

    def __init__(self, outlines: Iterable[np.ndarray], densities: Iterable[float]):
        outlines, densities = list(outlines), np.asarray(list(densities), float)
        self.start = np.concatenate(outlines)
        self.end = np.concatenate([_next(outline) for outline in outlines])
        self.density = np.repeat(densities, [len(outline) for outline in outlines])

    def add_line_integrals(
        self, out: np.ndarray, angles: np.ndarray, first: float, step: float
    ) -> None:
        """Sum over edges: each bounds the chord on one side wherever the ray crosses it.

        In the view's frame (s across, t along the rays) an edge is t = t₁ + m·(s − s₁). The
        chord is the sum of the edges that run towards smaller s less those that run towards
        larger s. An edge adds a straight line to a range of rays; the ranges' ends are marked
        and summed along the detector.
        """
        rays = out.shape[1]
        batch = max(1, _ENTRIES // len(self.start))
        for low in range(0, len(angles), batch):
            here = angles[low : low + batch, None]
            cosine, sine = np.cos(here), np.sin(here)
            (x1, y1), (x2, y2) = self.start.T, self.end.T
            s1, s2 = x1 * cosine + y1 * sine, x2 * cosine + y2 * sine
            t1, t2 = y1 * cosine - x1 * sine, y2 * cosine - x2 * sine
            width = s2 - s1
            # An edge along the rays bounds nothing; its slope would only bring rounding.
            along = np.abs(width) < 1e-7
            slope = np.where(along, 0, (t2 - t1) / np.where(along, 1, width))
            begin = np.ceil((np.minimum(s1, s2) - first) / step).clip(0, rays).astype(np.int64)
            end = np.ceil((np.maximum(s1, s2) - first) / step).clip(0, rays).astype(np.int64)
            view, edge = np.nonzero(begin < end)
            sign = -np.sign(width[view, edge]) * self.density[edge]
            m = slope[view, edge]
            level = sign * (t1[view, edge] + m * (first - s1[view, edge]))
            ends = view * (rays + 1) + np.stack((begin[view, edge], end[view, edge]))
            length = len(here) * (rays + 1)
            offset, rise = (
                np.bincount(ends[0], weights, length) - np.bincount(ends[1], weights, length)
                for weights in (level, sign * m * step)
            )
            shape = (len(here), rays + 1)
            offset = np.cumsum(offset.reshape(shape), axis=1)[:, :rays]
            rise = np.cumsum(rise.reshape(shape), axis=1)[:, :rays]
            out[low : low + batch] += offset + rise * np.arange(rays)

    def add_pixels(self, out: np.ndarray, samples: int) -> None:
        """Each line of samples enters a polygon where an edge runs down and leaves where up."""
        (x1, y1), (x2, y2) = self.start.T, self.end.T
        edge, line = lines_crossed(np.minimum(y1, y2), np.maximum(y1, y2), len(out), samples)
        y = line_height(line, len(out), samples)
        height = (y2 - y1)[edge]
        x = x1[edge] + (y - y1[edge]) / height * (x2 - x1)[edge]
        add_steps(out, line // samples, x, -np.sign(height) * self.density[edge] / samples)


class Painting:
    """A body of density 1 and what is painted over it.

    Parameters
    ----------
    body
        (vertices, 2) outline.
    """

    def __init__(self, body: np.ndarray):
        self._outlines: list[np.ndarray] = []
        self._densities: list[float] = []
        self._boxes = np.empty((0, 4))
        self._append([(counter_clockwise(body), 1.0)])

    def __len__(self) -> int:
        return len(self._outlines)

    def multiply(self, convex: np.ndarray, factor: float, beneath: int | None = None) -> None:
        """Multiply the density inside a convex outline: 0 cuts a hole, 1 changes nothing.

        Parameters
        ----------
        convex
            (vertices, 2) outline.
        factor
            Of what is there; of what the first `beneath` strokes made, where given. Strokes
            that pile up should be given it: what overlaps k deep is kept 2**k times.
        """
        convex = counter_clockwise(convex)
        area = signed_area(convex)
        (left, bottom), (right, top) = convex.min(axis=0), convex.max(axis=0)
        boxes = self._boxes[:beneath]
        touched = np.flatnonzero(
            (boxes[:, 0] < right)
            & (boxes[:, 2] > left)
            & (boxes[:, 1] < top)
            & (boxes[:, 3] > bottom)
        )
        covering, strokes = 0.0, []
        for index in touched:
            outline = clip(self._outlines[index], convex)
            if len(outline) < 3:
                continue
            if signed_area(outline) > (1 - 1e-12) * area:
                covering += self._densities[index]
            else:
                strokes.append((outline, (factor - 1) * self._densities[index]))
        if covering:
            strokes.append((convex, (factor - 1) * covering))
        self._append(strokes)

    def multiply_star(self, centre: np.ndarray, outline: np.ndarray, factor: float) -> None:
        """Multiply inside an outline that is star-shaped about `centre`, sector by sector."""
        for sector in convex_sectors(centre, counter_clockwise(outline)):
            self.multiply(sector, factor)

    def add_inside(self, outline: np.ndarray, density: float) -> None:
        """Add density inside an outline that is known to lie in what is there."""
        self._append([(counter_clockwise(outline), density)])

    def polygons(self) -> Polygons:
        """Give the polygons whose sum is the painting."""
        return Polygons(self._outlines, self._densities)

    def _append(self, strokes: Iterable[tuple[np.ndarray, float]]) -> None:
        boxes = []
        for outline, density in strokes:
            self._outlines.append(outline)
            self._densities.append(density)
            boxes.append(np.concatenate((outline.min(axis=0), outline.max(axis=0))))
        if boxes:
            self._boxes = np.concatenate((self._boxes, boxes))


def signed_area(outline: np.ndarray) -> float:
    """Area of an outline, positive where it runs counter-clockwise."""
    x, y = outline.T
    u, v = _next(outline).T
    return float(x @ v - u @ y) / 2


def counter_clockwise(outline: np.ndarray) -> np.ndarray:
    """Turn an outline round where it runs clockwise."""
    return outline if signed_area(outline) >= 0 else outline[::-1]


def convex_sectors(centre: np.ndarray, outline: np.ndarray) -> Iterator[np.ndarray]:
    """Cut a star-shaped, counter-clockwise outline into convex pieces that meet at `centre`."""
    sector = [centre, outline[0]]
    for vertex in (*outline[1:], outline[0]):
        if len(sector) > 2 and not (
            _turns_left(sector[-2], sector[-1], vertex)
            and _turns_left(sector[-1], vertex, centre)
            and _turns_left(vertex, centre, sector[1])
        ):
            yield np.array(sector)
            sector = [centre, sector[-1]]
        sector.append(vertex)
    yield np.array(sector)


def _turns_left(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> bool:
    return (b[0] - a[0]) * (c[1] - b[1]) > (b[1] - a[1]) * (c[0] - b[0])


def _next(points: np.ndarray) -> np.ndarray:
    # Several times faster than np.roll, on arrays as short as these.
    return np.concatenate((points[1:], points[:1]))


def clip(outline: np.ndarray, convex: np.ndarray) -> np.ndarray:
    """Cut an outline down to what lies in a convex one (Sutherland & Hodgman 1974).

    Where the result falls apart its parts are joined by edges that run there and back, which
    integrate to nothing.

    Parameters
    ----------
    outline
        (vertices, 2), any simple polygon.
    convex
        (vertices, 2), convex and counter-clockwise.

    Returns
    -------
    ndarray
        (vertices, 2); fewer than three where nothing is left.
    """
    for (x, y), (u, v) in zip(convex.tolist(), _next(convex).tolist(), strict=True):
        side = (u - x) * (outline[:, 1] - y) - (v - y) * (outline[:, 0] - x)
        keep = side >= 0
        if keep.all():
            continue
        if not keep.any():
            return outline[:0]
        following, side_after = _next(outline), _next(side)
        crossing = keep != _next(keep)
        part = np.where(crossing, side, 0) / np.where(crossing, side - side_after, 1)
        cut = outline + part[:, None] * (following - outline)
        points = np.concatenate((outline, cut), axis=1).reshape(-1, 2)
        outline = points[np.concatenate((keep[:, None], crossing[:, None]), axis=1).reshape(-1)]
    return outline
