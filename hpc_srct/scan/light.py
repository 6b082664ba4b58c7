"""How much light flats have above the darks, to tell those taken with the shutter closed.

A few frames and rows are looked at, the same ones in every process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpc_srct.scan.stack import Constant, Stack

if TYPE_CHECKING:
    from hpc_srct.scan.assemble import GroupAt

# Flats with less light than this share of the brightest were taken in the dark.
LEAST_SHARE = 0.1
_ROWS, _FRAMES = 8, 3  # and so many groups of darks
_COLUMNS = 16  # the median over so many does not mind a hot pixel


def light_of(flats: Sequence[GroupAt], darks: Sequence[GroupAt]) -> np.ndarray:
    """Say how bright groups of flats are.

    Parameters
    ----------
    flats, darks
        Of one detector region. Without darks, zero is taken for them.

    Returns
    -------
    ndarray, shape (len(flats),)
        Mean counts above dark; 0 throughout where none is brighter than the darks' own noise.
    """
    n_rows = flats[0].stack.n_rows
    few = np.unique(np.linspace(0, n_rows - 1, _ROWS + 2)[1:-1].astype(int))
    light = _light(flats, darks, few)
    # A beam lower than the detector may miss these rows.
    return light if light.any() else _light(flats, darks, np.arange(n_rows))


def _light(flats: Sequence[GroupAt], darks: Sequence[GroupAt], rows: np.ndarray) -> np.ndarray:
    dark, noise = np.float32(0), 0.0
    if darks:
        some = [darks[i] for i in _spread(len(darks))]
        frames = np.concatenate([_sample(group.stack, group.frames, rows) for group in some])
        dark = np.median(frames, axis=0)
        if len(frames) > 1:
            noise = float(np.median(frames.std(axis=0, ddof=1)))
    beams = [np.median(_sample(g.stack, g.frames, rows), axis=0) - dark for g in flats]
    light = np.array([_typical(beam) for beam in beams])
    return light if light.max() > noise else np.zeros(len(flats))


def _typical(beam: np.ndarray) -> float:
    """Take the mean over blocks of columns of their medians."""
    starts = range(0, beam.shape[1], _COLUMNS)
    return float(np.mean([np.median(beam[:, s : s + _COLUMNS], axis=1) for s in starts]))


def _sample(stack: Stack | Constant, frames: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Read some rows of some frames as float32, what is not a number as 0."""
    chosen = frames[_spread(len(frames))]
    if stack.chunk_rows * len(rows) >= stack.n_rows:
        found = stack.read(chosen, slice(None))[:, rows]
    else:
        parts = [stack.read(chosen, slice(int(row), int(row) + 1)) for row in rows]
        found = np.concatenate(parts, axis=1)
    return np.nan_to_num(found.astype(np.float32), nan=0, posinf=0, neginf=0)


def _spread(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, _FRAMES).astype(int))
