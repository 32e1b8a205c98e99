"""The lab as a problem source: plain dicts, as `heal run` reads them.

Config: `problems.source: heal.lab.source:problems`. Splits share no problem: which split a problem
belongs to follows from its text. The lab's models were trained on the `train` split alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from heal.lab.truth import judge, split_steps
from heal.lab.world import SPLITS, Problem, World
from heal.lab.worlds import WORLDS
from heal.wording import plural


def problems(
    n: int,
    seed: int = 0,
    split: str = "pool",
    families: Sequence[str] | None = None,
    world: str = "rows",
) -> list[dict[str, Any]]:
    """n distinct problems, the families in turn and in mixed order.

    families: None takes all of them. The first m of n problems are those asked for with n = m.
    Small families run out after some dozens and leave their turns to the others.
    Raises: ValueError for an unknown world, split or family, or when every family has run out.
    """
    if world not in WORLDS:
        raise ValueError(f"unknown world {world!r}; worlds are {tuple(WORLDS)}")
    home = WORLDS[world]
    chosen = tuple(families or home.all_families)
    unknown = [family for family in chosen if family not in home.all_families]
    if unknown or split not in SPLITS:
        raise ValueError(f"unknown family {unknown} or split {split!r}; splits are {SPLITS}")
    rng = random.Random(f"{split}:{seed}")
    seen: set[str] = set()
    out: list[dict[str, Any]] = []
    while len(out) < n and chosen:
        found = {f: _fresh(home, f, rng, split, seen) for f in rng.sample(chosen, len(chosen))}
        out += [_record(home, problem) for problem in found.values() if problem is not None]
        chosen = tuple(family for family in chosen if found[family] is not None)
    if len(out) < n:
        raise ValueError(
            f"split {split!r} has {plural(len(out), 'such problem')}; {n} were asked for"
        )
    return out[:n]


def first_wrong_step(problem: str, answer: str, steps: Sequence[str]) -> int:
    """The first step that does not hold, from 1; 0 where all of them do. A step checker.

    Raises: ValueError for a problem that is not the lab's.
    """
    first_bad = judge(problem, "\n\n".join(steps)).first_bad
    if first_bad is None:
        return 0
    # what a run calls one step may be several paragraphs
    ends = accumulate(len(split_steps(step)) for step in steps)
    return 1 + sum(end <= first_bad for end in ends)


def _fresh(
    world: World, family: str, rng: random.Random, split: str, seen: set[str]
) -> Problem | None:
    """A problem not seen yet; None when that took too many draws to go on looking."""
    for _ in range(300):
        problem = world.draw(family, rng, split)
        if problem.text not in seen:
            seen.add(problem.text)
            return problem
    return None


def _record(world: World, problem: Problem) -> dict[str, Any]:
    family = problem.rule.family
    meta = {"world": world.name, "family": family, "kind": world.kind_of(family)}
    return {"problem": problem.text, "answer": problem.gold, "meta": meta}
