"""From a slice store to an enhanced one: blocks dealt to ranks, each written when whole.

What decides the result (model, precision, input) stands in ``enhancement.json`` from the start;
a rerun with the same does what is missing, one with another is refused.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hpc_srct
from hpc_srct import console
from hpc_srct.enhancement.enhancer import Enhancer, chosen_device
from hpc_srct.enhancement.fit import check_fit
from hpc_srct.errors import InputError
from hpc_srct.files import write_json
from hpc_srct.models.files import NAME
from hpc_srct.ranks import Communicator
from hpc_srct.slices import SliceStore, StoreWriter
from hpc_srct.slices.blocks import MASTER, SHARDS
from hpc_srct.slices.lock import StoreLock
from hpc_srct.stopping import Stopping, stop_together

PLAN = "enhancement.json"
NAME_IN_STORE = "enhanced"


def enhance_store(
    store_path: Path | str,
    model_path: Path | str,
    out: Path | str,
    communicator: Communicator | None = None,
    *,
    precision: str = "O0",
    tile: int | None = None,
    device: str | None = None,
) -> SliceStore:
    """Send every slice of a store through a network, into a store of the same rows and blocks.

    Parameters
    ----------
    store_path
        The slice store; its array named in the model (``low``) is the input.
    model_path
        A run folder or a ``.safetensors`` file.
    out
        Folder of the result; ``/entry/enhanced/data`` in attenuation per pixel. What is done
        there already by the same model from the same slices stays.
    communicator
        The ranks that share the work; alone by default.
    precision, tile, device
        See `Enhancer`.

    Returns
    -------
    SliceStore
        The enhanced store.

    Raises
    ------
    InputError
        No such store or model, shards missing from the input, `out` holds something else, or
        another run is writing it.
    MachineError
        The disk is full, the device failed.
    Stopped
        Asked to stop (SIGTERM, SIGUSR1, SIGUSR2, Ctrl-C): the blocks that were begun are done,
        run again to go on.

    Notes
    -----
    Ranks share whole blocks, and a slice is worked on by one of them, so any number of ranks
    with the same number of threads each gives the same bits.
    """
    ranks = communicator or Communicator()
    store_path, out = Path(store_path), Path(out)
    _share_cores(ranks)
    store = SliceStore(store_path)
    enhancer = Enhancer.from_file(model_path, precision, chosen_device(device, ranks.rank), tile)
    if enhancer.note:
        console.warn(enhancer.note, rank=ranks.rank)
    name = enhancer.description.get("input", "low")
    _check_input(store, name, enhancer)
    enhancer.check_tile(store.size)
    plan = _plan(store, model_path, enhancer)
    writer = StoreWriter(out, store.n_slices, store.size, store.rows)
    with contextlib.ExitStack() as held:
        held.callback(store.close)
        if ranks.rank == 0:
            check_output(out, store.path, plan)
            whole = (out / MASTER).is_file() and not writer.blocks_to_do()
            if not whole:  # else nothing is written: it may lie on a read-only disk
                held.enter_context(StoreLock(out))
                _claim(writer, store, plan)
        ranks.barrier()
        todo = writer.blocks_to_do()
        # All ranks list what is missing before any of them makes some of it.
        ranks.barrier()
        _work_through(writer, store, name, enhancer, ranks, todo)
        if ranks.rank == 0:
            _finish(writer, store, enhancer, plan, whole)
        ranks.barrier()
    return SliceStore(out)


def _work_through(
    writer: StoreWriter,
    store: SliceStore,
    name: str,
    enhancer: Enhancer,
    ranks: Communicator,
    todo: list[int],
) -> None:
    """Make the blocks `todo`, one on each rank at a time; when it returns all are done."""
    mine = todo[ranks.rank :: ranks.size]
    count = sum(len(writer.block_slices(block)) for block in mine)
    with Stopping() as stop, console.progress("enhance", count, rank=ranks.rank) as steps:
        told = False
        for turn in range(0, len(todo), ranks.size):
            stop_together(stop.wanted(), writer.folder, ranks)
            for block in todo[turn : turn + ranks.size][ranks.rank : ranks.rank + 1]:
                with writer.block(block) as shard:
                    for place, index in enumerate(writer.block_slices(block)):
                        result = enhancer.enhance(store.read(name, index), store.scale)
                        shard.write(NAME_IN_STORE, place, result[None])
                        shard.note("missing", place, np.array([np.isnan(result).all()], np.int64))
                        steps.advance()
                        if stop.wanted() and not told:
                            told = True
                            console.say("stopping when this block is done", rank=ranks.rank)
    ranks.barrier()


def _check_input(store: SliceStore, name: str, enhancer: Enhancer) -> None:
    check_fit(store, enhancer.description, enhancer.source)
    missing = store.missing(name)
    if len(missing):
        rows = store.rows[missing]
        raise InputError(
            f"{store.path}: {len(missing)} slices of '{name}' have no shard (rows {rows[0]} to"
            f" {rows[-1]}); run `srct preprocess` on it again, then go on."
        )


def model_plan(model_path: Path | str, enhancer: Enhancer) -> dict[str, Any]:
    """Give what of the model decides the result, which is known before there are slices."""
    model_path = Path(model_path)
    file = model_path if model_path.suffix == ".safetensors" else model_path / NAME
    return {
        "model_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "precision": enhancer.precision,
        "input": enhancer.description.get("input", "low"),
    }


def _plan(store: SliceStore, model_path: Path | str, enhancer: Enhancer) -> dict[str, Any]:
    """Give what decides the result. Independent of where things lie, so that they can move."""
    source = json.dumps(
        [store.provenance, store.rows.tolist(), store.scale], sort_keys=True, default=str
    )
    digest = hashlib.sha256(source.encode()).hexdigest()
    return {**model_plan(model_path, enhancer), "source_sha256": digest}


def _claim(writer: StoreWriter, store: SliceStore, plan: dict[str, Any]) -> None:
    """Make the folder ours; what another run began a moment ago counts, too."""
    record = writer.folder / PLAN
    if record.is_file():
        check_output(writer.folder, store.path, plan)
        writer.remove_leftovers()
    else:
        write_json(record, {"result": plan})


def check_output(out: Path, source: Path, plan: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but the same enhancement, begun or done.

    Parameters
    ----------
    out
        The folder.
    source
        The store or scan that is to be enhanced.
    plan
        What decides the result, or that part of it that is known already.

    Raises
    ------
    InputError
        Says what is there.
    """
    record = out / PLAN
    if out.resolve() == source.resolve():
        raise InputError(f"{out}: is the input; choose another folder for the enhanced store.")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: exists and is a file; choose another name.")
    if record.is_file():
        try:
            found = json.loads(record.read_text(encoding="utf-8"))["result"]
        except (ValueError, KeyError) as error:
            raise InputError(f"{record}: is damaged; remove {out} to start anew.") from error
        changed = [key for key in plan if found.get(key) != plan[key]]
        if changed:
            raise InputError(
                f"{out}: was made with another {' and '.join(_WORDS[key] for key in changed)};"
                " choose another folder, or remove it first."
            )
    elif any((out / part).exists() for part in (MASTER, SHARDS)):
        raise InputError(
            f"{out}: exists and is not an enhanced store; choose another folder, or remove it."
        )


