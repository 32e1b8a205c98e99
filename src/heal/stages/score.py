"""Score: each trace's perplexity-uncertainty profile (METHOD §3).

In: hinted and repaired traces that passed the gates. Out: one `PureScore` each: per step the
perplexity, how surprising the trace's own answer is where the step writes it and, where that is
asked for, how unsure the teacher still is of it after the step. All of it under the *unhinted*
teacher: with the hint in view a copied answer looks fluent. Only the `reliance` control looks a
second time with the hint, and only where it is asked to.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from heal.config import Gear, Pure
from heal.engines.base import Engine, Probe, Scored, ScoreRequest
from heal.keys import content_key
from heal.method.answers import states_answer
from heal.method.pure import MIN_CALIBRATION, step_surprisal
from heal.prompts import Prompts
from heal.records import (
    Ceiling,
    FloatArray,
    Hint,
    HintedScore,
    Problem,
    PureScore,
    Stratum,
    Trace,
)
from heal.stages.draw import Claim
from heal.stages.repair import hinted_ids
from heal.stages.sample import solve_ids
from heal.stages.steps import step_text, trace_steps

PROFILE, WITHOUT_U = "pure, with surprisal", "surprisal alone"
"""What a profile holds: one that holds less than is asked for is owed again."""


@dataclass(frozen=True)
class Candidate:
    """A trace to score, with the answer text its probes ask for."""

    problem: Problem
    trace: Trace
    answer: str
    hint: Hint | None = None
    """What the teacher was told when it wrote the trace; None for an unaided one."""


def honest(
    correct: Iterable[Trace], ceilings: Mapping[str, Ceiling], settings: Pure
) -> tuple[list[Trace], bool]:
    """Which unaided correct traces PURE is calibrated on; whether all are of easy problems.

    Those of problems the teacher mostly solves, if they are enough: where it mostly fails, a right
    answer is often luck (in the lab's `rows` 13 of 17 such traces did not hold).
    """
    ordered = sorted(correct, key=lambda t: t.key)
    mastered = [t for t in ordered if ceilings[t.problem_id].stratum is Stratum.EASY]
    enough = len(mastered) >= MIN_CALIBRATION
    return (mastered if enough else ordered)[: settings.calibration_traces], enough


def pure_key(
    candidate: Candidate, prompts: Prompts, gear: Gear, engine: Engine, probes: bool = True
) -> str:
    """Names the profile of a trace under one model, one segmentation and one probe, or none."""
    words = (prompts.solve, prompts.system, prompts.probe, prompts.probe_close, prompts.think_close)
    segmentation = (gear.min_step_tokens, gear.max_step_tokens)
    what = PROFILE if probes else WITHOUT_U
    return content_key(
        what, candidate.trace.key, candidate.answer, words, segmentation, engine.model_id
    )


def score(
    owed: Mapping[str, Candidate],
    prompts: Prompts,
    gear: Gear,
    engine: Engine,
    probes: bool,
    done: Collection[str],
    claim: Claim,
) -> Iterator[PureScore]:
    """Profiles still owed, as they finish; `owed` by `pure_key`. Without probes they have no U."""

    def request(key: str, candidate: Candidate) -> ScoreRequest:
        return _request(key, candidate, prompts, gear, engine, probes)

    for candidate, scored in _asked(owed, done, claim, engine, request):
        yield _profile(scored, candidate, prompts, gear, engine)


def _asked(
    owed: Mapping[str, Candidate],
    done: Collection[str],
    claim: Claim,
    engine: Engine,
    request: Callable[[str, Candidate], ScoreRequest],
) -> Iterator[tuple[Candidate, Scored]]:
    """What is owed and not done, each claimed as it is asked for, beside its score."""

    def requests() -> Iterator[ScoreRequest]:
        for key, candidate in owed.items():
            if key not in done:
                claim([key])
                yield request(key, candidate)

    for scored in engine.score(requests()):
        yield owed[scored.request], scored


def hinted_key(candidate: Candidate, prompts: Prompts, gear: Gear, engine: Engine) -> str:
    """Names the hinted score of a trace: the profile's name, and what is shown with the hint."""
    hint = candidate.hint.text if candidate.hint else None
    words = (pure_key(candidate, prompts, gear, engine), hint, prompts.solve_hinted)
    return content_key("reliance", *words)


def assisted(candidates: Iterable[Candidate], profiles: Mapping[str, PureScore]) -> list[Candidate]:
    """Those whose reliance on a hint can be measured: profiled, hinted, with a step of their own.

    `profiles`: by trace.
    """
    return [
        c
        for c in candidates
        if c.hint is not None
        and (found := profiles.get(c.trace.key)) is not None
        and found.first_step <= len(found.step_tokens)
    ]


def score_hinted(
    candidates: Sequence[Candidate],
    prompts: Prompts,
    gear: Gear,
    engine: Engine,
    done: Collection[str],
    claim: Claim,
) -> Iterator[HintedScore]:
    """Hinted scores still owed, as they finish: the same token ids, with the hint in view."""
    owed = {hinted_key(c, prompts, gear, engine): c for c in candidates}

    def request(key: str, candidate: Candidate) -> ScoreRequest:
        assert candidate.hint is not None, "only assisted traces have a hint to show"
        context = hinted_ids(candidate.problem, candidate.hint, prompts, engine)
        return ScoreRequest(key, context, tuple(candidate.trace.ids.tolist()))

    for candidate, scored in _asked(owed, done, claim, engine, request):
        trace, value = candidate.trace, None
        if scored.error is None:
            ends = trace_steps(trace, engine, gear, prompts)
            first = first_new_step(trace, ends)
            # The tokens Δ's other half is taken over: steps b … K, nothing after the reasoning.
            start = ends[first - 2] if first > 1 else 0
            value = float(-scored.logprob[start : ends[-1]].mean())
        yield HintedScore(
            scored.request, trace.problem_id, trace.key, value, scored.tokens, scored.error
        )


def with_hinted(
    profiles: Mapping[str, PureScore], hinted: Iterable[HintedScore]
) -> dict[str, PureScore]:
    """Profiles, by trace, that now know the hinted log-prob too; those that did are left out."""
    return {
        h.trace: replace(
            profiles[h.trace],
            hinted_log_ppl=h.log_ppl,
            scored_tokens=profiles[h.trace].scored_tokens + h.scored_tokens,
        )
        for h in hinted
        if h.error is None and profiles[h.trace].hinted_log_ppl is None
    }


def probe_ids(answer: str, prompts: Prompts, engine: Engine) -> tuple[tuple[int, ...], int]:
    """Ids of probe and answer, tokenised jointly, and the index of the answer's first token."""
    opening = (f"\n{prompts.think_close}\n\n" if prompts.think_close else "") + prompts.probe
    ids = engine.encode(opening + answer + prompts.probe_close)
    seen, limit = 0, len(opening.encode())
    for index, piece in enumerate(engine.token_bytes(ids)):
        seen += len(piece)
        if seen > limit:
            return ids, index
    return ids, len(ids) - 1


def first_new_step(trace: Trace, ends: Sequence[int]) -> int:
    """b: the first step, from 1, that was not kept from the parent."""
    return 1 + sum(end <= trace.prefix_tokens for end in ends)


def _request(
    key: str, candidate: Candidate, prompts: Prompts, gear: Gear, engine: Engine, probes: bool
) -> ScoreRequest:
    trace, asked = candidate.trace, tuple[Probe, ...]()
    if probes:
        ends = trace_steps(trace, engine, gear, prompts)
        ids, score_from = probe_ids(candidate.answer, prompts, engine)
        asked = tuple(Probe(at, ids, score_from) for at in ends[first_new_step(trace, ends) - 1 :])
    context = solve_ids(candidate.problem, prompts, engine)
    return ScoreRequest(key, context, tuple(trace.ids.tolist()), asked)


def _profile(
    scored: Scored, candidate: Candidate, prompts: Prompts, gear: Gear, engine: Engine
) -> PureScore:
    trace = candidate.trace
    ends = trace_steps(trace, engine, gear, prompts)
    first = first_new_step(trace, ends)
    uncertainty = np.full(len(ends) + 1, np.nan, np.float32)
    log_ppl, surprisal = (np.full(len(ends), np.nan, np.float32) for _ in range(2))
    if scored.error is None:
        log_ppl = step_log_ppl(scored.logprob, ends)
        pieces = engine.token_bytes(trace.ids.tolist())
        surprisal = step_surprisal(pieces, scored.logprob, ends, candidate.answer)
        if scored.probe_logprob:
            uncertainty[first:] = [-values.mean() for values in scored.probe_logprob]
    return PureScore(
        key=scored.request,
        problem_id=candidate.problem.id,
        trace=trace.key,
        log_ppl=log_ppl,
        uncertainty=uncertainty,
        step_tokens=np.diff([0, *ends]).tolist(),
        first_step=first,
        scorable=[
            not states_answer(step_text(trace, ends, k, engine), candidate.answer)
            for k in range(1, len(ends) + 1)
        ],
        answer_surprisal=surprisal,
        scored_tokens=scored.tokens,
        probe_tokens=sum(len(values) for values in scored.probe_logprob),
        error=scored.error,
    )


def step_log_ppl(logprob: FloatArray, ends: Sequence[int]) -> FloatArray:
    """ln PPL_k = mean −ln p over step k's tokens; float32[K], nats."""
    starts = [0, *ends[:-1]]
    return np.array(
        [-logprob[a:b].mean() for a, b in zip(starts, ends, strict=True)], dtype=np.float32
    )
