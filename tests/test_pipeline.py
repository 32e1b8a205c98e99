"""Whole runs on the scripted engine: what each stage makes of problems whose outcome is known."""

from collections import Counter

import pytest
from tests.scripted_run import (
    HINT,
    MAGIC,
    WAYS,
    ScriptedRun,
    counts,
    failed,
    gates,
    honest,
    kept_prefix,
    strata,
)

from heal.execute import overview
from heal.records import Cut, Drop, Gate, Hint, Origin, PureScore, Stratum, Trace, Verdict
from heal.store import ScoreRow, SelectedRow, Store, TraceRow


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    """A finished run of the small world."""
    run = ScriptedRun(tmp_path_factory.mktemp("small"), page=True)
    run.go()
    return run


def all_traces(run: ScriptedRun) -> dict[str, Trace]:
    tags = {"sample": "", "hinted": "", "repair": "difference"}
    return {t.key: t for stage, tag in tags.items() for t in run.read(stage, Trace, tag)}


def test_each_problem_finds_its_stratum(done: ScriptedRun) -> None:
    assert strata(done) == {
        "apples": Stratum.EASY,
        "pears": Stratum.HARD,
        "plums": Stratum.EXTREME,
    }


def test_gear_cuts_where_the_entropy_surges(done: ScriptedRun) -> None:
    cuts, traces = (
        done.read("cut", Cut, "difference"),
        {t.key: t for t in done.read("sample", Trace)},
    )
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
    answer = {row.key: row.answer for row in done.rows(TraceRow, "stage='sample'")}
    answers = sorted(answer[cut.trace] or "" for cut in done.read("cut", Cut, "difference"))
    assert answers == ["100", "101", "102", "103", "104"]


def test_the_kept_prefix_is_the_parents_own_ids(done: ScriptedRun) -> None:
    parents = {t.key: t for t in done.read("sample", Trace)}
    repaired = done.read("repair", Trace, "difference")
    assert repaired
    for trace in repaired:
        parent = parents[trace.parent or ""]
        assert trace.origin is Origin.REPAIRED
        assert 0 < trace.prefix_tokens < len(parent.ids)
        kept = trace.ids[: trace.prefix_tokens].tolist()
        assert kept == parent.ids[: trace.prefix_tokens].tolist()


def test_the_hint_stands_in_the_user_turn_and_nowhere_else(done: ScriptedRun) -> None:
    # the scripted repairs are only written for a prompt that has the hint before the kept prefix
    hints = {h.key: h for h in done.read("hint", Hint, "difference")}
    for trace in done.read("repair", Trace, "difference"):
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
    traces = {t.key: t for t in done.read("repair", Trace, "difference")}
    chosen = done.rows(SelectedRow, "arm='heal' AND pool='D3'")
    dropped = {traces[x.trace].text for x in chosen if x.drop == Drop.PURE}
    assert [MAGIC in text for text in dropped] == [True]
    kept = [traces[x.trace].text for x in chosen if x.drop == Drop.KEPT]
    assert sorted(kept) == sorted(kept_prefix("plums", w) + honest(w) for w in WAYS[:4])


def test_only_repaired_steps_up_to_commitment_are_scored(done: ScriptedRun) -> None:
    traces = {t.key: t for t in done.read("repair", Trace, "difference")}
    committed = {row.trace: row.commitment for row in done.rows(ScoreRow, "stage='pure'")}
    profiles = done.read("pure", PureScore, "difference")
    assert {p.trace for p in profiles} == traces.keys()
    for profile in profiles:
        leap = MAGIC in traces[profile.trace].text
        assert profile.first_step == 3
        assert not any(x == x for x in profile.uncertainty[:3])
        assert committed[profile.trace] == (3 if leap else 6)
        assert not profile.scorable[-1]


def test_the_sets_hold_what_they_should(done: ScriptedRun) -> None:
    traces = all_traces(done)
    origin = {"D1": Origin.UNAIDED, "D2": Origin.HINTED, "D3": Origin.REPAIRED}
    verdicts = {row.key: row.verdict for row in done.rows(TraceRow)}
    found, nouns = strata(done), done.nouns()
    pools: dict[str, set[Stratum]] = {}
    for x in done.rows(SelectedRow, "arm='heal'"):
        assert traces[x.trace].origin is origin[x.pool]
        assert verdicts[x.trace] == Verdict.CORRECT
        if x.drop == Drop.KEPT:
            pools.setdefault(x.pool, set()).add(found[nouns[x.problem]])
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
    kept = {x.trace for x in done.rows(SelectedRow, "arm='heal'") if x.drop == Drop.KEPT}
    assert {r["trace"] for r in rows[2]} == kept
    texts = {key: trace.text for key, trace in all_traces(done).items()}
    for r in rows[2]:
        user, assistant = r["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert user["content"].startswith("How many ")
        assert user["content"].endswith("within \\boxed{}.")
        assert assistant["content"] == texts[r["trace"]]


def test_the_counts_of_every_line_add_up(done: ScriptedRun) -> None:
    lines = done.watch.lines
    assert list(lines) == [
        *("problems", "sample", "verify", "locate", "guide", "repair", "words", "score"),
        *("calibrate", "match", "select", "train", "evaluate"),
    ]
    for stage in ("sample", "verify", "locate", "guide", "repair", "words", "score", "select"):
        total, parts = counts(lines[stage])
        assert total == parts > 0, lines[stage]
    assert counts(lines["sample"])[0] == 120
    assert counts(lines["select"])[0] == len(done.rows(SelectedRow, "arm='heal'"))
    sets = Counter(r["set"] for r in done.stage_rows("stage3_frontier.jsonl"))
    for name, size in sets.items():
        assert f"{name} {size}" in lines["select"]


def test_progress_ends_at_its_total_and_counts_every_answer(done: ScriptedRun) -> None:
    assert done.watch.totals["problems"] == done.watch.done["problems"] == 3
    assert done.watch.reused["problems"] == 0
    asked = ("sample", "check", "scores", "hint_draw", "hinted", "repair", "pure")
    stored = done.stored()
    assert done.watch.answers["problems"] == sum(len(stored[stage]) for stage in asked)
    with Store.open(done.folder, write=False) as store:
        assert done.watch.tokens == store.totals().spent
    assert done.meta("progress")["stage"] == "evaluate"


def test_show_counts_what_is_stored_and_what_it_took(done: ScriptedRun) -> None:
    with Store.open(done.folder, write=False) as store:
        header, *shown, answers, drawn, lost, state = overview(store)
        spent = store.totals().spent
    assert header.split() == ["stage", "stored"]
    counted = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in shown}
    # a problem's words have the same key in all of them
    keys = {stage: len(keys) for stage, keys in done.stored().items()} | {"stepwords": 3}
    assert counted == keys
    assert (counted["sample"], counted["hint_draw"]) == (120, 5)
    traces = all_traces(done).values()
    assert spent == sum(t.new_tokens for t in traces) + 5 * (len(HINT) + 1)
    received = sum(counted[s] for s in counted.keys() - {"cut", "hint", "problem", "stepwords"})
    assert answers == f"answers received {received}: {received} kept, 0 thrown away"
    assert drawn == f"teacher tokens drawn and stored: {spent:,}"
    assert lost == "in flight when a process ended, so paid for again at most: 0"
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
