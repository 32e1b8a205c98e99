"""Number words: twenty-five, three hundred, two thirds, one half.

In: words in lower case, hyphens taken apart. Out: the number, or None.
"""

from collections.abc import Sequence
from fractions import Fraction

# fmt: off
_ONES = {name: i for i, name in enumerate([
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
])}
_TENS = {name: 10 * (i + 2) for i, name in enumerate([
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
])}
_SCALES = {"thousand": 1000, "million": 10**6, "billion": 10**9}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4,
    "fourths": 4, "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "seventh": 7, "sevenths": 7,
    "eighth": 8, "eighths": 8, "ninth": 9, "ninths": 9, "tenth": 10, "tenths": 10,
}
# fmt: on


def numeral(words: Sequence[str]) -> Fraction | None:
    """The number that words spell."""
    if list(words) in (["half"], ["a", "half"]):
        return Fraction(1, 2)
    if len(words) == 2 and words[1] in _PARTS and words[0] in _ONES:
        return Fraction(_ONES[words[0]], _PARTS[words[1]])
    whole = _whole([word for word in words if word != "and"])
    return None if whole is None else Fraction(whole)


def _whole(words: Sequence[str]) -> int | None:
    total, group, ceiling = 0, 0, 1000
    for word in words:
        if word in _ONES and group % 10 == 0 and (group % 100 == 0 or _ONES[word] < 10):
            group += _ONES[word]
        elif word in _TENS and group % 100 == 0:
            group += _TENS[word]
        elif word == "hundred" and 0 < group < 10:
            group *= 100
        elif word in _SCALES and group and (_SCALES[word] < ceiling or not total):
            total, group, ceiling = total + group * _SCALES[word], 0, _SCALES[word]
        else:
            return None
    return total + group if words else None
