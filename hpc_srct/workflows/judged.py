"""Which slices trained runs are judged on, and what they are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.evaluation.metrics import REFERENCES, evaluation_mask
from hpc_srct.settings.experiment import ROLES
from hpc_srct.slices import SliceStore
from hpc_srct.workflows.runs import Run, distinct_names, store_folder


@dataclass(frozen=True)
class Judged:
    """Slices of one store.

    Attributes
    ----------
    name : str
        Of the store, unlike those of the others.
    dataset : str
        Its column in the table: one for all training stores, one for all of validation, every
        test store its own.
    role : str
    store : SliceStore
    reference : str
        The array that results are compared with.
    index : ndarray of int
        Slice numbers.
    """

    name: str
    dataset: str
    role: str
    store: SliceStore
    reference: str
    index: np.ndarray

    @property
    def field_of_view(self) -> float:
        """Radius in pixels; half of the slice where the store does not say."""
        return self.store.field_of_view or min(self.store.size) / 2

    @property
    def mask(self) -> np.ndarray:
        """The pixels that count, (y, x)."""
        return evaluation_mask(self.store.size, self.field_of_view)


def judged_slices(
    runs: Sequence[Run],
    stores: Sequence[Path | str] | Path | str | None = None,
    roles: Sequence[str] | None = None,
    reference: str | None = None,
    slices: int | None = None,
) -> list[Judged]:
    """List what to judge runs on: the stores given, or those that their settings name.

    Parameters are those of `evaluate`.

    Raises
    ------
    InputError
        An unknown role or reference, stores and roles both, no stores, a store that is not one or
        has no reference.
    """
    if roles and stores:
        raise InputError(
            "--role: has no effect on the stores given with --store, which are all taken for test"
            " stores. Leave one of them out."
        )
    roles = roles or ("test",)
    if unknown := [role for role in roles if role not in ROLES]:
        raise InputError(f"role '{unknown[0]}': unknown; known: {', '.join(ROLES)}.")
    if reference is not None and reference not in REFERENCES:
        raise InputError(f"--reference: expected {' or '.join(REFERENCES)}; found '{reference}'.")
    if isinstance(stores, str | Path):
        stores = [stores]
    if stores:
        wanted = [("test", store_folder(path)) for path in stores]
    else:
        wanted = [(role, path) for role in roles for run in runs for path in run.stores(role)]
    wanted = list(dict.fromkeys(wanted))
    if not wanted:
        raise InputError(
            f"{runs[0].path}: its settings name no {' or '.join(roles)} store; give one with"
            " --store."
        )
    names = distinct_names([path for _, path in wanted])
    found = []
    for (role, path), name in zip(wanted, names, strict=True):
        store = SliceStore(path)
        index = np.arange(store.n_slices)
        if slices is not None and slices < store.n_slices:
            index = np.unique(np.linspace(0, store.n_slices - 1, slices).round().astype(int))
        dataset = {"train": "training", "validation": "validation"}.get(role, name)
        found.append(Judged(name, dataset, role, store, reference_of(store, reference), index))
    return found


def reference_of(store: SliceStore, wanted: str | None = None) -> str:
    """Give the array that a store's slices are compared with: the truth where it has one.

    Raises
    ------
    InputError
        It has not the one wanted, or neither.
    """
    for name in (wanted,) if wanted else REFERENCES:
        if name in store.names:
            return name
    missing = f"'{wanted}'" if wanted else "'truth' or 'full'"
    raise InputError(
        f"{store.master}: no {missing} inside to compare with; it has {', '.join(store.names)}."
    )


def leaks(runs: Sequence[Run], judged: Sequence[Judged]) -> Iterator[str]:
    """Name the stores that a run is tested on though it was trained on them."""
    for run in runs:
        for part in judged:
            if part.role == "test" and part.store.path in run.learned:
                yield (
                    f"{run.path}: was trained on {part.store.path}; its figures there say nothing"
                    " about new slices."
                )
