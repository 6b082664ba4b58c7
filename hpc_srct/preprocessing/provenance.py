"""Where a store's slices came from: what its master tells.

It holds nothing that depends on the memory, the ranks or the clock, so that the same scan and
settings give the same bytes.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from hpc_srct import __version__
from hpc_srct.preprocessing.record import Record
from hpc_srct.scan import Scan
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices import StoreWriter
from hpc_srct.slices.normalisation import STATISTIC, mean_intensity
from hpc_srct.tomography.geometry import field_of_view


def versions() -> dict[str, str]:
    """Versions of what makes the numbers."""
    found = {"hpc_srct": __version__}
    for name in ("numpy", "scipy", "numba", "h5py"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def tell(
    scan: Scan, writer: StoreWriter, settings: PreprocessingSettings, record: Record
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Collect the provenance, and the figures that `StoreWriter.finish` takes beside it."""
    low_views = settings.low_views(scan.n_views)
    intensities = writer.per_slice("intensity")
    clipped = writer.per_slice("clipped")
    per_row = scan.n_views * scan.n_columns
    centre = record.centre["value"]
    figures = {
        "scale": mean_intensity(intensities),
        "field_of_view": field_of_view(scan.n_columns, centre),
        "centre": centre,
        "pixel_size": scan.pixel_size,
        "low_angles": scan.angles[low_views],
    }
    story = {
        "made_by": "srct preprocess",
        "versions": record.versions,
        "source": record.source,
        "settings": record.result,
        "rows": [int(writer.rows[0]), int(writer.rows[-1]) + 1],
        "views": {
            "scan": scan.n_views,
            "low": low_views.tolist(),
            **({"without_light": record.lost} if record.lost else {}),
        },
        "angles": {
            "units": "rad",
            "full": scan.angles.tolist(),
            "low": scan.angles[low_views].tolist(),
        },
        "centre": record.centre,
        "dose": record.dose or "all photons that were counted",
        "field_of_view": {"units": "pixel", "radius": figures["field_of_view"]},
        "pixel_size": {"units": "m", "value": scan.pixel_size},
        "intensity": {
            "units": "1/pixel",
            "scale": figures["scale"],
            "statistic": STATISTIC,
            "clipped_fraction": float(clipped.sum() / (per_row * len(clipped))),
            "clipped_fraction_of_worst_row": float(clipped.max() / per_row),
            "slices_without_a_number": int(np.isnan(intensities).sum()),
        },
        "notes": list(scan.notes),
    }
    return story, figures
