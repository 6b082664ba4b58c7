"""Time of ring removal, zinger removal and centre finding, next to algotom in one run.

    python benchmarks/rings.py                 # 1500 views × 2048 columns

One core, one sinogram, processor times. algotom (`pip install algotom`) is left out where it is
not installed. The sinogram is Toft's phantom with photon noise and stripes of every kind.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import common
import numpy as np
import phantom
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hpc_srct.tomography import rings
from hpc_srct.tomography.centre import find_centre
from hpc_srct.tomography.zingers import remove_zingers

SHIFT = 7.3


def striped(views: int, columns: int, photons: float = 2e4) -> tuple[NDArray, NDArray]:
    """Make a sinogram with photon noise, and the same with stripes of every kind."""
    rng = np.random.default_rng(0)
    angles = np.arange(views) * np.pi / views
    centre = (columns - 1) / 2 + SHIFT
    exact = phantom.sinogram(angles, columns, centre, size=int(0.88 * columns))
    exact *= 2 / exact.max()
    noisy = -np.log(np.maximum(rng.poisson(photons * np.exp(-exact)), 1) / photons)
    dirty = noisy + rng.normal(0, 0.01, columns) * (rng.random(columns) < 0.3)
    dirty[:, columns // 7 : columns // 7 + 6] += 0.08
    dirty[:, columns // 2 : columns // 2 + 20] *= 1.1
    dirty[:, columns // 3] = rng.normal(0.5, 0.3, views)
    dirty[:, columns // 4 : columns // 4 + 3] = 0.2
    # A sort may order equal values of a column either way: let none be equal.
    dirty += 2e-6 * np.argsort(np.argsort(dirty, axis=0), axis=0)
    return noisy.astype(np.float32), dirty.astype(np.float32)


def peers() -> tuple[Any, Any] | None:
    """Give algotom's modules, or None."""
    try:
        from algotom.prep import calculation, removal
    except ImportError:
        return None
    return removal, calculation


def once(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Give the least processor time of `work`, s, and what it found."""
    answers: list[Any] = []
    spent = common.timed(lambda: answers.append(work()), repeats)
    return round(spent["cpu_s"], 4), answers[-1]


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--views", type=int, default=1500)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()
    noisy, dirty = striped(arguments.views, arguments.columns)
    angles = np.arange(arguments.views) * np.pi / arguments.views
    centre = (arguments.columns - 1) / 2 + SHIFT
    found = peers()
    removal, calculation = found or (None, None)
    light = np.exp(-dirty)
    works: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
        (
            "rings by sorting",
            lambda: rings.remove_stripes_sorting(dirty),
            lambda: removal.remove_stripe_based_sorting(dirty),
        ),
        (
            "rings, all kinds",
            lambda: rings.remove_stripes_all(dirty),
            lambda: removal.remove_all_stripe(dirty),
        ),
        (
            "zingers",
            lambda: remove_zingers(light)[0],
            lambda: removal.remove_zinger(light, 0.08),
        ),
        (
            "centre",
            lambda: find_centre(noisy, angles).value,
            lambda: calculation.find_center_vo(noisy),
        ),
    ]
    table = Table("step", "ours, s", "algotom, s", "ratio", "largest difference")
    rows = []
    for name, ours, theirs in works:
        row: dict[str, Any] = {"step": name}
        row["ours_s"], ours_found = once(ours, 5)
        words = [f"{row['ours_s']:.3f}", "not installed", "", ""]
        theirs_found = None
        if removal is not None:
            row["algotom_s"], theirs_found = once(theirs, 1)
            row["ratio"] = round(row["algotom_s"] / row["ours_s"], 1)
            words[1:3] = f"{row['algotom_s']:.2f}", f"{row['ratio']:.1f}"
        if name == "centre":
            row["error_px"] = round(abs(ours_found - centre), 3)
            words[3] = f"error {row['error_px']} px"
            if theirs_found is not None:
                row["algotom_error_px"] = round(abs(float(theirs_found) - centre), 3)
                words[3] += f", algotom's {row['algotom_error_px']}"
        elif name.startswith("rings") and theirs_found is not None:
            difference = np.abs(ours_found - theirs_found).max() / np.ptp(dirty)
            row["largest_relative_difference"] = float(difference)
            words[3] = f"{difference:.0e}"
        table.add_row(name, *words)
        rows.append(row)
    Console().print(table)
    path = common.write_result(
        "rings",
        rows,
        arguments.out,
        threads=1,
        views=arguments.views,
        columns=arguments.columns,
        versions=common.versions("algotom", "scipy"),
    )
    print(path)


if __name__ == "__main__":
    main()
