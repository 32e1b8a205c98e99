"""What the arms of one run are given: HEAL's sets, the controls', and a matched token budget."""

import re
from collections import Counter
from pathlib import Path

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
from heal.method.arms import Extra
from heal.records import Drop, Finish, HintDraw, Split, Stratum, Trace, TrainResult, Verdict
from heal.stages.match_budget import HARD_FIRST, Matching, relative_cost
from heal.store import (
    AttemptRow,
    CutRow,
    HintRow,
    ProblemRow,
    ScoreRow,
    SelectedRow,
    TraceRow,
)

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
    settings = {
        "arms": list(ARMS),
        "gear": {"hinted_samples": 2, "hint_gate": False},
        "evaluate": {"scored_token_cost": 0.5},
    }
    run = ScriptedRun(tmp_path_factory.mktemp("arms"), parts, settings)
    run.go()
    return run


def chosen(run: ScriptedRun, arm: str, pool: str = "") -> list[SelectedRow]:
    rows = run.rows(SelectedRow, "arm=?", arm)
    return [row for row in rows if not pool or row.pool == pool]


def kept(run: ScriptedRun, arm: str, pool: str) -> set[str]:
    return {x.trace for x in chosen(run, arm, pool) if x.drop == Drop.KEPT}


def matched(run: ScriptedRun, arm: str) -> list[TraceRow]:
    return run.rows(TraceRow, "stage='matched' AND tag=?", arm)


@pytest.mark.parametrize("arm", [a for a in TRAINED if a != "rft_more"])
def test_every_arm_but_rft_more_has_the_same_d1(done: ScriptedRun, arm: str) -> None:
    assert kept(done, arm, "D1") == kept(done, "heal", "D1") != set()


def test_rft_learns_from_d1_alone(done: ScriptedRun) -> None:
    assert {x.pool for x in chosen(done, "rft")} == {"D1"}
    assert {x.pool for x in chosen(done, "rft_more")} == {"D1"}
    assert {x.pool for x in chosen(done, "star")} == {"D1", "D2"}


@pytest.mark.parametrize("arm", LIKE_HEAL)
def test_an_arm_of_another_order_has_heals_own_traces(done: ScriptedRun, arm: str) -> None:
    for pool in ("D1", "D2", "D3"):
        assert kept(done, arm, pool) == kept(done, "heal", pool)


def test_restarted_repairs_keep_nothing_of_their_parent(done: ScriptedRun) -> None:
    traces = done.everything("repair", Trace)
    restarted = kept(done, "heal-restart", "D3")
    assert restarted
    assert {traces[t].prefix_tokens for t in restarted} == {0}
    assert all(traces[t].prefix_tokens > 0 for t in kept(done, "heal", "D3"))


def test_random_cuts_fall_in_the_same_window(done: ScriptedRun) -> None:
    traces = done.everything("repair", Trace)
    own = {x.trace for x in chosen(done, "heal-random-cut", "D3")}
    found = Counter(traces[t].prefix_tokens for t in own)
    one = {len(kept_prefix("plums", w).split("\n\n")[0]) + 2 for w in WAYS}
    two = {len(kept_prefix("plums", w)) for w in WAYS}
    assert set(found) <= one | two
    assert set(found) & one, "chance alone chose the surge every time"
    parents = {traces[t].parent for t in own}
    assert parents == {t.parent for t in done.read("repair", Trace, "difference")}


def test_without_pure_the_shortcut_stays(done: ScriptedRun) -> None:
    traces = done.everything("repair", Trace) | done.everything("hinted", Trace)
    drops = Counter(x.drop for x in chosen(done, "heal-no-pure"))
    assert drops[Drop.PURE] == 0
    assert any(MAGIC in traces[t].text for t in kept(done, "heal-no-pure", "D3"))
    assert not any(MAGIC in traces[t].text for t in kept(done, "heal", "D3"))


def test_a_random_drop_is_of_the_same_size(done: ScriptedRun) -> None:
    def dropped(arm: str) -> dict[str, set[str]]:
        return {
            pool: {x.trace for x in chosen(done, arm, pool) if x.drop == Drop.PURE}
            for pool in ("D2", "D3")
        }

    pure, chance = dropped("heal"), dropped("heal-random-drop")
    assert {p: len(t) for p, t in pure.items()} == {p: len(t) for p, t in chance.items()}
    assert pure["D3"] != chance["D3"]


def budget_of(run: ScriptedRun) -> int:
    (said,) = re.findall(r"^([\d,]+) tokens to match", run.watch.lines["match"])
    return int(said.replace(",", ""))


