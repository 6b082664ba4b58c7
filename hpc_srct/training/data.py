"""Training pairs from slice stores: which slices, which tiles, in which order, read ahead.

A sample is a pure function of (seed, epoch, number), and a micro-batch is cut from one global
order before the ranks share it. So training goes on mid-epoch with the tiles that it would
have seen, and any number of ranks sees the same ones.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hpc_srct.errors import InputError, MachineError, SrctError
from hpc_srct.settings.experiment import TileSettings
from hpc_srct.slices import Normalisation, SliceStore
from hpc_srct.slices.tiles import TileSampler

READ_AHEAD = 4


@dataclass(frozen=True)
class Pair:
    """Where one input slice and its label are: store number, slice number, detector row."""

    store: int
    slice: int
    row: int


class PairedSlices:
    """The normalised slices of several stores, in pairs of input and label.

    Parameters
    ----------
    paths
        The stores.
    input, label
        Names of the two volumes, such as ``low`` and ``truth``.
    role
        ``train`` or ``validation``: which setting messages name.
    cache_bytes
        Slices are kept in memory where all of them fit in so much.

    Attributes
    ----------
    pairs : list of Pair
        Those without NaN.
    bytes : int
        Size of all of them.
    left_out : list of str
        What was left out, each as ``STORE: row R``.

    Raises
    ------
    InputError
        No store is named, one is missing or lacks a volume, they were filtered differently, or
        every slice has NaN.
    """

    def __init__(
        self,
        paths: Sequence[str],
        input: str,
        label: str,
        role: str = "train",
        cache_bytes: float = 0.0,
    ):
        if not paths:
            raise InputError(f"{role}: no store is named; expected a list of slice stores.")
        self.stores = [SliceStore(path) for path in paths]
        self.input, self.label, self.role = input, label, role
        for store in self.stores:
            for key, name in (("input", input), ("label", label)):
                if name not in store.names:
                    raise InputError(
                        f"{store.path}: has no '{name}' to be the {key}; it has "
                        f"{', '.join(store.names)}.\nSet {key}= to one of these, or preprocess "
                        "the scan so that it is there."
                    )
        self.low_filter = self.stores[0].low_filter
        for store in self.stores:
            if store.low_filter != self.low_filter:
                raise InputError(
                    f"{store.path}: its low-dose slices were filtered with {store.low_filter},"
                    f" those of {self.stores[0].path} with {self.low_filter}.\n"
                    "Preprocess them alike (low_filter=NAME): a network learns one of them."
                )
        self.scales = [Normalisation.from_store(store) for store in self.stores]
        self.pairs = [
            Pair(k, i, int(store.rows[i]))
            for k, store in enumerate(self.stores)
            for i in range(store.n_slices)
        ]
        self.bytes = sum(8 * s.n_slices * s.size[0] * s.size[1] for s in self.stores)
        self._cache: dict[Pair, np.ndarray] | None = {} if self.bytes <= cache_bytes else None
        self.left_out: list[str] = []

    @property
    def cached(self) -> bool:
        """Whether the slices are kept in memory."""
        return self._cache is not None

    def spoiled(
        self, part: slice = slice(None), advance: Callable[[], None] = lambda: None
    ) -> list[Pair]:
        """Look for NaN in a part of the pairs, reading (and keeping) each of them."""
        bad = []
        for pair in self.pairs[part]:
            advance()
            both = self._read(pair, None)
            if not np.isfinite(both).all():
                bad.append(pair)
            elif self._cache is not None:
                self._cache[pair] = both
        return bad

    def leave_out(self, bad: Iterable[Pair]) -> None:
        """Go on without these pairs.

        Raises
        ------
        InputError
            Nothing is left.
        """
        bad = set(bad)
        self.left_out = [f"{self.stores[p.store].path}: row {p.row}" for p in sorted_pairs(bad)]
        self.pairs = [pair for pair in self.pairs if pair not in bad]
        if not self.pairs:
            raise InputError(
                f"{self.role}: every slice of {', '.join(str(s.path) for s in self.stores)} has "
                "NaN in it; were their shards removed?"
            )

    def read(self, pair: Pair, window: tuple[slice, slice] | None = None) -> np.ndarray:
        """Read one normalised pair, or a window of it.

        Returns
        -------
        ndarray
            (2, y, x) float32: input, label.

        Raises
        ------
        MachineError
            The store's files have vanished or cannot be read any more.
        """
        if self._cache is not None and pair in self._cache:
            both = self._cache[pair]
            return both if window is None else both[(slice(None), *window)]
        both = self._read(pair, window)
        if not np.isfinite(both).all():
            store = self.stores[pair.store]
            raise MachineError(
                f"{store.path}: row {pair.row} was whole when the run began and now reads as NaN; "
                "have files of the store been removed?"
            )
        return both

    def _read(self, pair: Pair, window: tuple[slice, slice] | None) -> np.ndarray:
        store, scale = self.stores[pair.store], self.scales[pair.store]
        try:
            both = [store.read(name, pair.slice, window) for name in (self.input, self.label)]
        except SrctError:
            raise
        except (OSError, KeyError, RuntimeError) as error:
            reason = str(error).split("\n", 1)[0]
            raise MachineError(
                f"{store.path}: row {pair.row} can no longer be read: {reason}."
            ) from error
        return scale.apply(np.stack(both)).astype(np.float32, copy=False)


def sorted_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """Sort pairs by store and slice."""
    return sorted(pairs, key=lambda p: (p.store, p.slice))


class Tiles:
    """The training tiles of an epoch, in micro-batches.

    Parameters
    ----------
    slices
        Where they are cut from.
    settings
        Their size, number and turning.
    seed
        Decides order, places and turns.
    per_step
        Micro-batches in one optimizer step; an epoch has a whole number of steps.

    Raises
    ------
    InputError
        A tile is larger than a slice; an epoch has fewer tiles than one step takes; whole
        slices of unlike sizes.
    """

    def __init__(self, slices: PairedSlices, settings: TileSettings, seed: int, per_step: int = 1):
        self.slices, self.settings, self.seed = slices, settings, seed
        sizes = {store.size for store in slices.stores}
        if settings.size is None and (len(sizes) > 1 or any(y != x for y, x in sizes)):
            listed = ", ".join(f"{s.path} {s.size[0]} × {s.size[1]}" for s in slices.stores)
            raise InputError(
                "tiles.size: null takes whole slices, and these must be square and of one size; "
                f"found {listed}.\nSet tiles.size to at most {min(min(s) for s in sizes)}."
            )
        self._samplers = []
        for number, store in enumerate(slices.stores):
            own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
            try:
                sampler = TileSampler(
                    store.n_slices,
                    store.size,
                    settings.size or store.size[0],
                    settings.per_slice,
                    own_seed,
                    settings.augment,
                    store.field_of_view,
                )
            except InputError as error:
                raise InputError(f"{store.path}: {error}") from error
            self._samplers.append(sampler)
        self.total = len(slices.pairs) * settings.per_slice
        self.micro_batches = self.total // (settings.batch * per_step) * per_step
        if not self.micro_batches:
            raise InputError(
                f"tiles.batch: one step takes {settings.batch} × {per_step} tiles, but an epoch "
                f"has only {self.total} ({len(slices.pairs)} slices × {settings.per_slice}).\n"
                "Lower tiles.batch, raise tiles.per_slice, or add stores."
            )
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    @property
    def unused(self) -> int:
        """Tiles of an epoch that fill no step; which ones, differs in each epoch."""
        return self.total - self.micro_batches * self.settings.batch

    def batch(self, epoch: int, number: int, rank: int = 0, ranks: int = 1) -> np.ndarray:
        """Cut one rank's share of a micro-batch.

        Returns
        -------
        ndarray
            (2, tiles, 1, y, x) float32: inputs, labels.
        """
        share = self.settings.batch // ranks
        first = number * self.settings.batch + rank * share
        chosen = self._shuffled(epoch)[first : first + share]
        tiles = np.stack([self._cut(epoch, int(sample)) for sample in chosen], axis=1)
        return tiles[:, :, None]

    def _shuffled(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.total)
            self._order = (epoch, order)
        return self._order[1]

    def _cut(self, epoch: int, sample: int) -> np.ndarray:
        which, copy = divmod(sample, self.settings.per_slice)
        pair = self.slices.pairs[which]
        number = pair.slice * self.settings.per_slice + copy
        tile = self._samplers[pair.store].draw(epoch, number, slice_index=pair.slice)
        return tile.turn(self.slices.read(pair, tile.window))


class Loader:
    """Gives a rank its micro-batches, read ahead by a thread or by worker processes."""

    def __init__(self, tiles: Tiles, rank: int, ranks: int, workers: int, pin: bool = False):
        self.tiles, self.rank, self.ranks, self.pin = tiles, rank, ranks, pin
        self._workers = _Workers(self, workers) if workers else None

    def epoch(self, epoch: int, first: int = 0) -> Iterator[torch.Tensor]:
        """Give micro-batches `first`, … of an epoch, each (2, tiles, 1, y, x)."""
        if self._workers is not None:
            return self._workers.epoch(epoch, first)
        return self._ahead(epoch, first)

    def load(self, epoch: int, number: int) -> torch.Tensor:
        """Load one micro-batch."""
        batch = torch.from_numpy(self.tiles.batch(epoch, number, self.rank, self.ranks))
        return batch.pin_memory() if self.pin else batch

    def _ahead(self, epoch: int, first: int) -> Iterator[torch.Tensor]:
        ready: queue.Queue[torch.Tensor | BaseException] = queue.Queue(READ_AHEAD)
        done = threading.Event()

        def work() -> None:
            for number in range(first, self.tiles.micro_batches):
                try:
                    item: torch.Tensor | BaseException = self.load(epoch, number)
                except BaseException as error:  # noqa: BLE001 - raised again in the main thread
                    item = error
                while not done.is_set():
                    try:
                        ready.put(item, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if done.is_set() or isinstance(item, BaseException):
                    return

        thread = threading.Thread(target=work, name="tiles", daemon=True)
        thread.start()
        try:
            for _ in range(first, self.tiles.micro_batches):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            done.set()
            thread.join()


class _Workers:
    """Worker processes that live through all epochs."""

    def __init__(self, loader: Loader, workers: int):
        self._numbers = _Numbers(loader.tiles.micro_batches)
        self._loader = torch.utils.data.DataLoader(
            _Numbered(loader),
            sampler=self._numbers,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=READ_AHEAD,
            persistent_workers=True,
            pin_memory=loader.pin,
        )

    def epoch(self, epoch: int, first: int) -> Iterator[torch.Tensor]:
        self._numbers.epoch, self._numbers.first = epoch, first
        for batch, error in self._loader:
            if error is not None:
                raise error
            yield batch


class _Numbers(torch.utils.data.Sampler):
    def __init__(self, total: int):
        self.epoch, self.first, self.total = 0, 0, total

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, number) for number in range(self.first, self.total))

    def __len__(self) -> int:
        return self.total - self.first


class _Numbered(torch.utils.data.Dataset):
    def __init__(self, loader: Loader):
        self._loader = loader

    def __getitem__(self, index: tuple[int, int]) -> tuple[torch.Tensor, Exception | None]:
        try:
            tiles = self._loader.tiles
            batch = tiles.batch(*index, self._loader.rank, self._loader.ranks)
            return torch.from_numpy(batch), None
        except SrctError as error:
            # DataLoader would wrap it in a worker's stack trace.
            return torch.empty(0), error
