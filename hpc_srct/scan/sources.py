"""The files in which a dataset's values lie: its own, those of a virtual dataset, raw ones."""

from __future__ import annotations

import re
from pathlib import Path

import h5py

from hpc_srct.errors import InputError


def sources_of(where: str, dataset: h5py.Dataset) -> list[Path]:
    """List the files that hold a dataset's values.

    Parameters
    ----------
    where
        The file and the path of the dataset, for the message.

    Raises
    ------
    InputError
        A source of a virtual dataset, or a file of raw values, is not there or too small: HDF5
        would answer its fill value, silently.
    """
    home = Path(dataset.file.filename)
    if not dataset.is_virtual:
        return [home, *_raw_files(where, home, dataset)]
    found: dict[tuple[Path, str], tuple[int, ...]] = {}
    for source in dataset.virtual_sources():
        name = home if source.file_name == "." else home.parent / source.file_name
        # printf-style names stand for a series of files
        series = _series(name) if "%" in str(name) else []
        for one in series or [name]:
            key = (one, source.dset_name)
            wanted = () if series else _reach(source.src_space, source.vspace)
            before = found.get(key, wanted)
            found[key] = tuple(map(max, before, wanted)) if before and wanted else ()
    for (name, inside), wanted in found.items():
        problem = _source_problem(name, inside, wanted)
        if problem:
            raise InputError(
                f"{where}: is a virtual dataset, and its source {name} {problem}"
                " (what it holds would read as zeros).\n"
                "Put the whole source file back in its place."
            )
    return list(dict.fromkeys(name for name, _ in found))


def _raw_files(where: str, home: Path, dataset: h5py.Dataset) -> list[Path]:
    """List the files outside HDF5 in which a dataset's values lie."""
    files, held = [], 0
    for name, offset, size in dataset.external or []:
        file = home.parent / name
        if not file.is_file():
            raise InputError(
                f"{where}: lies in {file}, which is not there.\nPut that file back in its place."
            )
        files.append(file)
        held += max(0, min(size, file.stat().st_size - offset))
    if files and held < dataset.nbytes:
        raise InputError(
            f"{where}: expected {dataset.nbytes} bytes in {files[-1]}, found {held} (the others"
            " would read as zeros).\nPut the whole file back in its place."
        )
    return files


def _series(name: Path) -> list[Path]:
    """List the files that a printf-style name stands for, with those that are missing between."""
    pattern = re.sub(r"%\d*b", "*", name.name)
    there = sorted(name.parent.glob(pattern))
    number = re.compile(r"(\d+)".join(map(re.escape, re.split(r"%\d*b", name.name))))
    matches = (number.fullmatch(file.name) for file in there)
    numbers = {int(match[1]): match[1] for match in matches if match}
    if not numbers or number.groups != 1:
        return there
    width = len(min(numbers.values(), key=len))
    # HDF5 ends the dataset at the first that is not there.
    missing = [n for n in range(max(numbers)) if n not in numbers]
    head, tail = re.split(r"%\d*b", name.name)
    return sorted(there + [name.parent / f"{head}{n:0{width}d}{tail}" for n in missing])


def _reach(source: h5py.h5s.SpaceID, mapped: h5py.h5s.SpaceID) -> tuple[int, ...]:
    """Say how large a source must be for what is mapped of it; () where that is left open."""
    try:
        if source.get_select_type() != h5py.h5s.SEL_ALL:
            return tuple(int(last) + 1 for last in source.get_select_bounds()[1])
        # The whole source, of the size of the place that it goes to.
        if mapped.get_select_type() == h5py.h5s.SEL_ALL:
            return mapped.shape
        _, _, count, block = mapped.get_regular_hyperslab()
    except (RuntimeError, ValueError):
        return ()
    sizes = tuple(int(n) * int(size) for n, size in zip(count, block, strict=True))
    inside = all(map(int.__le__, sizes, mapped.shape))  # not so where it may grow
    return sizes if inside else ()


def _source_problem(name: Path, inside: str, wanted: tuple[int, ...]) -> str | None:
    if not name.is_file():
        return "is not there"
    try:
        with h5py.File(name, "r", locking=False) as source:
            if "%" in inside:
                return None
            if inside not in source:
                return f"has no {inside}"
            shape = getattr(source[inside], "shape", wanted)
            if len(shape) == len(wanted) and any(map(int.__gt__, wanted, shape)):
                return f"holds {shape} in {inside}, where {wanted} are mapped"
            return None
    except OSError as error:
        return f"cannot be opened: {first_line(error)}"


def first_line(error: Exception) -> str:
    """Give an error's own words, on one line, without h5py's preamble."""
    text = " ".join(str(error.args[0] if error.args else error).split())
    inner = re.search(r"\((.*)\)", text)
    return inner[1] if inner else text.rstrip(".")
