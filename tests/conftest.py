"""What the tests share: where the real scans are, and one thread per process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Two cores: tests start ranks of their own, and bits must repeat.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what goes to the background deaf to Ctrl-C, and every process of a test would be.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
