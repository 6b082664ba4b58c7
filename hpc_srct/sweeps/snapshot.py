"""A copy of this package: jobs run the code of their submission, however long they queue."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import hpc_srct
from hpc_srct.files import machine_error
from hpc_srct.settings import configs_folder

_KINDS = (".py", ".yaml", ".json", ".sh", ".sbatch")


def planned(folder: Path) -> Path:
    """Name the copy that `take` would make: its name tells the content."""
    digest = hashlib.sha256()
    for name, path in files():
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return folder.resolve() / digest.hexdigest()[:12]


def take(folder: Path) -> Path:
    """Copy the package and its configs into ``folder/DIGEST``, where they are not there yet.

    Returns
    -------
    Path
        What to put on PYTHONPATH.

    Raises
    ------
    MachineError
        The folder cannot be written.
    """
    final = planned(folder)
    aside = final.with_name(f".{final.name}.{os.getpid()}")
    try:
        if not final.is_dir():
            for name, path in files():
                target = aside / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            aside.rename(final)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if not final.is_dir():  # else another process was first, with the same files
            raise machine_error(folder, error) from error
    return final


def files() -> Iterator[tuple[str, Path]]:
    """Name every file that a copy holds, and where it comes from."""
    package = Path(hpc_srct.__file__).resolve().parent
    trees = [("hpc_srct", package)]
    if configs_folder().resolve().parent != package:
        trees.append(("configs", configs_folder().resolve()))
    for tree, root in trees:
        for path in _sources(root):
            yield f"{tree}/{path.relative_to(root)}", path


def _sources(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.suffix in _KINDS and "__pycache__" not in path.parts and path.is_file():
            yield path


def environment(code: Path) -> dict[str, str]:
    """Give the variables that make a Python use the copy.

    PYTHONSAFEPATH keeps the current folder, which may hold a checkout, from coming first.
    """
    return {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}


def shell_lines(code: Path) -> list[str]:
    """Give the same as lines of a shell script."""
    path = shlex.quote(str(code))
    return [f'export PYTHONPATH={path}"${{PYTHONPATH:+:$PYTHONPATH}}"', "export PYTHONSAFEPATH=1"]
