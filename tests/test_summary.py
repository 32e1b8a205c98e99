"""The summary: figures per arm and group, paired differences, and what was left out."""

import random
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal.method.attempts import tally
from heal.method.intervals import Scores, mean_score, paired_difference, wilson
from heal.method.metrics import avg_at_k, maj_at_k, pass_at_k
from heal.method.summary import ALL, HARD_AND_EXTREME, summarise
from heal.records import Finish, Stratum, Verdict
from heal.store import AttemptRow

RIGHT, WRONG, CUT = Verdict.CORRECT, Verdict.WRONG, Verdict.TRUNCATED
STRATA = {"e1": Stratum.EASY, "e2": Stratum.EASY, "h": Stratum.HARD, "x": Stratum.EXTREME}


def attempts(arm: str, verdicts: dict[str, list[Verdict]], seed: int = 0) -> list[AttemptRow]:
    return [
        AttemptRow(
            problem=problem,
            arm=arm,
            seed=seed,
            seed_index=i,
            key=f"{arm}-{seed}-{problem}-{i}",
            verdict=verdict.value,
            answer={RIGHT: "1", WRONG: "2"}.get(verdict),
            finish=(Finish.LENGTH if verdict is CUT else Finish.STOP).value,
            tokens=100 * (i + 1),
            error=None,
        )
        for problem, given in verdicts.items()
        for i, verdict in enumerate(given)
    ]


BASE = {
    "e1": [RIGHT, RIGHT, WRONG, WRONG],
    "e2": [RIGHT, WRONG, WRONG, CUT],
    "h": [WRONG, WRONG, CUT, CUT],
    "x": [WRONG] * 4,
}
HEAL = BASE | {"h": [RIGHT, RIGHT, WRONG, WRONG], "x": [RIGHT, WRONG, WRONG, WRONG]}


def summary(traces: list[AttemptRow], **options):
    settings = {"resamples": 200, "seed": 0, "arms": ("base", "rft_more", "heal")} | options
    found = summarise(traces, STRATA, {}, **settings)
    assert found is not None
    return found


def row(found, arm: str, stratum: str):
    (match,) = [r for r in found.arms if (r.arm, r.stratum) == (arm, stratum)]
    return match


def test_figures_are_those_of_the_metrics_averaged_over_problems() -> None:
    all_of_base = row(summary(attempts("base", BASE)), "base", ALL)
    assert all_of_base.avg.mean == pytest.approx((0.5 + 0.25 + 0 + 0) / 4)
    assert all_of_base.pass_at[2].mean == pytest.approx(
        (pass_at_k(4, 2, 2) + pass_at_k(4, 1, 2)) / 4
    )
    assert all_of_base.pass_k.mean == pytest.approx(0.5)
    easy = row(summary(attempts("base", BASE)), "base", "easy")
    majority = [
        maj_at_k(["1", "1", "2", "2"], [True, True, False, False], 4),
        maj_at_k(["1", "2", "2", None], [True, False, False, False], 4),
    ]
    assert easy.maj_k.mean == pytest.approx(sum(majority) / 2)
    assert all_of_base.truncated.mean == pytest.approx(3 / 16)
    assert all_of_base.tokens.mean == all_of_base.mean_tokens == pytest.approx(250)


def test_groups_are_all_each_stratum_present_and_hard_with_extreme() -> None:
    found = summary(attempts("base", BASE))
    assert [r.stratum for r in found.arms] == [ALL, "easy", "hard", "extreme", HARD_AND_EXTREME]
    sizes = {r.stratum: r.avg.n_problems for r in found.arms}
    assert sizes == {ALL: 4, "easy": 2, "hard": 1, "extreme": 1, HARD_AND_EXTREME: 2}


def test_a_problem_without_a_stratum_counts_in_all_only() -> None:
    found = summary(attempts("base", BASE | {"new": [RIGHT] * 4}))
    assert row(found, "base", ALL).avg.n_problems == 5
    assert sum(r.avg.n_problems for r in found.arms if r.stratum in set(Stratum)) == 4


def test_every_figure_lies_within_its_interval() -> None:
    for found in summary(attempts("base", BASE) + attempts("heal", HEAL)).arms:
        figures = (found.avg, found.maj_k, found.truncated, *found.pass_at.values())
        assert all(f.low <= f.mean <= f.high and f.is_known for f in figures)
        assert not found.tokens.is_known or found.tokens.low <= found.tokens.mean


