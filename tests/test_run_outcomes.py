"""What can become of a problem, a hint or a trace: every outcome has a name and is counted."""

import importlib
import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.scripted_run import (
    ANSWER,
    HINT,
    MAGIC,
    WAYS,
    ScriptedRun,
    Watch,
    World,
    counts,
    easy,
    extreme,
    failed,
    gates,
    hard,
    honest,
    miscounting,
    right,
    row,
    strata,
    unaided,
    world,
)

from heal.engines.scripted import ScriptedEngine
from heal.errors import CapabilityError
from heal.functions import edition
from heal.records import (
    Cut,
    Drop,
    Fallback,
    Gate,
    Hint,
    HintDraw,
    HintKind,
    PureScore,
    Stratum,
    TokenScores,
    Trace,
    Verdict,
)
from heal.report.exhibits import cut_note as _cut_note
from heal.report.exhibits import exhibit
from heal.report.figures import all_figures
from heal.report.html import render_html
from heal.report.load import load_view
from heal.stages.repair import rounds
from heal.store import HintRow, ScoreRow, SelectedRow, Store, TraceRow
from heal.view.index import Index
from heal.view.trace import open_story


def go(home: Path, parts: Any, *overrides: str) -> tuple[ScriptedRun, Watch]:
    run = ScriptedRun(home, parts)
    return run, run.go(*overrides)


def test_truncated_traces_put_a_problem_in_no_stratum(tmp_path: Path) -> None:
    cut_off = unaided("limes", "I go on and on", truncated=True)
    run, watch = go(tmp_path, world(easy("apples"), ([row("limes")], [cut_off])))
    assert strata(run) == {"apples": Stratum.EASY, "limes": Stratum.TRUNCATED}
    assert "40 truncated" in watch.lines["verify"]
    assert "0 extreme problems" in watch.lines["locate"]


def test_every_verdict_is_counted(tmp_path: Path) -> None:
    broken = unaided("figs", error="out of memory")
    silent = unaided("nuts", "I have no idea what to say.")
    cut_off = unaided("limes", "I go on and on", truncated=True)
    parts = [easy("apples"), hard("pears")]
    parts += [([row(n)], [r]) for n, r in (("figs", broken), ("nuts", silent), ("limes", cut_off))]
    run, watch = go(tmp_path, world(*parts))
    found = Counter(row.verdict for row in run.rows(TraceRow, "stage='sample'"))
    assert set(found) == set(Verdict)
    assert found.total() == 200
    for verdict in (Verdict.UNVERIFIABLE, Verdict.NO_ANSWER, Verdict.TRUNCATED):
        assert found[verdict] == 40
        assert f"40 {verdict.replace('_', ' ')}" in watch.lines["verify"]
    assert "40 error" in watch.lines["sample"]
    assert strata(run)["figs"] is Stratum.UNDETERMINED
    # no answer is judged and not correct, but no failed path to learn from either
    assert strata(run)["nuts"] is Stratum.EXTREME
    assert "1 extreme problem · 0 failed paths" in watch.lines["locate"]


def test_a_leaking_hint_is_redrawn_and_then_falls_back_to_the_answer(tmp_path: Path) -> None:
    leaky = extreme("plums", hints=[f"It is {ANSWER}, you see."])
    run, watch = go(tmp_path, leaky, "gear.hint_gate=false")
    hints = run.read("hint", Hint, "difference")
    assert len(hints) == len(WAYS)
    for hint in hints:
        assert (hint.kind, hint.asked, hint.leaks) == (HintKind.ANSWER, HintKind.GUIDED, 4)
        assert hint.text == f"The final answer is {ANSWER}."
        assert hint.new_tokens == 4 * (len(f"It is {ANSWER}, you see.") + 1)
    assert (
        watch.lines["guide"] == "5 hints: 5 answer for refused guided; 20 draws refused: 20 leaks"
    )
    drawn = run.everything("hint_draw", HintDraw)
    assert sorted(drawn) == sorted(f"{hint.key}-{n}" for hint in hints for n in range(4))


