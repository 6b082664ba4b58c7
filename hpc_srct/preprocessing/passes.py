"""The passes over a scan: read a share of the views, correct them, exchange frames for rows,
reconstruct a few rows at a time, write blocks. A block that is whole goes to the disk and
takes its name while the next one is made.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np

from hpc_srct import console
from hpc_srct.background import NamesInBackground
from hpc_srct.errors import Stopped
from hpc_srct.preprocessing.dose import Dose
from hpc_srct.preprocessing.frames import FrameSource, Times
from hpc_srct.preprocessing.plan import Pass, Plan
from hpc_srct.preprocessing.record import Record
from hpc_srct.preprocessing.rows import RowWise
from hpc_srct.preprocessing.sinograms import SinogramReader
from hpc_srct.preprocessing.staging import StagedSinograms, stage, stage_sinograms, unstage
from hpc_srct.ranks import Communicator
from hpc_srct.scan import Scan
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.slices import StoreWriter
from hpc_srct.slices.writer import BlockWriter
from hpc_srct.stopping import Stopping, stop_together
from hpc_srct.tomography.scratch import Scratch


def work_through(
    scan: Scan,
    writer: StoreWriter,
    settings: PreprocessingSettings,
    record: Record,
    plan: Plan,
    communicator: Communicator,
    times: Times,
) -> None:
    """Make every block of the plan. Every rank must call it; when it returns all are done.

    Raises
    ------
    Stopped
        Asked to stop; the blocks that were begun are done, others are not.
    MachineError
        The disk did not take a block; known at the end of the next one at the latest.
    """
    _Passes(scan, writer, settings, record, plan, communicator, times).run()


class _Passes:
    """The passes of one run, on one rank."""

    def __init__(
        self,
        scan: Scan,
        writer: StoreWriter,
        settings: PreprocessingSettings,
        record: Record,
        plan: Plan,
        communicator: Communicator,
        times: Times,
    ):
        self.scan, self.writer, self.settings, self.plan = scan, writer, settings, plan
        self.communicator, self.times = communicator, times
        self.shard: BlockWriter | None = None
        self.names = NamesInBackground()
        self.scratch = Scratch()
        self.laid_out: StagedSinograms | None = None
        self.leaves_off = False
        self.row_wise = RowWise(
            scan.angles, scan.n_columns, record.centre["value"], settings, times
        )
        # What the writer calls rows are the detector's; the scan's may be binned.
        self.rows = writer.rows // settings.binning
        self.dose = Dose(**record.dose) if record.dose else None
        truth = scan.truth(slice(0, 1))
        self.has_truth = truth is not None and truth.shape[1:] == writer.size

    def run(self) -> None:
        """Work through the passes."""
        slices = sum(p.stop - p.start for one in self.plan.passes for share in one for p in share)
        with (
            Stopping() as stop,
            self._frame_source() as source,
            self.names,
            contextlib.ExitStack() as open_shard,
            console.progress("preprocess", slices, rank=self.communicator.rank) as steps,
        ):
            for this_pass in self.plan.passes:
                if self._begins_blocks(this_pass):
                    self._stop_together(stop.wanted() or self.leaves_off)
                steps.advance(0, "reading")
                self._one_pass(this_pass, source, stop, open_shard, steps)
            self._wait_for_names()
            self._stop_together(self.leaves_off)
        self._say_filled()

    def _stop_together(self, asked: bool) -> None:
        try:
            stop_together(asked, self.writer.folder, self.communicator)
        except Stopped:
            self._wait_for_names()
            # The first to leave would take the slower ones for lost, and give the store free.
            self.communicator.barrier()
            raise

    def _wait_for_names(self) -> None:
        now = time.perf_counter()
        self.names.wait()
        self.times.add("write", now)

    def _say_filled(self) -> None:
        parts = self.communicator.gather(self.row_wise.filled)
        views = sorted(set().union(*parts or ()))
        if views:
            shown = ", ".join(map(str, views[:8])) + (", …" if len(views) > 8 else "")
            console.warn(
                f"{self.scan.path}: {len(views)} view(s) without a number in some rows, filled"
                f" from the views beside them: {shown}."
            )

    def _one_pass(
        self,
        this_pass: Pass,
        source: FrameSource,
        stop: Stopping,
        open_shard: contextlib.ExitStack,
        steps: console.Steps,
    ) -> None:
        sinograms, low_sinograms, clipped = self._read(source, this_pass)
        first = 0
        for portion in this_pass[self.communicator.rank]:
            block = self.writer.block_slices(portion.block)
            begins = portion.start == block.start
            self.leaves_off = self.leaves_off or (stop.wanted() and begins)
            if self.leaves_off:
                return
            if begins:
                self.shard = open_shard.enter_context(self.writer.block(portion.block, self.names))
            count, place = portion.stop - portion.start, portion.start - block.start
            self.shard.note("clipped", place, clipped[first : first + count])
            together = self.plan.rows_together
            for i in range(0, count, together):
                here = slice(first + i, first + min(i + together, count))
                low = None if low_sinograms is None else low_sinograms[here]
                row = int(self.rows[portion.start + i])
                self._make_slices(sinograms[here], low, place + i, row)
                steps.advance(here.stop - here.start)
            if portion.stop == block.stop:
                now = time.perf_counter()
                open_shard.close()  # the shard takes its name, once the one before has
                self.times.add("write", now)
            first += count
        others = (share for i, share in enumerate(this_pass) if i != self.communicator.rank)
        steps.advance(sum(p.stop - p.start for share in others for p in share))

    def _begins_blocks(self, this_pass: Pass) -> bool:
        """Tell a pass that begins blocks from one that goes on with them (little memory)."""
        first = next(portion for share in this_pass for portion in share)
        return first.start == self.writer.block_slices(first.block).start

    def _read(
        self, source: FrameSource, this_pass: Pass
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Read this rank's sinograms, those of fewer photons, and how much was clipped."""
        slices_of = [
            np.concatenate([np.arange(p.start, p.stop) for p in share] or [np.arange(0)])
            for share in this_pass
        ]
        rows = self.rows[np.concatenate(slices_of)]
        ends = np.cumsum([len(slices) for slices in slices_of])
        shares = [
            slice(int(end) - len(slices), int(end))
            for end, slices in zip(ends, slices_of, strict=True)
        ]
        if self.laid_out is not None:
            now = time.perf_counter()
            mine = rows[shares[self.communicator.rank]]
            found = self.laid_out.read(mine)
            self.times.add("read", now)
            return found
        reader = SinogramReader(
            self.scan, source, self.settings, self.communicator, self.times, self.scratch
        )
        return reader.read(rows, shares, self.plan.reading, self.dose)

    def _make_slices(
        self, sinograms: np.ndarray, low_sinograms: np.ndarray | None, place: int, row: int
    ) -> None:
        """Reconstruct rows and write them; the first is `row`, at `place` in the shard."""
        for made in self.row_wise.reconstruct(sinograms, low_sinograms):
            now = time.perf_counter()
            self.shard.write(made.name, place, made.values)
            for name, values in made.figures.items():
                self.shard.note(name, place, values)
            self.times.add("write", now)
        now = time.perf_counter()
        if self.has_truth:
            self.shard.write("truth", place, self.scan.truth(slice(row, row + len(sinograms))))
        self.names.begin(self.shard.aside)
        self.times.add("write", now)

    @contextlib.contextmanager
    def _frame_source(self) -> Iterator[FrameSource]:
        if not self.plan.staged:
            yield self.scan
            return
        rows = range(int(self.rows[0]), int(self.rows[-1]) + 1)
        if self.settings.phase is not None:
            self.laid_out = self._line_integrals(rows)
            try:
                yield self.scan
            finally:
                unstage(self.laid_out, self.communicator)
            return
        staged = stage(
            self.scan,
            rows,
            self.settings.scratch,
            self.writer.folder,
            self.communicator,
            self.plan.staging,
            self.times,
        )
        try:
            yield staged
        finally:
            unstage(staged, self.communicator)

    def _line_integrals(self, rows: range) -> StagedSinograms:
        """Take every frame through phase retrieval once, into the scratch folder."""
        reader = SinogramReader(self.scan, self.scan, self.settings, self.communicator, self.times)
        return stage_sinograms(
            self.scan,
            rows,
            self.settings.scratch,
            self.writer.folder,
            self.communicator,
            self.plan.staging,
            reader.frames(np.array(rows), self.dose),
            self.settings.low_views(self.scan.n_views),
        )
