"""Progress without a terminal: plain lines, the first within seconds."""

import io
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from heal.cli.progress import ConsoleObserver
from heal.config import Pace
from heal.records import StagePlan, TrainResult
from heal.run import Run


@dataclass
class Clock:
    """The time of day, in seconds, as the test sets it."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the observer reads the time from."""
    own = Clock()
    monkeypatch.setattr("heal.cli.progress.time", own)
    return own


def watching(width: int = 80, **console: Any) -> tuple[ConsoleObserver, io.StringIO]:
    """An observer, and what it writes."""
    written = io.StringIO()
    return ConsoleObserver(Console(file=written, width=width, **console)), written


def test_plain_lines_come_after_3_seconds_and_then_every_15(clock: Clock) -> None:
    observer, written = watching()
    observer.begin("sample", 100, "problems")
    seen = []
    for second in range(40):
        clock.now = 100.0 + second
        observer.advance()
        seen.append(written.getvalue().count("\n"))
    lines = [second for second, (a, b) in enumerate(zip([0, *seen], seen, strict=False)) if b > a]
    assert lines == [3, 18, 33]
    assert written.getvalue().splitlines()[0] == "sample    4 of 100 problems · about 0:01:12 left"


def test_a_slow_engine_is_heard_of_before_its_first_answer(clock: Clock) -> None:
    observer, written = watching()
    observer.begin("problems", 29, "problems")
    for _ in range(600):
        clock.now += 0.1
        observer.waiting(111)
    observer.arrived("done", 300)
    clock.now += 20
    observer.waiting(110)
    lines = written.getvalue().splitlines()
    assert lines[:4] == ["problems  0 of 29 problems · 111 answers under way"] * 4
    assert lines[4:] == ["problems  0 of 29 problems · 0.8 answers/min · 4 tok/s"]


def test_a_stage_that_another_interrupts_is_timed_as_a_whole(clock: Clock) -> None:
    observer, written = watching()
    for round_ends in (130.0, 160.0):
        for name in ("train", "rehearse", "train"):
            observer.begin(name, 9)
            clock.now += 10
        assert clock.now == round_ends
        observer.end("train", "done")
    assert written.getvalue() == "train     done · 30.0 s\n" * 2


def test_what_is_left_of_an_interrupted_stage_is_judged_by_all_of_it(clock: Clock) -> None:
    observer, written = watching()
    observer.begin("train", 100, "steps")
    clock.now += 40
    observer.advance(20)
    observer.begin("rehearse", 5, "attempts")
    clock.now += 500
    observer.begin("train", 100, "steps")
    observer.stored(20)
    clock.now += 4  # the student is read again before its first step
    observer.advance()
    assert written.getvalue().splitlines() == [
        "train     20 of 100 steps · about 0:02:40 left",
        "train     21 of 100 steps · about 0:02:46 left",
    ]


def test_on_a_terminal_what_was_stored_does_not_count_as_speed(clock: Clock) -> None:
    observer, written = watching(width=120, force_terminal=True)
    observer.begin("sample", 1000, "problems")
    observer.stored(900)
    clock.now += 60
    observer.advance(2)
    observer.close()
    assert "902/1000" in written.getvalue()
    assert "about 0:49:00 left" in written.getvalue()


class Told:
    """An observer that counts steps."""

    def __init__(self) -> None:
        self.old = self.new = 0

    def stored(self, count: int) -> None:
        self.old += count

    def advance(self, count: int = 1) -> None:
        self.new += count


def result(arm: str, stage: int) -> TrainResult:
    return TrainResult(
        key="", arm=arm, seed=0, stage=stage, folder="", steps=4, tokens=0, presentations=0,
        distinct=0, refused_long=0, loss_first=0.0, loss_last=0.0, learning_rate=0.0, seconds=0.0,
    )  # fmt: skip


def test_steps_of_an_earlier_start_count_as_done() -> None:
    told = Told()
    session = SimpleNamespace(observer=told, config=SimpleNamespace(pace=Pace()))
    run = Run(session)  # type: ignore[arg-type]
    stages = tuple(StagePlan(i, (("t",),) * 4, 1.0) for i in (1, 2, 3))
    run.plans = {("rft", 0): stages, ("heal", 0): stages, ("heal", 1): stages}
    for stage in (1, 2, 3):  # all of it was trained earlier
        run.stage_over(result("rft", stage))
    assert (told.old, told.new) == (12, 0)
    run.stage_over(result("heal", 1))  # the first stage was, and two steps of the second
    for step in (7, 8):
        run.trained(step, 12, 1.0)
    assert (told.old, told.new) == (12 + 6, 2)
    run.stage_over(result("heal", 2))
    for step in range(9, 13):
        run.trained(step, 12, 1.0)
    run.stage_over(result("heal", 3))
    assert (told.old, told.new) == (18, 6)
    run.trained(1, 12, 1.0)  # the next student begins anew
    assert (told.old, told.new) == (18, 7)
