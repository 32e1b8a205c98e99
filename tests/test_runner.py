"""The runner: whoever answers, every answer is stored once, counted then, and asked for no more."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.scripted_run import Watch

import heal.runner
from heal.engines.base import Generated, GenRequest, Sampling, Scored, ScoreRequest
from heal.errors import EngineError, TooManyFailuresError
from heal.records import Check, Finish, HintDraw, HintedScore, Problem, Verdict
from heal.runner import Limits, Runner, TokenCapError
from heal.stages.found import Answerable, Found, Lane, Request
from heal.store import Store

PROBLEMS = [Problem(f"p{i}", f"What is {i}?", str(i)) for i in range(10)]
ROUNDS = 3
"""Every problem owes two writings, then as many again; each writing a score and a verdict."""


def write(problem: Problem, turn: int, seeds: int = 2) -> Request:
    keys = tuple(f"{problem.id}-{turn}-{index}" for index in range(seeds))

    def read(answer: Generated) -> HintDraw:
        # a record under the key asked for: the i-th answer is the i-th key's
        text = answer.ids.tobytes().decode()
        return HintDraw(keys[answer.index], problem.id, text, 5, False, answer.error)

    name = f"{problem.id}-{turn}"
    ask = GenRequest(name, tuple(name.encode()), tuple(range(seeds)), Sampling())
    return Request(Lane.WRITE, "draw", keys, ask, read)


def score(problem: Problem, key: str) -> Request:
    ask = ScoreRequest(key, (1,), tuple(key.encode()))
    return Request(
        Lane.SCORE,
        "score",
        (key,),
        ask,
        lambda scored: HintedScore(key, problem.id, key, float(scored.logprob[0]), 3),
    )


def judge(problem: Problem, draw: HintDraw) -> Request:
    ask = Answerable(draw.text, Finish.STOP, problem)
    return Request(Lane.VERIFY, "check", (f"c{draw.key}",), ask, lambda check: check)


def owes(found: Found) -> Iterator[Request]:
    """Rounds of writings, each followed by its scores and verdicts."""
    for turn in range(ROUNDS):
        keys = [f"{found.problem.id}-{turn}-{index}" for index in range(2)]
        draws = [found.get("draw", key, HintDraw) for key in keys]
        if None in draws:
            yield write(found.problem, turn)
            return
        owed = [k for k in keys if found.get("score", k, HintedScore) is None]
        unjudged = [d for d in draws if d and found.get("check", f"c{d.key}", Check) is None]
        yield from (score(found.problem, key) for key in owed)
        yield from (judge(found.problem, draw) for draw in unjudged)
        if owed or unjudged:
            return


@dataclass
class Answers:
    """An engine, a scorer and a verifier that take their time.

    Each holds requests back for `patience` turns and answers in the reverse of their order.
    """

    patience: int = 3
    fails: Callable[[str], str | None] = lambda name: None

    def __post_init__(self) -> None:
        self.asked: list[tuple[Lane, str]] = []
        self.order: list[tuple[str, int]] = []
        self.closed: set[Lane] = set()
        self.most = Counter[Lane]()

    def streams(self) -> dict[Lane, Callable[[Iterator[Any]], Iterator[Any]]]:
        return {
            Lane.WRITE: lambda feed: self._serve(Lane.WRITE, feed, self._written),
            Lane.SCORE: lambda feed: self._serve(Lane.SCORE, feed, self._scored),
            Lane.VERIFY: lambda feed: self._serve(Lane.VERIFY, feed, self._judged),
        }

    def _serve(
        self, lane: Lane, feed: Iterator[Any], answers: Callable[[Any], Iterable[Any]]
    ) -> Iterator[Any]:
        held: list[tuple[int, Any]] = []
        turn = 0
        try:
            while True:
                turn += 1
                while (request := next(feed)) is not None:
                    held.append((turn, request))
                    self.most[lane] = max(self.most[lane], len(held))
                ready = [request for since, request in held if turn - since >= self.patience]
                held = [(since, r) for since, r in held if turn - since < self.patience]
                for request in reversed(ready):
                    yield from answers(request)
                yield None
        finally:
            self.closed.add(lane)

    def _written(self, request: GenRequest) -> Iterator[Generated]:
        name = bytes(request.prompt_ids).decode()
        self.asked.append((Lane.WRITE, name))
        for index in reversed(range(len(request.seeds))):
            self.order.append((name, index))
            text = f"{name}-{index}".encode()
            ids = np.frombuffer(text.ljust(-(-len(text) // 4) * 4), np.int32)
            error = self.fails(name)
            yield Generated(request.id, index, ids, Finish.STOP, error)

    def _scored(self, request: ScoreRequest) -> Iterator[Scored]:
        name = bytes(request.target_ids).decode()
        self.asked.append((Lane.SCORE, name))
        values = np.array([float(sum(request.target_ids))], np.float32)
        yield Scored(request.id, values, values, values, tokens=3)

    def _judged(self, item: Any) -> Iterator[Check]:
        name, text, _, problem = item
        self.asked.append((Lane.VERIFY, text.strip()))
        yield Check(name, Verdict.CORRECT, f"{text.strip()} of {problem.id}")


class Ending:
    """Problems in the order they were done with."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def __call__(self, found: Found) -> None:
        self.ids.append(found.problem.id)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "run") as opened:
        yield opened


