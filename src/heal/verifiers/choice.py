"""Multiple choice: letters A to J, one or several, compared as sets.

In: `\\boxed{B}`, `(b)`, `B) Paris`, `option B`, `A and C`, or a last line that is only a letter or
says which option is correct. An answer that names no letter is `NO_ANSWER`: the option's text
alone is not matched. Each reading is one pass over the answer, so time grows with its length.
"""

import re
import unicodedata

from heal.method.final_answers import cleaned, extract_answer, normalise
from heal.records import Problem, Verdict
from heal.verifiers.base import Finding

_LETTERS = frozenset("ABCDEFGHIJ")
_WORD = re.compile(r"[^\W_]+")
_JOINING = frozenset(["and", "or", "both", "either"])
_SEPARATORS = frozenset(" ,;&/|+()[]*_.:、，；$\"'\\")
_RUN = re.compile(r"[A-J]{2,10}")
# a lower-case letter, or one with words behind it, must be marked as an option: "a cat" is not A
_MARKED = (
    r"(?:\(([A-J])\)|\[([A-J])\]|([A-J])(?:[)\]]|[.:](?![A-Za-z])| ?[-–—](?= ))"
    r"|(?-i:([A-J]))(?= \(|,? (?:is|because|since|as)\b))"
)
_HEAD = re.compile(
    r"[\s*\"'_]{0,8}(?:the )?(?:correct |right |best )?(?:option|choice|answer|letter)\b"
    r"(?: is)?[\s:(\[*]{0,4}([A-J])\b",
    re.IGNORECASE,
)
_FIRST = re.compile(rf"[\s*\"'_]{{0,8}}{_MARKED}", re.IGNORECASE)
_ANOTHER = re.compile(rf"(?:\bor|\band|[,;/&]) {_MARKED}")
_LAST = re.compile(r"\(([A-J])\)[\s.*]{0,4}$")
_SAID = re.compile(
    r"(?:\b(?:option|choice|answer|letter) \(?([A-J])\)? is (?:the )?(?:correct|right|best)\b"
    r"|(?-i:\(?\b([A-J])\)?) is (?:the )?(?:correct|right|best)\b"
    r"|\b(?:choose|select|pick|go with|going with) (?:option |choice |answer )?(?-i:\(?([A-J])\b))",
    re.IGNORECASE,
)


def read(text: str, problem: Problem) -> Finding:
    """Compare the letters a trace ends on with the gold letters."""
    if letters(problem.answer) is None:
        return Finding(Verdict.UNVERIFIABLE, detail=_not_letters(problem.answer))
    answer = extract_answer(text) or _option_of_last_line(text)
    if answer is None:
        return Finding(Verdict.NO_ANSWER, detail="no final answer is stated")
    return compare_now(answer, problem.answer)


def compare_now(answer: str, gold_answer: str) -> Finding:
    """Compare the letters that two answers name."""
    gold, chosen = letters(gold_answer), letters(answer)
    if gold is None:
        return Finding(Verdict.UNVERIFIABLE, answer, _not_letters(gold_answer))
    if chosen is None:
        return Finding(Verdict.NO_ANSWER, answer, "the answer names no letter from A to J")
    named = "".join(sorted(chosen))
    if chosen == gold:
        return Finding(Verdict.CORRECT, named, "same letters")
    return Finding(Verdict.WRONG, named, "different letters")


def read_gold(problem: Problem) -> Finding:
    """Doubt a gold answer that is not letters."""
    if letters(problem.answer) is None:
        return Finding(Verdict.UNVERIFIABLE, detail=_not_letters(problem.answer))
    return Finding(Verdict.CORRECT, detail="letters")


def letters(answer: str) -> frozenset[str] | None:
    """The options an answer names, or None if it names none."""
    tight = normalise(answer)
    if _RUN.fullmatch(tight) and list(tight) == sorted(set(tight)):
        return frozenset(tight)
    text = _spelled(answer)
    return _listed(text) or _leading(text) or _trailing(text)


def _listed(text: str) -> frozenset[str] | None:
    """Letters with nothing but separators, "and" and "or" between them."""
    words = [word for word in _WORD.findall(text) if word.casefold() not in _JOINING]
    named = frozenset(word.upper() for word in words)
    if not named or not named <= _LETTERS:
        return None
    return named if set(_WORD.sub("", text)) <= _SEPARATORS else None


def _leading(text: str) -> frozenset[str] | None:
    """The option an answer opens with, and those it joins to it by "and", "or" or a comma."""
    first = _HEAD.match(text) or _FIRST.match(text)
    if first is None:
        return None
    others = _ANOTHER.finditer(text, first.end())
    marks = [first, *others]
    return frozenset(_letter(mark) for mark in marks)


def _trailing(text: str) -> frozenset[str] | None:
    """12 (B)"""
    last = _LAST.search(text)
    return frozenset(last[1]) if last else None


def _letter(mark: re.Match[str]) -> str:
    return next(group for group in mark.groups() if group).upper()


def _spelled(answer: str) -> str:
    # full-width letters and brackets are the same options
    return cleaned(unicodedata.normalize("NFKC", answer))


def _option_of_last_line(text: str) -> str | None:
    """A last line that is only a letter or an option, or that says which one is correct."""
    line = text.rstrip().rpartition("\n")[2].strip()
    if said := _SAID.search(line):
        return _letter(said)
    head = _HEAD.match(line)
    is_option = head is not None and not _WORD.search(line, head.end())
    return line if is_option or len(_WORD.findall(line)) == 1 else None


def _not_letters(gold: str) -> str:
    return f"the gold answer {gold[:40]!r} names no letter from A to J"