def test_the_budget_is_what_heal_spent_after_sampling(done: ScriptedRun) -> None:
    sampled = sum(t.new_tokens for t in done.read("hinted", Trace))
    sampled += sum(t.new_tokens for t in done.read("repair", Trace, "difference"))
    hints = done.rows(HintRow, "tag='difference'")
    draws = done.everything("hint_draw", HintDraw)
    of_heal = {key: draw for key, draw in draws.items() if key[:-2] in {h.key for h in hints}}
    assert 0 < len(of_heal) < len(draws)
    scored = done.rows(ScoreRow, "stage='scores'")
    scored += done.rows(ScoreRow, "stage='pure' AND tag IN ('hinted', 'difference')")
    expected = sampled + sum(draw.new_tokens for draw in of_heal.values())
    expected += round(0.5 * sum(row.scored_tokens for row in scored))
    assert abs(budget_of(done) - expected) <= 1


@pytest.mark.parametrize(
    ("work", "cost"),
    [
        ({}, 1.0),
        ({"write": (100, 2.0)}, 1.0),
        ({"write": (100, 2.0), "score": (400, 2.0)}, 0.25),
        ({"write": (100, 0.0), "score": (400, 2.0)}, 1.0),
    ],
)
def test_a_scored_token_costs_what_it_takes_beside_a_written_one(
    work: dict[str, tuple[int, float]], cost: float
) -> None:
    assert relative_cost(work) == cost


def test_the_cost_of_a_scored_token_is_timed_once_and_kept(tmp_path: Path) -> None:
    parts = world(easy("apples"), varied("pears"), extreme("plums"))
    run = ScriptedRun(tmp_path, parts, {"arms": ["rft_more", "heal"]})
    run.go()
    cost, budget = run.meta("scored_token_cost"), budget_of(run)
    assert cost > 0
    run.go("limits.failed_share=0.6", "evaluate.bootstrap=200")
    assert (run.meta("scored_token_cost"), budget_of(run)) == (cost, budget)


@pytest.mark.parametrize("arm", ["rft_more", "star"])
def test_an_arm_draws_at_most_the_budget_and_most_of_it_while_anything_is_wanted(
    done: ScriptedRun, arm: str
) -> None:
    rows = matched(done, arm)
    spent, budget = sum(row.new_tokens for row in rows), budget_of(done)
    assert 0 < spent <= budget
    assert (
        f"{arm} {len(rows):,} traces, {budget - spent:,} tokens left" in done.watch.lines["match"]
    )
    if arm == "rft_more":  # its extreme problem is never solved, so always wants more
        assert budget - spent < 400


def test_rft_more_draws_for_no_problem_whose_cap_is_full(done: ScriptedRun) -> None:
    nouns = done.nouns()
    assert {nouns[row.problem] for row in matched(done, "rft_more")} == {"plums"}


def test_what_is_drawn_to_match_continues_the_numbering_of_the_plan(done: ScriptedRun) -> None:
    drawn = {(row.problem, row.seed_index) for row in done.rows(TraceRow, "stage='sample'")}
    more = [(row.problem, row.seed_index) for row in matched(done, "rft_more")]
    assert drawn.isdisjoint(more)
    assert len(set(more)) == len(more)
    assert sorted(i for _, i in more) == list(range(40, 40 + len(more)))


def test_star_draws_whole_traces_under_the_answer(done: ScriptedRun) -> None:
    rows, traces = matched(done, "star"), done.everything("matched", Trace)
    assert {traces[row.key].prefix_tokens for row in rows} == {0}
    assert all(row.hint for row in rows)
    nouns = done.nouns()
    assert {nouns[row.problem] for row in rows} == {"pears", "plums"}


def test_rft_more_draws_for_hard_problems_when_no_extreme_one_wants_more(tmp_path: Path) -> None:
    settings = {"arms": ["rft", "rft_more", "heal"], "sampling": {"n": 16}}
    run = ScriptedRun(tmp_path, world(easy("apples"), varied("pears")), settings)
    run.go()
    assert Stratum.EXTREME not in {row.stratum for row in run.rows(ProblemRow)}
    nouns = run.nouns()
    assert {nouns[row.problem] for row in matched(run, "rft_more")} == {"pears"}
    traces = run.everything("sample", Trace) | run.everything("matched", Trace)
    before, after = ({traces[t].text for t in kept(run, arm, "D1")} for arm in ("rft", "rft_more"))
    assert before < after


