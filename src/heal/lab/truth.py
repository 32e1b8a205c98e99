"""The truth of a lab trace, judged from its text alone.

In: a problem's text and a trace's text. Out: a `Truth`: whether every step is true and the rule it
goes on with explains every given term, where it first goes wrong, and what it answers. Steps are
the blank-line pieces of the trace, counted from 0. A step it cannot read counts as bad: the lab's
models write little else, so what reads strangely has gone astray.

A wrong rule is bad at the step that names it, even though the sums after it may be right; a rule
that the trace takes back in words no longer counts against it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from heal.lab import traces
from heal.lab.world import RING, Rule, owner

_SUM = r"(\d+) ([+-]) (\d+) = (\d+)"
_LINE = re.compile(
    rf"(?:Wait, )?(?P<reason>.*?){_SUM}"
    r"(?:, which fits|, and that fits|, but the term is (?P<seen>\d+))\."
)
_NEXT = re.compile(rf"So {_SUM} comes next\.")
_BACK = re.compile(rf"Checking back: {_SUM}, a term we have\.")
_PARITY = re.compile(r"Also (\d+) is (odd|even) and comes after (\d+)\.")
_GOES = re.compile(r"So the row goes (up|down) from (\d+) to (\d+)\.")
_OPERAND = re.compile(r"(?P<reason>.*?)For the next term we go (up|down) by (\d+)(?P<row>.*)\.")
_FINAL = re.compile(r"The answer is \\boxed\{(\d+)\}\.")
_RULES = {
    "add": r"add (\d+) each time",
    "sub": r"subtract (\d+) each time",
    "grow": r"the jump grows by (\d+) each time",
    "shrink": r"the jump shrinks by (\d+) each time",
    "alt": r"add (\d+) and (\d+) in turn",
    "zig": r"take ([+-]\d+) and ([+-]\d+) in turn",
    "cyc": r"add (\d+), (\d+) and (\d+) over and over",
    "swing": r"the jumps swing and grow by (\d+) each time",
    "mirror": r"the jumps (\d+), (\d+) and (\d+) come and then run back",
    "dip": r"take ([+-]\d+), ([+-]\d+) and ([+-]\d+) over and over",
    "inter": r"two mixed rows, one with ([+-]\d+) and one with ([+-]\d+)",
    "twin": r"each jump comes twice and then grows by (\d+)",
}


@dataclass(frozen=True)
class Truth:
    """What is true of one trace. Step numbers count from 0."""

    valid: bool
    """Every step is true, the rule explains every given term, and the answer is the right one."""
    first_bad: int | None
    """First step that is false, breaks the named rule or names a wrong one; None if all hold."""
    rule_step: int | None
    """The first step that names a rule."""
    family: str | None
    """The family named by the rule the trace goes on with."""
    answer: str | None
    correct: bool
    """Whether the answer is right, however it was reached."""

    @property
    def fudged(self) -> bool:
        """Right answer, but not by reasoning that holds."""
        return self.correct and not self.valid


@dataclass
class _Reading:
    """How far a trace has been read."""

    terms: tuple[int, ...]
    gold: int
    rule: Rule | None = None
    rule_step: int | None = None
    lines: int = 0
    operand: int | None = None
    total: int | None = None
    answer: str | None = None
    bad: list[int] = field(default_factory=list)


def judge(problem_text: str, trace_text: str) -> Truth:
    """Read a trace step by step. Raises: ValueError if the problem is not one of the lab's."""
    terms = parse_problem(problem_text)
    rule = owner(terms)
    if rule is None:
        raise ValueError(f"no family explains {problem_text!r}")
    reading = _Reading(terms, rule.says(terms, len(terms)))
    for number, step in enumerate(split_steps(trace_text)):
        if not _good(reading, number, step):
            reading.bad.append(number)
    correct = reading.answer == str(reading.gold)
    return Truth(
        valid=correct and not reading.bad,
        first_bad=min(reading.bad, default=None),
        rule_step=reading.rule_step,
        family=reading.rule.family if reading.rule else None,
        answer=reading.answer,
        correct=correct,
    )


def split_steps(trace_text: str) -> list[str]:
    """The non-empty blank-line pieces of a trace, stripped."""
    return [step for piece in trace_text.split("\n\n") if (step := piece.strip())]


def parse_problem(text: str) -> tuple[int, ...]:
    """The given terms of `Q 17 25 ...`. Raises: ValueError if it is not written so."""
    if not re.fullmatch(r"Q(?: \d+){6}", text.strip()):
        raise ValueError(f"not a lab problem: {text!r}")
    return tuple(map(int, text.split()[1:]))


