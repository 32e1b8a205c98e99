"""Multiple choice: letters A to J, one or several, compared as sets.

In: `\\boxed{B}`, `(b)`, `B) Paris`, `option B`, `A and C`, or a last line that is only a letter.
An answer that names no letter is `NO_ANSWER`: the option's text alone is not matched.
"""

import re

from heal.method.final_answers import extract_answer, normalise
from heal.records import Problem, Verdict
from heal.verifiers.base import Finding

_LETTERS = r"[A-Ja-j]"
# a lower-case letter, or one with words behind it, must be marked as an option: "a cat" is not A
_ALONE = re.compile(rf"\W*({_LETTERS})\W*")
_MARKED = re.compile(
    rf"[*\s]*(?:\(({_LETTERS})\)|\[({_LETTERS})\]|({_LETTERS})[).:\]])\W*\D*.*", re.S
)
_NAMED = re.compile(rf"\W*(?:option|choice|answer|letter)\W*({_LETTERS})\b.*", re.I | re.S)
_SEVERAL = re.compile(
    rf"\W*{_LETTERS}\W*(?:(?:,|;|&|/|and|or|\s)\W*(?:and|or)?\W*{_LETTERS}\b\W*)+", re.I
)
_RUN = re.compile(r"[A-J]{2,10}")


def read(text: str, problem: Problem) -> Finding:
    """Compare the letters a trace ends on with the gold letters."""
    gold = letters(problem.answer)
    if gold is None:
        return Finding(Verdict.UNVERIFIABLE, detail=_not_letters(problem))
    answer = extract_answer(text)
    if answer is None:
        answer = _last_line(text)
        if _ALONE.fullmatch(answer) is None:
            return Finding(Verdict.NO_ANSWER)
    chosen = letters(answer)
    if chosen is None:
        return Finding(Verdict.NO_ANSWER, answer, "the answer names no letter from A to J")
    agree = chosen == gold
    return Finding(Verdict.CORRECT if agree else Verdict.WRONG, "".join(sorted(chosen)))


def read_gold(problem: Problem) -> Finding:
    """Doubt a gold answer that is not letters."""
    if letters(problem.answer) is None:
        return Finding(Verdict.UNVERIFIABLE, detail=_not_letters(problem))
    return Finding(Verdict.CORRECT)


def letters(answer: str) -> frozenset[str] | None:
    """The options an answer names, or None if it names none."""
    text = normalise(answer)
    if _RUN.fullmatch(text) and list(text) == sorted(set(text)):
        return frozenset(text)
    spaced = re.sub(r"\\text\{([^{}]*)\}", r"\1", answer)
    if _SEVERAL.fullmatch(spaced):
        words = re.findall(rf"\b{_LETTERS}\b", spaced)
        return frozenset(word.upper() for word in words)
    for pattern in (_ALONE, _NAMED, _MARKED):
        if match := pattern.fullmatch(spaced) or pattern.fullmatch(text):
            return frozenset(next(group for group in match.groups() if group).upper())
    return None


def _last_line(text: str) -> str:
    lines = text.rstrip().rsplit("\n", 1)
    return lines[-1].strip()


def _not_letters(problem: Problem) -> str:
    return f"the gold answer {problem.answer[:40]!r} names no letter from A to J"
