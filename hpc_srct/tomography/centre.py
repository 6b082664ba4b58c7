"""Where the rotation axis falls on the detector, and how sure that is.

Half a turn: the sinogram and its mirror image make a full turn, whose 2-D transform is empty
outside a double wedge where the mirror stands at the axis (Vo et al., Opt. Express 22, 19078,
2014). With G(n, ω) the transform of the half turn over angle and detector, the energy there is

    E(c) = Σ |G(n, ω)|² + |G(−n, ω)|² + 2 Re Σ exp(2iωc) (−1)ⁿ G(n, ω) G(−n, ω)

so one transform gives it for every centre at once. A full turn: each view against its opposite,
mirrored. Less than half a turn: the path of the centre of mass. Each may be asked for by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from hpc_srct.errors import InputError
from hpc_srct.tomography.geometry import checked_angles
from hpc_srct.tomography.turns import METHODS, sorted_once, views_for

# A sinogram whose ends stand this high (of its own range) shows a part of the object only.
CUT_OFF_SHARE = 0.1
# Shares of a window's width; what is cut off needs a soft edge.
TAPER, CUT_OFF_TAPER = 0.03, 0.2
# Most rounds of moving the window to the centre found.
ROUNDS = 8
SURE_WITHIN = 0.5
# Rows of pure noise reach 2 standard deviations of chance, objects 4 and more.
ABOVE_CHANCE = 3.0
# Fewer views than this have no phases to refine by.
ENOUGH_PAIRS = 16


@dataclass(frozen=True)
class CentreEstimate:
    """A rotation centre (0-based detector coordinate) and how far to trust it."""

    value: float
    uncertainty: float
    """One standard deviation, pixels: noise, and the spread between rows and weightings."""
    at_edge: bool
    """The best value lies at an end of the search range: the true one may lie beyond."""
    method: str
    note: str


@dataclass(frozen=True)
class _Mismatch:
    """E(c) = constant + 2 Re Σ product·exp(2iωc), and the number of terms in it."""

    omega: NDArray[np.float64]
    product: NDArray[np.complex128]
    constant: NDArray[np.float64]
    terms: int
    scatter: float
    """Standard deviation of the mirror's share of E(c) if all phases were chance."""

    def __call__(self, centres: NDArray, power: int = 0) -> NDArray[np.float64]:
        weight = self.omega**power
        waves = np.exp(2j * np.outer(centres, self.omega))
        energy = (weight * self.constant).sum() + 2 * (waves @ (weight * self.product)).real
        return np.maximum(energy, 1e-12 * (weight * self.constant).sum() + 1e-300)