def test_differences_are_later_minus_earlier_on_every_group() -> None:
    found = summary(attempts("heal", HEAL) + attempts("base", BASE))
    by_group = {d.stratum: d for d in found.differences}
    assert {(d.arm, d.against) for d in found.differences} == {("heal", "base")}
    assert by_group["hard"].interval.mean == pytest.approx(0.5)
    assert by_group["extreme"].interval.mean == pytest.approx(0.25)
    assert by_group["easy"].interval.mean == 0
    assert not any(d.primary for d in found.differences)


@pytest.mark.parametrize("order", [("rft_more", "heal"), ("heal", "rft_more")])
def test_the_primary_endpoint_is_heal_minus_rft_more_on_hard_and_extreme(order) -> None:
    found = summary(attempts("heal", HEAL) + attempts("rft_more", BASE), arms=order)
    (primary,) = [d for d in found.differences if d.primary]
    assert (primary.arm, primary.against) == ("heal", "rft_more")
    assert primary.stratum == HARD_AND_EXTREME
    assert primary.interval.mean == pytest.approx(0.375)


def test_seeds_are_counted_on_trained_arms_only() -> None:
    traces = attempts("base", BASE) + [
        t for seed in (0, 1, 2) for t in attempts("heal", HEAL, seed=seed)
    ]
    found = summary(traces)
    assert (found.k, found.seeds) == (4, 3)
    assert row(found, "heal", ALL).avg.n_seeds == 3
    assert summary(attempts("base", BASE)).seeds == 1


def test_an_attempt_the_engine_failed_on_is_left_out_and_counted() -> None:
    traces = attempts("base", BASE)
    failed = traces[0]._replace(error="out of memory", verdict=Verdict.UNVERIFIABLE)
    found = summary([failed, *traces[1:]])
    assert found.failed == 1
    assert found.k == 3
    assert row(found, "base", "easy").avg.mean == pytest.approx((1 / 3 + 1 / 4) / 2)


def test_a_problem_some_student_never_tried_is_left_out_for_all() -> None:
    fewer = {p: verdicts for p, verdicts in HEAL.items() if p != "x"}
    found = summary(attempts("base", BASE) + attempts("heal", fewer))
    assert found.left_out == 1
    assert {r.avg.n_problems for r in found.arms if r.stratum == ALL} == {3}
    assert not any(r.stratum == "extreme" for r in found.arms)


def test_no_usable_attempt_gives_no_summary() -> None:
    failed = [t._replace(error="lost") for t in attempts("base", BASE)]
    for traces in ([], failed):
        assert summarise(traces, STRATA, {}, resamples=100, seed=0) is None


def test_a_single_attempt_has_pass_at_one_only() -> None:
    found = row(summary(attempts("base", {p: v[:1] for p, v in BASE.items()})), "base", ALL)
    assert list(found.pass_at) == [1]
    assert found.pass_k.mean == found.avg.mean


def test_no_interval_of_a_share_or_a_difference_is_without_width() -> None:
    alike = {p: [WRONG] * 4 for p in BASE}
    found = summary(attempts("base", alike) + attempts("heal", alike))
    shares = [f for r in found.arms for f in (r.avg, r.maj_k, r.truncated, *r.pass_at.values())]
    for interval in (*shares, *(d.interval for d in found.differences)):
        assert interval.mean == 0 and interval.low < interval.high
    for r in found.arms:
        assert r.avg.high == pytest.approx(wilson(0, r.avg.n_problems).high)
    for d in found.differences:
        assert -d.interval.low == d.interval.high == wilson(0, d.interval.n_problems).high


VERDICTS = st.sampled_from([(RIGHT, "1"), (WRONG, "2"), (WRONG, "2.0"), (WRONG, "3"), (CUT, None)])


