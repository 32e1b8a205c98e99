"""Score: each assisted trace's perplexity-uncertainty profile (docs/method.md §3).

Of traces that passed the gates, but for those a step checker vouches for: per step the perplexity,
how surprising the trace's own answer is where the step writes it and, where that is asked for, how
unsure the teacher still is of it after the step. All of it under the *unhinted* teacher: with the
hint in view a copied answer looks fluent. Only the `reliance` control looks a second time with the
hint, where it is asked to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from heal.engines.base import Probe, Scored, ScoreRequest
from heal.keys import content_key
from heal.method.answers import states_answer
from heal.method.claims import worst_result
from heal.method.pure import commitment, step_surprisal, surprisal
from heal.prompts import Prompts
from heal.records import FloatArray, Hint, HintedScore, Outcome, PureScore, Trace
from heal.stages import repair, sample, verify
from heal.stages.found import Found, Lane, Request, Setup, TextModel
from heal.stages.steps import step_text, trace_steps, word_of
from heal.store.columns import ScoreRow

STAGE, RELIANCE = "pure", "reliance"
PROFILE, WITHOUT_U = "pure, with surprisal", "surprisal alone"
"""What a profile holds: one that holds less than is asked for is owed again."""
AGAIN = ", with worst result"
"""What else one holds that took the place of one stored before that was measured."""


@dataclass(frozen=True)
class Candidate:
    """A trace to score, with the answer text its probes ask for."""

    trace: Trace
    answer: str
    hint: Hint | None = None
    """What the teacher was told when it wrote the trace; None for an unaided one."""


def owes(found: Found, setup: Setup) -> Iterator[Request]:
    """Profiles of everything past the gates; then, where it is wanted, the same with the hint."""
    asked: set[str] = set()
    for candidate in (c for group in _judged(found, setup).values() for c in group):
        for request in owed_scores(found, setup, candidate):
            if request.keys[0] not in asked:
                asked.add(request.keys[0])
                yield request


def owed_scores(found: Found, setup: Setup, candidate: Candidate) -> Iterator[Request]:
    """What is still to be measured on one trace."""
    profile = profile_of(found, setup, candidate)
    if profile is None:
        yield _profile_request(found, setup, candidate)
    elif setup.wants_reliance and _relies(profile, candidate):
        key = _hinted_key(found, setup, candidate)
        if profile.hinted_log_ppl is None and found.get(RELIANCE, key, HintedScore) is None:
            yield _hinted_request(found, setup, candidate, key)


def candidate_of(found: Found, setup: Setup, trace: Trace, hint: Hint | None = None) -> Candidate:
    """A trace with the answer that was read from it."""
    check = verify.check_of(found, setup, trace)
    return Candidate(trace, (check and check.answer) or found.problem.answer, hint)


def profile_of(found: Found, setup: Setup, candidate: Candidate) -> PureScore | None:
    """A trace's profile, perhaps with the reason why there is none; None while it is owed.

    One with U will do where none is asked for. One that lacks the worst result will not where that
    is selected by, unless scoring failed: then it says why.
    """
    for probes in (True,) if setup.wants_uncertainty else (True, False):
        for again in (False, True):
            key = _profile_key(found, setup, candidate, probes, again)
            profile = found.get(STAGE, key, PureScore)
            if profile is not None and _holds_enough(profile, setup):
                return profile
    return None


def _holds_enough(profile: PureScore, setup: Setup) -> bool:
    lacking = profile.worst_result is None and profile.error is None
    return not (setup.wants_worst_result and lacking)


def measured(found: Found, setup: Setup, candidate: Candidate) -> PureScore | None:
    """The profile with all that was measured, for PURE to read; None where scoring failed."""
    profile = profile_of(found, setup, candidate)
    if profile is None or profile.error is not None:
        return None
    if not setup.wants_reliance or not _relies(profile, candidate):
        return profile
    hinted = found.get(RELIANCE, _hinted_key(found, setup, candidate), HintedScore)
    if hinted is None or hinted.error is not None:
        return profile
    return replace(profile, hinted_log_ppl=hinted.log_ppl)


def conclude(found: Found, setup: Setup) -> Iterator[ScoreRow]:
    """Rows of all profiles."""
    for tag, group in _judged(found, setup).items():
        for candidate in group:
            yield from score_rows(found, setup, candidate, tag)


def score_rows(found: Found, setup: Setup, candidate: Candidate, tag: str) -> Iterator[ScoreRow]:
    """What the columns say of one trace's scores."""
    problem, trace = found.problem.id, candidate.trace.key
    profile = profile_of(found, setup, candidate)
    if profile is None:
        return
    settled, own = None, None
    if profile.error is None:
        own = surprisal(profile) if profile.answer_surprisal is not None else None
        if profile.has_uncertainty:
            settled = commitment(profile, setup.config.pure) or 0
    failed = profile.error is not None
    tokens = profile.scored_tokens
    yield ScoreRow(problem, STAGE, tag, profile.key, trace, tokens, failed, settled, own)
    if setup.wants_reliance and candidate.hint is not None:
        hinted = found.get(RELIANCE, _hinted_key(found, setup, candidate), HintedScore)
        if hinted is not None:
            failed, tokens = hinted.error is not None, hinted.scored_tokens
            yield ScoreRow(problem, RELIANCE, tag, hinted.key, trace, tokens, failed, None, None)


