"""`srct enhance`: a slice store, or a raw scan, to an enhanced volume.

A raw scan is preprocessed first, into a store inside the output: ``OUT/input`` is what the network
saw, ``OUT/slices.h5`` what it made of it. Each half goes on where it was stopped.
"""

from __future__ import annotations

from pathlib import Path

from hpc_srct import console
from hpc_srct.enhancement import Enhancer, enhance_store, export_tiff
from hpc_srct.enhancement.enhancer import chosen_device
from hpc_srct.enhancement.export import BITS
from hpc_srct.errors import InputError
from hpc_srct.ranks import Communicator
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices import SliceStore
from hpc_srct.slices.blocks import MASTER

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
    bits: int = 32,
    per_metre: bool = False,
) -> SliceStore:
    """Enhance a slice store or a raw scan.

    Parameters
    ----------
    source
        Folder of a slice store, or a raw scan file.
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
        Folder for TIFF files and their kind; see `export_tiff`.

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
    # What can be refused is refused before hours are spent on the scan.
    own = chosen_device(device, ranks.rank)
    description = Enhancer.from_file(model, precision, own, tile).description
    if bits not in BITS:
        raise InputError(f"--bits: expected 32, 16 or 8; found {bits}.")
    if source.is_dir() or source.name == MASTER:
        if preprocessing is not None and preprocessing.model_fields_set:
            raise InputError(
                f"{source}: is a slice store already; preprocessing settings have no effect on it."
                " Leave them out, or give the raw scan."
            )
        store = source
    else:
        settings = preprocessing or PreprocessingSettings()
        if not settings.model_fields_set & {"filter", "low_filter"}:
            known = {"low_filter": description.get("low_filter")}
            settings = settings.model_copy(update=known)
        store = _preprocessed(source, out, settings, ranks)
    enhanced = enhance_store(
        store, model, out, ranks, precision=precision, tile=tile, device=device
    )
    if tiff is not None:
        export_tiff(enhanced, tiff, ranks, bits=bits, per_metre=per_metre)
        ranks.barrier()
    return enhanced


def _preprocessed(
    scan: Path, out: Path, settings: PreprocessingSettings, ranks: Communicator
) -> Path:
    from hpc_srct.preprocessing import preprocess

    for key, value in (("views", None), ("sinogram", False)):
        if key not in settings.model_fields_set:
            settings = settings.model_copy(update={key: value})
    store = out / INPUT
    console.say(f"{scan}: a raw scan; reconstructing it into {store}.", rank=ranks.rank)
    preprocess(scan, store, settings, ranks)
    ranks.barrier()
    return store
