"""The gallery: which broken traces are shown, and their steps side by side."""

import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.made_run import BREAKPOINT, lab_run
from tests.report_fixture import changed, lab_view

from heal.records import Drop, Gate
from heal.report import numbers
from heal.report.gallery import BrokenTrace, Outcome
from heal.report.load import load_view
from heal.report.steps import step_texts
from heal.report.view import RunView
from heal.store import CutRow, SelectedRow, Store, TraceRow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab_run(tmp_path_factory.mktemp("lab") / "run", problems=90, held_out=40)


@pytest.fixture(scope="module")
def view(lab: Path) -> RunView:
    return lab_view(lab)


def shown(folder: Path, limit: int = 3) -> tuple[BrokenTrace, ...]:
    with Store.open(folder, write=False) as store:
        return load_view(store, gallery=limit).gallery


# Steps


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


# Which are shown


def test_gallery_shows_one_kept_one_dropped_and_one_unsolved(lab: Path, view: RunView) -> None:
    cases = view.gallery
    assert [c.outcome for c in cases] == [Outcome.KEPT, Outcome.DROPPED, Outcome.UNSOLVED]
    assert len({c.problem.id for c in cases}) == 3
    kept, dropped, unsolved = cases
    assert kept.repair and kept.repair.drop is Drop.KEPT
    assert dropped.repair and dropped.repair.drop is Drop.PURE
    with Store.open(lab, write=False) as store:
        solved = {row.problem for row in store.rows(SelectedRow, "arm = 'heal' AND pool = 'D3'")}
    assert unsolved.problem.id not in solved


def test_gallery_is_as_long_as_asked_while_there_are_problems(lab: Path) -> None:
    assert [len(shown(lab, n)) for n in (0, 1, 5)] == [0, 1, 5]


def test_every_outcome_and_every_problem_comes_up_once_there_is_room(lab: Path) -> None:
    cases = shown(lab, 50)
    with Store.open(lab, write=False) as store:
        extreme = load_view(store).extreme.problems
    assert len(cases) == len({c.problem.id for c in cases}) == extreme


def test_a_case_that_cannot_be_read_gives_way_to_the_next_and_is_counted(
    lab: Path, view: RunView, tmp_path: Path
) -> None:
    first = view.gallery[0]
    damaged = "UPDATE records SET body = x'00112233445566' WHERE stage = '{}' AND key = '{}'"
    assert first.repair and first.repair.pure
    for number, (stage, key) in enumerate(
        (
            ("sample", first.failed.key),
            ("cut", first.cut.key),
            ("repair", first.repair.trace.key),
            ("pure", first.repair.pure.key),
            ("problem", first.problem.id),
        )
    ):
        lacking = changed(lab, tmp_path / str(number), damaged.format(stage, key))
        assert [c.outcome for c in lacking.gallery] == [c.outcome for c in view.gallery]
        assert first.problem.id not in {c.problem.id for c in lacking.gallery}
        facts = {fact.text: fact.count for fact in numbers.all_facts(lacking)}
        assert facts["broken trace passed over, unreadable"] == 1
        unread = [row.problem for row in lacking.extreme_rows if "unreadable" in row.text]
        assert unread == [first.problem.id] * (stage == "problem")


def test_failed_trace_and_repair_share_the_kept_steps(view: RunView) -> None:
    for case in view.gallery:
        assert case.repair
        ours = [s.text for s in case.steps if s.kept]
        theirs = [s.text for s in case.repair.steps if s.kept]
        assert ours == theirs and len(ours) == case.cut.step - 1


def test_a_case_has_the_answers_verdicts_and_hint_that_are_its_own(lab: Path) -> None:
    for case in shown(lab, 50):
        assert case.answer != case.problem.answer and case.answer in case.failed.text
        assert case.hint is not None and case.hint.cut == case.cut.key
        assert case.cut.trace == case.failed.key
        assert case.repair and case.repair.trace.hint == case.hint.key
        assert case.repair.answer is not None and case.repair.answer in case.repair.trace.text
        assert (case.repair.gate is Gate.PASSED) == (case.repair.pure is not None)
        assert case.drawn == 4


def test_a_repair_chosen_away_is_not_called_unrepaired(lab: Path, tmp_path: Path) -> None:
    spare = "UPDATE selected SET \"drop\" = 'parent_cap' WHERE pool = 'D3'"
    changed(lab, tmp_path, spare)
    assert {c.outcome for c in shown(tmp_path / "run", 50)} == {Outcome.SPARE, Outcome.UNSOLVED}


def test_a_cut_without_repairs_says_so(lab: Path, tmp_path: Path) -> None:
    changed(lab, tmp_path, "DELETE FROM traces WHERE stage = 'repair'")
    assert {(c.outcome, c.repair) for c in shown(tmp_path / "run", 50)} == {(Outcome.UNTRIED, None)}


def test_repair_that_was_never_scored_still_has_its_steps(lab: Path, tmp_path: Path) -> None:
    for case in changed(lab, tmp_path, "DELETE FROM scores WHERE stage = 'pure'").gallery:
        assert case.repair and case.repair.pure is None
        texts = [step.text for step in case.repair.steps]
        assert texts == [t.strip("\n") for t in case.repair.trace.text.split("\n\n")]
        assert sum(step.kept for step in case.repair.steps) == case.cut.step - 1


