"""Memory of one training step is there for the next, and given back behind the last."""

import platform
import resource
from pathlib import Path

import pytest
import torch

from heal.students.allocator import keeps_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
BLOCK_MB, BLOCKS = 8, 24
STEP_MB = BLOCK_MB * BLOCKS


def pages_asked_for() -> int:
    """Page faults of one step that needs `STEP_MB` in blocks, and lets go of them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(BLOCK_MB << 18) for _ in range(BLOCKS)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def test_only_the_first_step_asks_for_memory_and_all_of_it_goes_back() -> None:
    pages = STEP_MB * 2**20 / resource.getpagesize()
    before = resident_mb()
    with keeps_memory():
        steps = [pages_asked_for() for _ in range(5)]
        assert resident_mb() > before + 0.9 * STEP_MB
    assert max(steps[2:]) < 0.2 * pages
    assert resident_mb() < before + 0.1 * STEP_MB
