"""Which traces `heal view` finds, and what it knows of one."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from tests.made_run import lab_run
from tests.report_fixture import rewrite
from tests.scripted_run import ScriptedRun, easy, extreme, hard, summing, world

from heal.errors import UserError
from heal.records import Cut, Drop, Gate, Hint, Outcome, Trace
from heal.store import Store
from heal.store.marks import Mark, add_mark
from heal.view import index as view_index
from heal.view import words
from heal.view.curves import curve
from heal.view.differences import side_by_side
from heal.view.heat import LEVELS, level_of, shaded, strip
from heal.view.index import FACETS, PAGE_ROWS, Entry, Filters, Index
from heal.view.trace import Story, open_story


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    parts = world(easy("apples"), hard("pears"), extreme("plums"))
    made = ScriptedRun(tmp_path_factory.mktemp("view"), parts)
    made.go()
    return made


@pytest.fixture
def index(run: ScriptedRun) -> Index:
    return read(run.folder)


def read(folder: Path) -> Index:
    found = Index(folder)
    found.refresh()
    return found


def all_of(index: Index, filters: Filters) -> list[Entry]:
    """Through page after page."""
    found, page = list[Entry](), index.page(filters)
    while True:
        found += page.rows
        if not page.has_more:
            return found
        page = index.page(filters, after=page.rows[-1].n)


def story(folder: Path, index: Index, entry: Entry) -> Story:
    with Store.open(folder, write=False) as store:
        return open_story(store, entry, index.of_problem(entry.problem))


def test_every_trace_of_the_run_is_listed_once(run: ScriptedRun, index: Index) -> None:
    with Store.open(run.folder, write=False) as store:
        known = set(store.query("SELECT problem, stage, tag, key FROM traces"))
    found = [(e.problem, e.stage, e.tag, e.key) for e in all_of(index, Filters())]
    assert len(found) == len(known) > PAGE_ROWS
    assert set(found) == known


def test_pages_backwards_are_the_pages_forwards(index: Index) -> None:
    forwards = [index.page(Filters())]
    while forwards[-1].has_more:
        forwards.append(index.page(Filters(), after=forwards[-1].rows[-1].n))
    backwards = [forwards[-1]]
    while backwards[-1].has_earlier:
        backwards.append(index.page(Filters(), before=backwards[-1].rows[0].n))
    assert len(forwards) > 2
    everything = [row for page in forwards for row in page.rows]
    assert [row for page in backwards[::-1] for row in page.rows] == everything
    firsts = [page.first for page in forwards]
    assert firsts == list(range(1, len(everything) + 1, PAGE_ROWS))
    assert {page.total for page in forwards} == {len(everything)}


@pytest.mark.parametrize("facet", [name for name in FACETS if name != "mark"])
def test_a_filter_finds_what_its_count_says(index: Index, facet: str) -> None:
    everything = all_of(index, Filters())
    for value, count in index.facets()[facet].items():
        found = all_of(index, Filters(**{facet: value or "none"}))
        assert [getattr(row, facet) for row in found] == [value] * count
    assert sum(index.facets()[facet].values()) == len(everything)


def test_filters_are_taken_together(index: Index) -> None:
    wanted = Filters(stage="repair", drop="pure", verdict="correct")
    found = all_of(index, wanted)
    rows = all_of(index, Filters())
    assert found == [
        r for r in rows if (r.stage, r.drop, r.verdict) == ("repair", "pure", "correct")
    ]
    assert found, "the world has a shortcut that PURE drops"
    before, after = index.beside(wanted, found[0].n)
    assert before is None
    assert after == (found[1] if len(found) > 1 else None)


def test_a_search_finds_problems_and_traces_by_how_their_id_begins(index: Index) -> None:
    some = index.page(Filters()).rows[7]
    assert {row.problem for row in all_of(index, Filters(q=some.problem[:8]))} == {some.problem}
    assert some in all_of(index, Filters(q=some.key))
    for nothing in ("zzz", "%", "_", "' OR 1=1 --", "\x00"):
        assert not index.page(Filters(q=nothing)).rows


def test_a_later_pass_takes_in_what_changed_and_moves_nothing_else(tmp_path: Path) -> None:
    folder = lab_run(tmp_path / "run", problems=20, held_out=5)
    index = read(folder)
    before = {(e.problem, e.stage, e.tag, e.key): e for e in all_of(index, Filters())}
    some = next(e for e in before.values() if e.verdict == "wrong")
    gone = next(e.problem for e in before.values() if e.problem != some.problem)
    with Store.open(folder) as store:
        list(store.query("UPDATE traces SET verdict='unverifiable' WHERE key=?", (some.key,)))
        list(store.query("DELETE FROM traces WHERE problem=?", (gone,)))
    state = index.refresh()
    after = {(e.problem, e.stage, e.tag, e.key): e for e in all_of(index, Filters())}
    changed = {at: e for at, e in after.items() if before[at] != e}
    assert [e.key for e in changed.values()] == [some.key]
    assert {e.problem for e in before.values()} - {e.problem for e in after.values()} == {gone}
    assert state.traces == len(after)
    assert state.version == 2


def test_a_pass_that_finds_nothing_new_says_so(tmp_path: Path) -> None:
    folder = lab_run(tmp_path / "run", problems=4, held_out=0)
    index = read(folder)
    version = index.state.version
    assert index.refresh().version == version
    with Store.open(folder) as store:
        list(store.query("UPDATE traces SET answer='9' WHERE verdict='correct'"))
    assert index.refresh().version == version + 1


def test_a_pass_that_broke_off_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = lab_run(tmp_path / "run", problems=10, held_out=0)
    index = read(folder)
    before = all_of(index, Filters())
    with Store.open(folder) as store:
        list(store.query("UPDATE traces SET verdict='unverifiable'"))
    whole = view_index._problems

    def breaking(*given: object) -> Iterator[object]:
        yield from islice(whole(*given), 5)  # type: ignore[arg-type]
        raise UserError("the disk is gone")

    with monkeypatch.context() as patch, pytest.raises(UserError):
        patch.setattr(view_index, "_problems", breaking)
        index.refresh()
    assert all_of(index, Filters()) == before
    index.refresh()
    assert {row.verdict for row in all_of(index, Filters())} == {"unverifiable"}


def test_places_do_not_move_while_a_run_grows(tmp_path: Path) -> None:
    """Half of the problems first, the rest later: a page that was open stays where it was."""
    folder = lab_run(tmp_path / "run", problems=12, held_out=0)
    with Store.open(folder) as store:
        names = [p for (p,) in store.query("SELECT problem FROM problems ORDER BY place")]
        kept = list(store.query("SELECT * FROM traces WHERE problem >= ?", (names[6],)))
        list(store.query("DELETE FROM traces WHERE problem >= ?", (names[6],)))
    index = read(folder)
    first = all_of(index, Filters())
    with Store.open(folder) as store:
        marks = ",".join("?" * len(kept[0]))
        for row in kept:
            list(store.query(f"INSERT INTO traces VALUES ({marks})", row))
    index.refresh()
    second = all_of(index, Filters())
    assert second[: len(first)] == first
    assert len(second) == len(first) + len(kept)


def test_marks_are_found_and_may_be_taken_back(tmp_path: Path) -> None:
    folder = lab_run(tmp_path / "run", problems=6, held_out=0)
    some = read(folder).page(Filters()).rows[3]
    add_mark(folder, some.key, some.problem, Mark.BAD)
    index = read(folder)
    assert [e.key for e in all_of(index, Filters(mark="bad"))] == [some.key]
    index.note(some.key, Mark.GOOD)
    assert not index.page(Filters(mark="bad")).rows
    assert index.page(Filters(mark="good")).total == 1
    index.note(some.key, Mark.NONE)
    assert index.page(Filters(mark="none")).total == index.state.traces


def test_a_repair_is_told_with_its_parent_hint_cut_scores_and_decision(
    run: ScriptedRun, index: Index
) -> None:
    for entry in all_of(index, Filters(stage="repair", gate="passed")):
        it = story(run.folder, index, entry)
        assert it.missing == ()
        assert it.trace is not None and it.parent is not None and it.cut is not None
        assert it.hint is not None and it.check is not None and it.pure is not None
        assert it.check.verdict == entry.verdict
        assert "".join(p.text for s in it.steps for p in s.pieces).replace("\n", "") == (
            it.trace.text.replace("\n", "")
        )
        assert [s.number for s in it.steps if s.is_cut] == [it.pure.first_step] == [it.cut.step]
        assert all(s.is_kept == (s.number < it.cut.step) for s in it.steps)
        assert {d.arm for d in it.decisions} >= {"heal"}
        own = next(d for d in it.decisions if d.arm == "heal")
        assert (own.drop, own.score) == (entry.drop, entry.score)
        kept = [row for row in it.changes if row.is_equal]
        assert len(kept) >= it.cut.step - 1


@pytest.fixture(scope="module")
def summed(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    parts = world(easy("apples"), summing("plums"))
    made = ScriptedRun(tmp_path_factory.mktemp("summed"), parts)
    made.go("pure.spare_checked=true", "steps.checker=arithmetic")
    return made


def test_a_repair_that_pure_left_to_the_step_checker_says_so(summed: ScriptedRun) -> None:
    index = read(summed.folder)
    passed = all_of(index, Filters(stage="repair", gate="passed"))
    assert len(passed) == 8
    for entry in passed:
        it = story(summed.folder, index, entry)
        own = next(d for d in it.decisions if d.arm == "heal")
        assert it.word is not None
        assert it.word.outcome is Outcome.NONE_FOUND
        assert it.pure is None
        assert (own.vouched, own.score, own.drop == "pure") == (True, None, False)
    judged = [
        story(summed.folder, index, entry)
        for entry in all_of(index, Filters(stage="hinted", gate="passed"))
    ]
    assert judged
    for it in judged:  # no equation in it
        assert it.pure is not None
        assert not any(d.vouched for d in it.decisions)


def test_the_step_that_the_checker_found_wrong_is_marked(summed: ScriptedRun) -> None:
    index = read(summed.folder)
    refused = all_of(index, Filters(stage="repair", gate="wrong_step"))
    assert len(refused) == 2
    for entry in refused:
        it = story(summed.folder, index, entry)
        marked = [line for line in it.steps if line.is_wrong]
        assert len(marked) == 1
        assert "60 + 80 = 150" in "".join(piece.text for piece in marked[0].pieces)


def test_every_gate_and_drop_is_told_in_a_sentence() -> None:
    assert words.DROPS.keys() == {str(drop) for drop in Drop}
    assert words.GATES.keys() == {str(gate) for gate in Gate} - {""}


def test_words_of_a_checker_that_is_no_longer_asked_are_not_told(tmp_path: Path) -> None:
    made = ScriptedRun(tmp_path, world(easy("apples"), extreme("plums")))
    found = []
    for checker in ("arithmetic", "null"):
        made.go(f"steps.checker={checker}")
        index = read(made.folder)
        stories = [story(made.folder, index, entry) for entry in all_of(index, Filters())]
        found.append([it.word is not None for it in stories])
    assert any(found[0])
    assert len(found[1]) == len(found[0])
    assert not any(found[1])


def test_a_failed_trace_is_told_with_its_entropies_and_what_repaired_it(
    run: ScriptedRun, index: Index
) -> None:
    with Store.open(run.folder, write=False) as store:
        cuts = list(store.query("SELECT problem, trace FROM cuts WHERE tag='difference'"))
    assert cuts
    for problem, trace in cuts:
        entry = index.entry("sample", problem, trace, "")
        assert entry is not None
        it = story(run.folder, index, entry)
        assert it.shaded_by == "entropy"
        assert it.trace is not None
        assert it.bars[-1].x + it.bars[-1].width == len(it.trace.ids)
        assert [c.title for c in it.curves] == ["Entropy of each step, nats"]
        assert {r.entry.stage for r in it.relatives} == {"repair"}
        # the script's surge is at the third token of four in "not clear to me"
        assert max(p.level or 0 for s in it.steps for p in s.pieces) == level_of(2.5)


def test_what_is_not_stored_or_damaged_is_said_and_left_out(tmp_path: Path) -> None:
    folder = lab_run(tmp_path / "run", problems=40, held_out=0)
    index = read(folder)
    entry = index.page(Filters(stage="repair", gate="passed")).rows[0]
    with Store.open(folder) as store:
        list(store.query("UPDATE records SET body=X'00' WHERE stage='hint'"))
        list(store.query("DELETE FROM records WHERE stage='cut'"))
    it = story(folder, index, entry)
    assert it.trace is not None
    assert it.hint is None and it.cut is None
    told = " ".join(it.missing)
    assert "hint" in told and "damaged" in told
    assert "cut" in told and "not stored" in told


def test_delta_is_what_the_hint_takes_off_the_new_steps(run: ScriptedRun, index: Index) -> None:
    entry = index.page(Filters(stage="repair", gate="passed")).rows[0]
    it = story(run.folder, index, entry)
    assert it.pure is not None
    assert it.delta is None, "this run measures no reliance"
    b = it.pure.first_step - 1
    tokens = np.array(it.pure.step_tokens[b:])
    plain = float((it.pure.log_ppl[b:] * tokens).sum() / tokens.sum())
    told = replace(it, pure=replace(it.pure, hinted_log_ppl=plain - 0.25))
    assert told.delta == pytest.approx(-0.25)


def test_pages_of_a_trace_survive_any_text(tmp_path: Path) -> None:
    folder = lab_run(tmp_path / "run", problems=30, held_out=0)
    for text in ("", "\n\n\n", "x" * 5_000, "\u202e\x00", "a\n\n" * 3_000):
        with Store.open(folder) as store:
            for stage in ("sample", "repair"):
                rewrite(store, stage, Trace, lambda t, text=text: replace(t, text=text))
            rewrite(store, "hint", Hint, lambda h, text=text: replace(h, text=text))
            rewrite(store, "cut", Cut, lambda c: replace(c, step_ends=c.step_ends))
        index = read(folder)
        entry = index.page(Filters(stage="repair", gate="passed")).rows[0]
        it = story(folder, index, entry)
        shown = "".join(p.text for s in it.steps for p in s.pieces)
        assert Counter(shown.replace("\n", "")) == Counter(text.replace("\n", ""))


# ── shades, curves, differences ─────────────────────────────────────────────────────────────────


def test_shades_are_the_whole_text_and_its_peak() -> None:
    dice = random.Random(3)
    for _ in range(300):
        words = ["alpha", " ", "12", "é", "\n", "so 3 + 4 = 7", "。", "𝟙"]
        text = "".join(dice.choice(words) for _ in range(dice.randrange(1, 40)))
        nats = np.array([dice.uniform(0, 4) for _ in range(dice.randrange(1, 60))], np.float32)
        pieces = shaded(text, nats)
        assert "".join(piece.text for piece in pieces) == text
        assert max(piece.level or 0 for piece in pieces) == level_of(float(nats.max()))


def test_one_token_a_character_is_shaded_exactly() -> None:
    nats = np.zeros(11, np.float32)
    nats[6:9] = 1.0
    assert shaded("first thing", nats) == [("first", 0), (" thing", 3)]


def test_levels_have_one_scale() -> None:
    assert [level_of(v) for v in (0.0, 0.29, 0.31, 2.71, 99.0)] == [0, 0, 1, 9, 9]
    assert level_of(float("nan")) is None
    assert level_of(float("inf")) is None
    assert LEVELS == 10


@pytest.mark.parametrize("tokens", [1, 479, 481, 30_000])
def test_a_strip_has_the_peak_of_its_neighbours_and_never_more_than_a_screen(tokens: int) -> None:
    nats = np.linspace(0, 3, tokens).astype(np.float32)
    nats[tokens // 2] = 5.0
    bars = strip(nats)
    assert len(bars) <= 480
    assert max(bar.nats for bar in bars) == 5.0
    assert sum(bar.width for bar in bars) == tokens


def test_a_curve_breaks_where_nothing_was_measured() -> None:
    nan = float("nan")
    found = curve("x", [nan, 1.0, 2.0, nan, 0.5], kept=1, cut=2, commits=4)
    assert found is not None
    assert [[dot.step for dot in run] for run in found.runs] == [[2, 3], [5]]
    assert "largest 2.00 at step 3; cut before step 2" in found.told
    assert all(found.top <= dot.y <= found.bottom for dot in found.dots)
    assert curve("x", [nan, nan]) is None
    flat = curve("x", [0.0, 0.0])
    assert flat is not None and np.isfinite([dot.y for dot in flat.dots]).all()
    assert curve("x", [1.0] * 5_000) is not None


def test_both_sides_of_a_difference_are_whole() -> None:
    before = "Same.\n\nThe jump is 7, so 52.\n\nGone altogether here.\n\nEnd."
    after = "Same.\n\nThe jump is 8, so 53.\n\nEnd."
    rows = side_by_side(before, after)
    for text, side in ((before, 0), (after, 1)):
        whole = ["".join(part.text for part in row[side]) for row in rows]
        assert [part for part in whole if part] == text.split("\n\n")
    changed = [p.text for row in rows for p in (*row.before, *row.after) if p.is_changed]
    assert changed == ["7", "52", "8", "53", "Gone altogether here."]
    assert [row.is_equal for row in rows] == [True, False, False, True]


def test_differences_of_long_texts_come_at_once() -> None:
    dice = random.Random(1)
    long = ["\n\n".join(f"step {dice.random()} of it" for _ in range(2_000)) for _ in range(2)]
    wide = [" ".join(str(dice.random()) for _ in range(20_000)) for _ in range(2)]
    for before, after in (long, wide):
        rows = side_by_side(before, after)
        assert "".join(p.text for row in rows for p in row.after).count(".") == after.count(".")
    assert json.dumps(side_by_side("", "")) == "[]"