STRATUM_OF = {
    **{f"e{i}": Stratum.EASY for i in range(2)},
    **{f"x{i}": Stratum.EXTREME for i in range(3)},
    **{f"h{i}": Stratum.HARD for i in range(2)},
    "t0": Stratum.TRUNCATED,
}


def drawn_for(
    budget: int, wants: dict[str, int], tokens: int = 10, strata: tuple[Stratum, ...] = HARD_FIRST
) -> tuple[list[tuple[str, int]], int]:
    """(problem, index) of what is drawn, in order; `wants`: correct traces there is room for."""
    ordered = {n: s for stratum in strata for n, s in STRATUM_OF.items() if s is stratum}
    room = {name: wants.get(name, 0) for name in ordered}
    arm = Matching("rft_more", Extra.SAMPLES, budget, 30, tokens, ordered, room)
    while plan := arm.next_round():
        rows = [answer(name, index, tokens) for name, places in plan.items() for index in places]
        if not arm.take(reversed(rows)):  # in any order
            break
    return [(row.problem, row.seed_index) for row in arm.rows], arm.left


def answer(
    name: str, index: int, tokens: int, verdict: Verdict | None = Verdict.CORRECT
) -> TraceRow:
    key, failed = f"{name}-{index}", verdict is None
    return TraceRow(
        name, "matched", "rft_more", key, index, Finish.STOP, tokens, tokens, verdict, None, None,
        None, None, failed,
    )  # fmt: skip


ALL_WANT = dict.fromkeys(STRATUM_OF, 10_000)


def test_the_budget_is_shared_by_all_problems_below_their_cap() -> None:
    found, left = drawn_for(10 * 7 * 20, ALL_WANT)
    assert Counter(name for name, _ in found) == dict.fromkeys(STRATUM_OF.keys() - {"t0"}, 20)
    assert left == 0


def test_within_a_round_extreme_problems_come_before_hard_before_easy() -> None:
    found, _ = drawn_for(10 * 7 * 2, ALL_WANT)
    order = ["x0", "x1", "x2", "h0", "h1", "e0", "e1"]
    assert found == [(name, index) for index in (30, 31) for name in order]


@given(st.integers(0, 4000), st.dictionaries(st.sampled_from(list(STRATUM_OF)), st.integers(0, 40)))
def test_no_problem_is_more_than_a_round_ahead_of_another_that_wants_as_much(
    budget: int, wants: dict[str, int]
) -> None:
    found, left = drawn_for(budget, wants)
    count = Counter(name for name, _ in found)
    assert 10 * len(found) + left == budget
    assert len(set(found)) == len(found)
    still = [name for name in wants if name != "t0" and count[name] < wants[name]]
    assert left < 10 or not still
    for name in still:
        assert count[name] + 1 >= max(count.values(), default=0)


def test_a_budget_too_small_for_all_goes_to_extreme_problems() -> None:
    found, left = drawn_for(45, ALL_WANT)
    assert [name for name, _ in found] == ["x0", "x1", "x2", "h0"]
    assert left == 5


def test_strata_left_out_get_nothing() -> None:
    found, _ = drawn_for(1000, ALL_WANT, strata=HARD_FIRST[:2])
    assert {name[0] for name, _ in found} == {"x", "h"}


def test_a_trace_longer_than_what_is_left_ends_the_drawing() -> None:
    arm = Matching("rft_more", Extra.SAMPLES, 100, 30, 10.0, {"x0": Stratum.EXTREME}, {"x0": 9})
    lengths = {30: 60, 31: 50, 32: 5}
    assert not arm.take([answer("x0", index, lengths[index]) for index in (32, 30, 31)])
    assert [row.seed_index for row in arm.rows] == [30]
    assert arm.left == 40


def test_wrong_traces_take_tokens_and_no_room() -> None:
    arm = Matching("rft_more", Extra.SAMPLES, 100, 30, 10.0, {"x0": Stratum.EXTREME}, {"x0": 1})
    assert arm.take([answer("x0", 30, 10, Verdict.WRONG)])
    assert arm.next_round()
    assert arm.take([answer("x0", 31, 10)])
    assert not arm.next_round()
    assert arm.left == 80


def test_running_again_draws_nothing_new(tmp_path: Path) -> None:
    parts = world(easy("apples"), varied("pears"), extreme("plums"))
    run = ScriptedRun(tmp_path, parts, {"arms": ["rft_more", "star", "heal"]})
    run.go()
    before, stored = run.live(), run.stored()
    run.go("limits.failed_share=0.6", "evaluate.bootstrap=200")
    assert run.live() == before
    assert run.stored() == stored


