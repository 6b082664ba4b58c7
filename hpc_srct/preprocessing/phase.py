"""Phase retrieval as a frame-wise step: it needs whole frames, whichever rows are wanted."""

from __future__ import annotations

from hpc_srct.errors import InputError
from hpc_srct.scan import Scan
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.tomography.phase import Paganin


def pixel_size_for_phase(settings: PreprocessingSettings, scan: Scan) -> float | None:
    """Give the pixel size in metres, the settings' or the scan's; None without phase retrieval.

    Raises
    ------
    InputError
        It is in neither.
    """
    if settings.phase is None:
        return None
    pixel_size = settings.phase.pixel_size_m or scan.pixel_size
    if pixel_size is None:
        raise InputError(
            f"phase: {scan.path} names no pixel size; give it: phase.pixel_size_m=NUMBER."
        )
    return pixel_size


def phase_step(settings: PreprocessingSettings, scan: Scan) -> Paganin | None:
    """Make the step that the settings ask for; None where they ask for none.

    Raises
    ------
    InputError
        The pixel size is in neither the settings nor the scan.
    """
    asked, pixel_size = settings.phase, pixel_size_for_phase(settings, scan)
    if asked is None:
        return None
    return Paganin(
        (scan.n_rows, scan.n_columns),
        energy_kev=asked.energy_kev,
        distance_m=asked.distance_m,
        pixel_size_m=pixel_size,
        delta_beta=asked.delta_beta,
    )
