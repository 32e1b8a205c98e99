"""Decontamination: training problems that are held-out problems in other words, by four rules.

In: texts to train on and texts to evaluate on. Out: which training text overlaps with which, and
by which rule. Words are compared without case and signs. Wording that many training problems share
is a template or an instruction, not a copy; it is counted, not removed. One pass over all words,
so time grows with the length of the texts alone.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

SHORT_GRAM = 8
LONG_GRAM = 32
SHARE = 0.5
"""Of the 8-grams of the shorter text that the other must hold."""
FEWEST_WORDS = 8
"""Texts with fewer words, digits aside, must be equal with their digits."""
COPIES = 2
"""Whole wordings that more training problems than this have are a template."""
SPREAD = 4
"""8-grams that more problems than this hold are an instruction, or a template's."""

# each sign of a script without spaces is a word of its own
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_DIGITS = re.compile(r"\d+")


class Rule(StrEnum):
    """Why two problems are taken for one."""

    EQUAL = "the same words"
    DIGITS = "the same words but for digits"
    SHORT = f"half of the {SHORT_GRAM}-grams"
    LONG = f"a {LONG_GRAM}-gram"


@dataclass(frozen=True)
class Overlap:
    """A training problem that is not to be trained on."""

    index: int
    """Its place among the training texts."""
    rule: Rule
    source: str
    """What holds the other text."""


@dataclass
class _Index:
    """Texts to evaluate on, by everything a training text may share with them."""

    equal: dict[str, int] = field(default_factory=dict)
    digits: dict[str, int] = field(default_factory=dict)
    short: dict[str, list[int]] = field(default_factory=dict)
    words: list[list[str]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def add(self, text: str, source: str) -> None:
        at, words = len(self.words), words_of(text)
        self.words.append(words)
        self.sources.append(source)
        self.equal.setdefault(" ".join(words), at)
        if wording := wording_of(words):
            self.digits.setdefault(wording, at)
        for gram in set(grams(words, SHORT_GRAM)):
            known = self.short.setdefault(gram, [])
            if len(known) <= SPREAD:
                known.append(at)


def overlaps(
    train: Sequence[str], evaluated: Mapping[str, Iterable[str]]
) -> tuple[list[Overlap], int]:
    """Overlapping training texts, and how many share a template with what is evaluated on.

    `evaluated`: what holds the texts → the texts.
    """
    index = _Index()
    for source, texts in evaluated.items():
        for text in texts:
            index.add(text, source)
    known = [_Known(text, index) for text in train]
    wordings = Counter(one.wording for one in known if one.wording)
    spread = Counter(gram for one in known for gram in one.short)
    found, templates = [], 0
    for place, one in enumerate(known):
        hit = one.copied(index, wordings, spread)
        if hit is not None:
            found.append(Overlap(place, hit[0], index.sources[hit[1]]))
        elif one.wording:
            templates += 1
    return found, templates


class _Known:
    """What the index knows of one training text; nothing else of it is kept."""

    def __init__(self, text: str, index: _Index) -> None:
        words = words_of(text)
        joined, wording = " ".join(words), wording_of(words)
        self.equal = index.equal.get(joined)
        self.wording = wording if wording in index.digits else ""
        own = set(grams(words, SHORT_GRAM)) if index.short else set()
        self.short = [gram for gram in own if gram in index.short]
        self.grams = len(own)
        self.long = set(grams(words, LONG_GRAM)) if len(self.short) > LONG_GRAM - SHORT_GRAM else ()

    def copied(
        self, index: _Index, wordings: Mapping[str, int], spread: Mapping[str, int]
    ) -> tuple[Rule, int] | None:
        """The first rule that holds, and the text it holds for."""
        if self.equal is not None:
            return Rule.EQUAL, self.equal
        if self.wording and wordings[self.wording] <= COPIES:
            return Rule.DIGITS, index.digits[self.wording]
        hits: Counter[int] = Counter()
        for gram in self.short:
            places = index.short[gram]
            if len(places) <= SPREAD and spread[gram] <= SPREAD:
                hits.update(places)
        for at, count in sorted(hits.items()):
            other = set(grams(index.words[at], SHORT_GRAM))
            if count >= SHARE * min(self.grams, len(other)):
                return Rule.SHORT, at
        for at, count in sorted(hits.items()):
            if count > LONG_GRAM - SHORT_GRAM and self._shares_run(index.words[at]):
                return Rule.LONG, at
        return None

    def _shares_run(self, words: list[str]) -> bool:
        return any(gram in self.long for gram in grams(words, LONG_GRAM))


def words_of(text: str) -> list[str]:
    """The words of a text, without case and signs."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def wording_of(words: Sequence[str]) -> str:
    """The words without their digits; '' where too few are left to tell a problem by."""
    bare = [left for word in words if (left := _DIGITS.sub("", word))]
    return " ".join(bare) if len(bare) >= FEWEST_WORDS else ""


def grams(words: Sequence[str], n: int) -> Iterator[str]:
    """Runs of n words."""
    return (" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
