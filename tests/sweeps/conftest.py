"""A Slurm that only takes notes, and a site to submit to."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweeps.fake_slurm import FakeSlurm

from hpc_srct.settings.site import Site, load_site
from hpc_srct.sweeps import Sweep

SITE = """\
inherit: sites/ihep.yaml
mpi: pmi2
requeue: true
python: /opt/python
cpu: {time_limit: 2h}
gpu: {time_limit: "1-00:00:00", gpus_per_node: 4}
"""

HOSTILE = 'it\'s "here" #$(touch pwned) `touch pwned`'


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Slurm's commands, faked, first on PATH."""
    fake = FakeSlurm(tmp_path / "fake-slurm")
    monkeypatch.setenv("PATH", fake.path)
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    return fake


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    """A complete profile over the shipped one."""
    path = tmp_path / "my-site.yaml"
    path.write_text(SITE)
    return path


@pytest.fixture
def site(site_file: Path) -> Site:
    """The same, read."""
    return load_site(site_file)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Make a sweep of three seeds, as often as it is called anew."""
    (tmp_path / "exp.yaml").write_text("epochs: 3\n")
    monkeypatch.setattr(
        "hpc_srct.sweeps.snapshot.files", lambda: [("hpc_srct/a.py", Path(__file__))]
    )

    def sweep(**settings: object) -> Sweep:
        tree = {
            "experiment": "exp.yaml",
            "name": "talk",
            "grid": {"seed": [1, 2, 3]},
            "out": str(tmp_path / HOSTILE),
            **settings,
        }
        return Sweep(tree, tmp_path)

    return sweep


@pytest.fixture
def taken(slurm):
    """A Slurm that takes an array and the evaluation after it."""
    slurm.answer("sbatch", "Submitted batch job 101\n", "Submitted batch job 102\n")
    return slurm