def go(
    store: Store,
    answers: Answers,
    watch: Watch | None = None,
    problems: Iterable[Problem] = PROBLEMS,
    **limits: Any,
) -> list[str]:
    done = Ending()
    runner = Runner(store, watch or Watch(), answers.streams(), Limits(**limits))
    runner.run(problems, owes, done)
    return done.ids


def records(store: Store) -> dict[str, dict[str, Any]]:
    kinds = {"draw": HintDraw, "score": HintedScore, "check": Check}
    return {stage: dict(store.read(stage, kind)) for stage, kind in kinds.items()}


def test_every_answer_is_stored_under_its_own_name_and_asked_for_once(store: Store) -> None:
    answers = Answers()
    done = go(store, answers)
    assert sorted(done) == [p.id for p in PROBLEMS]
    found, each = records(store), len(PROBLEMS) * ROUNDS * 2
    assert [len(found[stage]) for stage in ("draw", "score", "check")] == [each] * 3
    for key, draw in found["draw"].items():
        assert draw.text.strip() == key
        assert found["score"][key].log_ppl == sum(key.encode())
        assert found["check"][f"c{key}"].answer == f"{key} of {draw.problem_id}"
    assert max(Counter(answers.asked).values()) == 1
    assert store.claimed() == 0


def test_a_problem_that_owes_nothing_is_done_without_a_stream(store: Store) -> None:
    go(store, Answers())

    def refuse(feed: Iterator[Any]) -> Iterator[Any]:
        raise AssertionError("a stream was opened")

    done = Ending()
    runner = Runner(store, Watch(), dict.fromkeys(Lane, refuse), Limits())
    runner.run(PROBLEMS, owes, done)
    assert done.ids == [p.id for p in PROBLEMS]


def test_no_more_problems_are_open_than_the_window(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal.runner, "WINDOW", 3)
    taken, finished, most = 0, Ending(), 0

    def source() -> Iterator[Problem]:
        nonlocal taken, most
        for problem in PROBLEMS:
            taken += 1
            most = max(most, taken - len(finished.ids))
            yield problem

    answers = Answers()
    Runner(store, Watch(), answers.streams(), Limits()).run(source(), owes, finished)
    assert most == 3
    assert answers.most[Lane.WRITE] <= 3
    assert len(finished.ids) == len(PROBLEMS)


def test_whoever_has_begun_goes_first(store: Store) -> None:
    def narrow(feed: Iterator[Any]) -> Iterator[Any]:
        """Room for one request at a time."""
        for request in feed:
            if request is not None:
                yield from answers._written(request)
            yield None

    answers = Answers(patience=0)
    streams = answers.streams() | {Lane.WRITE: narrow}
    done = Ending()
    Runner(store, Watch(), streams, Limits()).run(PROBLEMS, owes, done)
    # another problem's first words come only while those begun wait for scores and verdicts
    written = [name for lane, name in answers.asked if lane is Lane.WRITE]
    begun = [{name[:2] for name in written[:at]} for at in range(len(written))]
    ended = [
        {name[:2] for name in written[:at] if name.endswith("2")} for at in range(len(written))
    ]
    assert max(len(one - two) for one, two in zip(begun, ended, strict=True)) <= 3
    assert len(done.ids) == len(PROBLEMS)