@pytest.mark.parametrize("k", [3, 20])
def test_kill_nine_while_matching_the_budget_ends_in_the_same_traces(
    tmp_path: Path, done: ScriptedRun, k: int
) -> None:
    run = ScriptedRun(tmp_path, done.world, done.settings)
    kill(run.home, "matched", k)
    assert run.stored()["matched"]
    assert not run.rows(TraceRow, "stage='matched'")
    run.go()
    assert run.live() == done.live()
    assert run.stored() == done.stored()


def test_nothing_is_drawn_for_nothing(tmp_path: Path) -> None:
    settings = {"arms": ["rft_more", "star", "heal"]}
    run = ScriptedRun(tmp_path, world(easy("apples")), settings)
    watch = run.go()
    assert budget_of(run) == 0
    assert "rft_more 0 traces, 0 tokens left" in watch.lines["match"]


def test_an_arm_whose_draws_all_fail_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"arms": ["star", "heal"], "gear": {"hinted_samples": 2}}
    run = ScriptedRun(tmp_path, world(easy("apples"), extreme("plums")), settings)
    run.go(until="score")

    def refuse(self: ScriptedEngine, request: GenRequest, index: int, seed: int) -> Generated:
        return failed_generation(request, index, "connection refused")

    monkeypatch.setattr(ScriptedEngine, "_reply", refuse)
    watch = run.go()
    assert re.search(r"star 0 traces, ([\d,]+) tokens left", watch.lines["match"])


def test_a_dropped_arm_leaves_nothing_in_use(tmp_path: Path) -> None:
    parts = world(easy("apples"), varied("pears"), extreme("plums"))
    run = ScriptedRun(tmp_path, parts, {"arms": ["rft_more", "star", "heal", "heal-restart"]})
    run.go()
    run.go("arms=[heal]")
    assert {row.arm for row in run.rows(SelectedRow)} == {"heal"}
    assert not run.rows(TraceRow, "stage='matched'")
    for kind in (TraceRow, CutRow, HintRow, ScoreRow):
        assert {row.tag for row in run.rows(kind)}.isdisjoint({"restart", "rft_more", "star"})


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
            "scored_token_cost": 0.5,  # timed, it would decide how much rft_more can draw
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
    attempts = run.rows(AttemptRow)
    held_out = [problem for problem, side in run.split().items() if side is Split.HELD_OUT]
    assert held_out
    assert Counter((a.arm, a.seed, a.problem) for a in attempts) == dict.fromkeys(
        (
            (arm, seed, problem)
            for arm in STUDENT_ARMS
            for seed in ((0,) if arm == "base" else (0, 1))
            for problem in held_out
        ),
        2,
    )
    assert run.view is not None
    assert run.view.evaluation is not None
    assert {score.arm for score in run.view.evaluation.arms} == set(STUDENT_ARMS)
    assert {row.arm for row in run.view.plan} == set(trained)
    before = run.live()
    again = run.go("limits.failed_share=0.6", "evaluate.bootstrap=300")
    assert not again.answers.total()
    assert run.live() == before
    # without a student nothing of the trained ones is left in use
    run.go("student=null")
    assert not run.rows(AttemptRow)
    assert not run.read("train", TrainResult)
    assert {problem for problem, n in held_out_traces(run).items() if n} == set()


def held_out_traces(run: ScriptedRun) -> dict[str, int]:
    split = run.split()
    return {r.problem: r.n for r in run.rows(ProblemRow) if split[r.problem] is Split.HELD_OUT}


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
    for live in (left, right):  # how long training took is not the same twice
        live["live"] = {row[:3] if row[0] == "train" else row for row in live["live"]}
    assert left == right


def test_with_too_few_honest_traces_the_ratio_stands_in_and_the_report_says_so(
    tmp_path: Path,
) -> None:
    few = {"sampling": {"n": 12}}
    calibrated = ScriptedRun(tmp_path / "a", settings=few | {"pure": {"selection": "calibrated"}})
    ratio = ScriptedRun(tmp_path / "b", settings=few)
    for run in (calibrated, ratio):
        run.go()
    assert any("PURE dropped a fixed share" in fact for fact in calibrated.meta("facts"))
    assert not calibrated.rows(ScoreRow, "tag='honest'")
    dropped = [
        {x.trace for x in chosen(run, "heal") if x.drop == Drop.PURE} for run in (calibrated, ratio)
    ]
    assert dropped[0] == dropped[1]
