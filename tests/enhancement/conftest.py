"""A small store, and a network with something to say about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from enhancement.cases import described, restless, volume, write_store

from hpc_srct.models.files import save_model


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    return write_store(tmp_path_factory.mktemp("stores") / "scan", volume())


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "unet.safetensors"
    return save_model(restless("unet"), described(), path)
