"""Memory that is used again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Scratch:
    """Memory that is used again: pages fresh from the system cost more than what is done in them.

    One object serves one thread.
    """

    def __init__(self) -> None:
        self._held: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, *shape: int, dtype: type = np.complex64) -> NDArray:
        """Give an array by this name, its content left from before."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if name not in self._held or self._held[name].size < size:
            self._held[name] = np.empty(size, np.uint8)
        return self._held[name][:size].view(dtype).reshape(shape)