def find_centre(
    sinograms: NDArray | Sequence[NDArray],
    angles: ArrayLike,
    search: tuple[float, float] | None = None,
    method: str = "auto",
) -> CentreEstimate:
    """Find the rotation centre.

    Parameters
    ----------
    sinograms
        (views, columns) after the negative logarithm, or several rows' sinograms: they are
        judged together, and their spread enters the uncertainty. Rows with NaN are left out.
    angles
        (views,), radians, in any order.
    search
        Lowest and highest centre to consider; default: all but the outer tenth of the detector.
    method
        ``mirror``: the sinogram's half turn and its mirror image (Vo et al. 2014). ``pairs``:
        views against those half a turn on, mirrored, by normalised correlation of what both
        see (Padfield 2012). ``mass``: the path of the centre of mass (Helgason-Ludwig), for
        objects that stay in view. ``auto``: pairs for a full turn, mirror for half of one, mass
        for less.

    Raises
    ------
    InputError
        Shapes that do not fit, an empty search range, no usable row, views over less than a
        third of a half turn, or over less than a method needs.
    """
    if method not in METHODS:
        raise InputError(f"method '{method}': expected one of {', '.join(METHODS)}.")
    angles = checked_angles(angles)
    stack = np.asarray(sinograms, np.float32)
    stack = stack[None] if stack.ndim == 2 else stack
    if stack.ndim != 3 or stack.shape[1] != len(angles) or stack.shape[2] < 8:
        raise InputError(
            f"sinograms: expected ({len(angles)} views, columns), found {stack.shape[1:]}."
        )
    stack = stack[np.isfinite(stack.sum(axis=(1, 2), dtype=np.float64))]
    stack = stack[np.ptp(stack.reshape(len(stack), -1), axis=1) > 0] if len(stack) else stack
    if not len(stack):
        raise InputError("find_centre: every row given is empty or has NaN; choose other rows.")
    columns = stack.shape[2]
    low, high = search if search is not None else (0.1 * (columns - 1), 0.9 * (columns - 1))
    low, high = max(0.0, float(low)), min(columns - 1.0, float(high))
    if not low < high:
        raise InputError(f"centre search {search}: expected a range within 0 to {columns - 1}.")

    turn, stack = views_for(stack, angles, method)
    if turn == "part":
        return _by_mass(stack, sorted_once(angles)[0], (low, high))
    cut_off = _is_cut_off(stack)
    if turn == "full":
        method = "opposite views"
        value, uncertainty = _best_overlap(stack, low, high)
        if not cut_off and stack.shape[1] >= ENOUGH_PAIRS:
            value, uncertainty = _refined([_opposite_views(row) for row in stack], value)
    else:
        method = "mirrored half turn"
        terms = [_outside_wedge(row) for row in stack]
        grid = np.arange(low, high + 0.25, 0.5)
        value = rough = float(grid[np.argmin(_log_likelihood(terms, grid))])
        # Once roughly known, a window that is symmetric about the axis cuts both mirror images
        # alike; one about the detector's middle draws an object that reaches its taper there.
        taper = CUT_OFF_TAPER if cut_off else TAPER
        for _ in range(ROUNDS):
            terms = [_outside_wedge(row, value, taper) for row in stack]
            near = np.arange(max(low, value - 8), min(high, value + 8) + 0.05, 0.1)
            former, value = value, float(near[np.argmin(_log_likelihood(terms, near))])
            if abs(value - former) < 0.15:
                break
        value, uncertainty = _refined(terms, value)
        if cut_off:
            uncertainty = float(np.hypot(uncertainty, (value - rough) / 3))
    at_edge = value <= low + 0.5 or value >= high - 0.5
    value = float(np.clip(value, low, high))
    uncertainty = min(uncertainty, (high - low) / 2)
    note = _note(uncertainty, at_edge, (low, high), cut_off)
    return CentreEstimate(value, uncertainty, at_edge, method, note)


def _note(uncertainty: float, at_edge: bool, search: tuple[float, float], cut_off: bool) -> str:
    words = []
    if at_edge:
        words.append(f"at the edge of the search range {search[0]:g} to {search[1]:g}: widen it")
    if uncertainty > SURE_WITHIN:
        words.append("not sure: try other rows, or give the centre")
    if cut_off:
        words.append("the object is wider than the detector")
    return "; ".join(words)


def _is_cut_off(stack: NDArray) -> bool:
    left, right = (np.abs(np.median(end, axis=(1, 2))) for end in (stack[..., :4], stack[..., -4:]))
    level = np.maximum(left, right)
    return bool(np.median(level / np.percentile(np.abs(stack), 99, axis=(1, 2))) > CUT_OFF_SHARE)


def _windowed(
    row: NDArray, centre: float | None = None, share: float = 0.02
) -> tuple[NDArray, float, float]:
    """Cut a sinogram to a window about the axis, or leave its width, and taper the ends.

    Gives it with the window's half width and the taper's length, a share of its width.
    """
    columns = row.shape[1]
    if centre is None:
        low, high = -0.5, columns - 0.5
    else:
        half = min(centre, columns - 1 - centre) + 0.5
        low, high = centre - half, centre + half
    taper = share * (high - low)
    u = np.arange(columns)
    ramp = np.clip(np.minimum(u - low, high - u) / taper, 0, 1)
    level = np.median(np.concatenate([row[:, :4], row[:, -4:]], axis=1))
    weight = (0.5 - 0.5 * np.cos(np.pi * ramp)).astype(np.float32)
    return (row - level) * weight, (high - low) / 2, taper


