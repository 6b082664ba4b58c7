"""The classical rows of every table: what a network has to beat.

A blur beats a noisy FBP in PSNR, so a gain over the plain FBP proves nothing. Each method here has
one parameter, tuned by PSNR on validation slices and then left alone: the test slices never
tune anything. Methods work on normalised slices (attenuation / scale), so that a parameter
found on one scan means the same on another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from hpc_srct import console
from hpc_srct.errors import InputError
from hpc_srct.evaluation.metrics import evaluation_mask, psnr
from hpc_srct.evaluation.tables import plain
from hpc_srct.slices import SliceStore
from hpc_srct.tomography.projector import Projector
from hpc_srct.tomography.variational import tv_denoise, tv_reconstruct
from hpc_srct.workflows.judged import reference_of

RAMP = "FBP (ramp)"
HANN = "FBP (Hann)"
GAUSSIAN = "Gaussian-filtered FBP"
TV_DENOISED = "TV-denoised FBP"
TV = "TV reconstruction"

POST_PROCESSING = (RAMP, HANN, GAUSSIAN, TV_DENOISED)
NAMES = (*POST_PROCESSING, TV)

# 100 steps are within 0.02 dB of convergence, and 40 find the same weight.
TV_ITERATIONS = 100
TV_TUNING_ITERATIONS = 40
# Slices of validation that tune: a parameter for all of them is no sharper than this.
TUNING_SLICES = 4


@dataclass(frozen=True)
class Slices:
    """Normalised slices of one store: what a method may use.

    low (slice, y, x); sinograms (slice, view, column) or None; projector of their geometry.
    """

    low: np.ndarray
    sinograms: np.ndarray | None
    projector: Projector | None


class Source:
    """Hands out the normalised slices of a store, with FBP (ramp) as their `low`.

    Parameters
    ----------
    store
        A slice store with ``low``; with its sinogram too, all rows can be computed.
    """

    def __init__(self, store: SliceStore):
        if "low" not in store.names or store.scale is None:
            raise InputError(
                f"{store.master}: no low-dose slices with a scale inside; it has"
                f" {', '.join(store.names)}. Make it with `srct preprocess`."
            )
        self.store = store
        self.filter = store.low_filter
        self.projector = None
        if store.has_sinogram and store.low_angles is not None:
            self.projector = Projector(
                store.low_angles,
                store.sinogram(0).shape[1],
                store.centre,
                store.size[0],
                threads=torch.get_num_threads(),
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The methods that this store has the data for."""
        if self.projector is not None:
            return NAMES
        # Hann and TV start from the sinogram; the others from a ramp-filtered FBP.
        return (RAMP, GAUSSIAN, TV_DENOISED) if self.filter == "ramp" else ()

    def slices(self, index: np.ndarray) -> Slices:
        """Read some slices."""
        scale = np.float32(self.store.scale)
        if self.projector is None:
            return Slices(self.store.read("low", index) / scale, None, None)
        sinograms = self.store.sinogram(index) / scale
        if self.filter == "ramp":
            low = self.store.read("low", index) / scale
        else:
            low = self.projector.fbp(sinograms)
        return Slices(low, sinograms, self.projector)


@dataclass(frozen=True)
class Method:
    """A classical method: how to apply it, its parameter's name, and where to look for it.

    `while_tuning` is a quicker form of `apply` whose best parameter is the same.
    """

    apply: Callable[[Slices, float], np.ndarray]
    parameter: str = ""
    start: float = 1.0
    ratio: float = 2.0
    largest: float = math.inf
    rounds: int = 2
    while_tuning: Callable[[Slices, float], np.ndarray] | None = None


def _tv(slices: Slices, weight: float, iterations: int) -> np.ndarray:
    return tv_reconstruct(slices.projector, slices.sinograms, weight, iterations=iterations)


