"""Answers sampled after each step: how unsure the teacher is when nobody tells it the answer.

In: traces to audit. Out: per trace, after each new step, the entropy of a few short answers. PURE's
U asks how surprising the *known* answer is; this asks how much the answers differ, whatever they
are. It costs samples at every step, so only `heal audit pure --sampled-u` asks for it.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from heal.config import Gear
from heal.engines.base import Engine, Generated, GenRequest, Sampling, answers
from heal.keys import content_key, seed_for
from heal.method.entropy import answer_entropy
from heal.method.final_answers import normalise
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


@dataclass
class _Asking:
    """One trace, and what was answered after its steps so far."""

    key: str
    candidate: Candidate
    ends: Sequence[int]
    said: dict[int, list[str]] = field(default_factory=dict)
    heard: int = 0
    tokens: int = 0
    unclosed: int = 0
    error: str | None = None

    @property
    def steps(self) -> range:
        """The new steps; none where a think-model closes its thinking right after the prefix."""
        return range(first_new_step(self.candidate.trace, self.ends), len(self.ends) + 1)

    def hear(self, step: int, generated: Generated, engine: Engine, prompts: Prompts) -> None:
        """Take in one answer."""
        self.heard += 1
        self.tokens += len(generated.ids)
        if generated.error is not None:
            self.error = generated.error
            return
        answer = _answer(engine.decode(generated.ids.tolist()), prompts)
        self.unclosed += answer is None
        self.said.setdefault(step, []).append(UNCLOSED if answer is None else answer)

    def result(self) -> SampledUncertainty:
        """The entropies of what was said."""
        entropy = np.full(len(self.ends) + 1, np.nan, np.float32)
        for step, said in self.said.items():
            entropy[step] = answer_entropy(said)
        trace, counts = self.candidate.trace, (self.tokens, self.unclosed)
        return SampledUncertainty(
            self.key, trace.problem_id, trace.key, entropy, *counts, self.error
        )


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
    keys = {sampled_key(c, prompts, gear, engine): c for c in candidates}
    owed = [
        _Asking(key, c, trace_steps(c.trace, engine, gear, prompts))
        for key, c in keys.items()
        if key not in done
    ]
    yield from (one.result() for one in owed if not one.steps)
    asked: dict[str, tuple[_Asking, int]] = {}

    def requests() -> Iterator[GenRequest]:
        opening = _opening_ids(prompts, engine)
        for one in (one for one in owed if one.steps):
            claim([one.key])
            context = solve_ids(one.candidate.problem, prompts, engine)
            sampling = Sampling(max_new_tokens=_room(one.candidate.answer, prompts, engine))
            for k in one.steps:
                name = f"{one.key}:{k}"
                asked[name] = (one, k)
                written = one.candidate.trace.ids[: one.ends[k - 1]].tolist()
                seeds = tuple(seed_for(seed, name, index) for index in range(SAMPLES))
                yield GenRequest(name, (*context, *written, *opening), seeds, sampling)

    for generated in answers(engine.generate(requests())):
        one, k = asked[generated.request]
        one.hear(k, generated, engine, prompts)
        if one.heard == len(one.steps) * SAMPLES:
            yield one.result()


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
