"""The pages of the three doors show what the code makes, and name what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from hpc_srct.settings.site import Site, load_site
from hpc_srct.settings.sweep import SweepSettings
from hpc_srct.sweeps import Sweep, batch
from hpc_srct.sweeps.ledger import Ledger
from hpc_srct.sweeps.submission import sbatch_text

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("slurm.md", "sweeps.md", "workstation.md")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL)


@pytest.fixture
def shown_site(tmp_path) -> Site:
    """The profile that the page shows."""
    path = tmp_path / "my-site.yaml"
    path.write_text(blocks("slurm.md", "yaml")[0])
    return load_site(path)


def test_the_batch_script_of_the_page(shown_site):
    template = (ROOT / "slurm" / "train.sbatch").read_text()
    code = Path("/data/me/jobs/code/0123456789ab")
    text = batch.render(template, shown_site, "train", nodes=2, code=code)
    [shown] = blocks("slurm.md", "bash")
    assert shown in text
    assert shown.startswith("#SBATCH")
    assert shown.endswith("# <<< site\n")


def test_the_profile_with_an_mpi_of_its_own(shown_site, tmp_path):
    tree = {
        **yaml.safe_load(blocks("slurm.md", "yaml")[0]),
        **yaml.safe_load(blocks("slurm.md", "yaml")[1]),
    }
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(tree))
    site = load_site(path)
    assert site.mpi == "pmix"
    assert "module load openmpi/4.1" in batch.environment_lines(site)


def test_the_sbatch_text_of_a_sweep(shown_site, monkeypatch):
    monkeypatch.setattr("hpc_srct.sweeps.snapshot.planned", lambda folder: folder / "0123456789ab")
    talk = Sweep.from_file("sweeps/talk.yaml")
    ledger = Ledger(Path("/data/me/sweeps/talk"))
    text = sbatch_text(talk.settings, shown_site, ledger, "talk-0a1b2c3d", len(talk.runs))
    [shown] = blocks("sweeps.md", "bash")
    assert shown.rstrip("\n") == text.rstrip("\n")


def test_the_sweep_of_the_page_is_valid():
    sweep = SweepSettings.model_validate(yaml.safe_load(blocks("sweeps.md", "yaml")[0]))
    runs = Sweep({**sweep.dump(), "experiment": {}}).runs
    assert len(runs) == 2 * 2 * 3 * 2


@pytest.mark.parametrize("name", PAGES)
def test_links_and_files_are_there(name):
    text = page(name)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        whole = ROOT / "docs" / path if path else ROOT / "docs" / name
        assert whole.is_file(), target
        headings = re.findall(r"^#+ (.*)$", whole.read_text(), re.MULTILINE)
        assert not anchor or anchor in {h.lower().replace(" ", "-") for h in headings}, target
    for named in re.findall(r"\b((?:slurm|launch|configs)/[\w./-]+\.(?:sh|sbatch|py|yaml))", text):
        assert (ROOT / named).is_file(), named


@pytest.mark.parametrize("name", PAGES)
def test_five_lines_to_copy_come_first(name):
    first = blocks(name, "console")[0]
    assert len(first.splitlines()) == 5
    assert all(line.startswith("$ ") for line in first.splitlines())
