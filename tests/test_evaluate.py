"""Evaluation: every owed attempt is drawn once, verified, and named by what it depends on."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from heal.engines.base import Generated, GenRequest, Sampling, failed_generation
from heal.keys import trace_key
from heal.prompts import Prompts
from heal.records import Finish, Problem, Split, Verdict
from heal.runner import lanes
from heal.stages.found import Found, Request
from heal.store import AttemptRow
from heal.students.exam import STAGE, Exam, conclude, owes
from heal.verifiers import Finding, Verifier

PROBLEMS = [Problem(f"p{i}", f"What is {i}?", str(i), Split.HELD_OUT) for i in range(3)]
EXAM = Exam(
    "heal",
    1,
    "weights",
    4,
    Sampling(0.6, 0.95),
    Prompts(solve="{problem}"),
    "exact",
    run_seed=7,
    judge="exact@2",
    timeout_s=5.0,
)


class CountingEngine:
    """Answers with the number it is asked for when the seed is even, else with 99."""

    model_id = "counting"
    end_ids = frozenset({0})

    def __init__(self, finish: Finish = Finish.STOP, *, fails: bool = False) -> None:
        self.asked: list[GenRequest] = []
        self.finish, self.fails = finish, fails

    def render(self, user: str, *, system: str | None = None) -> tuple[int, ...]:
        return tuple(user.encode())

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(str(i) for i in ids if i)

    def token_bytes(self, ids: Iterable[int]) -> list[bytes]:
        return [str(i).encode() for i in ids]

    def generate(self, requests: Iterable[GenRequest | None]) -> Iterator[Generated]:
        drawn = []
        for request in filter(None, requests):
            self.asked.append(request)
            number = int(bytes(request.prompt_ids).decode()[8:-1])
            for index, seed in enumerate(request.seeds):
                if self.fails:
                    drawn.append(failed_generation(request, index, "out of memory"))
                    continue
                ids = np.array([99 if seed % 2 else number + 10, 0], np.int32)
                drawn.append(Generated(request.id, index, ids, self.finish))
        yield from reversed(drawn)


def read(text: str, problem: Problem) -> Finding:
    right = text == str(int(problem.answer) + 10)
    return Finding(Verdict.CORRECT if right else Verdict.WRONG, text)


VERIFIER = Verifier("test", read, lambda problem: Finding(Verdict.CORRECT))


Records = dict[tuple[str, str], Any]


def run(exam=EXAM, engine=None, records=None, problems=PROBLEMS) -> list[AttemptRow]:
    """Ask and answer until no problem owes anything; `records` are there before and grow."""
    engine, rows = engine or CountingEngine(), []
    records = {} if records is None else records
    streams = lanes(lambda: engine, lambda: engine, lambda: VERIFIER)
    for problem in problems:
        found = Found(problem, lambda stage, key, kind: records.get((stage, key)))
        while requests := list(owes(found, exam, lambda: engine)):
            for request in requests:
                for key, record in answered(request, streams):
                    records[request.stage, key] = record
                    found.add(request.stage, key, record)
        rows += conclude(found, exam)
    return rows


def answered(request: Request, streams) -> Iterator[tuple[str, Any]]:
    ask = request.ask
    item = ask if isinstance(ask, GenRequest) else ("one", ask.text, ask.finish, ask.problem)
    for answer in filter(None, streams[request.lane](iter([item]))):
        yield request.keys[getattr(answer, "index", 0)], request.read(answer)


def keys(exam=EXAM, problems=PROBLEMS) -> set[str]:
    return {trace_key(exam.key(p), i) for p in problems for i in range(exam.samples)}


def attempts(records: Records) -> dict[str, Any]:
    return {key: record for (stage, key), record in records.items() if stage == STAGE}


def test_every_attempt_is_made_once_and_bears_its_key() -> None:
    found = run()
    assert sorted(a.key for a in found) == sorted(keys())
    assert {(a.problem, a.seed_index) for a in found} == {
        (p.id, i) for p in PROBLEMS for i in range(4)
    }
    assert {(a.arm, a.seed, a.tokens) for a in found} == {("heal", 1, 2)}


def test_verdict_answer_and_text_belong_to_the_attempt() -> None:
    records: Records = {}
    found = run(records=records)
    written = attempts(records)
    for row in found:
        assert row.answer == written[row.key].text
        right = row.answer == str(int(row.problem[1:]) + 10)
        assert (row.verdict == Verdict.CORRECT) is right
    assert {a.verdict for a in found} == {Verdict.CORRECT, Verdict.WRONG}


def test_only_owed_attempts_are_asked_for_and_they_are_the_same_attempts() -> None:
    everything: Records = {}
    rows = run(records=everything)
    owed = set(sorted(attempts(everything))[::3])
    rest = {name: record for name, record in everything.items() if name[1] not in owed}
    engine = CountingEngine()
    assert run(engine=engine, records=rest) == rows
    assert attempts(rest) == attempts(everything)
    assert sum(len(r.seeds) for r in engine.asked) == len(owed)


def test_a_finished_evaluation_asks_for_nothing() -> None:
    records: Records = {}
    rows = run(records=records)
    engine = CountingEngine()
    assert run(engine=engine, records=records) == rows
    assert engine.asked == []


def test_a_lost_verdict_is_judged_again_and_nothing_is_written_again() -> None:
    records: Records = {}
    rows = run(records=records)
    engine = CountingEngine()
    unjudged: Records = {name: r for name, r in records.items() if name[0] == STAGE}
    assert run(engine=engine, records=unjudged) == rows
    assert engine.asked == []
    assert unjudged == records


def test_a_changed_verifier_timeout_is_judged_anew_without_writing() -> None:
    records: Records = {}
    run(records=records)
    engine = CountingEngine()
    run(replace(EXAM, timeout_s=9.0), engine, records)
    assert engine.asked == []
    assert len(records) == 12 + 2 * 12


def test_more_samples_and_more_problems_leave_earlier_keys_alone() -> None:
    more = replace(EXAM, samples=6)
    extra = Problem("p9", "What is 9?", "9", Split.HELD_OUT)
    assert keys() < keys(more, [extra, *PROBLEMS])


@pytest.mark.parametrize(
    "change",
    [
        {"arm": "rft"},
        {"seed": 2},
        {"model": "other"},
        {"verifier": "math"},
        {"run_seed": 8},
        {"sampling": Sampling(0.7, 0.95)},
        {"prompts": Prompts(solve="{problem}!")},
        {"prompts": Prompts(solve="{problem}", system="Be brief.")},
    ],
)
def test_whatever_an_attempt_depends_on_changes_its_key(change: dict[str, object]) -> None:
    changed = replace(EXAM, **change)
    assert keys().isdisjoint(keys(changed))


def test_another_gold_answer_is_verified_anew() -> None:
    changed = [replace(PROBLEMS[0], answer="5")]
    assert keys(problems=PROBLEMS[:1]).isdisjoint(keys(problems=changed))


def test_arms_are_compared_on_the_same_dice() -> None:
    one, other = CountingEngine(), CountingEngine()
    run(engine=one)
    run(replace(EXAM, arm="rft", model="other"), other)
    assert [r.seeds for r in one.asked] == [r.seeds for r in other.asked]
    again = CountingEngine()
    run(replace(EXAM, seed=2), again)
    drawn = [{seed for r in engine.asked for seed in r.seeds} for engine in (one, again)]
    assert not drawn[0] & drawn[1]
    assert len({seed for r in one.asked for seed in r.seeds}) == 12


def test_a_truncated_attempt_is_truncated_whatever_it_says() -> None:
    assert {a.verdict for a in run(engine=CountingEngine(Finish.LENGTH))} == {Verdict.TRUNCATED}


def test_an_attempt_the_engine_failed_on_says_why() -> None:
    found = run(engine=CountingEngine(fails=True))
    assert len(found) == 12
    assert {(a.error, a.finish, a.verdict) for a in found} == {
        ("out of memory", Finish.ERROR, Verdict.UNVERIFIABLE)
    }
