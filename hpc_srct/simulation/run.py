"""Simulate a scan and write it as a raw DXchange file with the truth beside it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

import hpc_srct
from hpc_srct import console
from hpc_srct.files import refuse_to_overwrite
from hpc_srct.hdf5 import hdf5_written_aside
from hpc_srct.settings.simulation import FULL_SCALE, SimulationSettings
from hpc_srct.simulation.beam import Beam, transmission
from hpc_srct.simulation.phantoms import phantom
from hpc_srct.simulation.shapes import line_integrals, pixel_means

# Frames of several rows are gathered before they are written: a row at a time is slow.
_BLOCK_BYTES = 64 << 20


def angles(settings: SimulationSettings) -> np.ndarray:
    """Space the views evenly over the range, its end left out; degrees."""
    start, end = settings.angle_range
    return start + (end - start) / settings.views * np.arange(settings.views)


def centre(settings: SimulationSettings) -> float:
    """Column on which the rotation axis falls, 0-based."""
    return (settings.size - 1) / 2 + settings.centre_offset


def simulate_scan(settings: SimulationSettings, out: Path | str, progress: bool = True) -> None:
    """Simulate a scan; its peak memory does not grow with the number of rows.

    Parameters
    ----------
    settings
        What to simulate. Equal settings give equal files.
    out
        The HDF5 file: DXchange, with the truth (attenuation per pixel; row, y, x) in
        ``/simulation/truth/data``, the settings in ``/simulation/settings`` (JSON) and the
        axis in ``/simulation/centre``.
    progress
        Show how far it is.

    Raises
    ------
    InputError
        `out` exists.
    MachineError
        `out` cannot be written.
    """
    out = Path(out)
    refuse_to_overwrite(out, "a scan to be simulated")
    with (
        hdf5_written_aside(out) as file,
        console.progress(f"simulate {out.name}", settings.rows, rank=0 if progress else 1) as steps,
    ):
        _write_frame(file, settings)
        scene, beam = phantom(settings), Beam(settings)
        block = max(1, _BLOCK_BYTES // (2 * settings.views * settings.size))
        for first in range(0, settings.rows, block):
            rows = range(first, min(first + block, settings.rows))
            shape = (len(rows), settings.views, settings.size)
            frames = np.empty(shape, np.uint16)
            for row in rows:
                frames[row - first], truth = simulate_row(settings, scene, beam, row)
                file["simulation/truth/data"][row] = truth
                steps.advance()
            here = slice(rows.start, rows.stop)
            file["exchange/data"][:, here] = frames.transpose(1, 0, 2)
            for name, group in (("data_white", beam.flats), ("data_dark", beam.darks)):
                if f"exchange/{name}" in file:
                    stack = np.stack([group(row) for row in rows], axis=1)
                    file[f"exchange/{name}"][:, here] = stack
            file.check()
    if beam.clipped:
        frames = settings.views + settings.flats + settings.darks
        share = beam.clipped / (frames * settings.rows * settings.size)
        console.warn(
            f"{out}: {share:.2%} of the pixels are brighter than {FULL_SCALE} counts and were"
            " clipped; choose a lower counts_per_photon."
        )


def simulate_row(settings: SimulationSettings, scene, beam: Beam, row: int):
    """Simulate one detector row.

    Returns
    -------
    frames : ndarray
        (views, columns) uint16 counts.
    truth : ndarray
        (size, size) float32 attenuation per pixel, averaged over each pixel's area.
    """
    sections = scene.sections(row)
    radians = np.deg2rad(angles(settings))
    scale = _scale(settings, row)
    seen, truth = 0.0, 0.0
    for shapes in sections:
        integrals = line_integrals(
            shapes, radians, settings.size, centre(settings), settings.samples
        )
        factor = scale if scene.one_object else scale / integrals.max()
        seen = seen + transmission(factor * integrals, settings)
        truth = truth + factor * pixel_means(shapes, settings.size)
    frames = beam.frames(row, seen / len(sections))
    return frames, (truth / len(sections)).astype(np.float32)


def _scale(settings: SimulationSettings, row: int) -> float:
    if settings.phantom == "foam":
        return settings.attenuation
    spread = np.random.default_rng([settings.seed, 2, row]).uniform(0, settings.attenuation_spread)
    return settings.attenuation * (1 - spread)


def _write_frame(file: h5py.File, settings: SimulationSettings) -> None:
    """Write everything but the counts and the truth, whose datasets are made."""
    rows, size = settings.rows, settings.size
    file["implements"] = "exchange:measurement"
    exchange = file.create_group("exchange")
    exchange["title"] = f"simulated scan: {settings.phantom}"
    for name, frames, first_axis in (
        ("data", settings.views, "theta"),
        ("data_white", settings.flats, "theta_white"),
        ("data_dark", settings.darks, "theta_dark"),
    ):
        if frames:
            dataset = exchange.create_dataset(name, (frames, rows, size), np.uint16)
            dataset.attrs["units"] = "counts"
            dataset.attrs["axes"] = f"{first_axis}:y:x"
    exchange["theta"] = angles(settings)
    exchange["theta"].attrs["units"] = "deg"
    file["measurement/sample/name"] = f"{settings.phantom}, seed {settings.seed}"
    for name in ("pixel_size_x", "pixel_size_y"):
        key = f"measurement/instrument/detector/{name}"
        file[key] = settings.pixel_size
        file[key].attrs["units"] = "m"
    truth = file.create_dataset("simulation/truth/data", (rows, size, size), np.float32)
    truth.attrs["units"] = "attenuation per pixel"
    truth.attrs["axes"] = "row:y:x"
    file["simulation/settings"] = json.dumps(settings.dump(), indent=2)
    file["simulation/centre"] = centre(settings)
    file["simulation/centre"].attrs["units"] = "pixels, 0-based"
    file["simulation/version"] = hpc_srct.__version__