METHODS: dict[str, Method] = {
    RAMP: Method(lambda s, _: s.low),
    HANN: Method(
        lambda s, cutoff: s.projector.fbp(s.sinograms, filter="hann", cutoff=cutoff),
        "cut-off (share of Nyquist)",
        start=0.5,
        ratio=math.sqrt(2),
        largest=1.0,
    ),
    GAUSSIAN: Method(
        lambda s, sigma: gaussian_filter(s.low, (0, sigma, sigma)),
        "sigma (pixels)",
        start=1.0,
        ratio=math.sqrt(2),
    ),
    # The peak is sharp on its right: a factor of 1.2 too much can cost 0.4 dB.
    TV_DENOISED: Method(lambda s, weight: tv_denoise(s.low, weight), "weight", start=0.1, rounds=3),
    TV: Method(
        lambda s, weight: _tv(s, weight, TV_ITERATIONS),
        "weight",
        start=0.05,
        while_tuning=lambda s, weight: _tv(s, weight, TV_TUNING_ITERATIONS),
    ),
}


@dataclass(frozen=True)
class Baselines:
    """Tuned classical methods.

    Attributes
    ----------
    parameters : dict
        Method → value of its parameter, in normalised units; NaN for FBP (ramp), which has none.
    validation_psnr : dict
        Method → mean PSNR over the validation slices, as it was while tuning.
    tuned_on : list of dict
        Store, row and reference of each of them.
    """

    parameters: dict[str, float]
    validation_psnr: dict[str, float] = field(default_factory=dict)
    tuned_on: list[dict[str, Any]] = field(default_factory=list)

    def names(self, source: Source) -> list[str]:
        """Give the methods that are tuned and that a store has the data for."""
        return [name for name in source.names if name in self.parameters]

    def apply(self, name: str, source: Source, index: np.ndarray) -> np.ndarray:
        """Reconstruct some slices of a store by one method.

        Returns
        -------
        ndarray
            (slice, y, x) float32, attenuation per pixel; a slice with missing values is NaN.
        """
        result = _applied(name, self.parameters[name], source.slices(np.asarray(index)))
        return result * np.float32(source.store.scale)

    def sentence(self) -> str:
        """Say what was tuned, on what, and what came out."""
        if not self.tuned_on:
            return (
                "Classical rows: FBP (ramp) alone; the others need validation slices to be tuned."
            )
        stores = ", ".join(dict.fromkeys(Path(slot["store"]).name for slot in self.tuned_on))
        against = " and ".join(dict.fromkeys(slot["reference"] for slot in self.tuned_on))
        values = "; ".join(
            f"{name}: {METHODS[name].parameter} {value:.3g}"
            for name, value in self.parameters.items()
            if METHODS[name].parameter
        )
        return (
            f"Classical rows tuned by PSNR on {len(self.tuned_on)} validation slices of {stores}"
            f" (against {against}), in units of each scan's scale: {values}."
        )

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        values = asdict(self)
        for key in ("parameters", "validation_psnr"):
            values[key] = {name: plain(value) for name, value in values[key].items()}
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Baselines:
        """Read back what `to_json` gave."""
        parameters, psnrs = (
            {
                name: math.nan if value is None else float(value)
                for name, value in values[key].items()
            }
            for key in ("parameters", "validation_psnr")
        )
        return cls(parameters, psnrs, list(values["tuned_on"]))


UNTUNED = Baselines({RAMP: math.nan})


def best_post_processing(scores: Mapping[str, float]) -> str | None:
    """Name the best of the four post-processing rows by score; None where none is there."""
    there = [name for name in POST_PROCESSING if not math.isnan(scores.get(name, math.nan))]
    return max(there, key=lambda name: scores[name], default=None)


