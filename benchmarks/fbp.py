"""Time and error of the FBP, next to scikit-image, FINUFFT used plainly and ASTRA, in one run.

    python benchmarks/fbp.py --sizes 512 1024 2048
    python benchmarks/fbp.py --device cuda

One core; processor times, which other users of the machine move least. Toft's Shepp-Logan,
sinogram averaged over each detector pixel, RMSE against the image averaged 8 × 8 in each pixel,
inside 0.97 of the radius. Times per slice; those who work on two slices at once (packed as one
complex transform) are timed on two. Images are written to memory that is at hand, as preprocessing
does: what fresh memory costs is the system's. On CUDA: wall time, from memory there to memory
there.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import common
import numpy as np
import phantom
import scipy.fft
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from skimage.transform import iradon

from hpc_srct.tomography.filters import transfer
from hpc_srct.tomography.gridding import PAIRS
from hpc_srct.tomography.nufft import Filter
from hpc_srct.tomography.projector import Projector
from hpc_srct.tomography.scratch import Scratch

VIEWS = {512: 400, 1024: 750, 2048: 1500}
# Sinograms in; images are written to the second, or given where they lie elsewhere (CUDA).
Reconstruct = Callable[[NDArray, NDArray], Any]


class PlainFinufft:
    """FINUFFT type 1 as a careful user would write it: two slices in one transform.

    Parameters
    ----------
    gridded
        Samples of each filtered projection that are gridded, in detector widths: 2 is plain
        double padding; 1.25 goes back to space in between and cuts.
    upsampling
        FINUFFT's ``upsampfac``; 0 lets it choose.
    """

    def __init__(self, angles: NDArray, columns: int, gridded: float, upsampling: float):
        import finufft  # not on every machine with a GPU

        self.columns = columns
        self.padded = 2 * columns
        self.samples = int(gridded * columns) // 2 * 2
        self.gains = (transfer("ramp", self.padded) * np.pi / len(angles)).astype(np.float32)
        omega = 2 * np.pi * np.fft.fftfreq(self.samples)
        rows = (-np.sin(angles)[:, None] * omega).astype(np.float32).ravel()
        across = (np.cos(angles)[:, None] * omega).astype(np.float32).ravel()
        self.margin = (self.samples - columns) // 2 if gridded < 2 else 0
        shift = omega * (-self.margin - (columns - 1) / 2)
        half = 0.5 * (np.cos(angles) - np.sin(angles))[:, None] * omega
        phase = np.exp(1j * (half - shift)) / self.samples
        phase[:, self.samples // 2] = 0
        self.phase = phase.astype(np.complex64)
        self.plan = finufft.Plan(
            1, (columns, columns), 1, 1e-2, 1, "complex64", nthreads=1, upsampfac=upsampling
        )
        self.plan.setpts(rows, across)
        self.out = np.empty((columns, columns), np.complex64)
        self.wide = np.zeros((len(angles), self.padded), np.complex64)
        self.rows = np.empty((len(angles), self.samples), np.complex64)

    def __call__(self, pair: NDArray, images: NDArray) -> None:
        wide, columns, margin = self.wide, self.columns, self.margin
        wide[:] = 0
        wide.real[:, :columns], wide.imag[:, :columns] = pair
        spectra = scipy.fft.fft(wide, axis=1, overwrite_x=True)
        spectra *= self.gains
        if self.samples != self.padded:
            back = scipy.fft.ifft(spectra, axis=1, overwrite_x=True)
            self.rows[:, margin:] = back[:, : self.samples - margin]
            self.rows[:, :margin] = back[:, self.padded - margin :]
            spectra = scipy.fft.fft(self.rows, axis=1, overwrite_x=True)
        spectra *= self.phase
        self.plan.execute(spectra.reshape(-1), out=self.out)
        images[0], images[1] = self.out.real, self.out.imag


def astra_fbp(angles: NDArray, columns: int, device: str) -> Reconstruct | None:
    """Set ASTRA's FBP up; None where it is not installed (or has no GPU)."""
    try:
        import astra
    except ImportError:
        return None
    if device == "cuda" and not astra.use_cuda():
        return None
    volume = astra.create_vol_geom(columns, columns)
    beams = astra.create_proj_geom("parallel", 1.0, columns, angles)
    projector = None
    if device == "cpu":
        projector = astra.create_projector("linear", beams, volume)

    def reconstruct(pair: NDArray, images: NDArray) -> None:
        sinogram = astra.data2d.create("-sino", beams, np.ascontiguousarray(pair[0]))
        image = astra.data2d.create("-vol", volume)
        settings = astra.astra_dict("FBP_CUDA" if device == "cuda" else "FBP")
        settings["ProjectionDataId"], settings["ReconstructionDataId"] = sinogram, image
        settings["option"] = {"FilterType": "Ram-Lak"}
        if projector is not None:
            settings["ProjectorId"] = projector
        algorithm = astra.algorithm.create(settings)
        astra.algorithm.run(algorithm)
        images[0] = astra.data2d.get(image)
        astra.algorithm.delete(algorithm)
        astra.data2d.delete([sinogram, image])

    return reconstruct


