"""The page and the terminal's table: what they say, and that they hold whatever a run is like."""

import base64
import hashlib
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.made_run import fill, lab_run
from tests.report_fixture import (
    UNREPAIRED,
    Page,
    changed,
    evaluation,
    lab_view,
    minimal_view,
    printed,
    rewrite,
)

from heal.method.intervals import Interval
from heal.method.summary import Difference, EvalSummary
from heal.records import (
    Drop,
    Finish,
    Hint,
    HintKind,
    Problem,
    Split,
    Stratum,
    Trace,
    Verdict,
)
from heal.redaction import visible
from heal.report import numbers, pure_words, sentences, words
from heal.report.exhibits import MAX_STEP_CHARS
from heal.report.html import render_html
from heal.report.load import load_view
from heal.report.view import (
    CutCount,
    ExtremeCount,
    ExtremeRow,
    Filtering,
    PoolCount,
    Progress,
    RunView,
    StratumCount,
    TraceCount,
    YieldCount,
)
from heal.store import AttemptRow, Store


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab_run(tmp_path_factory.mktemp("lab") / "run", problems=90, held_out=40)


@pytest.fixture(scope="module")
def view(lab: Path) -> RunView:
    return lab_view(lab)


@pytest.fixture(scope="module")
def html(view: RunView) -> str:
    return render_html(view)


def unaided(verdict: Verdict, traces: int) -> TraceCount:
    return TraceCount("sample", Split.TRAIN, False, verdict, None, None, traces)


def hopeless_view(problems: int = 4) -> RunView:
    """The teacher solves nothing, mostly for want of room."""
    return minimal_view(
        problems={Split.TRAIN: problems},
        strata={Split.TRAIN: {Stratum.TRUNCATED: StratumCount(problems, 0, 30)}},
        traces=(
            unaided(Verdict.TRUNCATED, 20 * problems),
            unaided(Verdict.WRONG, 10 * problems),
        ),
    )


EASY = (
    "UPDATE problems SET stratum = 'easy', correct = 30, rho = 1, truncated = 0",
    *(f"DELETE FROM {table}" for table in ("cuts", "hints", "selected")),
    "DELETE FROM traces WHERE stage <> 'sample'",
)
"""Nothing at the ceiling, so nothing cut."""


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


def test_order_of_rows_and_bodies_does_not_change_the_page(
    lab: Path, html: str, tmp_path: Path
) -> None:
    rng = random.Random(1)

    def mix(store: Store) -> None:
        for table in ("records", "traces", "cuts", "hints", "scores", "selected", "problems"):
            rows = list(store.query(f"SELECT * FROM {table}"))
            list(store.query(f"DELETE FROM {table}"))
            marks = ",".join("?" * len(rows[0]))
            for row in rng.sample(rows, len(rows)):
                list(store.query(f"INSERT INTO {table} VALUES ({marks})", row))

    assert render_html(changed(lab, tmp_path, edit=mix)) == html


def test_the_policy_names_the_one_style_sheet_and_the_one_script(html: str) -> None:
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    for tag in ("style", "script"):
        (source,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.S)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[0]
    assert len(policy) == 1
    assert "unsafe" not in policy[0]
    assert not re.search(r"<[^>]+\s(style|on\w+)=", html)


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
def test_nothing_a_problem_or_a_model_writes_becomes_markup(
    lab: Path, tmp_path: Path, text: str
) -> None:
    # what the store takes: no encoding writes a lone surrogate
    written = text.encode("utf-8", "replace").decode()

    def write(store: Store) -> None:
        rewrite(store, "problem", Problem, lambda p: replace(p, problem=written, answer=written))
        rewrite(store, "hint", Hint, lambda h: replace(h, text=written))
        for stage in ("sample", "repair"):
            rewrite(store, stage, Trace, lambda t: replace(t, text=f"{written}\n\n{written}"))
        list(store.query("UPDATE traces SET answer = ?", (written,)))

    bad = changed(lab, tmp_path, edit=write)
    html = render_html(replace(bad, name=text, config_yaml=text, stopped=text))
    html.encode("utf-8")
    page = Page(html)
    assert page.unbalanced == [] and page.open == []
    assert page.elements["script"] == 1 and page.elements["img"] == 0
    for shown in (text, written):
        assert " ".join(visible(shown).split()) in page.text


