"""Rows about sampling: against `generate`, llama.cpp and vLLM, inside a step, and one row alone."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from engine.measure import Row, clock, interleaved, median, paired, seconds
from engine.subjects import Subjects, forget_prompts, with_rows
from heal.engines.base import GenRequest, Sampling
from heal.engines.local.engine import LocalEngine

ROWS = 128
BATCHES = (16, 32, 64, 128)


def ours(engine: LocalEngine, asked: list[GenRequest]) -> float:
    """Tokens per second, prefill included."""
    forget_prompts(engine)
    start = clock()
    tokens = sum(len(g.ids) for g in engine.generate(asked))
    return tokens / (clock() - start)


def generate(module: Any, asked: list[GenRequest], sampling: Sampling) -> float:
    """The same rows as one left-padded batch; tokens per second, prefill included."""
    pad = module.config.pad_token_id or 0
    width = max(len(r.prompt_ids) for r in asked)
    rows = [r.prompt_ids for r in asked for _ in r.seeds]
    ids = torch.tensor([[pad] * (width - len(r)) + list(r) for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    start = clock()
    with torch.inference_mode():
        out = module.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            max_new_tokens=sampling.max_new_tokens,
            min_new_tokens=sampling.max_new_tokens,
            pad_token_id=pad,
        )
    return (out.shape[1] - width) * len(rows) / (clock() - start)


def products(body: Any, rows: int) -> None:
    """One step's matrix products, nothing else."""
    x = torch.randn(rows, body.width)
    mixed = torch.randn(rows, body.layers[0].out.shape[0])
    inner = torch.randn(rows, body.layers[0].down.shape[0])
    first = body.layers[0]
    qkv, gate_up = x.new_empty(rows, first.qkv.shape[1]), x.new_empty(rows, first.gate_up.shape[1])
    logits = x.new_empty(rows, body.vocabulary)
    with torch.inference_mode():
        for layer in body.layers:
            layer.qkv.product(x, qkv)
            layer.out.add_product(x.clone(), mixed)
            layer.gate_up.product(x, gate_up)
            layer.down.add_product(x.clone(), inner)
        body.head.product(x, logits)


def limit(engine: LocalEngine, rows: int, steps: int = 8) -> float:
    """Tokens per second if a step were its matrix products: the best of `steps`."""
    body = engine.model.body  # type: ignore[union-attr]
    return rows / min(seconds(lambda: products(body, rows)) for _ in range(steps))


def sampling(s: Subjects) -> Row:
    """8 problems × 16, in one batch of 128, against `generate` with the same rows."""
    chosen = s.sampling()
    asked = s.requests(ROWS, chosen)
    ours(s.engine, s.requests(ROWS, replace(chosen, max_new_tokens=4)))
    values = interleaved(
        {
            "ours": lambda: ours(s.engine, asked),
            "generate": lambda: generate(s.module, asked, chosen),
            "matmul limit": lambda: limit(s.engine, ROWS),
        },
        s.repeats,
    )
    return Row(
        "sampling",
        f"8 x 16 x {s.new_tokens} tokens, top-p {chosen.top_p}, 128 rows",
        "tok/s",
        values,
        {
            "ours / generate": paired(values["ours"], values["generate"]),
            "ours / matmul limit": paired(values["ours"], values["matmul limit"]),
        },
        "ours / generate ≥ 2.5",
        s.conditions,
    )


def batches(s: Subjects) -> Row:
    """`generate` at every batch size, against our 128 rows; short, prefill included."""
    chosen = s.sampling(max_new_tokens=min(32, s.new_tokens))

    def theirs(rows: int) -> Callable[[], float]:
        return lambda: generate(s.module, s.requests(rows, chosen), chosen)

    sides: dict[str, Callable[[], float]] = {
        "ours": lambda: ours(s.engine, s.requests(ROWS, chosen)),
        **{f"generate {rows}": theirs(rows) for rows in BATCHES},
    }
    values = interleaved(sides, s.repeats)
    best = max((n for n in values if n != "ours"), key=lambda n: median(values[n]))
    return Row(
        "batches",
        f"generate at 16, 32, 64 and 128 rows, {chosen.max_new_tokens} tokens",
        "tok/s",
        values,
        {f"ours / {best} (its best)": paired(values["ours"], values[best])},
        "ours / best ≥ 2.5",
        s.conditions,
    )


