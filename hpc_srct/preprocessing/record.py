"""What a store is being made from, written before its first shard.

A rerun goes on only from the same scan with the same result settings, and takes the centre
that was found the first time.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.files import write_json
from hpc_srct.scan import Scan
from hpc_srct.settings.base import flat
from hpc_srct.settings.layout import load_layout
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices.blocks import MASTER, SHARDS

RECORD = "preprocessing.json"
FORMAT = 1


@dataclass(frozen=True)
class Record:
    """What all shards of a store share: scan, settings, centre, dose, views that hold no light."""

    source: dict[str, Any]
    result: dict[str, Any]
    centre: dict[str, Any]
    versions: dict[str, str]
    dose: dict[str, Any] | None = None
    lost: list[int] | None = None

    def write(self, store: Path) -> None:
        """Write it into the store."""
        write_json(store / RECORD, {"format": FORMAT, **self.__dict__})


def read_record(store: Path) -> Record | None:
    """Read a store's record; None where the store is new.

    Raises
    ------
    InputError
        The folder holds something else.
    """
    path = store / RECORD
    if not path.is_file():
        if store.exists() and not store.is_dir():
            raise InputError(f"{store}: is a file; expected a folder for the slice store.")
        strangers = (
            [p.name for p in store.iterdir() if not p.name.startswith(".")]
            if (store.is_dir())
            else []
        )
        if strangers:
            what = (
                "a store made by something else"
                if {MASTER, SHARDS} & set(strangers)
                else (f"a folder with other things in it ({strangers[0]})")
            )
            raise InputError(f"{store}: is {what}; choose another name or remove it first.")
        return None
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        version = tree.pop("format")
        record = Record(**tree)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); remove the store and make it again."
        ) from error
    if version != FORMAT:
        raise InputError(
            f"{path}: format {version}, expected {FORMAT}: made by another version. Choose"
            " another name for the store."
        )
    return record


def record_to_go_on(store: Path, settings: PreprocessingSettings) -> Record | None:
    """Read a store's record, as `read_record`; None too where other settings may replace it.

    They may as long as no block was made.
    """
    record = read_record(store)
    if record is None or (store / MASTER).exists() or any((store / SHARDS).glob("*.h5")):
        return record
    same = PreprocessingSettings().result() | record.result == settings.result()
    return record if same else None


def check_same(
    store: Path, record: Record, source: dict[str, Any], settings: PreprocessingSettings
) -> None:
    """Refuse to go on from another scan or with other result settings.

    Raises
    ------
    InputError
        Names what differs, with both values.
    """
    # A setting that is younger than the store had its default's meaning then.
    then = flat(PreprocessingSettings().result() | record.result)
    now = flat(settings.result())
    for key in dict.fromkeys([*now, *then]):
        there, wanted = then.get(key), now.get(key)
        if there != wanted:
            raise InputError(
                f"{store}: was made with {key}={_short(there)}, now {key}={_short(wanted)} is"
                " asked for.\nUse the same settings to go on, or another name for the store."
            )
    difference = changed_source(record.source, source)
    if difference:
        raise InputError(
            f"{source['path']}: {difference}, so {store} cannot go on from it.\n"
            "Choose another name for the store."
        )


def source_of(scan: Scan, settings: PreprocessingSettings) -> dict[str, Any]:
    """Describe a scan as it is read: its files, and what a layout makes of them."""
    layout = None if settings.layout is None else load_layout(settings.layout).dump()
    angles = hashlib.sha256(np.round(scan.angles, 9).tobytes()).hexdigest()[:16]
    return {**scan.source(), "angles": angles, "layout": layout}


def changed_source(then: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Say how a scan differs from what it was; None where it is the same.

    The place may change (a scan may be moved), its content may not.
    """
    if Path(then["path"]).name != Path(now["path"]).name:
        return f"is another file than {then['path']}, from which the store was made"
    for key in ("bytes", "mtime", "datasets"):
        if then.get(key) != json.loads(json.dumps(now.get(key), default=str)):
            if key == "datasets" and _names(then) == _names(now):
                continue
            values = f"{key}: {_short(then.get(key))}, now {_short(now.get(key))}"
            return f"has changed since the store was begun ({values})"
    for key, what in (("layout", "the layout's content"), ("angles", "the angles")):
        if key in then and then[key] != json.loads(json.dumps(now[key], default=str)):
            return f"is read otherwise than when the store was begun ({what} changed)"
    stamps = [[(f["bytes"], f["mtime"]) for f in side.get("files", [])] for side in (then, now)]
    if stamps[0] != stamps[1]:
        return "has changed since the store was begun (in a file that it links to)"
    return None


def _names(source: dict[str, Any]) -> dict[str, list[str]]:
    """Paths inside the files, without the files."""
    return {
        role: [str(place).rpartition(": ")[2] for place in places]
        for role, places in source.get("datasets", {}).items()
    }


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
