r"""Final answers as text: where a trace states one, and when two are the same.

In: plain text. Out: the last `\boxed{}`, else `<answer>` tags, else what an English or Chinese
final-answer phrase says. Knows no mathematics beyond numbers; `heal.verifiers` decides what is
correct. Every reading is one pass over the text: time grows with its length alone, whatever a
model wrote. A boxed answer is found in any language.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

from heal.method.boxes import boxed, has_box
from heal.method.programs import without_programs

__all__ = [
    "boxed",
    "cleaned",
    "count_final_answers",
    "extract_answer",
    "folded_word",
    "identity",
    "normalise",
    "number",
    "same_text",
]

_THINK_END = "</think>"
_TAG = re.compile(r"<(?P<closing>/?)answer>", re.IGNORECASE)

_CUE = re.compile(
    r"\bans(?:wers?)?\b|\b(?:correct|right|best) (?:option|choice)\b|答案|^####", re.I | re.M
)
_LINK = re.compile(
    r"(?: (?:to|for|of) [^.\n:]{1,80}?)?[*_ ]{0,8}"
    r"(?: as follows|,? (?:then|therefore|thus|hence|we get|(?:comes|turns|works) out),?)?"
    r"[*_ ]{0,8}"
    r"(?:\b(?:is|are|(?:should|must|would|will|has to|to) be|equals|as)\b|[:：=]|是|为)"
    r"(?: (?:therefore|thus|then|hence|simply|just|exactly|clearly|now|indeed)\b)?[*_:： \t]{0,8}",
    re.IGNORECASE,
)
_HEADING_BEFORE = re.compile(r"[#*_> \t]*(?:the )?(?:final |correct )?", re.IGNORECASE)
_HEADING_AFTER = re.compile(r"[*_:： \t]{0,8}\n\s*(?=\S)")
_HEADING_REACH = 40
_NESTED_REACH = 60
_NOT_ANSWERS = re.compile(
    r"(?:not|known|given|wrong|incorrect|correct|right|clear|unclear|simple|obvious|either"
    r"|as|the same|what|supposed|going|likely|probably|one of|in)\b",
    re.IGNORECASE,
)
_NOT_BUT = re.compile(r"not [^.\n]{1,40}? but (?:rather )?(?=\S)", re.IGNORECASE)
_DISPLAY = re.compile(r"\s*(?P<opening>\$\$|\\\[)")
_DISPLAY_END = {"$$": "$$", "\\[": "\\]"}
_LINE = re.compile(r"\s{0,2}(?=\S)")
# a full stop that ends a sentence, or words that open a reason or another clause
_SENTENCE_END = re.compile(
    r"[.?](?=[\s*_\"')]|$)|[!。](?= [A-Z]|$)|,? (?:because|since|as|which|where|so|when)\b"
    r"|, (?:and|but) (?=[a-z]{3})|, I\b|,? and (?=(?:the|this|it|we|that|hence|thus|therefore)\b)",
    re.MULTILINE,
)

_TEXT_MACRO = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|textrm)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\[!,;:> ]|\\(?:left|right|quad|qquad)(?![a-zA-Z])|~")
_THIN_THOUSANDS = re.compile(r"(?<=\d)(?:\\,|\{,\}|,\\! ?)(?=\d{3})")
_SHORT_FRACTION = re.compile(r"\\frac(\d)(\d)")
_TIGHT = re.compile(r" ?([^\w\s\\]) ?")
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_NUMBER = re.compile(rf"(?P<sign>[+-]?)[$€£¥]?(?P<whole>{_INTEGER})?(?P<decimals>\.\d*)?")
_FRACTION = re.compile(r"([+-]?)(?:\\frac\{(\d+)\}\{(\d+)\}|(\d+)/(\d+))")
_LETTERS = re.compile(r"(?<!\\)(?<![^\W\d_])[^\W\d_]+")
_PAIRS = re.compile(r"(?:(\w)\1)+")
_SHORT_WORDS = frozenset(
    ["no", "on", "or", "if", "in", "at", "as", "of", "to", "an", "by", "up", "it", "is", "he", "we"]
)
_OPTION = re.compile(r"(?:option |choice )?\(?[A-J]\)?")
_DIGIT = re.compile(r"\d")
_NUMERAL = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_WEAK_LINK = re.compile(r"\b(?:is|are|equals|gives|get)\b|=", re.IGNORECASE)
_LONGEST_WEAK = 60
_LONGEST_NUMBER = 1000  # Python refuses to read integers of more than 4,300 digits


def extract_answer(text: str) -> str | None:
    """The final answer a trace states, or None. What follows `</think>` counts first.

    A box is the answer, unless an option is named after it: `\\boxed{x = 2}, so the answer is (D)`.
    """
    stated = _final(text)
    if not stated:
        return None
    return _option_after_box(text) or stated[-1]


def _option_after_box(text: str) -> str | None:
    at = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    said = _phrased(text[at:].partition("}")[2]) if at >= 0 else []
    return said[-1] if said and _OPTION.fullmatch(said[-1]) else None


def count_final_answers(text: str) -> int:
    r"""How many different final answers a trace states; repeating one counts once.

    `\boxed{2} and \boxed{3}` is one answer with two parts; boxes in two places are two answers.
    """
    return len({identity(answer) for answer in _final(text)})


def _final(text: str) -> list[str]:
    before, closed, after = text.rpartition(_THINK_END)
    stated = _stated(after)
    if stated or not closed:
        return stated
    thought = _stated(before)
    if not thought or not _DIGIT.search(after) or _repeats(after, thought[-1]):
        return thought
    # another number stands after the thinking: that is the answer, or nothing is
    return _weakly_stated(after)


def _repeats(text: str, answer: str) -> bool:
    """Whether a text holds the answer again, as it is written or as the number it is."""
    value = number(answer)
    if value is None:
        return normalise(answer) in normalise(text)
    return any(number(found) == value for found in _NUMERAL.findall(text))


def _weakly_stated(text: str) -> list[str]:
    """What the last line ends on: `It is 5.`, `x = 5`, or a line that is only a number."""
    line = text.rstrip().rpartition("\n")[2]
    ends = [link.end() for link in _WEAK_LINK.finditer(line)]
    answer = _bare(line[ends[-1] :] if ends else line)
    if not ends and number(answer) is None:
        return []
    return [answer] if _DIGIT.search(answer) and len(answer) <= _LONGEST_WEAK else []


def _stated(text: str) -> list[str]:
    return boxed(text) or _tagged(text) or _phrased(text)


def _tagged(text: str) -> list[str]:
    found, start = [], None
    for tag in _TAG.finditer(text):
        if not tag["closing"]:
            start = tag.end()
        elif start is not None:
            found.append(text[start : tag.start()].strip())
            start = None
    return [answer for answer in found if answer]


def _phrased(text: str) -> list[str]:
    """What follows each final-answer phrase, to the end of its sentence or formula."""
    # `ans = max(ans, x)` in a program is no statement
    answers = map(_bare, _Phrases(without_programs(text)).said())
    return [answer for answer in answers if answer and not has_box(answer)]


class _Phrases:
    """One pass over a text; what was searched for in vain is not searched for again."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line_end = -1
        self._unclosed: set[str] = set()

    def said(self) -> Iterator[str]:
        at = 0
        while cue := _CUE.search(self._text, at):
            at = cue.end()
            if (start := self._start(cue)) is None:
                continue
            at = start
            if span := self._formula(start) or self._sentence(start):
                yield self._text[span[0] : span[1]]
                at = span[1]

    def _start(self, cue: re.Match[str]) -> int | None:
        """Where the answer begins after a phrase; None if the phrase announces none."""
        if cue[0] == "####":
            return cue.end()
        if link := _LINK.match(self._text, cue.end()):
            return link.end()
        heading = _HEADING_AFTER.match(self._text, cue.end())
        return heading.end() if heading and self._opens_line(cue.start()) else None

    def _opens_line(self, at: int) -> bool:
        before = self._text[max(0, at - _HEADING_REACH) : at]
        _, line_break, line = before.rpartition("\n")
        if not line_break and at > _HEADING_REACH:
            return False
        return _HEADING_BEFORE.fullmatch(line) is not None

    def _formula(self, start: int) -> tuple[int, int] | None:
        opening = _DISPLAY.match(self._text, start)
        if opening is None or opening["opening"] in self._unclosed:
            return None
        end = self._text.find(_DISPLAY_END[opening["opening"]], opening.end())
        if end < 0:
            self._unclosed.add(opening["opening"])
            return None
        return opening.end(), end

    def _sentence(self, start: int) -> tuple[int, int] | None:
        line = _LINE.match(self._text, start)
        if line is None:
            return None
        start = line.end()
        if _NOT_ANSWERS.match(self._text, start):
            other = _NOT_BUT.match(self._text, start)
            if other is None:
                return None
            start = other.end()
        if self._announces_another(start):
            return None
        if self._line_end < start:
            line_end = self._text.find("\n", start)
            self._line_end = len(self._text) if line_end < 0 else line_end
        end = _SENTENCE_END.search(self._text, start, self._line_end)
        return start, end.start() if end else self._line_end

    def _announces_another(self, start: int) -> bool:
        """Whether the sentence itself says "the answer is": then that is read instead."""
        cue = _CUE.search(self._text, start, start + _NESTED_REACH)
        if cue is None or "\n" in self._text[start : cue.start()]:
            return False
        return not _SENTENCE_END.search(self._text, start, cue.start()) and bool(
            _LINK.match(self._text, cue.end())
        )


