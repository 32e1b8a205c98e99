"""Locate: where failed traces broke (docs/method.md §2, entropy dynamics and breakpoint).

An extreme problem's failed paths are scored once under the unhinted teacher, the only part that
costs tokens; every breakpoint then reads the same scores. Where none of a run reads any, as by
default, nothing is scored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from heal.engines.base import Scored, ScoreRequest
from heal.keys import content_key, seed_for
from heal.method import gear as method
from heal.method.claims import find_claim_break
from heal.method.entropy import step_values
from heal.records import (
    Breakpoint,
    Check,
    Cut,
    Finish,
    Problem,
    Stratum,
    TokenScores,
    Trace,
)
from heal.stages import sample, verify
from heal.stages.found import Found, Lane, Request, Setup
from heal.stages.steps import trace_steps, word_of
from heal.store.columns import CutRow, ScoreRow

STAGE = "scores"


@dataclass(frozen=True)
class Path:
    """A failed trace, its cut, and what a hint for it may draw on."""

    problem: Problem
    trace: Trace
    cut: Cut
    sibling: Trace | None = None
    """The one correct unaided trace, when there is exactly one."""


def failed_paths(found: Found, setup: Setup) -> list[Trace]:
    """An extreme problem's failed traces worth repairing: complete, wrong, unlike each other."""

    def choose() -> list[Trace]:
        if setup.config.teacher is None or not sample.is_in(found, setup, Stratum.EXTREME):
            return []
        complete = [t for t in sample.unaided(found, setup) if t.finish is Finish.STOP]
        paths = [_path(trace, verify.check_of(found, setup, trace)) for trace in complete]
        by_key = {trace.key: trace for trace in complete}
        return [by_key[key] for key in method.choose_paths(paths, setup.config.gear.paths)]

    return found.once("failed paths", choose)


def owes(found: Found, setup: Setup) -> Iterator[Request]:
    """Scores of the failed paths, where they decide a cut."""
    for trace in failed_paths(found, setup) if setup.reads_scores else ():
        key = _scores_key(trace, setup)
        if found.get(STAGE, key, TokenScores) is None:
            yield _request(found.problem, trace, key, setup)


def paths(found: Found, setup: Setup, kind: Breakpoint) -> list[Path]:
    """Where each failed path is cut by one breakpoint; those that could not be scored are not."""

    def cut_all() -> list[Path]:
        only = _only_correct(found, setup)
        if not setup.reads_scores:
            failed = failed_paths(found, setup)
            return [Path(found.problem, t, cut(found, t, None, setup, kind), only) for t in failed]
        scored = ((t, scores_of(found, setup, t)) for t in failed_paths(found, setup))
        return [
            Path(found.problem, trace, cut(found, trace, scores, setup, kind), only)
            for trace, scores in scored
            if scores is not None and scores.error is None
        ]

    return found.once(("paths", kind), cut_all)


def scores_of(found: Found, setup: Setup, trace: Trace) -> TokenScores | None:
    """The unhinted scores of a failed path, perhaps with the reason why there are none."""
    return found.get(STAGE, _scores_key(trace, setup), TokenScores)


def cut(
    found: Found, trace: Trace, scores: TokenScores | None, setup: Setup, kind: Breakpoint
) -> Cut:
    """The cut of one failed path. Pure arithmetic on stored scores, None where none are read."""
    gear = setup.config.gear
    ends = trace_steps(trace, setup.teacher, gear, setup.prompts)
    low = high = np.full(len(ends), np.nan, np.float32)
    if scores is not None:
        low = step_values(scores.entropy_lo, ends, gear.step_entropy)
        high = step_values(scores.entropy_hi, ends, gear.step_entropy)
    if kind is Breakpoint.CLAIMS:
        broke = _claim_break(trace, scores, ends, setup)
    elif kind is Breakpoint.CHECKER:
        word = word_of(found, setup, trace)
        broke = method.checked_break(
            word.step if word else None, len(ends), lambda: _claim_break(trace, scores, ends, setup)
        )
    else:
        dice = seed_for(setup.config.seed, trace.key, 0)
        broke = method.find_breakpoint(low, high, ends, kind=kind, window=gear.window, seed=dice)
    key, prefix = _kept(trace.key, broke.step, ends, gear.back_up)
    return Cut(
        key=key,
        problem_id=trace.problem_id,
        trace=trace.key,
        step=broke.step,
        prefix_tokens=prefix,
        step_ends=ends,
        entropy_lo=low,
        entropy_hi=high,
        surge=broke.surge,
        margin=broke.margin,
        fallback=broke.fallback,
        undecided=broke.undecided,
    )


