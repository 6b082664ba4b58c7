"""Site profiles: what is required has no default, and nothing strange reaches an sbatch line."""

from __future__ import annotations

import pytest

from hpc_srct.errors import InputError
from hpc_srct.settings.base import from_tree
from hpc_srct.settings.site import Site, load_site

RESOURCES = {
    "partition": None,
    "account": None,
    "qos": None,
    "time_limit": "2h",
    "mem_per_cpu": "4G",
}
WHOLE = {
    "name": "here",
    "mpi": "pmi2",
    "requeue": True,
    "cpu": RESOURCES,
    "gpu": {**RESOURCES, "gpus_per_node": 4},
}


def site(**changes: object) -> Site:
    return from_tree(Site, {**WHOLE, **changes}, "site.yaml")


@pytest.mark.parametrize(
    ("profile", "missing"),
    [
        ("sites/ihep.yaml", "mpi, requeue, cpu.time_limit, gpu.time_limit, gpu.gpus_per_node"),
        (
            "sites/generic.yaml",
            "requeue, cpu.time_limit, cpu.mem_per_cpu, gpu.time_limit, gpu.mem_per_cpu, "
            "gpu.gpus_per_node",
        ),
    ],
)
def test_shipped_profiles_name_all_that_they_cannot_know(profile, missing):
    with pytest.raises(InputError, match="inherit") as caught:
        load_site(profile)
    assert f"not set: {missing}." in str(caught.value)


def test_ihep_is_what_public_scripts_show():
    own = ["mpi=pmi2", "requeue=true", "cpu.time_limit=1h", "gpu.time_limit=1h"]
    ihep = load_site("sites/ihep.yaml", [*own, "gpu.gpus_per_node=4"])
    assert (ihep.gpu.partition, ihep.gpu.qos, ihep.gpu.account) == ("gpu", "blnormal", "bldesign")
    assert (ihep.cpu.partition, ihep.cpu.qos) == ("bldesign", "blregular")
    assert (ihep.gpu.mem_per_cpu, ihep.cpu.mem_per_cpu) == ("12G", "2048")
    assert ihep.gpu.gres(2) == "gpu:v100:2"


def test_without_a_profile_the_message_says_how_to_write_one():
    with pytest.raises(InputError, match="--site"):
        load_site(None)


@pytest.mark.parametrize(
    ("text", "minutes"), [("90s", 2), ("2h", 120), ("1-00:00:00", 1440), (3600, 60), ("30:00", 30)]
)
def test_time_limits_in_minutes(text, minutes):
    assert site(stop_before_end=60, cpu={**RESOURCES, "time_limit": text}).cpu.minutes == minutes


def test_gres_follows_type_and_tasks():
    assert site().gpu.gres(3) == "gpu:3"
    assert (
        site(gpu={**RESOURCES, "gpus_per_node": 2, "gpu_type": "a100"}).gpu.gres(2) == "gpu:a100:2"
    )
    assert site(gpu={**RESOURCES, "gpus_per_node": 0}).gpu.gres(1) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu": {**RESOURCES, "partition": "gpu\n#SBATCH --uid=0"}},
        {"cpu": {**RESOURCES, "account": "a b"}},
        {"cpu": {**RESOURCES, "qos": ""}},
        {"cpu": {**RESOURCES, "mem_per_cpu": "lots"}},
        {"cpu": {**RESOURCES, "mem_per_cpu": 0}},
        {"mpi": "pmi2; rm -rf ."},
        {"setup": ["one\ntwo"]},
        {"environment": {"A B": "1"}},
        {"environment": {"A": "1\n2"}},
        {"options": {"constraint": "a b"}},
        {"gpu": {**RESOURCES, "gpus_per_node": -1}},
        {"gpu": {**RESOURCES, "gpus_per_node": 1, "time_limit": 0}},
        {"gpus": 3},
    ],
)
def test_refused(changes):
    with pytest.raises(InputError, match="site.yaml"):
        site(**changes)


@pytest.mark.parametrize("part", ["cpu", "gpu"])
def test_jobs_have_time_before_they_are_told_to_stop(part):
    values = {**WHOLE[part], "time_limit": "10m"}
    with pytest.raises(InputError, match=rf"'{part}': expected a time_limit above stop_before_end"):
        site(**{part: values}, stop_before_end="10m")
    assert site(**{part: values}, stop_before_end="9m").stop_before_end == 540


def test_numbers_in_the_environment_are_words():
    assert site(environment={"OMP_NUM_THREADS": 1}).environment == {"OMP_NUM_THREADS": "1"}
