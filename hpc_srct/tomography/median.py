"""A sliding median made of minima and maxima of whole arrays: no branch, no sort per window.

Neighbouring windows share most of their numbers. A group of windows sorts what all of them
share once and keeps the middle of it; each half of the group adds what its windows share
besides, keeps a shorter middle, and so on down to single windows (the idea of Adams,
"Fast median filters using separable sorting networks", ACM Trans. Graph. 40, 2021, in one
dimension). The comparisons depend on the window's length alone, so they are worked out once
as a list of instructions and carried out on long rows of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_srct.errors import InputError

# Numbers in a register: long enough to drown the cost of a call, short enough for the cache.
_BLOCK = 24_000

# A symbolic number: what is loaded or computed, by its place in the list of all of them.
Symbol = int


class _Step(NamedTuple):
    """register[to] = least or greatest of two operands (inputs < 0: −1 − offset)."""

    greatest: bool
    to: int
    a: int
    b: int


class Program(NamedTuple):
    """Instructions for `group` neighbouring medians of windows of `length` numbers."""

    length: int
    group: int
    steps: tuple[_Step, ...]
    registers: int
    results: tuple[int, ...]


class _Expressions:
    """Minima and maxima of inputs, each made once."""

    def __init__(self) -> None:
        self.made: list[tuple[bool, Symbol, Symbol] | int] = []
        self._known: dict[tuple[bool, Symbol, Symbol] | int, Symbol] = {}

    def _get(self, what: tuple[bool, Symbol, Symbol] | int) -> Symbol:
        if what not in self._known:
            self._known[what] = len(self.made)
            self.made.append(what)
        return self._known[what]

    def input(self, offset: int) -> Symbol:
        return self._get(offset)

    def ordered(self, a: Symbol, b: Symbol) -> tuple[Symbol, Symbol]:
        a, b = min(a, b), max(a, b)
        return self._get((False, a, b)), self._get((True, a, b))

    def merged(self, a: list[Symbol], b: list[Symbol]) -> list[Symbol]:
        """Merge two sorted lists (Batcher's odd-even merge, any lengths)."""
        if not a or not b:
            return a + b
        if len(a) == len(b) == 1:
            return list(self.ordered(a[0], b[0]))
        even = self.merged(a[::2], b[::2])
        odd = self.merged(a[1::2], b[1::2])
        out = [even[0]]
        for low, high in zip(odd, even[1:], strict=False):
            out += self.ordered(low, high)
        return out + even[len(odd) + 1 :] + odd[len(even) - 1 :]

    def sorted(self, symbols: list[Symbol]) -> list[Symbol]:
        if len(symbols) < 2:
            return symbols
        half = len(symbols) // 2
        return self.merged(self.sorted(symbols[:half]), self.sorted(symbols[half:]))


def _medians(
    expressions: _Expressions, length: int, first: int, group: int, middle: list[Symbol]
) -> Iterator[Symbol]:
    """Give the medians of windows first … first + group − 1 from the middle of their core."""
    if group == 1:
        yield middle[0]
        return
    half = group // 2
    left = range(first + half - 1, first + group - 1)
    right = range(first + length, first + length + half)
    for start, extra in ((first, left), (first + half, right)):
        added = expressions.sorted([expressions.input(i) for i in extra])
        kept = expressions.merged(middle, added)[half : half + half]
        yield from _medians(expressions, length, start, half, kept)


@lru_cache(maxsize=8)
def program(length: int) -> Program:
    """Work out the instructions for one window length (odd)."""
    group = 1
    while 4 * group <= length + 1:  # as many as still share a core no shorter than themselves
        group *= 2
    expressions = _Expressions()
    core = expressions.sorted([expressions.input(i) for i in range(group - 1, length)])
    spare = (len(core) - group) // 2
    middle = core[spare : len(core) - spare]
    wanted = list(_medians(expressions, length, 0, group, middle))
    return _compiled(expressions, length, group, wanted)


def _compiled(expressions: _Expressions, length: int, group: int, wanted: list[Symbol]) -> Program:
    """Drop what nobody needs and give the rest as few registers as will do."""
    order: list[Symbol] = []
    seen: set[Symbol] = set()

    def visit(symbol: Symbol) -> None:
        if symbol in seen:
            return
        seen.add(symbol)
        what = expressions.made[symbol]
        if not isinstance(what, int):
            visit(what[1])
            visit(what[2])
            order.append(symbol)

    for symbol in wanted:
        visit(symbol)
    last_use = {s: len(order) for s in wanted}
    for at, symbol in reversed(list(enumerate(order))):
        for operand in expressions.made[symbol][1:]:
            last_use.setdefault(operand, at)
    place: dict[Symbol, int] = {}
    free: list[int] = []
    registers = 0
    steps = []

    def where(symbol: Symbol) -> int:
        what = expressions.made[symbol]
        return -1 - what if isinstance(what, int) else place[symbol]

    for at, symbol in enumerate(order):
        greatest, a, b = expressions.made[symbol]
        operands = where(a), where(b)
        for operand in (a, b):
            if operand in place and last_use[operand] == at:
                free.append(place[operand])
        if not free:
            free.append(registers)
            registers += 1
        place[symbol] = free.pop()
        steps.append(_Step(greatest, place[symbol], *operands))
    return Program(length, group, tuple(steps), registers, tuple(where(s) for s in wanted))


@lru_cache(maxsize=8)
def _middle(count: int) -> Program:
    """Work out the instructions for the lower and the upper median of `count` numbers."""
    expressions = _Expressions()
    ordered = expressions.sorted([expressions.input(i) for i in range(count)])
    return _compiled(expressions, count, 1, [ordered[(count - 1) // 2], ordered[count // 2]])


def median_of(images: Sequence[NDArray]) -> NDArray[np.float32]:
    """Take the median of several float32 arrays of one shape, place by place."""
    code = _middle(len(images))
    registers = np.empty((code.registers, *images[0].shape), np.float32)
    low, high = _carried_out(code, registers, images)
    return (low + high) * np.float32(0.5)


def sliding_median(rows: NDArray, length: int) -> NDArray[np.float32]:
    """Take the median over `length` neighbouring rows, for every place along them.

    Parameters
    ----------
    rows
        (rows, places), float32. The median runs along the first axis; the second is as long
        as may be.
    length
        Odd. Beyond the ends the rows are mirrored (d c b a | a b c d | d c b a), as
        `scipy.ndimage.median_filter` does.

    Returns
    -------
    ndarray (rows, places), float32
        Where a window holds a NaN, NaN.
    """
    if length < 1 or length % 2 == 0:
        raise InputError(f"median window {length}: expected an odd number of rows.")
    rows = np.asarray(rows, np.float32)
    if length == 1:
        return rows.copy()
    count, places = rows.shape
    code = program(length)
    groups = -(-count // code.group)
    beyond = groups * code.group - count
    half = length // 2
    padded = np.pad(rows, ((half, half + beyond), (0, 0)), mode="symmetric")
    out = np.empty((groups * code.group, places), np.float32)
    across = max(1, min(groups, _BLOCK // places))
    for first in range(0, groups, across):
        last = min(groups, first + across)
        _run(code, padded, out, first, last)
    return out[:count]


def _run(code: Program, padded: NDArray, out: NDArray, first: int, last: int) -> None:
    """Carry the instructions out for groups first … last − 1."""
    group, start = code.group, first * code.group
    stop = start + (last - first - 1) * group + 1
    inputs = [padded[start + i : stop + i : group] for i in range(code.length + group - 1)]
    registers = np.empty((code.registers, last - first, padded.shape[1]), np.float32)
    for i, found in enumerate(_carried_out(code, registers, inputs)):
        out[start + i : stop + i : group] = found


def _carried_out(code: Program, registers: NDArray, inputs: Sequence[NDArray]) -> list[NDArray]:
    least, greatest = np.minimum, np.maximum
    # Inputs stand at the end, so that operand −1 − offset finds them.
    operands = [*registers, *inputs[::-1]]
    for is_greatest, to, a, b in code.steps:
        (greatest if is_greatest else least)(operands[a], operands[b], out=operands[to])
    return [operands[symbol] for symbol in code.results]
