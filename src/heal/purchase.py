"""Purchase: HEAL's whole bill, and what else it buys the arms that repair nothing.

`rft_more` buys unaided traces, `star` whole traces under the answer (METHOD §5).
How the bill is shared out is in `heal.stages.spend`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from heal.method.arms import Arm, Extra
from heal.method.pace import cap
from heal.method.pure import LINED
from heal.records import Origin, Problem, PureScore, Split, TokenScores, Trace
from heal.run import Run
from heal.stages.draw import Draw
from heal.stages.guide import answer_hint
from heal.stages.repair import hinted_ids
from heal.stages.sample import solve_ids
from heal.stages.spend import HARD_FIRST, by_need, spend

Plan = Sequence[tuple[Problem, tuple[int, ...]]]


def bill_of(run: Run) -> int:
    """What HEAL spends after sampling, in sampled teacher tokens.

    A scored token counts what `evaluate.scored_token_cost` says, else as much as it takes in time
    beside a sampled one on this engine, measured once and kept, so that a rerun asks for the same.
    """
    store, main = run.session.store, run.main_lift
    cost = run.session.config.evaluate.scored_token_cost
    if cost is None:
        cost = store.meta("scored_token_cost")
    if cost is None:
        cost = relative_cost(store.meta("work") or {})
        store.set_meta("scored_token_cost", cost)
    sampled = sum(t.new_tokens for t in (run.hinted | main.repaired).values())
    hints = sum(hint.new_tokens for hint in {h.key: h for h in main.hints.values()}.values())
    scored = sum(s.scored_tokens for s in store.live("scores", TokenScores).values())
    scored += sum(s.scored_tokens for s in store.live("pure", PureScore).values())
    if run.session.config.pure.selection in LINED:
        honest = store.live("pure", PureScore, tag="honest").values()
        scored += sum(s.scored_tokens for s in honest)
    return round(sampled + hints + cost * scored)


def relative_cost(work: Mapping[str, Sequence[float]]) -> float:
    """Time of a scored token over that of a sampled one; 1 where either was never timed."""
    tokens, seconds = work.get("sample", (0, 0))
    scans, profiles = work.get("scores", (0, 0)), work.get("pure", (0, 0))
    scored_tokens, scored_seconds = scans[0] + profiles[0], scans[1] + profiles[1]
    if not (scored_tokens and scored_seconds and tokens and seconds):
        return 1.0
    return (scored_seconds / scored_tokens) / (seconds / tokens)


def buy(run: Run, arm: Arm, bill: int) -> tuple[dict[str, Trace], int]:
    """The traces an arm gets for the bill, verified, and the tokens it could not spend."""
    c, samples = run.session.config, arm.extra is Extra.SAMPLES
    train = run.problems(Split.TRAIN)
    return spend(
        # what `star` buys goes into D2, which has no easy problems
        by_need(train, run.ceilings, HARD_FIRST if samples else HARD_FIRST[:2]),
        bill,
        typical_tokens(run),
        # behind the fixed plan, even where less of it was drawn: that may be asked for again
        c.sampling.n if samples else c.gear.hinted_samples,
        lambda bought: below_cap(run, "D1" if samples else "D2", bought),
        lambda plan: buy_unaided(run, plan) if samples else buy_rationales(run, plan),
    )


def typical_tokens(run: Run) -> float:
    """Mean length of an unaided trace; 1 if none was drawn."""
    return sum(t.new_tokens for t in run.unaided.values()) / max(1, len(run.unaided)) or 1.0


def below_cap(run: Run, pool: str, bought: Mapping[str, Trace]) -> set[str]:
    """Problems whose D1 or D2 still has room, with what was bought."""
    own = run.unaided if pool == "D1" else run.hinted
    have = Counter(trace.problem_id for trace in run.correct({**own, **bought}))
    pace, ceilings = run.session.config.pace, run.ceilings.items()
    return {p for p, found in ceilings if have[p] < cap(pool, found.stratum, pace)}


def buy_unaided(run: Run, plan: Plan) -> dict[str, Trace]:
    """More unaided traces, verified."""
    teacher = run.session.teacher
    draws = (
        Draw(p.id, Origin.UNAIDED, solve_ids(p, run.prompts, teacher), indices)
        for p, indices in plan
    )
    drawn = run.draw("bought", draws)
    run.checks |= run.session.check(drawn.values())
    return drawn


def buy_rationales(run: Run, plan: Plan) -> dict[str, Trace]:
    """More whole traces under the answer, verified."""
    draws = []
    for problem, indices in plan:
        hint = answer_hint(problem, run.prompts)
        ids = hinted_ids(problem, hint, run.prompts, run.session.teacher)
        draws.append(Draw(problem.id, Origin.HINTED, ids, indices, hint=hint.key))
    drawn = run.draw("bought", draws)
    run.checks |= run.session.check(drawn.values())
    return drawn
