"""Tiles: drawn at random for training, laid out by rule for inference.

A training tile is a pure function of (seed, epoch, index), so that a run that is stopped in
the middle of an epoch goes on with exactly the tiles that it would have seen.

Inference tiles start on multiples of the network's stride and carry a halo no smaller than
its reach, of which only the inside is kept: each pixel then comes from the same arithmetic as
in the whole slice, so that tiles need no blending.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_srct.errors import InputError

Window = tuple[slice, slice]


@dataclass(frozen=True)
class TrainingTile:
    """One tile: where it is cut, and how it is turned (mirrored first, then turned)."""

    slice_index: int
    y: int
    x: int
    side: int
    mirrored: bool = False
    quarter_turns: int = 0

    @property
    def window(self) -> Window:
        """Lines and columns of the slice."""
        return slice(self.y, self.y + self.side), slice(self.x, self.x + self.side)

    def turn(self, pixels: np.ndarray) -> np.ndarray:
        """Mirror and turn what was cut; the last two axes are (y, x)."""
        if self.mirrored:
            pixels = np.flip(pixels, axis=-1)
        turned = np.rot90(pixels, self.quarter_turns, axes=(-2, -1))
        return np.ascontiguousarray(turned)


@dataclass(frozen=True)
class TileSampler:
    """Draws the training tiles of one store.

    Attributes
    ----------
    n_slices : int
    size : tuple of int
        Height and width of a slice.
    side : int
        Side of a tile, in pixels.
    per_slice : int
        Tiles drawn from each slice in an epoch.
    seed : int
    augment : bool
        Mirror and turn at random.
    field_of_view : float or None
        Radius in pixels; tiles have their middle inside it, because the corners of a slice
        were not seen by every view.

    Raises
    ------
    InputError
        The tile is larger than the slices.
    """

    n_slices: int
    size: tuple[int, int]
    side: int
    per_slice: int = 1
    seed: int = 0
    augment: bool = True
    field_of_view: float | None = None

    def __post_init__(self) -> None:
        if self.side < 1 or self.side > min(self.size):
            raise InputError(
                f"tiles.size: a tile of {self.side} does not fit slices of"
                f" {self.size[0]} × {self.size[1]} pixels; choose at most {min(self.size)}."
            )

    def __len__(self) -> int:
        """Tiles in an epoch."""
        return self.n_slices * self.per_slice

    def order(self, epoch: int) -> np.ndarray:
        """Give the slice of each tile of an epoch: every slice `per_slice` times, shuffled."""
        generator = np.random.default_rng([self.seed, epoch])
        return generator.permutation(np.repeat(np.arange(self.n_slices), self.per_slice))

    def draw(self, epoch: int, index: int, slice_index: int | None = None) -> TrainingTile:
        """Draw tile `index` of an epoch.

        Parameters
        ----------
        epoch, index
            Which tile; together with the seed they decide everything.
        slice_index
            Its slice where `order` was asked already (it is the costly half); else
            ``order(epoch)[index]``.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"no tile {index} in an epoch of {len(self)}")
        if slice_index is None:
            slice_index = int(self.order(epoch)[index])
        generator = np.random.default_rng([self.seed, epoch, index])
        y, x = self._corner(generator)
        mirrored, turns = False, 0
        if self.augment:
            mirrored, turns = bool(generator.integers(2)), int(generator.integers(4))
        return TrainingTile(int(slice_index), y, x, self.side, mirrored, turns)

    def _corner(self, generator: np.random.Generator) -> tuple[int, int]:
        height, width = self.size
        for _ in range(32):
            y = int(generator.integers(height - self.side + 1))
            x = int(generator.integers(width - self.side + 1))
            if self.field_of_view is None:
                break
            off_y = y + (self.side - height) / 2
            off_x = x + (self.side - width) / 2
            if np.hypot(off_y, off_x) <= self.field_of_view:
                break
        return y, x


@dataclass(frozen=True)
class InferenceTile:
    """One tile of a slice.

    Attributes
    ----------
    read : Window
        What the network is given.
    keep : Window
        What of the slice this tile decides.
    """

    read: Window
    keep: Window

    @property
    def inside(self) -> Window:
        """`keep`, counted from the corner of `read`."""
        return tuple(
            slice(keep.start - read.start, keep.stop - read.start)
            for read, keep in zip(self.read, self.keep, strict=True)
        )


def inference_tiles(
    size: tuple[int, int], tile: int | None, stride: int, reach: int
) -> list[InferenceTile]:
    """Cover a slice with tiles whose results fit without a seam.

    Parameters
    ----------
    size
        Height and width of the slice.
    tile
        Largest side that the network may be given; None, or more than the slice: whole lines
        or columns in one piece.
    stride
        Product of the network's down-samplings: tiles start on multiples of it.
    reach
        How many pixels away an input pixel can change an output pixel.

    Returns
    -------
    list of InferenceTile
        Every pixel of the slice is kept by exactly one.

    Raises
    ------
    InputError
        The tile leaves nothing inside its halo.
    """
    if stride < 1 or reach < 0:
        raise ValueError(f"stride {stride} and reach {reach}: expected at least 1 and 0")
    rows, columns = (_cut(length, tile, stride, reach) for length in size)
    return [
        InferenceTile((read_y, read_x), (keep_y, keep_x))
        for read_y, keep_y in rows
        for read_x, keep_x in columns
    ]


def step_and_halo(tile: int, stride: int, reach: int) -> tuple[int, int]:
    """Give what a tile keeps, and what surrounds it on each side.

    Raises
    ------
    InputError
        The tile leaves nothing inside its halo.
    """
    halo = -(-reach // stride) * stride
    step = (tile - 2 * halo) // stride * stride
    if step < stride:
        raise InputError(
            f"tile: {tile} pixels leave nothing inside the halo of {halo} on each side;"
            f" choose at least {2 * halo + stride}, or none for whole slices."
        )
    return step, halo


def _cut(length: int, tile: int | None, stride: int, reach: int) -> list[tuple[slice, slice]]:
    if tile is None or tile >= length:
        return [(slice(0, length), slice(0, length))]
    step, halo = step_and_halo(tile, stride, reach)
    side = step + 2 * halo
    pieces = []
    for start in range(0, length, step):
        stop = min(start + side, length)
        last = stop == length
        kept = slice(0 if start == 0 else start + halo, length if last else stop - halo)
        pieces.append((slice(start, stop), kept))
        if last:
            break
    return pieces
