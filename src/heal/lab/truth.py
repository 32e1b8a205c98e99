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
from heal.lab.world import CYCLES, GIVEN, NAMES, Rule, named, owner, spell

_LINE = re.compile(
    r"(?:Then|Wait, then) (?P<name>[a-i]) should be (?P<said>\d+)"
    r"(?:, which fits|, and that fits|, but (?P<again>[a-i]) is (?P<seen>\d+))\."
)
_NEXT = re.compile(r"So next h should be (\d+) and i should be (\d+)\.")
_FINAL = re.compile(r"The answer is \\boxed\{(\d+ \d+)\}\.")


def _pattern(family: str, words: str) -> re.Pattern[str]:
    """The rule's words with every number as a group."""
    count = max(CYCLES[family]) + 1
    return re.compile(words.format(listed=", ".join([r"(\d+)"] * count)))


_RULES = {family: _pattern(family, words) for family, words in traces.RULE_WORDS.items()}


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
    gold: tuple[int, ...]
    rule: Rule | None = None
    rule_step: int | None = None
    lines: int = 0
    found: tuple[int, ...] = ()
    """The next terms it says."""
    answer: str | None = None
    bad: list[int] = field(default_factory=list)


def judge(problem_text: str, trace_text: str) -> Truth:
    """Read a trace step by step. Raises: ValueError if the problem is not one of the lab's."""
    terms = parse_problem(problem_text)
    rule = owner(terms)
    if rule is None:
        raise ValueError(f"no family explains {problem_text!r}")
    reading = _Reading(terms, rule.answer)
    for number, step in enumerate(split_steps(trace_text)):
        if not _good(reading, number, step):
            reading.bad.append(number)
    correct = reading.answer == spell(reading.gold)
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
    """The given terms of `Q a 17, b 25, ...`. Raises: ValueError if it is not written so."""
    terms = tuple(map(int, re.findall(r"\d+", text)))
    if len(terms) != GIVEN or text.strip() != f"Q {named(terms)}":
        raise ValueError(f"not a lab problem: {text!r}")
    return terms


def parse_rule(step: str) -> Rule | None:
    """The rule a step names, or None if it names none."""
    lead = next((lead for lead in traces.RULE_LEADS if step.startswith(lead)), None)
    if lead is None:
        return None
    words = step.removeprefix(lead).removesuffix(".")
    for family, pattern in _RULES.items():
        if match := pattern.fullmatch(words):
            return Rule(family, tuple(map(int, match.groups())))
    return None


def _good(reading: _Reading, number: int, step: str) -> bool:
    """Whether this step holds; notes in `reading` what it says."""
    if (final := _FINAL.fullmatch(step)) is not None:
        reading.answer = final[1]
        return bool(reading.found) and final[1] == spell(reading.found)
    if (rule := parse_rule(step)) is not None:
        reading.rule, reading.lines = rule, 0
        reading.rule_step = number if reading.rule_step is None else reading.rule_step
        return rule.explains(reading.terms)
    if step == traces.RETRACTION and reading.rule is not None:
        return _retract(reading, number)
    if reading.rule is None:
        return step in _true_looks(reading.terms)
    if (found := _NEXT.fullmatch(step)) is not None:
        return _next_holds(reading, reading.rule, found)
    if (line := _LINE.fullmatch(step)) is not None:
        return _line_holds(reading, reading.rule, line)
    return _check_holds(reading, step)


def _retract(reading: _Reading, number: int) -> bool:
    """Taking back a wrong rule clears it; taking back a right one is itself a fault."""
    wrong = reading.rule is not None and not reading.rule.explains(reading.terms)
    if wrong and not reading.found:
        named = reading.rule_step if reading.rule_step is not None else number
        reading.bad = [bad for bad in reading.bad if bad != named]
    reading.rule = None
    return wrong


def _true_looks(terms: Sequence[int]) -> set[str]:
    return {text for kind in traces.LOOKS for text in traces.look_wordings(kind, terms)}


def _line_holds(reading: _Reading, rule: Rule, line: re.Match[str]) -> bool:
    """The next given term in turn, what the rule says of it, and a true verdict on the fit."""
    reading.lines += 1  # the first term needs no line: every rule begins with it
    index = reading.lines
    if index >= len(reading.terms) or line["name"] != NAMES[index]:
        return False
    said, seen = rule.says(index), reading.terms[index]
    if int(line["said"]) != said:
        return False
    if line["seen"] is None:
        return said == seen
    return line["again"] == line["name"] and int(line["seen"]) == seen != said


def _next_holds(reading: _Reading, rule: Rule, found: re.Match[str]) -> bool:
    """The rule was applied to every given term, and gives these terms next."""
    reading.found = tuple(map(int, found.groups()))
    applied = reading.lines == len(reading.terms) - 1
    return applied and reading.found == rule.answer


def _check_holds(reading: _Reading, step: str) -> bool:
    """A check after the next terms; anything else is unreadable and so does not hold."""
    if not reading.found:
        return False
    return step in {traces.check_text(which, reading.terms, reading.found) for which in range(3)}