def test_no_problem_waits_for_another(store: Store) -> None:
    def stuck(name: str) -> bool:
        return name.startswith("p0-")

    answers = Answers()
    held: list[Any] = []

    def slow(feed: Iterator[Any]) -> Iterator[Any]:
        """Keeps the first problem's request until all others are done."""
        while True:
            while (request := next(feed)) is not None:
                if stuck(bytes(request.prompt_ids).decode()):
                    held.append(request)
                else:
                    yield from answers._written(request)
            if held and len(done.ids) == len(PROBLEMS) - 1:
                yield from answers._written(held.pop())
            yield None

    done = Ending()
    Runner(store, Watch(), answers.streams() | {Lane.WRITE: slow}, Limits()).run(
        PROBLEMS, owes, done
    )
    assert done.ids[-1] == "p0"


def test_what_is_under_way_is_told_while_nothing_comes(store: Store) -> None:
    answers, told = Answers(), list[int]()

    class Heard(Watch):
        def waiting(self, count: int) -> None:
            told.append(count)

    def late(feed: Iterator[Any]) -> Iterator[Any]:
        """Takes what there is, thinks for three turns, and answers it."""
        while True:
            held = list(iter(lambda: next(feed), None))
            yield from [None] * (3 if held else 1)
            for request in held:
                yield from answers._written(request)

    Runner(store, Heard(), answers.streams() | {Lane.WRITE: late}, Limits()).run(
        PROBLEMS[:1], owes, Ending()
    )
    under_way = [count for count in told if count]
    assert under_way[:3] == [2, 2, 2]
    assert max(under_way) == 4  # two to score and two to judge


def test_answers_are_durable_before_they_are_counted(store: Store) -> None:
    class Witness(Watch):
        def arrived(self, outcome: str, tokens: int) -> None:
            super().arrived(outcome, tokens)
            stored = sum(store.counts().values())
            assert stored >= self.answers.total()

    watch = Witness()
    go(store, Answers(), watch)
    assert watch.answers.total() == sum(store.counts().values()) == 3 * 60
    assert watch.tokens == store.totals().spent == 5 * 60


def test_an_engine_with_enough_to_do_does_not_keep_its_answers_to_itself(store: Store) -> None:
    """One that waits for its own answers as long as it may: until its source says None."""
    seen: list[int] = []

    def patient(feed: Iterator[Any]) -> Iterator[Any]:
        paused, held = False, []
        for request in feed:
            if request is None:
                paused = True
            else:
                held.append(request)
            if len(held) == 2 or (request is None and held):
                yield from answers._written(held.pop(0))
            if paused:
                seen.append(store.counts().get("draw", 0))
                yield None

    answers = Answers(patience=0)
    streams = answers.streams() | {Lane.WRITE: patient}
    Runner(store, Watch(), streams, Limits()).run(PROBLEMS, owes, Ending())
    assert seen[0] == 0
    # what it has written is stored while it still has a full queue before it
    assert 0 < seen[6] <= 12


# --- stopping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [EngineError("gone"), KeyboardInterrupt(), MemoryError()])
def test_what_came_before_an_error_is_stored_and_streams_are_closed(
    store: Store, error: BaseException
) -> None:
    answers = Answers(patience=0)

    def poisoned(feed: Iterator[Any]) -> Iterator[Any]:
        for number, answer in enumerate(answers.streams()[Lane.WRITE](feed)):
            if number == 7:
                raise error
            yield answer

    streams = answers.streams() | {Lane.WRITE: poisoned}
    with pytest.raises(type(error)):
        Runner(store, Watch(), streams, Limits()).run(PROBLEMS, owes, Ending())
    assert len(records(store)["draw"]) == 7 - 1  # the first answer was None
    assert answers.closed == set(answers.closed) >= {Lane.WRITE}
    assert store.totals().spent == 5 * 6
    assert store.claimed() == 20 - 6
    assert store.release_claims() == 14
    again = Answers()
    go(store, again)
    assert Counter(name for lane, name in again.asked if lane is Lane.WRITE)["p0-0"] <= 1
    assert len(records(store)["draw"]) == 60
    assert store.claimed() == 0


def test_an_answer_that_cannot_be_read_loses_none_before_it(store: Store) -> None:
    def poison(found: Found) -> Iterator[Request]:
        for request in owes(found):
            if request.keys[0] == "p4-0-0":
                yield Request(request.lane, "draw", request.keys, request.ask, unreadable)
            else:
                yield request

    def unreadable(answer: Any) -> Any:
        raise ValueError("no text")

    answers = Answers(patience=0)
    with pytest.raises(ValueError, match="no text"):
        Runner(store, Watch(), answers.streams(), Limits()).run(PROBLEMS, poison, Ending())
    # the engine answers in reverse: p9 … p5 came before it
    assert {key[:2] for key in records(store)["draw"]} == {"p5", "p6", "p7", "p8", "p9"}
    assert len(records(store)["draw"]) == 10
    assert answers.closed == {Lane.WRITE}


