"""Hostile answers: whatever a model writes costs a verdict, never a run.

    python -m tests.test_hostile_answers [--texts N] [--seed S]

Judges seeded hostile texts with `math`, `exact` and `choice`, reads a program out of each, and
prints what came of it: verdicts, the longest wait for a reading in the parent, its memory. Runs in
a process of its own, so that the memory is that of judging alone. The programs are not run here;
`tests/test_code_verifier.py` runs worse ones.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heal.config import Problems
from heal.method.final_answers import count_final_answers, extract_answer
from heal.method.programs import last_program, without_programs
from heal.records import Finish, Problem
from heal.verifiers import open_verifier

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 2.0
WORKERS = 2
GOLDS = {
    "math": ["5", "\\frac{1}{2}", "x+1", "(1, 2]", "\\int_0^1 x\\,dx", "9^{9^{9}}", "12 cm"],
    "exact": ["5", "Paris", "R/r"],
    "choice": ["B", "A, C"],
}  # fmt: skip
LONGEST = 200_000
MEMORY_MB = 500
READ_S = 5.0
"""For one reading of one text in the parent, on a machine that does other things too."""

PIECES = [
    "\\boxed{", "}", "{", "<answer>", "</answer>", "</think>", "<think>", "The answer is ",
    "A    ", "zz", "```python\n", "```\n", "~~~\n", "$", "$$", "\\[", "\\]", "\\(", "\\frac",
    "\\frac{1}{", "9^{", "9^9^", "!", "!!", "(", ")", "[", "\\left(", "\\sqrt", "\\sqrt[",
    "\\begin{pmatrix}", "&", "\\\\", "\\int_0^", "\\sum_{k=1}^{", "\\infty", "\\text{",
    "10^{10^{10", "1e999999", "0.", "1/0", "0^0", "\\binom{", "\\lfloor", "\\log_", "x", "=",
    "<", "\\le", ",", ";", " and ", " or ", "+", "-", "-" * 50, "%", "°", "∞", "½", "²", "−",
    "\u202e", "\u0000", "\ud800", "\U0001f642", "\u0301" * 9, "é", "#### ", "ans = ", "ans is ",
    "Option B", "(B)", "**", "__", "\n\n", "\t", " " * 40, "mod ", "_", "^", "\\cup",
    "\\mathbb{R}", "factorial(", "lambda", "__import__('os')", "e", "i", "\\pi",
]  # fmt: skip


def hostile(chance: random.Random) -> str:
    """One text, from one of the ways to be hostile."""
    make: Callable[[random.Random], str] = chance.choice(
        [_mixed, _mixed, _boxed, _boxed, _repeated, _nested, _number, _tower, _noise]
    )
    return make(chance)[:LONGEST]


def _mixed(chance: random.Random) -> str:
    return "".join(chance.choices(PIECES, k=chance.randint(1, 60)))


def _boxed(chance: random.Random) -> str:
    return f"So \\boxed{{{_mixed(chance)[:200]}}}."


def _repeated(chance: random.Random) -> str:
    some = "".join(chance.choices(PIECES, k=chance.randint(1, 3)))
    return some * chance.choice([8, 300, 5000]) + chance.choice(["", "zz", "}", "\\boxed{5}"])


def _nested(chance: random.Random) -> str:
    opening, closing = chance.choice([
        ("\\boxed{", "}"), ("{", "}"), ("(", ")"), ("\\frac{1}{", "}"), ("\\sqrt{", "}"),
        ("[", "]"), ("\\left(", "\\right)"), ("-", ""), ("\\text{", "}"), ("2^{", "}"),
        ("<answer>", "</answer>"),
    ])  # fmt: skip
    depth = chance.choice([5, 100, 1000, 4000])
    inner = opening * depth + "5" + closing * chance.choice([depth, depth, 0, depth - 1])
    return chance.choice([inner, f"\\boxed{{{inner}}}"])


def _number(chance: random.Random) -> str:
    digits = str(chance.randint(1, 9)) * chance.choice([20, 999, 5000, 60_000])
    shape = chance.choice(["{}", "1/{}", "0.{}", "{}!", "2^{{{}}}", "{}, {}", "\\binom{{{}}}{{2}}"])
    return f"\\boxed{{{shape.format(digits, digits)}}}"


def _tower(chance: random.Random) -> str:
    base, height = chance.choice(["9", "x", "(-2)", "0.5", "i"]), chance.randint(2, 7)
    tower = base + "^{9" * height + "}" * height
    shape = chance.choice(
        ["{}", "{}!", "\\frac{{1}}{{{}}}", "\\sin({})", "{} \\bmod 7", "1.5^{{{}}}"]
    )
    return f"\\boxed{{{shape.format(tower)}}}"


def _noise(chance: random.Random) -> str:
    return "".join(chr(chance.choice([chance.randrange(128), chance.randrange(0x3000)]))
                   for _ in range(chance.choice([10, 500, 20_000])))  # fmt: skip


def attack(texts: int, seed: int) -> dict[str, Any]:
    """Judge so many texts by each verifier, and read a program out of each."""
    chance, slowest = random.Random(seed), 0.0
    made = [hostile(chance) for _ in range(texts)]
    for text in made:
        for read in (extract_answer, count_final_answers, last_program, without_programs):
            started = time.process_time()
            read(text)
            slowest = max(slowest, time.process_time() - started)
    verdicts, seconds = dict[str, dict[str, int]](), dict[str, float]()
    for name, golds in GOLDS.items():
        started = time.monotonic()
        verdicts[name] = dict(_judged(name, made, [chance.choice(golds) for _ in made]))
        seconds[name] = round(time.monotonic() - started, 1)
    return {
        "texts": texts,
        "verdicts": verdicts,
        "seconds": seconds,
        "slowest_reading_s": round(slowest, 3),
        "memory_mb": _peak_mb(),
    }


def _judged(name: str, texts: list[str], golds: list[str]) -> Counter[str]:
    settings = Problems(path="-", verifier=name, verify_timeout_s=TIMEOUT_S, verify_workers=WORKERS)
    verifier = open_verifier(settings)
    try:
        items = [
            (str(i), text, Finish.STOP, Problem(str(i), "", gold))
            for i, (text, gold) in enumerate(zip(texts, golds, strict=True))
        ]
        checks = {check.trace: check for check in verifier.verify_all(items) if check}
    finally:
        verifier.close()
    assert len(checks) == len(texts), "every text gets one verdict"
    reasons = Counter[str]()
    for check in checks.values():
        reasons[str(check.verdict)] += 1
        for words in ("took longer", "crashed", "the reader failed"):
            reasons[words] += words in (check.detail or "")
    return reasons


def _peak_mb() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's own figure would include the process that started this one
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) >> 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)


def attacked(texts: int, seed: int, limit_s: float) -> dict[str, Any]:
    """In a process of its own; one that hangs is a failure."""
    command = [sys.executable, "-m", "tests.test_hostile_answers"]
    command += ["--texts", str(texts), "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def require_harmless(found: dict[str, Any]) -> None:
    for counted in found["verdicts"].values():
        assert counted.get("the reader failed", 0) == 0
        assert counted.get("crashed", 0) == 0
    assert found["memory_mb"] < MEMORY_MB
    assert found["slowest_reading_s"] < READ_S


def test_a_thousand_hostile_answers_cost_a_verdict_each() -> None:
    require_harmless(attacked(1_000, seed=0, limit_s=280))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_ten_thousand_hostile_answers_cost_a_verdict_each() -> None:
    require_harmless(attacked(10_000, seed=1, limit_s=3_600))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(attack(options.texts, options.seed)))


if __name__ == "__main__":
    main()
