"""Ranks that share a GPU, and errors of torch's that mean a lost rank or do not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hpc_srct.errors import InputError, MachineError
from hpc_srct.training.contact import one_voice, refuse_shared_gpus
from hpc_srct.training.engine import Ranks

CPU = torch.device("cpu")
GONE = "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:23170"
MISUSED = (
    "NCCL error in: ProcessGroupNCCL.cpp:3690, invalid usage (run with NCCL_DEBUG=WARN for "
    "details), NCCL version 2.27.5\nDuplicate GPU detected : rank 1 and rank 0"
)


class RanksOnGpus(Ranks):
    """Ranks of which each has told (host, GPU)."""

    others: tuple[tuple[str, str], ...] = ()

    def gather(self, value: tuple[str, str]) -> list[tuple[str, str]]:
        """Put this rank's before the others'."""
        return [value, *self.others]


@pytest.mark.parametrize(
    ("others", "shared"),
    [
        ((("here", "GPU-0"),), 2),
        ((("here", "GPU-1"), ("here", "GPU-0"), ("here", "GPU-0")), 3),
        ((("here", "GPU-1"), ("there", "GPU-2"), ("there", "GPU-2")), 2),
        ((("here", "GPU-1"),), None),
        ((("there", "GPU-0"),), None),
        ((), None),
    ],
)
def test_each_rank_needs_a_gpu_of_its_own(monkeypatch, others, shared):
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="GPU-0")
    )
    where = RanksOnGpus(0, 1 + len(others), torch.device("cuda", 0))
    monkeypatch.setattr(RanksOnGpus, "others", others)
    if shared is None:
        refuse_shared_gpus(where)
    else:
        with pytest.raises(InputError, match=f"^{shared} ranks share one GPU of "):
            refuse_shared_gpus(where)


def test_on_cpus_ranks_share_what_they_like():
    refuse_shared_gpus(Ranks(0, 2, CPU))  # gathering would fail: nobody else is here


def end_with(error: Exception, run_dir: Path) -> None:
    """End one of two ranks with an error."""
    with one_voice(Ranks(1, 2, CPU), run_dir):
        raise error


def test_a_lost_rank_is_told_and_a_checkpoint_only_where_there_is_one(tmp_path):
    lost = torch.distributed.DistBackendError(GONE)
    with pytest.raises(MachineError, match="rank 1: another of the 2 ranks is gone") as told:
        end_with(lost, tmp_path)
    assert "--resume" not in str(told.value)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "current").write_text("step-00000000\n")
    with pytest.raises(MachineError, match="--resume goes on"):
        end_with(lost, tmp_path)


def test_what_nccl_calls_invalid_usage_is_no_lost_rank(tmp_path):
    with pytest.raises(torch.distributed.DistBackendError, match="invalid usage"):
        end_with(torch.distributed.DistBackendError(MISUSED), tmp_path)
