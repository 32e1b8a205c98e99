"""Which traces were chosen where a set could not take all, in words (docs/method.md §4.2).

In: what the run stored of its choice. Out: a `TraceChoice`, and sentences of it. A run in which
every arm takes the least alike has nothing to tell.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from heal.records import Choice
from heal.store import Store
from heal.wording import count, plural

META = "choice"


@dataclass(frozen=True)
class ArmChoice:
    """What one arm's choice came to."""

    arm: str
    choice: Choice
    problems: int
    """With an accepted trace."""
    contested: int
    """Of these, with more of them than a set takes."""
    kept: int
    """Traces."""
    other: int
    """Of these, texts that the sets of `diverse` lack."""


@dataclass(frozen=True)
class TraceChoice:
    """How arms chose that do not take the least alike, and what the student scored for it."""

    arms: tuple[ArmChoice, ...]
    traces: int = 0
    """That the student was to score."""
    texts: int = 0
    """Of these traces: equal ones are scored once."""
    tokens: int = 0
    """That went through the student for it, prompts included."""
    failed: int = 0
    """Of the traces, those it could not score."""


def read_trace_choice(store: Store) -> TraceChoice | None:
    """What a run stored of it; None where every arm takes the least alike."""
    told = store.meta(META)
    if not told:
        return None
    arms = (ArmChoice(**{**own, "choice": Choice(own["choice"])}) for own in told["arms"])
    return TraceChoice(**{**told, "arms": tuple(arms)})


def trace_choice_sentences(found: TraceChoice) -> Iterator[str]:
    """One for each arm that chose, and one of what the student scored."""
    for own in found.arms:
        yield (
            f"{own.arm} chose by {own.choice}: {count(own.contested)} of"
            f" {plural(own.problems, 'problem')} had more accepted traces than a set takes, and"
            f" {count(own.other)} of {plural(own.kept, 'kept trace')} are not what {Choice.DIVERSE}"
            " keeps."
        )
    if found.traces:
        failed = f"; {count(found.failed)} could not be scored and come last" * bool(found.failed)
        yield (
            f"For that the untouched student scored {plural(found.texts, 'text')} of"
            f" {plural(found.traces, 'trace')}, {plural(found.tokens, 'token')}{failed}."
        )
