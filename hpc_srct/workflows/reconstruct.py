"""`srct enhance`: a slice store, or a raw scan, to an enhanced volume.

A raw scan is preprocessed first, into a store inside the output: ``OUT/input`` is what the network
saw, ``OUT/slices.h5`` what it made of it. Each half goes on where it was stopped.
"""

from __future__ import annotations

from pathlib import Path

from hpc_srct import console
from hpc_srct.enhancement import Enhancer, enhance_store, export_tiff
from hpc_srct.enhancement.enhancer import chosen_device
from hpc_srct.enhancement.export import check_export
from hpc_srct.enhancement.fit import check_planned_fit
from hpc_srct.enhancement.run import check_output, model_plan
from hpc_srct.errors import InputError
from hpc_srct.ranks import Communicator
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices import SliceStore
from hpc_srct.slices.blocks import MASTER, SHARDS

INPUT = "input"


def reconstruct(
    source: Path | str,
    model: Path | str,
    out: Path | str,
    ranks: Communicator | None = None,
    *,
    preprocessing: PreprocessingSettings | None = None,
    precision: str = "O0",
    tile: int | None = None,
    device: str | None = None,
    tiff: Path | str | None = None,
    bits: int | None = None,
    per_metre: bool = False,
) -> SliceStore:
    """Enhance a slice store or a raw scan.

    Parameters
    ----------
    source
        Folder of a slice store, or a raw scan: a file, or with a layout a folder.
    model
        Run folder or ``.safetensors`` file.
    out
        Folder of the enhanced store.
    ranks
        The MPI ranks that share the work.
    preprocessing
        How a raw scan is reconstructed; has no place with a store. Unless it says otherwise,
        all views are used (a scan that is to be enhanced is taken to be low-dose already), and
        filtered as the network's training slices were.
    precision, tile, device
        See `Enhancer`.
    tiff, bits, per_metre
        Folder for TIFF files and their kind, by default 32 bits; see `export_tiff`.

    Returns
    -------
    SliceStore
        The enhanced store.

    Raises
    ------
    InputError, MachineError
        From any of the steps; and for settings that would have no effect.
    """
    source, out, ranks = Path(source), Path(out), ranks or Communicator()
    if tiff is None and (bits is not None or per_metre):
        raise InputError(
            "--bits and --per-metre say how TIFF is written; give its folder, too: --tiff DIR."
        )
    bits = 32 if bits is None else bits
    # What can be refused is refused before hours are spent on the scan.
    enhancer = Enhancer.from_file(model, precision, chosen_device(device, ranks.rank), tile)
    plan = model_plan(model, enhancer)
    check_output(out, source, plan)
    settings = preprocessing or PreprocessingSettings()
    is_store = _is_store(source, settings)
    if not is_store:
        settings = _for_network(settings, enhancer)
        check_planned_fit(settings, enhancer.description, enhancer.source)
        enhancer.check_tile()
    if tiff is not None:
        size = _pixel_size(source, None if is_store else settings) if per_metre else None
        check_export(tiff, source, pixel_size=size, plan=plan, bits=bits, per_metre=per_metre)
    del enhancer  # its device's memory
    store = source if is_store else _preprocessed(source, out, settings, ranks)
    enhanced = enhance_store(
        store, model, out, ranks, precision=precision, tile=tile, device=device
    )
    if tiff is not None:
        export_tiff(enhanced, tiff, ranks, bits=bits, per_metre=per_metre)
        ranks.barrier()
    return enhanced


def _is_store(source: Path, settings: PreprocessingSettings) -> bool:
    """Tell a slice store, whole or begun, from a scan: that may be a folder, too."""
    if source.name == MASTER or any((source / part).exists() for part in (MASTER, SHARDS)):
        if settings.model_fields_set:
            raise InputError(
                f"{source}: is a slice store already; preprocessing settings have no effect on it."
                " Leave them out, or give the raw scan."
            )
        return True
    if source.is_dir() and settings.layout is None:
        raise InputError(
            f"{source}: is a folder without a {MASTER}: no slice store. A scan that is a folder"
            " is read with layout=NAME."
        )
    return False


def _for_network(settings: PreprocessingSettings, enhancer: Enhancer) -> PreprocessingSettings:
    """Fill in what the user has not said: all views, filtered as in the network's training."""
    own = {"views": None, "sinogram": False}
    if not settings.model_fields_set & {"filter", "low_filter"}:
        own["low_filter"] = enhancer.description.get("low_filter")
    said = settings.model_fields_set
    return settings.model_copy(update={k: v for k, v in own.items() if k not in said})


def _pixel_size(path: Path, settings: PreprocessingSettings | None) -> float | None:
    """Ask a store (no settings), or a scan, for its pixel size in metres."""
    if settings is None:
        store = SliceStore(path)
        store.close()
        return store.pixel_size
    from hpc_srct.scan import open_scan

    scan = open_scan(
        path,
        settings.layout,
        angle_range=settings.angle_range,
        without_flats=settings.without_flats,
        without_darks=settings.without_darks,
    )
    scan.close()
    return scan.pixel_size


def _preprocessed(
    scan: Path, out: Path, settings: PreprocessingSettings, ranks: Communicator
) -> Path:
    from hpc_srct.preprocessing import preprocess

    store = out / INPUT
    console.say(f"{scan}: a raw scan; reconstructing it into {store}.", rank=ranks.rank)
    preprocess(scan, store, settings, ranks)
    ranks.barrier()
    return store
