"""Answers sampled after each step: how unsure the teacher is when nobody tells it the answer.

A stage of the audit, of one trace: after each new step, the entropy of a few short answers. PURE's
U asks how surprising the *known* answer is; this asks how much the answers differ, whatever they
are. It costs samples at every step, so only `heal audit pure --sampled-u` asks for it.
"""

from collections.abc import Iterator

import numpy as np

from heal.engines.base import Generated, GenRequest, Sampling
from heal.keys import content_key, seed_for, trace_key
from heal.method.entropy import answer_entropy
from heal.method.final_answers import normalise
from heal.prompts import Prompts
from heal.records import SampledAnswer, SampledUncertainty
from heal.stages.found import Found, Lane, Request, Setup
from heal.stages.sample import solve_ids
from heal.stages.score import Candidate, first_new_step, profile_key
from heal.stages.steps import trace_steps

STAGE, ANSWER = "audit_sampled", "audit_answer"
SAMPLES = 8
"""Answers after each step, at temperature 1 over the full vocabulary, as U itself is."""
UNCLOSED = "(not closed)"
"""All answers that go on for twice the known one's length count as one kind, and are counted."""


def owes(found: Found, setup: Setup, candidate: Candidate) -> Iterator[Request]:
    """Answers that are not there yet, step by step."""
    key = sampled_key(setup, candidate)
    if found.get(STAGE, key, SampledUncertainty) is not None:
        return
    for step in _steps(found, setup, candidate):
        owed = tuple(i for i in range(SAMPLES) if _answer(found, key, step, i) is None)
        if owed:
            yield _request(found, setup, candidate, step, owed)


def uncertainty(found: Found, setup: Setup, candidate: Candidate) -> SampledUncertainty:
    """The entropies of what was said; asked once nothing is owed."""
    key, trace = sampled_key(setup, candidate), candidate.trace
    known = found.get(STAGE, key, SampledUncertainty)
    if known is not None:
        return known
    said = {
        step: [a for i in range(SAMPLES) if (a := _answer(found, key, step, i)) is not None]
        for step in _steps(found, setup, candidate)
    }
    entropy = np.full(len(_ends(found, setup, candidate)) + 1, np.nan, np.float32)
    for step, answers in said.items():
        heard = [_heard(a) for a in answers if a.error is None]
        entropy[step] = answer_entropy(heard) if heard else np.nan
    everything = [answer for answers in said.values() for answer in answers]
    return SampledUncertainty(
        key,
        trace.problem_id,
        trace.key,
        entropy,
        sum(a.new_tokens for a in everything),
        sum(a.answer is None for a in everything if a.error is None),
        next((a.error for a in everything if a.error is not None), None),
    )


def sampled_key(setup: Setup, candidate: Candidate) -> str:
    """Names the sampled uncertainty of a trace: its profile's name, and how many answers."""
    return content_key("sampled", profile_key(candidate, setup, True), SAMPLES)


def _ends(found: Found, setup: Setup, candidate: Candidate) -> list[int]:
    trace = candidate.trace
    return found.once(
        ("ends", trace.key),
        lambda: trace_steps(trace, setup.teacher, setup.config.gear, setup.prompts),
    )


def _steps(found: Found, setup: Setup, candidate: Candidate) -> range:
    """The new steps; none where a think-model closes its thinking right after the prefix."""
    ends = _ends(found, setup, candidate)
    return range(first_new_step(candidate.trace, ends), len(ends) + 1)


def _answer(found: Found, key: str, step: int, index: int) -> SampledAnswer | None:
    return found.get(ANSWER, trace_key(_name(key, step), index), SampledAnswer)


def _heard(said: SampledAnswer) -> str:
    return UNCLOSED if said.answer is None else said.answer


def _name(key: str, step: int) -> str:
    return f"{key}:{step}"


def _request(
    found: Found, setup: Setup, candidate: Candidate, step: int, indices: tuple[int, ...]
) -> Request:
    name, trace = _name(sampled_key(setup, candidate), step), candidate.trace
    written = trace.ids[: _ends(found, setup, candidate)[step - 1]].tolist()
    prompt = (*solve_ids(found.problem, setup.prompts, setup.teacher), *written, *_opening(setup))
    seeds = tuple(seed_for(setup.config.seed, name, index) for index in indices)
    keys = tuple(trace_key(name, index) for index in indices)

    def read(generated: Generated) -> SampledAnswer:
        text = setup.teacher.decode(generated.ids.tolist())
        return SampledAnswer(
            keys[generated.index],
            trace.problem_id,
            stated(text, setup.prompts) if generated.error is None else None,
            len(generated.ids),
            generated.error,
        )

    sampling = Sampling(max_new_tokens=_room(candidate.answer, setup))
    return Request(Lane.WRITE, ANSWER, keys, GenRequest(name, prompt, seeds, sampling), read)


def _opening(setup: Setup) -> tuple[int, ...]:
    prompts = setup.prompts
    thinking = f"\n{prompts.think_close}\n\n" if prompts.think_close else ""
    return setup.teacher.encode(thinking + prompts.probe)


def _room(answer: str, setup: Setup) -> int:
    """Tokens for an answer: twice those of the known one, for others may be longer."""
    return 2 * len(setup.teacher.encode(answer + setup.prompts.probe_close)) + 2


def stated(text: str, prompts: Prompts) -> str | None:
    """What stands before the answer is closed, braces of its own left alone; None: it never is."""
    close = prompts.probe_close.strip()
    if not close:
        return normalise(text)
    depth = 0
    for at, char in enumerate(text):
        if depth == 0 and text.startswith(close, at):
            return normalise(text[:at])
        depth += (char == "{") - (char == "}")
    return None
