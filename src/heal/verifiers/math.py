r"""Mathematical equality by math-verify, asked only what plain numbers and text leave open.

In: the final answer and the gold answer as text. A list must match as a whole: `1728` is not
`1331 and 1728`. Words are compared as words, because a parser that reads `listen` as a product
of letters calls it `silent`. Two answers that cannot be read as mathematics agree only as text.

math-verify times out through SIGALRM, which fires only on a main thread; hence both of its
limits are off and everything here that uses it runs in a process `worker` can kill.
"""

import contextlib
import functools
import logging
import re
from fractions import Fraction
from typing import Any

from heal.method.final_answers import extract_answer, normalise, number, same_text
from heal.records import Problem, Verdict
from heal.verifiers.base import Finding, Question
from heal.verifiers.worker import Judge

OPENER = "heal.verifiers.math:open_judge"

_MEMORY_BYTES = 4 << 30
_TOLERANCE = Fraction(2, 1_000_000)
"""Where a decimal is involved: 0.333333 is 1/3 and 0.33 is not. Relative below 1, so that tiny
numbers stay apart, which math-verify's rounding to six places would all call zero."""
_SYMBOLS = re.compile(r"[\\=<>+*/^_{}|()\[\]\d%]")
_WORD = re.compile(r"(?<!\\)(?<![^\W\d_])[^\W\d_]{3,}")
_PROSE_WORDS = 4
_SHORT_WORDS = frozenset({"no"})
_SURE_GAP = 1e-5
_SURE_RELATIVE_GAP = 1e-9
_POINT, _POINT_STEP = 1.3717, 0.6183
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?![\w.])")
_COMMA = re.compile(r",?\s+(?:and|or|\\text\{\s*(?:and|or)\s*\})\s+|,")
_MIXED = re.compile(r"(?<![\d.])(\d+)\s+(\d+)/(\d+)(?![\d.])")
_THOUSANDS = re.compile(r"(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d.,])")


def read(text: str, problem: Problem) -> Finding | Question:
    """The verdict where numbers or words settle it, else a question for the worker."""
    answer = extract_answer(text)
    if answer is None:
        return Finding(Verdict.NO_ANSWER)
    gold = problem.answer
    if same_text(answer, gold):
        return Finding(Verdict.CORRECT, answer)
    if (is_prose(answer) or is_prose(gold)) and not _SYMBOLS.search(normalise(answer + gold)):
        return Finding(Verdict.WRONG, answer)
    one, other = _numbers(answer), _numbers(gold)
    if one is not None and other is not None and one[0] == other[0]:
        agree = _agree(one[1], other[1], has_decimals="." in answer + gold)
        return Finding(Verdict.CORRECT if agree else Verdict.WRONG, answer)
    return Question(answer, candidate=answer, reference=gold)


def read_gold(problem: Problem) -> Finding | Question:
    """Doubt a gold answer that is prose or that math-verify cannot read."""
    if is_prose(problem.answer):
        return Finding(Verdict.CORRECT, detail="words, compared as text")
    if len(_WORD.findall(normalise(problem.answer))) >= _PROSE_WORDS:
        return Finding(Verdict.CORRECT, detail="reads like prose, not like one answer")
    if number(problem.answer) is not None:
        return Finding(Verdict.CORRECT)
    return Question(None, candidate=None, reference=problem.answer)


def is_prose(answer: str) -> bool:
    """Whether an answer is words, not symbols: no digit or operator, three letters in a row."""
    text = normalise(answer)
    if _SYMBOLS.search(text):
        return False
    return _WORD.search(text) is not None or text.casefold() in _SHORT_WORDS


def open_judge() -> Judge:
    """Import math-verify and return the judge; called in a worker process."""
    _limit_memory()
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    import math_verify  # noqa: F401

    return judge


def judge(candidate: str | None, reference: str) -> tuple[str, str | None]:
    """Whether two answers are equal; a candidate of None asks whether the reference is usable."""
    if candidate is None:
        return _judge_reference(reference)
    pairs = zip(_readings(candidate), _readings(reference), strict=True)
    if any(_are_equal(one, other) for one, other in pairs):
        return Verdict.CORRECT, None
    return Verdict.WRONG, None


