"""Locate: where failed traces broke (METHOD §2, entropy dynamics and breakpoint).

In: the unaided traces of extreme problems and their verdicts. Out: token scores of the chosen
failed paths under the unhinted teacher (the only part that costs tokens), then one cut per path.
Changing the breakpoint reads the same scores again.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from heal.config import Gear
from heal.engines.base import Engine, ScoreRequest
from heal.keys import content_key, seed_for
from heal.method import gear as method
from heal.method.entropy import step_values
from heal.prompts import Prompts
from heal.records import Check, Cut, Finish, Problem, TokenScores, Trace
from heal.stages.draw import Claim
from heal.stages.sample import solve_ids
from heal.stages.steps import trace_steps


def failed_paths(traces: Iterable[Trace], checks: Mapping[str, Check], paths: int) -> list[Trace]:
    """One problem's failed traces worth repairing: complete, wrong, and unlike each other."""
    complete = [trace for trace in traces if trace.finish is Finish.STOP]
    by_key = {trace.key: trace for trace in complete}
    chosen = method.choose_paths([_path(trace, checks[trace.key]) for trace in complete], paths)
    return [by_key[key] for key in chosen]


def _path(trace: Trace, check: Check) -> method.FailedPath:
    opening = trace.ids[: max(1, len(trace.ids) // 3)].tolist()
    return method.FailedPath(trace.key, check.verdict, check.answer, opening)


def scores_key(trace: Trace, engine: Engine) -> str:
    """Names the unhinted scores of a trace under one model."""
    return content_key("scores", trace.problem_id, trace.key, engine.model_id)


def scan(
    traces: Sequence[Trace],
    problems: Mapping[str, Problem],
    prompts: Prompts,
    engine: Engine,
    done: Collection[str],
    claim: Claim,
) -> Iterator[TokenScores]:
    """Unhinted token scores still owed, as they finish."""
    by_key = {scores_key(trace, engine): trace for trace in traces}

    def requests() -> Iterator[ScoreRequest]:
        for key, trace in by_key.items():
            if key in done:
                continue
            claim([key])
            context = solve_ids(problems[trace.problem_id], prompts, engine)
            yield ScoreRequest(key, context, tuple(trace.ids.tolist()))

    for scored in engine.score(requests()):
        trace = by_key[scored.request]
        yield TokenScores(
            key=scored.request,
            problem_id=trace.problem_id,
            trace=trace.key,
            logprob=scored.logprob,
            entropy_lo=scored.entropy_lo,
            entropy_hi=scored.entropy_hi,
            scored_tokens=scored.tokens,
            error=scored.error,
        )


def cut(
    trace: Trace, scores: TokenScores, engine: Engine, gear: Gear, prompts: Prompts, seed: int
) -> Cut:
    """The cut of one failed path. Pure arithmetic on stored scores."""
    ends = trace_steps(trace, engine, gear, prompts)
    low = step_values(scores.entropy_lo, ends, gear.step_entropy)
    high = step_values(scores.entropy_hi, ends, gear.step_entropy)
    found = method.find_breakpoint(
        low, high, ends, kind=gear.breakpoint, window=gear.window, seed=seed_for(seed, trace.key, 0)
    )
    key, prefix = _kept(trace.key, found.step, ends, gear.back_up)
    return Cut(
        key=key,
        problem_id=trace.problem_id,
        trace=trace.key,
        step=found.step,
        prefix_tokens=prefix,
        step_ends=ends,
        entropy_lo=low,
        entropy_hi=high,
        surge=found.surge,
        margin=found.margin,
        fallback=found.fallback,
        undecided=found.undecided,
    )


def _kept(trace: str, step: int, ends: Sequence[int], back_up: int) -> tuple[str, int]:
    """A cut's key, and how many tokens it keeps."""
    kept = method.kept_steps(step, back_up)
    prefix = ends[kept - 1] if kept else 0
    return content_key("cut", trace, prefix), prefix