def test_a_hint_that_leaks_once_is_only_redrawn(tmp_path: Path) -> None:
    once = extreme("plums", hints=[f"It is {ANSWER}.", HINT, HINT, HINT])
    run, _ = go(tmp_path, once, "gear.hint_gate=false")
    hints = run.read("hint", Hint, "difference")
    assert any(h.leaks for h in hints)
    assert all(h.text == HINT for h in hints if h.kind is HintKind.GUIDED)
    assert any(h.leaks and h.kind is HintKind.GUIDED for h in hints)
    drawn = run.everything("hint_draw", HintDraw)
    for hint in hints:
        # no draw more than the first that passed
        assert sum(key.startswith(hint.key) for key in drawn) == min(hint.leaks + 1, 4)


@pytest.mark.parametrize(
    ("kind", "solution", "line"),
    [
        ("answer", None, "5 hints: 5 answer"),
        ("partial", "First pair the tens. Then the units. Then add.", "5 hints: 5 partial"),
        (
            "partial",
            f"{ANSWER} it is, by the tens.",
            "5 hints: 5 answer for refused partial",
        ),
        ("partial", None, "5 hints: 5 answer for missing partial"),
        ("sibling", None, "5 hints: 5 answer for missing sibling"),
    ],
)
def test_a_hint_that_needs_no_teacher_comes_from_what_there_is(
    tmp_path: Path, kind: str, solution: str | None, line: str
) -> None:
    rows, rules = extreme("plums")
    extra = {"solution": solution} if solution else {}
    run, watch = go(tmp_path, ([rows[0] | extra], rules), f"gear.hint={kind}")
    assert watch.lines["guide"] == line
    assert sum(h.new_tokens for h in run.read("hint", Hint, "difference")) == 0


def test_a_hint_the_engine_fails_on_falls_back_and_says_why(tmp_path: Path) -> None:
    rows, rules = extreme("plums")
    broken = {"match": "A student is solving", "error": "timed out"}
    run, watch = go(tmp_path, (rows, [broken, *rules]), "limits.failed_share=1")
    assert watch.lines["guide"] == "5 hints: 5 answer for failed guided"
    assert {(h.error, h.leaks) for h in run.read("hint", Hint, "difference")} == {("timed out", 0)}
    assert {row.failed for row in run.rows(HintRow, "tag='difference'")} == {1}
    run.write_script(rules)
    mended = run.go("teacher.model=./script.json", adopt=True)
    assert mended.lines["guide"] == "5 hints: 5 guided"


def short_failure(*lines: str) -> Any:
    name = "kiwis"
    said = "\n\n".join([*lines, "So \\boxed{7}."]) if lines else "It must be \\boxed{7}."
    hint = {"match": r"A student is solving.*many kiwis ", "replies": [HINT]}
    mend = {"match": r"many kiwis .*Hint:", "replies": [right(name, "tall")]}
    return [row(name)], [hint, mend, unaided(name, said)]


@pytest.mark.parametrize(
    ("lines", "fallback", "step"),
    [
        ((), Fallback.SINGLE_STEP, 1),
        (("A very long first step that is most of the whole trace.",), Fallback.EMPTY_WINDOW, 2),
        (("Some words here.",) * 6, Fallback.NO_SURGE, 2),
    ],
)
def test_a_trace_without_a_surge_is_cut_by_a_named_fallback(
    tmp_path: Path, lines: tuple[str, ...], fallback: Fallback, step: int
) -> None:
    run, watch = go(tmp_path, short_failure(*lines), "gear.paths=1")
    (cut,) = run.read("cut", Cut, "difference")
    assert (cut.fallback, cut.step) == (fallback, step)
    assert (cut.prefix_tokens == 0) == (fallback is Fallback.SINGLE_STEP)
    assert f"1 fallback ({fallback.replace('_', ' ')})" in watch.lines["locate"]
    assert "1 of 1 problem repaired" in watch.lines["repair"]


