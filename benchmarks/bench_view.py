"""How long `heal view` makes a reader wait, in a run of any size.

A scripted run is made as in bench_scale.py (70 % of the problems easy, 15 % hard, 15 % extreme;
one token a byte), then read and asked over HTTP as a browser would: first pages, pages in the
middle and at the end, narrow and wide filters, searches, traces. Printed are medians and the
slowest. Run: python benchmarks/bench_view.py [--problems 2700] [--tokens 400] [--keep FOLDER]
"""

import argparse
import http.client
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench_scale import timed, world

from heal.view.index import Filters
from heal.view.server import Viewer

REPEATS = 7
ASKED = {
    "first page": "/",
    "page in the middle": "/?after={middle}",
    "last page": "/?before={end}",
    "wide filter": "/?verdict=wrong&gate=none",
    "wide filter, last page": "/?verdict=wrong&gate=none&before={end}",
    "narrow filter": "/?stage=repair&verdict=correct&drop=kept",
    "filter that finds none": "/?stage=repair&drop=lossy",
    "search": "/?q={problem}",
    "how far it is": "/state",
}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=2700)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--keep", type=Path, help="Make the run here, or read the one that is.")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        if not (folder / "run").exists():
            folder.mkdir(parents=True, exist_ok=True)
            world(args.problems, args.tokens, folder)
            timed(folder, "run", "-c", "recipe.yaml")
        measure(folder / "run")


def measure(run: Path) -> None:
    """Print what reading and asking took."""
    with Viewer(run) as viewer:
        threading.Thread(target=viewer.serve_forever, daemon=True).start()
        state = viewer.index.state
        again = viewer.index.refresh()
        print(f"{state.traces:,} traces of {state.problems:,} problems")
        print(f"first pass {state.seconds:.2f} s, a pass with nothing new {again.seconds:.2f} s")
        rows = viewer.index.page(Filters(), before=1 << 60).rows
        middle = viewer.index.page(Filters(), after=rows[-1].n // 2).rows[0]
        told = {"middle": middle.n, "end": 1 << 60, "problem": middle.problem}
        for name, path in ASKED.items():
            report(name, [ask(viewer, path.format(**told))[0] for _ in range(REPEATS)])
        for stage in ("sample", "hinted", "repair"):
            _, page = ask(viewer, f"/?stage={stage}")
            links = re.findall(r'class="open" href="([^"]+)"', page)
            report(f"a {stage} trace", [ask(viewer, a.replace("&amp;", "&"))[0] for a in links])
        viewer.shutdown()


def ask(viewer: Viewer, path: str) -> tuple[float, str]:
    """Milliseconds, and the page."""
    line = http.client.HTTPConnection("127.0.0.1", viewer.port)
    started = time.perf_counter()
    line.request("GET", path, headers={"Cookie": f"{viewer.cookie}={viewer.token}"})
    answer = line.getresponse()
    page = answer.read().decode()
    taken = 1000 * (time.perf_counter() - started)
    line.close()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status}")
    return taken, page


def report(name: str, taken: Sequence[float]) -> None:
    print(
        f"{name:24} median {statistics.median(taken):6.1f} ms, slowest {max(taken):6.1f} ms"
        f" (n = {len(taken)})"
    )


if __name__ == "__main__":
    main()
