"""From a raw scan to a slice store, on any number of MPI ranks.

Rank 0 decides (what to make, the centre, the plan) and every rank hears the same; then all
work through the passes; then rank 0 writes the master. A block that is there is done, so a run
that was killed goes on.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_srct import console
from hpc_srct.errors import InputError, MachineError
from hpc_srct.files import machine_error
from hpc_srct.preprocessing import provenance
from hpc_srct.preprocessing.centre import FoundCentre, centre_of
from hpc_srct.preprocessing.dark_frames import lose, shown
from hpc_srct.preprocessing.dose import measure_dose
from hpc_srct.preprocessing.exchange import together
from hpc_srct.preprocessing.footprint import COMPILER
from hpc_srct.preprocessing.frames import Times, beam_factors, flats_factors
from hpc_srct.preprocessing.full_turn import stitched_where_aside, why_not_stitched
from hpc_srct.preprocessing.passes import work_through
from hpc_srct.preprocessing.phase import pixel_size_for_phase
from hpc_srct.preprocessing.plan import MIB, Plan, Work, make_plan
from hpc_srct.preprocessing.record import (
    Record,
    changed_source,
    check_same,
    read_record,
    record_to_go_on,
    source_of,
)
from hpc_srct.preprocessing.reduced import reduced
from hpc_srct.preprocessing.usage import base_memory, give_back_freed_memory, peak_memory
from hpc_srct.ranks import Communicator
from hpc_srct.scan import Scan, open_scan
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices import StoreWriter
from hpc_srct.slices.blocks import MASTER
from hpc_srct.slices.lock import StoreLock

# Of all values, the share raised to the floor from which a user should hear of it.
MUCH_CLIPPED = 0.01


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes
    ----------
    slices : int
        Made by this run; 0 where the store was complete.
    seconds : float
        Wall time.
    plan : Plan or None
    times : list of Times
        For each rank; on rank 0 alone.
    peak_memory : list of int
        Bytes, for each rank; on rank 0 alone.
    """

    slices: int
    seconds: float
    plan: Plan | None = None
    times: list[Times] | None = None
    peak_memory: list[int] | None = None


@dataclass(frozen=True)
class Task:
    """What rank 0 found there is to do; the same on every rank."""

    record: Record | None
    blocks: list[int]


def preprocess(
    scan_path: Path | str,
    out: Path | str,
    settings: PreprocessingSettings,
    communicator: Communicator | None = None,
) -> Summary:
    """Reconstruct a scan, from its low-dose views and in full, into a slice store.

    Every rank calls it with the same arguments. An error that all ranks share is raised on
    all; one that a rank meets alone must end the others (`Communicator.abort`).

    Parameters
    ----------
    scan_path
        The raw scan.
    out
        The store's folder. One that is incomplete is completed.
    settings
        How.
    communicator
        The ranks; default this process alone.

    Raises
    ------
    InputError
        A scan that cannot be read right, a store of another scan or of other result settings,
        a store that another run is writing.
    MachineError
        A disk that is full or read-only. What was done stays.
    Stopped
        Asked to stop (SIGTERM, SIGUSR1, SIGUSR2, Ctrl-C); run again to go on.
    """
    start = time.perf_counter()
    give_back_freed_memory()
    communicator = communicator or Communicator()
    out = Path(out)
    with contextlib.ExitStack() as held:
        scan, found = together(communicator, lambda: prepared(scan_path, out, settings))
        held.callback(scan.close)
        rows = settings.chosen_rows(scan.n_rows)
        size = (scan.n_columns, scan.n_columns)
        writer = StoreWriter(out, len(rows), size, np.array(rows) * settings.binning)
        task = together(communicator, lambda: _begin(scan, writer, settings, held))
        if not task.blocks and (out / MASTER).is_file():
            console.say(f"{out}: is complete already.", rank=communicator.rank)
            return Summary(0, time.perf_counter() - start)
        times = Times()
        plan = together(communicator, lambda: _planned(scan, writer, settings, task, communicator))
        record = task.record or _recorded(scan, found, writer, settings, communicator, times)
        if task.blocks:
            work_through(scan, writer, settings, record, plan, communicator, times)
        together(communicator, lambda: _finish(scan, writer, settings, record))
        made = sum(len(writer.block_slices(block)) for block in task.blocks)
        return Summary(
            made,
            time.perf_counter() - start,
            plan,
            communicator.gather(times),
            communicator.gather(peak_memory()),
        )


