"""How this package's inner loops are compiled: by numba, when first called, and kept on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numba


def jit(function: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    """Compile a function for its arguments' types; other threads run meanwhile."""
    options = {"nogil": True, "error_model": "numpy", **more}
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep compiled code in
        return numba.njit(**options)(function)
    save = compiled._cache.save_overload

    def save_if_possible(*what: Any) -> None:
        with contextlib.suppress(OSError):  # a folder without room: compiled again next time
            save(*what)

    compiled._cache.save_overload = save_if_possible
    return compiled
