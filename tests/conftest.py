"""What the tests share: where the real scans are, and one thread per process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Two cores: tests start ranks of their own, and bits must repeat.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def scans() -> Path:
    """Folder of the real scans (``SRCT_SCANS``, default ``../shared/data`` beside the checkout)."""
    folder = Path(os.environ.get("SRCT_SCANS", CHECKOUT.parent / "shared" / "data"))
    if not (folder / "MANIFEST.md").is_file():
        reason = f"{folder}: the real scans are not there (set SRCT_SCANS)"
        if os.environ.get("SRCT_REQUIRE_SCANS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
