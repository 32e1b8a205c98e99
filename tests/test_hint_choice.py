"""`gear.hint: auto`: what is tried, what is chosen, and that nothing of it is drawn twice."""

import re
from typing import Any

import pytest
from tests.scripted_run import (
    ANSWER,
    WAYS,
    ScriptedRun,
    World,
    easy,
    extreme,
    failed,
    honest,
    steps,
    world,
)

from heal.method.hint_choice import Tried, choose_hint
from heal.records import HintKind
from heal.report.hint_words import choice_line, choice_sentence, read_choice
from heal.store import HintRow, Store, TraceRow

PLAN = "Carry the one into the tens before anything else."
TOLD = rf"The final answer is {ANSWER}"
NAMES = ("plums", "figs", "dates", "limes", "nuts", "kiwis")


def helped_by(name: str, hint: str) -> World:
    """An extreme problem whose failed paths are repaired under this hint alone."""
    rows, rules = extreme(name)
    bad = [failed(name, way).split("\n\n")[-1] for way in WAYS]
    under = [
        {
            "match": rf"many {name} .*Hint: {hint}.*<assistant>First I look at the {way} ",
            "replies": [honest(way)],
        }
        for way in WAYS
    ]
    others = [
        {
            "match": rf"many {name} .*Hint:.*<assistant>First I look at the {way} ",
            "replies": [steps(f"Then I go on in the {way} way as before.", said)],
        }
        for way, said in zip(WAYS, bad, strict=True)
    ]
    asked = [
        {"match": rf"many {name} .*List the steps that are still needed", "replies": [PLAN]},
        {
            "match": rf"A student.s solution has just.*many {name} ",
            "replies": ["Think again, carefully, step by step."],
        },
    ]
    return rows, [*asked, *under, *others, *rules]


SETTINGS: dict[str, Any] = {
    "gear": {"hint": "auto", "hint_probe": 4, "paths": 5, "candidates": 2, "hinted_samples": 1},
    "sampling": {"n": 10},
    "arms": ["base", "heal"],
}


def auto_run(home: Any, hint: str, **gear: Any) -> ScriptedRun:
    parts = world(easy("apples"), *(helped_by(name, hint) for name in NAMES))
    settings = {**SETTINGS, "gear": {**SETTINGS["gear"], **gear}}
    return ScriptedRun(home, parts, settings)


def test_the_kind_that_repairs_is_chosen_before_the_bulk_is_spent_and_said(tmp_path):
    run = auto_run(tmp_path, re.escape(PLAN))
    watch = run.go(until="select")
    with Store.open(run.folder, write=False) as store:
        choice = read_choice(store)
    assert choice is not None and (choice.kind, choice.problems) == (HintKind.PLAN, 4)
    assert watch.totals["probe"] == 4
    tried = {own.kind: own for own in choice.tried}
    # nothing to say: no solution, no sibling, and no equation that a checker could read
    assert set(tried) == {HintKind.ANSWER, HintKind.GUIDED, HintKind.PLAN, HintKind.DIAGNOSIS}
    assert tried[HintKind.PLAN].valid == tried[HintKind.PLAN].repairs == 4 * 3 * 2
    assert tried[HintKind.ANSWER].valid == 0
    assert (tried[HintKind.DIAGNOSIS].refused, tried[HintKind.DIAGNOSIS].fell_back) == (48, 12)
    assert watch.lines["probe"] == choice_line(choice)
    assert choice_sentence(choice) in watch.said
    assert choice_sentence(choice).startswith("Hints are of the kind plan, for it is shown to")
    told = {row.kind for row in run.rows(HintRow, "tag='difference'")}
    assert told == {"plan"}
    assert len(run.rows(TraceRow, "tag='difference' AND gate='passed'")) > 6 * 3


def test_the_probe_is_counted_once_and_its_repairs_serve_the_chosen_kind(tmp_path):
    run = auto_run(tmp_path, re.escape(PLAN))
    run.go(until="select")
    assert run.view is not None
    ledger = {row.name: row for row in run.view.stage_ledger}
    own = {row.key for row in run.rows(TraceRow, "tag='difference'")}
    tried = run.rows(TraceRow, "tag LIKE 'probe-%'")
    assert {row.key for row in tried if row.tag == "probe-plan"} <= own
    # what falls back to the answer asks for the very traces that the answer does
    wasted = sum({row.key: row.new_tokens for row in tried if row.key not in own}.values())
    hints = run.rows(HintRow, "tag LIKE 'probe-%' AND tag<>'probe-plan'")
    probed = ledger["trying kinds of hints"]
    assert probed.sampled == probed.wasted == wasted + sum(row.new_tokens for row in hints) > 0
    with Store.open(run.folder, write=False) as store:
        spent = store.totals().spent
    assert sum(row.sampled for row in run.view.stage_ledger) == spent


def test_running_again_neither_tries_nor_chooses_again(tmp_path):
    run = auto_run(tmp_path, re.escape(PLAN))
    run.go(until="repair")
    before, chosen = run.stored(), run.meta("hint_choice")
    watch = run.go(until="select")
    assert "probe" not in watch.totals and run.meta("hint_choice") == chosen
    assert run.stored()["repair"] == before["repair"]
    assert run.stored()["hint_draw"] == before["hint_draw"]


def test_an_interrupted_run_ends_as_an_undisturbed_one(tmp_path):
    whole, parts = auto_run(tmp_path / "a", TOLD), auto_run(tmp_path / "b", TOLD)
    whole.go(until="repair")
    for stage in ("sample", "locate", "repair"):
        parts.go(until=stage)
    assert whole.live() == parts.live()
    assert whole.meta("hint_choice")["kind"] == "answer"


def test_a_kind_named_by_the_recipe_tries_nothing_and_the_choice_is_said_no_more(tmp_path):
    run = auto_run(tmp_path, TOLD)
    run.go(until="repair")
    watch = run.go("gear.hint=guided", until="repair")
    assert "probe" not in watch.lines
    assert run.view is not None and run.view.hint_choice is None
    assert not run.rows(TraceRow, "tag LIKE 'probe-%'")


def tried(valid: list[int], tokens: list[int]) -> Tried:
    return Tried(tokens, valid, repairs=6 * len(valid))


@pytest.mark.parametrize(
    ("rival", "kind"),
    [
        (tried([1] * 8, [1000] * 8), HintKind.ANSWER),  # a tie
        (tried([2, 0] * 4, [1000] * 8), HintKind.ANSWER),  # no more on the whole
        (tried([2] * 8, [1000] * 8), HintKind.GUIDED),
        (tried([2] * 8, [2500] * 8), HintKind.ANSWER),  # more, at a higher price
        (tried([6, *[1] * 7], [1000] * 8), HintKind.ANSWER),  # one lucky problem
    ],
)
def test_another_kind_is_taken_only_where_it_is_shown_to_yield_more(rival, kind):
    choice = choose_hint(
        {HintKind.ANSWER: tried([1] * 8, [1000] * 8), HintKind.GUIDED: rival}, seed=0
    )
    assert choice.kind is kind and choice.problems == 8


def test_without_an_extreme_problem_the_answer_is_told():
    choice = choose_hint({}, seed=0)
    assert (choice.kind, choice.problems, choice.tried) == (HintKind.ANSWER, 0, ())
    assert "no extreme problem" in choice_line(choice)