def parse_rule(step: str) -> Rule | None:
    """The rule a step names, or None if it names none."""
    lead = next((lead for lead in traces.RULE_LEADS if step.startswith(lead)), None)
    if lead is None:
        return None
    words = step.removeprefix(lead).removesuffix(".")
    for family, pattern in _RULES.items():
        if match := re.fullmatch(pattern, words):
            return Rule(family, tuple(map(int, match.groups())))
    return None


def _good(reading: _Reading, number: int, step: str) -> bool:
    """Whether this step holds; notes in `reading` what it says."""
    if (final := _FINAL.fullmatch(step)) is not None:
        reading.answer = final[1]
        return reading.total == int(final[1])
    if (rule := parse_rule(step)) is not None:
        reading.rule, reading.lines = rule, 0
        reading.rule_step = number if reading.rule_step is None else reading.rule_step
        return rule.explains(reading.terms)
    if step == traces.RETRACTION and reading.rule is not None:
        return _retract(reading, number)
    if reading.rule is None:
        return step in _true_looks(reading.terms)
    if (operand := _OPERAND.fullmatch(step)) is not None:
        return _operand_holds(reading, reading.rule, operand)
    if (total := _NEXT.fullmatch(step)) is not None:
        return _next_holds(reading, reading.rule, total)
    if (line := _LINE.fullmatch(step)) is not None:
        return _line_holds(reading, reading.rule, line)
    return _check_holds(reading, step)


def _retract(reading: _Reading, number: int) -> bool:
    """Taking back a wrong rule clears it; taking back a right one is itself a fault."""
    wrong = reading.rule is not None and not reading.rule.explains(reading.terms)
    if wrong and reading.total is None:
        named = reading.rule_step if reading.rule_step is not None else number
        reading.bad = [bad for bad in reading.bad if bad != named]
    reading.rule = None
    return wrong


def _true_looks(terms: Sequence[int]) -> set[str]:
    return {text for kind in traces.LOOKS for text in traces.look_wordings(kind, terms)}


def _line_holds(reading: _Reading, rule: Rule, line: re.Match[str]) -> bool:
    """The next given term in turn, with the rule's own operands and a true verdict on the fit."""
    index = rule.first + reading.lines
    reading.lines += 1
    if index >= len(reading.terms):
        return False
    base, amount = rule.operands(reading.terms, index)
    said, seen = _read_sum(line), reading.terms[index]
    reason = traces.reason(rule, reading.terms, index, amount)
    if said != (base, amount, (base + amount) % RING) or line["reason"].lower() != reason.lower():
        return False
    fits = line["seen"] is None
    return said[2] == seen if fits else int(line["seen"]) == seen != said[2]


def _operand_holds(reading: _Reading, rule: Rule, operand: re.Match[str]) -> bool:
    _, amount = rule.operands(reading.terms, len(reading.terms))
    applied = reading.lines == len(reading.terms) - rule.first
    reading.operand = int(operand[3]) * (1 if operand[2] == "up" else -1)
    expected = traces.operand_text(rule, reading.terms, amount)
    return applied and operand.group(0) == expected


def _next_holds(reading: _Reading, rule: Rule, total: re.Match[str]) -> bool:
    base, _ = rule.operands(reading.terms, len(reading.terms))
    said = _read_sum(total)
    reading.total = said[2]
    return said[:2] == (base, reading.operand) and (said[0] + said[1]) % RING == said[2]


def _check_holds(reading: _Reading, step: str) -> bool:
    """A check after the next term; anything else is unreadable and so does not hold."""
    total, last = reading.total, reading.terms[-1]
    if total is None:
        return False
    if (back := _BACK.fullmatch(step)) is not None:
        base, amount, result = _read_sum(back)
        return base == total and (base + amount) % RING == result and result in reading.terms
    if (parity := _PARITY.fullmatch(step)) is not None:
        word = "odd" if total % 2 else "even"
        return (parity[1], parity[2], parity[3]) == (str(total), word, str(last))
    if (goes := _GOES.fullmatch(step)) is not None:
        word = "up" if total > last else "down"
        return (goes[1], goes[2], goes[3]) == (word, str(last), str(total))
    return False


def _read_sum(match: re.Match[str]) -> tuple[int, int, int]:
    """(base, signed amount, total) of the one sum in a match."""
    found = re.search(_SUM, match.group(0))
    if found is None:
        raise ValueError(f"no sum in {match.group(0)!r}")
    base, sign, amount, total = found.groups()
    return int(base), int(amount) * (1 if sign == "+" else -1), int(total)