def test_no_interval_leaves_its_scale() -> None:
    names = tuple(f"p{i}" for i in range(12))
    good, bad = np.ones((5, 12)), np.zeros((5, 12))
    good[0, :6] = 0.0  # one seed of five forgot half of them
    bad[0, :6] = 1.0
    high = Scores(good, names, ("f",) * 12)
    low = Scores(bad, names, ("f",) * 12)
    told = [
        (mean_score(high, resamples=2000, seed=0), (0.0, 1.0)),
        (mean_score(low, resamples=2000, seed=0), (0.0, 1.0)),
        (paired_difference(high, low, resamples=2000, seed=0), (-1.0, 1.0)),
    ]
    for interval, (least, most) in told:
        assert least <= interval.low < interval.mean < interval.high <= most
    assert told[0][0].high == 1.0 and told[1][0].low == 0.0  # as far as they may go


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.integers(0, 1),
            st.sampled_from("ehx"),
            VERDICTS,
            st.booleans(),
        ),
        max_size=60,
    ),
    st.randoms(),
)
def test_figures_are_those_of_whole_attempts_taken_one_problem_at_a_time(given, rng) -> None:
    """Against the definitions, attempt by attempt, in whatever order they come."""
    rows = [
        AttemptRow(p, arm, seed, i, "", v.value, answer, "stop", 10 * i, "lost" if lost else None)
        for i, (arm, seed, p, (v, answer), lost) in enumerate(given)
    ]
    usable = [r for r in rows if r.error is None]
    seen = {(r.arm, r.seed): {x.problem for x in usable if x[1:3] == r[1:3]} for r in usable}
    shared = sorted(set.intersection(*seen.values())) if seen else []
    rng.shuffle(rows)
    found = summarise(rows, {}, {}, resamples=50, seed=3)
    if not shared:
        assert found is None
        return
    cells = {(r.arm, r.seed, r.problem): [] for r in usable if r.problem in shared}
    for r in usable:
        cells.get((r.arm, r.seed, r.problem), []).append(r)
    k = min(map(len, cells.values()))
    assert (found.k, found.failed) == (k, len(rows) - len(usable))
    assert found.left_out == len(set.union(*seen.values())) - len(shared)
    for r in found.arms:
        seeds = sorted({seed for arm, seed, _ in cells if arm == r.arm})

        def scores(value, seeds=seeds, arm=r.arm, bounds=(0.0, 1.0)) -> Scores:
            values = [[value(cells[arm, s, p]) for p in shared] for s in seeds]
            return Scores(np.array(values), tuple(shared), ("",) * len(shared), bounds)

        for own, value in (
            (r.avg, lambda tries: avg_at_k([Verdict(t.verdict) for t in tries])),
            (r.pass_k, lambda tries: pass_at_k(len(tries), sum(right(tries)), k)),
            (r.maj_k, lambda tries: maj_at_k([t.answer for t in tries], right(tries), k)),
            (r.truncated, lambda tries: sum(t.verdict == CUT for t in tries) / len(tries)),
            (r.tokens, lambda tries: sum(t.tokens for t in tries) / len(tries)),
        ):
            bounds = None if own is r.tokens else (0.0, 1.0)
            expected = mean_score(scores(value, bounds=bounds), resamples=50, seed=3)
            assert (own.mean, own.low, own.high) == pytest.approx(
                (expected.mean, expected.low, expected.high), abs=1e-12, nan_ok=True
            )
            assert own.n_problems == len(shared) and own.n_seeds == len(seeds)


def right(tries: list[AttemptRow]) -> list[bool]:
    return [t.verdict == RIGHT for t in tries]


def many(problems: int, arms: int, k: int) -> Iterator[AttemptRow]:
    rng = random.Random(0)
    for arm in range(arms):
        for p in range(problems):
            for i in range(k):
                verdict, answer = rng.choice(((RIGHT, "1"), (WRONG, str(rng.randint(2, 99)))))
                yield AttemptRow(
                    f"p{p}", f"arm{arm}", 0, i, f"{arm}-{p}-{i}", verdict, answer, "stop", 9, None
                )


def test_memory_grows_with_the_problems_not_with_the_attempts() -> None:
    def peak(k: int) -> int:
        tracemalloc.start()
        tally(many(300, 2, k))
        (_, most) = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    rows = list(many(300, 2, 40))
    held = sum(map(object.__sizeof__, rows)) + sum(r.key.__sizeof__() for r in rows)
    assert peak(40) - peak(4) < held / 4


def test_differences_of_a_summary_are_those_of_the_arms_taken_by_themselves() -> None:
    rows = list(many(40, 3, 4))
    problems = tuple(sorted({r.problem for r in rows}))

    def scores(arm: str) -> Scores:
        tries = {p: [r for r in rows if (r.arm, r.problem) == (arm, p)] for p in problems}
        values = [[sum(right(tries[p])) / len(tries[p]) for p in problems]]
        return Scores(np.array(values), problems, ("",) * len(problems))

    found = summarise(rows, {}, {}, resamples=300, seed=5)
    assert found is not None and len(found.differences) == 3
    for d in found.differences:
        alone = paired_difference(scores(d.arm), scores(d.against), resamples=300, seed=5)
        ours = (d.interval.mean, d.interval.low, d.interval.high)
        assert ours == pytest.approx((alone.mean, alone.low, alone.high), abs=1e-12)