def test_a_stream_that_ends_with_answers_owed_is_an_error_and_no_endless_wait(
    store: Store,
) -> None:
    def short(feed: Iterator[Any]) -> Iterator[Any]:
        answers, number = Answers(patience=0), 0
        for answer in answers.streams()[Lane.WRITE](feed):
            yield answer
            number += answer is not None
            if number == 5:
                return

    streams = Answers().streams() | {Lane.WRITE: short}
    with pytest.raises(EngineError, match="ended with 15 answers owed"):
        Runner(store, Watch(), streams, Limits()).run(PROBLEMS, owes, Ending())
    assert len(records(store)["draw"]) == 5


def test_failures_beyond_their_share_stop_with_their_causes_and_stay_stored(store: Store) -> None:
    def fails(name: str) -> str | None:
        return "timed out" if int(name[1]) % 3 != 1 else None

    with pytest.raises(TooManyFailuresError, match=r"of \d\d items failed: \d+ × timed out"):
        go(store, Answers(fails=fails), failed_share=0.5)
    assert len(records(store)["draw"]) == 20
    go(store, Answers(), failed_share=0.5)
    assert all(draw.error is None for draw in records(store)["draw"].values())


def test_a_few_failures_stay_with_their_reason_and_stop_nothing(store: Store) -> None:
    def fails(name: str) -> str | None:
        return "timed out" if name == "p3-1" else None

    watch = Watch()
    assert len(go(store, Answers(fails=fails), watch)) == len(PROBLEMS)
    failed = {key for key, draw in records(store)["draw"].items() if draw.error}
    assert failed == {"p3-1-0", "p3-1-1"}
    again = Answers()
    go(store, again)  # its cause may have been mended: these two alone are asked again
    assert [name for lane, name in again.asked if lane is Lane.WRITE] == ["p3-1"]


def test_the_token_cap_counts_what_earlier_processes_spent(store: Store) -> None:
    go(store, Answers(), problems=PROBLEMS[:4])
    assert store.totals().spent == 120
    answers = Answers()
    with pytest.raises(TokenCapError):
        go(store, answers, problems=PROBLEMS[4:], teacher_tokens=120)
    assert answers.asked == []
    with pytest.raises(TokenCapError):
        go(store, answers, problems=PROBLEMS[4:], teacher_tokens=125)
    assert store.totals().spent == 120 + 60  # what was in flight when the cap was reached
    assert store.totals().spent == 5 * len(records(store)["draw"])
    go(store, Answers(), teacher_tokens=10_000)
    assert store.totals().spent == 300


def test_a_reached_cap_forbids_writing_and_nothing_else(store: Store) -> None:
    with pytest.raises(TokenCapError):
        go(store, Answers(), teacher_tokens=1)
    found = records(store)
    assert len(found["draw"]) == len(found["score"]) == len(found["check"]) == 20
    assert store.claimed() == 0


def test_each_lane_is_timed_by_its_own_tokens(store: Store) -> None:
    runner = Runner(store, Watch(), Answers().streams(), Limits())
    runner.run(PROBLEMS, owes, Ending())
    assert runner.work[Lane.WRITE][0] == 5 * 60
    assert runner.work[Lane.SCORE][0] == 3 * 60
    assert all(seconds > 0 for _, seconds in runner.work.values())


def test_one_engine_that_writes_and_scores_serves_both_in_turn(store: Store) -> None:
    """Scores come while later traces are still being written."""
    answers = Answers(patience=0)

    def one_by_one(lane: Lane, make: Callable[[Any], Iterable[Any]]) -> Any:
        def stream(feed: Iterator[Any]) -> Iterator[Any]:
            for request in feed:
                if request is not None:
                    yield from make(request)
                yield None

        return stream

    streams = {
        Lane.WRITE: one_by_one(Lane.WRITE, answers._written),
        Lane.SCORE: one_by_one(Lane.SCORE, answers._scored),
        Lane.VERIFY: answers.streams()[Lane.VERIFY],
    }
    Runner(store, Watch(), streams, Limits()).run(PROBLEMS, owes, Ending())
    lanes = [lane for lane, _ in answers.asked]
    first_score, last_write = lanes.index(Lane.SCORE), len(lanes) - lanes[::-1].index(Lane.WRITE)
    assert first_score < 8
    assert last_write > len(lanes) // 2
