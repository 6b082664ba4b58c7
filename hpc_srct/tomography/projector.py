"""The projector: filtered back-projection, forward projection and its adjoint, in batches.

Two real slices ride in one complex transform, in fixed pairs (2k, 2k + 1) of the batch. One
thread per transform, so that the same pair gives the same bits whatever runs beside it.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpc_srct.errors import InputError
from hpc_srct.tomography.geometry import checked_angles, view_weights
from hpc_srct.tomography.nufft import Filter, Lines, Worker


class Projector:
    """Parallel-beam projector of one geometry.

    Arrays are (slice, view, column) and (slice, y, x) float32, or the same without the first
    axis. numpy in gives numpy out; a torch tensor gives a torch tensor, with gradients.

    Parameters
    ----------
    angles
        (views,), radians, in any order.
    columns
        Detector pixels in a row.
    centre
        Detector coordinate of the rotation axis, 0-based; default (columns − 1)/2.
    size
        Pixels on a side of the slice, whose middle is the axis; default `columns`.
    threads
        Pairs worked on at once. Does not change the result.

    Raises
    ------
    InputError
        Angles that are not finite numbers, or sizes that make no image.

    Notes
    -----
    A slice with a NaN or an infinity comes out as NaN throughout, and its partner as if it had
    been alone in its pair. About 1e-5 of a slice's contrast leaks into its partner
    (`benchmarks/fbp.py` measures it). Outside the circle that every view sees
    (`geometry.field_of_view`) an FBP is not defined, and its values there mean nothing.
    """

    def __init__(
        self,
        angles: ArrayLike,
        columns: int,
        centre: float | None = None,
        size: int | None = None,
        threads: int = 1,
    ):
        self.angles = checked_angles(angles)
        self.columns = int(columns)
        self.size = self.columns if size is None else int(size)
        self.centre = (self.columns - 1) / 2 if centre is None else float(centre)
        self.threads = max(1, int(threads))
        if self.columns < 2 or self.size < 2:
            raise InputError(
                f"projector: expected at least 2 columns and a slice of at least 2 pixels, "
                f"found {self.columns} and {self.size}."
            )
        if not -0.5 <= self.centre <= self.columns - 0.5:
            raise InputError(
                f"rotation centre {self.centre}: expected a place on the detector "
                f"(0 to {self.columns - 1})."
            )
        self.weights = view_weights(self.angles)
        self._lines = Lines(self.angles, self.columns, self.centre, self.size)
        self._filter: tuple[tuple[str, float], Filter] | None = None
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for _ in range(self.threads):
            self._idle.put(Worker(self._lines))

    def fbp(self, sinograms: Any, filter: str = "ramp", cutoff: float = 1.0) -> Any:
        """Reconstruct slices by filtered back-projection.

        Parameters
        ----------
        sinograms
            (slice, view, column) or (view, column), line integrals (−log of the transmission).
        filter, cutoff
            One of `filters.FILTERS`, and where it ends as a fraction of Nyquist.

        Returns
        -------
        (slice, size, size) or (size, size)
            Attenuation per pixel.
        """
        if self._filter is None or self._filter[0] != (filter, cutoff):
            made = Filter(self._lines, self.weights, filter, cutoff)
            self._filter = (filter, cutoff), made
        filtering = self._filter[1]
        return self._apply(
            sinograms,
            self._sinogram_shape,
            self._image_shape,
            lambda worker, pair, out: worker.filtered(pair, out, filtering),
            lambda worker, pair, out: worker.filtered_transpose(pair, out, filtering),
        )

    def forward(self, images: Any) -> Any:
        """Integrate slices along the rays: (slice, y, x) → (slice, view, column)."""
        return self._apply(
            images, self._image_shape, self._sinogram_shape, Worker.forward, Worker.adjoint
        )

    def adjoint(self, sinograms: Any) -> Any:
        """Apply the transpose of `forward`: (slice, view, column) → (slice, y, x)."""
        return self._apply(
            sinograms, self._sinogram_shape, self._image_shape, Worker.adjoint, Worker.forward
        )

    @property
    def _sinogram_shape(self) -> tuple[int, int]:
        return len(self.angles), self.columns

    @property
    def _image_shape(self) -> tuple[int, int]:
        return self.size, self.size

    def _apply(
        self,
        batch: Any,
        shape_in: tuple[int, int],
        shape_out: tuple[int, int],
        operator: Operator,
        transpose: Operator,
    ) -> Any:
        if tuple(batch.shape[-2:]) != shape_in or batch.ndim not in (2, 3):
            raise InputError(
                f"projector: expected an array of shape {shape_in} or (slices, *{shape_in}), "
                f"found {tuple(batch.shape)}."
            )

        def there(array: NDArray) -> NDArray[np.float32]:
            return self._in_pairs(array, shape_out, operator)

        def back(array: NDArray) -> NDArray[np.float32]:
            return self._in_pairs(array, shape_in, transpose)

        if isinstance(batch, np.ndarray):
            return there(batch)
        from hpc_srct.tomography.autograd import apply_linear

        return apply_linear(batch, there, back)

    def _in_pairs(
        self, batch: NDArray, shape_out: tuple[int, int], operator: Operator
    ) -> NDArray[np.float32]:
        if batch.ndim == 2:
            return self._in_pairs(batch[None], shape_out, operator)[0]
        out = np.empty((len(batch), *shape_out), np.float32)

        def work(first: int) -> None:
            worker = self._idle.get()
            try:
                pair, spoilt = mended(batch[first : first + 2])
                found = out[first : first + 2]
                operator(worker, pair, found)
                found[spoilt] = np.nan
            finally:
                self._idle.put(worker)

        firsts = range(0, len(batch), 2)
        if self.threads == 1 or len(firsts) == 1:
            for first in firsts:
                work(first)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(work, firsts))
        return out


# From one or two arrays to as many, written into the second argument.
Operator = Callable[[Worker, NDArray, NDArray], None]


def mended(pair: NDArray) -> tuple[NDArray[np.float32], list[int]]:
    """Make slices fit to be packed: one bad number would spread over both.

    Returns
    -------
    pair
        float32; a slice with a NaN or an infinity is zeros.
    spoilt
        Which of them had one.
    """
    pair = np.asarray(pair, np.float32)
    # A sum is not finite where one term is not, and costs one quick pass.
    doubtful = [i for i, part in enumerate(pair) if not np.isfinite(part.sum())]
    spoilt = [i for i in doubtful if not np.isfinite(pair[i]).all()]
    if spoilt:
        pair = pair.copy()
        pair[spoilt] = 0
    return pair, spoilt
