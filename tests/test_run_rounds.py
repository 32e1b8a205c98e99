"""Runs that draw in rounds: sampling until decided, and repairs where they pay."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_run import (
    ANSWER,
    HINT,
    WAYS,
    ScriptedRun,
    World,
    easy,
    extreme,
    failed,
    hard,
    hinted,
    honest,
    kill,
    row,
    scores,
    steps,
    strata,
    unaided,
    world,
)

from heal.engines.base import Generated
from heal.engines.scripted import ScriptedEngine
from heal.execute import first_stage
from heal.records import Ceiling, Cut, Gate, GateResult, Hint, HintKind, Split, Stratum, Trace
from heal.store import Store

ADAPTIVE = "sampling.adaptive=true"
BANDIT = {"gear": {"budget": "bandit", "candidates": 20}}


class Crash(BaseException):
    """Stands for the power going: nothing in HEAL catches it."""


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


def dying_every(writes: int, run: ScriptedRun, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run until it ends although it dies every so many writes; how often it died."""
    left = 0

    def dying(name: str) -> None:
        method = getattr(Store, name)

        def write(self: Store, *args: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return method(self, *args)

        monkeypatch.setattr(Store, name, write)

    for name in ("put", "put_many", "claim"):
        dying(name)
    for lives in range(200):
        left = writes
        try:
            run.go()
        except Crash:
            continue
        return lives
    raise AssertionError("it never ends")


# --- sampling until decided --------------------------------------------------------------------


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
    assert run.view is not None
    nouns = {p.id: p.problem.split()[2] for p in run.view.problems}
    return Counter(nouns[t.problem_id] for t in run.read("sample", Trace))


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
        nouns = {p.id: p.problem.split()[2] for p in adaptive.view.problems}  # type: ignore[union-attr]
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
    assert adaptive.view is not None
    assert risk in " ".join(fact.text for fact in adaptive.view.facts)


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


def test_dying_while_sampling_until_decided_changes_nothing(
    tmp_path: Path, adaptive: ScriptedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ScriptedRun(tmp_path, settings={"sampling": {"adaptive": True}})
    assert dying_every(40, run, monkeypatch) > 5
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
    assert run.view is not None
    held_out = {p.id: p.split is Split.HELD_OUT for p in run.view.problems}
    assert set(held_out.values()) == {True, False}
    for found in run.read("ceiling", Ceiling):
        assert found.n == (12 if held_out[found.problem_id] else 7)
        assert found.stratum is Stratum.EASY


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


# --- repairs where they pay --------------------------------------------------------------------


def stubborn(name: str) -> World:
    """Never solved; a guided hint never helps, the bare answer always does."""
    repair = rf"many {name} .*Hint: %s.*<assistant>First I look at the (\w+) "
    wrong = steps("I carry on as I did before, one more time.", "So \\boxed{99}.")
    rules = [
        {"match": rf"A student is solving.*many {name} ", "replies": [HINT]},
        {"match": repair % "Remember", "replies": [wrong]},
        {"match": repair % "The final", "replies": [honest(way) for way in WAYS]},
        hinted(name),
        unaided(name, *(failed(name, way) for way in WAYS)),
    ]
    return [row(name)], [*rules, *scores(name)]


NAMES = ("plums", "figs", "nuts", "limes", "dates", "kiwis")


@pytest.fixture(scope="module")
def bandit(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    parts = world(easy("apples"), *map(stubborn, NAMES))
    run = ScriptedRun(tmp_path_factory.mktemp("bandit"), parts, BANDIT)
    run.go()
    return run


def passed(run: ScriptedRun) -> set[str]:
    return {g.trace for g in run.read("gate", GateResult) if g.gate is Gate.PASSED}


def test_the_bandit_turns_to_the_hint_that_works(bandit: ScriptedRun) -> None:
    hints = {h.key: h for h in bandit.read("hint", Hint)}
    asked = Counter(hints[t.hint or ""].asked for t in bandit.read("repair", Trace))
    assert set(asked) == {HintKind.GUIDED, HintKind.ANSWER}
    assert asked[HintKind.ANSWER] > 2 * asked[HintKind.GUIDED]
    good = passed(bandit)
    repaired = Counter(t.problem_id for t in bandit.read("repair", Trace) if t.key in good)
    assert set(repaired.values()) == {8}
    assert len(repaired) == len(NAMES)


def test_no_prefix_gets_more_repairs_than_pace_can_use(bandit: ScriptedRun) -> None:
    good = passed(bandit)
    cuts = Counter(t.cut for t in bandit.read("repair", Trace) if t.key in good)
    assert max(cuts.values()) <= 2


def test_a_hint_is_only_written_for_a_way_that_is_tried(bandit: ScriptedRun) -> None:
    hints = {h.key for h in bandit.read("hint", Hint)}
    assert hints == {t.hint for t in bandit.read("repair", Trace)}
    assert bandit.watch.lines["guide"] == "hints are written when the bandit asks for them"


def test_both_cuts_of_a_path_are_tried_and_recorded(bandit: ScriptedRun) -> None:
    cuts, kept = {c.key: c for c in bandit.read("cut", Cut)}, set()
    for trace in bandit.read("repair", Trace):
        cut = cuts[trace.cut or ""]
        assert (trace.parent, trace.prefix_tokens) == (cut.trace, cut.prefix_tokens)
        assert cut.step == 3
        kept.add(1 + cut.step_ends.index(cut.prefix_tokens))
    assert kept == {1, 2}


def test_what_the_bandit_drew_is_counted_by_kind(bandit: ScriptedRun) -> None:
    facts = bandit.meta("facts")
    found = {text: n for text, n in facts.items() if text.startswith("repairs drawn by the bandit")}
    assert sum(found.values()) == len(bandit.read("repair", Trace))
    assert all(re.search(r"with (guided|answer) hint, back up [12]$", text) for text in found)


def test_the_bandit_stays_within_the_fixed_plans_cap(tmp_path: Path) -> None:
    wrong = steps("I carry on as I did before, one more time.", "So \\boxed{99}.")
    parts = extreme("plums", repairs={way: [wrong] for way in WAYS})
    run = ScriptedRun(tmp_path, parts, {"gear": {"budget": "bandit", "candidates": 3}})
    watch = run.go()
    assert len(run.read("repair", Trace)) == 5 * 3
    assert "0 of 1 problems repaired" in watch.lines["repair"]
    assert watch.arrived["repair"] <= watch.totals["repair"]


def test_hints_that_fall_back_to_the_same_words_share_their_draws(tmp_path: Path) -> None:
    parts = extreme("plums", hints=[f"It is {ANSWER}, you see."])
    run = ScriptedRun(
        tmp_path, parts, {"gear": {"budget": "bandit", "candidates": 6, "target": 20}}
    )
    run.go()
    traces = run.read("repair", Trace)
    facts = run.meta("facts")
    assert len(traces) == sum(n for text, n in facts.items() if "drawn by the bandit" in text)
    assert {h.kind for h in run.read("hint", Hint)} == {HintKind.ANSWER}
    assert len({h.asked for h in run.read("hint", Hint)}) == 2
    for cut in {t.cut for t in traces}:
        own = sorted(t.seed_index for t in traces if t.cut == cut)
        assert own == list(range(len(own)))


def test_a_bandit_that_dies_every_few_writes_comes_to_the_same_end(
    tmp_path: Path, bandit: ScriptedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ScriptedRun(tmp_path, bandit.world, BANDIT)
    assert dying_every(97, run, monkeypatch) > 5
    assert run.live() == bandit.live()
    assert run.stored() == bandit.stored()


def test_kill_nine_among_the_bandits_rounds_comes_to_the_same_end(
    tmp_path: Path, bandit: ScriptedRun
) -> None:
    run = ScriptedRun(tmp_path, bandit.world, BANDIT)
    kill(run.home, "repair", 60)
    run.go()
    assert run.live() == bandit.live()


def test_going_back_to_the_fixed_plan_gives_the_fixed_plans_result(
    tmp_path: Path, fixed: ScriptedRun
) -> None:
    run = ScriptedRun(tmp_path)
    watch = run.go("gear.budget=bandit")
    assert run.live() != fixed.live()
    watch = run.go()
    assert watch.said == [
        "changed: gear.budget bandit → fixed; redoes what it reaches from 'guide' on"
    ]
    assert run.live() == fixed.live()
    assert first_stage("gear.bandit_hints") == "repair"


def test_controls_are_repaired_by_the_same_bandit(tmp_path: Path) -> None:
    settings = {"arms": ["heal", "heal-restart"], **BANDIT}
    run = ScriptedRun(tmp_path, world(easy("apples"), extreme("plums")), settings)
    run.go()
    with Store.open(run.folder, write=False) as store:
        lengths = {t.prefix_tokens for t in store.read("repair", Trace).values()}
    assert 0 in lengths
    assert len(lengths) > 1
