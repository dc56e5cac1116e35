"""How much memory a process needs that makes candidates, and how many such processes fit."""

from types import SimpleNamespace

import pytest
import torch

from model.architectures import describe
from utils.learning.device import Device
from utils.pruning import assembly, memory

NETWORK = describe("res", depth=10, width=0.5)


def test_memory_that_a_worker_needs():
    small, large = (memory.needed_bytes(n, n.full_widths, 128, "halving")
                    for n in (NETWORK, describe("res", depth=40, width=2.0)))
    assert 0.6e9 < small < 1.3e9 < 2e9 < large < 2.5e9  # found: 2.0e9
    available = memory.available_bytes()
    assert memory.jobs_that_fit(1000, available / 3.5) == 3 and memory.jobs_that_fit(2, available / 3.5) == 2
    assert memory.jobs_that_fit(8, 1e18) == 1


@pytest.mark.parametrize("gpus, jobs, found", [(1, 4, 1), (2, 4, 2), (4, 3, 3)])
def test_a_gpu_has_one_worker_and_it_is_said(monkeypatch, capsys, gpus, jobs, found):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)  # no machine with GPUs is at hand
    asked = SimpleNamespace(jobs=jobs)
    assert assembly.jobs_of_this_machine(asked, Device("cuda"), None, jobs) == found
    assert ("several processes on one GPU are slower" in capsys.readouterr().out) == (found < jobs)
