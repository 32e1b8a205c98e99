r"""Mathematical equality: read both answers, then decide by the first rule that knows.

In: the final answer and the gold answer as text. Plain numbers and equal texts are settled at
once; the rest is asked of a worker process, where `heal.verifiers.equality` reads both answers
whole. Only integrals, sums, limits and the like, which it does not read, go on to math-verify;
whatever neither reads agrees only as text. Every verdict names the rule that decided.

math-verify times out through SIGALRM, which fires only on a main thread; hence both of its
limits are off and everything here that uses it runs in a process `worker` can kill.
"""

import contextlib
import functools
import logging
import re
from typing import Any

from heal.method.final_answers import extract_answer, normalise, number, same_text
from heal.records import Problem, Verdict
from heal.verifiers.base import Finding, Question
from heal.verifiers.worker import Judge
from heal.wording import plural

OPENER = "heal.verifiers.math:open_judge"

_MEMORY_BYTES = 4 << 30
_LONGEST = 10_000
_ROUNDED_DIGITS = 6
"""Decimals of so many digits may be a rounded value; shorter ones are exact."""
_WORD = re.compile(r"(?<!\\)(?<![^\W\d_])[^\W\d_]{3,}")
_SYMBOLS = re.compile(r"[\\=<>+*/^_{}|()\[\]\d%]")
_SHORT_WORDS = frozenset({"no"})
_PROSE_WORDS = 4
# what math-verify reads and we do not; words, dots and relations beside it are dropped by its
# parser, so an answer that holds any of those is not asked of it
_CALCULUS = re.compile(
    r"\\(?:i*int|oint|sum|prod|lim|nabla|partial|begin|frac\s*\{\s*d)(?![a-zA-Z])"
)
_BOUNDS = re.compile(r"_\{[^{}]*\}")
_DROPPED = re.compile(r"\\(?:text|mathrm|l?dots|cdots|forall|exists)(?![a-zA-Z])|[=<>;:]|\.\.\.")


def read(text: str, problem: Problem) -> Finding | Question:
    """The verdict where plain numbers or equal texts settle it, else a question for the worker."""
    answer = extract_answer(text)
    if answer is None:
        return Finding(Verdict.NO_ANSWER, detail="no final answer is stated")
    return compare_now(answer, problem.answer)


def compare_now(answer: str, gold: str) -> Finding | Question:
    """What can be said of two answers without a worker process."""
    if len(answer) > _LONGEST:
        return Finding(
            Verdict.UNVERIFIABLE, answer, f"an answer of {plural(len(answer), 'character')}"
        )
    values = number(answer), number(gold)
    if None not in values and values[0] == values[1]:
        return Finding(Verdict.CORRECT, answer, "same number")
    if None not in values and not (_may_be_rounded(answer) or _may_be_rounded(gold)):
        return Finding(Verdict.WRONG, answer, "different numbers")
    if None in values and same_text(answer, gold):
        return Finding(Verdict.CORRECT, answer, "same spelling")
    return Question(answer, candidate=answer, reference=gold)


def read_gold(problem: Problem) -> Finding | Question:
    """Doubt a gold answer that is prose or that nothing can read."""
    gold = problem.answer
    if is_prose(gold):
        return Finding(Verdict.CORRECT, doubt="words, compared as text")
    if len(_WORD.findall(normalise(gold))) >= _PROSE_WORDS:
        return Finding(Verdict.CORRECT, doubt="reads like prose, not like one answer")
    if number(gold) is not None:
        return Finding(Verdict.CORRECT, detail="a number")
    return Question(None, candidate=None, reference=gold)


def is_prose(answer: str) -> bool:
    """Whether an answer is words, not symbols: no digit or operator, three letters in a row."""
    text = normalise(answer)
    if _SYMBOLS.search(text):
        return False
    return _WORD.search(text) is not None or text.casefold() in _SHORT_WORDS


def open_judge() -> Judge:
    """Return the judge, under a memory limit; called in a worker process."""
    limit_memory()
    return judge


def judge(candidate: str | None, reference: str) -> tuple[str, str | None]:
    """Whether two answers are equal; a candidate of None asks whether the reference is usable."""
    from heal.verifiers.equality.compare import compare

    if candidate is None:
        return _judge_reference(reference)
    decision = compare(candidate, reference)
    if decision.same is not None:
        return Verdict.CORRECT if decision.same else Verdict.WRONG, decision.reason
    if _may_ask(candidate) and _may_ask(reference) and _CALCULUS.search(candidate + reference):
        agree = _are_equal(candidate, reference)
        return (
            (Verdict.CORRECT, "equal by math-verify")
            if agree
            else (
                Verdict.WRONG,
                "not equal by math-verify",
            )
        )
    if decision.unread:
        return Verdict.WRONG, "not read as mathematics, and the texts differ"
    return Verdict.UNVERIFIABLE, decision.reason


def _may_be_rounded(answer: str) -> bool:
    return "." in answer and sum(c.isdecimal() for c in answer) >= _ROUNDED_DIGITS


def _judge_reference(reference: str) -> tuple[str, str | None]:
    from heal.verifiers.equality.compare import is_readable

    if is_readable(reference):
        return Verdict.CORRECT, "read whole"
    if not any(not isinstance(part, str) for part in _parse(reference)):
        return Verdict.WRONG, "math-verify cannot read it; compared as text"
    if not _are_equal(reference, reference):
        return Verdict.WRONG, "math-verify does not find it equal to itself"
    return Verdict.CORRECT, "read by math-verify"


def _may_ask(answer: str) -> bool:
    # the bounds of a sum, k = 1, are no relation
    return _DROPPED.search(_BOUNDS.sub("", answer)) is None


def _are_equal(candidate: str, reference: str) -> bool:
    from math_verify import verify

    equal: bool = verify(_parse(reference), _parse(candidate), timeout_seconds=None)
    return equal


@functools.lru_cache(maxsize=4096)
def _parse(answer: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    bare = re.sub(r"\\[()\[\]]|(?<!\\)\$", "", answer)
    parsed: list[Any] = parse(f"${bare}$", [LatexExtractionConfig()], parsing_timeout=None)
    return parsed


def limit_memory() -> None:
    """Cap this process's memory: 10^(10^10) asks for more of it than of time."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
