"""The bandit of repairs: within its cap, the same every time, and off to where it pays."""

from collections import Counter
from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from heal.method.budget import ROUND, History, Limits, Way, next_draws

Outcome = tuple[Way, bool, int]
World = Callable[[Way, np.random.Generator], tuple[bool, int]]
"""What a draw brings: accepted or not, and its tokens."""

FREE = Limits(draws=10_000, target=None, per_cut=10_000)


def ways_of(problem: str, cuts: int, kinds: tuple[str, ...] = ("plain",)) -> list[Way]:
    return [
        Way(f"{problem}{cut}/{kind}", problem, kind, f"{problem}{cut}")
        for cut in range(cuts)
        for kind in kinds
    ]


def rates(**given: tuple[float, int]) -> World:
    """Kinds by acceptance rate and tokens per draw."""

    def draw(way: Way, dice: np.random.Generator) -> tuple[bool, int]:
        rate, tokens = given[way.kind]
        return bool(dice.random() < rate), tokens

    return draw


def dice_of(*seeds: int) -> np.random.Generator:
    return np.random.default_rng(seeds)


def play(
    problems: list[list[Way]], limits: Limits, world: World, seed: int = 0, rounds: int = 400
) -> list[Outcome]:
    """Draw round after round, all problems beside each other, until all are done."""
    history, dice = History(), np.random.default_rng([seed, 1])
    played: list[Outcome] = []
    for number in range(rounds):
        chosen = [
            way
            for index, ways in enumerate(problems)
            for way in next_draws(ways, history, limits, dice_of(seed, index, number))
        ]
        if not chosen:
            return played
        for way in chosen:
            accepted, tokens = world(way, dice)
            history.add(way, accepted=int(accepted), tokens=tokens)
            played.append((way, accepted, tokens))
    return played


