"""Problems with a worked solution: what a student of 135M can be taught in minutes.

In: how many, and a seed. Out: rows of `problem`, `answer`, `family` and `trace`, in which every
step is computed from the problem, so that a trace is right by construction. Two families of
reasoning-gym, half of the rows each: `chain_sum` (three terms of two digits) needs arithmetic
alone, `leg_counting` (two or three kinds of animals) facts that no problem states, too. No problem
is there twice.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

from reasoning_gym import create_dataset
from reasoning_gym.arithmetic.leg_counting import ANIMALS

BATCH = 256
"""Problems drawn at once, until there are enough that differ."""


def chain_sum(metadata: Mapping[str, Any]) -> Iterator[str]:
    """One step per term after the first."""
    first, *rest = re.findall(r"[+-]?\d+", metadata["expression"].replace(" ", ""))
    total = int(first)
    for term in rest:
        before, total = total, total + int(term)
        yield f"{before} {term[0]} {term[1:]} = {total}"


def leg_counting(metadata: Mapping[str, Any]) -> Iterator[str]:
    """The legs of each kind of animal, then their sum, one step per addition."""
    legs = []
    for animal, count in metadata["animals"].items():
        legs.append(count * ANIMALS[animal])
        yield f"{count} {animal}: {count} * {ANIMALS[animal]} = {legs[-1]}"
    total = legs[0]
    for more in legs[1:]:
        before, total = total, total + more
        yield f"{before} + {more} = {total}"


FAMILIES: Mapping[str, tuple[Callable[[Mapping[str, Any]], Iterator[str]], Mapping[str, int]]] = {
    "chain_sum": (
        chain_sum,
        {"min_terms": 3, "max_terms": 3, "min_digits": 2, "max_digits": 2},
    ),
    "leg_counting": (
        leg_counting,
        {"min_animals": 2, "max_animals": 3, "min_instances": 1, "max_instances": 9},
    ),
}


def worked(count: int, seed: int) -> list[dict[str, str]]:
    """`count` rows, families in turn; the same for the same seed."""
    each = [_rows(family, seed) for family in FAMILIES]
    turns = chain.from_iterable(zip(*each, strict=True))
    return [row for row, _ in zip(turns, range(count), strict=False)]


def _rows(family: str, seed: int) -> Iterator[dict[str, str]]:
    solve, settings = FAMILIES[family]
    seen = set[str]()
    while True:
        for entry in create_dataset(family, size=BATCH, seed=seed, **settings):
            if (problem := entry["question"].strip()) in seen:
                continue
            seen.add(problem)
            steps = [*solve(entry["metadata"]), f"\\boxed{{{entry['answer']}}}"]
            yield {
                "problem": problem,
                "answer": entry["answer"],
                "family": family,
                "trace": "\n\n".join(steps),
            }
        seed += BATCH  # reasoning-gym draws entry i from seed + i
