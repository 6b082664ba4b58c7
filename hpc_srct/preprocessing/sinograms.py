"""Sinograms of some rows: read by views, corrected, exchanged; the same for all who need them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hpc_srct.preprocessing.dose import Dose
from hpc_srct.preprocessing.exchange import frames_for_rows, total
from hpc_srct.preprocessing.frames import (
    Fields,
    FrameSource,
    FrameWise,
    Times,
    beam_factors,
    runs_of,
)
from hpc_srct.preprocessing.phase import phase_step
from hpc_srct.preprocessing.reading import Reading, sweeps
from hpc_srct.ranks import Communicator
from hpc_srct.scan import Scan
from hpc_srct.settings.preprocessing import PreprocessingSettings
from hpc_srct.tomography.scratch import Scratch


@dataclass(frozen=True)
class SinogramReader:
    """Reads sinograms of chosen rows. Every rank must ask for the same rows.

    Attributes
    ----------
    scan : Scan
    source : FrameSource
        Where projections are read: the scan itself, or its copy laid out by rows.
    settings : PreprocessingSettings
        Their frame-wise steps.
    scratch : Scratch
        Where sinograms are laid; those read before are written over.
    """

    scan: Scan
    source: FrameSource
    settings: PreprocessingSettings
    communicator: Communicator
    times: Times
    scratch: Scratch = field(default_factory=Scratch)

    def read(
        self, rows: np.ndarray, shares: Sequence[slice], reading: Reading, dose: Dose | None = None
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Read, correct, and exchange where some rows cost whole frames.

        Elsewhere each rank reads its own rows: nothing to send, nobody to wait for.

        Parameters
        ----------
        rows
            Detector rows, rising.
        shares
            Which of them each rank gets.
        reading
            How frames are read.
        dose
            Fewer photons, for the low-dose views.

        Returns
        -------
        sinograms : ndarray (row of this rank's share, view, column) float32
        low : ndarray (row of this rank's share, low-dose view, column) float32, or None
            With fewer photons, where a dose is given.
        clipped : ndarray (row of this rank's share,) int64
            Values raised to the floor.
        """
        if self.communicator.size > 1 and not self._needs_frames:
            mine = shares[self.communicator.rank]
            alone = replace(self, communicator=Communicator())
            return alone.read(rows[mine], [slice(0, len(rows[mine]))], reading, dose)
        n_views, n_columns = self.scan.n_views, self.scan.n_columns
        low_views = self.settings.low_views(n_views)
        if not len(rows):
            nothing = np.empty((0, n_views, n_columns), np.float32)
            low = None if dose is None else nothing[:, : len(low_views)]
            return nothing, low, np.zeros(0, np.int64)
        now = time.perf_counter()
        frames = self.frames(rows, dose)
        now = self.times.add("correct", now)
        before = self.times.read + self.times.correct
        made = frames_for_rows(
            frames.line_integrals,
            frames.kinds(n_views),
            n_columns,
            shares,
            self.communicator,
            sweeps(rows, n_views, reading, self.scan.chunk_starts, self.communicator.size),
            self.scratch,
        )
        clipped = total(frames.clipped, self.communicator)[shares[self.communicator.rank]]
        self.times.add("exchange", now + self.times.read + self.times.correct - before)
        return made[0], in_their_order(made[1], low_views) if dose else None, clipped

    def frames(self, rows: np.ndarray, dose: Dose | None = None) -> FrameWise:
        """Make what reads and corrects frames for some rows; see `read`."""
        phase = phase_step(self.settings, self.scan)
        read = np.arange(self.scan.n_rows) if phase else rows
        if hasattr(self.source, "prepare"):
            self.source.prepare(slice(int(read[0]), int(read[-1]) + 1))
        return FrameWise(
            self.source,
            self._reads_frames,
            read,
            self._fields(read),
            self.settings.floor,
            self.times,
            dose=dose,
            low_views=np.sort(self.settings.low_views(self.scan.n_views)),
            beam=self._beam(),
            phase=phase,
            keep=rows if phase else None,
            lost=self.scan.lost,
        )

    @property
    def _reads_frames(self) -> bool:
        return self.scan.chunked_by_frame and self.source is self.scan

    @property
    def _needs_frames(self) -> bool:
        return self._reads_frames or self.settings.phase is not None

    def _beam(self) -> np.ndarray | None:
        return beam_factors(self.scan.monitor, self.scan) if self.settings.monitor else None

    def _fields(self, rows: np.ndarray) -> Fields:
        """Take flats and darks for some rows: each rank its share, then all of them."""
        mine = np.array_split(rows, self.communicator.size)[self.communicator.rank]
        parts = [Fields.of(self.scan, run, self.settings.monitor) for run in runs_of(mine)]
        if self.communicator.size > 1:
            parts = [part for share in self.communicator.mpi.allgather(parts) for part in share]
        return Fields.joined(parts)


def in_their_order(low: np.ndarray, low_views: np.ndarray) -> np.ndarray:
    """Bring sinograms of rising low-dose views into the order in which these are named."""
    order = np.argsort(np.argsort(low_views))
    return low if (np.diff(order) == 1).all() else low[:, order]
