"""What the arms of one run are given: HEAL's sets, the controls', and what its bill could buy."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scripted_run import (
    MAGIC,
    WAYS,
    ScriptedRun,
    World,
    easy,
    extreme,
    failed,
    hinted,
    honest,
    kept_prefix,
    kill,
    right,
    row,
    unaided,
    world,
)
from tests.tiny_student import make_student

from heal.engines.base import Generated, GenRequest, failed_generation
from heal.engines.scripted import ScriptedEngine
from heal.records import (
    Ceiling,
    Drop,
    EvalTrace,
    Finish,
    Hint,
    Origin,
    Problem,
    PureScore,
    Selected,
    Split,
    Stratum,
    TokenScores,
    Trace,
    TrainResult,
)
from heal.stages.spend import HARD_FIRST, by_need, spend
from heal.store import Store

ARMS = (
    *("base", "rft", "rft_more", "star", "heal", "heal-shuffled", "heal-reverse"),
    *("heal-random-cut", "heal-restart", "heal-no-pure", "heal-random-drop"),
)
TRAINED = ARMS[1:]
LIKE_HEAL = ("heal-shuffled", "heal-reverse")


def varied(name: str) -> World:
    """Solved one time in four, each time in other words."""
    ways = ("thin", "thick", "tiny", "huge", "round", "square", "bent", "straight", "warm", "cold")
    wrong = [failed(name, way) for way in WAYS[:3]] * len(ways)
    return [row(name)], [hinted(name), unaided(name, *(right(name, w) for w in ways), *wrong)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    """Every arm, on one easy, one hard and one extreme problem."""
    rows, rules = extreme("plums")
    anew = {"match": r"many plums .*Hint: Remember.*<assistant>\Z", "replies": [*map(honest, WAYS)]}
    parts = world(easy("apples"), varied("pears"), (rows, [anew, *rules]))
    settings = {"arms": list(ARMS), "gear": {"hinted_samples": 2}}
    run = ScriptedRun(tmp_path_factory.mktemp("arms"), parts, settings)
    run.go()
    return run


def stored(run: ScriptedRun, table: str) -> dict[str, Trace]:
    """Every trace a table holds; those of the control arms are not HEAL's own live ones."""
    with Store.open(run.folder, write=False) as store:
        return store.read(table, Trace)


def kept(run: ScriptedRun, arm: str, pool: str) -> set[str]:
    chosen = run.read("selected", Selected, arm)
    return {x.trace for x in chosen if x.pool == pool and x.drop is Drop.KEPT}


def noun_of(run: ScriptedRun) -> dict[str, str]:
    assert run.view is not None
    return {p.id: p.problem.split()[2] for p in run.view.problems}


@pytest.mark.parametrize("arm", [a for a in TRAINED if a != "rft_more"])
def test_every_arm_but_rft_more_has_the_same_d1(done: ScriptedRun, arm: str) -> None:
    assert kept(done, arm, "D1") == kept(done, "heal", "D1") != set()


def test_rft_learns_from_d1_alone(done: ScriptedRun) -> None:
    assert {x.pool for x in done.read("selected", Selected, "rft")} == {"D1"}
    assert {x.pool for x in done.read("selected", Selected, "rft_more")} == {"D1"}
    assert {x.pool for x in done.read("selected", Selected, "star")} == {"D1", "D2"}


@pytest.mark.parametrize("arm", LIKE_HEAL)
def test_an_arm_of_another_order_has_heals_own_traces(done: ScriptedRun, arm: str) -> None:
    for pool in ("D1", "D2", "D3"):
        assert kept(done, arm, pool) == kept(done, "heal", pool)


def test_restarted_repairs_keep_nothing_of_their_parent(done: ScriptedRun) -> None:
    traces = stored(done, "repair")
    chosen = kept(done, "heal-restart", "D3")
    assert chosen
    assert {traces[t].prefix_tokens for t in chosen} == {0}
    assert all(traces[t].prefix_tokens > 0 for t in kept(done, "heal", "D3"))


def test_random_cuts_fall_in_the_same_window(done: ScriptedRun) -> None:
    traces = stored(done, "repair")
    own = {x.trace for x in done.read("selected", Selected, "heal-random-cut") if x.pool == "D3"}
    found = Counter(traces[t].prefix_tokens for t in own)
    one = {len(kept_prefix("plums", w).split("\n\n")[0]) + 2 for w in WAYS}
    two = {len(kept_prefix("plums", w)) for w in WAYS}
    assert set(found) <= one | two
    assert set(found) & one, "chance alone chose the surge every time"
    parents = {traces[t].parent for t in own}
    assert parents == {t.parent for t in done.read("repair", Trace)}


