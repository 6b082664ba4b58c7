"""Tiny stores, and where training processes come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from training.nursery import Nursery
from training.tiny_runs import make_store


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One store to train on and one to validate on."""
    folder = tmp_path_factory.mktemp("stores")
    return make_store(folder / "train", 6, 1), make_store(folder / "validation", 2, 2)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Starts training processes, imports done once."""
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()
