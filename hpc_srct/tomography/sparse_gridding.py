"""The torch engine: gridding as a sparse matrix, the same for every slice.

Spreading the samples of all lines on a grid is one sparse matrix (grid points × samples, width²
entries per sample) that depends on the geometry alone. It takes many slices at once as the
columns of a dense block, which on a GPU is bound by memory bandwidth; its transpose is the
forward projector's interpolation. The same code runs on CPU and CUDA.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hpc_srct.tomography.gridding import (
    FBP_WIDTH,
    PAIR_WIDTH,
    correction,
    grid_size,
    kernel_shape,
)
from hpc_srct.tomography.nufft import Filter, Lines

# Pairs of slices in one block: a matrix entry is read once for all of them.
PAIRS_AT_ONCE = 8


def kernel(distance: Tensor, width: int) -> Tensor:
    """Evaluate `gridding.kernel` on the device."""
    beta = kernel_shape(width)
    inside = (1 - (2 * distance / width) ** 2).clamp(min=0).sqrt()
    return (torch.special.i0(beta * inside) - 1) / (float(np.i0(beta)) - 1)


class _Matrix:
    """The gridding matrix of one kernel width, in both orientations, made when first asked for.

    Attributes
    ----------
    correction
        (size,), by what to divide out along one axis what the kernel does to each wave.
    """

    def __init__(self, lines: Lines, width: int, device: torch.device):
        self._lines, self._width, self._device = lines, width, device
        self.grid = grid_size(lines.size)
        self._matrices: dict[str, Tensor] = {}
        entries = lines.views * lines.samples * width**2
        self._integer = torch.int32 if max(entries, self.grid**2) < 2**31 else torch.int64
        self.correction = torch.from_numpy(correction(lines.size, width)).to(device)

    def _neighbours(self) -> tuple[Tensor, Tensor]:
        """Give each sample's grid points and their weights, (samples, width²)."""
        offsets = torch.arange(self._width, device=self._device)
        pieces = []
        for piece in self._lines.points():
            near, weights = [], []
            for axis in piece:
                # Where a sample lies within a step needs more digits than float32 has.
                begin = axis * (self.grid / (2 * np.pi)) - self._width / 2
                first = np.ceil(begin)
                ahead = torch.from_numpy((first - begin).astype(np.float32)).to(self._device)
                weights.append(kernel(ahead[:, None] + offsets - self._width / 2, self._width))
                places = torch.from_numpy(first.astype(np.int64)).to(self._device)
                near.append((places[:, None] + offsets).to(self._integer) % self.grid)
            pieces.append((*near, *weights))
        rows, columns, row_weights, column_weights = map(torch.cat, zip(*pieces, strict=True))
        index = rows[:, :, None] * self.grid + columns[:, None, :]
        weights = row_weights[:, :, None] * column_weights[:, None, :]
        return index.flatten(1), weights.flatten(1)

    def to_grid(self) -> Tensor:
        """Give the matrix (grid points × samples), CSR."""
        if "to" not in self._matrices:
            index, weights = self._neighbours()
            order = torch.argsort(index.flatten(), stable=True)
            count = torch.bincount(index.flatten(), minlength=self.grid**2)
            start = torch.zeros(self.grid**2 + 1, dtype=self._integer, device=self._device)
            start[1:] = torch.cumsum(count, 0)
            samples = (order // index.shape[1]).to(self._integer)
            self._matrices["to"] = _csr(
                start, samples, weights.flatten()[order], (self.grid**2, len(index))
            )
        return self._matrices["to"]

    def from_grid(self) -> Tensor:
        """Give its transpose (samples × grid points), CSR."""
        if "from" not in self._matrices:
            index, weights = self._neighbours()
            start = torch.arange(len(index) + 1, dtype=self._integer, device=self._device)
            self._matrices["from"] = _csr(
                start * index.shape[1],
                index.flatten(),
                weights.flatten(),
                (len(index), self.grid**2),
            )
        return self._matrices["from"]


def _csr(start: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(start, columns, values, shape, check_invariants=False)


class SparseGridding:
    """Filtered back-projection, forward projection and its adjoint on one torch device.

    Parameters
    ----------
    lines
        The geometry.
    device
        Where the matrices live and the work is done.
    """

    def __init__(self, lines: Lines, device: torch.device | str):
        self.lines, self.device = lines, torch.device(device)
        self._phase = torch.from_numpy(lines.phase).to(self.device)
        self._widths: dict[int, _Matrix] = {}
        self._filtering: tuple[Filter, tuple[Tensor, ...]] | None = None

    def filtered(self, views: Tensor, filtering: Filter) -> Tensor:
        """Reconstruct (slice, view, column) → (slice, y, x) by filtered back-projection."""

        def work(packed: Tensor) -> Tensor:
            gains, tail, low, low_gains = self._filter(filtering)
            rows = self._padded(packed)
            waves = torch.fft.fft(rows, dim=2) * gains
            if filtering.tail is not None:
                bins = _binned(packed, filtering.bin, filtering.bins)
                waves[:, :, low] += (bins @ tail) * low_gains
            level = waves[:, :, 0].sum(dim=1)
            waves[:, :, 0] = 0
            return self._to_images(waves, FBP_WIDTH) + level[:, None, None]

        return self._in_pairs(views, work)

    def filtered_transpose(self, images: Tensor, filtering: Filter) -> Tensor:
        """Apply the transpose of `filtered`."""

        def work(packed: Tensor) -> Tensor:
            gains, tail, low, low_gains = self._filter(filtering)
            waves = self._from_images(packed, FBP_WIDTH)
            waves[:, :, 0] = packed.sum(dim=(1, 2))[:, None]
            rows = torch.fft.ifft(waves * gains.conj(), dim=2, norm="forward")
            rows = rows[:, :, self.lines.detector]
            if filtering.tail is not None:
                bins = (waves[:, :, low] * low_gains.conj()) @ tail.mH
                rows = rows + bins.repeat_interleave(filtering.bin, 2)[:, :, : rows.shape[2]]
            return rows

        return self._in_pairs(images, work)

    def forward(self, images: Tensor) -> Tensor:
        """Integrate along the rays, (slice, y, x) → (slice, view, column)."""

        def work(packed: Tensor) -> Tensor:
            waves = self._from_images(packed, PAIR_WIDTH) * self._phase.conj()
            rows = torch.fft.ifft(waves, dim=2, norm="forward")
            return rows[:, :, self.lines.detector]

        return self._in_pairs(images, work)

    def adjoint(self, views: Tensor) -> Tensor:
        """Apply the transpose of `forward`."""

        def work(packed: Tensor) -> Tensor:
            waves = torch.fft.fft(self._padded(packed), dim=2) * self._phase
            return self._to_images(waves, PAIR_WIDTH)

        return self._in_pairs(views, work)

    def _filter(self, filtering: Filter) -> tuple[Tensor, ...]:
        if self._filtering is None or self._filtering[0] is not filtering:
            arrays = [filtering.gains]
            if filtering.tail is not None:
                arrays += [filtering.tail, filtering.low, filtering.low_gains.astype(np.complex64)]
            tensors = [torch.from_numpy(a).to(self.device) for a in arrays]
            tensors += [torch.empty(0)] * (4 - len(tensors))
            self._filtering = filtering, tuple(tensors)
        return self._filtering[1]

    def _in_pairs(self, batch: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
        """Pack slices (2k, 2k + 1) as complex ones; a slice with a NaN comes out as NaN."""
        found = []
        for first in range(0, len(batch), 2 * PAIRS_AT_ONCE):
            part = batch[first : first + 2 * PAIRS_AT_ONCE].to(self.device, torch.float32)
            good = torch.isfinite(part).all(dim=2).all(dim=1)
            part = torch.where(good[:, None, None], part, torch.zeros_like(part))
            if len(part) % 2:
                part = torch.cat([part, torch.zeros_like(part[:1])])
            result = work(torch.complex(part[0::2], part[1::2]))
            images = torch.stack([result.real, result.imag], dim=1).flatten(0, 1)[: len(good)]
            images[~good] = torch.nan
            found.append(images)
        return torch.cat(found)

    def _padded(self, packed: Tensor) -> Tensor:
        lines = self.lines
        return torch.nn.functional.pad(
            packed, (lines.margin, lines.samples - lines.margin - lines.columns)
        )

    def _matrix(self, width: int) -> _Matrix:
        if width not in self._widths:
            self._widths[width] = _Matrix(self.lines, width, self.device)
        return self._widths[width]

    def _to_images(self, waves: Tensor, width: int) -> Tensor:
        """Sum the waves (pair, view, sample) at all pixels: (pair, y, x) complex."""
        matrix, size = self._matrix(width), self.lines.size
        middle, pairs = size // 2, len(waves)
        block = torch.view_as_real(waves.reshape(pairs, -1).T.contiguous())
        grid = matrix.to_grid() @ block.flatten(1)
        grid = torch.view_as_complex(grid.reshape(matrix.grid, matrix.grid, pairs, 2))
        grid = grid.permute(2, 0, 1).contiguous()
        for axis in (2, 1):
            grid = torch.fft.ifft(grid, dim=axis, norm="forward")
            # Pixels below 0 are the last of the FFT's outputs.
            grid = torch.roll(grid, middle, axis).narrow(axis, 0, size)
        return grid * (matrix.correction[:, None] * matrix.correction)

    def _from_images(self, images: Tensor, width: int) -> Tensor:
        """Apply the transpose of `_to_images`."""
        matrix, size = self._matrix(width), self.lines.size
        middle, pairs = size // 2, len(images)
        grid = images * (matrix.correction[:, None] * matrix.correction)
        for axis in (1, 2):
            pad = (0, matrix.grid - size) if axis == 2 else (0, 0, 0, matrix.grid - size)
            grid = torch.roll(torch.nn.functional.pad(grid, pad), -middle, axis)
            grid = torch.fft.fft(grid, dim=axis)
        block = torch.view_as_real(grid.reshape(pairs, -1).T.contiguous())
        waves = torch.view_as_complex((matrix.from_grid() @ block.flatten(1)).reshape(-1, pairs, 2))
        return waves.T.reshape(pairs, self.lines.views, self.lines.samples).contiguous()


def _binned(views: Tensor, width: int, bins: int) -> Tensor:
    missing = bins * width - views.shape[2]
    padded = torch.nn.functional.pad(views, (0, missing))
    return padded.reshape(*views.shape[:2], bins, width).sum(dim=3)