def probe_ids(answer: str, prompts: Prompts, model: TextModel) -> tuple[tuple[int, ...], int]:
    """Ids of probe and answer, tokenised jointly, and the index of the answer's first token."""
    opening = (f"\n{prompts.think_close}\n\n" if prompts.think_close else "") + prompts.probe
    ids = model.encode(opening + answer + prompts.probe_close)
    seen, limit = 0, len(opening.encode())
    for index, piece in enumerate(model.token_bytes(ids)):
        seen += len(piece)
        if seen > limit:
            return ids, index
    return ids, len(ids) - 1


def first_new_step(trace: Trace, ends: Sequence[int]) -> int:
    """b: the first step, from 1, that was not kept from the parent."""
    return 1 + sum(end <= trace.prefix_tokens for end in ends)


def step_log_ppl(logprob: FloatArray, ends: Sequence[int]) -> FloatArray:
    """ln PPL_k = mean −ln p over step k's tokens; float32[K], nats."""
    starts = [0, *ends[:-1]]
    return np.array(
        [-logprob[a:b].mean() for a, b in zip(starts, ends, strict=True)], dtype=np.float32
    )


def profile_key(candidate: Candidate, setup: Setup, probes: bool, again: bool = False) -> str:
    """Names the profile of a trace under one model, one segmentation and one probe, or none.

    again: in place of one that lacks the worst result.
    """
    prompts, gear = setup.prompts, setup.config.gear
    words = (prompts.solve, prompts.system, prompts.probe, prompts.probe_close, prompts.think_close)
    segmentation = (gear.min_step_tokens, gear.max_step_tokens)
    what = (PROFILE if probes else WITHOUT_U) + AGAIN * again
    return content_key(
        what, candidate.trace.key, candidate.answer, words, segmentation, setup.scorer.model_id
    )


def assisted(found: Found, setup: Setup) -> dict[str, list[Candidate]]:
    """Everything past the gates: whole traces under `hinted`, repairs under their breakpoint."""
    groups = {repair.HINTED: repair.with_answer(found, setup)}
    groups |= {str(kind): repair.repairs(found, setup, kind) for kind in setup.breakpoints}
    return {
        tag: [candidate_of(found, setup, *both) for both in repair.passed(found, setup, traces)]
        for tag, traces in groups.items()
    }


def _judged(found: Found, setup: Setup) -> dict[str, list[Candidate]]:
    """What PURE has a word on: everything past the gates but what the step checker vouches for."""

    def ask() -> dict[str, list[Candidate]]:
        groups = assisted(found, setup)
        if not setup.spares_checked:
            return groups
        return {
            tag: [c for c in group if not _vouched(found, setup, c.trace)]
            for tag, group in groups.items()
        }

    # Asked only once repairs are done with, so what passed does not change any more.
    return found.once("judged", ask)


def _vouched(found: Found, setup: Setup, trace: Trace) -> bool:
    word = word_of(found, setup, trace)
    return word is not None and word.outcome is Outcome.NONE_FOUND


def _relies(profile: PureScore, candidate: Candidate) -> bool:
    """Whether reliance on a hint can be measured: there is one, and a step of the trace's own."""
    own = profile.error is None and profile.first_step <= len(profile.step_tokens)
    return candidate.hint is not None and own


