"""Whole runs on the scripted engine: what each stage makes of problems whose outcome is known."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_run import (
    ANSWER,
    HINT,
    MAGIC,
    WAYS,
    ScriptedRun,
    Watch,
    easy,
    extreme,
    failed,
    hard,
    honest,
    kept_prefix,
    right,
    row,
    unaided,
    world,
)

from heal.execute import overview
from heal.records import (
    Ceiling,
    Check,
    Cut,
    Drop,
    Fallback,
    Gate,
    GateResult,
    Hint,
    HintKind,
    Origin,
    PureScore,
    Selected,
    Stratum,
    Trace,
    Verdict,
)
from heal.store import Store


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    """A finished run of the small world."""
    run = ScriptedRun(tmp_path_factory.mktemp("small"), page=True)
    run.go()
    return run


def go(home: Path, parts: Any, *overrides: str) -> tuple[ScriptedRun, Watch]:
    run = ScriptedRun(home, parts)
    return run, run.go(*overrides)


def strata(run: ScriptedRun) -> dict[str, Stratum]:
    """By the problem's noun."""
    assert run.view is not None
    nouns = {p.id: p.problem.split()[2] for p in run.view.problems}
    return {nouns[c.problem_id]: c.stratum for c in run.read("ceiling", Ceiling)}


def gates(run: ScriptedRun, table: str = "repair") -> Counter[Gate]:
    own = {t.key for t in run.read(table, Trace)}
    return Counter(g.gate for g in run.read("gate", GateResult) if g.trace in own)


def test_each_problem_finds_its_stratum(done: ScriptedRun) -> None:
    assert strata(done) == {
        "apples": Stratum.EASY,
        "pears": Stratum.HARD,
        "plums": Stratum.EXTREME,
    }


def test_gear_cuts_where_the_entropy_surges(done: ScriptedRun) -> None:
    cuts, traces = done.read("cut", Cut), {t.key: t for t in done.read("sample", Trace)}
    assert len(cuts) == len(WAYS)
    for cut in cuts:
        assert (cut.step, cut.fallback, cut.undecided) == (3, None, False)
        assert cut.margin > 2
        text = traces[cut.trace].text
        assert text in {failed("plums", way) for way in WAYS}
        assert bytes(traces[cut.trace].ids[: cut.prefix_tokens].tolist()).decode() in {
            kept_prefix("plums", way) for way in WAYS
        }


def test_paths_differ_by_their_answers(done: ScriptedRun) -> None:
    checks = {c.trace: c for c in done.read("check", Check)}
    answers = sorted(checks[cut.trace].answer or "" for cut in done.read("cut", Cut))
    assert answers == ["100", "101", "102", "103", "104"]


def test_the_kept_prefix_is_the_parents_own_ids(done: ScriptedRun) -> None:
    parents = {t.key: t for t in done.read("sample", Trace)}
    repaired = done.read("repair", Trace)
    assert repaired
    for trace in repaired:
        parent = parents[trace.parent or ""]
        assert trace.origin is Origin.REPAIRED
        assert 0 < trace.prefix_tokens < len(parent.ids)
        kept = trace.ids[: trace.prefix_tokens].tolist()
        assert kept == parent.ids[: trace.prefix_tokens].tolist()


def test_the_hint_stands_in_the_user_turn_and_nowhere_else(done: ScriptedRun) -> None:
    # the scripted repairs are only written for a prompt that has the hint before the kept prefix
    hints = {h.key: h for h in done.read("hint", Hint)}
    for trace in done.read("repair", Trace):
        assert hints[trace.hint or ""].text == HINT
        assert HINT not in trace.text
    for text in done.data().values():
        assert HINT not in text
        assert "Hint" not in text
        assert "final answer is" not in text


def test_repairs_pass_the_gates(done: ScriptedRun) -> None:
    assert set(gates(done)) == {Gate.PASSED}
    assert set(gates(done, "hinted")) == {Gate.PASSED}


