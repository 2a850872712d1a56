"""Ranks on CUDA devices, which speak through NCCL, against one process on a CPU."""

import pytest
import torch

from tests.distributed import cases
from tests.distributed.launch import launch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_nccl_is_one_process(tmp_path, monkeypatch):
    """Two ranks; where there is one device they share it, as if each were on a host of its own."""
    monkeypatch.setenv("DEVICE", "cuda")
    for transport in ("P2P", "SHM", "IB"):
        monkeypatch.setenv(f"NCCL_{transport}_DISABLE", "1")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "lo")
    torch.save({}, tmp_path / "states.pt")
    launch(["-m", "tests.distributed.cases", tmp_path / "states.pt", tmp_path, "some"])
    for rank in range(2):
        file = tmp_path / f"rank{rank}.pt"
        seen = torch.load(file, weights_only=True, map_location="cpu")["cases"]
        for case in cases.SOME:
            expected = cases.training(case, range(2), cases.one_memory, cases.one_kind(case))
            found = seen[str(case)]
            for step, wanted in zip(found["steps"], expected["steps"], strict=True):
                equal(step["ranks"][0], wanted["ranks"][rank])
                equal(step["gradient"], wanted["gradient"])
            equal(found["contents"], expected["contents"])


def equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10, equal_nan=True)
