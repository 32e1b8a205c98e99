"""The first wrong step where the family is known: more truth than equations alone give.

In: a problem of `benchmarks.real_model_problems`, its answer, and a trace's steps. Out: the first
step that is wrong (from 1), 0 for none found, None where nothing could be checked; that is what
`steps.checker: benchmarks.real_model_checkers:first_wrong` expects. Beside false equations it sees
a number of legs that is not the animal's (`leg_counting`) and a term that is added where it is to
be taken away, or the other way round (`chain_sum`). Other wrong set-ups it does not see.
"""

import re
from collections.abc import Mapping, Sequence

from heal.records import Outcome
from heal.steps import first_wrong_step

LEGS: Mapping[str, int] = {
    "snake": 0, "sea slug": 0, "jellyfish": 0, "flatworm": 0, "leech": 0, "chicken": 2, "bird": 2,
    "human": 2, "duck": 2, "dog": 4, "cat": 4, "cow": 4, "horse": 4, "lion": 4, "elephant": 4,
    "giraffe": 4, "tiger": 4, "deer": 4, "sheep": 4, "starfish": 5, "insect": 6, "ant": 6,
    "butterfly": 6, "beetle": 6, "bee": 6, "wasp": 6, "grasshopper": 6, "cricket": 6,
    "cockroach": 6, "praying mantis": 6, "firefly": 6, "spider": 8, "scorpion": 8, "crab": 10,
    "lobster": 10, "shrimp": 10, "woodlouse": 14,
}  # fmt: skip
"""As the task counts them."""
_PLURALS = {"butterflies": "butterfly", "fireflies": "firefly", "woodlice": "woodlouse",
            "leeches": "leech", "cockroaches": "cockroach"}  # fmt: skip
_COUNTED = re.compile(r"(\d+) ((?:sea |praying )?[a-z]+?)s?(?=,|\?)")
_HAS = re.compile(r"\b(?:has|have)\s+(\d+)\s+(?:\\text\{ ?)?legs?\b")
_PRODUCT = re.compile(
    r"(\d+)(?:\s*\\text\{[^}]{0,40}\}|\s+[a-z/]+){0,3}\s*(?:\\times|×|\*|x)\s*(\d+)"
)
_TERM = re.compile(r"([-+]?)\s*(\d+)")
_ADDED = re.compile(r"(-?\d+)\s*([-+−])\s*(\d+)\s*=\s*(-?\d+)")
_MARKER = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+")


def first_wrong(problem: str, answer: str, steps: Sequence[str]) -> int | None:
    """The first wrong step by equations or by what the family tells, from 1."""
    word = first_wrong_step(steps, problem)
    told = _told(problem, steps)
    found = [step for step in (word.step, told) if step]
    if found:
        return min(found)
    return None if word.outcome is Outcome.CANNOT_TELL and told is None else 0


def _told(problem: str, steps: Sequence[str]) -> int | None:
    if "how many legs" in problem:
        return _wrong_legs(problem, steps)
    if "arithmetic problem:" in problem:
        return _wrong_sign(problem.partition("arithmetic problem:")[2], steps)
    return None


def _wrong_legs(problem: str, steps: Sequence[str]) -> int | None:
    """The first step that gives an animal of the problem another number of legs."""
    counts = {name: int(n) for n, name in _COUNTED.findall(problem.partition("you have")[2])}
    counts = {name: n for name, n in counts.items() if name in LEGS}
    current: str | None = None
    checked = False
    for number, step in enumerate(steps, 1):
        for line in step.splitlines():
            line = _MARKER.sub("", line)
            named = [name for name in counts if name in _singular(line)]
            current = named[0] if len(named) == 1 else None if named else current
            if current is None:
                continue
            for claimed in _claims(line, counts[current]):
                checked = True
                if claimed != LEGS[current]:
                    return number
    return 0 if checked else None


def _singular(line: str) -> str:
    line = line.lower()
    for plural, name in _PLURALS.items():
        line = line.replace(plural, name)
    return line


def _claims(line: str, count: int) -> list[int]:
    """How many legs a line gives one animal: in words alone, or as the factor beside its count."""
    has = _HAS.findall(line)
    if len(has) == 1 and len(re.findall(r"\d+", line)) == 1:
        return [int(has[0])]
    claimed = []
    for pair in _PRODUCT.findall(line):
        factors = [int(n) for n in pair]
        if count in factors:
            factors.remove(count)
            claimed.append(factors[0])
    return claimed


def _wrong_sign(expression: str, steps: Sequence[str]) -> int | None:
    """The first step that adds a term that is to be taken away, or the other way round.

    Only terms that occur once, and equations that go on from the value reached so far.
    """
    terms = [(sign or "+", int(n)) for sign, n in _TERM.findall(expression)]
    signs = {n: sign for sign, n in terms if sum(n == other for _, other in terms) == 1}
    reached, checked = {terms[0][1]} if terms else set(), False
    for number, step in enumerate(steps, 1):
        for left, sign, right, result in _ADDED.findall(step):
            if int(left) in reached and int(right) in signs:
                checked = True
                if signs[int(right)] != ("+" if sign == "+" else "-"):
                    return number
                reached.add(int(result))
    return 0 if checked else None
