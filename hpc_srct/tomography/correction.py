"""From counts to line integrals: flat and dark fields, dead pixels, floor and logarithm."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import median_filter

from hpc_srct.errors import InputError

# −ln 1e-3 = 6.9: little light comes through more than that, and what comes is mostly noise.
FLOOR = 1e-3
# A pixel with less beam than this share of its row's median is dead: its ratio is noise alone.
DEAD_SHARE = 1e-3
# So is one with less than this share of its neighbours': read noise alone can pass for 0.1 %, and
# a beam can fade to a few percent, but not from one column to the next.
DIM_SHARE = 0.03
# A pixel is hot, and no measure of light, if its dark is above its neighbours' by this share of
# the row's beam: it saturates in flat and frame alike, and would read as air.
HOT_SHARE = 0.5
NEIGHBOURS = 31  # columns
# Values that are corrected at once: with flats and dark they are 1 MiB, a processor's own cache.
AT_ONCE = 1 << 16
# A normal number; no settings ask for a floor below.
LEAST = np.finfo(np.float32).tiny


def median_frame(frames: ArrayLike) -> NDArray[np.float32]:
    """Take the median over frames (k, rows, columns), which no single zinger can move."""
    frames = np.asarray(frames)
    if frames.ndim != 3 or len(frames) == 0:
        raise InputError(f"frames: expected (frames, rows, columns), found {frames.shape}.")
    return np.median(frames, axis=0).astype(np.float32)


def dead_pixels(flat: ArrayLike, dark: ArrayLike) -> NDArray[np.bool_]:
    """Mark the pixels that see no beam, and hot ones, which see little else than themselves.

    No beam: the flat is equal to the dark, below it, hardly above it, or not a number.

    Parameters
    ----------
    flat
        (rows, columns) or (groups, rows, columns), counts.
    dark
        (rows, columns), counts.

    Returns
    -------
    ndarray (rows, columns) of bool
        True where any group has no beam, and where the dark is hot. Judged row by row, so that
        the answer does not depend on which rows are looked at together.
    """
    dark = np.asarray(dark, np.float32)
    beam = np.asarray(flat, np.float32).reshape(-1, *dark.shape) - dark
    lit = np.where(np.isfinite(beam) & (beam > 0), beam, np.nan)
    with np.errstate(invalid="ignore"):
        usual = _nan_median(lit)
        dead = ~(lit > DEAD_SHARE * usual[..., None]).all(axis=0)
    light, dark = np.nan_to_num(lit), np.nan_to_num(dark)
    for row, marked in enumerate(dead):
        for own in light[:, row]:
            if own.min() < DIM_SHARE * own.max():
                marked |= own < DIM_SHARE * median_filter(own, NEIGHBOURS)
        much, own = HOT_SHARE * usual[:, row].max(), dark[row]
        if own.max() - own.min() > much > 0:
            marked |= own - median_filter(own, NEIGHBOURS) > much
    return dead


def _nan_median(lit: NDArray) -> NDArray:
    # np.nanmedian warns on rows without a single number; those are dead throughout.
    empty = np.isnan(lit).all(axis=-1)
    return np.nanmedian(np.where(empty[..., None], 0, lit), axis=-1)


def transmission(
    frames: NDArray,
    flat: ArrayLike,
    dark: ArrayLike,
    *,
    floor: float = FLOOR,
    flat_positions: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    dead: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Divide what came through the sample by what would have come without it.

    (frame − dark) / (flat − dark), with dead pixels mended from the nearest live ones in their
    row and values below the floor raised to it, so that a pixel that saw nothing reads as
    dense, never as air.

    Parameters
    ----------
    frames
        (views, rows, columns), counts of any type.
    flat
        (rows, columns); or (groups, rows, columns) with `flat_positions`.
    dark
        (rows, columns), counts.
    floor
        Least transmission, above 0.
    flat_positions, positions
        Where in the scan the groups of flats (groups,) and these frames (views,) were taken,
        on one scale. Between two groups the flat is interpolated; before the first and after
        the last it is the nearest group's.
    dead
        What `dead_pixels` says of these flats, where it is known already.

    Returns
    -------
    transmission : ndarray (views, rows, columns), float32
        A row without a single live pixel is NaN.
    clipped : ndarray (rows,), int64
        How many values in each row were raised to the floor.

    Raises
    ------
    InputError
        Shapes that do not fit, a floor that is not above 0, several flats without positions.
    """
    out = np.empty(np.shape(frames), np.float32)
    return out, _correct(frames, flat, dark, floor, flat_positions, positions, dead, out, False)