def test_a_cut_by_claims_is_told_as_such(tmp_path: Path) -> None:
    run, watch = go(tmp_path, miscounting("plums"), "gear.breakpoint=claims")
    assert watch.lines["locate"].endswith("5 failed paths: 5 by claims")
    (note,) = {_cut_note(cut, "claims") for cut in run.read("cut", Cut, "claims")}
    assert re.fullmatch(r"breaks here with probability 0\.\d\d, margin 0\.\d\d", note)
    with Store.open(run.folder, write=False) as store:
        assert note in render_html(load_view(store))


@pytest.mark.parametrize(
    ("kind", "told", "note"),
    [
        ("random", "at random", "chosen at random"),
        ("fixed_third", "at a third", "the step that starts nearest a third"),
        ("restart", "kept nothing", "nothing is kept"),
    ],
)
def test_a_cut_that_needs_no_scores_has_none_made_and_no_page_speaks_of_entropy(
    tmp_path: Path, kind: str, told: str, note: str
) -> None:
    run, watch = go(tmp_path, extreme("plums"), f"gear.breakpoint={kind}")
    assert watch.lines["locate"] == f"1 extreme problem · 5 failed paths: 5 {told}"
    assert "1 of 1 problem repaired" in watch.lines["repair"]
    assert not [*run.read("scores", TokenScores)] and not run.rows(ScoreRow, "stage='scores'")
    cuts = run.read("cut", Cut, kind)
    assert len(cuts) == 5 and all(np.isnan(cut.entropy_hi).all() for cut in cuts)
    with Store.open(run.folder, write=False) as store:
        view = load_view(store)
        page = render_html(view)
        index = Index(run.folder)
        index.refresh()
        failed_ones = [index.entry("sample", c.problem_id, c.trace, "") for c in cuts]
        stories = [open_story(store, e, index.of_problem(e.problem)) for e in failed_ones if e]
    assert note in page and ">nan" not in page
    assert "Beside each step: how unsure" not in page and "Entropy of each step" not in page
    exhibits = [exhibit(case, view, view.pure_settings) for case in view.gallery]
    drawn = all_figures(view, exhibits)
    assert "card" in drawn and not [name for name in drawn if name.endswith("-entropy")]
    for story in stories:
        assert (story.cut_why, story.bars, story.curves, story.shaded_by) == (note, (), (), "")


def test_scores_of_another_rule_are_left_aside_and_taken_up_again(tmp_path: Path) -> None:
    run, _ = go(tmp_path, extreme("plums"), "gear.breakpoint=difference")
    before = run.live()
    run.go("gear.breakpoint=random")
    assert not run.rows(ScoreRow, "stage='scores'")
    run.go("gear.breakpoint=difference")
    assert run.live() == before


def test_random_cuts_are_repaired_by_a_teacher_that_cannot_score_and_pure_says_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ScriptedEngine.__init__

    def blind(self: ScriptedEngine, *args: Any, **more: Any) -> None:
        opened(self, *args, **more)
        self.capabilities = replace(self.capabilities, score=False)

    monkeypatch.setattr(ScriptedEngine, "__init__", blind)
    run = ScriptedRun(tmp_path, extreme("plums"))
    with pytest.raises(CapabilityError, match="which locating breaks and PURE need"):
        run.go("gear.breakpoint=difference", until="repair")
    watch = run.go("gear.breakpoint=random", until="repair")
    assert "1 of 1 problem repaired" in watch.lines["repair"]
    with pytest.raises(CapabilityError, match="which PURE needs"):
        run.go("gear.breakpoint=random")


def test_a_problem_whose_candidates_all_fail_has_no_repair(tmp_path: Path) -> None:
    wrong = {way: ["Then it must be this.\n\nSo \\boxed{9}."] for way in WAYS}
    run, watch = go(tmp_path, world(easy("apples"), extreme("plums", repairs=wrong)))
    assert gates(run) == {Gate.INCORRECT: 10}
    assert "0 of 1 problem repaired" in watch.lines["repair"]
    assert "D3 0" in watch.lines["select"]


