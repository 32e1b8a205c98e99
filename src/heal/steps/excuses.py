"""What excuses a false equation: its problem counts otherwise, or its trace takes it back.

In: a problem's text; a trace's text and the place of a false equation in it. Out: whether nothing
may be concluded from it. A solver who notices a slip and mends it has reasoned well; a gate that
dropped such traces would teach a student never to look back. The words are English.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from heal.steps.arithmetic import Asserted, check_text
from heal.steps.judge import Truth

_OTHER_NUMBERS = re.compile(
    r"\b(?:binary|ternary|octal|hexadecimal|hex|modulo|modular|mod|congruent|clock arithmetic|"
    r"roman numerals?|(?:in )?base[- ]?(?:\d+|two|three|five|eight|twelve|sixteen)|"
    r"cryptarithm\w*|concatenat\w*)\b",
    re.IGNORECASE,
)
_BEHIND, _BEFORE = 200, 48
"""Characters in which a denial is looked for."""
_DENIED_BEFORE = re.compile(
    r"(?:\bnot (?:true|right|correct|the case|possible) (?:that|to say)|\b(?:false|wrong) that|"
    r"\b(?:instead of|rather than|mistakenly|wrongly|incorrectly|not)\b)[^\w\n]*(?:\w+[^\w\n]+)?$",
    re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
    r"[^\w\n]*(?:which |that |this |it )?(?:is|was|are|would be|can't be|cannot be)?\s*"
    r"(?:wrong|incorrect|false|impossible|nonsense|(?:a |an )?(?:mistake|error)|"
    r"not (?:right|true|correct|possible|equal))\b",
    re.IGNORECASE,
)
_TURNS = re.compile(
    r"\b(?:wait|oops|hold on|scratch that|correction|i made an? (?:mistake|error)|"
    r"(?:that|this|which)(?:'s| is| was| seems| looks) (?:wrong|incorrect|not right|off)|"
    r"let me (?:re\w+|double|check|correct|fix))\b|(?:^|[.!?\n]\s*)no\b",
    re.IGNORECASE,
)
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


@lru_cache(maxsize=64)
def counts_otherwise(problem: str) -> bool:
    """Whether a problem's numbers or signs may mean something else than usual.

    It names another base or residues, or states an equation of its own that does not hold.
    """
    if _OTHER_NUMBERS.search(problem):
        return True
    return any(found.truth is Truth.FALSE for found in check_text(problem))


def is_taken_back(text: str, start: int, end: int) -> bool:
    """Whether a text denies what it asserts in characters [start, end), or turns round behind."""
    if _DENIED_BEFORE.search(text[max(0, start - _BEFORE) : start]):
        return True
    behind = text[end : end + _BEHIND]
    return bool(_DENIED_BEHIND.match(behind) or _TURNS.search(behind))


def outside_code(text: str, found: Sequence[Asserted]) -> list[Asserted]:
    """Those of a text's equations that stand in no fenced block, where `=` asserts nothing."""
    blocks = [block.span() for block in _CODE.finditer(text)] if "```" in text else []
    return [e for e in found if not any(start <= e.start < end for start, end in blocks)]
