import io
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.report_fixture import evaluation, lab_view, minimal_view
from tests.scripted_run import ScriptedRun

from heal.errors import HealError
from heal.method.intervals import Interval
from heal.method.summary import Difference, EvalSummary, summarise
from heal.records import (
    Ceiling,
    Check,
    Drop,
    EvalTrace,
    Finish,
    Gate,
    GateResult,
    Origin,
    Problem,
    PureScore,
    Selected,
    Split,
    StagePlan,
    Stratum,
    Trace,
    Verdict,
)
from heal.report import charts, numbers, words
from heal.report.gallery import Outcome, broken_traces
from heal.report.html import MAX_STEP_CHARS, render_html
from heal.report.load import load_view
from heal.report.steps import step_texts
from heal.report.table import print_table
from heal.report.view import LedgerRow, RunView
from heal.store import Store

VOID = {"meta", "br", "use", "path", "hr", "img", "rect"}


class Page(HTMLParser):
    """Tags that do not close, ids, and the text a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.elements: Counter[str] = Counter()
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)


@pytest.fixture(scope="module")
def view() -> RunView:
    return lab_view(problems=90, held_out=40)


@pytest.fixture(scope="module")
def html(view: RunView) -> str:
    return render_html(view)


def printed(view: RunView, *, terminal: bool = False, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as file:
        print_table(view, Console(file=file, force_terminal=terminal, width=120))
        file.flush()
        return raw.getvalue().decode(encoding)


def hopeless_view() -> RunView:
    """The teacher solves nothing, mostly for want of room."""
    problems = tuple(Problem(f"p{i}", f"Q {i}", "1") for i in range(4))
    ceilings = tuple(Ceiling(p.id, 30, 0, 20, 0, Stratum.TRUNCATED, 0.0) for p in problems)
    verdicts = {Split.TRAIN: {Verdict.TRUNCATED: 80, Verdict.WRONG: 40}}
    return minimal_view(problems=problems, ceilings=ceilings, verdicts=verdicts)


def unrepaired_view(view: RunView) -> RunView:
    """Every repair of a run refused by its gate."""
    gates = tuple(GateResult(g.trace, Gate.INCORRECT) for g in view.gates)
    selected = tuple(s for s in view.selected if s.pool == "D1")
    return replace(view, gates=gates, selected=selected, pure=(), commitments={})


def easy_view(view: RunView) -> RunView:
    """Nothing at the ceiling, so nothing cut."""
    ceilings = tuple(
        replace(c, stratum=Stratum.EASY, correct=30, rho=1.0, truncated=0) for c in view.ceilings
    )
    return replace(
        view, ceilings=ceilings, cuts=(), hints=(), repaired=(), hinted=(), gates=(), selected=()
    )


# The page


def test_page_asks_the_network_for_nothing(html: str) -> None:
    assert not re.search(r"https?:|(?<!pkg:)//[a-z]+\.[a-z]|@import|<link|<img|<iframe", html)
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    assert all(address.startswith("#") for address in Page(html).addresses)


def test_page_is_well_formed(html: str) -> None:
    page = Page(html)
    assert page.unbalanced == [] and page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_figures_refer_only_to_what_they_contain(html: str) -> None:
    used = set(re.findall(r"url\(#([^)]+)\)", html)) | {a[1:] for a in Page(html).addresses}
    assert used and used <= set(Page(html).ids)


def test_same_run_gives_the_same_page(view: RunView, html: str) -> None:
    assert render_html(view) == html


def test_order_of_records_does_not_change_the_gallery(view: RunView) -> None:
    rng = random.Random(1)
    mixed = {
        name: tuple(rng.sample(getattr(view, name), len(getattr(view, name))))
        for name in ("cuts", "hints", "repaired", "gates", "selected", "pure", "checks")
    }
    assert _shown(replace(view, **mixed)) == _shown(view)


def _shown(view: RunView) -> list[tuple[str, str | None]]:
    return [(b.cut.key, b.repair and b.repair.trace.key) for b in broken_traces(view)]


def test_colours_are_the_pages_own(html: str) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", html, re.S))
    assert "var(--accent)" in figures
    assert not re.search(r"#[0-9a-f]{6}\b|font-family", figures)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</pre></div></body>",
        "{{ 7 * 7 }} {% raw %}",
        "$\\frac{1}{2}$ & \\begin{align} x &= 1 \\end{align}",
        "مسألة حسابية ‮ 🙂 𝔘𝔫𝔦",
        "\ud800 \x00 \x1b[31m",
    ],
)
def test_nothing_a_problem_or_a_model_writes_becomes_markup(view: RunView, text: str) -> None:
    bad = replace(
        view,
        name=text,
        config_yaml=text,
        stopped=text,
        problems=tuple(replace(p, problem=text, answer=text) for p in view.problems),
        checks=tuple(replace(c, answer=text) for c in view.checks),
        hints=tuple(replace(h, text=text) for h in view.hints),
        unaided=tuple(replace(t, text=f"{text}\n\n{text}") for t in view.unaided),
        repaired=tuple(replace(t, text=f"{text}\n\n{text}") for t in view.repaired),
    )
    html = render_html(bad)
    html.encode("utf-8")
    page = Page(html)
    assert page.unbalanced == [] and page.open == []
    assert page.elements["script"] == 1 and page.elements["img"] == 0
    clean = re.sub("[\x00-\x08\x0e-\x1f\ud800-\udfff]", "\ufffd", text)
    assert " ".join(clean.split()) in page.text


def test_long_traces_and_many_problems_stay_a_small_file() -> None:
    view = lab_view(problems=1500, held_out=10)
    long, shown = "word " * 400_000, broken_traces(view)
    failed = {case.failed.key for case in shown}
    repairs = {case.repair.trace.key for case in shown if case.repair}
    huge = replace(
        view,
        problems=tuple(replace(p, problem=long) for p in view.problems),
        unaided=tuple(replace(t, text=long) if t.key in failed else t for t in view.unaided),
        repaired=tuple(replace(t, text=long) if t.key in repairs else t for t in view.repaired),
    )
    html = render_html(huge)
    assert len(html.encode()) < 3_000_000
    assert "more characters)" in html and "The first 200 of" in html


def test_clipped_text_says_how_much_is_missing(view: RunView) -> None:
    cut = broken_traces(view)[0].cut
    step = "x" * (MAX_STEP_CHARS + 1234)
    long = [
        replace(t, text="\n\n".join([step] * len(cut.step_ends))) if t.key == cut.trace else t
        for t in view.unaided
    ]
    assert "… (1,234 more characters)" in render_html(replace(view, unaided=tuple(long)))


def test_headline_has_its_numbers_n_and_interval(view: RunView, html: str) -> None:
    share = numbers.repaired_share(view)
    said = Page(html).text.replace("\u00a0", " ").replace("\u2060", "")
    assert f"HEAL repaired {share.hits} of those {share.n} (" in said
    assert f"95 % interval {100 * share.lo:.0f}–{100 * share.hi:.0f} %" in said
    assert "29.0 % [17.7–40.3] avg@8 after heal" in said
    assert "heal − rft_more: +8.0 [+1.2, +14.9]" in said and "(primary endpoint)" in said


def test_provenance_is_on_the_page(html: str) -> None:
    assert "an independent implementation from the published abstract of arXiv 2603.10359" in html


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda v: minimal_view(), "No problem has been sampled yet."),
        (lambda v: hopeless_view(), "solved none of the 4 problems"),
        (lambda v: hopeless_view(), "80 of its 120 traces were cut off: raise sampling.max_new"),
        (easy_view, "none was beyond its reach, so HEAL had nothing to repair"),
        (unrepaired_view, "HEAL repaired none of those."),
        (unrepaired_view, "Most were refused as incorrect"),
        (lambda v: replace(v, student=None, evaluation=None), "No student was trained"),
        (lambda v: replace(v, evaluation=None), "No student has been evaluated"),
        (lambda v: replace(v, selected=(), stopped="Ctrl-C"), "have not been chosen yet"),
        (lambda v: replace(v, cuts=()), "No failed trace was cut in this run."),
        (lambda v: replace(v, stopped="limits.teacher_tokens reached"), "not complete"),
    ],
)
def test_what_a_run_lacks_is_said(view: RunView, make, said: str) -> None:  # type: ignore[no-untyped-def]
    lacking = make(view)
    page = Page(render_html(lacking))
    assert said in page.text.replace("\u00a0", " ")
    assert page.unbalanced == []
    assert printed(lacking)


@pytest.mark.parametrize("field", ["unaided", "hints", "repaired", "checks", "gates", "pure"])
def test_a_run_that_stopped_anywhere_has_a_page(view: RunView, field: str) -> None:
    page = Page(render_html(replace(view, **{field: ()})))
    assert page.unbalanced == [] and "Broken traces" in page.text


def test_interval_that_includes_zero_is_not_a_gain(view: RunView) -> None:
    assert "no difference shown" in _endpoint(view, Interval(0.05, -0.01, 0.11, 40))
    assert "made the student worse" in _endpoint(view, Interval(-0.05, -0.09, -0.01, 40))
    assert "lies above zero" in _endpoint(view, Interval(0.05, 0.01, 0.09, 40))


def _endpoint(view: RunView, interval: Interval) -> str:
    difference = Difference("heal", "rft_more", "hard+extreme", interval, primary=True)
    summary = replace(evaluation(), differences=(difference,))
    return " ".join(words.student_sentences(replace(view, evaluation=summary)))


def test_number_without_an_interval_is_not_printed(view: RunView) -> None:
    nan = float("nan")
    summary = evaluation()
    arms = tuple(replace(s, avg=Interval(0.123456, nan, nan, 1)) for s in summary.arms)
    bare = replace(view, evaluation=EvalSummary(8, 1, arms, ()))
    for text in (Page(render_html(bare)).text, printed(bare)):
        assert "no interval" in text and "12.3" not in text


def test_run_without_rft_more_shows_the_nearest_comparison_and_says_so(view: RunView) -> None:
    summary = evaluation(seeds=1)
    arms = tuple(s for s in summary.arms if s.arm != "rft_more")
    differences = tuple(d for d in summary.differences if d.against != "rft_more")
    few = replace(view, evaluation=replace(summary, arms=arms, differences=differences))
    said = " ".join(words.student_sentences(few))
    assert "heal − rft: +10.0 [+3.1, +17.1] points, 1 training seed" in said
    assert "heal − rft_more on hard and extreme problems, was not measured" in said
    caveats = " ".join(words.caveats(few))
    assert "1 training seed:" in caveats and "No rft_more arm" in caveats
    assert "training seed" not in " ".join(words.caveats(view))


def test_attempts_left_out_of_the_evaluation_are_a_fact(view: RunView) -> None:
    summary = replace(evaluation(), failed=7, left_out=2)
    facts = {f.text: f.count for f in numbers.all_facts(replace(view, evaluation=summary))}
    assert [n for text, n in facts.items() if "left out" in text] == [7, 2]


def test_summary_of_real_attempts_is_shown(view: RunView) -> None:
    held_out = numbers.problems_of(view, Split.HELD_OUT)
    ceilings = {c.problem_id: c for c in view.ceilings}
    attempts = [
        EvalTrace(
            f"{arm}-{seed}-{p.id}-{i}", p.id, arm, seed, i, verdict, p.answer, Finish.STOP, 90, "…"
        )
        for number, p in enumerate(held_out)
        for arm in ("base", "rft_more", "heal")
        for seed in (0, 1)
        for i in range(4)
        for verdict in [Verdict.CORRECT if (number + i) % 3 < len(arm) // 3 else Verdict.WRONG]
    ]
    summary = summarise(attempts, ceilings, {}, resamples=200, seed=0)
    real = replace(view, evaluation=summary)
    assert "(primary endpoint)" in Page(render_html(real)).text
    lines = printed(real).splitlines()
    assert max(map(len, lines)) <= 80 and any(line.startswith("| rft_more ") for line in lines)


def test_importing_the_page_loads_no_heavy_library() -> None:
    code = (
        "import sys, heal.report.html, heal.report.table; "
        "sys.exit(bool({'matplotlib', 'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Counts


def test_strata_add_up_to_the_problems(view: RunView) -> None:
    for split in Split:
        rows = numbers.strata(view, split)
        assert sum(row.problems for row in rows) == len(numbers.problems_of(view, split))
        assert all(row.solved <= row.problems for row in rows)


FATES = st.lists(
    st.tuples(
        st.sampled_from([None, *Gate]),
        st.sampled_from([None, *Drop]),
        st.booleans(),
        st.integers(0, 3),
    ),
    max_size=40,
)


@given(FATES)
def test_every_drawn_trace_comes_out_of_the_funnel_or_is_counted_beside_it(fates) -> None:  # type: ignore[no-untyped-def]
    traces, gates, selected = [], [], []
    for index, (gate, drop, failed, problem) in enumerate(fates):
        key, of = f"t{index}", f"p{problem}"
        finish, error = (Finish.ERROR, "lost") if failed else (Finish.STOP, None)
        empty = np.zeros(0, np.int32)
        traces.append(Trace(key, of, Origin.REPAIRED, 0, empty, "", finish, 1, error=error))
        gates += [GateResult(key, gate)] if gate else []
        selected += [Selected(key, of, "D3", drop)] if drop and gate is Gate.PASSED else []
    view = minimal_view(gates=tuple(gates), selected=tuple(selected), repaired=tuple(traces))
    rows = numbers.candidate_funnel(view, traces, "D3")
    before = len(traces)
    for row in rows:
        assert row.traces is not None
        assert row.traces + sum(n for _, n in row.lost) == before
        before = row.traces
    kept = [s for s in selected if s.drop is Drop.KEPT and not fates[int(s.trace[1:])][2]]
    assert before == len(kept) if traces else rows == ()


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_of_a_share_holds_the_share(case: tuple[int, int]) -> None:
    share = numbers.share_of(*case)
    assert 0 <= share.lo <= share.value <= share.hi <= 1
    assert share.lo < share.hi


def test_share_of_nothing_claims_nothing() -> None:
    assert numbers.share_of(0, 0).hi == 1 and words.share_text(numbers.share_of(0, 0)) == "0 of 0"


def test_a_share_short_of_all_never_reads_as_100_percent() -> None:
    assert words.percent(999 / 1000) == "99.9 %" and words.percent(1) == "100 %"
    assert words.percent(0.001) == "0.1 %" and words.percent(0) == "0 %"


def test_held_out_extremes_are_not_in_the_ceiling(view: RunView) -> None:
    extreme = numbers.extreme_ids(view)
    held_out = {p.id for p in numbers.problems_of(view, Split.HELD_OUT)}
    assert extreme and not extreme & held_out


def test_ceiling_never_falls(view: RunView) -> None:
    assert numbers.ceiling_before(view).hits <= numbers.ceiling_after(view).hits
    unrepaired = unrepaired_view(view)
    assert numbers.ceiling_before(unrepaired) == numbers.ceiling_after(unrepaired)


def test_yields_cover_every_repair_once(view: RunView) -> None:
    assert sum(y.traces for y in numbers.hint_yields(view)) == len(view.repaired)


def test_facts_of_zero_are_left_out_and_fallbacks_are_counted(view: RunView) -> None:
    facts = numbers.all_facts(view)
    assert all(fact.count for fact in facts)
    assert any("fell back to another kind" in fact.text for fact in facts)


# Steps and gallery


@given(st.text(max_size=200), st.lists(st.integers(0, 60), max_size=12), st.integers(0, 70))
def test_steps_are_the_whole_text(text: str, ends: list[int], tokens: int) -> None:
    ends = sorted(set(ends))
    assert "".join(step_texts(text, ends, max([tokens, *ends]))) == text


@settings(max_examples=50)
@given(st.lists(st.integers(8, 40), min_size=1, max_size=12))
def test_paragraphs_that_are_steps_come_back_exactly(lengths: list[int]) -> None:
    paragraphs = [" ".join(["abc"] * n) for n in lengths]
    ends = np.cumsum(lengths).tolist()
    pieces = step_texts("\n\n".join(paragraphs), ends, ends[-1] + 1)
    assert [piece.strip() for piece in pieces] == paragraphs


def test_short_paragraph_merged_forward_stays_with_its_step() -> None:
    text = "So.\n\n" + "one two three four five six seven eight\n\n" + "nine " * 10
    first, second = step_texts(text, [9, 19], 19)
    assert first.startswith("So.\n\none two") and second.startswith("nine")


def test_a_step_split_inside_a_paragraph_ends_at_a_sentence() -> None:
    first, second = step_texts("One two three four. Five six seven eight.", [4, 8], 8)
    assert (first, second) == ("One two three four. ", "Five six seven eight.")


def test_text_after_the_thinking_is_a_piece_of_its_own() -> None:
    text = "a b c d e f g h\n\ni j k l m n o p\n\nThe answer is 5, after all of that."
    assert len(step_texts(text, [8, 16], 25)) == 3


def test_gallery_shows_one_kept_one_dropped_and_one_unsolved(view: RunView) -> None:
    cases = broken_traces(view)
    assert [c.outcome for c in cases] == [Outcome.KEPT, Outcome.DROPPED, Outcome.UNSOLVED]
    assert len({c.problem.id for c in cases}) == 3
    kept, dropped, unsolved = cases
    assert kept.repair and kept.repair.selected and kept.repair.selected.drop is Drop.KEPT
    assert dropped.repair and dropped.repair.selected
    assert dropped.repair.selected.drop is Drop.PURE
    solved = {s.problem_id for s in view.selected if s.pool == "D3"}
    assert unsolved.problem.id not in solved


def test_gallery_is_as_long_as_asked_while_there_are_problems(view: RunView) -> None:
    assert [len(broken_traces(view, n)) for n in (0, 1, 5)] == [0, 1, 5]


def test_failed_trace_and_repair_share_the_kept_steps(view: RunView) -> None:
    for case in broken_traces(view):
        assert case.repair
        ours = [s.text for s in case.steps if s.kept]
        theirs = [s.text for s in case.repair.steps if s.kept]
        assert ours == theirs and len(ours) == case.cut.step - 1


def test_a_repair_chosen_away_is_not_called_unrepaired(view: RunView) -> None:
    spare = tuple(replace(s, drop=Drop.PARENT_CAP) if s.pool == "D3" else s for s in view.selected)
    outcomes = {c.outcome for c in broken_traces(replace(view, selected=spare), 50)}
    assert outcomes == {Outcome.SPARE, Outcome.UNSOLVED}


def test_repair_that_was_never_scored_still_has_its_steps(view: RunView) -> None:
    for case in broken_traces(replace(view, pure=(), commitments={})):
        assert case.repair and case.repair.pure is None
        texts = [step.text for step in case.repair.steps]
        assert texts == [t.strip("\n") for t in case.repair.trace.text.split("\n\n")]
        assert sum(step.kept for step in case.repair.steps) == case.cut.step - 1


# Figures


def test_figure_of_the_same_numbers_is_the_same_bytes() -> None:
    entropy = np.array([0.1, 0.9, 0.2], np.float32)
    first = charts.entropy_chart(entropy, entropy + 0.1, [2], 2, "a")
    assert first == charts.entropy_chart(entropy, entropy + 0.1, [2], 2, "a")
    assert first.startswith("<svg") and "2000/svg" not in first


@pytest.mark.parametrize("steps", [1, 2, 400])
def test_figures_of_any_number_of_steps(steps: int) -> None:
    values = np.linspace(0, 1, steps, dtype=np.float32)
    unsure = np.full(steps + 1, np.nan, np.float32)
    assert "<text" in charts.entropy_chart(values, values, [], 1, "e")
    one_each = [10] * steps

    def drawn(uncertainty: np.ndarray, surprisal: np.ndarray | None, commitment: int | None) -> str:
        pure = PureScore("k", "p", "t", values, uncertainty, one_each, 1, [True] * steps, surprisal)
        return charts.pure_chart(pure, commitment, "p")

    assert "U (nats)" in drawn(unsure, None, None)
    assert "answer, −ln p" in drawn(unsure, values, None)
    assert "commits" in drawn(np.append(values, 0), values, steps)


def test_figure_of_an_arm_without_an_interval_says_so() -> None:
    nan = float("nan")
    drawn = charts.interval_chart([charts.Bar("heal", 12.0, nan, nan)], "a", "arms")
    assert "no interval" in drawn


def test_dollar_signs_in_labels_are_not_mathematics() -> None:
    assert "$x$" in charts.interval_chart([charts.Bar("$x$", 1.0, 0.5, 2.0)], "a", "arms")


# The terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_table_fits_80_columns(view: RunView, terminal: bool) -> None:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", printed(view, terminal=terminal)).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("heal" in line and "29 [18–40]" in line for line in lines)


def test_table_is_plain_where_nobody_watches(view: RunView) -> None:
    assert "\x1b" not in printed(view) and "| heal " in printed(view)
    assert "\x1b[1m" in printed(view, terminal=True)


def test_table_prints_on_a_terminal_without_utf8(view: RunView) -> None:
    text = printed(view, encoding="ascii")
    assert "29 [18-40]" in text and "?" not in text


def test_table_says_tokens_per_accepted_trace_and_the_ceiling(view: RunView) -> None:
    text = printed(view)
    assert "sampled per accepted" in text and "697" in text
    assert words.share_text(numbers.ceiling_before(view)) in text
    assert words.share_text(numbers.ceiling_after(view)) in text


def test_brackets_in_a_message_are_not_markup(view: RunView) -> None:
    assert "[bold]cap[/bold]" in printed(replace(view, stopped="[bold]cap[/bold]"))


# From the store


def loaded(run: ScriptedRun) -> RunView:
    with Store.open(run.folder, write=False) as store:
        return load_view(store)


def ledger(view: RunView) -> dict[str, LedgerRow]:
    return {row.name: row for row in view.stage_ledger}


def test_a_run_whose_problems_became_fewer_has_a_page_of_those_left(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    run.go()
    with pytest.raises(HealError):
        run.go("problems.limit=1", "limits.teacher_tokens=1")
    view = loaded(run)
    (left,) = (p.id for p in view.problems)
    assert {c.problem_id for c in view.ceilings} <= {left}
    assert {t.problem_id for t in (*view.unaided, *view.hinted, *view.repaired)} <= {left}
    assert {s.problem_id for s in view.selected} <= {left}
    judged = sum(view.verdicts[Split.TRAIN].values())
    assert judged == sum(t.problem_id == left for t in run.read("sample", Trace))
    assert Page(render_html(view)).unbalanced == []


def test_a_plan_of_sets_that_were_chosen_anew_is_not_shown(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.set_meta("config", {"arms": ["heal"], "seeds": [0]})
        plans = {"new": ("a", "b"), "old": ("a", "gone")}
        for index, traces in enumerate(plans.values(), start=1):
            store.put("plan", f"heal-seed0-{index}", "", StagePlan(index, (traces,), 1.0))
        store.set_live("plan", store.keys("plan"))
        store.put("problem", "p", "p", Problem("p", "Q", "1"))
        store.set_live("problem", ["p"])
        for trace in "ab":
            store.put("selected", trace, "p", Selected(trace, "p", "D1", Drop.KEPT))
        store.set_live("selected", "ab", tag="heal")
        assert [row.stage for row in load_view(store).plan] == [1]


@pytest.mark.parametrize(
    ("arms", "main", "bills"),
    [
        ("[base, rft, rft_more]", "rft", ["rft", "rft_more"]),
        ("[base, star]", "star", []),
        ("[base]", None, []),
        ("[heal-no-pure, rft]", "heal-no-pure", ["rft", "heal-no-pure"]),
        ("[rft, heal]", "heal", ["rft", "heal"]),
    ],
)
def test_the_arm_shown_is_named_and_only_a_heal_arm_has_repairs(
    tmp_path: Path, arms: str, main: str | None, bills: list[str]
) -> None:
    run = ScriptedRun(tmp_path)
    run.go(f"arms={arms}", "evaluate.scored_token_cost=1")
    view = loaded(run)
    assert view.main_arm == main
    assert [row.name for row in view.arm_ledger] == bills
    page, title = Page(render_html(view)).text, words.arm_title(view)
    for heals in ("repairs alone", "D3: repairs of", "kept by PURE"):
        assert (heals in page) == view.shows_heal
    assert f"{title} repaired" in page if view.shows_heal else "HEAL repaired" not in page
    assert (f"after: {title}" in printed(view)) == (main is not None)
    assert ("after: HEAL" in printed(view)) == (main == "heal")


def test_a_repair_that_the_arm_shown_does_not_take_is_not_told_as_if_others_were(
    view: RunView,
) -> None:
    shown = {c.outcome for c in broken_traces(replace(view, main_arm="rft", selected=()), 40)}
    assert Outcome.UNUSED in shown and Outcome.SPARE not in shown


@pytest.mark.parametrize(
    "settings",
    [
        "pure={selection: surprisal}",
        "pure={selection: fraction, measure_calibrated: true}",
        "pure={selection: fraction}",
    ],
)
def test_the_ledger_of_heal_is_what_the_bill_says(tmp_path: Path, settings: str) -> None:
    run = ScriptedRun(tmp_path)
    run.go("arms=[heal, rft_more]", "evaluate.scored_token_cost=1", settings)
    view = loaded(run)
    (heal,) = (row for row in view.arm_ledger if row.name == "heal")
    unaided = ledger(view)["unaided traces"].sampled
    assert heal.sampled + heal.scored - unaided == run.meta("bill")
    honest = sum(p.scored_tokens for p in run.read("pure", PureScore, tag="honest"))
    apart = sum(row.scored for row in view.stage_ledger if not row.billed)
    assert apart == (honest if "measure_calibrated" in settings else 0)
    assert bool(honest) == (settings != "pure={selection: fraction}")


def test_traces_a_gate_refused_are_wasted(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    run.go("gear.early_answer_share=0.99")
    verdicts = {c.trace: c.verdict for c in run.read("check", Check)}
    gates = {g.trace: g.gate for g in run.read("gate", GateResult)}
    for name, table in (("repairs", "repair"), ("whole traces under the answer", "hinted")):
        traces = run.read(table, Trace)
        refused = [t for t in traces if gates[t.key] is not Gate.PASSED]
        assert any(verdicts[t.key] is Verdict.CORRECT for t in refused)
        assert ledger(loaded(run))[name].wasted == sum(t.new_tokens for t in refused)


def test_of_many_comparisons_those_of_the_arm_shown_come_first(view: RunView) -> None:
    assert view.evaluation is not None
    (first, *_) = view.evaluation.differences
    arms = [f"arm{i}" for i in range(9)]
    pairs = [("heal", arm) for arm in arms] + [(a, b) for a in arms for b in arms if a < b]
    many = tuple(replace(first, arm=a, against=b, primary=False) for a, b in pairs)
    html = render_html(replace(view, evaluation=replace(view.evaluation, differences=many)))
    above, folded = html.split("The other 36 comparisons")
    assert all(f"heal − {arm}<" in above for arm in arms)
    assert "arm0 − arm1<" not in above and "arm0 − arm1<" in folded.split("</details>")[0]
    assert "comparisons</summary>" not in render_html(view)