@pytest.mark.parametrize(
    ("said", "gate"),
    [
        (f"As the hint says, I carry.\n\nSo \\boxed{{{ANSWER}}}.", Gate.HINT_TALK),
        (f"It is {ANSWER} of course.\n\n{'Let me check it. ' * 9}\n\nSo \\boxed{{{ANSWER}}}.",
         Gate.EARLY_ANSWER),
        (f"So \\boxed{{7}}.\n\nNo, wait, that is not it.\n\nSo \\boxed{{{ANSWER}}}.",
         Gate.SEVERAL_ANSWERS),
    ],
)  # fmt: skip
def test_a_gate_refuses_by_its_name(tmp_path: Path, said: str, gate: Gate) -> None:
    run, watch = go(tmp_path, extreme("plums", repairs={way: [said] for way in WAYS}))
    assert gates(run) == {gate: 10}
    assert f"10 {gate.replace('_', ' ')}" in watch.lines["repair"]


def test_a_wrong_step_is_refused_by_name_once_a_checker_is_named(tmp_path: Path) -> None:
    said = f"So 61 + 81 = 132 and ten more.\n\nSo \\boxed{{{ANSWER}}}."
    over = extreme("plums", repairs={way: [said] for way in WAYS})
    run, _ = go(tmp_path, over, "steps.checker=null")
    assert gates(run)[Gate.PASSED] == sum(gates(run).values()) > 0
    watch = run.go("steps.checker=arithmetic", "gear.candidates=2")
    assert "changed: steps.checker None → arithmetic; redoes what it reaches from 'locate' on" in (
        watch.said
    )
    assert gates(run) == {Gate.WRONG_STEP: 10}
    assert "10 wrong step" in watch.lines["repair"]
    assert "wrong step" in watch.lines["words"] and "cannot tell" in watch.lines["words"]
    assert "D3 0" in watch.lines["select"]


def test_what_training_gets_over_a_wrong_step_is_told(tmp_path: Path) -> None:
    said = f"So 61 + 81 = 132 and ten more.\n\nSo \\boxed{{{ANSWER}}}."
    unfiltered = {"steps": {"checker": "arithmetic", "gate": False}, "pure": {"drop": 0}}
    run = ScriptedRun(tmp_path, extreme("plums", repairs={way: [said] for way in WAYS}), unfiltered)
    run.go()
    facts = run.meta("facts")
    (held,) = [count for text, count in facts.items() if "that hold a wrong step" in text]
    kept = "arm='heal' AND pool=? AND \"drop\"='kept'"
    assert held == len(run.rows(SelectedRow, kept, "D3")) > 0
    (unread,) = [text for text in facts if "of which it cannot tell" in text]
    assert facts[unread] == len(run.rows(SelectedRow, kept, "D2"))


def test_a_checker_of_ones_own_decides_anew_once_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code_allowed: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run = ScriptedRun(tmp_path, extreme("plums"), {"steps": {"checker": "strict:first"}})
    for verdict, gate in ((1, Gate.WRONG_STEP), (0, Gate.PASSED)):
        (tmp_path / "strict.py").write_text(
            f"def first(*asked):\n    return {verdict}  # says it\n"
        )
        sys.modules.pop("strict", None)
        importlib.invalidate_caches()
        edition.cache_clear()
        run.go()
        assert set(gates(run)) == {gate}


def test_early_stop_counts_passing_repairs_breadth_first(tmp_path: Path) -> None:
    run, _ = go(tmp_path, extreme("plums"), "gear.target=6", "gear.candidates=8")
    # five pass in the first round, so a second of two each is needed, and then none
    rounds = Counter(t.seed_index for t in run.read("repair", Trace, "difference"))
    assert rounds == {0: 5, 1: 5, 2: 5}