def test_without_pure_the_shortcut_stays(done: ScriptedRun) -> None:
    traces = stored(done, "repair") | stored(done, "hinted")
    drops = Counter(x.drop for x in done.read("selected", Selected, "heal-no-pure"))
    assert drops[Drop.PURE] == 0
    assert any(MAGIC in traces[t].text for t in kept(done, "heal-no-pure", "D3"))
    assert not any(MAGIC in traces[t].text for t in kept(done, "heal", "D3"))


def test_a_random_drop_is_of_the_same_size(done: ScriptedRun) -> None:
    def dropped(arm: str) -> dict[str, set[str]]:
        chosen = done.read("selected", Selected, arm)
        return {
            pool: {x.trace for x in chosen if x.pool == pool and x.drop is Drop.PURE}
            for pool in ("D2", "D3")
        }

    pure, chance = dropped("heal"), dropped("heal-random-drop")
    assert {p: len(t) for p, t in pure.items()} == {p: len(t) for p, t in chance.items()}
    assert pure["D3"] != chance["D3"]


def test_the_bill_is_what_heal_spent_after_sampling(done: ScriptedRun) -> None:
    sampled = sum(t.new_tokens for name in ("hinted", "repair") for t in done.read(name, Trace))
    hints = sum(h.new_tokens for h in done.read("hint", Hint))
    scored = sum(s.scored_tokens for s in done.read("scores", TokenScores))
    scored += sum(s.scored_tokens for s in done.read("pure", PureScore))
    cost = done.meta("scored_token_cost")
    assert cost > 0
    assert done.meta("bill") == round(sampled + hints + cost * scored)


@pytest.mark.parametrize("arm", ["rft_more", "star"])
def test_buyers_spend_at_most_the_bill_and_most_of_it_while_anything_is_wanted(
    done: ScriptedRun, arm: str
) -> None:
    bought = done.read("bought", Trace, arm)
    spent, bill = sum(t.new_tokens for t in bought), done.meta("bill")
    assert 0 < spent <= bill
    said = f"{arm} {len(bought):,} traces, {bill - spent:,} tokens left"
    assert said in done.watch.lines["spend"]
    if arm == "rft_more":  # its extreme problem is never solved, so always wants more
        assert bill - spent < 400


def test_rft_more_buys_for_no_problem_whose_cap_is_full(done: ScriptedRun) -> None:
    nouns = noun_of(done)
    assert {nouns[t.problem_id] for t in done.read("bought", Trace, "rft_more")} == {"plums"}


def test_what_is_bought_continues_the_numbering_of_what_was_drawn(done: ScriptedRun) -> None:
    drawn = {(t.problem_id, t.seed_index) for t in done.read("sample", Trace)}
    bought = [(t.problem_id, t.seed_index) for t in done.read("bought", Trace, "rft_more")]
    assert drawn.isdisjoint(bought)
    assert len(set(bought)) == len(bought)
    assert sorted(i for _, i in bought) == list(range(40, 40 + len(bought)))


def test_star_buys_whole_traces_under_the_answer(done: ScriptedRun) -> None:
    bought = done.read("bought", Trace, "star")
    assert {t.prefix_tokens for t in bought} == {0}
    assert all(t.hint for t in bought)
    nouns = noun_of(done)
    assert Counter(nouns[t.problem_id] for t in bought).keys() == {"pears", "plums"}


def test_rft_more_buys_for_hard_problems_when_no_extreme_one_wants_more(tmp_path: Path) -> None:
    settings = {"arms": ["rft", "rft_more", "heal"], "sampling": {"n": 16}}
    run = ScriptedRun(tmp_path, world(easy("apples"), varied("pears")), settings)
    run.go()
    assert run.view is not None
    assert Stratum.EXTREME not in {c.stratum for c in run.view.ceilings}
    nouns = noun_of(run)
    assert {nouns[t.problem_id] for t in run.read("bought", Trace, "rft_more")} == {"pears"}
    traces = stored(run, "sample") | stored(run, "bought")
    before, after = ({traces[t].text for t in kept(run, arm, "D1")} for arm in ("rft", "rft_more"))
    assert before < after


STRATUM_OF = {
    **{f"e{i}": Stratum.EASY for i in range(2)},
    **{f"x{i}": Stratum.EXTREME for i in range(3)},
    **{f"h{i}": Stratum.HARD for i in range(2)},
    "t0": Stratum.TRUNCATED,
}