def _numbers(answer: str) -> tuple[str, tuple[Fraction, ...]] | None:
    """A number, a list of them (sorted, as a set) or a bracketed row (in order), with its kind.

    This is what most answers are, and it spares the worker 5 to 40 ms each.
    """
    if (value := number(answer)) is not None:
        return "thousands" if _THOUSANDS.search(answer) else "set", (value,)
    if _THOUSANDS.search(answer):
        return None
    opening, inside, closing = _row(answer)
    values = [number(part) for part in _COMMA.split(inside)]
    found = [value for value in values if value is not None]
    if len(found) < len(values):
        return None
    return ("set", tuple(sorted(set(found)))) if not opening else (opening + closing, tuple(found))


def _agree(one: tuple[Fraction, ...], other: tuple[Fraction, ...], has_decimals: bool) -> bool:
    if len(one) != len(other) or not has_decimals:
        return one == other
    pairs = zip(one, other, strict=True)
    return all(abs(a - b) <= _TOLERANCE * min(Fraction(1), max(abs(a), abs(b))) for a, b in pairs)


def _row(answer: str) -> tuple[str, str, str]:
    text = re.sub(r"\\(?:left|right)(?![a-zA-Z])|\\[()]|\$", "", answer).strip()
    if text.startswith("\\{") and text.endswith("\\}"):
        return "", text[2:-2], ""
    if text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        return text[0], text[1:-1], text[-1]
    return "", text, ""


def _judge_reference(reference: str) -> tuple[str, str | None]:
    if not any(not isinstance(part, str) for part in _parse(_readings(reference)[0])):
        return Verdict.UNVERIFIABLE, "math-verify cannot read it; compared as text"
    if not _are_equal(_readings(reference)[0], _readings(reference)[0]):
        return Verdict.UNVERIFIABLE, "math-verify does not find it equal to itself"
    return Verdict.CORRECT, None


def _readings(answer: str) -> tuple[str, str]:
    # 100,200,300 is one number or three; both answers are read the same way, once each
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", answer.replace("−", "-").replace("{,}", ","))
    text = _SPACED_THOUSANDS.sub(lambda found: found[0].replace(" ", ""), text)
    text = _SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", text)
    return text, _THOUSANDS.sub(lambda found: found[0].replace(",", ", "), text)


def _are_equal(candidate: str, reference: str) -> bool:
    from math_verify import verify

    read, wanted = _parse(candidate), _parse(reference)
    if "%" not in candidate + reference and _differ_in_value(read, wanted):
        return False
    equal: bool = verify(wanted, read, timeout_seconds=None)
    return equal


def _differ_in_value(one: list[Any], other: list[Any]) -> bool:
    # two expressions that differ in value at a point need no proof: math-verify would run sympy's
    # `simplify`, which takes tens of milliseconds to find that √3 is not √2
    from sympy import Expr, Symbol  # type: ignore[import-untyped]

    pair = [parsed[0] for parsed in (one, other) if parsed]
    if len(pair) < 2 or not all(isinstance(e, Expr) and not isinstance(e, Symbol) for e in pair):
        return False
    names = sorted(pair[0].free_symbols, key=str)
    if set(names) != pair[1].free_symbols:
        return False
    # positive, where roots and logarithms are defined and √(x²) is x
    point = {name: _POINT + _POINT_STEP * i for i, name in enumerate(names)}
    try:
        values = [complex(expression.evalf(15, subs=point)) for expression in pair]
    except (TypeError, ValueError, OverflowError):
        return False
    gap, size = abs(values[0] - values[1]), max(abs(value) for value in values)
    return gap > max(_SURE_GAP, _SURE_RELATIVE_GAP * size)


@functools.lru_cache(maxsize=4096)
def _parse(answer: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    bare = re.sub(r"\\[()\[\]]|(?<!\\)\$", "", answer)
    parsed: list[Any] = parse(f"${bare}$", [LatexExtractionConfig()], parsing_timeout=None)
    return parsed


def _limit_memory() -> None:
    # 10^(10^10) asks for more memory than time
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