@pytest.mark.parametrize(
    ("total", "drawn"),
    [(1, [1]), (2, [2]), (3, [1, 3]), (5, [1, 5]), (7, [1, 3, 7]), (14, [1, 3, 14]),
     (15, [1, 3, 7, 15]), (40, [1, 3, 7, 15, 40])],
)  # fmt: skip
def test_rounds_double_and_the_last_takes_what_would_not_fill_another(
    total: int, drawn: list[int]
) -> None:
    assert list(rounds(total)) == drawn


@pytest.mark.parametrize(
    ("target", "candidates", "each"),
    [
        (5, 20, 1),
        (6, 20, 3),
        (15, 20, 3),
        (16, 20, 7),
        (36, 20, 20),
        (2, 2, 2),
        (99, 6, 6),
        (None, 20, 20),
    ],
)
def test_rounds_double_until_the_target_is_reached_or_the_plan_is_drawn(
    tmp_path: Path, target: int | None, candidates: int, each: int
) -> None:
    settings = f"gear.target={'null' if target is None else target}"
    run, _ = go(tmp_path, extreme("plums"), settings, f"gear.candidates={candidates}")
    drawn = Counter(t.seed_index for t in run.read("repair", Trace, "difference"))
    assert drawn == dict.fromkeys(range(each), 5)


def test_repairs_that_fail_a_gate_do_not_stop_a_problem(tmp_path: Path) -> None:
    wrong = {way: ["Then it must be this.\n\nSo \\boxed{9}."] for way in WAYS[1:]}
    mixed = {WAYS[0]: [honest(WAYS[0])]} | wrong
    run, _ = go(tmp_path, extreme("plums", repairs=mixed), "gear.target=2", "gear.candidates=8")
    drawn = Counter(t.seed_index for t in run.read("repair", Trace, "difference"))
    assert drawn == {0: 5, 1: 5, 2: 5}
    assert gates(run)[Gate.PASSED] == 3


def test_a_teacher_that_solves_nothing_still_gives_hinted_and_repaired_traces(
    tmp_path: Path,
) -> None:
    run, watch = go(tmp_path, world(extreme("plums"), extreme("dates")))
    assert "D1 0" in watch.lines["select"]
    sets = Counter(r["set"] for r in run.stage_rows("stage3_frontier.jsonl"))
    assert set(sets) == {"D2", "D3"}
    assert run.data()["stage1_foundation.jsonl"] == ""


def test_a_teacher_that_solves_everything_leaves_nothing_to_repair(tmp_path: Path) -> None:
    run, watch = go(tmp_path, world(easy("apples"), easy("melons")))
    assert watch.lines["locate"] == "0 extreme problems · 0 failed paths"
    assert watch.lines["guide"] == "0 hints"
    assert "0 of 0 problems repaired" in watch.lines["repair"]
    assert {r["set"] for r in run.stage_rows("stage3_frontier.jsonl")} == {"D1"}
    assert (run.folder / "report.html").is_file()


def test_hard_problems_alone_give_a_bridge_and_no_frontier(tmp_path: Path) -> None:
    run, _ = go(tmp_path, world(easy("apples"), hard("pears")))
    assert {r["set"] for r in run.stage_rows("stage3_frontier.jsonl")} == {"D1", "D2"}


def test_a_repair_the_engine_fails_on_is_a_counted_outcome(tmp_path: Path) -> None:
    lost = {way: [honest(way)] for way in WAYS[:3]}
    run, watch = go(tmp_path, extreme("plums", repairs=lost))
    errors = [t.error for t in run.read("repair", Trace, "difference") if t.error]
    assert len(errors) == 4
    assert gates(run) == {Gate.PASSED: 6, Gate.INCOMPLETE: 4}
    total, parts = counts(watch.lines["repair"])
    assert total == parts