def bought_by(
    budget: int, wants: dict[str, int], tokens: int = 10, strata: tuple[Stratum, ...] = HARD_FIRST
) -> tuple[list[tuple[str, int]], int]:
    """(problem, index) of what is bought, in order; `wants`: traces after which one has enough."""
    problems = [Problem(name, name, "1") for name in STRATUM_OF]
    ceilings = {n: Ceiling(n, 30, 0, 0, 0, s, 0.0) for n, s in STRATUM_OF.items()}

    def below_cap(bought: Mapping[str, Trace]) -> set[str]:
        have = Counter(t.problem_id for t in bought.values())
        return {name for name in STRATUM_OF if have[name] < wants.get(name, 0)}

    def buy(plan: Sequence[tuple[Problem, tuple[int, ...]]]) -> dict[str, Trace]:
        ids = np.zeros(tokens, np.int32)
        return {
            f"{p.id}-{i}": Trace(f"{p.id}-{i}", p.id, Origin.UNAIDED, i, ids, "", Finish.STOP, 1)
            for p, indices in plan
            for i in indices
        }

    ordered = by_need(problems, ceilings, strata)
    found, left = spend(ordered, budget, tokens, 30, below_cap, buy)
    return [(t.problem_id, t.seed_index) for t in found.values()], left


ALL_WANT = dict.fromkeys(STRATUM_OF, 10_000)


def test_the_bill_is_shared_by_all_problems_below_their_cap() -> None:
    found, left = bought_by(10 * 7 * 20, ALL_WANT)
    assert Counter(name for name, _ in found) == dict.fromkeys(STRATUM_OF.keys() - {"t0"}, 20)
    assert left == 0


def test_within_a_round_extreme_problems_come_before_hard_before_easy() -> None:
    found, _ = bought_by(10 * 7 * 2, ALL_WANT)
    order = ["x0", "x1", "x2", "h0", "h1", "e0", "e1"]
    assert found == [(name, index) for index in (30, 31) for name in order]


@given(st.integers(0, 4000), st.dictionaries(st.sampled_from(list(STRATUM_OF)), st.integers(0, 40)))
def test_no_problem_is_more_than_one_trace_ahead_of_another_that_wants_as_much(
    budget: int, wants: dict[str, int]
) -> None:
    found, left = bought_by(budget, wants)
    count = Counter(name for name, _ in found)
    assert 10 * len(found) + left == budget
    assert len(set(found)) == len(found)
    still = [name for name in wants if name != "t0" and count[name] < wants[name]]
    assert left < 10 or not still
    for name in still:
        assert count[name] + 1 >= max(count.values(), default=0)


def test_a_budget_too_small_for_all_goes_to_extreme_problems() -> None:
    found, left = bought_by(45, ALL_WANT)
    assert [name for name, _ in found] == ["x0", "x1", "x2", "h0"]
    assert left == 5


def test_strata_left_out_get_nothing() -> None:
    found, _ = bought_by(1000, ALL_WANT, strata=HARD_FIRST[:2])
    assert {name[0] for name, _ in found} == {"x", "h"}


def test_running_again_buys_nothing_new(tmp_path: Path) -> None:
    parts = world(easy("apples"), varied("pears"), extreme("plums"))
    run = ScriptedRun(tmp_path, parts, {"arms": ["rft_more", "star", "heal"]})
    run.go()
    before = run.live()
    run.go("limits.failed_share=0.6", "evaluate.bootstrap=200")
    assert run.live() == before


def test_nothing_is_bought_for_nothing(tmp_path: Path) -> None:
    settings = {"arms": ["rft_more", "star", "heal"]}
    run = ScriptedRun(tmp_path, world(easy("apples")), settings)
    watch = run.go()
    assert run.meta("bill") == 0
    assert "rft_more 0 traces, 0 tokens left" in watch.lines["spend"]


def test_a_buyer_whose_draws_all_fail_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"arms": ["star", "heal"], "gear": {"hinted_samples": 2}}
    run = ScriptedRun(tmp_path, world(easy("apples"), extreme("plums")), settings)
    run.go(until="score")

    def refuse(self: ScriptedEngine, request: GenRequest, index: int, seed: int) -> Generated:
        return failed_generation(request, index, "connection refused")

    monkeypatch.setattr(ScriptedEngine, "_reply", refuse)
    watch = run.go()
    assert re.search(r"star 0 traces, ([\d,]+) tokens left", watch.lines["spend"])


def test_a_dropped_arm_leaves_nothing_in_use(tmp_path: Path) -> None:
    parts = world(easy("apples"), varied("pears"), extreme("plums"))
    run = ScriptedRun(tmp_path, parts, {"arms": ["rft_more", "star", "heal"]})
    run.go()
    run.go("arms=[heal]")
    assert {tag for table, tag, _ in run.live() if table in ("bought", "selected")} == {"", "heal"}


