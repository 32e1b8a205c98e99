"""Whether a text gives an answer away: the one reading that gates, leaks and PURE share.

In: text and the answer as text. Out: yes or no. This matches written forms, whole numbers only
(58 is not in 158), after LaTeX dressing and thousands separators are off; it does no algebra.
Which answer a trace ends on is for `heal.method.final_answers`, whether it is correct for a
verifier.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from heal.method.boxes import boxed
from heal.method.final_answers import identity

SHORT = 2
"""Answers up to so many characters occur everywhere; they count only where they are asserted."""

# fmt: off
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on

_DRESSING: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile("[−–]"), "-"),
    (re.compile(r"\\[dt]frac\b"), r"\\frac"),
    (re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"\1/\2"),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf|operatorname)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\(?:left|right)\b|\\[,;:! ]|\$|\*\*"), ""),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\^\s*\{?\\circ\}?|°"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])"), lambda m: m[0].replace(",", "")),
)
_NUMBER = re.compile(r"(-?)(\d*)(?:\.(\d+))?")
_NUMBERS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d+)?")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_SUBTRACTED_FROM = re.compile(r"[\w)\]}]")
# possessive, and few brackets: two ways to share out a run of spaces make time grow as its square
_ASSERTS = r"(?:=|\bis|\bequals?|\bequal\s++to|\bbe|\banswer\s*+:?)\s*+[(\[{]{0,4}\s*+"
_GOES_ON = r"(?!\w)(?!\s*[-+*/^×·÷])"


def plain(text: str) -> str:
    """The text without LaTeX dressing, thousands separators and typographic minus signs."""
    for pattern, replacement in _DRESSING:
        text = pattern.sub(replacement, text)
    return text


def is_short(answer: str) -> bool:
    """Whether an answer is too short for a mere mention of it to mean anything."""
    return len(_bare(answer)) <= SHORT


def mention(text: str, answer: str) -> int | None:
    """End of the first mention of the answer in `plain(text)`, or None.

    A number stands for itself only: not inside a longer one, not behind a minus sign of its own.
    """
    bare = _bare(answer)
    if not bare:
        return None
    shown = plain(text)
    for match in _mention_pattern(bare).finditer(shown):
        if not (bare[0].isdigit() and _has_sign(shown, match.start())):
            return match.end()
    return None


def states_answer(text: str, answer: str) -> bool:
    """Whether a text gives the answer away: boxed, mentioned, or asserted if it is short.

    A short answer (≤ 2 characters) must be boxed or follow "is", "=", "equals", "answer" …, in
    figures or, below 100, in words.
    """
    bare = _bare(answer)
    if not bare:
        return False
    wanted = identity(answer)
    if any(identity(found) == wanted for found in boxed(text)):
        return True
    if not is_short(answer):
        return mention(text, answer) is not None
    return _asserted_pattern(bare).search(plain(text)) is not None


def mention_spans(data: bytes, answer: str) -> list[tuple[int, int]]:
    """Where a text writes the answer: byte spans of its numbers, each by itself, or of its words.

    An answer with numbers is mentioned by any one of them ("4" and "7" of "4, 7"), whole numbers
    only; an answer without by all its words in a row, as it is written or without LaTeX dressing.
    """
    raw = answer.strip().rstrip(".")
    numbers = {_number_bytes(raw, match) for match in _NUMBERS.finditer(raw)}
    patterns = numbers or [_words_bytes(form) for form in {raw, _bare(answer)} if form]
    return sorted({match.span() for pattern in patterns for match in pattern.finditer(data)})


@lru_cache(maxsize=4096)
def _number_pattern(whole: str, rest: str, letter_before: bool, letter_after: bool) -> Any:
    groups = [whole[max(0, end - 3) : end] for end in range(len(whole), 0, -3)][::-1]
    digits = r"(?:,|\{,\}|\\,)?".join(groups) + rest.replace(".", r"\.")
    # a letter beside it in the answer itself ("12cm", "x_1") may stand beside it in the text
    before = r"(?<!\d)(?<!\d\.)" if letter_before else r"(?<!\w)(?<!\d\.)"
    if len(groups[0]) == 3:
        before += r"(?<!\d,)(?<!\d\{,\})"  # the end of a longer number
    after = r"(?!\d|\.\d)" if letter_after else r"(?!\w|\.\d)"
    goes_on = "" if rest else r"(?!(?:,|\{,\})\d{3}(?!\d))"
    return re.compile((before + digits + after + goes_on).encode())


def _number_bytes(raw: str, match: re.Match[str]) -> Any:
    whole, dot, rest = match[0].partition(".")
    before, after = raw[: match.start()][-1:], raw[match.end() :][:1]
    beside = (c.isalpha() or c == "_" for c in (before or " ", after or " "))
    return _number_pattern(whole.replace(",", ""), dot + rest, *beside)


@lru_cache(maxsize=4096)
def _words_bytes(form: str) -> Any:
    words = rb"\s*".join(
        re.escape(token.encode("utf-8", "surrogatepass")) for token in _TOKEN.findall(form)
    )
    before, after = rb"(?<!\w)" * form[0].isalnum(), rb"(?!\w)" * form[-1].isalnum()
    if form in ("A", "I"):
        after += rb"(?! [a-z])"  # a word of English, not a choice
    return re.compile(before + words + after, 0 if len(form) == 1 else re.IGNORECASE)


def _bare(answer: str) -> str:
    return plain(answer).strip().rstrip(".").strip()


def _canonical(bare: str) -> str:
    number = _NUMBER.fullmatch(bare)
    if number and (number[2] or number[3]):
        whole, fraction = number[2].lstrip("0") or "0", (number[3] or "").rstrip("0")
        return f"{number[1]}{whole}" + (f".{fraction}" if fraction else "")
    return "".join(bare.split()).casefold()


@lru_cache(maxsize=1024)
def _mention_pattern(bare: str) -> re.Pattern[str]:
    number = _NUMBER.fullmatch(_canonical(bare))
    if number and (number[2] or number[3]):
        return re.compile(_number(number))
    return re.compile(_words(bare), re.IGNORECASE)


@lru_cache(maxsize=1024)
def _asserted_pattern(bare: str) -> re.Pattern[str]:
    number = _NUMBER.fullmatch(_canonical(bare))
    if number and (number[2] or number[3]):
        forms = [_number(number), *_spelled(bare)]
        return re.compile(_ASSERTS + f"(?:{'|'.join(forms)})" + _GOES_ON, re.IGNORECASE)
    # the letter of a choice keeps its case, or every "is a …" would give A away
    return re.compile(f"(?i:{_ASSERTS}){_words(bare)}{_GOES_ON}")


def _number(number: re.Match[str]) -> str:
    """A number by value: leading zeros, trailing zeros and a missing whole part are all the same.

    An own minus sign may not be a subtraction: `5-3` does not mention −3.
    """
    sign, whole, fraction = number.groups()
    before = r"(?<![\w)\]}])-0*" if sign else r"(?<!\w)(?<!\d\.)0*"
    if fraction is None:
        return rf"{before}{whole}(?:\.0+)?(?!\.?\d)"
    start = "" if whole == "0" else whole
    return rf"{before}{start}\.{fraction}0*(?!\d)"


def _words(bare: str) -> str:
    tokens = _TOKEN.findall(bare)
    before = r"(?<!\w)" if tokens[0][0].isalnum() else ""
    after = r"(?!\w)(?!\.\d)" if tokens[-1][-1].isalnum() else ""
    return before + r"\s*".join(re.escape(t) for t in tokens) + after


def _spelled(bare: str) -> list[str]:
    if not bare.isdecimal():
        return []
    value = int(bare)
    if value < len(_UNITS):
        return [rf"\b{_UNITS[value]}"]
    tens, unit = divmod(value, 10)
    return [rf"\b{_TENS[tens - 2]}" + (f"[- ]{_UNITS[unit]}" if unit else "")]


def _has_sign(text: str, at: int) -> bool:
    """Whether the number at `at` is negative rather than subtracted."""
    if text[at - 1 : at] != "-":
        return False
    return _SUBTRACTED_FROM.match(text[max(0, at - 2) : at - 1]) is None
