"""Raw files to scans: frames, flats, darks, angles and pixel size, read lazily."""

from hpc_srct.scan.reader import FrameGroup, Scan, open_scan

__all__ = ["FrameGroup", "Scan", "open_scan"]
