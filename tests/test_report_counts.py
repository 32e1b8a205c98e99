"""From the store to the view: what SQL counts is what a reader of all rows would count."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.any_run import OTHER, TEXT, Rows, any_run
from tests.made_run import BREAKPOINT, fill, lab_run
from tests.report_fixture import changed, lab_view, printed

from heal.method.pace import POOLS
from heal.records import (
    Drop,
    Gate,
    HintKind,
    Split,
    StagePlan,
    Verdict,
)
from heal.report import numbers, sentences
from heal.report.html import render_html
from heal.report.ledger import MATCHED
from heal.report.load import load_view
from heal.report.view import LedgerRow, RunView
from heal.store import (
    CutRow,
    HintRow,
    ProblemRow,
    SelectedRow,
    Store,
    TraceRow,
)


@pytest.fixture(scope="module", params=range(6))
def any_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return any_run(tmp_path_factory.mktemp("any") / "run", request.param)


@pytest.fixture(scope="module")
def view(any_store: Path) -> RunView:
    with Store.open(any_store, write=False) as store:
        return load_view(store)


@pytest.fixture(scope="module")
def rows(any_store: Path) -> Rows:
    with Store.open(any_store, write=False) as store:
        return Rows.read(store)


def problems_of(rows: Sequence[TraceRow | SelectedRow | CutRow | HintRow]) -> set[str]:
    return {row.problem for row in rows}


def test_strata_are_those_of_the_problems_that_were_sampled(view: RunView, rows: Rows) -> None:
    for split in Split:
        own = [p for p in rows.problems.values() if p.split == split]
        assert view.problems.get(split, 0) == len(own)
        for row in numbers.strata(view, split):
            inside = [p for p in own if p.stratum == row.stratum and p.n]
            assert row.problems == len(inside)
            assert row.solved == sum(p.correct > 0 for p in inside)
        most = max((p.n for p in own), default=0)
        assert numbers.attempts_per_problem(view, split) == most


def test_the_ceiling_is_counted_over_the_extreme_problems(view: RunView, rows: Rows) -> None:
    extreme, chosen = rows.extreme(), rows.chosen("heal").values()
    ids = {p.problem for p in extreme}
    solved = {p.problem for p in extreme if p.correct}
    kept = problems_of([s for s in chosen if s.drop == Drop.KEPT and s.pool in POOLS])
    past = problems_of([s for s in chosen if s.drop != Drop.PURE and s.pool == "D3"])
    counts = (numbers.ceiling_before, numbers.ceiling_after, numbers.repaired_share)
    assert [(f(view).hits, f(view).n) for f in counts] == [
        (len(solved), len(ids)),
        (len((solved | kept) & ids), len(ids)),
        (len(past & ids), len(ids)),
    ]


def test_traces_of_each_fate_are_counted_once(view: RunView, rows: Rows) -> None:
    chosen, expected = rows.chosen("heal"), Counter[object]()
    tokens = Counter[object]()
    for stage in ("sample", "hinted", "repair"):
        for t in rows.of(stage):
            split = rows.problems[t.problem].split
            drop = chosen[t.key].drop if t.key in chosen else None
            fate = (stage, split, bool(t.failed), t.verdict, t.gate, drop)
            expected[fate] += 1
            tokens[fate] += t.new_tokens
    assert {count[:6]: count.traces for count in view.traces} == expected
    assert {count[:6]: count.new_tokens for count in view.traces} == tokens
    for split in Split:
        own = [t for t in rows.of("sample") if rows.problems[t.problem].split == split]
        judged = Counter(t.verdict for t in own)
        assert numbers.verdict_counts(view, split) == {v: judged[v] for v in Verdict}


@pytest.mark.parametrize(("stage", "pool"), [("hinted", "D2"), ("repair", "D3")])
def test_funnels_count_the_problems_of_the_traces_that_are_left(
    view: RunView, rows: Rows, stage: str, pool: str
) -> None:
    chosen = rows.chosen("heal")
    drawn = [t for t in rows.of(stage) if not t.failed]
    passed = [t for t in drawn if t.gate == Gate.PASSED]
    past = [t for t in passed if t.key in chosen and chosen[t.key].drop != Drop.PURE]
    kept = [t for t in past if chosen[t.key].drop == Drop.KEPT]
    funnel = numbers.candidate_funnel(view, pool)
    assert [(row.problems, row.traces) for row in funnel] == [
        (len(problems_of(left)), len(left)) for left in (drawn, passed, past, kept)
    ]


def test_cuts_and_hints_are_those_of_the_breakpoint_shown(view: RunView, rows: Rows) -> None:
    cuts = [c for c in rows.cuts if c.tag == BREAKPOINT]
    told = {h.cut for h in rows.hints if h.tag == BREAKPOINT and not h.empty}
    hinted = [c for c in cuts if c.key in told]
    own = view.cuts
    assert (own.cuts, own.problems) == (len(cuts), len(problems_of(cuts)))
    assert (own.hinted, own.hinted_problems) == (len(hinted), len(problems_of(hinted)))
    assert own.undecided == sum(c.undecided for c in cuts)
    assert own.fallbacks == Counter(c.fallback for c in cuts if c.fallback)
    hints = [h for h in rows.hints if h.tag in (BREAKPOINT, "answer")]
    assert view.hints.hints == len(hints)
    assert view.hints.other_kind == sum(h.kind != h.asked for h in hints)
    assert view.hints.leaks == sum(h.leaks for h in hints)
    assert view.hints.failed == sum(h.failed for h in hints)


def test_yields_are_by_the_kind_of_hint_that_a_repair_was_told(view: RunView, rows: Rows) -> None:
    kind_of = {h.key: h.kind for h in rows.hints if h.tag == BREAKPOINT}
    chosen = rows.chosen("heal")
    drawn = [t for t in rows.of("repair") if not t.failed and t.hint in kind_of]
    found = {y.kind: y for y in numbers.hint_yields(view)}
    assert found.keys() == {HintKind(kind_of[t.hint]) for t in drawn}
    for kind, own in found.items():
        traces = [t for t in drawn if kind_of[t.hint] == kind]
        passed = [t for t in traces if t.gate == Gate.PASSED]
        kept = [t for t in passed if t.key in chosen and chosen[t.key].drop != Drop.PURE]
        assert own.hints == len({t.hint for t in traces})
        assert (own.traces, own.passed, own.kept) == (len(traces), len(passed), len(kept))
        reached = (len(problems_of(kept)), len(problems_of(traces)))
        assert (own.problems.hits, own.problems.n) == reached


def test_profiles_are_those_of_hinted_traces_and_repairs(view: RunView, rows: Rows) -> None:
    own = [s for s in rows.scores if s.stage == "pure" and s.tag in (BREAKPOINT, "hinted")]
    fine = [s for s in own if not s.failed]
    found = view.profiles
    assert (found.profiles, found.failed) == (len(own), len(own) - len(fine))
    assert found.with_uncertainty == sum(s.commitment is not None for s in fine)
    assert found.never_committed == sum(s.commitment == 0 for s in fine)
    assert found.unmentioned == sum(s.surprisal is None for s in fine)


def test_sets_are_what_the_arm_shown_has_kept(view: RunView, rows: Rows) -> None:
    chosen = rows.chosen("heal").values()
    for row in numbers.sets(view):
        own = [s for s in chosen if s.pool == row.pool]
        kept = [s for s in own if s.drop == Drop.KEPT]
        assert (row.traces, row.problems) == (len(kept), len(problems_of(kept)))
        if kept:
            assert row.mean_tokens == pytest.approx(sum(s.tokens for s in kept) / len(kept))
            doubt = sum(s.doubt or 0.0 for s in kept) / len(kept)
            assert row.doubt_rate == pytest.approx(1000 * doubt)
        funnel = numbers.set_funnel(view, row.pool, "correct")
        assert [(r.problems, r.traces) for r in funnel] == (
            [(len(problems_of(left)), len(left)) for left in (own, kept)] if own else []
        )
    near = sum(s.drop == Drop.NEAR_DUPLICATE for s in chosen)
    facts = {fact.text: (fact.count, fact.of) for fact in numbers.all_facts(view)}
    assert facts.get("near-duplicate dropped", (0, 0))[0] == near


def test_extreme_problems_are_listed_furthest_from_a_repair_first(
    view: RunView, rows: Rows
) -> None:
    repairs, chosen = rows.of("repair"), rows.chosen("heal").values()
    expected = []
    for p in rows.extreme():
        own = [t for t in repairs if t.problem == p.problem]
        kept = [s for s in chosen if (s.problem, s.pool, s.drop) == (p.problem, "D3", Drop.KEPT)]
        passed = sum(t.gate == Gate.PASSED for t in own)
        cuts = sum((c.problem, c.tag) == (p.problem, BREAKPOINT) for c in rows.cuts)
        expected.append((p.problem, p.correct, p.n, cuts, len(own), passed, len(kept)))
    expected.sort(key=lambda row: (row[6], row[5], row[0]))
    found = [(r.problem, r.correct, r.n, r.cuts, r.drawn, r.passed, r.kept)
             for r in view.extreme_rows]  # fmt: skip
    assert found == expected
    assert {row.text for row in view.extreme_rows} == {TEXT}


def wasted(traces: Sequence[TraceRow]) -> int:
    """New tokens of traces that are not correct, or that a gate refused."""
    good = [t for t in traces if t.verdict == Verdict.CORRECT and t.gate in (None, Gate.PASSED)]
    return sum(t.new_tokens for t in traces) - sum(t.new_tokens for t in good)


def ledger(view: RunView) -> dict[str, LedgerRow]:
    return {row.name: row for row in view.stage_ledger}


@pytest.mark.parametrize("selection", ["surprisal", "fraction"])
def test_the_ledger_adds_up_to_every_token_of_the_arm_shown(
    any_store: Path, rows: Rows, tmp_path: Path, selection: str
) -> None:
    pure = f"json_set(value, '$.pure', json('{{\"selection\": \"{selection}\"}}'))"
    changed(any_store, tmp_path, f"UPDATE meta SET value = {pure} WHERE name = 'config'")
    view = lab_view(tmp_path / "run")
    found, chosen = ledger(view), rows.chosen("heal")
    train = [t for t in rows.of("sample") if rows.problems[t.problem].split == Split.TRAIN]
    held_out = [t for t in rows.of("sample") if rows.problems[t.problem].split != Split.TRAIN]
    for name, own in (
        ("unaided traces", train),
        ("whole traces under the answer", rows.of("hinted")),
        ("repairs", rows.of("repair")),
    ):
        kept = sum(t.key in chosen and chosen[t.key].drop == Drop.KEPT for t in own)
        row = (sum(t.new_tokens for t in own), wasted(own), kept)
        assert (found[name].sampled, found[name].wasted, found[name].accepted) == row
    hints = sum(h.new_tokens for h in rows.hints if h.tag == BREAKPOINT)
    assert found["hints"].sampled == hints
    located = sum(s.scored_tokens for s in rows.scores if s.stage == "scores")
    assert found["locating breaks"].scored == located
    pure_of = Counter[str]()
    for s in rows.scores:
        pure_of[s.tag] += s.scored_tokens * (s.stage == "pure")
    own_pure, honest = pure_of[BREAKPOINT] + pure_of["hinted"], pure_of["honest"]
    lined = selection == "surprisal"
    assert found["scoring for PURE"].scored == own_pure + lined * honest
    apart = {row.name: row.sampled + row.scored for row in view.stage_ledger if not row.in_budget}
    assert apart == {
        **({} if lined or not honest else {"scoring of honest traces, to compare with": honest}),
        **(
            {"strata of held-out problems": sum(t.new_tokens for t in held_out)} if held_out else {}
        ),
    }
    (heal,) = (row for row in view.arm_ledger if row.name == "heal")
    assert heal.scored == located + own_pure + lined * honest
    parts = (train, rows.of("hinted"), rows.of("repair"))
    assert heal.sampled == hints + sum(t.new_tokens for own in parts for t in own)
    assert heal.wasted == sum(map(wasted, parts))


def test_arms_that_draw_for_the_matched_budget_are_counted_by_themselves(
    view: RunView, rows: Rows
) -> None:
    found, unaided = {row.name: row for row in view.arm_ledger}, ledger(view)["unaided traces"]
    for arm in MATCHED:
        own = [t for t in rows.traces if (t.stage, t.tag) == ("matched", arm)]
        kept = sum(s.drop == Drop.KEPT for s in rows.chosen(arm).values())
        assert found[arm].sampled == unaided.sampled + sum(t.new_tokens for t in own)
        assert found[arm].wasted == unaided.wasted + wasted(own)
        assert found[arm].accepted == kept
    assert found["rft"].sampled == unaided.sampled
    assert found["rft"].accepted == sum(s.drop == Drop.KEPT for s in rows.chosen("rft").values())


# The run as it is configured now


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab_run(tmp_path_factory.mktemp("lab") / "run", problems=60, held_out=20)


def test_a_run_whose_problems_became_fewer_has_a_page_of_those_left(
    lab: Path, tmp_path: Path
) -> None:
    with Store.open(lab, write=False) as store:
        left = {row.problem for row in store.rows(ProblemRow, "stratum = 'extreme'")}
        every = Rows.read(store)
    view = changed(lab, tmp_path, edit=lambda store: store.keep_problems(left))
    assert sum(view.problems.values()) == len(left)
    assert {row.problem for row in view.extreme_rows} <= left
    assert {case.problem.id for case in view.gallery} <= left
    own = [t for t in every.of("sample") if t.problem in left]
    assert sum(c.traces for c in numbers.traces_of(view, "sample")) == len(own)
    kept = [s for s in every.chosen("heal").values() if s.problem in left]
    assert sum(pool.candidates for pool in view.pools.values()) == len(kept)
    assert "broken traces" in render_html(view).casefold()


def test_a_plan_of_sets_that_were_chosen_anew_is_not_shown(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run") as store:
        store.set_meta("config", {"arms": ["heal"], "seeds": [0]})
        plans = {"new": ("a", "b", "a"), "old": ("a", "gone"), "dropped": ("a", "c")}
        rows = [
            (f"heal-seed{seed}-{index}", "", StagePlan(index, (traces,), 1.0))
            for index, traces in enumerate(plans.values(), start=1)
            for seed in (0, 1)
        ]
        store.record("plan", rows)
        drops = {"a": Drop.KEPT, "b": Drop.KEPT, "c": Drop.PURE}
        store.insert(
            SelectedRow("heal", "p", trace, "D1", drop, None, 5, 5, None, "sample")
            for trace, drop in drops.items()
        )
        (row,) = load_view(store).plan
    assert (row.arm, row.stage, row.presentations, row.distinct) == ("heal", 1, 3, 2)
    assert row.shares == {"D1": 3}


@pytest.mark.parametrize(
    ("arms", "main", "ledgers"),
    [
        ('["base", "rft", "rft_more"]', "rft", ["rft", "rft_more"]),
        ('["base", "star"]', "star", []),
        ('["base"]', None, []),
        ('["heal-no-pure", "rft"]', "heal-no-pure", ["rft", "heal-no-pure"]),
        ('["rft", "heal"]', "heal", ["rft", "heal"]),
    ],
)
def test_the_arm_shown_is_named_and_only_a_heal_arm_has_repairs(
    lab: Path, tmp_path: Path, arms: str, main: str | None, ledgers: list[str]
) -> None:
    def another(store: Store) -> None:
        list(store.query("UPDATE selected SET arm = ? WHERE arm = 'heal'", (main or "gone",)))
        if "rft_more" in ledgers:
            for row in list(store.rows(TraceRow, "stage = 'sample' LIMIT 9")):
                store.insert([row._replace(stage="matched", tag="rft_more")])

    config = f"UPDATE meta SET value = json_set(value, '$.arms', json('{arms}'))"
    gone = "DELETE FROM selected WHERE arm = 'rft'"
    view = changed(lab, tmp_path, f"{config} WHERE name = 'config'", gone, edit=another)
    assert view.main_arm == main
    assert [row.name for row in view.arm_ledger] == ledgers
    page, title = _text(view), sentences.arm_title(view)
    for heals in ("repairs alone", "D3: repairs of", "kept by PURE"):
        assert (heals in page) == view.shows_heal
    assert f"{title} repaired" in page if view.shows_heal else "HEAL repaired" not in page
    assert (f"after: {title}" in printed(view)) == (main is not None)
    assert ("after: HEAL" in printed(view)) == (main == "heal")


def test_a_control_that_cuts_elsewhere_is_shown_with_its_own_repairs(any_store: Path) -> None:
    """Where it is the arm shown: the candidates of its sets are those of its breakpoint."""
    with Store.open(any_store, write=False) as store:
        rows = Rows.read(store)
    with Store.open(any_store) as store:
        config = store.meta("config")
        store.set_meta("config", {**config, "arms": ["heal-random-cut"]})
        try:
            view = load_view(store)
        finally:
            store.set_meta("config", config)
    own = [t for t in rows.traces if (t.stage, t.tag) == ("repair", OTHER)]
    assert sum(c.traces for c in numbers.traces_of(view, "repair")) == len(own)
    assert view.cuts.cuts == sum(c.tag == OTHER for c in rows.cuts)


def _text(view: RunView) -> str:
    return render_html(view).replace("\u00a0", " ")


# However large the run is


MEASURE = """
import sys
from pathlib import Path
from heal.store import Store
from heal.report.html import render_html
from heal.report.load import load_view
with Store.open(Path(sys.argv[1]), write=False) as store:
    view = load_view(store)
size = len(render_html(view).encode())
# getrusage's own figure would include the process that started this one
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0], size)
"""


def test_memory_and_page_hardly_grow_with_the_run(tmp_path: Path) -> None:
    def measured(name: str, problems: int) -> tuple[int, int]:
        folder = fill(tmp_path / name, problems)
        command = [sys.executable, "-c", MEASURE, str(folder)]
        kib, size = subprocess.run(command, capture_output=True, check=True).stdout.split()
        return int(kib), int(size)

    (small, page), (large, longer) = measured("small", 300), measured("large", 3000)
    # what a run ten times as large holds in rows alone would be some 60 MB
    assert large - small < 25 * 1024
    assert longer < page + 60_000
