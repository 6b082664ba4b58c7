"""Small simulated scans that took the same road as a real one, and runs that learned nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hpc_srct.models import build
from hpc_srct.models.files import save_model
from hpc_srct.preprocessing import preprocess
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.settings.simulation import SimulationSettings
from hpc_srct.simulation import simulate_scan


@pytest.fixture(scope="session")
def make_store(tmp_path_factory):
    """Simulate and preprocess a scan of 64 columns; keywords are simulation settings."""

    def make(name: str, preprocessing: dict | None = None, **settings) -> Path:
        folder = tmp_path_factory.mktemp(name)
        about = {"size": 64, "rows": 4, "views": 72, "photons": 1e4, **settings}
        simulate_scan(SimulationSettings(**about), folder / "scan.h5")
        how = {"views": "1/4", "centre": 31.5 + about.get("centre_offset", 0.0)}
        how = PreprocessingSettings(**{**how, **(preprocessing or {})})
        preprocess(folder / "scan.h5", folder / name, how)
        return folder / name

    return make


@pytest.fixture(scope="session")
def validation(make_store) -> Path:
    return make_store("validation", phantom="ellipses", seed=1)


@pytest.fixture(scope="session")
def test_store(make_store) -> Path:
    return make_store("test", phantom="ellipses", seed=2)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory, validation, test_store):
    """A run folder whose network is the identity, unless a module is given."""

    def make(name: str, module=None, architecture: str = "unet", **settings) -> Path:
        folder = tmp_path_factory.mktemp("runs") / name
        settings = {
            "name": name,
            "seed": 0,
            "precision": "O0",
            "train": ["nowhere"],
            "validation": [str(validation)],
            "test": [str(test_store)],
            "model": {"name": architecture, "width": 2, "depth": 1},
            **settings,
        }
        description = {
            "architecture": architecture,
            "width": 2,
            "depth": 1,
            "channels": 1,
            "normalisation": {"policy": "per-scan"},
            "input": "low",
            "label": settings.get("label", "truth"),
            "precision": settings["precision"],
            "stores": settings["train"],
        }
        save_model(module or build(architecture, 2, 1), description, folder)
        (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
        return folder

    return make