def work_of(scan: Scan, settings: PreprocessingSettings, base: int | None = None) -> Work:
    """Measure the task: what `make_plan` needs to know.

    Parameters
    ----------
    base
        Bytes that a rank takes before it starts; default what this process takes now.
    """
    groups = {position for position, _ in scan.flat_groups}
    in_scan = settings.centre == "file" or hasattr(scan, "on_detector")  # that of a stitched one
    base, compiler = base_memory() if base is None else (base, COMPILER)
    return Work(
        n_slices=len(settings.chosen_rows(scan.n_rows)),
        n_views=scan.n_views,
        n_low=len(settings.low_views(scan.n_views)),
        columns=scan.n_columns,
        frame_rows=scan.n_rows,
        item=getattr(scan, "bytes_read", np.dtype(scan.dtype).itemsize),
        scratch_item=np.dtype(scan.dtype).itemsize,
        chunked_by_frame=scan.chunked_by_frame,
        chunk_pixels=scan.chunk_frames * scan.chunk_rows * scan.n_columns,
        chunk_frames=min(scan.chunk_frames, scan.n_views),
        chunk_rows=scan.chunk_rows,
        flat_frames=max(scan.n_flats, scan.n_darks),
        flat_groups=max(len(groups), 1) + 1,
        truth=scan.truth(slice(0, 1)) is not None,
        sinogram=settings.sinogram,
        splits=settings.splits,
        padding=settings.padding_columns(scan.n_columns),
        low_apart=settings.photons is not None,
        whole_frames=settings.phase is not None,
        cleaned=settings.rings != "none" or settings.zingers is not None,
        axis=scan.centre_hint if in_scan else settings.centre_among_chosen(),
        base=base,
        compiler=compiler,
    )


def opened(scan_path: Path | str, settings: PreprocessingSettings) -> Scan:
    """Open a scan and check that the settings fit it."""
    scan = open_scan(
        scan_path,
        settings.layout,
        angle_range=settings.angle_range,
        without_flats=settings.without_flats,
        without_darks=settings.without_darks,
    )
    scan = reduced(scan, settings)
    if scan.n_flats:
        scan.darks(slice(0, 1))
    check_asked(scan, settings)
    return scan


def check_asked(scan: Scan, settings: PreprocessingSettings) -> None:
    """Refuse what a scan cannot give, before its frames are read.

    Raises
    ------
    InputError
        Rows or views that it lacks; no monitor, no pixel size, where one is needed.
    """
    settings.chosen_rows(scan.n_rows)
    settings.check_splits(scan.n_views)
    pixel_size_for_phase(settings, scan)
    if settings.monitor:
        beam_factors(scan.monitor, scan)
        for group in scan.flats(slice(0, 1)):
            flats_factors(group, scan)


def prepared(
    scan_path: Path | str, out: Path, settings: PreprocessingSettings
) -> tuple[Scan, FoundCentre | None]:
    """Open a scan as it will be reconstructed; give its centre where it had to be known."""
    record = record_to_go_on(out, settings)
    scan, found = opened(scan_path, settings), None
    if record is not None:
        # Decided once: what was begun goes on with the same.
        scan.lost = np.zeros(0, np.int64)
        lose(scan, np.array(record.lost or [], np.int64))
    if settings.stitch:
        known = None if record is None else record.centre
        scan, found = stitched_where_aside(scan, settings, known)
    settings.low_views(scan.n_views)
    settings.check_splits(scan.n_views)
    return scan, found


def _begin(
    scan: Scan, writer: StoreWriter, settings: PreprocessingSettings, held: contextlib.ExitStack
) -> Task:
    """Take the store (rank 0), check that it is ours, and see what is missing."""
    read_record(writer.folder)
    held.enter_context(StoreLock(writer.folder))
    record = record_to_go_on(writer.folder, settings)
    if record is not None:
        check_same(writer.folder, record, source_of(scan, settings), settings)
    else:
        _say_without_effect(settings)
        for note in scan.notes:
            console.say(f"note: {note}")
        if not scan.n_flats and np.issubdtype(scan.dtype, np.integer):
            console.warn(
                f"{scan.path}: its projections are whole numbers, and without flats they are"
                " taken as transmission: the grey values will mean nothing."
            )
    writer.remove_leftovers()
    return Task(record, writer.blocks_to_do())


