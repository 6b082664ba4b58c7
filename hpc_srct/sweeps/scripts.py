"""The scripts of ``slurm/`` and ``launch/``: beside a checkout's package, or inside a wheel's."""

from __future__ import annotations

import shutil
from pathlib import Path

import hpc_srct
from hpc_srct.files import machine_error, refuse_to_overwrite

FOLDERS = ("slurm", "launch")


def scripts_folder(name: str) -> Path:
    """Find the shipped folder ``slurm`` or ``launch``."""
    package = Path(hpc_srct.__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def copy_scripts(out: Path) -> list[Path]:
    """Copy both folders into `out`, ready to be run and changed.

    Raises
    ------
    InputError
        One of them is there already.
    MachineError
        `out` cannot be written.
    """
    targets = [out / name for name in FOLDERS]
    for target in targets:
        refuse_to_overwrite(target, "a folder of that name")
    for name, target in zip(FOLDERS, targets, strict=True):
        try:
            target.mkdir(parents=True, exist_ok=True)
            for path in sorted(scripts_folder(name).iterdir()):
                if path.is_file():
                    shutil.copy(path, target)
                    if path.suffix == ".sh":  # an installer may have dropped that it can be run
                        (target / path.name).chmod(0o755)
        except OSError as error:
            raise machine_error(target, error) from error
    return targets