def test_a_run_without_heal_shows_its_first_arm(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, settings={"arms": ["base", "rft"]})
    watch = run.go()
    assert "D2 0 · D3 0" in watch.lines["select"]
    assert {r["set"] for r in run.stage_rows("stage3_frontier.jsonl")} == {"D1"}


STUDENT_ARMS = ["base", "rft_more", "heal", "heal-random-cut"]


def with_student(home: Path) -> ScriptedRun:
    """A run that trains and examines a random student of two layers."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    # room for a whole repaired trace in bytes
    config = make_student(home / "student") / "config.json"
    config.write_text(config.read_text().replace('_embeddings": 256', '_embeddings": 1024'))
    settings = {
        "student": {"model": "student"},
        "arms": STUDENT_ARMS,
        "seeds": [0, 1],
        "problems": {"held_out": 0.4},
        "prompts": {"solve": "{problem}", "solve_hinted": "{problem} Hint: {hint}"},
        "pace": {"epochs": 0.5},
        "train": {"threads": 1, "max_length": 900},
        "evaluate": {
            "samples": 2,
            "teacher_n": 10,
            "max_new_tokens": 4,
            "bootstrap": 200,
            "scored_token_cost": 0.5,  # timed, it would decide how much rft_more can buy
        },
        "engine": {"local": {"threads": 1}},
    }
    parts = world(*map(easy, ("apples", "melons", "limes", "dates")), extreme("plums"))
    return ScriptedRun(home, parts, settings, page=True)


def test_a_tiny_student_is_trained_and_examined_in_every_arm(tmp_path: Path) -> None:
    run, trained = with_student(tmp_path), STUDENT_ARMS[1:]
    run.go()
    results = run.read("train", TrainResult)
    assert Counter((r.arm, r.seed) for r in results) == {
        (arm, seed): 3 for arm in trained for seed in (0, 1)
    }
    assert len({sum(r.steps for r in results if r.arm == arm) for arm in trained}) == 1
    for arm in trained:
        one, other = (
            (run.folder / f"students/{arm}-seed{seed}/stage3/model.safetensors").read_bytes()
            for seed in (0, 1)
        )
        assert one != other, f"{arm}: the training seed changes nothing"
    attempts = run.read("evaluate", EvalTrace)
    assert run.view is not None
    held_out = [p.id for p in run.view.problems if p.split is Split.HELD_OUT]
    assert held_out
    assert Counter((a.arm, a.seed, a.problem_id) for a in attempts) == dict.fromkeys(
        (
            (arm, seed, problem)
            for arm in STUDENT_ARMS
            for seed in ((0,) if arm == "base" else (0, 1))
            for problem in held_out
        ),
        2,
    )
    assert run.view.evaluation is not None
    assert {score.arm for score in run.view.evaluation.arms} == set(STUDENT_ARMS)
    assert {row.arm for row in run.view.plan} == set(trained)
    before = run.live()
    again = run.go("limits.failed_share=0.6", "evaluate.bootstrap=300")
    assert not again.arrived.total()
    assert run.live() == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_nine_while_training_or_examining_ends_in_the_same_students(tmp_path: Path) -> None:
    run = with_student(tmp_path)
    for stage, k in (("train", 2), ("evaluate", 3)):
        kill(run.home, stage, k)
    run.go()
    other = with_student(tmp_path / "whole")
    other.go()
    left, right = run.live(), other.live()
    assert left.keys() == right.keys()
    timed = {key for key in left if key[0] == "train"}
    assert {k: b for k, b in left.items() if k not in timed} == {
        k: b for k, b in right.items() if k not in timed
    }


def test_with_too_few_honest_traces_the_ratio_stands_in_and_the_report_says_so(
    tmp_path: Path,
) -> None:
    few = {"sampling": {"n": 12}}
    calibrated = ScriptedRun(tmp_path / "a", settings=few | {"pure": {"selection": "calibrated"}})
    ratio = ScriptedRun(tmp_path / "b", settings=few)
    for run in (calibrated, ratio):
        run.go()
    assert calibrated.view is not None
    assert any("PURE dropped a fixed share" in fact.text for fact in calibrated.view.facts)
    assert not calibrated.read("pure", PureScore, "honest")
    dropped = [
        {x.trace for x in run.read("selected", Selected, "heal") if x.drop is Drop.PURE}
        for run in (calibrated, ratio)
    ]
    assert dropped[0] == dropped[1]
