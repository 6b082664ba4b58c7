"""A trained network as a function of slices: attenuation in, attenuation out.

A slice goes through whole where its maps fit, else in tiles whose results meet without a seam
(`hpc_srct.slices.tiles`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hpc_srct.errors import InputError, MachineError
from hpc_srct.models.convolution import cpu_lacks
from hpc_srct.models.files import load_model
from hpc_srct.slices.normalisation import Normalisation
from hpc_srct.slices.tiles import inference_tiles, step_and_halo

# fp16 is what the talk calls O2; both names are understood.
PRECISIONS = {
    "O0": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "O2": torch.float16,
}

# Peak of a forward pass in evaluation mode, in maps of the network's base width at full
# resolution (measured 7.7 to 8.0 for both networks in fp32, on CPU).
MAPS_AT_ONCE = 8
CPU_BUDGET = 4 * 2**30
DEVICE_SHARE = 0.7
SMALLEST_TILE = 1024


class Enhancer:
    """Applies a network to slices.

    Parameters
    ----------
    module
        Network with attributes ``stride`` and ``reach``; it is copied, not changed.
    description
        What ``model.json`` says; ``normalisation`` is needed.
    precision
        ``O0`` (fp32, TF32 off), ``bf16``, or ``fp16`` (alias ``O2``). The slice itself
        stays fp32: only the predicted error is computed in less.
    device
        A torch device; the first GPU where there is one, else the CPU.
    tile
        Largest side that the network is given; by default the whole slice where its maps fit
        in 4 GiB (CPU) or 70% of the device's memory, else the largest tile that fits, at
        least 1024. The choice does not depend on the number of ranks, nor does the result.
    source
        Names the model in messages.

    Raises
    ------
    InputError
        An unknown precision, a model with more than one input channel.
    MachineError
        The device is not there or lacks bf16.
    """

    def __init__(
        self,
        module: nn.Module,
        description: Mapping[str, Any],
        precision: str = "O0",
        device: str | torch.device | None = None,
        tile: int | None = None,
        source: Path | str = "model",
    ):
        self.description = dict(description)
        self.source = str(source)
        self.precision = "fp16" if precision == "O2" else precision
        self.tile = tile
        self.device = chosen_device(device)
        self.stride, self.reach = int(module.stride), int(module.reach)
        self._check()
        self._dtype = PRECISIONS[precision]
        # oneDNN and cuDNN's half-precision kernels work on channels-last maps; NCHW fp32 on a
        # CPU costs half as much again.
        last = self.device.type == "cpu" or self._dtype != torch.float32
        self._memory = torch.channels_last if last else torch.contiguous_format
        self._module = copy.deepcopy(module).eval().requires_grad_(False)
        self._module.to(device=self.device, dtype=self._dtype, memory_format=self._memory)

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        precision: str = "O0",
        device: str | torch.device | None = None,
        tile: int | None = None,
    ) -> Enhancer:
        """Load a run folder's model or a ``.safetensors`` file; it needs nothing beside it."""
        module, description = load_model(path)
        return cls(module, description, precision, device, tile, source=path)

    def enhance(self, slices: np.ndarray, scale: float) -> np.ndarray:
        """Correct slices.

        Parameters
        ----------
        slices
            (slice, y, x) or (y, x), attenuation per pixel.
        scale
            The scan's robust intensity (`SliceStore.scale`).

        Returns
        -------
        ndarray
            Same shape, float32, attenuation per pixel. A slice with a missing value (NaN) is
            NaN throughout: a network would spread it.

        Raises
        ------
        MachineError
            The device ran out of memory, or the precision out of range.
        """
        slices = np.asarray(slices, dtype=np.float32)
        if slices.ndim == 2:
            return self.enhance(slices[None], scale)[0]
        policy = Normalisation.from_description(
            self.description["normalisation"], scale, self.source
        )
        out = np.empty_like(slices)
        for image, result in zip(slices, out, strict=True):
            if np.isfinite(image).all():
                result[:] = policy.undo(self._normalised(policy.apply(image)))
                self._check_finite(result)
            else:
                result[:] = np.nan
        return out

    @property
    def note(self) -> str | None:
        """What a user should know of this precision on this device, in one line."""
        if self.device.type == "cpu" and cpu_lacks(self._dtype):
            return (
                f"precision {self.precision}: this CPU has no such arithmetic; convolutions compute"
                " in fp32 and round, so this has its results but not its speed."
            )
        return None

    def tile_for(self, size: tuple[int, int]) -> int | None:
        """Give the tile that slices of this size are cut into; None for whole slices."""
        if self.tile is not None:
            return self.tile if self.tile < max(size) else None
        itemsize = torch.empty((), dtype=self._dtype).element_size()
        per_pixel = MAPS_AT_ONCE * itemsize * int(getattr(self._module, "width", 32))
        budget = CPU_BUDGET
        if self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
            budget = int(DEVICE_SHARE * total)
        if size[0] * size[1] * per_pixel <= budget:
            return None
        side = int((budget / per_pixel) ** 0.5) // 256 * 256
        return max(side, SMALLEST_TILE)

    def check_tile(self, size: tuple[int, int] | None = None) -> None:
        """Refuse a tile that leaves nothing inside its halo.

        Parameters
        ----------
        size
            Of the slices, where it is known: those that fit into a tile are not cut.

        Raises
        ------
        InputError
            Names the least tile.
        """
        tile = self.tile if size is None else self.tile_for(size)
        if tile is not None:
            step_and_halo(tile, self.stride, self.reach)

    def _normalised(self, image: np.ndarray) -> np.ndarray:
        out = np.empty_like(image)
        for tile in inference_tiles(
            image.shape, self.tile_for(image.shape), self.stride, self.reach
        ):
            out[tile.keep] = self._through(image[tile.read])[tile.inside]
        return out

    def _through(self, image: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
        batch = batch.to(self.device).contiguous(memory_format=self._memory)
        try:
            with torch.inference_mode(), _exact_fp32():
                return self._module(batch)[0, 0].float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            height, width = image.shape
            raise MachineError(
                f"{self.device}: out of memory on {height} × {width} pixels of {self.source};"
                f" choose a smaller tile (tile={max(height, width) // 2})."
            ) from error

    def _check_finite(self, result: np.ndarray) -> None:
        # Such a slice would pass for one whose input was missing.
        if not np.isfinite(result).all():
            instead = "bf16 or O0" if self.precision == "fp16" else "O0"
            raise MachineError(
                f"{self.source}: its result is not finite in {self.precision}, though the slice is;"
                + (f" choose {instead}." if self.precision != "O0" else " the model is broken.")
            )

    def _check(self) -> None:
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise InputError(f"precision '{self.precision}': unknown; known: {known}.")
        if (channels := int(self.description.get("channels", 1))) != 1:
            raise InputError(
                f"{self.source}: its input has {channels} channels; enhancement takes one slice"
                " at a time."
            )
        if "normalisation" not in self.description:
            raise InputError(
                f"{self.source}: its description lacks 'normalisation'; it is not a whole model."
            )
        if (
            self.precision == "bf16"
            and self.device.type == "cuda"
            and not torch.cuda.is_bf16_supported(False)
        ):
            raise MachineError(f"{self.device}: has no bf16; choose O0 or fp16.")


def chosen_device(device: str | torch.device | None, rank: int = 0) -> torch.device:
    """Give the device asked for, or the GPU of this rank, or the CPU.

    Raises
    ------
    InputError, MachineError
        No device of that name is known, or it is not here.
    """
    if device is None:
        count = torch.cuda.device_count()
        return torch.device("cuda", rank % count) if count else torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device '{device}': unknown; expected cpu, cuda or cuda:1.") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise MachineError(
            f"device '{device}': not here; this process sees {torch.cuda.device_count()} GPU(s)."
        )
    return chosen


class _exact_fp32:
    """Turn TF32 off while a network runs: O0 means fp32 throughout."""

    def __enter__(self) -> None:
        self._before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")

    def __exit__(self, *_: object) -> None:
        torch.backends.cudnn.allow_tf32 = self._before[0]
        torch.set_float32_matmul_precision(self._before[1])
