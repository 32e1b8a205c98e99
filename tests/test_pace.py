"""PACE: caps hold, and every arm trains on the same budget in the same number of steps."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal.config import Pace
from heal.method.curriculum import NOTHING, Beside, Order, budget_tokens, schedule, stage_steps
from heal.method.pace import PoolCandidate, cap, pools
from heal.records import Drop, Stratum

SETTINGS = Pace()


def words(seed, n=60):
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(9999)}" for _ in range(n))


def candidate(trace, pool="D1", text=None, **more):
    return PoolCandidate(trace, "p", pool, words(trace) if text is None else text, **more)


def decide(candidates, stratum=Stratum.EASY, seed=0, **settings):
    found = pools(candidates, {"p": stratum}, Pace(**settings), seed)
    return {s.trace: s.drop for s in found}


def test_what_the_student_cannot_be_shown_takes_nobodys_place():
    offered = [candidate(f"t{i}", "D1") for i in range(12)]
    usual = kept(decide(offered, Stratum.HARD))
    long = {sorted(usual)[0], sorted(usual)[1]}
    found = pools(
        offered,
        {"p": Stratum.HARD},
        SETTINGS,
        refusal=lambda trace: Drop.TOO_LONG if trace in long else None,
    )
    drops = {s.trace: s.drop for s in found}
    assert {t for t, d in drops.items() if d is Drop.TOO_LONG} == long
    assert len(kept(drops)) == len(usual) == SETTINGS.cap_d1_hard
    assert kept(drops) - usual


def kept(drops):
    return {t for t, d in drops.items() if d is Drop.KEPT}


@given(
    st.lists(st.tuples(st.sampled_from(["D1", "D2", "D3"]), st.integers(0, 3)), max_size=30),
    st.sampled_from(Stratum),
    st.integers(0, 5),
)
def test_caps_hold_and_every_candidate_is_decided(drawn, stratum, seed):
    candidates = [
        candidate(f"t{i}", pool, parent=f"c{parent}" if pool == "D3" else None)
        for i, (pool, parent) in enumerate(drawn)
    ]
    drops = decide(candidates, stratum, seed)
    assert set(drops) == {c.trace for c in candidates}
    taken = [c for c in candidates if drops[c.trace] is Drop.KEPT]
    for pool in ("D1", "D2"):
        offered = sum(c.pool == pool for c in candidates)
        count = sum(c.pool == pool for c in taken)
        assert count == min(offered, cap(pool, stratum, SETTINGS))
    assert sum(c.pool == "D3" for c in taken) <= SETTINGS.cap_d3
    parents = Counter(c.parent for c in taken if c.parent)
    assert not parents or max(parents.values()) <= SETTINGS.per_parent


def test_hard_problems_give_more_of_d1():
    assert [cap("D1", s, SETTINGS) for s in Stratum] == [4, 8, 8, 4, 4]


def test_near_duplicates_are_dropped_within_a_problem_and_across_sets():
    text = words(1)
    candidates = [
        candidate("a", text=text),
        candidate("b", text=text + " end"),
        candidate("c", "D2", text="Well " + text),
        candidate("d", text=words(2)),
    ]
    drops = decide(candidates)
    assert Counter(drops.values()) == {Drop.KEPT: 2, Drop.NEAR_DUPLICATE: 2}
    assert drops["c"] is Drop.NEAR_DUPLICATE and drops["d"] is Drop.KEPT


def test_the_same_text_in_two_problems_is_no_duplicate():
    two = [PoolCandidate(p, p, "D1", words(1)) for p in "ab"]
    assert all(s.drop is Drop.KEPT for s in pools(two, {}, SETTINGS))


def test_the_most_different_traces_are_kept_whatever_their_length():
    base = words(3, 100).split()
    similar = [" ".join(base[: 60 + i * 8]) for i in range(4)]
    candidates = [candidate(f"s{i}", text=t) for i, t in enumerate(similar)]
    candidates += [candidate("short", text=words(9, 6)), candidate("long", text=words(11, 900))]
    for seed in range(5):
        assert {"short", "long"} <= kept(decide(candidates, seed=seed, cap_d1=3, near_duplicate=1))


def test_what_pure_dropped_stays_dropped():
    drops = decide([candidate("a", "D3", pure_dropped=True, score=3.0), candidate("b", "D3")])
    assert drops == {"a": Drop.PURE, "b": Drop.KEPT}


def test_a_third_repair_of_one_prefix_is_dropped_by_name():
    drops = decide([candidate(t, "D3", parent="cut") for t in "abc"])
    assert Counter(drops.values()) == {Drop.KEPT: 2, Drop.PARENT_CAP: 1}


def test_fresh_text_keeps_as_alternates_what_the_caps_and_near_duplicates_leave_out():
    offered = [candidate(f"t{i}") for i in range(6)]
    offered += [candidate("near", text=words("t0") + " end"), candidate("same", text=words("t0"))]
    offered += [candidate("other", "D2", text="Well " + words("t0"))]
    without, drops = decide(offered), decide(offered, fresh_text=True)
    assert kept(drops) == kept(without) and len(kept(drops)) == SETTINGS.cap_d1
    alternates = {t for t, d in drops.items() if d is Drop.ALTERNATE}
    left = {t for t, d in without.items() if d in (Drop.PROBLEM_CAP, Drop.NEAR_DUPLICATE)}
    assert alternates == left - {"same", "other"} - ({"t0"} - kept(drops))
    assert drops["other"] is Drop.NEAR_DUPLICATE, "no trace of its own set to take turns with"


@given(st.permutations([candidate(f"t{i}", f"D{1 + i % 3}") for i in range(12)]))
def test_decisions_do_not_depend_on_the_order_of_candidates(candidates):
    ordered = sorted(candidates, key=lambda c: c.trace)
    assert pools(candidates, {}, SETTINGS, 3) == pools(ordered, {}, SETTINGS, 3)


def test_ties_follow_the_seed():
    candidates = [candidate(f"t{i}") for i in range(12)]
    assert len({frozenset(kept(decide(candidates, seed=s))) for s in range(5)}) > 1


def test_the_budget_is_epochs_of_d1_with_a_floor():
    assert budget_tokens(1000, SETTINGS) == 5000
    assert budget_tokens(10, Pace(min_tokens=777)) == 777


def lengths(prefix, count, low=20, spread=60):
    return {f"{prefix}{i}": low + (i * 37) % spread for i in range(count)}


POOLS = {"D1": lengths("a", 80), "D2": lengths("b", 40), "D3": lengths("c", 30)}
LONGEST = 79


def tokens(plan, pools=POOLS):
    size = {t: n for traces in pools.values() for t, n in traces.items()}
    return [sum(size[t] for t in batch) for batch in plan.batches]


def shown(plans):
    return Counter(t for plan in plans for batch in plan.batches for t in batch)


def plan(
    pools=POOLS, budget=40_000, batch=400, seed=0, order=Order.CURRICULUM, more=NOTHING, **settings
):
    return schedule(
        pools,
        Pace(**settings),
        batch_tokens=batch,
        budget=budget,
        seed=seed,
        order=order,
        beside=more,
    )


def test_stages_are_cumulative():
    first, second, third = plan()
    assert {t[0] for t in shown([first])} == {"a"}
    assert {t[0] for t in shown([second])} == {"a", "b"}
    assert {t[0] for t in shown([third])} == {"a", "b", "c"}
    assert [p.index for p in (first, second, third)] == [1, 2, 3]
    assert [p.lr_scale for p in (first, second, third)] == [1.0, 0.7, 0.5]


def test_seventy_percent_of_the_later_stages_is_new():
    for stage, pool in zip(plan()[1:], ("D2", "D3"), strict=True):
        new = sum(POOLS[pool][t] * n for t, n in shown([stage]).items() if t in POOLS[pool])
        assert new / sum(tokens(stage)) == pytest.approx(0.7, abs=LONGEST / 10_000)


def test_replay_is_spread_over_the_stage():
    batches = plan()[1].batches
    middle = len(batches) // 2
    old = [
        sum(POOLS["D1"][t] for batch in half for t in batch if t[0] == "a")
        for half in (batches[:middle], batches[middle:])
    ]
    assert abs(old[0] - old[1]) <= 2 * LONGEST


def test_a_trace_is_shown_at_most_eight_times_in_a_stage():
    few = {**POOLS, "D3": {"c0": 50, "c1": 50}}
    third = plan(few)[2]
    count = shown([third])
    assert max(count.values()) == count["c0"] == count["c1"] == 8
    assert sum(tokens(third, few)) == pytest.approx(10_000, abs=LONGEST / 2)


def test_shows_are_even_within_a_stage():
    count = shown([plan()[0]])
    assert max(count.values()) - min(count.values()) <= 1


def test_replay_that_runs_out_gives_its_share_back():
    tiny_old = {"D1": {"a0": 50}, "D2": lengths("b", 300)}
    second = plan(tiny_old, budget=20_000)[1]
    assert shown([second])["a0"] == 8
    assert sum(tokens(second, tiny_old)) == pytest.approx(
        len(second.batches) * 400, abs=LONGEST / 2
    )


def test_a_stock_too_small_for_its_stage_is_shown_more_often():
    one = {"D1": {"a0": 50, "a1": 50}}
    plans = plan(one, budget=8_000)
    assert [sum(tokens(p, one)) for p in plans] == pytest.approx([4000, 2000, 2000], abs=25)


@pytest.mark.parametrize("missing", [("D2",), ("D3",), ("D2", "D3"), ("D1",), ("D1", "D2")])
def test_steps_of_an_empty_set_go_to_the_others(missing):
    left = {p: traces for p, traces in POOLS.items() if p not in missing}
    plans, full = plan(left), plan()
    assert [len(p.batches) for p in plans] == [len(p.batches) for p in full]
    assert set(shown(plans)) <= {t for traces in left.values() for t in traces}


def test_nothing_to_show_is_refused():
    with pytest.raises(ValueError, match="every set is empty"):
        plan({"D1": {}})


def test_batches_smaller_than_the_traces_are_refused():
    with pytest.raises(ValueError, match="batches are smaller"):
        plan({"D1": {"a": 500}}, budget=4000, batch=100)


sets = st.fixed_dictionaries(
    {},
    optional={
        p: st.dictionaries(
            st.integers(0, 40).map(lambda i, p=p: f"{p}-{i}"), st.integers(1, 90), max_size=25
        )
        for p in ("D1", "D2", "D3")
    },
).filter(lambda drawn: any(drawn.values()))


@given(sets, sets, st.integers(100, 400), st.integers(800, 12_000), st.integers(0, 9))
def test_two_arms_train_for_the_same_steps_and_tokens(one, other, batch, budget, seed):
    for order in Order:
        found = [plan(p, budget, batch, seed, order) for p in (one, other)]
        assert [len(s.batches) for s in found[0]] == [len(s.batches) for s in found[1]]
        assert [s.lr_scale for s in found[0]] == [s.lr_scale for s in found[1]]
        steps = stage_steps(budget, batch, SETTINGS)
        for pools_, stages in zip((one, other), found, strict=True):
            longest = max(n for traces in pools_.values() for n in traces.values())
            total = sum(sum(tokens(s, pools_)) for s in stages)
            assert abs(total - sum(steps) * batch) <= 1.5 * longest
            mean = total / sum(steps)
            for stage, n in zip(stages, steps, strict=True):
                if order is Order.CURRICULUM:
                    assert abs(sum(tokens(stage, pools_)) - n * batch) <= longest / 2
                    mean = sum(tokens(stage, pools_)) / n
                assert all(abs(t - mean) <= longest for t in tokens(stage, pools_))


@given(sets, st.integers(800, 12_000), st.integers(0, 9))
def test_rearranged_arms_show_the_same_presentations(drawn, budget, seed):
    curriculum, shuffled, reverse = (plan(drawn, budget, 200, seed, o) for o in Order)
    assert shown(curriculum) == shown(shuffled) == shown(reverse)
    flat = [t for s in curriculum for b in s.batches for t in b]
    assert [t for s in reverse for b in s.batches for t in b] == flat[::-1]


@given(sets, st.integers(100, 400), st.integers(0, 9))
def test_max_shows_holds_wherever_the_stock_allows(drawn, batch, seed):
    # So small a budget is within the stock of nearly every stage: there is something to hold.
    least = min(sum(traces.values()) for traces in drawn.values())
    budget = max(4 * batch, SETTINGS.max_shows * least)
    steps = stage_steps(budget, batch, SETTINGS)
    stock = 0
    for stage, n in zip(plan(drawn, budget, batch, seed), steps, strict=True):
        stock += sum(drawn.get(f"D{stage.index}", {}).values())
        if stock * SETTINGS.max_shows >= n * batch:
            assert max(shown([stage]).values()) <= SETTINGS.max_shows


@given(st.integers(1, 10**6), st.integers(1, 5000))
def test_stage_steps_sum_to_the_budget_and_none_is_empty(budget, batch):
    steps, total = stage_steps(budget, batch, SETTINGS), round(budget / batch)
    assert min(steps) >= 1
    assert sum(steps) == total or total < 4


def test_a_visit_shows_another_text_until_all_of_them_were_shown():
    alternates = {t: {f"{t}/{i}": n for i in range(5)} for t, n in POOLS["D1"].items()}
    usual, fresh = plan(), plan(more=Beside(alternates=alternates))
    visits = Counter[str]()
    for text, count in shown(fresh).items():
        visits[text.split("/")[0]] += count
    assert visits == shown(usual), "how often a problem is shown stays as it was"
    for trace, count in visits.items():
        texts = [shown(fresh)[t] for t in (trace, *alternates.get(trace, ()))]
        assert sum(texts) == count and max(texts) - min(texts) <= 1


def test_the_students_own_answers_have_their_share_of_every_stage():
    own = lengths("o", 50)
    for stage, usual in zip(plan(more=Beside(own=own), own_replay=0.2), plan(), strict=True):
        size = sum(own[t] * n for t, n in shown([stage]).items() if t in own)
        whole = sum(tokens(stage, {**POOLS, "own": own}))
        assert size / whole == pytest.approx(0.2, abs=LONGEST / whole)
        assert whole == pytest.approx(sum(tokens(usual)), abs=LONGEST)


def test_the_last_stage_may_be_closed_by_all_sets_evenly():
    first, second, third = plan(closing=0.4)
    assert (first, second) == plan()[:2]
    order = [t for batch in third.batches for t in batch]
    size = {t: n for traces in POOLS.values() for t, n in traces.items()}
    ends = list(itertools.accumulate(size[t] for t in order))
    closing = [t for t, end in zip(order, ends, strict=True) if end > 0.6 * ends[-1] + LONGEST]
    shares = Counter()
    for trace in closing:
        shares[trace[0]] += size[trace] / sum(map(size.get, closing))
    for name, pool in zip("abc", POOLS.values(), strict=True):
        assert shares[name] == pytest.approx(sum(pool.values()) / sum(size.values()), abs=0.1)
    assert ends[-1] == pytest.approx(sum(tokens(plan()[2])), abs=LONGEST)


def test_own_answers_are_not_shown_unless_asked_for():
    assert plan(more=Beside(own=lengths("o", 50))) == plan()


def test_the_frontier_may_come_in_with_the_bridge():
    first, second, third = plan(frontier_from=2)
    assert {t[0] for t in shown([first])} == {"a"}
    assert {t[0] for t in shown([second])} == {"a", "b", "c"}
    assert {t[0] for t in shown([third])} == {"a", "b", "c"}


def test_replay_may_be_of_easy_problems_alone():
    easy = frozenset(list(POOLS["D1"])[:20])
    for stage, new in zip(plan(replay_easy=True, more=Beside(easy=easy))[1:], "bc", strict=True):
        assert {t for t in shown([stage]) if t[0] != new} == easy
    assert plan(replay_easy=True) == plan(), "none is known to be easy: everything earlier"


def test_a_trace_longer_than_a_batch_leaves_no_step_empty():
    mixed = {"D1": {"long": 900, **lengths("a", 60, 5, 20)}}
    for order in Order:
        for stage in plan(mixed, 12_000, 300, order=order):
            assert all(stage.batches)


def test_the_schedule_follows_its_seed():
    assert plan(seed=1) == plan(seed=1)
    assert plan(seed=1) != plan(seed=2)