def _outside_wedge(row: NDArray, centre: float | None = None, share: float = 0.02) -> _Mismatch:
    """Measure what a half turn (views, columns) and its mirror have outside the double wedge."""
    views, columns = row.shape
    tapered, radius, taper = _windowed(row, centre, share)
    # Twice the detector: exp(2iωc) must not bring the mirror back at the other end.
    length = scipy.fft.next_fast_len(2 * columns, real=True)
    spectra = scipy.fft.rfft(tapered, length, axis=1)
    omega = 2 * np.pi * np.arange(spectra.shape[1]) / length
    seen = omega < views / radius  # above, the wedge fills all angular frequencies
    omega = omega[seen]
    g = scipy.fft.fft(spectra[:, seen], 2 * views, axis=0)
    n = np.arange(1, views)
    # A window that cuts the object blurs along ω and so widens the wedge.
    blur = np.pi / taper if share == CUT_OFF_TAPER else 0.0
    outside = n[:, None] > radius * (omega + blur) + 2
    plus, minus = g[1:views], g[:views:-1]
    sign = np.where(n % 2 == 0, 1.0, -1.0)[:, None]
    product = np.sum(sign * outside * plus * minus, axis=0, dtype=np.complex128)
    energy = np.abs(plus) ** 2 + np.abs(minus) ** 2
    constant = np.sum(outside * energy, axis=0, dtype=np.float64)
    scatter = np.sqrt(2 * np.sum(outside * np.abs(plus * minus) ** 2, dtype=np.float64))
    # n and −n make the same sum.
    return _Mismatch(omega, product, constant, max(1, 2 * int(outside.sum())), float(scatter))


def _opposite_views(row: NDArray) -> _Mismatch:
    """Compare each view of a full turn (views, columns) with its opposite, mirrored."""
    half = len(row) // 2
    tapered, _, _ = _windowed(row)
    length = scipy.fft.next_fast_len(2 * row.shape[1], real=True)
    spectra = scipy.fft.rfft(tapered, length, axis=1)
    here, there = spectra[:half], spectra[half:]
    product = -np.sum(here * there, axis=0, dtype=np.complex128)
    constant = np.sum(np.abs(here) ** 2 + np.abs(there) ** 2, axis=0, dtype=np.float64)
    scatter = np.sqrt(2 * np.sum(np.abs(here * there) ** 2, dtype=np.float64))
    omega = 2 * np.pi * np.arange(spectra.shape[1]) / length
    return _Mismatch(omega, product, constant, half * row.shape[1], float(scatter))


def _best_overlap(stack: NDArray, low: float, high: float) -> tuple[float, float]:
    """Find where opposite views, mirrored, correlate best in what both of them show.

    Correlation over the overlap alone (Padfield, IEEE TIP 21, 2012), so that an axis at the
    side of the detector is found too. Gives the centre and its uncertainty.
    """
    twice = np.arange(int(np.ceil(2 * low)), int(2 * high) + 1)
    heights = np.zeros((len(stack), len(twice)))
    for row, height in zip(stack, heights, strict=True):
        height[:] = _overlap_mismatch(row, twice)
    total = heights.sum(axis=0)
    best = int(np.argmin(total))
    near = np.arange(max(0, best - 4), min(len(twice), best + 5))
    places = (twice[near] - twice[best]) / 2
    (a, b, _), residual, *_ = np.polyfit(places, total[near], 2, full=True)
    if not a > 0 or len(near) < 5:
        return float(twice[best] / 2), float("inf")
    # What the parabola leaves over is the noise on its slope.
    slope = np.sqrt(residual.sum() / (len(near) - 3) / np.sum(places**2))
    rows = np.polyfit(places, heights[:, near].T, 2)
    spread = np.std(rows[1] / a / 2) * np.sqrt(len(stack) / max(1, len(stack) - 1) * len(stack))
    noise = slope / (2 * a)
    # Chance correlations are as high as this where a tenth of the detector overlaps.
    pixels = stack.shape[1] // 2 * stack.shape[2]
    alike = 1 - np.exp(2 * total[best] / pixels / len(stack))
    if alike < ABOVE_CHANCE / np.sqrt(0.1 * pixels):
        noise = float("inf")
    value = twice[best] / 2 + np.clip(-b / (2 * a), -1, 1)
    return float(value), float(np.hypot(noise, spread))


