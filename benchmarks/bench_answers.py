r"""How well and how fast answers are judged: right ones found, wrong ones called correct.

    python benchmarks/bench_answers.py PAIRS.jsonl [--json OUT]

Each line of PAIRS is `{"answer" | "text", "gold", "want", "verifier"?}`: a bare answer or a text
that states one, the gold answer, and the verdict that is right (`correct`, `wrong`, `no_answer`);
the verifier is `math` unless named. Prints a table by verifier, for our verifiers and for
math-verify by itself (its own defaults, in a process that may be killed), how many easy answers
are judged a second, and every miss.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heal.config import Problems
from heal.method.final_answers import extract_answer
from heal.method.intervals import wilson
from heal.records import Finish, Problem, Verdict
from heal.verifiers import open_verifier
from heal.verifiers.alone import OPENER
from heal.verifiers.worker import Job, WorkerPool

EASY = 5_000
TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Judged:
    """One pair with the verdict it got."""

    row: dict[str, Any]
    verdict: Verdict
    reason: str | None

    @property
    def is_right(self) -> bool:
        return bool(self.row["want"] == "correct")

    @property
    def is_miss(self) -> bool:
        return self.is_right != (self.verdict is Verdict.CORRECT)


def text_of(row: dict[str, Any]) -> str:
    return str(row["text"]) if "text" in row else f"\\boxed{{{row['answer']}}}"


def judge_ours(rows: list[dict[str, Any]], verifier: str) -> tuple[list[Judged], float]:
    opened = open_verifier(Problems(path="-", verifier=verifier, verify_timeout_s=TIMEOUT_S))
    try:
        opened.check(
            "\\boxed{\\sqrt{2}}", Problem("warm", "", "A" if verifier == "choice" else "3")
        )
        start = time.perf_counter()
        items = [
            (str(i), text_of(row), Finish.STOP, Problem(str(i), "", row["gold"]))
            for i, row in enumerate(rows)
        ]
        found = {check.trace: check for check in opened.verify_all(items)}
        taken = time.perf_counter() - start
    finally:
        opened.close()
    checks = [found[str(i)] for i in range(len(rows))]
    judged = [Judged(r, c.verdict, c.detail) for r, c in zip(rows, checks, strict=True)]
    return judged, len(rows) / taken


def judge_alone(rows: list[dict[str, Any]]) -> tuple[list[Judged], float]:
    with WorkerPool(2, TIMEOUT_S, OPENER) as pool:
        ask(pool, [Job("warm", "\\boxed{1}", "1")])
        start = time.perf_counter()
        jobs = [Job(str(i), text_of(row), row["gold"]) for i, row in enumerate(rows)]
        found = ask(pool, jobs)
        taken = time.perf_counter() - start
    judged = [Judged(row, *found[str(i)]) for i, row in enumerate(rows)]
    return judged, len(rows) / taken


def ask(pool: WorkerPool, jobs: Iterable[Job]) -> dict[str, tuple[Verdict, str | None]]:
    for job in jobs:
        pool.submit(job)
    found: dict[str, tuple[Verdict, str | None]] = {}
    while pool.pending:
        found |= {reply.ticket: (reply.verdict, reply.detail) for reply in pool.poll()}
    return found


def easy_rate() -> float:
    """Numbers, right and wrong, as most answers are."""
    rows = [{"answer": f"{n:,}", "gold": str(n + n % 2), "want": "-"} for n in range(EASY)]
    return judge_ours(rows, "math")[1]


def line(who: str, verifier: str, judged: list[Judged], rate: float) -> dict[str, Any]:
    right = [j for j in judged if j.is_right]
    wrong = [j for j in judged if not j.is_right]
    return {
        "who": who,
        "verifier": verifier,
        "right_found": sum(not j.is_miss for j in right),
        "right": len(right),
        "wrong_called_correct": sum(j.is_miss for j in wrong),
        "wrong": len(wrong),
        "unverifiable": sum(j.verdict is Verdict.UNVERIFIABLE for j in judged),
        "answers_per_s": round(rate),
    }


def share(k: int, n: int) -> str:
    """`57/86 (56 to 75 %)`, the 95 % Wilson interval; a dash where there is nothing."""
    if not n:
        return "–"
    found = wilson(k, n)
    return f"{k}/{n} ({100 * found.low:.0f} to {100 * found.high:.0f} %)"


def show(figures: dict[str, Any]) -> str:
    found = share(figures["right_found"], figures["right"])
    false = share(figures["wrong_called_correct"], figures["wrong"])
    return (
        f"| {figures['who']} | {figures['verifier']} | {found} | {false} "
        f"| {figures['unverifiable']} | {figures['answers_per_s']:,} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.pairs.read_text().splitlines() if line.strip()]
    figures, misses = [], list[str]()
    for verifier in sorted({row.get("verifier", "math") for row in rows}, reverse=True):
        own = [row for row in rows if row.get("verifier", "math") == verifier]
        judged, rate = judge_ours(own, verifier)
        figures.append(line("heal", verifier, judged, rate))
        figures.append(line("math-verify alone", verifier, *judge_alone(own)))
        misses += [describe(j) for j in judged if j.is_miss or j.verdict is Verdict.UNVERIFIABLE]
    print("| judge | verifier | right found | wrong called correct | unverifiable | answers/s |")
    print("|---|---|---|---|---|---|")
    print("\n".join(show(f) for f in figures))
    easy = round(easy_rate())
    print(f"\n{easy:,} easy answers a second (n = {EASY:,}, numbers, verifier math)")
    print(f"\n{len(misses)} missed or unverifiable:" if misses else "\nno pair was missed")
    print("\n".join(misses))
    if options.json:
        options.json.write_text(json.dumps({"table": figures, "easy_per_s": easy}, indent=1))


def describe(judged: Judged) -> str:
    row = judged.row
    read = extract_answer(text_of(row))
    return (
        f"- want {row['want']}, got {judged.verdict} ({judged.reason}): "
        f"{row.get('text', row.get('answer'))!r} | {row['gold']!r}, read as {read!r}"
    )


if __name__ == "__main__":
    main()
