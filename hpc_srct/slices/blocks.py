"""How the rows of a store are cut into blocks, and where each thing stands in its files.

Blocks are counted from the store's first slice, so they depend on the rows alone: never on
the memory or on the number of ranks.
"""

from __future__ import annotations

BLOCK_ROWS = 32
MASTER = "slices.h5"
SHARDS = "shards"
CHUNK = 256
SINOGRAM = "low/sinogram"


def block_count(n_slices: int) -> int:
    """Count the blocks of a store; the last may be short."""
    return -(-n_slices // BLOCK_ROWS)


def block_slices(block: int, n_slices: int) -> range:
    """Give the slices of a block, counted from the store's first."""
    return range(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, n_slices))


def shard_name(block: int, n_slices: int) -> str:
    """Name a block's file, relative to the store."""
    inside = block_slices(block, n_slices)
    return f"{SHARDS}/rows-{inside[0]:05d}-{inside[-1]:05d}.h5"


def dataset_path(name: str) -> str:
    """Say where an array stands, in a shard as in the master.

    Examples
    --------
    >>> dataset_path("low"), dataset_path("splits/0"), dataset_path("low/sinogram")
    ('/entry/low/data', '/entry/splits/0/data', '/entry/low/sinogram')
    """
    return f"/entry/{name}" if name == SINOGRAM else f"/entry/{name}/data"