def _overlap_mismatch(row: NDArray, twice: NDArray) -> NDArray[np.float64]:
    """Give −log likelihood of the centres `twice` / 2 for one full turn (views, columns)."""
    half, columns = len(row) // 2, row.shape[1]
    level = float(row.mean(dtype=np.float64))
    here, there = (part.astype(np.float64) - level for part in (row[:half], row[half : 2 * half]))
    length = scipy.fft.next_fast_len(2 * columns, real=True)

    def overlapping(a: NDArray, b: NDArray) -> NDArray:
        product = scipy.fft.rfft(a, length) * scipy.fft.rfft(b, length)
        return scipy.fft.irfft(product.sum(axis=0), length)[twice]

    ones = np.ones((1, columns))
    count = half * overlapping(ones, ones)
    sum_a, square_a, sum_b, square_b = (
        overlapping(part.sum(axis=0, keepdims=True), ones)
        for part in (here, here**2, there, there**2)
    )
    variance = (square_a - sum_a**2 / count) * (square_b - sum_b**2 / count)
    floor = 1e-12 * np.max(variance) + 1e-300
    alike = (overlapping(here, there) - sum_a * sum_b / count) / np.sqrt(
        np.maximum(variance, floor)
    )
    # Not weighted by the overlap, which would draw the centre to the middle.
    return 0.5 * half * columns * np.log(np.maximum(1 - alike, 1e-12))


def _log_likelihood(terms: Sequence[_Mismatch], centres: NDArray, power: int = 0) -> NDArray:
    """Give −log likelihood: each row's energy is noise of a variance that is not known."""
    return sum(0.5 * term.terms * np.log(term(centres, power)) for term in terms)


def _vertex(terms: Sequence[_Mismatch], value: float, power: int = 0) -> tuple[float, float]:
    """Give the lowest point near `value` by a parabola, and its standard deviation."""
    near = value + np.linspace(-1, 1, 81)
    heights = _log_likelihood(terms, near, power)
    value = near[np.argmin(heights)]
    step = 0.1
    below, here, above = _log_likelihood(terms, value + step * np.array([-1, 0, 1]), power)
    curvature = (below - 2 * here + above) / step**2
    if not curvature > 0:
        return float(value), float("inf")
    return float(value - (above - below) / (2 * step) / curvature), float(curvature**-0.5)


def _refined(terms: Sequence[_Mismatch], value: float) -> tuple[float, float]:
    """Give the centre and its uncertainty from noise, weightings and the spread of the rows."""
    centre, noise = _vertex(terms, value)
    sharp, _ = _vertex(terms, value, power=1)
    spread = 0.0
    if len(terms) > 1:
        rows = np.array([_vertex([term], value) for term in terms])
        sure = np.isfinite(rows[:, 1])
        if sure.any():
            weight = 1 / np.maximum(rows[sure, 1], 1e-3) ** 2
            deviation = np.average((rows[sure, 0] - centre) ** 2, weights=weight)
            spread = float(np.sqrt(deviation / max(1, sure.sum() - 1)))
    mirrored = [(t.constant.sum() - t(np.array([centre]))[0]) / t.scatter for t in terms]
    if not np.isfinite(noise) or np.max(mirrored) < ABOVE_CHANCE:
        return float(value), float("inf")
    return centre, float(np.hypot(noise, np.hypot(spread, (sharp - centre) / 2)))


def _by_mass(stack: NDArray, angles: NDArray, search: tuple[float, float]) -> CentreEstimate:
    """Fit the path of the centre of mass, c + x cos θ + y sin θ (Helgason-Ludwig)."""
    if np.ptp(angles) < np.pi / 3:
        raise InputError(
            f"find_centre: the views cover {np.degrees(np.ptp(angles)):.0f}°; 60° or more are "
            "needed. Give the centre."
        )
    columns = stack.shape[2]
    level = np.median(np.concatenate([stack[..., :4], stack[..., -4:]], axis=2), axis=(1, 2))
    clean = stack - level[:, None, None]
    mass = clean.sum(axis=2)
    path = (clean * np.arange(columns)).sum(axis=2) / np.where(mass == 0, 1, mass)
    path = np.median(path, axis=0)
    design = np.stack([np.ones_like(angles), np.cos(angles), np.sin(angles)], axis=1)
    fit = np.linalg.lstsq(design, path, rcond=None)[0]
    variance = np.sum((path - design @ fit) ** 2) / max(1, len(angles) - 3)
    uncertainty = float(np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])) + 0.25
    low, high = search
    at_edge = bool(fit[0] <= low or fit[0] >= high)
    cut_off = _is_cut_off(stack)
    if cut_off:
        uncertainty = max(uncertainty, 0.05 * columns)
    value = float(np.clip(fit[0], low, high))
    return CentreEstimate(
        value, uncertainty, at_edge, "centre of mass", _note(uncertainty, at_edge, search, cut_off)
    )
