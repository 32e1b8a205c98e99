"""Words: what the step checker says of each trace of a problem (docs/method.md §2).

Of every complete trace of a training problem, unaided or not: it is the truth that audits measure
breakpoints and PURE by, and what a reader is told of the sets. Asks no model.
"""

from collections.abc import Iterator

from heal.records import Finish, StepWords, Trace
from heal.stages import repair, sample, verify
from heal.stages.found import Found, Request, Setup
from heal.stages.steps import word_of


def owes(found: Found, setup: Setup) -> Iterator[Request]:
    """Nothing."""
    return iter(())


def conclude(found: Found, setup: Setup) -> Iterator[StepWords]:
    """One record of all words; none where no checker is named."""
    if setup.checker is None or not verify.is_training(found.problem):
        return
    words = {}
    for trace in _traces(found, setup):
        word = word_of(found, setup, trace) if trace.finish is Finish.STOP else None
        if word is not None:
            words[trace.key] = word
    yield StepWords(StepWords.KEY, found.problem.id, setup.checker.edition, words)


def _traces(found: Found, setup: Setup) -> Iterator[Trace]:
    yield from sample.unaided(found, setup)
    yield from repair.hinted(found, setup)
    for kind in setup.breakpoints:
        yield from (trace for trace, _ in repair.repairs(found, setup, kind))
