"""Before a run: how often two independent readings of its answers disagree.

In: a config and what a check drew. Out: lines of at most 80 columns: golds that only one of our
rules and math-verify can use, and drawn answers that only one of them calls equal to the gold. A
disagreement is a place to look, not a fault. Only where answers are read as mathematics or text;
for programs it says instead what they are not kept from on this machine.
"""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from heal.before.findings import Outcome, Target
from heal.config import Config
from heal.data.problems import read_problems
from heal.records import Problem
from heal.verifiers import Disagreements, second_reading

READ_TWICE = ("math", "exact")
GOLDS = 500
"""Golds read twice at most: those of the first ids, which are hashes and so a fair sample."""
_WIDTH = 80
_NAMED = 3


def readings(config: Config, found: Sequence[Target]) -> Iterator[str]:
    """What two readings of golds and drawn answers come to. Raises: UserError, HealError."""
    asked = read_problems(config.problems, Path.cwd())
    if asked.verifier == "code":
        yield from _doors()
    if asked.verifier not in READ_TWICE:
        return
    yield "answers: our rules, and math-verify by itself"
    problems = asked.problems
    golds: Sequence[Problem] = sorted(problems, key=lambda problem: problem.id)[:GOLDS]
    drawn = [pair for target in found for pair in target.answers]
    of = f" (of {len(problems):,})" if len(golds) < len(problems) else ""
    differ = "of {} golds{} can be used by only one of the two"
    yield from _lines("golds", second_reading(golds), differ, of)
    if not drawn:
        yield from _finding(Outcome.NOTE, "drawn answers", "no trace drawn here stated an answer")
        return
    yield from _lines("drawn answers", second_reading(drawn), "of {}{} are judged differently", "")


def _lines(question: str, read: Disagreements, words: str, of: str) -> Iterator[str]:
    outcome = Outcome.NOTE if read.disagree or read.undecided else Outcome.OK
    said = f"{read.disagree:,} {words.format(f'{read.read:,}', of)}"
    if read.undecided:
        said += f"; {read.undecided:,} took too long or failed"
    yield from _finding(outcome, question, said)
    for line in read.named[:_NAMED]:
        yield from textwrap.wrap(
            line, _WIDTH, initial_indent=" " * 10 + "→ ", subsequent_indent=" " * 12
        )
    if read.disagree > _NAMED:
        yield " " * 10 + f"… and {read.disagree - _NAMED:,} more"


def _doors() -> Iterator[str]:
    from heal.verifiers.code import open_doors
    from heal.verifiers.programs import doors

    left = open_doors(doors())
    yield "programs: the model's own are run on this machine"
    words = left or "no network, no other processes, no files written elsewhere"
    yield from _finding(Outcome.NOTE if left else Outcome.OK, "kept from", words)


def _finding(outcome: Outcome, question: str, words: str) -> Iterator[str]:
    lead = f"  {outcome:<7} {question:<15} "
    yield from textwrap.wrap(words, _WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead))
