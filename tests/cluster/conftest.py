"""One real Slurm for all cluster tests: up at the first that asks, taken down at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.mini_slurm import CannotStart, MiniSlurm

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder, so that no test of it runs where none was asked for."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniSlurm]:
    """A two-node Slurm with accounting and fake GPUs."""
    slurm = MiniSlurm(tmp_path_factory.mktemp("slurm"))
    try:
        slurm.start()
    except CannotStart as error:
        if os.environ.get("SRCT_REQUIRE_CLUSTER") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    try:
        yield slurm
    finally:
        slurm.stop()


@pytest.fixture
def wait() -> Callable[..., None]:
    """Wait until something holds, or fail saying what did not."""

    def until(what: str, holds: Callable[[], object], within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
            time.sleep(0.25)

    return until