def test_long_traces_and_many_problems_stay_a_small_file(tmp_path: Path) -> None:
    folder, long = fill(tmp_path / "run", 1500), "word " * 400_000
    with Store.open(folder) as store:
        first = load_view(store)
        shown = {row.problem for row in first.extreme_rows} | {b.problem.id for b in first.gallery}
        rewrite(store, "problem", Problem, lambda p: replace(p, problem=long), shown)
        for stage in ("sample", "repair"):
            own = {b.problem.id for b in first.gallery}
            rewrite(store, stage, Trace, lambda t: replace(t, text=long), own)
        view = load_view(store)
    html = render_html(view)
    assert len(html.encode()) < 3_000_000
    hidden = view.extreme.problems - 200
    assert "more characters)" in html and "The first 200 of" in html
    assert hidden > 0 and f"Not shown: {hidden}." in html


def test_clipped_text_says_how_much_is_missing(lab: Path, view: RunView, tmp_path: Path) -> None:
    cut = view.gallery[0].cut
    long = "\n\n".join(["x" * (MAX_STEP_CHARS + 1234)] * len(cut.step_ends))

    def lengthened(trace: Trace) -> Trace:
        return replace(trace, text=long) if trace.key == cut.trace else trace

    def write(store: Store) -> None:
        rewrite(store, "sample", Trace, lengthened)

    assert "… (1,234 more characters)" in render_html(changed(lab, tmp_path, edit=write))


def test_a_line_that_could_not_be_drawn_is_said_first(view: RunView) -> None:
    lined = replace(view, filtering=Filtering("surprisal", None, honest=7))
    said = sentences.teacher_sentences(lined)[-1]
    assert said.startswith("PURE drew no line (7 honest traces, and a line needs 20): the most")
    kept = tuple(
        row._replace(drop=Drop.KEPT) if row.drop is Drop.PURE else row for row in view.traces
    )
    unfiltered = sentences.teacher_sentences(replace(lined, traces=kept))[-1]
    assert unfiltered.startswith("D2 and D3 are unfiltered: PURE could not judge (7 honest traces")
    for drawn in (Filtering("surprisal", 1.2, honest=40), Filtering("length")):
        assert pure_words.headline(replace(view, filtering=drawn)) is None


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
        (lambda v: minimal_view(), "Run the same command again to go on."),
        (lambda v: hopeless_view(), "solved none of the 4 problems"),
        (lambda v: hopeless_view(1), "solved not the one problem it has"),
        (lambda v: hopeless_view(), "80 of its 120 traces were cut off: raise sampling.max_new"),
        (lambda v: replace(hopeless_view(), traces=()), "4 problems sampled; no trace is verified"),
        (lambda v: replace(v, student=None, evaluation=None), "No student was trained"),
        (lambda v: replace(v, evaluation=None), "evaluated: the run did not get that far"),
        (
            lambda v: replace(v, evaluation=None, problems={Split.TRAIN: 90}),
            "evaluated: no problem is held out",
        ),
        (lambda v: replace(v, stopped="limits.teacher_tokens reached"), "not complete"),
    ],
)
def test_what_a_run_lacks_is_said(
    view: RunView, make: Callable[[RunView], RunView], said: str
) -> None:
    _says(make(view), said)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (EASY, "none was beyond its reach, so HEAL had nothing to repair"),
        (UNREPAIRED, "HEAL repaired none of those."),
        (UNREPAIRED, "Most were refused as incorrect"),
        (
            (
                "DELETE FROM selected",
                "UPDATE meta SET value = 'null' WHERE name = 'complete'",
                """INSERT INTO meta VALUES ('stopped', '"Ctrl-C"')""",
            ),
            "have not been chosen yet",
        ),
        (("DELETE FROM cuts",), "No failed trace was cut in this run."),
        (("DELETE FROM records WHERE stage = 'cut'",), "broken trace passed over, unreadable 16"),
        (
            ("UPDATE problems SET n = 0 WHERE place < 7",),
            "training problem without an unaided trace 7 of 90",
        ),
    ],
)
def test_what_the_store_lacks_is_said(
    lab: Path, tmp_path: Path, statements: tuple[str, ...], said: str
) -> None:
    _says(changed(lab, tmp_path, *statements), said)