class Method(NamedTuple):
    """A way to reconstruct, and how many slices it takes at once."""

    name: str
    slices: int
    run: Reconstruct | None
    quick: bool = True
    ours: Projector | None = None


def methods(angles: NDArray, columns: int, device: str) -> list[Method]:
    """List what is compared at one size."""
    degrees = np.degrees(angles)
    if device == "cuda":
        return [
            Method("hpc_srct Projector.fbp, CUDA", 16, on_cuda(angles, columns)),
            Method("ASTRA FBP_CUDA", 1, astra_fbp(angles, columns, "cuda")),
        ]

    def scikit_image(pair: NDArray, images: NDArray) -> None:
        images[0] = iradon(pair[0].T, degrees, circle=True)

    ours = Projector(angles, columns)

    def projector(sinograms: NDArray, images: NDArray) -> None:
        ours.fbp(sinograms, out=images)

    return [
        Method("hpc_srct Projector.fbp", 2 * PAIRS, projector, ours=ours),
        Method("hpc_srct Projector.fbp, one pair", 2, projector, ours=ours),
        Method(
            "FINUFFT, 1.25 N gridded, upsampling 1.25",
            2,
            PlainFinufft(angles, columns, 1.25, 1.25),
        ),
        Method(
            "FINUFFT, 2 N gridded, automatic upsampling", 2, PlainFinufft(angles, columns, 2, 0)
        ),
        Method("scikit-image iradon", 1, scikit_image, quick=False),
        Method("ASTRA FBP, linear", 1, astra_fbp(angles, columns, "cpu"), quick=False),
    ]


def on_cuda(angles: NDArray, columns: int) -> Reconstruct:
    """Reconstruct on the GPU, from memory there to memory there."""
    import torch

    projector = Projector(angles, columns, device="cuda")
    there: dict[int, Any] = {}

    def reconstruct(batch: NDArray, images: NDArray) -> Any:
        if id(batch) not in there:
            there[id(batch)] = torch.from_numpy(batch).cuda()
        found = projector.fbp(there[id(batch)])
        torch.cuda.synchronize()
        return found

    return reconstruct


def parts(projector: Projector, batch: NDArray) -> dict[str, float]:
    """Time the steps of our FBP apart, ms per slice: what is left to gain, and where."""
    engine, lines, scratch = projector._engine, projector._lines, Scratch()
    gridding, filtering = engine._coarse, Filter(lines, projector.weights, "ramp", 1.0)
    waves, _ = engine._filtered_waves(batch, filtering, scratch)
    flat = waves.reshape(-1, waves.shape[2])
    out = np.empty((len(batch), lines.size, lines.size), np.float32)
    wide = np.zeros((lines.views, 2 * lines.columns), np.complex64)
    spread = gridding._compiled.spread
    strip = scratch.array("grid", *gridding._strip_shape(waves.shape[2]))

    def filter_padded() -> None:
        for pair in (batch[k : k + 2] for k in range(0, len(batch), 2)):
            wide[:] = 0
            wide.real[:, : lines.columns], wide.imag[:, : lines.columns] = pair
            spectra = scipy.fft.fft(wide, axis=1, overwrite_x=True)
            spectra *= np.float32(1)
            back = scipy.fft.ifft(spectra, axis=1, overwrite_x=True)
            rows = scipy.fft.fft(np.ascontiguousarray(back[:, : lines.samples]), axis=1)
            rows *= lines.phase

    def spread_all() -> None:
        strip[:] = 0
        for number in range(gridding._n_strips):
            gridding._call(spread, number, flat, strip)

    works: dict[str, Callable[[], Any]] = {
        "filter": lambda: engine._filtered_waves(batch, filtering, scratch),
        "filter, had it been padded to 2 N": filter_padded,
        "spreading": spread_all,
        "spreading, FFTs and cuts": lambda: gridding.to_images(flat, out, scratch),
    }
    return {
        name: round(common.timed(work, 5)["cpu_s"] / len(batch) * 1e3, 2)
        for name, work in works.items()
    }


