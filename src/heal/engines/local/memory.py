"""How much memory keys and values may take.

In: the setting and the device. Out: bytes. What counts as free is what the kernel would hand out
without swapping, or less where a container is allowed less.
"""

from pathlib import Path

import torch

_FREE_SHARE = 0.5
"""Of what is free; the rest is left to activations, the allocator and other programs."""
_UNKNOWN = 4 << 30
_CGROUP = Path("/sys/fs/cgroup")


def kv_bytes(memory_gb: float | None, device: torch.device) -> int:
    """Bytes for keys and values; None takes half of what is free now."""
    if memory_gb is not None:
        return int(memory_gb * 2**30)
    return int(free_bytes(device) * _FREE_SHARE)


def free_bytes(device: torch.device) -> int:
    """Bytes free on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [b for b in (_available(Path("/proc/meminfo")), _allowed(_CGROUP)) if b is not None]
    return min(found, default=_UNKNOWN)


def _available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:  # not a Linux
        return None
    values = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((int(kilobytes) * 1024 for kilobytes in values), None)


def _allowed(cgroup: Path) -> int | None:
    """What a container's limit leaves, if it has one."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - used + _given_up_when_asked(cgroup))


def _given_up_when_asked(cgroup: Path) -> int:
    """Pages of files that were read: they count as used, and are in nobody's way."""
    try:
        lines = (cgroup / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
