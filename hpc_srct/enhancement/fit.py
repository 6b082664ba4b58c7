"""Whether a store's slices are of the kind that a network was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpc_srct.errors import InputError
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices import SliceStore


def check_fit(store: SliceStore, description: Mapping[str, Any], source: Path | str) -> None:
    """Refuse a store whose slices a network does not know.

    Parameters
    ----------
    store
        The slices that are to go through it.
    description
        What ``model.json`` says.
    source
        Names the model in messages.

    Raises
    ------
    InputError
        The store lacks the array that was the network's input, or its scale; or its low-dose
        slices were filtered otherwise.
    """
    name = description.get("input", "low")
    if name not in store.names:
        raise InputError(
            f"{store.master}: no '{name}' inside, which {source} was trained on;"
            f" it has {', '.join(store.names)}."
        )
    wanted = description.get("low_filter", store.low_filter)
    if store.low_filter != wanted:
        raise InputError(
            f"{store.path}: its low-dose slices were filtered with {store.low_filter};"
            f" {source} was trained on {wanted}.\nPreprocess the scan with low_filter={wanted}."
        )
    if store.scale is None:
        raise InputError(
            f"{store.master}: /entry has no attribute 'scale'; make the store with"
            " `srct preprocess`."
        )


def check_planned_fit(
    settings: PreprocessingSettings, description: Mapping[str, Any], source: Path | str
) -> None:
    """Refuse settings that make slices which a network does not know, before they are made.

    Parameters
    ----------
    settings
        How the scan is to be reconstructed.
    description, source
        As for `check_fit`.

    Raises
    ------
    InputError
        They make no such array, or filter it otherwise.
    """
    name = description.get("input", "low")
    made = ["low", "full", *(f"splits/{k}" for k in range(settings.splits))]
    if name not in made:
        hint = " Set splits as its training's preprocessing did." if "splits/" in name else ""
        raise InputError(
            f"{source}: was trained on '{name}', which these settings do not make of a scan;"
            f" they make {', '.join(made)}.{hint}"
        )
    found = settings.low_filter or settings.filter
    wanted = description.get("low_filter", found)
    if found != wanted:
        raise InputError(
            f"low_filter: the low-dose slices would be filtered with {found}; {source} was trained"
            f" on {wanted}.\nSet low_filter={wanted}, or leave both filters out."
        )