def step(s: Subjects) -> Row:
    """Where a step's time goes, by clocks around its parts in a real run."""
    chosen = s.sampling(max_new_tokens=min(128, s.new_tokens))
    asked = s.requests(ROWS, chosen)
    values: dict[str, list[float]] = {}
    for _ in range(s.repeats):
        forget_prompts(s.engine)
        with clocks() as spent:
            for _ in s.engine.generate(asked):
                pass
        alone = ROWS / limit(s.engine, ROWS) * spent["steps"]
        rest = spent["step"] - spent["products"] - spent["attention"]
        parts = {
            "step": spent["step"] + spent["sampler"],
            "products": spent["products"],
            "products alone": alone,
            "attention": spent["attention"],
            "sampler": spent["sampler"],
            "the rest": rest,
        }
        for name, total in parts.items():
            values.setdefault(name, []).append(1e3 * total / spent["steps"])
    return Row(
        "step",
        f"parts of a step of 128 rows, mean over {chosen.max_new_tokens} tokens, top-p {s.top_p}",
        "ms",
        values,
        {
            "rate of products / limit": paired(values["products alone"], values["products"]),
            "products / step": paired(values["products"], values["step"]),
            "attention / step": paired(values["attention"], values["step"]),
            "sampler / step": paired(values["sampler"], values["step"]),
        },
        "rate of products / limit ≥ 0.85; sampler / step ≤ 0.10",
        s.conditions,
        {"own keys and values read per step, MB": _kv_read(s, chosen.max_new_tokens)},
    )


def _kv_read(s: Subjects, tokens: int) -> float:
    """Keys and values the rows' own attention reads in a step, on average."""
    return ROWS * tokens / 2 * s.engine.model.token_bytes / 1e6  # type: ignore[union-attr]


@contextmanager
def clocks() -> Iterator[dict[str, float]]:
    """Seconds spent in decode steps and in their parts. Prefill is not counted."""
    from heal.engines.local import cohort, decode, native
    from heal.engines.local.matrices import Dense, Packed

    spent = dict.fromkeys(("step", "steps", "products", "attention", "sampler"), 0.0)
    inside = [False]

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            start = clock()
            try:
                return work(*args, **options)
            finally:
                if inside[0] or name == "sampler":
                    spent[name] += clock() - start

        return call

    def whole(*args: Any) -> Any:
        inside[0] = True
        spent["steps"] += 1
        try:
            return step_(*args)
        finally:
            inside[0] = False

    step_ = native.NativeModel.step

    def stepped(*args: Any) -> Any:
        start = clock()
        found = whole(*args)
        spent["step"] += clock() - start
        return found

    clocked = [
        (kind, name, timed("products", getattr(kind, name)))
        for kind in (Dense, Packed)
        for name in ("product", "add_product")
    ]
    clocked.append((cohort.Cohort, "attend", timed("attention", cohort.Cohort.attend)))
    clocked.append((decode, "_draw", timed("sampler", decode._draw)))
    clocked.append((native.NativeModel, "step", stepped))
    with ExitStack() as patched:
        for holder, name, call in clocked:
            patched.enter_context(mock.patch.object(holder, name, call))
        yield spent


def latency(s: Subjects) -> Row:
    """One row alone, with float32 weights and with int8."""
    chosen = s.sampling(max_new_tokens=min(64, s.new_tokens))
    asked = s.requests(1, chosen)
    single, rounded = with_rows(s.engine, 1), with_rows(s.int8, 1)
    for one in (single, rounded):
        ours(one, s.requests(1, replace(chosen, max_new_tokens=2)))
    values = interleaved(
        {
            "ours": lambda: 1e3 / ours(single, asked),
            "ours int8": lambda: 1e3 / ours(rounded, asked),
            "generate": lambda: 1e3 / generate(s.module, asked, chosen),
            "matmul limit": lambda: 1e3 / limit(s.engine, 1, 20),
        },
        s.repeats,
    )
    body = s.engine.model.body  # type: ignore[union-attr]
    layers = (w for layer in body.layers for w in (layer.qkv, layer.out, layer.gate_up, layer.down))
    weights = sum(w.nbytes for w in (*layers, body.head)) / 1e6
    return Row(
        "latency",
        f"n = 1, {chosen.max_new_tokens} tokens",
        "ms per token",
        values,
        {
            "generate / ours": paired(values["generate"], values["ours"]),
            "generate / ours int8": paired(values["generate"], values["ours int8"]),
            "generate / matmul limit": paired(values["generate"], values["matmul limit"]),
        },
        "generate / ours ≥ 2, int8 opt-in",
        s.conditions,
        {
            "weights read per token, MB": weights,
            "GB/s at the limit": weights / median(values["matmul limit"]),
        },
    )


def served(s: Subjects, name: str, post: Callable[[GenRequest, int], int], slots: int) -> Row:
    """Another engine behind HTTP: `slots` requests at once, every one with its own seed."""
    chosen = s.sampling(max_new_tokens=min(64, s.new_tokens))
    asked = s.requests(ROWS, chosen)
    singles = [(r, seed) for r in s.requests(max(slots, 8), chosen) for seed in r.seeds]

    def theirs() -> float:
        with ThreadPoolExecutor(slots) as pool:
            start = clock()
            tokens = sum(pool.map(lambda pair: post(*pair), singles))
            return tokens / (clock() - start)

    for request, seed in singles[:: max(1, len(singles) // 8)]:
        post(request, seed)
    values = interleaved({"ours": lambda: ours(s.engine, asked), name: theirs}, s.repeats)
    return Row(
        name,
        f"{name}, {slots} slots, {chosen.max_new_tokens} tokens, top-p {s.top_p}, ours at 128 rows",
        "tok/s",
        values,
        {f"ours / {name}": paired(values["ours"], values[name])},
        "≥ 2.5",
        s.conditions,
    )
