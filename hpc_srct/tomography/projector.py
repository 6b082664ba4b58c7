"""The projector: filtered back-projection, forward projection and its adjoint, in batches.

One interface, two engines: numba on the CPU (`nufft`), a sparse gridding matrix in torch on
CUDA (`sparse_gridding`). Two real slices ride in one complex transform, in fixed pairs
(2k, 2k + 1) of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hpc_srct.errors import InputError
from hpc_srct.tomography.geometry import checked_angles, view_weights
from hpc_srct.tomography.nufft import Filter, Lines, NufftEngine

ENGINES = ("numba", "torch")


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
        Blocks of eight slices that numba works on at once. Does not change the result.
    device
        Where the work is done, in torch's words; default the CPU.
    engine
        ``numba`` or ``torch``; default numba on the CPU, torch elsewhere.

    Raises
    ------
    InputError
        Angles that are not finite numbers, sizes that make no image, an unknown engine, or
        numba asked for on a device that is not the CPU.

    Notes
    -----
    On the CPU each transform runs on one thread, so that a pair gives the same bits whatever
    runs beside it.

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
        device: str = "cpu",
        engine: str | None = None,
    ):
        self.angles = checked_angles(angles)
        self.columns = int(columns)
        self.size = self.columns if size is None else int(size)
        self.centre = (self.columns - 1) / 2 if centre is None else float(centre)
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
        on_cpu = str(device) == "cpu"
        self.engine = engine or ("numba" if on_cpu else "torch")
        if self.engine not in ENGINES or (self.engine == "numba" and not on_cpu):
            raise InputError(
                f"projector engine '{engine}' on {device}: expected numba (on cpu) or torch."
            )
        self.weights = view_weights(self.angles)
        self._lines = Lines(self.angles, self.columns, self.centre, self.size)
        self._filter: tuple[tuple[str, float], Filter] | None = None
        if self.engine == "torch":
            from hpc_srct.tomography.sparse_gridding import SparseGridding

            self._engine: Any = SparseGridding(self._lines, device)
        else:
            self._engine = NufftEngine(self._lines, max(1, int(threads)))

    def fbp(
        self,
        sinograms: Any,
        filter: str = "ramp",
        cutoff: float = 1.0,
        out: np.ndarray | None = None,
    ) -> Any:
        """Reconstruct slices by filtered back-projection.

        Parameters
        ----------
        sinograms
            (slice, view, column) or (view, column), line integrals (−log of the transmission).
        filter, cutoff
            One of `filters.FILTERS`, and where it ends as a fraction of Nyquist.
        out
            (slice, size, size) float32 of numpy, C-contiguous, to be written for a batch of
            numpy's: what is used again costs less than fresh memory.

        Returns
        -------
        (slice, size, size) or (size, size)
            Attenuation per pixel.
        """
        if self._filter is None or self._filter[0] != (filter, cutoff):
            made = Filter(self._lines, self.weights, filter, cutoff)
            self._filter = (filter, cutoff), made
        filtering = self._filter[1]
        if out is not None:
            self._check_out(out, sinograms)
        into = {} if out is None or self.engine != "numba" else {"out": out}
        made = self._apply(
            sinograms,
            self._sinogram_shape,
            lambda batch: self._engine.filtered(batch, filtering, **into),
            lambda batch: self._engine.filtered_transpose(batch, filtering),
        )
        if out is None or made is out:
            return made
        out[:] = made
        return out

    def forward(self, images: Any) -> Any:
        """Integrate slices along the rays: (slice, y, x) → (slice, view, column)."""
        engine = self._engine
        return self._apply(images, (self.size, self.size), engine.forward, engine.adjoint)

    def adjoint(self, sinograms: Any) -> Any:
        """Apply the transpose of `forward`: (slice, view, column) → (slice, y, x)."""
        engine = self._engine
        return self._apply(sinograms, self._sinogram_shape, engine.adjoint, engine.forward)

    def _check_out(self, out: np.ndarray, sinograms: Any) -> None:
        expected = (len(sinograms), self.size, self.size)
        fits = out.shape == expected and out.dtype == np.float32
        fits = fits and out.flags.c_contiguous and out.flags.writeable
        if sinograms.ndim != 3 or not isinstance(sinograms, np.ndarray) or not fits:
            raise InputError(
                "projector: expected a batch of numpy's and out as a contiguous float32 array"
                f" {expected} that may be written,"
                f" found {tuple(sinograms.shape)} and {out.dtype} {out.shape}."
            )

    @property
    def _sinogram_shape(self) -> tuple[int, int]:
        return len(self.angles), self.columns

    def _apply(
        self,
        batch: Any,
        shape: tuple[int, int],
        operator: Callable[[Any], Any],
        transpose: Callable[[Any], Any],
    ) -> Any:
        if tuple(batch.shape[-2:]) != shape or batch.ndim not in (2, 3):
            raise InputError(
                f"projector: expected an array of shape {shape} or (slices, *{shape}), "
                f"found {tuple(batch.shape)}."
            )
        if batch.ndim == 2:
            return self._apply(batch[None], shape, operator, transpose)[0]
        if isinstance(batch, np.ndarray) and self.engine == "numba":
            return operator(batch)
        from hpc_srct.tomography.autograd import apply_linear, as_tensor

        if isinstance(batch, np.ndarray):
            return operator(as_tensor(batch)).cpu().numpy()
        return apply_linear(batch, operator, transpose, through_numpy=self.engine == "numba")
