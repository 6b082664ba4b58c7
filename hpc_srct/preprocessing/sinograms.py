"""Sinograms of some rows: read by views, corrected, exchanged; the same for all who need them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from hpc_srct.ranks import Communicator
from hpc_srct.scan import Scan
from hpc_srct.settings.preprocessing import PreprocessingSettings


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
    """

    scan: Scan
    source: FrameSource
    settings: PreprocessingSettings
    communicator: Communicator
    times: Times

    def read(
        self,
        rows: np.ndarray,
        shares: Sequence[slice],
        views_at_once: int,
        views: np.ndarray | None = None,
        dose: Dose | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read, correct, and exchange where some rows cost whole frames.

        Elsewhere each rank reads its own rows: nothing to send, nobody to wait for.

        Parameters
        ----------
        rows
            Detector rows, rising.
        shares
            Which of them each rank gets.
        views_at_once
            Views that each rank reads and gives away in one step.
        views
            Views to read; default all.
        dose
            Fewer photons; None: as they were counted.

        Returns
        -------
        sinograms : ndarray (row of this rank's share, view, column) float32
        clipped : ndarray (row of this rank's share,) int64
            Values raised to the floor.
        """
        if self.communicator.size > 1 and not self._needs_frames:
            mine = shares[self.communicator.rank]
            alone = replace(self, communicator=Communicator())
            return alone.read(rows[mine], [slice(0, len(rows[mine]))], views_at_once, views, dose)
        if not len(rows):
            n_views = self.scan.n_views if views is None else len(views)
            nothing = np.empty((0, n_views, self.scan.n_columns), np.float32)
            return nothing, np.zeros(0, np.int64)
        now = time.perf_counter()
        frames = self.frames(rows, views, dose)
        now = self.times.add("correct", now)
        before = self.times.read + self.times.correct
        sinograms = frames_for_rows(
            frames.line_integrals,
            len(frames.views),
            self.scan.n_columns,
            shares,
            self.communicator,
            views_at_once,
        )
        clipped = total(frames.clipped, self.communicator)[shares[self.communicator.rank]]
        self.times.add("exchange", now + self.times.read + self.times.correct - before)
        return sinograms, clipped

    def frames(
        self, rows: np.ndarray, views: np.ndarray | None = None, dose: Dose | None = None
    ) -> FrameWise:
        """Make what reads and corrects frames for some rows; see `read`."""
        views = np.arange(self.scan.n_views) if views is None else views
        phase = phase_step(self.settings, self.scan)
        read = np.arange(self.scan.n_rows) if phase else rows
        return FrameWise(
            self.source,
            self._reads_frames,
            read,
            self._fields(read),
            self.settings.floor,
            self.times,
            views=views,
            dose=dose,
            beam=self._beam(),
            phase=phase,
            keep=rows if phase else None,
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
