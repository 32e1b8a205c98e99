"""Answers sampled after each step: how unsure the teacher is when nobody tells it the answer.

In: traces to audit. Out: per trace, after each new step, the entropy of a few short answers. PURE's
U asks how surprising the *known* answer is; this asks how much the answers differ, whatever they
are. It costs samples at every step, so only `heal audit pure --sampled-u` asks for it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from heal.answers import normalise
from heal.config import Gear
from heal.engines.base import Engine, GenRequest, Sampling
from heal.keys import content_key, seed_for
from heal.method.entropy import answer_entropy
from heal.prompts import Prompts
from heal.records import SampledUncertainty
from heal.stages.draw import Claim
from heal.stages.sample import solve_ids
from heal.stages.score import Candidate, first_new_step, pure_key
from heal.stages.steps import trace_steps

SAMPLES = 8
"""Answers after each step, at temperature 1 over the full vocabulary, as U itself is."""
UNCLOSED = "(not closed)"
"""All answers that go on for twice the known one's length count as one kind, and are counted."""


def sampled_key(candidate: Candidate, prompts: Prompts, gear: Gear, engine: Engine) -> str:
    """Names the sampled uncertainty of a trace: its profile's name, and how many answers."""
    return content_key("sampled", pure_key(candidate, prompts, gear, engine), SAMPLES)


def sample_answers(
    candidates: Sequence[Candidate],
    prompts: Prompts,
    gear: Gear,
    engine: Engine,
    seed: int,
    done: Collection[str],
    claim: Claim,
) -> Iterator[SampledUncertainty]:
    """What is still owed, trace by trace, each as soon as its last answer is there."""
    owed = {
        key: c for c in candidates if (key := sampled_key(c, prompts, gear, engine)) not in done
    }
    ends = {key: trace_steps(c.trace, engine, gear, prompts) for key, c in owed.items()}
    missing: dict[str, int] = {}
    answers: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    tokens: dict[str, int] = defaultdict(int)
    unclosed: dict[str, int] = defaultdict(int)
    errors: dict[str, str] = {}
    asked: dict[str, tuple[str, int]] = {}

    def requests() -> Iterator[GenRequest]:
        for key, candidate in owed.items():
            claim([key])
            steps = range(first_new_step(candidate.trace, ends[key]), len(ends[key]) + 1)
            missing[key] = len(steps) * SAMPLES
            opening = _opening_ids(prompts, engine)
            context = solve_ids(candidate.problem, prompts, engine)
            sampling = Sampling(max_new_tokens=_room(candidate.answer, prompts, engine))
            for k in steps:
                name = f"{key}:{k}"
                asked[name] = (key, k)
                written = candidate.trace.ids[: ends[key][k - 1]].tolist()
                seeds = tuple(seed_for(seed, name, index) for index in range(SAMPLES))
                yield GenRequest(name, (*context, *written, *opening), seeds, sampling)

    # Nothing new was written: no step to ask after (a think-model may close its thinking at once).
    for key in [
        key for key, c in owed.items() if first_new_step(c.trace, ends[key]) > len(ends[key])
    ]:
        trace = owed.pop(key).trace
        nothing = np.full(len(ends[key]) + 1, np.nan, np.float32)
        yield SampledUncertainty(key, trace.problem_id, trace.key, nothing)

    for generated in engine.generate(requests()):
        key, k = asked[generated.request]
        missing[key] -= 1
        tokens[key] += len(generated.ids)
        if generated.error is not None:
            errors[key] = generated.error
        else:
            answer = _answer(engine.decode(generated.ids.tolist()), prompts)
            unclosed[key] += answer is None
            answers[key][k].append(UNCLOSED if answer is None else answer)
        if not missing[key]:
            entropy = np.full(len(ends[key]) + 1, np.nan, np.float32)
            for step, said in answers.pop(key, {}).items():
                entropy[step] = answer_entropy(said)
            trace = owed[key].trace
            yield SampledUncertainty(
                key,
                trace.problem_id,
                trace.key,
                entropy,
                tokens[key],
                unclosed[key],
                errors.get(key),
            )


def _opening_ids(prompts: Prompts, engine: Engine) -> tuple[int, ...]:
    thinking = f"\n{prompts.think_close}\n\n" if prompts.think_close else ""
    return engine.encode(thinking + prompts.probe)


def _room(answer: str, prompts: Prompts, engine: Engine) -> int:
    """Tokens for an answer: twice those of the known one, for others may be longer."""
    return 2 * len(engine.encode(answer + prompts.probe_close)) + 2


def _answer(text: str, prompts: Prompts) -> str | None:
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