def _says(lacking: RunView, said: str) -> None:
    page = Page(render_html(lacking))
    assert said in page.text.replace("\u00a0", " ")
    assert page.unbalanced == []
    assert printed(lacking)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM traces",
        "DELETE FROM traces WHERE stage = 'sample'",
        "DELETE FROM traces WHERE stage = 'repair'",
        "DELETE FROM hints",
        "UPDATE traces SET verdict = NULL, answer = NULL",
        "UPDATE traces SET gate = NULL",
        "DELETE FROM scores",
        "DELETE FROM selected",
        "DELETE FROM problems",
        "DELETE FROM records",
        "DELETE FROM live",
        "DELETE FROM meta WHERE name <> 'schema'",
    ],
)
def test_a_run_that_stopped_anywhere_has_a_page(lab: Path, tmp_path: Path, statement: str) -> None:
    lacking = changed(lab, tmp_path, statement)
    page = Page(render_html(lacking))
    assert page.unbalanced == []
    assert "Broken traces" in page.text or "One broken trace, mended" in page.text
    assert printed(lacking)


def test_while_a_run_goes_on_nobody_is_told_to_start_it_again(view: RunView) -> None:
    for lacking in (minimal_view(), replace(view, traces=(), extreme=ExtremeCount(3))):
        running = replace(lacking, running=Progress("problems", 0, 9))
        said = " ".join(
            (*sentences.teacher_sentences(running), *sentences.student_sentences(running))
        )
        assert "again" not in said and "did not get" not in said


def test_interval_that_includes_zero_is_not_a_gain(view: RunView) -> None:
    assert "no difference shown" in _endpoint(view, Interval(0.05, -0.01, 0.11, 40))
    assert "made the student worse" in _endpoint(view, Interval(-0.05, -0.09, -0.01, 40))
    assert "lies above zero" in _endpoint(view, Interval(0.05, 0.01, 0.09, 40))


def _endpoint(view: RunView, interval: Interval) -> str:
    difference = Difference("heal", "rft_more", "hard+extreme", interval, primary=True)
    summary = replace(evaluation(), differences=(difference,))
    return " ".join(sentences.student_sentences(replace(view, evaluation=summary)))


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
    said = " ".join(sentences.student_sentences(few))
    assert "heal − rft: +10.0 [+3.1, +17.1] points, 1 training seed" in said
    assert "heal − rft_more on hard and extreme problems, was not measured" in said
    caveats = " ".join(sentences.caveats(few))
    assert "1 training seed:" in caveats and "No rft_more arm" in caveats
    assert "training seed" not in " ".join(sentences.caveats(view))


def test_attempts_left_out_of_the_evaluation_are_a_fact(view: RunView) -> None:
    summary = replace(evaluation(), failed=7, left_out=2)
    facts = {f.text: f.count for f in numbers.all_facts(replace(view, evaluation=summary))}
    assert [n for text, n in facts.items() if "left out" in text] == [7, 2]


