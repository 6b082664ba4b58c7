"""One slice reconstructed with several centres, side by side: the eye is the last judge."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from hpc_srct import console
from hpc_srct.errors import InputError
from hpc_srct.files import refuse_to_overwrite, written_aside
from hpc_srct.preprocessing.frames import Times
from hpc_srct.preprocessing.plan import reading_outside_plan
from hpc_srct.preprocessing.rows import RowWise
from hpc_srct.preprocessing.run import opened
from hpc_srct.preprocessing.sinograms import SinogramReader
from hpc_srct.ranks import Communicator
from hpc_srct.settings.preprocessing import PreprocessingSettings

MOST = 48
SHOWN = 512
_NUMBER = r"-?\d+(?:\.\d*)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(?::({_NUMBER}))?")


def centres_of(text: str) -> np.ndarray:
    """Read ``FIRST:LAST:STEP`` (the last included; step 1 where it is left out).

    Raises
    ------
    InputError
        Not of this form, or more centres than a sheet holds.
    """
    match = _RANGE.fullmatch(text.strip())
    if not match:
        raise InputError(f"try-centres: {text} expected as FIRST:LAST:STEP, as in 290:300:0.5.")
    first, last, step = (float(part) if part else 1.0 for part in match.groups())
    if step <= 0 or last < first:
        raise InputError(f"try-centres: {text} expected rising, with a step above 0.")
    count = int((last - first) / step + 1e-6) + 1
    if count > MOST:
        raise InputError(f"try-centres: {text} are {count} centres; at most {MOST} fit a sheet.")
    return first + step * np.arange(count)


def try_centres(
    scan_path: Path | str, out: Path | str, centres: str, settings: PreprocessingSettings
) -> Path:
    """Reconstruct the middle one of the chosen rows with several centres and draw them.

    Parameters
    ----------
    scan_path
        The raw scan.
    out
        The picture to write; ``.png`` is added where it has no such ending.
    centres
        ``FIRST:LAST:STEP``, detector pixels.
    settings
        Those of preprocessing: the steps before the reconstruction and its filter.

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    InputError
        A scan that cannot be read, centres off the detector, a picture that is there.
    """
    out = Path(out)
    out = out if out.suffix == ".png" else out.with_name(out.name + ".png")
    refuse_to_overwrite(out, "the picture")
    wanted = centres_of(centres)
    tried = [settings.model_copy(update={"centre": float(c)}) for c in wanted]
    scan = opened(scan_path, settings.model_copy(update={"stitch": False}))
    local = [one.centre_among_chosen() for one in tried]
    if min(local) < 0 or max(local) > scan.n_columns - 1:
        raise InputError(
            f"try-centres: {centres} expected on the detector of {scan.path}, 0 to"
            f" {scan.n_columns - 1}."
        )
    rows = settings.chosen_rows(scan.n_rows)
    row = rows[len(rows) // 2]
    reader = SinogramReader(scan, scan, settings, Communicator(), Times())
    reading = reading_outside_plan(scan, 1, settings.phase is not None)
    sinograms, _, _ = reader.read(np.array([row]), [slice(0, 1)], reading)
    if not np.isfinite(sinograms).any():
        raise InputError(
            f"try-centres: row {row * settings.binning} of {scan.path} has no live pixel; choose"
            " others: rows=FIRST:STOP."
        )
    without = settings.model_copy(update={"splits": 0, "sinogram": False})
    slices = []
    with console.progress("try centres", len(local)) as steps:
        for centre in local:
            row_wise = RowWise(scan.angles, scan.n_columns, centre, without, Times())
            made = row_wise.reconstruct(sinograms.copy())
            slices.append(next(one.values[0] for one in made if one.name == "full"))
            steps.advance()
    _draw(out, slices, wanted, f"{scan.path.name}, row {row * settings.binning}")
    return out


def _draw(path: Path, slices: list[np.ndarray], centres: np.ndarray, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = slices[0].shape[0]
    first = max(0, (size - SHOWN) // 2)
    inside = slice(first, size - first)
    shown = [image[inside, inside] for image in slices]
    low, high = np.nanpercentile(np.stack(shown), (0.5, 99.5))
    across = math.ceil(math.sqrt(len(shown)))
    down = math.ceil(len(shown) / across)
    figure = Figure(figsize=(3.2 * across, 3.4 * down + 0.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    part = "" if first == 0 else f", the middle {SHOWN} of {size} pixels"
    figure.suptitle(f"{title}{part}: rotation centres in detector pixels, one grey scale")
    for number in range(across * down):
        axes = figure.add_subplot(down, across, number + 1)
        axes.set_axis_off()
        if number < len(shown):
            axes.imshow(shown[number], cmap="gray", vmin=low, vmax=high)
            axes.set_title(f"{centres[number]:g}")
    with written_aside(path) as aside:
        figure.savefig(aside, format="png")
