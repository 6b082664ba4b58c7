"""The slice store: many reconstructions of the same rows, in one folder of plain HDF5."""

from hpc_srct.slices.blocks import BLOCK_ROWS
from hpc_srct.slices.normalisation import Normalisation
from hpc_srct.slices.store import SliceStore
from hpc_srct.slices.writer import StoreWriter

__all__ = ["BLOCK_ROWS", "Normalisation", "SliceStore", "StoreWriter"]