def conclude(found: Found, setup: Setup) -> Iterator[ScoreRow | CutRow | Cut]:
    """Rows of scores and cuts; the cuts themselves where HEAL's own breakpoint made them."""
    for trace in failed_paths(found, setup) if setup.reads_scores else ():
        scores = scores_of(found, setup, trace)
        if scores is not None:
            yield _score_row(scores)
    for kind in setup.breakpoints:
        for path in paths(found, setup, kind):
            yield cut_row(path.cut, kind)
            if kind is setup.config.gear.breakpoint:
                yield path.cut


def cut_row(made: Cut, kind: Breakpoint) -> CutRow:
    """What the columns say of a cut."""
    return CutRow(
        made.problem_id,
        kind,
        made.key,
        made.trace,
        made.step,
        len(made.step_ends),
        made.margin,
        made.fallback,
        made.undecided,
        bool(np.isnan(made.surge).all()),
    )


def _score_row(scores: TokenScores) -> ScoreRow:
    failed = scores.error is not None
    tokens = scores.scored_tokens
    return ScoreRow(
        scores.problem_id, STAGE, "", scores.key, scores.trace, tokens, failed, None, None
    )


def _path(trace: Trace, check: Check | None) -> method.FailedPath:
    assert check is not None, "paths are chosen once every trace has its verdict"
    opening = trace.ids[: max(1, len(trace.ids) // 3)].tolist()
    return method.FailedPath(trace.key, check.verdict, check.answer, opening)


def _only_correct(found: Found, setup: Setup) -> Trace | None:
    correct = verify.correct(found, setup, sample.unaided(found, setup))
    return correct[0] if len(correct) == 1 else None


def _scores_key(trace: Trace, setup: Setup) -> str:
    return content_key("scores", trace.problem_id, trace.key, setup.scorer.model_id)


def _request(problem: Problem, trace: Trace, key: str, setup: Setup) -> Request:
    context = sample.solve_ids(problem, setup.prompts, setup.scorer)
    ask = ScoreRequest(key, context, tuple(trace.ids.tolist()))
    return Request(Lane.SCORE, STAGE, (key,), ask, lambda scored: _scores(key, trace, scored))


def _scores(key: str, trace: Trace, scored: Scored) -> TokenScores:
    return TokenScores(
        key=key,
        problem_id=trace.problem_id,
        trace=trace.key,
        logprob=scored.logprob,
        entropy_lo=scored.entropy_lo,
        entropy_hi=scored.entropy_hi,
        scored_tokens=scored.tokens,
        error=scored.error,
    )


def _claim_break(
    trace: Trace, scores: TokenScores | None, ends: Sequence[int], setup: Setup
) -> method.Break:
    assert scores is not None, "this breakpoint reads scores"
    pieces = setup.teacher.token_bytes(trace.ids.tolist())
    bounds = scores.entropy_lo, scores.entropy_hi
    return find_claim_break(scores.logprob, *bounds, ends, pieces)


def _kept(trace: str, step: int, ends: Sequence[int], back_up: int) -> tuple[str, int]:
    """A cut's key, and how many tokens it keeps."""
    kept = method.kept_steps(step, back_up)
    prefix = ends[kept - 1] if kept else 0
    return content_key("cut", trace, prefix), prefix
