"""Our networks on DIVal's ellipses: slice stores, training by `hpc_srct.training`, and its cost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ellipses_data as data
import numpy as np
import torch
from numpy.typing import NDArray

from hpc_srct.enhancement import Enhancer
from hpc_srct.models.files import NAME
from hpc_srct.settings.experiment import ExperimentSettings
from hpc_srct.slices import StoreWriter
from hpc_srct.tomography.geometry import field_of_view
from hpc_srct.tomography.projector import Projector
from hpc_srct.training import train

# Images that pass through a network in about 15 minutes on one idle AVX2 core.
CPU_BUDGET = 6_400
# The rate falls in so many stages to this share; the network is validated five times on the way.
STAGES = 20
LAST_RATE = 0.03


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    `passes` counts how often each image is seen: an epoch of the published recipe. `cutoff` ends
    the Hann window of the FBP that the network corrects.
    """

    passes: int
    width: int = 16
    depth: int = 4
    batch: int = 2
    learning_rate: float = 3e-3
    cutoff: float = 1.0
    seed: int = 0
    precision: str = "O0"

    @classmethod
    def fitting(cls, n_images: int, **given: Any) -> Recipe:
        """Choose by the device what is not `given`: published epochs on a GPU, else minutes."""
        if torch.cuda.is_available():
            chosen = {"passes": published_epochs(n_images / data.LENGTHS["train"])}
            chosen |= {"width": 32, "batch": 16}
        else:
            chosen = {"passes": max(1, CPU_BUDGET // n_images)}
        return cls(**chosen | {name: value for name, value in given.items() if value is not None})

    @property
    def stages(self) -> int:
        """Our epochs: each has one rate, and sees every image several times."""
        return min(self.passes, STAGES)

    def experiment(self, network: str, train: Path, validation: Path) -> ExperimentSettings:
        """Write the recipe as the settings of a training run."""
        stages = self.stages
        gamma = LAST_RATE ** (1 / (stages - 1)) if stages > 1 else 1.0
        plain = {
            "name": f"ellipses-{network}",
            "seed": self.seed,
            "precision": self.precision,
            "train": str(train),
            "validation": str(validation),
            "model": {"name": network, "width": self.width, "depth": self.depth},
            "tiles": {"size": None, "per_slice": self.passes // stages, "batch": self.batch},
            "optimizer": {
                "learning_rate": self.learning_rate,
                "step_size": 1,
                "gamma": gamma,
                "gradient_clipping": 1.0,
            },
            "epochs": stages,
            "validate_on": {"every_epochs": max(1, stages // 5)},
            "checkpoints": {"every_epochs": None, "every_minutes": 5},
        }
        return ExperimentSettings.model_validate(plain)

    def describe(self) -> dict[str, Any]:
        """Give plain values, and how often an image is really seen."""
        return asdict(self) | {"passes": self.passes // self.stages * self.stages}


def published_epochs(fraction: float) -> int:
    """Give the published number of epochs: more for less data, 100 times as many at most."""
    full = 70 if fraction >= 0.1 else 50
    return min(100 * full, int(full / fraction + 1e-6))


def projector() -> Projector:
    """Make our projector for the benchmark's views."""
    return Projector(data.ANGLES, data.COLUMNS, size=data.SIZE)


def write_store(folder: Path, part: str, count: int, cutoff: float) -> Path:
    """Write the first images of a part as a slice store, unless it is there already."""
    if (folder / "slices.h5").is_file():
        return folder
    writer = StoreWriter(folder, count, (data.SIZE, data.SIZE))
    geometry, drawn = projector(), data.samples(part, count)
    for block in range(writer.n_blocks):
        some = [next(drawn) for _ in writer.block_slices(block)]
        sinograms = np.stack([sample.sinogram for sample in some])
        writer.write_block(
            block,
            {
                "low": geometry.fbp(sinograms, "hann", cutoff),
                "truth": np.stack([sample.image for sample in some]),
                "low/sinogram": sinograms,
            },
        )
    writer.finish(
        {"benchmark": "DIVal ellipses", "part": part, "settings": {"low_filter": "hann"}},
        scale=1.0,  # the images lie in 0..1 as they are
        field_of_view=field_of_view(data.COLUMNS),
        centre=(data.COLUMNS - 1) / 2,
        low_angles=data.ANGLES,
    )
    return folder


def trained(
    network: str, recipe: Recipe, counts: tuple[int, int], folder: Path
) -> tuple[Enhancer, dict[str, Any]]:
    """Train a network, or go on with the run in the folder, or take its model.

    Parameters
    ----------
    counts
        Training and validation images.
    folder
        Where stores and runs are kept.

    Returns
    -------
    tuple
        The network ready for use, and what the training cost.
    """
    stores = [
        write_store(folder / f"{part}-{count}-{recipe.cutoff:g}", part, count, recipe.cutoff)
        for part, count in zip(("train", "validation"), counts, strict=True)
    ]
    described = recipe.describe()
    shape = [f"{name}{described[name]:g}" for name in ("passes", "width", "depth", "batch", "seed")]
    run = folder / "-".join((network, str(counts[0]), f"{recipe.learning_rate:g}", *shape))
    if not (run / NAME).is_file():
        train(recipe.experiment(network, *stores), run, resume=run.exists())
    return Enhancer.from_file(run), cost(run)


def corrected(enhancer: Enhancer, sinograms: NDArray, cutoff: float) -> NDArray[np.float32]:
    """Reconstruct as the network wants it, and correct."""
    return enhancer.enhance(projector().fbp(sinograms, "hann", cutoff), scale=1.0)


def cost(run: Path) -> dict[str, Any]:
    """Sum up what a run cost, from its own record."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    settings = json.loads((run / "environment.json").read_text())["starts"][-1]
    best = max((line["psnr"] for line in lines if line["kind"] == "validation"), default=None)
    return {
        "steps": len(steps),
        "step_seconds": round(sum(line["step_s"] for line in steps), 1),
        "threads": settings["threads"],
        "device": settings["device"],
        "validation_psnr_in_the_disc": best and round(best, 2),
    }
