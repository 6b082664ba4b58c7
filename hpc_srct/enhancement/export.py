"""TIFF, one file a slice: attenuation as it is (32 bits), or scaled to 16 or 8.

How grey values turn back into attenuation is written in every file (ImageDescription, as JSON)
and once beside them (``scaling.json``). One scaling holds for the whole volume.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from hpc_srct import console
from hpc_srct.errors import InputError
from hpc_srct.files import write_json, written_aside
from hpc_srct.ranks import Communicator
from hpc_srct.slices import SliceStore

BITS = {32: np.float32, 16: np.uint16, 8: np.uint8}
PERCENTILES = (0.05, 99.95)
SIDECAR = "scaling.json"
_UNITS = {False: "1/pixel", True: "1/m"}


def export_tiff(
    store: SliceStore,
    folder: Path | str,
    communicator: Communicator | None = None,
    *,
    name: str = "enhanced",
    bits: int = 32,
    per_metre: bool = False,
    window: tuple[float, float] | None = None,
) -> Path:
    """Write the slices of a store as TIFF files named by detector row.

    Parameters
    ----------
    store
        A slice store.
    folder
        Made where it is missing. Files of the same export that are there already stay.
    communicator
        The ranks that share the work.
    name
        Which array of the store.
    bits
        32 (float), 16 or 8 (unsigned integers).
    per_metre
        Attenuation per metre instead of per pixel; the store must know its pixel size.
    window
        Attenuation (in the exported unit) of the darkest and the brightest integer. Default: the
        0.05th and the 99.95th percentile inside the field of view, the lowest and highest of
        all slices. What lies beyond is clipped and counted; NaN becomes 0.

    Returns
    -------
    Path
        The JSON file with the scaling.

    Raises
    ------
    InputError
        Unknown bits, no pixel size, or another export in the folder.
    MachineError
        The disk is full.
    """
    ranks = communicator or Communicator()
    folder = Path(folder)
    _check_kind(bits, per_metre, store.pixel_size, store.master)
    factor = 1 / store.pixel_size if per_metre else 1.0
    mine = range(ranks.rank, store.n_slices, ranks.size)
    scaling: dict[str, Any] = {
        "array": name,
        "quantity": "attenuation",
        "unit": _UNITS[per_metre],
        "pixel_size_m": store.pixel_size,
        "bits": bits,
        "offset": 0.0,
        "slope": 1.0,
    }
    if bits < 32:
        low, high = window or _window(store, name, mine, ranks, factor)
        scaling |= {
            "offset": low,
            "slope": (high - low) / (2**bits - 1),
            "clipped_to": [low, high],
            "missing_values": 0,
        }
    scaling["formula"] = "attenuation = offset + slope * grey value"
    scaling["source"] = store.provenance.get("settings")
    scaling = json.loads(json.dumps(scaling, default=str))
    if ranks.rank == 0:
        _claim(folder, scaling)
    ranks.barrier()

    clipped = 0
    with console.progress("TIFF", len(mine), rank=ranks.rank) as steps:
        for index in mine:
            path = folder / f"slice_{store.rows[index]:05d}.tif"
            if not path.is_file():
                values = store.read(name, index) * np.float32(factor)
                grey, outside = _grey(values, scaling)
                clipped += outside
                _write(path, grey, scaling, int(store.rows[index]))
            steps.advance()
    total = ranks.gather(clipped)
    if ranks.rank == 0 and sum(total):
        share = sum(total) / (store.n_slices * store.size[0] * store.size[1])
        console.say(
            f"{folder}: {share:.2%} of the pixels lie beyond the grey scale and were clipped."
        )
    return folder / SIDECAR


def check_export(
    folder: Path | str,
    source: Path,
    *,
    pixel_size: float | None,
    plan: Mapping[str, Any],
    name: str = "enhanced",
    bits: int = 32,
    per_metre: bool = False,
) -> None:
    """Refuse what `export_tiff` would refuse, before there are slices to export.

    Parameters
    ----------
    folder, name, bits, per_metre
        As for `export_tiff`.
    source
        Names the store or the scan in messages.
    pixel_size
        Metres, or None.
    plan
        What is known of the settings that the slices will have been made with.

    Raises
    ------
    InputError
        Unknown bits, no pixel size, or another export in the folder.
    """
    _check_kind(bits, per_metre, pixel_size, source)
    unit = _UNITS[per_metre]
    _is_begun(Path(folder), {"array": name, "unit": unit, "bits": bits, "source": plan})


def _check_kind(bits: int, per_metre: bool, pixel_size: float | None, source: Path) -> None:
    if bits not in BITS:
        raise InputError(f"TIFF bits: expected 32, 16 or 8; found {bits}.")
    if per_metre and not pixel_size:
        raise InputError(
            f"{source}: the pixel size is not known, so attenuation per metre is not;"
            " export per pixel."
        )


def _window(
    store: SliceStore, name: str, mine: range, ranks: Communicator, factor: float
) -> tuple[float, float]:
    radius = store.field_of_view or min(store.size) / 2
    y, x = (np.arange(n) - (n - 1) / 2 for n in store.size)
    inside = y[:, None] ** 2 + x[None, :] ** 2 <= radius**2
    ends = []
    for index in mine:
        values = store.read(name, index)[inside]
        values = values[np.isfinite(values)]
        if values.size:
            ends.append(np.percentile(values, PERCENTILES) * factor)
    every = [end for part in ranks.gather(ends) or [] for end in part]
    window = None
    if every:
        window = float(min(low for low, _ in every)), float(max(high for _, high in every))
    low, high = ranks.broadcast(window) or (0.0, 1.0)
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def _grey(values: np.ndarray, scaling: dict[str, Any]) -> tuple[np.ndarray, int]:
    """Turn attenuation into grey values; also count the pixels that were clipped."""
    kind = BITS[scaling["bits"]]
    if kind is np.float32:
        return values, 0
    top = np.iinfo(kind).max
    grey = np.round((values.astype(np.float64) - scaling["offset"]) / scaling["slope"])
    outside = int(np.count_nonzero((grey < 0) | (grey > top)))
    return np.nan_to_num(np.clip(grey, 0, top), nan=0.0).astype(kind), outside


def _write(path: Path, grey: np.ndarray, scaling: dict[str, Any], row: int) -> None:
    size = scaling["pixel_size_m"]
    pixels_per_cm = 0.01 / size if size else 1.0
    # Into memory first: numpy, through which tifffile writes, does not tell why a disk refuses.
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        grey,
        photometric="minisblack",
        description=json.dumps({"row": row, **scaling}),
        metadata=None,
        software="hpc_srct",
        resolution=(pixels_per_cm, pixels_per_cm),
        resolutionunit="CENTIMETER" if size else "NONE",
    )
    with written_aside(path) as aside:
        aside.write_bytes(file.getbuffer())


def _claim(folder: Path, scaling: dict[str, Any]) -> None:
    if not _is_begun(folder, scaling):
        write_json(folder / SIDECAR, scaling)


def _is_begun(folder: Path, scaling: Mapping[str, Any]) -> bool:
    """Tell whether this export was begun in a folder; refuse one that holds anything else."""
    record = folder / SIDECAR
    if record.is_file():
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{record}: is damaged; remove {folder} to start anew.") from error
        if not _agrees(found, scaling):
            raise InputError(
                f"{folder}: holds a TIFF export of something else or with another scaling;"
                " choose another folder, or remove it."
            )
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not a TIFF export; choose another folder.")
    return False


def _agrees(found: Any, expected: Any) -> bool:
    """Tell whether what was found has all that is expected, and may be more."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        return all(_agrees(found.get(key), value) for key, value in expected.items())
    return found == expected
