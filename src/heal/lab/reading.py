"""What is true of a trace with one choice, read from its text alone.

Steps are the blank-line pieces of the trace, counted from 0. A step it cannot read counts as bad:
the lab's models write little else, so what reads strangely has gone astray.

A wrong rule is bad at the step that names it, even though the steps after it may follow it truly; a
rule that the trace takes back in words no longer counts against it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from heal.lab import traces
from heal.lab.traces import RULE_LEADS
from heal.lab.world import Problem, Rule, Truth, split_steps

if TYPE_CHECKING:
    from heal.lab.one_rule import OneRule

_FINAL = re.compile(r"The answer is \\boxed\{(\d+ \d+)\}\.")


@dataclass
class _Reading:
    """How far a trace has been read."""

    world: OneRule
    problem: Problem
    rule: Rule | None = None
    rule_step: int | None = None
    looked: int = 0
    worked: int = 0
    """Steps since the rule."""
    answer: str | None = None
    bad: list[int] = field(default_factory=list)


def judge(world: OneRule, problem: Problem, trace_text: str) -> Truth:
    """Read a trace step by step."""
    reading = _Reading(world, problem)
    for number, step in enumerate(split_steps(trace_text)):
        if not _good(reading, number, step):
            reading.bad.append(number)
    correct = reading.answer == reading.problem.gold
    return Truth(
        valid=correct and not reading.bad,
        first_bad=min(reading.bad, default=None),
        rule_step=reading.rule_step,
        family=reading.rule.family if reading.rule else None,
        answer=reading.answer,
        correct=correct,
    )


def parse_rule(world: OneRule, step: str) -> Rule | None:
    """The rule a step names, or None if it names none."""
    lead = next((lead for lead in RULE_LEADS if step.startswith(lead)), None)
    if lead is None:
        return None
    words = step.removeprefix(lead).removesuffix(".")
    numbers = tuple(map(int, re.findall(r"\d+", words)))
    for family in world.rule_words:
        rule = Rule(family, numbers)
        if world.rule_text(rule) == words and len(numbers) == world.numbers_named(family):
            return rule
    return None


def _good(reading: _Reading, number: int, step: str) -> bool:
    """Whether this step holds; notes in `reading` what it says."""
    world, problem = reading.world, reading.problem
    if (final := _FINAL.fullmatch(step)) is not None:
        reading.answer = final[1]
        return reading.rule is not None and _ends(reading, reading.rule, final[1])
    if (rule := parse_rule(world, step)) is not None:
        reading.rule, reading.worked = rule, 0
        reading.rule_step = number if reading.rule_step is None else reading.rule_step
        return world.explains(rule, problem)
    if step == traces.RETRACTION and reading.rule is not None:
        return _retract(reading, number)
    if reading.rule is None:
        reading.looked += 1
        return step in world.true_looks(problem, reading.looked - 1)
    reading.worked += 1
    return step in world.true_work(problem, reading.rule, reading.worked - 1)


def _ends(reading: _Reading, rule: Rule, answer: str) -> bool:
    """Whether the rule was applied as far as it takes, and gives this answer."""
    found = reading.world.found(reading.problem, rule)
    return reading.worked >= reading.world.least_work and answer == reading.world.answer(found)


def _retract(reading: _Reading, number: int) -> bool:
    """Taking back a wrong rule clears it; taking back a right one is itself a fault."""
    wrong = reading.rule is not None and not reading.world.explains(reading.rule, reading.problem)
    if wrong and reading.worked < reading.world.least_work:
        named = reading.rule_step if reading.rule_step is not None else number
        reading.bad = [bad for bad in reading.bad if bad != named]
    reading.rule, reading.looked = None, 0
    return wrong
