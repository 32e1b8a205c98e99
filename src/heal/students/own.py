"""A student's own answers, which it is shown again against forgetting.

The untouched student is asked before anything is trained, on training problems the teacher mostly
solves; that of stage III before its rehearsal, on all of them. Kept are those that the verifier
finds correct and that the student can be taught word for word; what is left out is counted.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from heal.keys import content_key, seed_for
from heal.prompts import Prompts
from heal.records import EvalTrace, OwnAnswer, Problem, Split, Stratum, Verdict
from heal.stages.candidates import See
from heal.store import AttemptRow, Store
from heal.students.exam import STAGE
from heal.students.sets import OWN, own_example


@dataclass
class Own:
    """What came of asking."""

    answers: list[OwnAnswer] = field(default_factory=list)
    asked: int = 0
    """Attempts made."""
    tokens: int = 0
    """Written by the student, in all of them."""
    failed: int = 0
    """Attempts lost to the engine."""
    refused: Counter[str] = field(default_factory=Counter)
    """Correct answers that it cannot be taught, by why."""
    faulty: int = 0
    """Correct answers with a wrong step, which was looked for."""
    repeated: int = 0
    """Correct answers whose text the problem had already."""

    def facts(self) -> dict[str, int]:
        """What a reader should know of it."""
        left = {
            f"own answers the student cannot be taught ({why.replace('_', ' ')})": count
            for why, count in sorted(self.refused.items())
        }
        return {
            "answers of the untouched student asked for its own replay": self.asked,
            "of these kept, correct": len(self.answers),
            "own answers left out: the problem has the same text": self.repeated,
            "student tokens written for that": self.tokens,
            **left,
        }


def to_ask(store: Store, problems: Mapping[str, Problem]) -> list[Problem]:
    """Training problems the teacher mostly solves."""
    rows = store.query(
        "SELECT problem FROM problems WHERE split=? AND stratum=? ORDER BY place",
        (Split.TRAIN, Stratum.EASY),
    )
    return [problems[problem] for (problem,) in rows]


def gather(
    store: Store,
    prompts: Prompts,
    problems: Mapping[str, Problem],
    rows: Iterable[AttemptRow],
    see: See,
    stage: str = OWN,
    has_wrong_step: Callable[[Problem, str], bool] = lambda problem, text: False,
) -> Own:
    """Sort out the verified attempts; one text of a problem is kept once.

    stage: where the answers will be stored, which is part of their keys.
    """
    found, known = Own(), set[tuple[str, str]]()
    for row in rows:
        found.asked += 1
        found.failed += row.error is not None
        found.tokens += row.tokens
        if row.verdict != Verdict.CORRECT:
            continue
        attempt = store.get(STAGE, row.key, row.problem, EvalTrace)
        assert attempt is not None, "a verified attempt is stored"
        if (row.problem, attempt.text) in known:
            found.repeated += 1
            continue
        known.add((row.problem, attempt.text))
        if has_wrong_step(problems[row.problem], attempt.text):
            found.faulty += 1
            continue
        key = content_key(stage, row.key)
        shown = own_example(stage, key, problems[row.problem], attempt.text, prompts)
        seen = see(shown)
        if seen.refused is not None or seen.tokens is None:
            found.refused[str(seen.refused)] += 1
            continue
        found.answers.append(OwnAnswer(key, row.problem, attempt.text, attempt.tokens, seen.tokens))
    return found


def at_most(answers: Iterable[OwnAnswer], count: int, seed: int) -> list[OwnAnswer]:
    """So many of each problem, by a seeded hash of their keys, whatever order they come in."""
    by_problem = defaultdict[str, list[OwnAnswer]](list)
    for answer in sorted(answers, key=lambda answer: (seed_for(seed, answer.key, 0), answer.key)):
        by_problem[answer.problem_id].append(answer)
    return [answer for _, own in sorted(by_problem.items()) for answer in own[:count]]
