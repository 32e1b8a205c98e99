"""Runs that stop early: caps, failing engines, a full disk. Each says why, and goes on later."""

import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.scripted_run import (
    ScriptedRun,
    extreme,
    row,
    small_batches,
    small_disk,
    unaided,
)

from heal.engines.base import Generated
from heal.engines.scripted import ScriptedEngine
from heal.errors import CapabilityError, TooManyFailuresError, UserError
from heal.records import Check, Finish, HintDraw, Trace, Verdict
from heal.runner import TokenCapError
from heal.store import Store, TraceRow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    run = ScriptedRun(tmp_path_factory.mktemp("undisturbed"))
    run.go()
    return run


def test_the_token_cap_stops_cleanly_and_a_higher_one_goes_on(
    tmp_path: Path, undisturbed: ScriptedRun
) -> None:
    run = ScriptedRun(tmp_path)
    with small_batches(1):
        with pytest.raises(TokenCapError, match=r"limits\.teacher_tokens = 9,000") as caught:
            run.go("limits.teacher_tokens=9000")
        assert caught.value.exit_code == 1
        assert run.meta("stopped") == str(caught.value)
        drawn = run.stored()["sample"]
        assert 9000 <= spent(run) < 9000 + 400
        with pytest.raises(TokenCapError):
            run.go("limits.teacher_tokens=9000")
        assert run.stored()["sample"] == drawn
    run.go()
    assert run.live() == undisturbed.live()
    assert run.claims() == 0


def spent(run: ScriptedRun) -> int:
    """Teacher tokens by the records themselves."""
    draws = run.everything("hint_draw", HintDraw).values()
    total = sum(draw.new_tokens for draw in draws)
    for stage in ("sample", "hinted", "repair"):
        total += sum(trace.new_tokens for trace in run.everything(stage, Trace).values())
    return total


def test_what_two_arms_share_counts_once_towards_the_cap(tmp_path: Path) -> None:
    settings = {"arms": ["heal", "heal-random-cut"]}
    run = ScriptedRun(tmp_path / "capped", extreme("plums"), settings)
    free = ScriptedRun(tmp_path / "free", extreme("plums"), settings)
    free.go()
    assert 5 < len(free.everything("hint_draw", HintDraw)) < 10
    with Store.open(free.folder, write=False) as store:
        assert store.totals().spent == spent(free)
    run.go(f"limits.teacher_tokens={spent(free)}")
    assert run.live() == free.live()
    with pytest.raises(TokenCapError), small_batches(1):
        ScriptedRun(tmp_path / "short", extreme("plums"), settings).go(
            f"limits.teacher_tokens={spent(free) - 1000}"
        )