def _bare(raw: str) -> str:
    text = re.sub(r"\\[()\[\]]|(?<!\\)\$", "", raw).strip()
    return text.strip("*_`\"' \t\n").rstrip(".,;:").strip("*_`\"' ")


def cleaned(answer: str) -> str:
    """An answer without math delimiters, text macros and layout commands; single spaces."""
    text = answer.replace("−", "-").replace("\u00a0", " ").replace("\\$", "$").replace("\\%", "%")
    text = _THIN_THOUSANDS.sub(",", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = _TEXT_MACRO.sub(r"\1", text)
    text = re.sub(r"\\[()\[\]]|\$", "", text)
    return " ".join(_SPACING.sub(" ", text).split())


def normalise(answer: str) -> str:
    """One spelling of an answer: no math delimiters, layout commands or spare spaces.

    Case is kept; nothing is computed.
    """
    return _without_stop(_TIGHT.sub(r"\1", cleaned(answer)))


def _without_stop(text: str) -> str:
    # three dots go on: 0.333... is a third
    return text if text.endswith("...") else text.rstrip(".")


def number(answer: str) -> Fraction | None:
    """The number an answer spells (`-1,234.50`, `$18`, `3/4`, `\\frac{3}{4}`), or None."""
    if len(answer) > _LONGEST_NUMBER:
        return None
    text = _without_stop(cleaned(answer))
    if fraction := _FRACTION.fullmatch(text):
        sign, *parts = fraction.groups()
        top, bottom = (int(part) for part in parts if part is not None)
        return Fraction(int(f"{sign}1") * top, bottom) if bottom else None
    found = _NUMBER.fullmatch(text)
    if not found or not (found["whole"] or len(found["decimals"] or "") > 1):
        return None
    digits = (found["whole"] or "0").replace(",", "") + (found["decimals"] or "").rstrip(".")
    return Fraction(found["sign"] + digits)


def identity(answer: str) -> Fraction | str:
    """What two answers share when they are the same: their number, else their plain text."""
    value = number(answer)
    return _LETTERS.sub(_folded_letters, normalise(answer)) if value is None else value


def same_text(one: str, other: str) -> bool:
    """Whether two answers are the same number, or the same words but for case and layout.

    The case of symbols counts: `R/r` is not `r/R`, and carbon monoxide is not cobalt.
    """
    return identity(one) == identity(other)


def folded_word(word: str) -> str:
    """A word in lower case, unless its capitals may be what it says: `CO`, `AaBb`, `ABC`."""
    if len(word) < 3:
        return word.casefold() if word.casefold() in _SHORT_WORDS else word
    is_title = word[1:] == word[1:].lower()
    is_shouted = word.isupper() and (word == "YES" or (len(word) > 3 and not _is_of_names(word)))
    return word.casefold() if is_title or is_shouted else word


def _is_of_names(word: str) -> bool:
    # points are named by neighbours in the alphabet, ABCD; alleles come in pairs, RRYY
    letters = sorted(set(word))
    are_neighbours = ord(letters[-1]) - ord(letters[0]) < len(letters)
    return are_neighbours or _PAIRS.fullmatch(word) is not None


def _folded_letters(match: re.Match[str]) -> str:
    return folded_word(match[0])