def test_summary_of_real_attempts_is_shown(lab: Path, tmp_path: Path) -> None:
    def attempt(store: Store) -> None:
        held_out = store.query("SELECT problem FROM problems WHERE split = 'held_out'")
        store.insert(
            AttemptRow(p, arm, seed, i, f"{arm}{seed}{p}{i}", verdict, "7", Finish.STOP, 90, None)
            for number, (p,) in enumerate(list(held_out))
            for arm in ("base", "rft_more", "heal")
            for seed in (0, 1)
            for i in range(4)
            for verdict in [Verdict.CORRECT if (number + i) % 3 < len(arm) // 3 else Verdict.WRONG]
        )

    changed(lab, tmp_path, edit=attempt)
    with Store.open(tmp_path / "run", write=False) as store:
        real = load_view(store)
    assert real.evaluation is not None and real.evaluation.k == 4
    sizes = {s.stratum: s.avg.n_problems for s in real.evaluation.arms}
    own = {str(row.stratum): row.problems for row in numbers.strata(real, Split.HELD_OUT)}
    assert sizes["all"] == 40 and all(sizes[name] == n for name, n in own.items() if n)
    assert "(primary endpoint)" in Page(render_html(real)).text
    lines = printed(real).splitlines()
    assert max(map(len, lines)) <= 80 and any(line.startswith("| rft_more ") for line in lines)


ONES = re.compile(
    r"\b1 (?:extreme |more |training |held-out |selected )?"
    r"(?:problems|traces|cuts|tries|steps|comparisons|attempts|seeds|characters)\b"
)


def test_one_thing_is_not_counted_in_the_plural(view: RunView) -> None:
    one = hopeless_view(1)
    lone = replace(
        one,
        traces=(unaided(Verdict.WRONG, 1), unaided(Verdict.CORRECT, 1)),
        strata={Split.TRAIN: {Stratum.EXTREME: StratumCount(1, 1, 1)}},
        extreme=ExtremeCount(1, 1, 1, 1),
        cuts=CutCount(1, 1, 1, 1),
        pools={"D1": PoolCount(1, 1, {Drop.KEPT: 1}, 1, 20.0, 0.0)},
        yields=(YieldCount(HintKind.GUIDED, 1, 1, 1, 1, 1, 1),),
        extreme_rows=(ExtremeRow("p", "Q", 1, 1, 1, 1, 1, 1),),
        gallery=(replace(view.gallery[0], tries=(("passed", 1),)),),
    )
    for repaired in (0, 1):
        shown = replace(lone, extreme=ExtremeCount(1, 1, 1, repaired))
        for text in (Page(render_html(shown)).text, printed(shown)):
            assert not ONES.search(text.replace("\u00a0", " ").replace("30 correct", ""))
    assert "1 extreme problem, one by one" in Page(render_html(lone)).text
    assert "The only try from this cut: 1 passed" in Page(render_html(lone)).text


def test_importing_the_page_loads_no_heavy_library() -> None:
    code = (
        "import sys, heal.report.html, heal.report.table; "
        "sys.exit(bool({'matplotlib', 'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
    (heal,) = (row for row in view.arm_ledger if row.name == "heal")
    assert "sampled per accepted" in text and f"{heal.per_accepted:,.0f} |" in text
    assert words.share_text(numbers.ceiling_before(view)) in text
    assert words.share_text(numbers.ceiling_after(view)) in text


def test_brackets_in_a_message_are_not_markup(view: RunView) -> None:
    assert "[bold]cap[/bold]" in printed(replace(view, stopped="[bold]cap[/bold]"))


def test_of_many_comparisons_those_of_the_arm_shown_come_first(view: RunView) -> None:
    assert view.evaluation is not None
    (first, *_) = view.evaluation.differences
    arms = [f"arm{i}" for i in range(9)]
    pairs = [("heal", arm) for arm in arms] + [(a, b) for a in arms for b in arms if a < b]
    many = tuple(replace(first, arm=a, against=b, primary=False) for a, b in pairs)
    html = render_html(replace(view, evaluation=replace(view.evaluation, differences=many)))
    above, folded = html.split("The other 36 comparisons", 1)
    assert all(f"heal − {arm}<" in above for arm in arms)
    assert "arm0 − arm1<" not in above and "arm0 − arm1<" in folded.split("</details>")[0]
    assert "comparisons</summary>" not in render_html(view)
