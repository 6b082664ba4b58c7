"""DIVal's ellipses: FBP, TV and our two networks, next to the published figures.

    python benchmarks/ellipses.py                   # 0.1% of the training set: for a CPU
    python benchmarks/ellipses.py --fraction 0.01   # 1%: for a GPU, used where there is one

128² images of random ellipses, 30 parallel views, 2.5% noise (`ellipses_data` has the recipe).
PSNR and SSIM over the whole image, the data range being maximum − minimum of each ground truth,
averaged over the first 100 test images: the very images of the published figures. FBP and TV are
tuned on validation images, as published. The published U-Net learned for thousands of epochs on a
GPU; each network's row says what ours was given. Two things favour ours: images are mirrored and
turned (which the 30 views do not mind), and the best of five moments is chosen on 32 validation
images; the published recipe turned none, and chose after each epoch on a tenth as many images as it
learned from. What the folder (``--dir``) holds already, trained networks and the classical rows, is
not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import common
import ellipses_data as data
import ellipses_networks as networks
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from skimage.metrics import structural_similarity

from hpc_srct.evaluation.metrics import psnr
from hpc_srct.files import write_json
from hpc_srct.models import NAMES
from hpc_srct.tomography.variational import tv_reconstruct
from hpc_srct.workflows.baselines import coarse_to_fine

# oterobaguer/dip-ct-benchmark: PSNR, SSIM.
PUBLISHED_FBP = 24.18, 0.594
PUBLISHED_TV = 27.96, 0.862
PUBLISHED_UNET = {
    0.001: (26.33, 0.790),
    0.002: (26.59, 0.804),
    0.005: (26.80, 0.811),
    0.01: (27.12, 0.832),
    0.02: (27.44, 0.832),
    0.05: (27.97, 0.860),
    0.1: (28.49, 0.875),
    0.25: (28.80, 0.887),
    0.5: (29.10, 0.894),
    1.0: (29.36, 0.899),
}
PUBLISHED_BATCH = 16
TITLES = {"unet": "FBP + UNet", "resattunet": "FBP + ResAttUnet"}
CONVENTION = (
    "PSNR and SSIM (scikit-image's, 7 x 7 uniform window, its border of 3 left out) over the whole"
    " image; data range = maximum - minimum of each ground truth; mean of the first test images"
    " ± standard error; nothing is clipped but TV, to 0..1, as published"
)


@dataclass(frozen=True)
class Sizes:
    """How many images do what, and how long TV works.

    FBP is tuned on `tuning` validation images as published, TV on the first `fewer` of them,
    by which networks are chosen too: its peak is flat.
    """

    train: int
    tuning: int = 100
    fewer: int = 32
    test: int = 100
    tv_tuning_iterations: int = 100
    tv_iterations: int = 200
    cutoffs: int = 40


class Images:
    """The first images of a part, with their sinograms."""

    def __init__(self, part: str, count: int):
        drawn = list(data.samples(part, count))
        self.truth = np.stack([sample.image for sample in drawn])
        self.sinograms = np.stack([sample.sinogram for sample in drawn])

    def psnr(self, found: NDArray) -> float:
        """Give the mean over images."""
        return float(np.mean([psnr(a, b) for a, b in zip(found, self.truth, strict=False)]))

    def scores(self, found: NDArray) -> dict[str, float]:
        """Give means over images, and the standard error of the mean PSNR."""
        psnrs, ssims = [], []
        for image, truth in zip(found, self.truth, strict=True):
            psnrs.append(psnr(image, truth))
            span = float(truth.max() - truth.min())
            ssims.append(structural_similarity(image, truth, data_range=span))
        error = np.std(psnrs, ddof=1) / np.sqrt(len(psnrs))
        means = {"psnr": np.mean(psnrs), "psnr_se": error, "ssim": np.mean(ssims)}
        return {name: round(float(value), 3) for name, value in means.items()}


def fbp_row(tuning: Images, test: Images, sizes: Sizes) -> dict[str, Any]:
    """Tune window and cut-off as published (ramp or Hann, 40 cut-offs from 0.5), and measure."""
    projector = networks.projector()
    tried = {
        (name, float(cutoff)): tuning.psnr(projector.fbp(tuning.sinograms, name, cutoff))
        for name in ("ramp", "hann")
        for cutoff in np.linspace(0.5, 1, sizes.cutoffs)
    }
    name, cutoff = max(tried, key=tried.__getitem__)
    return {
        "method": f"FBP ({name}, cut-off {cutoff:.3f})",
        **test.scores(projector.fbp(test.sinograms, name, cutoff)),
        **published(PUBLISHED_FBP),
        "published_as": "Hann, cut-off 0.705",
        "parameters": {"filter": name, "cutoff": cutoff},
        "validation_psnr": round(tried[name, cutoff], 3),
    }


def tv_row(tuning: Images, test: Images, sizes: Sizes) -> dict[str, Any]:
    """Tune the weight on validation images, and measure."""
    projector, some = networks.projector(), tuning.sinograms[: sizes.fewer]

    def reconstruct(sinograms: NDArray, weight: float, iterations: int) -> NDArray:
        return np.minimum(tv_reconstruct(projector, sinograms, weight, iterations), 1)

    weight, reached = coarse_to_fine(
        lambda value: tuning.psnr(reconstruct(some, value, sizes.tv_tuning_iterations)),
        start=0.014,
        ratio=2.0,
    )
    return {
        "method": f"TV (weight {weight:.4f})",
        **test.scores(reconstruct(test.sinograms, weight, sizes.tv_iterations)),
        **published(PUBLISHED_TV),
        "published_as": "anisotropic, 200 Douglas-Rachford steps",
        "parameters": {"weight": weight, "iterations": sizes.tv_iterations},
        "validation_psnr": round(reached, 3),
    }


def network_row(
    network: str, recipe: networks.Recipe, test: Images, sizes: Sizes, folder: Path
) -> dict[str, Any]:
    """Train one network with our toolkit, and measure it."""
    enhancer, cost = networks.trained(network, recipe, (sizes.train, sizes.fewer), folder)
    used = recipe.describe()
    fraction = sizes.train / data.LENGTHS["train"]
    epochs = networks.published_epochs(fraction)
    steps = epochs * -(-sizes.train // PUBLISHED_BATCH)
    return {
        "method": f"{TITLES[network]} (width {recipe.width})",
        **test.scores(networks.corrected(enhancer, test.sinograms, recipe.cutoff)),
        **published(PUBLISHED_UNET.get(fraction)),
        "published_as": f"U-Net, {epochs} epochs = {steps} steps of {PUBLISHED_BATCH}, GPU",
        "given": f"{used['passes']} epochs = {cost['steps']} steps of {recipe.batch},"
        f" {cost['step_seconds']:.0f} s, {cost['threads']} thread(s), {cost['device']}",
        "parameters": used,
        "cost": cost,
        "share_of_published_image_passes": round(
            cost["steps"] * recipe.batch / (epochs * sizes.train), 4
        ),
    }


def published(figures: tuple[float, float] | None) -> dict[str, float | None]:
    """Name a pair of published figures."""
    return dict(zip(("published_psnr", "published_ssim"), figures or (None, None), strict=True))


def rows(
    sizes: Sizes, recipe: networks.Recipe, chosen: Sequence[str], folder: Path
) -> Iterator[dict[str, Any]]:
    """Give the table's rows, the cheap ones first."""
    test = Images("test", sizes.test)
    tuning: Images | None = None
    for make in (fbp_row, tv_row):
        kept = folder / f"{make.__name__}-{'-'.join(map(str, vars(sizes).values()))}.json"
        if not kept.is_file():
            tuning = tuning or Images("validation", sizes.tuning)
            write_json(kept, make(tuning, test, sizes))
        yield json.loads(kept.read_text())
    for network in chosen:
        yield network_row(network, recipe, test, sizes, folder)


