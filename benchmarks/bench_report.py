"""A report however large its run: seconds, peak memory and size of the page, on made-up runs.

Each run is filled with rows of every kind (30 unaided traces a problem, repairs of a fifth of them,
two arms' sets, attempts at a tenth as many held-out problems) and read in processes of their own.
Run: python -m benchmarks.bench_report [--problems 2000 20000] [--attempts 24] [--repeats 3]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.made_run import fill

from heal.report.html import render_html
from heal.report.load import load_view
from heal.store import Store


def read(folder: Path) -> None:
    """Print, for one process: seconds to load and to render, peak MB, bytes of page, traces."""
    started = time.perf_counter()
    with Store.open(folder, write=False) as store:
        view = load_view(store)
    loaded = time.perf_counter()
    page = render_html(view).encode()
    rendered = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    traces = sum(count.traces for count in view.traces)
    print(loaded - started, rendered - loaded, peak, len(page), traces)


def measure(problems: int, attempts: int, repeats: int) -> str:
    """One line: medians, and from the least to the most of `repeats` processes."""
    with tempfile.TemporaryDirectory() as place:
        folder = fill(Path(place) / "run", problems, held_out=problems // 10, attempts=attempts)
        found = []
        for _ in range(repeats):
            command = [sys.executable, "-m", "benchmarks.bench_report", "--read", str(folder)]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found.append([float(word) for word in out.split()])
    load, render, peak, page, traces = zip(*found, strict=True)

    def figures(values: tuple[float, ...], form: str) -> str:
        low, high = (format(end, form) for end in (min(values), max(values)))
        return f"{format(median(values), form)} ({low}–{high})"

    return (
        f"{problems:,} problems, {traces[0]:,.0f} traces: load {figures(load, '.1f')} s, render "
        f"{figures(render, '.1f')} s, peak {figures(peak, '.0f')} MB, page {page[0] / 1e6:.2f} MB "
        f"(n = {repeats})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, nargs="+", default=[2000, 20_000])
    parser.add_argument("--attempts", type=int, default=24, help="per held-out problem and student")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--read", type=Path, help="only read this run folder, once")
    asked = parser.parse_args()
    if asked.read:
        read(asked.read)
        return
    for problems in asked.problems:
        print(measure(problems, asked.attempts, asked.repeats), flush=True)


if __name__ == "__main__":
    main()
