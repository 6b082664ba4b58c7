"""Running a trained network over reconstructions: slices, stores, TIFF. Needs no DeepSpeed."""

from hpc_srct.enhancement.enhancer import PRECISIONS, Enhancer
from hpc_srct.enhancement.export import export_tiff
from hpc_srct.enhancement.run import enhance_store

__all__ = ["PRECISIONS", "Enhancer", "enhance_store", "export_tiff"]
