"""Small raw scans with exact line integrals, and real MPI ranks to work on them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

MPIEXEC = Path(sys.executable).parent / "mpiexec"


def disc_integrals(
    angles: np.ndarray, columns: int, centre: float, x: float, y: float, radius: float, value: float
) -> np.ndarray:
    """Line integrals (view, column) of a disc at (x, y), each the mean over its pixel."""
    edges = np.arange(columns + 1) - 0.5 - centre
    s = edges - (x * np.cos(angles) + y * np.sin(angles))[:, None]
    s = np.clip(s, -radius, radius)
    # The primitive of the chord 2·sqrt(r² − s²).
    area = s * np.sqrt(radius**2 - s**2) + radius**2 * np.arcsin(s / radius)
    return value * np.diff(area, axis=1)


def write_scan(
    path: Path,
    rows: int = 40,
    views: int = 48,
    columns: int = 48,
    centre: float | None = None,
    noise: float = 0.0,
    chunked: bool = False,
    dtype: type = np.float32,
    drift: float = 1.0,
    attenuation: float = 0.02,
    tilt: float = 0.0,
    angles: np.ndarray | None = None,
) -> Path:
    """Write a DXchange scan: in each row two discs, at places that differ from row to row.

    The beam's intensity goes from 1 to `drift` over the scan; flats stand before and after. The
    axis leans by `tilt` degrees about the middle row.
    """
    rng = np.random.default_rng(1)
    angles = np.arange(views) * np.pi / views if angles is None else angles
    centre = (columns - 1) / 2 if centre is None else centre
    leaning = centre + np.tan(np.radians(tilt)) * (np.arange(rows) - (rows - 1) / 2)
    radius = min(centre, columns - 1 - centre)
    turn = np.arange(rows) * 0.3
    integrals = np.stack(
        [
            disc_integrals(angles, columns, axis, 0, 0, 0.8 * radius, attenuation)
            + disc_integrals(
                angles,
                columns,
                axis,
                0.4 * radius * np.cos(t),
                0.4 * radius * np.sin(t),
                0.2 * radius,
                attenuation,
            )
            for t, axis in zip(turn, leaning, strict=True)
        ],
        axis=1,
    )
    gain = 1 + 0.1 * rng.random((rows, columns))
    beam = 1 + (drift - 1) * (np.arange(views) + 0.5) / views
    counts = 100 + 20000 * beam[:, None, None] * gain * np.exp(-integrals)
    counts += noise * rng.normal(size=counts.shape)
    flats = 100 + 20000 * gain * np.array([1, 1, 1, drift, drift, drift])[:, None, None]
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "exchange/data",
            data=counts.astype(dtype),
            chunks=(1, rows, columns) if chunked else None,
            compression="gzip" if chunked else None,
            compression_opts=1 if chunked else None,  # the quickest: reading is what is tested
        )
        data.attrs["axes"] = "theta:y:x"
        file["exchange/data_white"] = flats.astype(dtype)
        file["exchange/data_dark"] = np.full((2, rows, columns), 100, dtype)
        file["exchange/theta"] = np.degrees(angles)
        file["exchange/theta"].attrs["units"] = "deg"
        if drift != 1:
            file["exchange/theta_white"] = np.degrees([-0.01] * 3 + [np.pi] * 3)
    return path


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A scan of 40 rows: one block of 32 and one of 8."""
    return write_scan(tmp_path / "scan.h5")


def srct(*words: object, ranks: int = 1) -> list[str]:
    """Give the command line of ``srct`` on so many ranks."""
    launcher = [str(MPIEXEC), "-n", str(ranks)] if ranks > 1 else []
    return [*launcher, sys.executable, "-m", "hpc_srct", *map(str, words)]


def environment() -> dict[str, str]:
    """One thread for each rank."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


Preprocess = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def preprocessed() -> Preprocess:
    """Run ``srct preprocess`` in a process of its own."""

    def run(
        scan: Path, out: Path, *settings: str, ranks: int = 1, fails: bool = False
    ) -> subprocess.CompletedProcess:
        answer = subprocess.run(
            srct("preprocess", scan, "-o", out, *settings, ranks=ranks),
            capture_output=True,
            text=True,
            env=environment(),
            timeout=120,
        )
        if not fails:
            assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer

    return run


def fingerprint(store: Path) -> dict[str, str]:
    """Hash every file of a store."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def wait_for(happened: Callable[[], object], run: subprocess.Popen, seconds: float = 60) -> None:
    """Wait until something happens while a run goes on."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ranks_of(launcher: int) -> list[int]:
    """Find the Python processes below a launcher."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            parents[int(entry.name)] = (int(stat.rpartition(")")[2].split()[1]), words)

    def below(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid][0]
            if pid == launcher:
                return True
        return False

    return sorted(pid for pid, (_, words) in parents.items() if b"hpc_srct" in words and below(pid))


def kill_group(run: subprocess.Popen) -> None:
    """Kill a run and all that it started (it has a session of its own)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
