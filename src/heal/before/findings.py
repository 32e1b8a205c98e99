"""What `heal check` found: one finding per question and target, and how it is printed."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from heal.wording import plural

WIDTH = 80


class Outcome(StrEnum):
    """What a question came to."""

    OK = "ok"
    NOTE = "note"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Finding:
    """One question's answer; `hint` is the remedy of a failure."""

    question: str
    outcome: Outcome
    words: str
    hint: str | None = None


@dataclass(frozen=True)
class Speed:
    """How fast and how long the model wrote."""

    tokens_s: float
    mean_tokens: float | None
    """None if too few traces ended within `TRACE_TOKENS`."""
    at_once: int = 4
    """Traces drawn at once, which is what the speed depends on most."""


@dataclass
class Target:
    """One engine, server or student that was probed, and the findings."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    prompt: str | None = None
    prompt_tokens: int = 0
    speed: Speed | None = None
    answers: list[tuple[str, str]] = field(default_factory=list)
    """What traces drawn here stated, each beside its gold answer."""

    @property
    def failed(self) -> bool:
        """Whether anything the recipe needs is missing."""
        return any(f.outcome is Outcome.FAILED for f in self.findings)


def lines_of(target: Target) -> Iterator[str]:
    """A target's findings, one line each, remedies below."""
    yield target.name
    for found in target.findings:
        yield from _wrapped(found.words, f"  {found.outcome:<7} {found.question:<15} ")
        if found.hint:
            yield from _wrapped(found.hint, f"          {'':<15} → ")
    if target.speed is not None:
        at_once = plural(target.speed.at_once, "trace")
        words = f"{target.speed.tokens_s:,.0f} tokens/s with {at_once} at once"
        yield f"  {Outcome.NOTE:<7} {'speed':<15} {words}"


def _wrapped(text: str, lead: str) -> list[str]:
    """Broken between words alone, and never between `--set` and what it sets."""
    lines = textwrap.wrap(
        text.replace("--set ", "--set\xa0"),
        WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\xa0", " ") for line in lines] or [lead.rstrip()]
