"""Interleaved repeats, medians, ratios, and the facts of the machine they were taken on."""

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "numpy", "gguf", "xllamacpp")


@dataclass
class Row:
    """One line of the table. `values` holds a number per repeat and side, in `unit`."""

    name: str
    what: str
    unit: str
    values: dict[str, list[float]]
    ratios: dict[str, float]
    bar: str
    conditions: dict[str, Any]
    """What must be equal for two runs of the row to be put together."""
    facts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "medians": {k: median(v) for k, v in self.values.items()}}


def interleaved(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """One number of every side per repeat, in turn, so that a busy machine slows all of them."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            values[name].append(side())
    return values


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def paired(a: Sequence[float], b: Sequence[float]) -> float:
    """Median of a/b over the repeats."""
    return median([x / y for x, y in zip(a, b, strict=True)])


class Clock:
    """Seconds on the wall, or of this process's CPU time.

    CPU time ignores whoever else wants the cores, and counts every thread: with one thread it is
    what the wall would show on an idle machine, save for caches and memory that others use.
    """

    def __init__(self) -> None:
        self.kind = "wall"

    def __call__(self) -> float:
        return time.perf_counter() if self.kind == "wall" else time.process_time()


clock = Clock()


def seconds(work: Callable[[], object]) -> float:
    start = clock()
    work()
    return clock() - start


def line_fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """a, b and R² of y = a + b·x."""
    fit = statistics.linear_regression(x, y)
    r = statistics.correlation(x, y)
    return fit.intercept, fit.slope, r * r


@contextmanager
def peak_rss() -> Iterator[list[float]]:
    """The list gets one number: the most memory resident within, in MB."""
    found: list[float] = []
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # the high-water mark starts anew
    yield found
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        found.append(int(line.split()[1]) / 1024)
    else:
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def machine() -> dict[str, Any]:
    import torch

    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    names = (x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if "model name" in x)
    return next(names, "unknown")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
