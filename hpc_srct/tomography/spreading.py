"""Spreading samples on a grid and interpolating them from it, for several slices at once.

The inner loops of `gridding`, compiled by numba when first called and kept on disk. What
depends on a sample alone (its place, its weights) is worked out once for all the slices that
lie side by side in `lanes`: a weight is multiplied with all of them in one vector instruction.
Samples are put in the order of their places here, and images cut from the transformed grid.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from hpc_srct.tomography.compiling import jit

# A place within a grid step is a 16-bit number; its upper bits choose a line of the table of
# weights, between that and the next the lower ones interpolate.
STEPS = 1 << 16
TABLE = 1 << 10
_SHIFT, _REST = 6, 63
_PART = np.float32(1 / 64)


@intrinsic
def _add_scaled(typing, lanes, target, at, weight, source, start):  # type: ignore[no-untyped-def]
    """Do target[at : at + n] += weight · source[start : start + n] as one vector, n = len(lanes).

    LLVM does not make vectors of a loop this short by itself.
    """
    vector = ir.VectorType(ir.FloatType(), lanes.count)
    signature = types.void(lanes, target, types.intp, types.float32, source, types.intp)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        def pointer(array: int, place: int) -> Any:
            make = context.make_array(signature.args[array])
            data = make(context, builder, arguments[array]).data
            return builder.bitcast(builder.gep(data, [arguments[place]]), vector.as_pointer())

        to, of = pointer(1, 2), pointer(4, 5)
        any_value = ir.Constant(vector, ir.Undefined)
        first = ir.Constant(ir.IntType(32), 0)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes.count), [0] * lanes.count)
        one = builder.insert_element(any_value, arguments[3], first)
        weights = builder.shuffle_vector(one, any_value, everywhere)
        product = builder.fmul(weights, builder.load(of, align=4), flags=["contract"])
        total = builder.fadd(builder.load(to, align=4), product, flags=["contract"])
        builder.store(total, to, align=4)
        return context.get_dummy_value()

    return signature, generate


@partial(jit, inline="always")
def _weigh(step, table, width, weights):  # type: ignore[no-untyped-def]
    row = (np.intp(step) >> _SHIFT) * width
    part = np.float32(step & _REST) * _PART
    for k in range(width):
        here, there = table[row + k], table[row + width + k]
        weights[k] = here + part * (there - here)


@jit
def spread(lanes, samples, sources, places, down, along, table, width, stride, grid):  # type: ignore[no-untyped-def]
    """Add samples to a strip of the grid.

    Parameters
    ----------
    lanes
        A tuple, whose length is the number of floats of one sample: part of its type, so that
        each is compiled for itself.
    samples
        (all samples × lanes,) float32.
    sources
        (points,), which sample.
    places
        (points,), the strip's point (row × stride + column) of the first neighbour.
    down, along
        (points,) uint16, how far the first neighbour is from where the kernel begins.
    table
        ((TABLE + 1) × width,) float32, the weights of the neighbours.
    width
        Neighbours along each axis.
    stride
        Points in a row of the strip.
    grid
        (rows × stride × lanes,) float32, added to.
    """
    n = len(lanes)
    across = np.empty(width, np.float32)
    upright = np.empty(width, np.float32)
    for i in range(len(sources)):
        sample = np.intp(sources[i]) * n
        point = np.intp(places[i]) * n
        _weigh(along[i], table, width, across)
        _weigh(down[i], table, width, upright)
        for b in range(width):
            for a in range(width):
                _add_scaled(lanes, grid, point + a * n, upright[b] * across[a], samples, sample)
            point += stride * n


@jit
def interpolate(lanes, samples, sources, places, down, along, table, width, stride, grid):  # type: ignore[no-untyped-def]
    """Set samples to what lies there on the grid: the transpose of `spread`, term by term."""
    n = len(lanes)
    across = np.empty(width, np.float32)
    upright = np.empty(width, np.float32)
    total = np.empty(n, np.float32)
    for i in range(len(sources)):
        point = np.intp(places[i]) * n
        _weigh(along[i], table, width, across)
        _weigh(down[i], table, width, upright)
        total[:] = 0
        for b in range(width):
            for a in range(width):
                weight = upright[b] * across[a]
                _add_scaled(lanes, total, 0, weight, grid, point + a * n)
            point += stride * n
        sample = np.intp(sources[i]) * n
        for k in range(n):
            samples[sample + k] = total[k]


@jit
def locate(axis, grid, width, firsts, steps):  # type: ignore[no-untyped-def]
    """Find the first neighbour of points along one axis, and how far it is from the kernel's end.

    Parameters
    ----------
    axis
        (points,) float64, angular frequencies from −π to π.
    grid, width
        Points of the grid along this axis, and neighbours.
    firsts, steps
        (points,) int32 and uint16, to be written.
    """
    scale = grid / (2 * np.pi)
    for i in range(len(axis)):
        begin = axis[i] * scale - width / 2
        first = np.ceil(begin)
        steps[i] = min(np.rint((first - begin) * STEPS), STEPS - 1)
        # No division: half the grid and the kernel together are less than the grid.
        firsts[i] = first + grid if first < 0 else first


@jit
def count(rows, beyond, over, strip, counts):  # type: ignore[no-untyped-def]
    """Count the points of each strip; those `beyond` a row wrap round and fall in the first too."""
    for i in range(len(rows)):
        counts[(rows[i] + over) // strip] += 1
        if rows[i] > beyond:
            counts[0] += 1


@jit
def put_in_order(source, rows, columns, steps, shift, least, strip, stride, ends, order):  # type: ignore[no-untyped-def]
    """Put points into their strips, in the order they come.

    Parameters
    ----------
    source
        The number of the first of them.
    rows, columns
        (points,) int32, the grid's point of the first neighbour.
    steps
        Two arrays (points,), `locate`'s, kept with them.
    shift, least
        What is added to a row; points whose row is below `least` are left out.
    strip, stride
        Rows of a strip, points in a row of it.
    ends
        (strips,), where the next point of each goes: moved on.
    order
        Sources, places and steps of all points, strip after strip: written.
    """
    sources, places, down, along = order
    for i in range(len(rows)):
        if rows[i] >= least:
            row = rows[i] + shift
            at = ends[row // strip]
            ends[row // strip] = at + 1
            sources[at] = source + i
            places[at] = (row % strip) * stride + columns[i]
            down[at] = steps[0][i]
            along[at] = steps[1][i]


@jit
def cut_rows(rows, correction, first, half):  # type: ignore[no-untyped-def]
    """Take an image's columns from rows transformed along themselves.

    Parameters
    ----------
    rows
        (rows, grid, pairs) complex64; the image's middle column comes first, and its first
        ones last.
    correction
        (size,) float32, by which each column is multiplied.
    first
        Row of `half` where these begin.
    half
        (pairs, grid, size) complex64, written.
    """
    pairs, _, size = half.shape
    middle = size // 2
    end = rows.shape[1] - middle
    for row in range(len(rows)):
        for pair in range(pairs):
            to = half[pair, first + row]
            for x in range(middle):
                to[x] = rows[row, end + x, pair] * correction[x]
            for x in range(middle, size):
                to[x] = rows[row, x - middle, pair] * correction[x]


@jit
def cut_columns(columns, correction, constants, first, images):  # type: ignore[no-untyped-def]
    """Take an image's rows, and one or two images, from columns transformed along themselves.

    Parameters
    ----------
    columns
        (grid, 2 × columns) float32, real and imaginary parts; rows in the order of `cut_rows`.
    correction
        (size,) float32, by which each row is multiplied.
    constants
        (2,) float32, added to the images.
    first
        Column of the images where these begin.
    images
        (1 or 2, size, size) float32, written.
    """
    size = images.shape[1]
    middle = size // 2
    end = len(columns) - middle
    for part in range(len(images)):
        for y in range(size):
            line = columns[y - middle if y >= middle else end + y]
            to = images[part, y, first : first + len(line) // 2]
            for x in range(len(to)):
                to[x] = line[2 * x + part] * correction[y] + constants[part]


def weights_table(kernel: Callable[[NDArray[np.float64]], NDArray], width: int) -> NDArray:
    """Sample a kernel of a `width` for `spread`: line i is for a first neighbour i/TABLE in."""
    inside = np.arange(TABLE + 1) / TABLE
    distance = inside[:, None] + np.arange(width) - width / 2
    return kernel(distance).astype(np.float32).ravel()
