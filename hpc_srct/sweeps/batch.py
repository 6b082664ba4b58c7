"""Batch scripts: the files of ``slurm/`` with a site's values written into them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_srct.errors import InputError
from hpc_srct.files import write_text
from hpc_srct.settings.site import GpuResources, Site
from hpc_srct.sweeps import scheduler, snapshot

KINDS = {"preprocess": "cpu", "train": "gpu", "enhance": "gpu"}
_OPEN, _CLOSE = "# >>> site", "# <<< site"


@dataclass(frozen=True)
class Batch:
    """One job as it is submitted: the script, its arguments, its log."""

    kind: str
    text: str
    script: Path
    arguments: tuple[str, ...]

    @property
    def log(self) -> str:
        """The log as ``--output`` takes it; ``%j`` becomes the job id."""
        return str(self.script.with_suffix("")).replace("%", "%%") + "-%j.log"

    def command(self, after: Sequence[str] = ()) -> list[str]:
        """Give the words that submit it, `after` the jobs named have ended well."""
        words = ["sbatch", "--parsable", f"--output={self.log}"]
        if after:
            # A job whose predecessor failed would wait for ever.
            words += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
        return [*words, str(self.script), *self.arguments]

    def submit(self, site: str, after: Sequence[str] = ()) -> str:
        """Write the script and submit it; give the job id."""
        write_text(self.script, self.text)
        return scheduler.submit(self.command(after), site)


def directives(site: Site, kind: str, nodes: int = 1, tasks_per_node: int | None = None) -> list:
    """Give the options of ``sbatch`` that the site profile decides, as (name, value) pairs.

    Raises
    ------
    InputError
        More tasks on a node than it has GPUs.
    """
    resources = getattr(site, KINDS[kind])
    gres = None
    if isinstance(resources, GpuResources):
        tasks = tasks_per_node or resources.gpus_per_node or 1
        if tasks > resources.gpus_per_node > 0:
            raise InputError(
                f"{tasks} tasks on a node, but {site.name} has {resources.gpus_per_node} GPUs on "
                "one (gpu.gpus_per_node in the site profile): one task drives one GPU."
            )
        gres = resources.gres(tasks)
    else:
        tasks = tasks_per_node or resources.tasks_per_node
    values = {
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "nodes": nodes,
        "ntasks-per-node": tasks,
        "cpus-per-task": resources.cpus_per_task,
        "mem-per-cpu": resources.mem_per_cpu,
        "gres": gres,
        "time": resources.minutes,
        "wckey": site.wckey,
        "requeue" if site.requeue else "no-requeue": True,
        **{name.replace("_", "-"): value for name, value in site.options.items()},
    }
    return [(name, value) for name, value in values.items() if value is not None]


def environment_lines(site: Site) -> list[str]:
    """Give the shell lines that prepare a job: the site's own set-up, modules, variables."""
    return [
        *site.setup,
        *(f"module load {shlex.quote(module)}" for module in site.modules),
        *(f"export {name}={shlex.quote(value)}" for name, value in site.environment.items()),
    ]


def render(
    template: str,
    site: Site,
    kind: str,
    *,
    nodes: int = 1,
    tasks_per_node: int | None = None,
    code: Path | None = None,
) -> str:
    """Write a site's values into one of the scripts of ``slurm/``.

    Parameters
    ----------
    template
        Text of ``slurm/KIND.sbatch``.
    code
        Copy of the package to run; None for the one that is installed.
    """
    head, opened, rest = template.partition(f"{_OPEN}\n")
    _, closed, tail = rest.partition(f"{_CLOSE}\n")
    if not (opened and closed):
        raise InputError(f"slurm/{kind}.sbatch: the lines '{_OPEN}' and '{_CLOSE}' are missing.")
    found = re.search(r"^#SBATCH --signal=(\w+)@", head, re.MULTILINE)
    # These the site or the command line decides.
    head = re.sub(r"^#SBATCH --(output|signal|requeue)\b.*\n", "", head, flags=re.MULTILINE)
    options = directives(site, kind, nodes, tasks_per_node)
    if found:
        options.append(("signal", f"{found[1]}@{int(site.stop_before_end)}"))
    lines = [f"#SBATCH --{n}" if v is True else f"#SBATCH --{n}={v}" for n, v in options]
    lines += environment_lines(site)
    if code is not None:
        lines += snapshot.shell_lines(code)
    lines += [
        f"export SRCT_PYTHON={shlex.quote(site.python or sys.executable)}",
        f"export SRCT_MPI={shlex.quote(site.mpi)}",
    ]
    return f"{head}{_OPEN}: {site.name}\n" + "\n".join(lines) + f"\n{_CLOSE}\n{tail}"