def tune(
    stores: Sequence[SliceStore], reference: str | None = None, n_slices: int = TUNING_SLICES
) -> Baselines:
    """Find each method's parameter on validation slices, by mean PSNR.

    Parameters
    ----------
    stores
        Validation stores, of other objects than the test's.
    reference
        ``truth`` or ``full``; by default the truth where a store has one.
    n_slices
        How many slices to use, spread evenly over the stores (one of each at least).

    Returns
    -------
    Baselines
        With the methods that every store has the data for.

    Raises
    ------
    InputError
        A store without low-dose slices, or without anything to compare them with.
    """
    if not stores:
        return UNTUNED
    samples = [s for store in stores for s in _samples(store, reference, n_slices, len(stores))]
    if not samples:
        raise InputError(
            f"{stores[0].path}: no slice without missing values to tune the classical rows on."
        )
    names = [name for name in NAMES if all(name in s.source.names for s in samples)]
    parameters: dict[str, float] = {}
    reached: dict[str, float] = {}
    with console.progress("tune classical rows", len(names)) as steps:
        for name in names:
            method = METHODS[name]

            def quality(value: float, name: str = name) -> float:
                return float(np.mean([p for s in samples for p in s.psnrs(name, value)]))

            if method.parameter:
                value, best = coarse_to_fine(
                    quality, method.start, method.ratio, method.largest, method.rounds
                )
            else:
                value, best = math.nan, quality(math.nan)
            parameters[name], reached[name] = value, best
            steps.advance(note=name)
    return Baselines(parameters, reached, [slot for s in samples for slot in s.slots()])


def coarse_to_fine(
    quality: Callable[[float], float],
    start: float,
    ratio: float,
    largest: float = math.inf,
    rounds: int = 2,
    farthest: int = 12,
) -> tuple[float, float]:
    """Find the best positive value of a parameter whose quality has one peak.

    Walk uphill from `start` in steps of a factor `ratio` until past the peak, then try halfway
    (geometrically) on both sides of the best, `rounds` times.

    Returns
    -------
    tuple of float
        The value, and its quality.
    """
    seen: dict[float, float] = {}

    def at(value: float) -> float:
        value = min(value, largest)
        if value not in seen:
            seen[value] = quality(value)
        return seen[value]

    best = min(start, largest)
    for direction in (ratio, 1 / ratio):
        for _ in range(farthest):
            further = min(best * direction, largest)
            if further == best or at(further) <= at(best):
                break
            best = further
    for _ in range(rounds):
        ratio = math.sqrt(ratio)
        best = max((best, min(best * ratio, largest), best / ratio), key=at)
    return best, at(best)


@dataclass(frozen=True)
class _Samples:
    """The slices of one store that tune, read once."""

    source: Source
    index: np.ndarray
    reference: str
    slices: Slices
    labels: np.ndarray
    mask: np.ndarray

    def psnrs(self, name: str, value: float) -> Iterator[float]:
        apply = METHODS[name].while_tuning or METHODS[name].apply
        for image, label in zip(apply(self.slices, value), self.labels, strict=True):
            yield psnr(image, label, self.mask)

    def slots(self) -> Iterator[dict[str, Any]]:
        store = self.source.store
        for row in store.rows[self.index]:
            yield {"store": str(store.path), "row": int(row), "reference": self.reference}


def _samples(
    store: SliceStore, wanted: str | None, n_slices: int, n_stores: int
) -> Iterator[_Samples]:
    reference = reference_of(store, wanted)
    source = Source(store)
    share = max(1, round(n_slices / n_stores))
    count = min(share, store.n_slices)
    index = ((np.arange(count) + 0.5) * store.n_slices / count).astype(int)
    mask = evaluation_mask(store.size, store.field_of_view or min(store.size) / 2)
    labels = store.read(reference, index) / np.float32(store.scale)
    whole = [
        i
        for i, (label, low) in enumerate(zip(labels, source.slices(index).low, strict=True))
        if np.isfinite(low).all() and np.isfinite(label[mask]).all() and np.ptp(label[mask]) > 0
    ]
    if whole:
        index = index[whole]
        yield _Samples(source, index, reference, source.slices(index), labels[whole], mask)


def _applied(name: str, value: float, slices: Slices) -> np.ndarray:
    whole = np.isfinite(slices.low).all(axis=(1, 2))
    if whole.all():
        return np.asarray(METHODS[name].apply(slices, value), dtype=np.float32)
    out = np.full_like(slices.low, np.nan)
    if whole.any():
        sinograms = None if slices.sinograms is None else slices.sinograms[whole]
        some = Slices(slices.low[whole], sinograms, slices.projector)
        out[whole] = METHODS[name].apply(some, value)
    return out