def measure(columns: int, views: int, device: str) -> Iterator[dict[str, Any]]:
    """Time every method at one size and take its error."""
    angles = np.arange(views) * np.pi / views
    # iradon's axis is at N // 2, half a pixel from the middle of an even detector: it is given,
    # and judged by, a phantom that stands there.
    aside = columns // 2 - (columns - 1) / 2
    middle = phantom.sinogram(angles, columns), phantom.image(columns)
    shifted = (
        phantom.sinogram(angles, columns, columns // 2),
        phantom.image(columns, shift=aside),
    )
    mask = phantom.disc_mask(columns)
    compared = methods(angles, columns, device)
    given, found = {}, {}
    for method in compared:
        if method.run is not None:
            sinogram, truth = shifted if "iradon" in method.name else middle
            count = max(1, method.slices // 2)
            given[method.name] = np.stack([sinogram, np.zeros_like(sinogram)] * count), truth
            found[method.name] = np.zeros((method.slices, columns, columns), np.float32)

    def work(method: Method) -> Callable[[], None]:
        def run() -> None:
            images = method.run(given[method.name][0], found[method.name])
            if images is not None:
                found[method.name] = images

        return run

    quick = {m.name: work(m) for m in compared if m.run is not None and m.quick}
    for run in quick.values():
        run()  # plans, matrices and buffers
    spent = common.timed_in_turns(quick, 8)
    for method in compared:
        row: dict[str, Any] = {"columns": columns, "views": views, "method": method.name}
        if method.run is None:
            yield row
            continue
        times = spent.get(method.name) or common.timed(work(method), 1)
        images = found[method.name]
        images = images.cpu().numpy() if hasattr(images, "cpu") else images
        truth = given[method.name][1]
        clock = "best_s" if device == "cuda" else "cpu_s"
        row["ms_per_slice"] = round(times[clock] / method.slices * 1e3, 3)
        row["wall_ms_per_slice"] = round(times["best_s"] / method.slices * 1e3, 3)
        row["rmse"] = round(float(np.sqrt(np.mean((images[0] - truth)[mask] ** 2))), 5)
        if method.slices > 1:
            row["leak"] = float(np.abs(images[1][mask]).max())
        if method.ours is not None:
            row["parts_ms_per_slice"] = parts(method.ours, given[method.name][0])
        yield row


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(VIEWS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()

    table = Table("N × views", "method", "ms/slice", "× ours", "RMSE", "leak")
    rows = []
    for columns in arguments.sizes:
        ours = None
        for row in measure(columns, VIEWS.get(columns, columns * 3 // 4), arguments.device):
            size = f"{columns} × {row['views']}"
            if "rmse" not in row:
                table.add_row(size, row["method"], "not installed")
                continue
            ours = ours or row["ms_per_slice"]
            row["times_ours"] = round(row["ms_per_slice"] / ours, 2)
            leak = f"{row['leak']:.0e}" if "leak" in row else ""
            figures = f"{row['ms_per_slice']:.1f}", f"{row['times_ours']:.2f}", f"{row['rmse']:.4f}"
            table.add_row(size, row["method"], *figures, leak)
            rows.append(row)
    Console().print(table)
    path = common.write_result(
        "fbp" if arguments.device == "cpu" else "fbp-cuda",
        rows,
        arguments.out,
        threads=1,
        device=common.gpu() if arguments.device == "cuda" else "cpu",
        versions=common.versions("numba", "finufft", "scipy", "scikit-image", "astra-toolbox"),
        convention="Toft's Shepp-Logan; sinogram averaged over 2 rays a pixel; RMSE against the "
        "8 × 8 area-averaged image within 0.97 of the radius; leak: largest value in an empty "
        "slice packed with the phantom",
    )
    print(path)


if __name__ == "__main__":
    main()