def test_pure_drops_the_shortcut_and_keeps_the_honest_repairs(done: ScriptedRun) -> None:
    traces = {t.key: t for t in done.read("repair", Trace)}
    chosen = [x for x in done.read("selected", Selected) if x.pool == "D3"]
    dropped = {traces[x.trace].text for x in chosen if x.drop is Drop.PURE}
    assert [MAGIC in text for text in dropped] == [True]
    kept = [traces[x.trace].text for x in chosen if x.drop is Drop.KEPT]
    assert sorted(kept) == sorted(kept_prefix("plums", w) + honest(w) for w in WAYS[:4])


def test_only_repaired_steps_up_to_commitment_are_scored(done: ScriptedRun) -> None:
    assert done.view is not None
    traces = {t.key: t for t in done.read("repair", Trace)}
    profiles = [p for p in done.read("pure", PureScore) if p.trace in traces]
    assert len(profiles) == len(traces)
    for profile in profiles:
        leap = MAGIC in traces[profile.trace].text
        assert profile.first_step == 3
        assert not any(x == x for x in profile.uncertainty[:3])
        assert done.view.commitments[profile.trace] == (3 if leap else 6)
        assert not profile.scorable[-1]


def test_the_sets_hold_what_they_should(done: ScriptedRun) -> None:
    traces = {t.key: t for k in ("sample", "hinted", "repair") for t in done.read(k, Trace)}
    origin = {"D1": Origin.UNAIDED, "D2": Origin.HINTED, "D3": Origin.REPAIRED}
    checks = {c.trace: c.verdict for c in done.read("check", Check)}
    found = strata(done)
    nouns = {p.id: p.problem.split()[2] for p in done.view.problems}  # type: ignore[union-attr]
    pools: dict[str, set[Stratum]] = {}
    for x in done.read("selected", Selected):
        assert traces[x.trace].origin is origin[x.pool]
        assert checks[x.trace] is Verdict.CORRECT
        if x.drop is Drop.KEPT:
            pools.setdefault(x.pool, set()).add(found[nouns[x.problem_id]])
    assert pools == {
        "D1": {Stratum.EASY, Stratum.HARD},
        "D2": {Stratum.HARD, Stratum.EXTREME},
        "D3": {Stratum.EXTREME},
    }