def _profile_key(
    found: Found, setup: Setup, candidate: Candidate, probes: bool, again: bool = False
) -> str:
    name = ("profile", candidate.trace.key, candidate.answer, probes, again)
    return found.once(name, lambda: profile_key(candidate, setup, probes, again))


def _hinted_key(found: Found, setup: Setup, candidate: Candidate) -> str:
    hint = candidate.hint.text if candidate.hint else None
    profile = _profile_key(found, setup, candidate, True)
    return content_key("reliance", profile, hint, setup.prompts.solve_hinted)


def _profile_request(found: Found, setup: Setup, candidate: Candidate) -> Request:
    trace, asked = candidate.trace, tuple[Probe, ...]()
    if setup.wants_uncertainty:
        ends = trace_steps(trace, setup.scorer, setup.config.gear, setup.prompts)
        ids, score_from = probe_ids(candidate.answer, setup.prompts, setup.scorer)
        asked = tuple(Probe(at, ids, score_from) for at in ends[first_new_step(trace, ends) - 1 :])
    key = _profile_key(found, setup, candidate, setup.wants_uncertainty)
    if found.get(STAGE, key, PureScore) is not None:  # stored, and lacking
        key = _profile_key(found, setup, candidate, setup.wants_uncertainty, again=True)
    context = sample.solve_ids(found.problem, setup.prompts, setup.scorer)
    ask = ScoreRequest(key, context, tuple(trace.ids.tolist()), asked)
    return Request(
        Lane.SCORE, STAGE, (key,), ask, lambda scored: _profile(key, scored, candidate, setup)
    )


def _profile(key: str, scored: Scored, candidate: Candidate, setup: Setup) -> PureScore:
    trace, model = candidate.trace, setup.scorer
    ends = trace_steps(trace, model, setup.config.gear, setup.prompts)
    first = first_new_step(trace, ends)
    uncertainty = np.full(len(ends) + 1, np.nan, np.float32)
    log_ppl, own = (np.full(len(ends), np.nan, np.float32) for _ in range(2))
    worst: float | None = None
    if scored.error is None:
        log_ppl = step_log_ppl(scored.logprob, ends)
        pieces = model.token_bytes(trace.ids.tolist())
        own = step_surprisal(pieces, scored.logprob, ends, candidate.answer)
        worst = worst_result(scored.logprob, ends, pieces, first)
        if scored.probe_logprob:
            uncertainty[first:] = [-values.mean() for values in scored.probe_logprob]
    return PureScore(
        key=key,
        problem_id=trace.problem_id,
        trace=trace.key,
        log_ppl=log_ppl,
        uncertainty=uncertainty,
        step_tokens=np.diff([0, *ends]).tolist(),
        first_step=first,
        scorable=[
            not states_answer(step_text(trace, ends, k, model), candidate.answer)
            for k in range(1, len(ends) + 1)
        ],
        answer_surprisal=own,
        scored_tokens=scored.tokens,
        probe_tokens=sum(len(values) for values in scored.probe_logprob),
        error=scored.error,
        worst_result=worst,
    )


def _hinted_request(found: Found, setup: Setup, candidate: Candidate, key: str) -> Request:
    assert candidate.hint is not None, "only assisted traces have a hint to show"
    trace = candidate.trace
    context = repair.hinted_ids(found.problem, candidate.hint, setup.prompts, setup.scorer)
    ask = ScoreRequest(key, context, tuple(trace.ids.tolist()))
    return Request(
        Lane.SCORE, RELIANCE, (key,), ask, lambda scored: _hinted(key, scored, trace, setup)
    )


def _hinted(key: str, scored: Scored, trace: Trace, setup: Setup) -> HintedScore:
    value = None
    if scored.error is None:
        ends = trace_steps(trace, setup.scorer, setup.config.gear, setup.prompts)
        first = first_new_step(trace, ends)
        # The tokens Δ's other half is taken over: steps b … K, nothing after the reasoning.
        start = ends[first - 2] if first > 1 else 0
        value = float(-scored.logprob[start : ends[-1]].mean())
    return HintedScore(key, trace.problem_id, trace.key, value, scored.tokens, scored.error)
