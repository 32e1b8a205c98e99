"""The embedded engine's table: each row against its reference, in one interleaved run.

Both sides use the same weights, prompts, rows and new tokens, in turn, so that a busy machine slows
both. Figures are medians over the repeats, ratios medians of paired ratios. `--json FILE` adds to
what the file holds: repeats of a row under the same conditions are put together, so that the
table can be filled bit by bit.

    python benchmarks/bench_engine.py [--rows sampling,step] [--quick] [--json FILE]
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import growing, measure, reading, rounding, servers, writing
from engine.measure import Row, median
from engine.subjects import SMOLLM2, Subjects

ROWS: dict[str, Callable[[Subjects], Row]] = {
    "sampling": writing.sampling,
    "batches": writing.batches,
    "llamacpp": servers.llamacpp,
    "llamacpp-f32": servers.llamacpp_f32,
    "step": writing.step,
    "latency": writing.latency,
    "int8": rounding.int8,
    "scoring": reading.scoring,
    "tree": reading.tree,
    "siblings": reading.siblings,
    "repairs": reading.repairs,
    "growth-requests": growing.requests,
    "growth-lengths": growing.lengths,
    "lab": growing.lab,
}


def merged(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Two runs of a row under the same conditions as one; else the newer."""
    if old is None or old["conditions"] != new["conditions"] or old["name"] == "repairs":
        return new
    if old["values"].keys() != new["values"].keys():
        return new
    values = {side: old["values"][side] + new["values"][side] for side in new["values"]}
    # Ratios of two runs, weighted by their repeats: the runs' own pairs are not mixed.
    n_old, n_new = (len(next(iter(x["values"].values()))) for x in (old, new))
    ratios = {
        name: (old["ratios"].get(name, value) * n_old + value * n_new) / (n_old + n_new)
        for name, value in new["ratios"].items()
    }
    medians = {side: median(v) for side, v in values.items()}
    return {**new, "values": values, "ratios": ratios, "medians": medians}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| row | what | medians | ratios | bar | n |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        medians = ", ".join(f"{k} {_short(v)}" for k, v in row["medians"].items())
        ratios = ", ".join(f"{k} **{_short(v)}**" for k, v in row["ratios"].items())
        facts = "".join(f"; {k} {_short(v)}" for k, v in row["facts"].items())
        n = len(next(iter(row["values"].values())))
        set_ = row["conditions"]
        what = f"{row['what']} ({set_['threads']} threads, {set_['clock']} time)"
        lines.append(
            f"| {name} | {what} | {medians} {row['unit']} | {ratios}{facts} | {row['bar']} | {n} |"
        )
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}, vllm")
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--quick", action="store_true", help="64 tokens, 3 repeats")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--vllm-url", default=None, help="a vLLM server with the same weights")
    parser.add_argument("--json", type=Path, default=None, help="read, added to, written")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    measure.clock.kind = args.clock
    if args.quick:
        args.new_tokens, args.repeats = 64, 3
    subjects = Subjects(args.model, args.threads, args.new_tokens, args.repeats, args.top_p)
    chosen = [name for name in args.rows.split(",") if name]
    if unknown := set(chosen) - {*ROWS, "vllm"}:
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    known = dict(ROWS)
    if args.vllm_url:
        known["vllm"] = lambda s: servers.vllm(s, args.vllm_url)
        chosen = list(dict.fromkeys([*chosen, "vllm"]))
    held = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    for name in chosen:
        print(f"{name} …", file=sys.stderr, flush=True)
        row = {**known[name](subjects).as_json(), "machine": measure.machine()}
        held[name] = merged(held.get(name), row)
        if args.json:
            args.json.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n")
    order = [*ROWS, "vllm"]
    print(table({name: held[name] for name in sorted(held, key=order.index)}))
    print("\n" + ", ".join(f"{k} {v}" for k, v in measure.machine().items()))


if __name__ == "__main__":
    main()