@pytest.mark.parametrize("arms", ['["rft"]', '["heal-random-cut"]'])
def test_a_repair_that_the_arm_shown_does_not_take_is_not_told_as_if_others_were(
    lab: Path, tmp_path: Path, arms: str
) -> None:
    config = f"UPDATE meta SET value = json_set(value, '$.arms', json('{arms}')) "
    changed(lab, tmp_path, config + "WHERE name = 'config'", "DELETE FROM selected")
    outcomes = {c.outcome for c in shown(tmp_path / "run", 40)}
    assert Outcome.UNUSED in outcomes and Outcome.SPARE not in outcomes


# Against the rule, told in Python


@pytest.mark.parametrize("seed", range(12))
def test_the_columns_choose_as_the_rule_says(lab: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)

    def shuffle_fates(store: Store) -> None:
        """Any fate for any repair, few kept, so that outcomes compete for problems."""
        for row in list(store.rows(TraceRow, "stage = 'repair'")):
            gate = rng.choice((Gate.PASSED, Gate.INCORRECT, Gate.HINT_TALK, None))
            failed = rng.random() < 0.2
            store.insert([row._replace(gate=gate, failed=failed)])
            store.forget(SelectedRow, problem=row.problem, trace=row.key)
            if gate is Gate.PASSED and rng.random() < 0.5:
                drop = rng.choice((Drop.KEPT, Drop.PURE, Drop.PROBLEM_CAP))
                score = rng.choice((None, round(rng.uniform(-2, 3), 2)))
                kept = (10, None, None, "repair")
                store.insert([SelectedRow("heal", row.problem, row.key, "D3", drop, score, *kept)])
        for cut in list(store.rows(CutRow)):
            fallback = rng.choice((None, None, "no_surge"))
            margin, undecided = rng.choice((0.1, 0.5, 0.9)), rng.random() < 0.3
            store.insert([cut._replace(fallback=fallback, margin=margin, undecided=undecided)])

    changed(lab, tmp_path, edit=shuffle_fates)
    for limit in (1, 3, 7, 30):
        found = shown(tmp_path / "run", limit)
        own = [(c.outcome, c.cut.key, c.repair and c.repair.trace.key) for c in found]
        with Store.open(tmp_path / "run", write=False) as store:
            assert own == _by_rule(store, limit)
    columns = {c.cut.key: (c.cut.fallback, c.cut.margin, c.cut.undecided) for c in found}
    with Store.open(tmp_path / "run", write=False) as store:
        for row in store.rows(CutRow):
            if row.key in columns:
                assert columns[row.key] == (row.fallback, row.margin, bool(row.undecided))


def _by_rule(store: Store, limit: int) -> list[tuple[Outcome, str, str | None]]:
    """One of each outcome in turn, the clearest first, each of another problem."""
    gates = {r.key: r.gate for r in store.rows(TraceRow, "stage = 'repair'")}
    chosen = {r.trace: r for r in store.rows(SelectedRow, "arm = 'heal' AND pool = 'D3'")}
    scored = {t for (t,) in store.query("SELECT trace FROM scores WHERE stage = 'pure'")}
    solved = {r.problem for r in chosen.values() if r.drop != Drop.PURE}
    tries: dict[str, list[str]] = defaultdict(list)
    for row in store.rows(TraceRow, "stage = 'repair' AND NOT failed ORDER BY key"):
        tries[row.cut or ""].append(row.key)

    def outcome(cut: CutRow) -> Outcome:
        drops = {chosen[t].drop for t in tries[cut.key] if t in chosen}
        if not tries[cut.key]:
            return Outcome.UNTRIED
        if Drop.KEPT in drops:
            return Outcome.KEPT
        if Drop.PURE in drops:
            return Outcome.DROPPED
        passed = any(gates[t] == Gate.PASSED for t in tries[cut.key])
        return Outcome.SPARE if passed else Outcome.UNSOLVED

    def plainness(cut: CutRow) -> tuple[bool, bool, bool, float, str]:
        elsewhere = outcome(cut) is Outcome.UNSOLVED and cut.problem in solved
        return elsewhere, cut.fallback is not None, bool(cut.undecided), -cut.margin, cut.key

    def repair(cut: CutRow) -> str | None:
        kind = outcome(cut)
        wanted = {Outcome.KEPT: Drop.KEPT, Outcome.DROPPED: Drop.PURE}.get(kind)
        found = [t for t in tries[cut.key] if t in chosen and chosen[t].drop == wanted]
        if not found:
            passed = [t for t in tries[cut.key] if gates[t] == Gate.PASSED]
            return next(iter(passed or tries[cut.key]), None)
        sign = 1 if wanted is Drop.KEPT else -1
        return min(found, key=lambda t: (t not in scored, sign * (chosen[t].score or 0.0), t))

    queues = {kind: [c for c in sorted(_cuts(store), key=plainness) if outcome(c) is kind]
              for kind in Outcome}  # fmt: skip
    shown: list[CutRow] = []
    while len(shown) < limit and any(queues.values()):
        for queue in queues.values():
            queue[:] = [c for c in queue if c.problem not in {s.problem for s in shown}]
            shown += queue[: len(shown) < limit]
    return [(outcome(cut), cut.key, repair(cut)) for cut in shown]


def _cuts(store: Store) -> list[CutRow]:
    return list(store.rows(CutRow, "tag = ?", BREAKPOINT))
