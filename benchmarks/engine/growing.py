"""Rows about growth, on a model of the lab's size, and the lab's own speed."""

from engine.measure import Row, clock, line_fit, median, peak_rss, seconds
from engine.subjects import TEACHER, Subjects, forget_prompts, with_rows
from heal.config import LocalEngine as Settings
from heal.engines.base import GenRequest, Sampling
from heal.engines.local.engine import LocalEngine, open_local

REQUESTS = (16, 64, 256, 1024)
LENGTHS = (256, 512, 1024, 2048, 4096)


def _ask(engine: LocalEngine, count: int, tokens: int) -> None:
    drawn = Sampling(temperature=1.0, max_new_tokens=tokens)
    prompt = engine.render("x" * 40)
    asked = (GenRequest(str(i), (*prompt, 5 + i % 90), (i,), drawn) for i in range(count))
    assert sum(len(g.ids) for g in engine.generate(asked)) == count * tokens


def requests(s: Subjects) -> Row:
    """Time and memory of 16 to 1,024 requests of 128 tokens in 64 rows."""
    values: dict[str, list[float]] = {str(n): [] for n in REQUESTS}
    memory: dict[str, float] = {}
    engine = s.tiny
    _ask(engine, 64, 16)
    for _ in range(s.repeats):
        for n in REQUESTS:
            forget_prompts(engine)
            with peak_rss() as peak:
                values[str(n)].append(seconds(lambda n=n: _ask(engine, n, 128)))
            memory[f"peak MB at {n}"] = round(peak[0])
    full = [n for n in REQUESTS if n >= 64]  # below, the batch is not full
    a, b, r2 = line_fit(full, [median(values[str(n)]) for n in full])
    return Row(
        "growth-requests",
        "16 to 1,024 requests of 128 tokens, 64 rows, lab-sized model",
        "s",
        values,
        {"R² of a + b·n from 64 on": r2, "ms per request (b)": 1e3 * b, "s (a)": a},
        "linear, memory flat",
        s.machine_conditions,
        memory,
    )


def lengths(s: Subjects) -> Row:
    """Time and memory of 8 rows of 256 to 4,096 tokens."""
    values: dict[str, list[float]] = {str(n): [] for n in LENGTHS}
    memory: dict[str, float] = {}
    engine = with_rows(s.tiny, 8)
    held = 8 * engine.model.token_bytes / 2**20  # type: ignore[union-attr]
    for _ in range(s.repeats):
        for n in LENGTHS:
            with peak_rss() as peak:
                values[str(n)].append(seconds(lambda n=n: _ask(engine, 8, n)))
            memory[f"peak MB at {n}"] = round(peak[0])
    per_token = [1e3 * median(values[str(n)]) / n for n in LENGTHS]
    a, b, r2 = line_fit(LENGTHS, per_token)
    return Row(
        "growth-lengths",
        "8 rows of 256 to 4,096 tokens, lab-sized model",
        "s",
        values,
        {
            "R² of ms per step = a + b·L": r2,
            "a, ms": a,
            "b, µs per token of length": 1e3 * b,
        },
        "a + b·L (attention is quadratic); memory capped",
        s.machine_conditions,
        {**memory, "keys and values, MB per 1,000 tokens": round(1000 * held, 1)},
    )


def lab(s: Subjects) -> Row:
    """Whole traces of the lab's teacher, ends and all."""
    from heal.lab.source import problems

    engine = open_local(str(TEACHER), Settings(rows=128))
    drawn = Sampling(temperature=0.7, max_new_tokens=320)
    texts = [str(p["problem"]) for p in problems(n=24, seed=1)]
    asked = [
        GenRequest(str(i), engine.render(text), tuple(range(30 * i, 30 * i + 30)), drawn)
        for i, text in enumerate(texts)
    ]
    list(engine.generate(asked[:4]))
    rates, tokens = [], 0
    for _ in range(s.repeats):
        forget_prompts(engine)
        start = clock()
        found = list(engine.generate(asked))
        rates.append(len(found) / (clock() - start))
        tokens = sum(len(g.ids) for g in found)
    return Row(
        "lab",
        "the lab's teacher: 24 problems x 30 traces, 128 rows, T = 0.7",
        "traces/s",
        {"ours": rates},
        {"tokens per trace": tokens / (30 * len(texts))},
        "reported",
        s.machine_conditions,
    )