def test_a_reached_cap_forbids_writing_and_nothing_else(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    run.go(until="sample")
    cap = f"limits.teacher_tokens={spent(run)}"
    run.go(cap, until="locate")  # verdicts and scores cost no teacher token
    assert len(run.stored()["scores"]) == 5
    before = run.stored()
    with pytest.raises(TokenCapError):
        run.go(cap)
    # what a checker says of an easy problem's traces costs no teacher token either
    assert run.stored() == before | {"stepwords": {"words"}}
    assert run.claims() == 0


def test_too_many_failures_stop_with_their_causes(tmp_path: Path) -> None:
    broken = unaided("figs", error="connection refused")
    slow = unaided("nuts", error="timed out")
    parts = [row("figs"), row("nuts")], [broken, slow]
    run = ScriptedRun(tmp_path, parts, {"sampling": {"n": 15}})
    causes = "20 of 20 items failed: 15 × connection refused; 5 × timed out"
    with pytest.raises(TooManyFailuresError, match=causes) as caught, small_batches(5):
        run.go()
    assert "run the same command again" in (caught.value.hint or "")
    assert run.meta("stopped") == str(caught.value)
    assert len(run.stored()["sample"]) == 20


def flaky(monkeypatch: pytest.MonkeyPatch, bad: Any) -> None:
    """Makes replies fail for which `bad(how many so far)`."""
    reply = ScriptedEngine._reply
    asked = Counter[str]()

    def answer(self: ScriptedEngine, request: Any, index: int, seed: int) -> Generated:
        asked["replies"] += 1
        if bad(asked["replies"]):
            none = np.zeros(0, np.int32)
            return Generated(request.id, index, none, Finish.ERROR, "connection refused")
        return reply(self, request, index, seed)

    monkeypatch.setattr(ScriptedEngine, "_reply", answer)


def test_what_failed_is_tried_again_when_the_cause_is_mended(
    tmp_path: Path, undisturbed: ScriptedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ScriptedRun(tmp_path)
    with monkeypatch.context() as patch, small_batches(1):
        flaky(patch, lambda n: n > 10)
        with pytest.raises(TooManyFailuresError, match="11 of 21 items failed"):
            run.go()
    run.go()
    assert run.live() == undisturbed.live()
    assert run.stored() == undisturbed.stored()


def test_a_few_failures_are_tried_again_on_the_next_run(
    tmp_path: Path, undisturbed: ScriptedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ScriptedRun(tmp_path)
    with monkeypatch.context() as patch:
        flaky(patch, lambda n: n % 10 == 0)
        watch = run.go(until="verify")
    assert "12 error" in watch.lines["sample"]
    assert "12 unverifiable" in watch.lines["verify"]
    before = run.stored()
    run.go()
    assert {stage for stage in before if run.stored()[stage] - before[stage]} == {"check"}
    assert len(run.stored()["check"] - before["check"]) == 12 + 18  # and of assisted traces
    with Store.open(run.folder, write=False) as store:
        assert store.totals().replaced == 12
    assert run.live() == undisturbed.live()


def test_failures_in_many_small_rounds_stop_the_run_too(tmp_path: Path) -> None:
    rows, rules = extreme("plums", repairs={"nothing": ["nothing"]})
    run = ScriptedRun(tmp_path, (rows, rules))
    with pytest.raises(TooManyFailuresError, match=r"20 of 20 items failed: .*no rule matches"):
        run.go("gear.candidates=20")
    # rounds of 5, 10 and 20: the third brings more than a few
    assert len(run.stored()["repair"]) == 35


def test_a_full_disk_stops_with_a_message_and_goes_on_when_there_is_space(
    tmp_path: Path, undisturbed: ScriptedRun
) -> None:
    run = ScriptedRun(tmp_path)
    with (
        small_disk(),
        small_batches(),
        pytest.raises(UserError, match="no disk space left") as caught,
    ):
        run.go()
    assert caught.value.exit_code == 2
    assert "run the same command again" in (caught.value.hint or "")
    assert 0 < len(run.stored()["sample"]) < 120
    run.go()
    assert run.live() == undisturbed.live()


def test_a_disk_that_fills_up_at_commit_leaves_no_open_transaction(tmp_path: Path) -> None:
    class Full:
        """A connection whose COMMIT finds the disk full once."""

        def __init__(self, inner: sqlite3.Connection) -> None:
            self.inner, self.full = inner, True

        def execute(self, query: str, *args: Any) -> Any:
            if query == "COMMIT" and self.full:
                self.full = False
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorname = "SQLITE_FULL"
                raise error
            return self.inner.execute(query, *args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    check = Check("t", Verdict.CORRECT)
    with Store.open(tmp_path / "run") as store:
        store._database = Full(store._database)  # type: ignore[assignment]
        with pytest.raises(UserError, match="no disk space left"):
            store.put("check", "a", "p", check)
        store.put("check", "b", "p", check)
        assert store.counts() == {"check": 1}
        assert store.get("check", "b", "p", Check) == check


def test_a_teacher_that_cannot_score_is_refused_before_a_token_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ScriptedEngine.__init__

    def mute(self: ScriptedEngine, *given: Any, **named: Any) -> None:
        opened(self, *given, **named)
        self.capabilities = replace(self.capabilities, score=False)

    monkeypatch.setattr(ScriptedEngine, "__init__", mute)
    run = ScriptedRun(tmp_path)
    with pytest.raises(CapabilityError, match="log-probs of a given text") as caught:
        run.go()
    assert "scorer:" in str(caught.value.hint)
    assert not run.folder.exists()
    run.go(until="verify")
    assert run.stored()["sample"]


def test_verdicts_that_took_too_long_are_judged_again_where_that_is_asked_for(
    tmp_path: Path, undisturbed: ScriptedRun, code_allowed: None
) -> None:
    (tmp_path / "moody_judge.py").write_text(
        "import time\nfrom pathlib import Path\n"
        "from heal.method.final_answers import extract_answer, same_text\n"
        "def check(text, answer):\n"
        f"    if Path({str(tmp_path / 'busy')!r}).exists() and 'wide baskets' in text:\n"
        "        time.sleep(60)\n"
        "    return same_text(extract_answer(text) or '', answer)\n"
    )
    own = {"verifier": "moody_judge:check", "verify_timeout_s": 0.5}
    run = ScriptedRun(tmp_path, settings={"problems": own})
    (tmp_path / "busy").touch()
    run.go()
    assert verdicts(run)[Verdict.UNVERIFIABLE] > 0
    (tmp_path / "busy").unlink()
    run.go()
    assert "complete, nothing to do" in run.watch.said[-1]
    drawn = run.stored()["sample"]
    run.go("limits.retry_unverifiable=true")
    assert verdicts(run) == verdicts(undisturbed)
    assert run.stored()["sample"] == drawn
    run.go("limits.retry_unverifiable=true")
    assert "complete, nothing to do" in run.watch.said[-1]


def verdicts(run: ScriptedRun) -> Counter[str]:
    """Of all traces that count."""
    return Counter(str(trace.verdict) for trace in run.rows(TraceRow))
