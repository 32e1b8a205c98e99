"""The summary: figures per arm and group, paired differences, and what was left out."""

from dataclasses import replace

import pytest

from heal.method.metrics import maj_at_k, pass_at_k
from heal.method.summary import ALL, HARD_AND_EXTREME, summarise
from heal.records import Ceiling, EvalTrace, Finish, Stratum, Verdict

RIGHT, WRONG, CUT = Verdict.CORRECT, Verdict.WRONG, Verdict.TRUNCATED
STRATA = {"e1": Stratum.EASY, "e2": Stratum.EASY, "h": Stratum.HARD, "x": Stratum.EXTREME}
CEILINGS = {p: Ceiling(p, 30, 0, 0, 0, stratum, 0.0) for p, stratum in STRATA.items()}


def attempts(arm: str, verdicts: dict[str, list[Verdict]], seed: int = 0) -> list[EvalTrace]:
    return [
        EvalTrace(
            key=f"{arm}-{seed}-{problem}-{i}",
            problem_id=problem,
            arm=arm,
            seed=seed,
            seed_index=i,
            verdict=verdict,
            answer={RIGHT: "1", WRONG: "2"}.get(verdict),
            finish=Finish.LENGTH if verdict is CUT else Finish.STOP,
            tokens=100 * (i + 1),
            text="",
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


def summary(traces: list[EvalTrace], **options):
    settings = {"resamples": 200, "seed": 0, "arms": ("base", "rft_more", "heal")} | options
    found = summarise(traces, CEILINGS, {}, **settings)
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


def test_a_problem_without_a_ceiling_counts_in_all_only() -> None:
    found = summary(attempts("base", BASE | {"new": [RIGHT] * 4}))
    assert row(found, "base", ALL).avg.n_problems == 5
    assert sum(r.avg.n_problems for r in found.arms if r.stratum in set(Stratum)) == 4


def test_every_figure_lies_within_its_interval() -> None:
    for found in summary(attempts("base", BASE) + attempts("heal", HEAL)).arms:
        figures = (found.avg, found.maj_k, found.truncated, found.tokens, *found.pass_at.values())
        assert all(f.low <= f.mean <= f.high for f in figures)


def test_differences_are_later_minus_earlier_on_every_group() -> None:
    found = summary(attempts("heal", HEAL) + attempts("base", BASE))
    by_group = {d.stratum: d for d in found.differences}
    assert {(d.arm, d.against) for d in found.differences} == {("heal", "base")}
    assert by_group["hard"].interval.mean == pytest.approx(0.5)
    assert by_group["extreme"].interval.mean == pytest.approx(0.25)
    assert by_group["easy"].interval.mean == 0
    assert by_group["easy"].interval.low == by_group["easy"].interval.high == 0
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
    failed = replace(traces[0], error="out of memory", verdict=Verdict.UNVERIFIABLE)
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
    failed = [replace(t, error="lost") for t in attempts("base", BASE)]
    for traces in ([], failed):
        assert summarise(traces, CEILINGS, {}, resamples=100, seed=0) is None


def test_a_single_attempt_has_pass_at_one_only() -> None:
    found = row(summary(attempts("base", {p: v[:1] for p, v in BASE.items()})), "base", ALL)
    assert list(found.pass_at) == [1]
    assert found.pass_k.mean == found.avg.mean
