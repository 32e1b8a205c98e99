r"""Final answers as text: where a trace states one, and when two are the same.

In: plain text. Out: the last `\boxed{}`, else `<answer>` tags, else what an English final-answer
phrase says. Knows no mathematics beyond numbers; `heal.verifiers` decides what is correct.
The phrases are English; a boxed answer is found in any language.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_BARE_BOX = re.compile(r"\s+(\\?[^\s{}$\\.,;]+)")
_BETWEEN_BOXES = re.compile(
    r"[ $]*(?:\\[()\]\[] *)?(?:,|;|,? *(?:and|or|\\text\{ *(?:and|or) *\}))[ $]*(?:\\[()\]\[] *)?"
)
_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_THINK_END = "</think>"

_NOT_ANSWERS = (
    r"(?!(?:not|known|given|wrong|incorrect|correct|right|clear|unclear|simple|obvious|either"
    r"|as|the same|what|supposed|going|likely|probably|one of|in)\b)"
)
_PHRASE = re.compile(
    r"\banswers?\b(?: to [^.\n:]{1,80}?| for [^.\n:]{1,80}?)?[*_ ]*(?:\bis\b|\bare\b|:|=)[*_: \t]*"
    r"(?P<block>\s*(?:\$\$|\\\[).*?(?:\$\$|\\\]))?(?P<line>\s{0,2}" + _NOT_ANSWERS + r"\S[^\n]*)?",
    re.IGNORECASE | re.DOTALL,
)
_HEADING = re.compile(
    r"^[#*_ \t]*(?:final )?answer[*_: \t]*\n\s*(?P<line>\S[^\n]*)", re.IGNORECASE | re.MULTILINE
)
_HASHES = re.compile(r"^####[ \t]*(?P<line>\S[^\n]*)", re.MULTILINE)
# a full stop that ends a sentence, or a word that opens a reason
_SENTENCE_END = re.compile(
    r"[.?](?=[\s*_\"')]|$)|,? (?:because|since|as|which|where|so|when)\b|, (?:and|but) (?=[a-z]{3})"
)

_TEXT_MACRO = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|textrm)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\[!,;:> ]|\\(?:left|right|quad|qquad)(?![a-zA-Z])|~")
_THIN_THOUSANDS = re.compile(r"(?<=\d)(?:\\,|\{,\})(?=\d{3})")
_SHORT_FRACTION = re.compile(r"\\frac(\d)(\d)")
_TIGHT = re.compile(r"\s*([^\w\s\\])\s*")
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_NUMBER = re.compile(rf"(?P<sign>[+-]?)[$€£¥]?(?P<whole>{_INTEGER})?(?P<decimals>\.\d*)?")
_FRACTION = re.compile(r"([+-]?)(?:\\frac\{(\d+)\}\{(\d+)\}|(\d+)/(\d+))")
_LONGEST_NUMBER = 1000  # Python refuses to read integers of more than 4,300 digits


def extract_answer(text: str) -> str | None:
    """The final answer a trace states, or None. What follows `</think>` counts first."""
    before, closed, after = text.rpartition(_THINK_END)
    stated = _stated(after) or (_stated(before) if closed else [])
    return stated[-1] if stated else None


def count_final_answers(text: str) -> int:
    r"""How many different final answers a trace states; repeating one counts once.

    `\boxed{2} and \boxed{3}` is one answer with two parts; boxes in two places are two answers.
    """
    before, closed, after = text.rpartition(_THINK_END)
    stated = _stated(after) or (_stated(before) if closed else [])
    return len({identity(answer) for answer in stated})


def boxed(text: str) -> list[str]:
    r"""Contents of every closed, non-empty `\boxed{}`, in order; neighbours in a list are joined.

    An empty box is the prompt's own wording and an unclosed one was never finished: both are
    left out.
    """
    groups: list[list[str]] = []
    last_end: int | None = None
    for start, end, content in _boxes(text):
        joined = last_end is not None and _BETWEEN_BOXES.fullmatch(text, last_end, start)
        if joined and content not in groups[-1]:
            groups[-1].append(content)
        elif not joined:
            groups.append([content])
        last_end = end
    return [", ".join(group) for group in groups]


def normalise(answer: str) -> str:
    """One spelling of an answer: no math delimiters, layout commands or spare spaces.

    Case is kept; nothing is computed.
    """
    return _TIGHT.sub(r"\1", _clean(answer)).rstrip(".")


def number(answer: str) -> Fraction | None:
    """The number an answer spells (`-1,234.50`, `$18`, `3/4`, `\\frac{3}{4}`), or None."""
    text = _clean(answer).rstrip(".")
    if len(text) > _LONGEST_NUMBER:
        return None
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
    return normalise(answer).casefold() if value is None else value


def same_text(one: str, other: str) -> bool:
    """Whether two answers are the same number, or the same text but for case and layout."""
    return identity(one) == identity(other)


def _clean(answer: str) -> str:
    text = answer.replace("−", "-").replace("\u00a0", " ").replace("\\$", "$").replace("\\%", "%")
    text = _THIN_THOUSANDS.sub(",", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = _TEXT_MACRO.sub(r"\1", text)
    text = re.sub(r"\\[()\[\]]|\$", "", text)
    return " ".join(_SPACING.sub(" ", text).split())


def _stated(text: str) -> list[str]:
    return boxed(text) or _tagged(text) or _phrased(text)


def _tagged(text: str) -> list[str]:
    return [found.strip() for found in _TAGS.findall(text) if found.strip()]


def _phrased(text: str) -> list[str]:
    found: list[tuple[int, str]] = []
    for pattern in (_PHRASE, _HEADING, _HASHES):
        for match in pattern.finditer(text):
            groups = match.groupdict()
            raw = groups.get("block") or _first_sentence(groups.get("line") or "")
            answer = _bare(raw)
            if answer and not _BOX.search(answer):
                found.append((match.end(), answer))
    return [answer for _, answer in sorted(found, key=lambda item: item[0])]


def _first_sentence(line: str) -> str:
    end = _SENTENCE_END.search(line)
    return line[: end.start()] if end else line


def _bare(raw: str) -> str:
    text = re.sub(r"\\[()\[\]]|(?<!\\)\$", "", raw).strip()
    return text.strip("*_`\"' \t\n").rstrip(".,;:").strip("*_`\"' ")


def _boxes(text: str) -> Iterator[tuple[int, int, str]]:
    at = 0
    while start := _BOX.search(text, at):
        at = start.end()
        content, end = _braced(text, at)
        if content is None:
            continue
        inner = [c for _, _, c in _boxes(content)]
        content = inner[-1] if inner else content.strip()
        if content:
            yield start.start(), end, content
        at = end


def _braced(text: str, at: int) -> tuple[str | None, int]:
    """The balanced `{...}` group at `at`, or the single token a bare `\\boxed 5` holds."""
    open_at = at
    while open_at < len(text) and text[open_at] == " ":
        open_at += 1
    if open_at == len(text) or text[open_at] != "{":
        bare = _BARE_BOX.match(text, at)
        return (bare[1], bare.end()) if bare else (None, at)
    depth, i = 0, open_at
    while i < len(text):
        if text[i] == "\\":
            i += 2  # an escaped brace is a set's, not the box's
            continue
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[open_at + 1 : i], i + 1
        i += 1
    return None, at