def _say_without_effect(settings: PreprocessingSettings) -> None:
    """Name settings that were given and change nothing."""
    if settings.photons is None:
        fields = PreprocessingSettings.model_fields
        idle = [n for n in ("gain", "noise_seed") if getattr(settings, n) != fields[n].default]
        if idle:
            console.warn(f"{' and '.join(idle)}: without effect, since photons is not set.")


def _recorded(
    scan: Scan,
    found: FoundCentre | None,
    writer: StoreWriter,
    settings: PreprocessingSettings,
    communicator: Communicator,
    times: Times,
) -> Record:
    """Find the centre, and write down what the store is made from before its first shard."""
    centre = centre_of(scan, settings, communicator, times, found)
    why = why_not_stitched(scan, centre["value"], settings)
    if why:
        console.warn(f"{scan.path}: {why}", rank=communicator.rank)
    dose = None
    if settings.photons is not None:
        dose = together(communicator, lambda: measure_dose(scan, settings).describe())
    source = source_of(scan, settings)
    lost = getattr(scan, "lost_frames", scan.lost).tolist()
    record = Record(source, settings.result(), centre, provenance.versions(), dose, lost)
    together(communicator, lambda: record.write(writer.folder))
    return record


def _planned(
    scan: Scan,
    writer: StoreWriter,
    settings: PreprocessingSettings,
    task: Task,
    communicator: Communicator,
) -> Plan:
    plan = make_plan(
        work_of(scan, settings),
        communicator.size,
        settings.memory_bytes,
        task.blocks,
        scratch=settings.scratch is not None,
        finds_centre=task.record is None and settings.centre == "auto",
    )
    _ask_for_room(writer.folder, "store", plan.disk)
    if settings.scratch is not None:
        _try_scratch(settings.scratch, plan.staged)
    if plan.staged:
        _ask_for_room(settings.scratch, "scratch copy", plan.scratch)
    done = writer.n_blocks - len(task.blocks)
    before = f"; {done} of {writer.n_blocks} blocks are done" if done else ""
    console.say(
        f"{scan.path}: {len(writer.rows)} rows × {scan.n_views} views × {scan.n_columns} columns,"
        f" {communicator.size} rank(s), {len(plan.passes)} pass(es), about"
        f" {plan.memory / MIB:.0f} MiB a rank and {plan.disk / MIB:.0f} MiB of disk{before}"
    )
    return plan


def _try_scratch(folder: Path, needed: bool) -> None:
    """Refuse a scratch folder that cannot be made; say where none is needed."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise machine_error(folder, error) from error
    if needed:
        return
    console.say(f"scratch: {folder} is not needed, the memory takes the scan as it is.")
    with contextlib.suppress(OSError):  # another run may use it by now
        for place in missing:
            place.rmdir()


def _ask_for_room(folder: Path, what: str, wanted: int) -> None:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there)
    if free.total and free.free < wanted:
        raise MachineError(
            f"{folder}: the {what} needs {wanted / MIB:.0f} MiB more and the disk has"
            f" {free.free / MIB:.0f} MiB free; free some space and run again."
        )


def _finish(
    scan: Scan, writer: StoreWriter, settings: PreprocessingSettings, record: Record
) -> None:
    """Write the master, last of all."""
    difference = changed_source(record.source, source_of(scan, settings))
    if difference:
        raise InputError(f"{scan.path}: {difference}; remove {writer.folder} and make it again.")
    story, figures = provenance.tell(scan, writer, settings, record)
    writer.finish(story, **figures)
    blind = writer.rows[np.isnan(writer.per_slice("intensity"))]
    if len(blind):
        named = f"row(s) {shown(blind)}"
        console.warn(
            f"{scan.path}: {named} ({len(blind)} of {len(writer.rows)}) became slices without a"
            " number: no live pixel in the flats, or too many views without a number."
        )
    clipped = story["intensity"]["clipped_fraction"]
    if clipped > MUCH_CLIPPED:
        console.warn(
            f"{scan.path}: {clipped:.1%} of what was measured stood below the floor"
            f" ({settings.floor:g} of the beam) and was raised to it: opaque parts of the object,"
            " or frames, rows or flats without light."
        )
