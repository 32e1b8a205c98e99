"""The untouched student's own answers, which it is shown again against forgetting.

Asked before anything is trained, on training problems the teacher mostly solves. Kept are those
that the verifier finds correct and that the student can be taught word for word; what is left out
is counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from heal.keys import content_key
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
    refused: Counter[str] = field(default_factory=Counter)
    """Correct answers that it cannot be taught, by why."""

    def facts(self) -> dict[str, int]:
        """What a reader should know of it."""
        left = {
            f"own answers the student cannot be taught ({why.replace('_', ' ')})": count
            for why, count in sorted(self.refused.items())
        }
        return {
            "answers of the untouched student asked for its own replay": self.asked,
            "of these kept, correct": len(self.answers),
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
) -> Own:
    """Sort out the verified attempts; one text of a problem is kept once."""
    found, known = Own(), set[tuple[str, str]]()
    for row in rows:
        found.asked += 1
        found.tokens += row.tokens
        if row.verdict != Verdict.CORRECT:
            continue
        attempt = store.get(STAGE, row.key, row.problem, EvalTrace)
        assert attempt is not None, "a verified attempt is stored"
        if (row.problem, attempt.text) in known:
            continue
        known.add((row.problem, attempt.text))
        key = content_key(OWN, row.key)
        shown = own_example(key, problems[row.problem], attempt.text, prompts)
        seen = see(shown)
        if seen.refused is not None or seen.tokens is None:
            found.refused[str(seen.refused)] += 1
            continue
        found.answers.append(OwnAnswer(key, row.problem, attempt.text, attempt.tokens, seen.tokens))
    return found
