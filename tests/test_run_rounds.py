"""Runs that draw in rounds: sampling until a stratum is decided."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_run import (
    Crash,
    ScriptedRun,
    dying_in,
    easy,
    hard,
    row,
    small_batches,
    strata,
    unaided,
    world,
)

from heal.engines.base import Generated
from heal.engines.scripted import ScriptedEngine
from heal.records import Split, Stratum, Trace
from heal.store import ProblemRow, TraceRow

ADAPTIVE = "sampling.adaptive=true"


@pytest.fixture
def paid(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Replies that scripted engines wrote."""
    count: Counter[str] = Counter()
    reply = ScriptedEngine._reply

    def counted(self: ScriptedEngine, *args: Any) -> Generated:
        count["replies"] += 1
        return reply(self, *args)

    monkeypatch.setattr(ScriptedEngine, "_reply", counted)
    return count


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    run = ScriptedRun(
        tmp_path_factory.mktemp("adaptive"), settings={"sampling": {"adaptive": True}}
    )
    run.go()
    return run


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    run = ScriptedRun(tmp_path_factory.mktemp("fixed"))
    run.go()
    return run


def drawn(run: ScriptedRun) -> dict[str, int]:
    """Unaided traces by the problem's noun."""
    nouns = run.nouns()
    found = Counter(nouns[row.problem] for row in run.rows(TraceRow, "stage='sample'"))
    assert {nouns[row.problem]: row.n for row in run.rows(ProblemRow)} == found
    return found


def test_clear_problems_are_sampled_less_and_land_in_the_same_strata(
    adaptive: ScriptedRun, fixed: ScriptedRun
) -> None:
    assert strata(adaptive) == strata(fixed)
    assert drawn(fixed) == {"apples": 40, "pears": 40, "plums": 40}
    counts = drawn(adaptive)
    assert counts["apples"] == 7
    assert counts["apples"] < counts["pears"] < counts["plums"] == 35


def test_the_traces_drawn_are_the_first_of_the_fixed_plan(
    adaptive: ScriptedRun, fixed: ScriptedRun
) -> None:
    plan = {t.key: t.seed_index for t in fixed.read("sample", Trace)}
    for noun, count in drawn(adaptive).items():
        nouns = adaptive.nouns()
        own = [t for t in adaptive.read("sample", Trace) if nouns[t.problem_id] == noun]
        assert sorted(plan[t.key] for t in own) == list(range(count))


def test_what_was_saved_and_its_error_are_counted_facts(adaptive: ScriptedRun) -> None:
    facts = adaptive.meta("facts")
    risk = "each stratum differs from that of 40 traces with probability ≤ 0.05"
    assert facts[f"problems sampled until decided: {risk}"] == 3
    left = 120 - sum(drawn(adaptive).values())
    assert facts["traces not drawn because their problem was decided"] == left
    (saved,) = [n for text, n in facts.items() if text.startswith("teacher tokens saved")]
    assert 50 * left < saved < 500 * left
    assert "3 problems, 3 decided early" in adaptive.watch.lines["sample"]


def test_switching_it_off_draws_only_what_was_left_out(
    tmp_path: Path, fixed: ScriptedRun, paid: Counter[str]
) -> None:
    run = ScriptedRun(tmp_path)
    run.go(ADAPTIVE, until="verify")
    first = sum(drawn(run).values())
    assert paid["replies"] == first < 120
    run.go(until="verify")
    assert paid["replies"] == 120
    run.go()
    assert run.live() == fixed.live()
    paid.clear()
    run.go(ADAPTIVE, until="verify")
    assert sum(drawn(run).values()) == first
    assert paid == {}


def test_sampling_alone_judges_as_far_as_it_must_to_decide(
    tmp_path: Path, adaptive: ScriptedRun
) -> None:
    run = ScriptedRun(tmp_path, settings={"sampling": {"adaptive": True}})
    watch = run.go(until="sample")
    assert drawn(run) == drawn(adaptive)
    assert "3 problems, 3 decided early" in watch.lines["sample"]
    run.go()
    assert run.live() == adaptive.live()


def test_dying_while_sampling_until_decided_changes_nothing(
    tmp_path: Path, adaptive: ScriptedRun
) -> None:
    run = ScriptedRun(tmp_path, settings={"sampling": {"adaptive": True}})
    lives = 0
    for writes in range(8, 100):
        try:
            with small_batches(), dying_in(writes, "within"):
                run.go()
            break
        except Crash:
            lives += 1
    assert lives > 5
    assert run.live() == adaptive.live()
    assert run.stored() == adaptive.stored()


def test_held_out_problems_get_their_fixed_number(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()  # nobody opens it before it is trained
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "student" / name).write_text("{}")
    settings = {
        "student": {"model": "student"},
        "problems": {"held_out": 0.4},
        "evaluate": {"teacher_n": 12},
        "sampling": {"adaptive": True},
    }
    parts = world(*map(easy, ("apples", "melons", "limes", "dates", "plums")))
    run = ScriptedRun(tmp_path, parts, settings)
    run.go(until="verify")
    split = run.split()
    assert set(split.values()) == set(Split)
    for found in run.rows(ProblemRow):
        assert found.n == (12 if split[found.problem] is Split.HELD_OUT else 7)
        assert found.stratum == Stratum.EASY
    run.go("student=null", until="verify")
    for found in run.rows(ProblemRow):  # nobody needs the held-out ones any more
        assert found.n == (0 if split[found.problem] is Split.HELD_OUT else 7)
    assert {split[row.problem] for row in run.rows(TraceRow)} == {Split.TRAIN}


def test_truncated_problems_stop_early_too(tmp_path: Path) -> None:
    cut_off = unaided("limes", "I go on and on", truncated=True)
    parts = world(easy("apples"), ([row("limes")], [cut_off]))
    run = ScriptedRun(tmp_path, parts, {"sampling": {"adaptive": True}})
    run.go(until="verify")
    assert strata(run)["limes"] is Stratum.TRUNCATED
    assert drawn(run)["limes"] == 7


def test_a_problem_nobody_can_judge_is_never_decided_early(tmp_path: Path) -> None:
    broken = unaided("figs", error="out of memory")
    parts = world(easy("apples"), hard("pears"), ([row("figs")], [broken]))
    run = ScriptedRun(tmp_path, parts, {"sampling": {"adaptive": True, "n": 12}})
    run.go("limits.failed_share=1", until="verify")
    assert drawn(run)["figs"] == 12
    assert strata(run)["figs"] is Stratum.UNDETERMINED
