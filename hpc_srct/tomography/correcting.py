"""The inner loops of `correction`, compiled by numba when first called and kept on disk.

A row is taken from counts to line integrals while it lies in the processor's first cache. The
logarithm is written out here: what a loop calls cannot be made a vector instruction, and numpy's
takes three times as long and is off by up to 4 units in the last place near a transmission of 1.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from hpc_srct.tomography.compiling import jit

_NAN, _LARGEST = np.float32(np.nan), np.finfo(np.float32).max
_ONE, _HALF = np.float32(1), np.float32(0.5)
# ln 2 in two parts: a power of two times the first is exact.
_LN2, _LN2_REST = np.float32(0.693359375), np.float32(-2.12194440e-4)
# ln(1 + f) = f − f²/2 + f³ p(f) for √½ ≤ 1 + f < √2: Cephes' logf (Moshier 1992), which is right
# to 0.83 units in the last place.
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7, _P8 = (
    np.float32(p)
    for p in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
)


@intrinsic
def _split(typing, value):  # type: ignore[no-untyped-def]
    """Write a normal float32 above 0 as m · 2ᵏ, √½ ≤ m < √2; give m and k, both float32."""
    signature = types.UniTuple(types.float32, 2)(types.float32)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        word, real = ir.IntType(32), ir.FloatType()
        bits = builder.bitcast(arguments[0], word)
        root_half = word(int(np.sqrt(np.float32(0.5)).view(np.int32)))
        power = builder.ashr(builder.sub(bits, root_half), word(23))
        rest = builder.sub(bits, builder.shl(power, word(23)))
        both = [builder.bitcast(rest, real), builder.sitofp(power, real)]
        return context.make_tuple(builder, signature.return_type, both)

    return signature, generate


@partial(jit, fastmath={"contract"})
def _minus_log(value):  # type: ignore[no-untyped-def]
    m, k = _split(value)
    f = m - _ONE
    p = ((((_P0 * f + _P1) * f + _P2) * f + _P3) * f + _P4) * f + _P5
    p = ((p * f + _P6) * f + _P7) * f + _P8
    square = f * f
    rest = f * square * p + k * _LN2_REST - _HALF * square
    return -(k * _LN2 + (f + rest))


@jit
def _divide(line, dark, before, after, share):  # type: ignore[no-untyped-def]
    """Set counts to transmissions; say whether all of them are finite."""
    strange = np.int32(0)
    for i in range(line.size):
        beam = before[i] + share * (after[i] - before[i])
        passed = (line[i] - dark[i]) / beam
        line[i] = passed
        strange = np.int32(strange + np.int32(not abs(passed) <= _LARGEST))
    return strange == 0


@jit
def _mend(line):  # type: ignore[no-untyped-def]
    """Fill what is not finite from the nearest that is: between two on a line, or as the one.

    Say whether there is any; where there is none all are NaN.
    """
    first = 0
    while first < line.size:
        if abs(line[first]) <= _LARGEST:
            first += 1
            continue
        stop = first + 1
        while stop < line.size and not abs(line[stop]) <= _LARGEST:
            stop += 1
        lower = line[first - 1] if first > 0 else _NAN
        upper = line[stop] if stop < line.size else lower
        lower = lower if first > 0 else upper
        for k in range(first, stop):
            share = (k - first + 1) / (stop - first + 1)
            line[k] = lower + share * (np.float64(upper) - lower)
        first = stop
    return line[0] == line[0]


@jit
def _raise_low(line, floor, logarithm):  # type: ignore[no-untyped-def]
    """Raise values to the floor, and go on to −ln where that is asked; say how many were raised."""
    low = np.int32(0)
    for i in range(line.size):
        value = line[i]
        low = np.int32(low + np.int32(value < floor))
        raised = floor if value < floor else value
        line[i] = _minus_log(raised) if logarithm else raised
    return low


@jit
def correct(frame, dark, before, after, share, floor, logarithm, clipped):  # type: ignore[no-untyped-def]
    """Make transmissions or line integrals of a frame's counts, in place.

    Parameters
    ----------
    frame, dark
        (rows, columns) float32, counts.
    before, after
        (rows, columns) float32, the beam less the dark, of two groups of flats; NaN where dead.
    share
        float32, how far from one group to the other.
    floor
        float32, a normal number above 0; the least transmission.
    logarithm
        Go on to −ln.
    clipped
        (rows,) int64, to which the number of values that were raised is added.
    """
    for row in range(len(frame)):
        line = frame[row]
        finite = _divide(line, dark[row], before[row], after[row], share)
        if finite or _mend(line):
            clipped[row] += _raise_low(line, floor, logarithm)