def test_stage_files_are_cumulative_chats_without_a_hint(done: ScriptedRun) -> None:
    names = ["stage1_foundation.jsonl", "stage2_bridge.jsonl", "stage3_frontier.jsonl"]
    assert list(done.data()) == names
    rows = [done.stage_rows(name) for name in names]
    for stage, found in enumerate(rows, 1):
        assert {r["set"] for r in found} == {f"D{i}" for i in range(1, stage + 1)}
        assert all(r in rows[2] for r in found)
    kept = {x.trace for x in done.read("selected", Selected) if x.drop is Drop.KEPT}
    assert {r["trace"] for r in rows[2]} == kept
    texts = {t.key: t.text for k in ("sample", "hinted", "repair") for t in done.read(k, Trace)}
    for r in rows[2]:
        user, assistant = r["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert user["content"].startswith("How many ")
        assert user["content"].endswith("within \\boxed{}.")
        assert assistant["content"] == texts[r["trace"]]


def counts(line: str) -> tuple[int, int]:
    """(the total a stage's line states, the sum of its parts)."""
    stated = re.search(r"([\d,]+) [a-z ]+: (.*)$", line)
    assert stated, line
    parts = [int(n.replace(",", "")) for n in re.findall(r"(?:^|· )([\d,]+) ", stated[2])]
    return int(stated[1].replace(",", "")), sum(parts)


def test_the_counts_of_every_line_add_up(done: ScriptedRun) -> None:
    lines = done.watch.lines
    assert list(lines) == [
        *("sample", "verify", "locate", "guide", "repair"),
        *("score", "spend", "select", "train", "evaluate"),
    ]
    for stage in ("sample", "verify", "locate", "guide", "repair", "score", "select"):
        total, parts = counts(lines[stage])
        assert total == parts > 0, lines[stage]
    assert counts(lines["sample"])[0] == 120
    assert counts(lines["select"])[0] == len(done.read("selected", Selected))
    sets = Counter(r["set"] for r in done.stage_rows("stage3_frontier.jsonl"))
    for name, size in sets.items():
        assert f"{name} {size}" in lines["select"]


def test_progress_ends_at_its_total_and_never_beyond(done: ScriptedRun) -> None:
    seen = {stage: done.watch.arrived[stage] for stage in done.watch.totals}
    for stage in ("sample", "verify", "locate", "guide", "score"):
        assert seen[stage] == done.watch.totals[stage] > 0
    assert 0 < seen["repair"] <= done.watch.totals["repair"]


def test_show_counts_what_is_stored_and_in_use(done: ScriptedRun) -> None:
    with Store.open(done.folder, write=False) as store:
        header, *shown, twice, flight, state = overview(store)
    assert header.split() == ["table", "stored", "in", "use"]
    in_use = {line.split()[0]: line.split()[1:] for line in shown}
    stored, live = done.stored(), done.live()
    for table, keys in stored.items():
        used = {key for name, _, key in live if name == table}
        assert in_use[table] == [str(len(keys)), str(len(used))]
    assert in_use["sample"] == ["120", "120"]
    assert "0 (" in twice
    assert flight.endswith(": 0")
    assert state == "complete"


def test_the_report_shows_the_broken_trace(done: ScriptedRun) -> None:
    page = (done.folder / "report.html").read_text()
    assert "is not clear to me at all." in page
    assert HINT in page
    assert done.view is not None
    assert done.view.stopped is None


def test_the_resolved_config_and_versions_are_kept(done: ScriptedRun) -> None:
    assert "breakpoint: difference" in (done.folder / "config.yaml").read_text()
    assert {"heal", "python", "numpy"} <= done.meta("versions").keys()


# --- every verdict, fallback and failure -------------------------------------------------------


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
    own = {t.key for t in run.read("sample", Trace)}
    found = Counter(c.verdict for c in run.read("check", Check) if c.trace in own)
    assert set(found) == set(Verdict)
    assert found.total() == 200
    for verdict in (Verdict.UNVERIFIABLE, Verdict.NO_ANSWER, Verdict.TRUNCATED):
        assert found[verdict] == 40
        assert f"40 {verdict.replace('_', ' ')}" in watch.lines["verify"]
    assert "40 error" in watch.lines["sample"]
    assert strata(run)["figs"] is Stratum.UNDETERMINED
    # no answer is judged and not correct, but no failed path to learn from either
    assert strata(run)["nuts"] is Stratum.EXTREME
    assert "1 extreme problems · 0 failed paths" in watch.lines["locate"]


def test_a_leaking_hint_is_redrawn_and_then_falls_back_to_the_answer(tmp_path: Path) -> None:
    run, watch = go(tmp_path, extreme("plums", hints=[f"It is {ANSWER}, you see."]))
    hints = run.read("hint", Hint)
    assert len(hints) == len(WAYS)
    for hint in hints:
        assert (hint.kind, hint.asked, hint.leaks) == (HintKind.ANSWER, HintKind.GUIDED, 4)
        assert hint.text == f"The final answer is {ANSWER}."
        assert hint.new_tokens == 4 * (len(f"It is {ANSWER}, you see.") + 1)
    assert watch.lines["guide"] == "5 hints: 5 answer for leaking guided"


def test_a_hint_that_leaks_once_is_only_redrawn(tmp_path: Path) -> None:
    run, _ = go(tmp_path, extreme("plums", hints=[f"It is {ANSWER}.", HINT, HINT, HINT]))
    hints = run.read("hint", Hint)
    assert any(h.leaks for h in hints)
    assert all(h.text == HINT for h in hints if h.kind is HintKind.GUIDED)
    assert any(h.leaks and h.kind is HintKind.GUIDED for h in hints)


@pytest.mark.parametrize(
    ("kind", "solution", "line"),
    [
        ("answer", None, "5 hints: 5 answer"),
        ("partial", "First pair the tens. Then the units. Then add.", "5 hints: 5 partial"),
        (
            "partial",
            f"{ANSWER} it is, by the tens.",
            "5 hints: 5 answer for leaking partial",
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
    assert sum(h.new_tokens for h in run.read("hint", Hint)) == 0


def test_a_hint_the_engine_fails_on_falls_back_and_says_why(tmp_path: Path) -> None:
    rows, rules = extreme("plums")
    broken = {"match": "A student is solving", "error": "timed out"}
    run, watch = go(tmp_path, (rows, [broken, *rules]))
    assert watch.lines["guide"] == "5 hints: 5 answer for failed guided"
    assert {(h.error, h.leaks) for h in run.read("hint", Hint)} == {("timed out", 0)}


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
    (cut,) = run.read("cut", Cut)
    assert (cut.fallback, cut.step) == (fallback, step)
    assert (cut.prefix_tokens == 0) == (fallback is Fallback.SINGLE_STEP)
    assert f"1 fallback ({fallback.replace('_', ' ')})" in watch.lines["locate"]
    assert "1 of 1 problems repaired" in watch.lines["repair"]


def test_a_problem_whose_candidates_all_fail_has_no_repair(tmp_path: Path) -> None:
    wrong = {way: ["Then it must be this.\n\nSo \\boxed{9}."] for way in WAYS}
    run, watch = go(tmp_path, world(easy("apples"), extreme("plums", repairs=wrong)))
    assert gates(run) == {Gate.INCORRECT: 10}
    assert "0 of 1 problems repaired" in watch.lines["repair"]
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


def test_early_stop_counts_passing_repairs_breadth_first(tmp_path: Path) -> None:
    run, _ = go(tmp_path, extreme("plums"), "gear.target=6", "gear.candidates=4")
    # five pass in the first round, so a second is needed, and then none
    rounds = Counter(t.seed_index for t in run.read("repair", Trace))
    assert rounds == {0: 5, 1: 5}


def test_repairs_that_fail_a_gate_do_not_stop_a_problem(tmp_path: Path) -> None:
    wrong = {way: ["Then it must be this.\n\nSo \\boxed{9}."] for way in WAYS[1:]}
    mixed = {WAYS[0]: [honest(WAYS[0])]} | wrong
    run, _ = go(tmp_path, extreme("plums", repairs=mixed), "gear.target=2", "gear.candidates=4")
    assert Counter(t.seed_index for t in run.read("repair", Trace)) == {0: 5, 1: 5}
    assert gates(run)[Gate.PASSED] == 2


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
    errors = [t.error for t in run.read("repair", Trace) if t.error]
    assert len(errors) == 4
    assert gates(run) == {Gate.PASSED: 6, Gate.INCOMPLETE: 4}
    total, parts = counts(watch.lines["repair"])
    assert total == parts


def test_a_trace_that_cannot_be_scanned_is_counted(tmp_path: Path) -> None:
    rows, rules = extreme("plums")
    blind = {"match": r"many plums .*<assistant>First I look at the red ", "error": "too long"}
    run, watch = go(tmp_path, (rows, [*rules[:-3], blind, *rules[-3:]]))
    assert watch.lines["locate"] == "1 extreme problems · 5 failed paths: 4 surge · 1 not scored"
    assert len(run.read("cut", Cut)) == 4


def test_json_rows_keep_every_script_as_it_is(tmp_path: Path) -> None:
    rows, rules = easy("Äpfel")
    run, _ = go(tmp_path, (rows, rules))
    text = run.data()["stage1_foundation.jsonl"]
    assert "Äpfel" in text
    assert all(json.loads(line) for line in text.splitlines())
