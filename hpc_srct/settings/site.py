"""What a Slurm site wants to be told: the profile behind every job that is submitted.

What no default could guess right has none: partition, account and qos (null: the cluster's
own), time limits, memory, GPUs on a node, how MPI starts, whether jobs may be requeued. A
profile is usually a few lines over a shipped one::

    inherit: sites/ihep.yaml
    requeue: true
    ...
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from hpc_srct.errors import InputError
from hpc_srct.settings.base import Settings, load, override, read_tree
from hpc_srct.settings.experiment import Seconds


def _word(value: str) -> str:
    # These stand in #SBATCH lines, where nothing is quoted the way a shell would.
    allowed = set("_.:+=@,/-")
    if not value or not all(c.isascii() and (c.isalnum() or c in allowed) for c in value):
        raise ValueError("expected a word of letters, digits and _ . : + = @ , / -")
    return value


def _memory(value: object) -> object:
    text = str(value)
    digits = text[:-1] if text[-1:] in "KMGT" else text
    if isinstance(value, bool) or not digits.isdigit() or int(digits) == 0:
        raise ValueError("expected a memory such as 4096 (MB) or 12G")
    return text


def _one_line(value: str) -> str:
    if "\n" in value or "\0" in value:
        raise ValueError("expected one line")
    return value


Word = Annotated[str, AfterValidator(_word)]
Line = Annotated[str, AfterValidator(_one_line)]
Memory = Annotated[str, BeforeValidator(_memory)]


class Resources(Settings):
    """Where jobs of one kind go and what they get.

    Attributes
    ----------
    partition, account, qos
        As ``sbatch`` takes them; null leaves the choice to the cluster.
    time_limit
        After which Slurm ends a job: ``12h``, ``"1-00:00:00"``, or seconds.
    mem_per_cpu
        Memory for each CPU: megabytes, or with K, M, G, T.
    cpus_per_task
        CPUs for each rank.
    """

    partition: Word | None
    account: Word | None
    qos: Word | None
    time_limit: Seconds
    mem_per_cpu: Memory
    cpus_per_task: int = Field(1, ge=1)

    @property
    def minutes(self) -> int:
        """The time limit in Slurm's unit, rounded up."""
        return max(1, -int(-self.time_limit // 60))


class GpuResources(Resources):
    """Jobs that train and enhance: one rank for each GPU.

    Attributes
    ----------
    gpus_per_node
        GPUs that a node of the partition has; 0 where the networks run on CPUs.
    gpu_type
        Named in ``--gres=gpu:TYPE:N``; null for ``--gres=gpu:N``.
    """

    gpus_per_node: int = Field(ge=0)
    gpu_type: Word | None = None
    cpus_per_task: int = Field(4, ge=1)

    def gres(self, tasks_per_node: int) -> str | None:
        """Ask for a GPU for each task on a node, or for none where there are none."""
        if self.gpus_per_node == 0:
            return None
        words = ["gpu", *([self.gpu_type] if self.gpu_type else []), str(tasks_per_node)]
        return ":".join(words)


class CpuResources(Resources):
    """Jobs that preprocess: MPI ranks on CPUs.

    Attributes
    ----------
    tasks_per_node
        Ranks on each node.
    """

    tasks_per_node: int = Field(8, ge=1)


class Site(Settings):
    """A Slurm site.

    Attributes
    ----------
    name
        For messages.
    mpi
        What ``srun --mpi=`` gets for preprocessing and enhancement. ``pmi2`` suits the MPICH
        that comes with this package; ``srun --mpi=list`` shows what the cluster has.
    requeue
        Whether a job may be put back into the queue when it is preempted or out of time.
    modules
        Loaded with ``module load`` before a job starts.
    environment
        Variables that a job exports.
    setup
        Shell lines that a job runs before anything else, as they stand: before the modules.
    python
        The interpreter in jobs; null: the one that submits.
    wckey
        Slurm's workload key; null for none.
    options
        More options of ``sbatch``, without their dashes: ``{constraint: ib}``; true for one
        that takes no value.
    stop_before_end
        How long before its time limit a job is told to save and stop; less than both limits.
    cpu, gpu
        The two kinds of jobs.
    """

    name: Line
    mpi: Word
    requeue: bool
    modules: tuple[Line, ...] = ()
    environment: dict[Word, Line] = {}
    setup: tuple[Line, ...] = ()
    python: Line | None = None
    wckey: Word | None = None
    options: dict[Word, Word | bool] = {}
    stop_before_end: Seconds = 300
    cpu: CpuResources
    gpu: GpuResources

    @field_validator("environment")
    @classmethod
    def _are_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not name.isidentifier():
                raise ValueError(f"'{name}' is not the name of an environment variable")
        return value

    @field_validator("cpu", "gpu")
    @classmethod
    def _has_time_to_work(cls, value: Resources, info: ValidationInfo) -> Resources:
        stop = info.data.get("stop_before_end")
        if stop is not None and stop >= value.time_limit:
            raise ValueError(
                f"expected a time_limit above stop_before_end ({stop:g} s), else its jobs are told "
                "to stop when they start"
            )
        return value

    @field_validator("environment", "options", mode="before")
    @classmethod
    def _as_words(cls, value: Any) -> Any:
        # YAML reads `OMP_NUM_THREADS: 1` as a number.
        if not isinstance(value, dict):
            return value
        return {k: str(v) if isinstance(v, int) and v is not True else v for k, v in value.items()}


def load_site(path: Any, overrides: list[str] | tuple[str, ...] = ()) -> Site:
    """Read a site profile.

    Raises
    ------
    InputError
        It lacks a value that only its user can know; the message says how to give it.
    """
    if path is None:
        raise InputError(
            "A site profile is needed to submit to Slurm (--site FILE).\n"
            "Write one: `inherit: sites/generic.yaml` (or sites/ihep.yaml) and your own values; "
            "docs/slurm.md shows it."
        )
    try:
        return load(Site, path, overrides)
    except InputError as error:
        if "is required and is not set" not in str(error):
            raise
        _refuse_incomplete(path, overrides)
        raise


def _refuse_incomplete(path: Any, overrides: list[str] | tuple[str, ...]) -> None:
    """Name every value that is missing at once."""
    tree = override(read_tree(path), overrides)
    missing = [
        f"{group}{name}"
        for group, kind, values in (
            ("", Site, tree),
            ("cpu.", CpuResources, tree.get("cpu") or {}),
            ("gpu.", GpuResources, tree.get("gpu") or {}),
        )
        for name, field in kind.model_fields.items()
        if field.is_required() and isinstance(values, dict) and name not in values
    ]
    raise InputError(
        f"{path}: required and not set: {', '.join(missing)}.\n"
        f"Write a file of your own that begins with `inherit: {path}` and sets them; docs/slurm.md "
        "shows one."
    )
