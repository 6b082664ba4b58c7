"""The contact sheet: which centres, of which slice, and where it is written."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from hpc_srct.errors import InputError
from hpc_srct.preprocessing import contact_sheet, try_centres
from hpc_srct.preprocessing.contact_sheet import centres_of
from hpc_srct.settings.base import load
from hpc_srct.settings.preprocessing import PreprocessingSettings

from .conftest import write_scan


def test_centres():
    assert centres_of("290:292:0.5").tolist() == [290, 290.5, 291, 291.5, 292]
    assert centres_of("3:5").tolist() == [3, 4, 5]
    assert centres_of("0:1:0.3").tolist() == pytest.approx([0, 0.3, 0.6, 0.9])
    for wrong in ("3", "5:3:1", "3:5:0", "a:b:c", "0:1000:1"):
        with pytest.raises(InputError, match="try-centres"):
            centres_of(wrong)


def test_the_sheet(tmp_path, monkeypatch):
    scan = write_scan(tmp_path / "scan.h5", rows=5, views=90, columns=64, centre=30.0)
    drawn = {}
    draw = contact_sheet._draw

    def seen(path, slices, centres, title):
        drawn.update(slices=slices, centres=centres, title=title)
        draw(path, slices, centres, title)

    monkeypatch.setattr(contact_sheet, "_draw", seen)
    path = try_centres(scan, tmp_path / "sheet", "28:32:1", PreprocessingSettings())
    assert path == tmp_path / "sheet.png"
    assert imread(path).ndim == 3
    assert drawn["centres"].tolist() == [28, 29, 30, 31, 32]
    assert drawn["title"] == "scan.h5, row 2"
    # A slice with the right centre has the least outside its object.
    y, x = np.mgrid[:64, :64] - 31.5
    outside = (np.hypot(x, y) > 26) & (np.hypot(x, y) < 29)
    stray = [image[outside].std() for image in drawn["slices"]]
    assert int(np.argmin(stray)) == 2
    with pytest.raises(InputError, match="exists already"):
        try_centres(scan, tmp_path / "sheet", "28:32:1", PreprocessingSettings())


def test_centres_count_the_detectors_own_pixels(tmp_path, monkeypatch):
    scan = write_scan(tmp_path / "scan.h5", rows=4, views=90, columns=64, centre=30.0)
    made = []
    row_wise = contact_sheet.RowWise
    monkeypatch.setattr(
        contact_sheet,
        "RowWise",
        lambda angles, columns, centre, *rest: (
            made.append((columns, centre)) or row_wise(angles, columns, centre, *rest)
        ),
    )
    settings = load(PreprocessingSettings, overrides=["binning=2", "columns=4:64"])
    try_centres(scan, tmp_path / "sheet.png", "29:31:2", settings)
    assert made == [(30, 12.25), (30, 13.25)]
    with pytest.raises(InputError, match="on the detector"):
        try_centres(scan, tmp_path / "other.png", "0:2:1", settings)