def as_table(found: Sequence[dict[str, Any]], sizes: Sizes) -> Table:
    """Lay the rows out, ours beside the published."""
    share = sizes.train / data.LENGTHS["train"]
    table = Table(
        title=f"DIVal ellipses, {sizes.test} test images, {sizes.train} training images"
        f" ({share:.4g} of the set)",
        caption=CONVENTION,
    )
    for name in ("method", "PSNR, dB", "SSIM", "published", "given", "published with"):
        table.add_column(name)
    for row in found:
        known = row["published_psnr"]
        table.add_row(
            row["method"],
            f"{row['psnr']:.2f} ± {row['psnr_se']:.2f}",
            f"{row['ssim']:.3f}",
            f"{known:.2f} / {row['published_ssim']:.3f}" if known else "none",
            row.get("given", ""),
            row["published_as"],
        )
    return table


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--fraction", type=float, default=0.001, help="of the 32 000 for training")
    parser.add_argument("--networks", nargs="*", choices=NAMES, default=list(NAMES))
    parser.add_argument(
        "--epochs", type=int, help="passes over the training images; see Recipe.fitting"
    )
    parser.add_argument("--width", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--precision", choices=("O0", "O2", "bf16"))
    parser.add_argument("--images", type=int, default=100, help="test images; published: 100")
    parser.add_argument("--dir", type=Path, default=Path("ellipses"), help="stores and runs")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    parser.add_argument("--quick", action="store_true", help="a few images: that it runs")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Run, print the table, write the JSON."""
    given = arguments(words)
    sizes = Sizes(train=round(given.fraction * data.LENGTHS["train"]), test=given.images)
    own = {"passes": given.epochs, "width": given.width, "batch": given.batch}
    if given.quick:
        sizes = Sizes(4, 2, 2, 3, 4, 8, 3)
        own = {"passes": 2, "width": 4, "depth": 2, "batch": 2}
    rest = {"learning_rate": given.learning_rate, "seed": given.seed, "precision": given.precision}
    recipe = networks.Recipe.fitting(sizes.train, **own, **rest)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    console, found = Console(), []
    for row in rows(sizes, recipe, given.networks, given.dir):
        console.print(f"{row['method']}: {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}")
        found.append(row)
    console.print(as_table(found, sizes))
    name = "ellipses" if sizes.train == 32 else f"ellipses-{sizes.train}"
    path = common.write_result(
        name if not torch.cuda.is_available() else f"{name}-cuda",
        found,
        given.out,
        versions=common.versions("torch", "deepspeed", "numba", "scipy", "scikit-image"),
        device=common.gpu() or "cpu",
        threads=torch.get_num_threads(),
        sizes=vars(sizes),
        quick=given.quick,
        convention=CONVENTION,
    )
    console.print(path)


if __name__ == "__main__":
    main()