def test_a_trace_that_cannot_be_scanned_is_counted(tmp_path: Path) -> None:
    rows, rules = extreme("plums")
    blind = {"match": r"many plums .*<assistant>First I look at the red ", "error": "too long"}
    run, watch = go(tmp_path, (rows, [*rules[:-3], blind, *rules[-3:]]))
    assert watch.lines["locate"] == "1 extreme problem · 5 failed paths: 4 surge · 1 not scored"
    assert len(run.read("cut", Cut, "difference")) == 4


def test_json_rows_keep_every_script_as_it_is(tmp_path: Path) -> None:
    rows, rules = easy("Äpfel")
    run, _ = go(tmp_path, (rows, rules))
    text = run.data()["stage1_foundation.jsonl"]
    assert "Äpfel" in text
    assert all(json.loads(line) for line in text.splitlines())


def test_calibrated_selection_drops_every_leap_and_nothing_honest(tmp_path: Path) -> None:
    run, _ = go(tmp_path, world(easy("apples"), extreme("plums")), "pure.selection=calibrated")
    texts = {t.key: t.text for t in run.read("repair", Trace, "difference")}
    chosen = run.rows(SelectedRow, "arm='heal' AND pool='D3'")
    dropped = {x.trace for x in chosen if x.drop == Drop.PURE}
    assert dropped == {t for t, text in texts.items() if MAGIC in text} != set()


def thinking(name: str) -> World:
    """A think-model's problem: never solved, and its first path thinks nothing at all."""

    def thought(way: str) -> str:
        *steps, answer = failed(name, way).split("\n\n")
        return "<think>\n" + "\n\n".join(steps) + f"\n</think>\n\n{answer}"

    rows, _ = extreme(name)
    (problem,) = rows
    empty = "<think>\n\n</think>\n\nSo \\boxed{3}."
    right = ["</think>\n\nSo \\boxed{142}.", "<think></think>So, carrying, \\boxed{142}."]
    written = rf"A student is solving.*many {name} .*<assistant><think>\n\n</think>\n\n\Z"
    rules = [
        {"match": written, "replies": [HINT]},
        {"match": rf"many {name} .*Hint:", "replies": right},
        unaided(name, empty, *map(thought, WAYS)),
    ]
    return [problem], rules


def test_a_think_model_may_think_nothing_and_is_asked_for_hints_without_thinking(
    tmp_path: Path,
) -> None:
    settings = {"prompts": {"think_close": "</think>"}, "gear": {"early_answer_share": 0.0}}
    run = ScriptedRun(tmp_path, world(easy("apples"), thinking("plums")), settings)
    watch = run.go()
    hints = run.read("hint", Hint, "difference")
    assert {hint.text for hint in hints} == {HINT}
    assert {hint.kind for hint in hints} == {HintKind.GUIDED}
    assert "scored" in watch.lines["score"]
    profiles = run.read("pure", PureScore, "difference")
    assert profiles and all(len(found.log_ppl) >= 1 for found in profiles)


def test_a_hint_that_was_cut_off_is_counted(tmp_path: Path) -> None:
    rows, rules = extreme("plums")
    rules[0] = {**rules[0], "truncated": True}
    run = ScriptedRun(tmp_path, world(easy("apples"), (rows, rules)))
    assert "guided, cut off" in run.go("gear.hint_gate=false").lines["guide"]
    assert "20 draws refused: 20 cut off" in run.go("gear.hint_gate=true").lines["guide"]


def test_a_scorer_that_reads_text_as_other_ids_is_refused_before_a_token_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ScriptedRun(tmp_path, settings={"scorer": {"engine": "scripted", "model": "script.json"}})
    opened: list[ScriptedEngine] = []

    def other(self: ScriptedEngine, text: str) -> tuple[int, ...]:
        opened.append(self)
        return tuple(b + (len(set(map(id, opened))) > 1) for b in text.encode())

    monkeypatch.setattr(ScriptedEngine, "encode", other)
    with pytest.raises(CapabilityError, match="other ids than the teacher's"):
        run.go()
    assert not run.folder.exists()