def line_integrals(
    frames: NDArray,
    flat: ArrayLike,
    dark: ArrayLike,
    *,
    floor: float = FLOOR,
    flat_positions: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    dead: NDArray[np.bool_] | None = None,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Turn counts into line integrals: −ln of the `transmission`, at one go.

    Parameters and errors are those of `transmission`; `out` is where to write, (views, rows,
    columns) float32, with any strides.

    Returns
    -------
    integrals : ndarray (views, rows, columns), float32
        A row without a single live pixel is NaN.
    clipped : ndarray (rows,), int64
        How many values in each row were raised to the floor.
    """
    out = np.empty(np.shape(frames), np.float32) if out is None else out
    return out, _correct(frames, flat, dark, floor, flat_positions, positions, dead, out, True)


def _correct(
    frames: NDArray,
    flat: ArrayLike,
    dark: ArrayLike,
    floor: float,
    flat_positions: ArrayLike | None,
    positions: ArrayLike | None,
    dead: NDArray[np.bool_] | None,
    out: NDArray[np.float32],
    logarithm: bool,
) -> NDArray[np.int64]:
    """Write what `transmission` or `line_integrals` gives; say how much was clipped."""
    from hpc_srct.tomography.correcting import correct  # late: it loads numba

    frames = np.asarray(frames)
    flats = np.asarray(flat, np.float32)
    dark = np.ascontiguousarray(dark, np.float32)
    if not floor > 0:
        raise InputError(f"floor {floor}: expected a transmission above 0.")
    if frames.ndim != 3 or dark.shape != frames.shape[1:] or flats.shape[-2:] != dark.shape:
        raise InputError(
            f"frames {frames.shape}, flat {flats.shape}, dark {dark.shape}: expected "
            "(views, rows, columns) and (rows, columns) twice."
        )
    flats = flats.reshape(-1, *dark.shape)
    if len(flats) > 1 and (flat_positions is None or positions is None):
        raise InputError(f"{len(flats)} groups of flats: expected flat_positions and positions.")
    n_views, n_rows, n_columns = frames.shape
    if len(flats) > 1:
        first, share = _between(np.asarray(flat_positions, float), np.asarray(positions, float))
    else:
        flats = np.broadcast_to(flats, (2, *dark.shape))
        first, share = np.zeros(n_views, np.int64), np.zeros(n_views)
    dead = dead_pixels(flats, dark) if dead is None else dead
    share, floor = share.astype(np.float32), max(np.float32(floor), LEAST)
    clipped = np.zeros(n_rows, np.int64)
    height = max(1, AT_ONCE // max(n_columns, 1))
    room = np.empty((min(height, n_rows), n_columns), np.float32)
    # A few rows of every view in turn: their flats and dark stay in the processor's cache.
    for top in range(0, n_rows, height):
        rows = slice(top, min(top + height, n_rows))
        beam = np.ascontiguousarray(np.where(dead[rows], np.nan, flats[:, rows] - dark[rows]))
        work = room[: rows.stop - top]
        for view in range(n_views):
            before, after = beam[first[view]], beam[first[view] + 1]
            np.copyto(work, frames[view, rows])
            correct(work, dark[rows], before, after, share[view], floor, logarithm, clipped[rows])
            np.copyto(out[view, rows], work)
    return clipped


def minus_log(transmission: NDArray, out: NDArray | None = None) -> NDArray[np.float32]:
    """Turn transmissions into line integrals of attenuation, −ln t.

    Parameters
    ----------
    transmission
        Any shape; above 0, or NaN, which stays NaN.
    out
        Where to write; may be the input itself.

    Raises
    ------
    InputError
        A value of 0 or below: `transmission` has not gone through the floor.
    """
    # NaN hides what is beside it from the quick way to look.
    lowest = np.min(transmission, initial=1.0)
    if np.isnan(lowest):
        lowest = np.fmin.reduce(transmission, axis=None, initial=1.0)
    if not lowest > 0:
        raise InputError(
            f"minus_log: expected transmissions above 0, found {np.nanmin(transmission)}."
        )
    out = np.empty(transmission.shape, np.float32) if out is None else out
    for given, made in zip(np.atleast_2d(transmission), np.atleast_2d(out), strict=True):
        np.log(given, out=made, dtype=np.float32)
        np.negative(made, out=made)
    return out


def _between(groups: NDArray, positions: NDArray) -> tuple[NDArray[np.int64], NDArray]:
    """Say after which group each position lies, and how far on the way to the next (0..1)."""
    if (np.diff(groups) <= 0).any():
        raise InputError(f"flat_positions {groups.tolist()}: expected rising positions.")
    first = np.clip(np.searchsorted(groups, positions, side="right") - 1, 0, len(groups) - 2)
    share = (positions - groups[first]) / (groups[first + 1] - groups[first])
    return first, np.clip(share, 0.0, 1.0)
