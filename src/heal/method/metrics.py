"""Metrics: what a set of attempts is worth (docs/method.md §6).

In: counts, verdicts, answers or texts. Out: numbers, exact where an expectation is asked for.
For a student every attempt that is not correct is incorrect: truncated, answerless and
unverifiable ones too. Intervals are in `intervals.py`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from math import comb

import numpy as np

from heal.method.final_answers import identity
from heal.records import Verdict
from heal.wording import plural

DOUBT = (
    "wait",
    "maybe",
    "perhaps",
    "hmm",
    "hold on",
    "let me check",
    "let me recheck",
    "let me re-check",
    "let me double-check",
    "let me double check",
    "let me verify",
    "let me reconsider",
    "not sure",
    "on second thought",
)
"""English phrases of doubt; hinted traces use fewer of them."""

_DOUBT = re.compile(
    r"(?<!\w)(?:" + "|".join(p.replace(" ", r"\s+") for p in DOUBT) + r")(?!\w)", re.IGNORECASE
)


def avg_at_k(verdicts: Sequence[Verdict]) -> float:
    """Share of attempts that are correct. Raises: ValueError without attempts."""
    if not verdicts:
        raise ValueError("avg@k of no attempts")
    return sum(v is Verdict.CORRECT for v in verdicts) / len(verdicts)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """1 − C(n−c, k) / C(n, k): the chance that k of the n attempts include a correct one.

    As a product of k factors, so it neither overflows nor loses digits.
    Raises: ValueError unless 1 ≤ k ≤ n and 0 ≤ c ≤ n.
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(f"pass@{k} of {plural(n, 'attempt')}, {correct} correct")
    missed = np.arange(n - correct - k + 1, n - correct + 1) / np.arange(n - k + 1, n + 1)
    return float(1 - np.maximum(missed, 0).prod())


def maj_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Expected accuracy of the most frequent answer among k of the n attempts drawn at random.

    Exact, over all C(n, k) draws; ties are split evenly. Correct attempts vote together however
    they are written, wrong ones where `same_text` calls them the same; an attempt without an answer
    does not vote. Raises: ValueError as pass@k.
    """
    n = len(answers)
    if len(correct) != n:
        raise ValueError(f"maj@{k} of {plural(n, 'answer')} and {plural(len(correct), 'verdict')}")
    told = zip(answers, correct, strict=True)
    wrong = Counter(identity(a) for a, c in told if not c and a is not None)
    return majority_accuracy(n, sum(correct), tuple(sorted(wrong.values(), reverse=True)), k)


@cache
def majority_accuracy(n: int, correct: int, wrong: tuple[int, ...], k: int) -> float:
    """maj@k of n attempts from counts: `correct` ones, and how often each wrong answer was given.

    Raises: ValueError as pass@k.
    """
    silent = n - correct - sum(wrong)
    if not (1 <= k <= n and correct >= 0 and silent >= 0):
        raise ValueError(
            f"maj@{k} of {plural(n, 'attempt')}, {correct} correct and {sum(wrong)} wrong"
        )
    won = 0.0
    for votes in range(1, min(correct, k) + 1):
        ways = _ways_below(wrong, silent, k - votes, votes)
        won += comb(correct, votes) * sum(w / (tied + 1) for tied, w in enumerate(ways))
    return won / comb(n, k)


def doubt_rate(text: str) -> float:
    """Phrases of doubt per word, English only; 0 for an empty text."""
    words = len(text.split())
    return len(_DOUBT.findall(text)) / words if words else 0.0


def _ways_below(rivals: Sequence[int], silent: int, draws: int, votes: int) -> list[int]:
    """Ways to draw `draws` attempts so that no rival exceeds `votes`, by how many reach it."""
    ways = [[0] * (draws + 1) for _ in range(len(rivals) + 1)]
    for drawn in range(min(silent, draws) + 1):
        ways[0][drawn] = comb(silent, drawn)
    for rival in rivals:
        before = [row[:] for row in ways]
        ways = [[0] * (draws + 1) for _ in before]
        for tied, row in enumerate(before):
            for drawn, count in enumerate(row):
                if not count:
                    continue
                for taken in range(min(rival, votes, draws - drawn) + 1):
                    ways[tied + (taken == votes)][drawn + taken] += count * comb(rival, taken)
    return [row[draws] for row in ways]