_WORDS = {
    "model_sha256": "model",
    "precision": "precision",
    "input": "input array",
    "source_sha256": "slice store",
}


def _finish(
    writer: StoreWriter,
    store: SliceStore,
    enhancer: Enhancer,
    plan: dict[str, Any],
    was_whole: bool,
) -> None:
    lost = store.rows[np.flatnonzero(writer.per_slice("missing"))]
    if len(lost):
        console.warn(
            f"{store.path}: {len(lost)} slice(s) with missing values stay missing (NaN): rows"
            f" {', '.join(map(str, lost[:20]))}{' …' if len(lost) > 20 else ''}."
        )
    if was_whole:
        console.say(f"{writer.folder}: was complete already; nothing to do.")
        return
    provenance = {
        "step": "enhance",
        "settings": plan,
        "model": {"path": enhancer.source, **enhancer.description},
        "tile": enhancer.tile_for(store.size),
        "device": str(enhancer.device),
        "rows_missing": lost.tolist(),
        "software": {"hpc_srct": hpc_srct.__version__, "torch": torch.__version__},
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "source": {"path": str(store.path.resolve()), "provenance": store.provenance},
    }
    writer.finish(
        provenance,
        scale=store.scale,
        field_of_view=store.field_of_view,
        centre=store.centre,
        pixel_size=store.pixel_size,
    )


def _share_cores(ranks: Communicator) -> None:
    """Give each rank of a machine its share of the cores, unless the user has said how many."""
    if ranks.mpi is None or "OMP_NUM_THREADS" in os.environ:
        return
    from mpi4py import MPI

    here = ranks.mpi.Split_type(MPI.COMM_TYPE_SHARED).Get_size()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // here))