@given(
    cuts=st.integers(1, 6),
    kinds=st.integers(1, 3),
    draws=st.integers(0, 60),
    target=st.none() | st.integers(1, 9),
    per_cut=st.integers(1, 4),
    rate=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_no_limit_is_ever_exceeded_and_one_of_them_is_reached(
    cuts: int,
    kinds: int,
    draws: int,
    target: int | None,
    per_cut: int,
    rate: float,
    seed: int,
) -> None:
    names = ("a", "b", "c")[:kinds]
    limits = Limits(draws, target, per_cut)
    problems = [ways_of(name, cuts, names) for name in ("p", "q")]
    played = play(problems, limits, rates(a=(rate, 9), b=(rate, 5), c=(rate / 2, 7)), seed)
    for problem in ("p", "q"):
        own = [(way, accepted) for way, accepted, _ in played if way.problem_id == problem]
        accepted = Counter(way.cut for way, passed in own if passed)
        assert len(own) <= draws
        assert accepted.total() <= (draws if target is None else target)
        assert all(count <= per_cut for count in accepted.values())
        done = accepted.total() == target or accepted.total() == cuts * per_cut
        assert done or len(own) == draws


def test_a_problem_without_ways_is_done() -> None:
    assert next_draws([], History(), FREE, np.random.default_rng(0)) == []


outcomes = st.lists(
    st.tuples(st.sampled_from(ways_of("p", 3, ("a", "b"))), st.booleans(), st.integers(0, 50))
)


@given(outcomes, st.randoms(use_true_random=False), st.integers(0, 2**31))
def test_what_is_next_follows_from_the_records_and_the_seed_alone(
    records: list[Outcome], order: object, seed: int
) -> None:
    shuffled = list(records)
    order.shuffle(shuffled)  # type: ignore[attr-defined]

    def chosen(records: list[Outcome]) -> list[Way]:
        history = History()
        for way, accepted, tokens in records:
            history.add(way, accepted=int(accepted), tokens=tokens)
        ways = ways_of("p", 3, ("a", "b"))
        return next_draws(ways, history, FREE, np.random.default_rng(seed))

    assert chosen(records) == chosen(shuffled)
    assert 0 < len(chosen(records)) <= ROUND


def test_other_dice_try_other_ways() -> None:
    ways = ways_of("p", 5, ("a", "b"))
    firsts = {next_draws(ways, History(), FREE, np.random.default_rng(s))[0].key for s in range(99)}
    assert firsts == {way.key for way in ways}


def share_of(kind: str, played: list[Outcome]) -> float:
    return sum(way.kind == kind for way, *_ in played) / len(played)


def test_the_kind_that_is_accepted_more_often_is_drawn_more_and_more() -> None:
    problems = [ways_of(str(i), 4, ("good", "bad")) for i in range(5)]
    played = play(problems, FREE, rates(good=(0.6, 50), bad=(0.15, 50)), rounds=40)
    assert share_of("good", played[:100]) < share_of("good", played[-100:])
    assert share_of("good", played[-400:]) > 0.95


def test_of_two_kinds_accepted_alike_the_cheaper_one_is_drawn() -> None:
    problems = [ways_of(str(i), 4, ("short", "long")) for i in range(5)]
    played = play(problems, FREE, rates(short=(0.4, 30), long=(0.4, 120)), rounds=40)
    assert share_of("short", played[-400:]) > 0.95


def test_a_hint_that_costs_more_than_it_brings_is_given_up() -> None:
    history, ways = History(), ways_of("p", 4, ("told", "free"))
    for way in ways:
        history.add(way, draws=0, tokens=2_000 if way.kind == "told" else 0)
        history.add(way, draws=20, accepted=10, tokens=400)
    drawn = [next_draws(ways, history, FREE, np.random.default_rng(s))[0].kind for s in range(50)]
    assert set(drawn) == {"free"}


def test_within_a_problem_the_cut_that_can_be_repaired_is_found() -> None:
    def world(way: Way, dice: np.random.Generator) -> tuple[bool, int]:
        return bool(dice.random() < (0.7 if way.cut == "p3" else 0.02)), 40

    played = play([ways_of("p", 6)], FREE, world, rounds=60)
    assert sum(way.cut == "p3" for way, *_ in played[-80:]) / 80 > 0.9


def test_what_one_problem_shows_is_used_in_the_next() -> None:
    history = History()
    for way in ways_of("p", 4, ("good", "bad")):
        history.add(way, draws=10, accepted=8 if way.kind == "good" else 0, tokens=500)
    other = ways_of("q", 4, ("good", "bad"))
    drawn = [next_draws(other, history, FREE, np.random.default_rng(s))[0].kind for s in range(50)]
    assert set(drawn) == {"good"}


def test_what_fails_in_one_problem_alone_is_left_there() -> None:
    """Everywhere else `usual` works best; here it never does."""

    def world(way: Way, dice: np.random.Generator) -> tuple[bool, int]:
        rate = 0.5 if way.kind == "other" else 0.0 if way.problem_id == "odd" else 0.8
        return bool(dice.random() < rate), 40

    problems = [ways_of(name, 4, ("usual", "other")) for name in ("odd", "b", "c", "d")]
    played = play(problems, FREE, world, rounds=40)
    odd = [x for x in played if x[0].problem_id == "odd"]
    rest = [x for x in played if x[0].problem_id != "odd"]
    assert share_of("other", odd[-60:]) > 0.9
    assert share_of("usual", rest[-180:]) > 0.9


def price(played: list[Outcome]) -> float:
    """Tokens per accepted repair."""
    return sum(tokens for *_, tokens in played) / sum(accepted for _, accepted, _ in played)


def in_turn(problems: list[list[Way]], limits: Limits, world: World, seed: int) -> list[Outcome]:
    """The fixed plan: every way of a problem in turn, until it has enough."""
    dice, played = np.random.default_rng(seed), list[Outcome]()
    for ways in problems:
        own: list[Outcome] = []
        while len(own) < limits.draws and sum(x[1] for x in own) < (limits.target or 0):
            way = ways[len(own) % len(ways)]
            own.append((way, *world(way, dice)))
        played += own
    return played


PLAN = Limits(draws=200, target=8, per_cut=2)
THIRTY = [ways_of(str(i), 10, ("a", "b", "c")) for i in range(30)]


def test_it_pays_less_per_accepted_repair_than_taking_turns() -> None:
    """Under the same cap and target, where two of three kinds hardly ever work."""
    world = rates(a=(0.05, 60), b=(0.5, 50), c=(0.05, 40))
    bandit = play(THIRTY, PLAN, world)
    assert price(bandit) < 0.6 * price(in_turn(THIRTY, PLAN, world, seed=5))
    assert sum(accepted for _, accepted, _ in bandit) == 30 * 8


def test_learning_costs_less_than_a_third_where_the_fixed_plan_has_the_best_kind() -> None:
    world = rates(a=(0.5, 50), b=(0.15, 60), c=(0.15, 40))
    best = [[way for way in ways if way.kind == "a"] for ways in THIRTY]
    ratios = [
        price(play(THIRTY, PLAN, world, seed)) / price(in_turn(best, PLAN, world, seed))
        for seed in range(10)
    ]
    assert 1.0 < np.mean(ratios) < 1.33
