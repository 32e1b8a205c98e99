"""The choice of `gear.hint: auto` in words: what was tried, on how much, and why it was taken.

In: what the run stored of its choice. Out: a `HintChoice`, and sentences and rows of it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from heal.method.hint_choice import PER, HintChoice, KindYield
from heal.records import HintKind
from heal.store import Store
from heal.wording import count, plural

META = "hint_choice"


def read_choice(store: Store) -> HintChoice | None:
    """The choice a run rests on; None where its recipe names the kind, or none is chosen yet."""
    told: Mapping[str, Any] | None = store.meta(META)
    gear = (store.meta("config") or {}).get("gear") or {}
    if told is None or gear.get("hint") != "auto":
        return None
    tried = (KindYield(**{**own, "kind": HintKind(own["kind"])}) for own in told["tried"])
    return HintChoice(HintKind(told["kind"]), told["problems"], told["why"], tuple(tried))


def choice_line(choice: HintChoice) -> str:
    """`answer for all, of 5 kinds tried on 8 problems: no other kind is shown to yield more`"""
    if not choice.tried:
        return f"{choice.kind} for all: {choice.why}"
    where = f"{plural(len(choice.tried), 'kind')} tried on {plural(choice.problems, 'problem')}"
    return f"{choice.kind} for all, of {where}: {choice.why}"


def choice_sentence(choice: HintChoice) -> str:
    """The choice, then every kind's yield, the highest first."""
    if not choice.tried:
        return f"Hints are of the kind {choice.kind}: {choice.why}."
    told = ", ".join(f"{own.kind} {yield_text(own)}" for own in by_yield(choice))
    where = plural(choice.problems, "extreme problem")
    return (
        f"Hints are of the kind {choice.kind}, for {choice.why}. Valid repairs per "
        f"{plural(PER, 'teacher token')} on {where}: {told}."
    )


def choice_rows(choice: HintChoice) -> Iterator[tuple[str, ...]]:
    """A row for each kind: what it was tried on, what it gave and what it took."""
    for own in by_yield(choice):
        counts = own.repairs, own.valid, own.tokens, own.refused, own.fell_back
        yield str(own.kind), *map(count, counts), yield_text(own)


def by_yield(choice: HintChoice) -> list[KindYield]:
    """The highest first."""
    return sorted(choice.tried, key=lambda own: -own.value)


def yield_text(own: KindYield) -> str:
    """`0.84 [0.50–1.23]`; without ends where the problems tell none."""
    if own.low is None or own.high is None:
        return f"{own.value:.2f}, no interval"
    return f"{own.value:.2f} [{own.low:.2f}–{own.high:.2f}]"
