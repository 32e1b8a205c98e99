"""Steps of a trace: where the method's segmentation meets the engine's token bytes.

In: a trace. Out: token indices one past each step's end. A repaired trace is split on either side
of its cut, so that the kept steps stay the parent's own. And what the step checker says of them.
A student's own text is split alike, in its own tokens.
"""

from collections.abc import Sequence
from itertools import pairwise

from heal.config import Gear
from heal.method.segments import reasoning_span, split_steps
from heal.prompts import Prompts
from heal.records import StepWord, Trace
from heal.stages.found import Found, Setup, TextModel


def trace_steps(trace: Trace, model: TextModel, gear: Gear, prompts: Prompts) -> list[int]:
    """Step ends of a trace's reasoning (all of it, but for think-models).

    Of a think-model's trace the opening tag belongs to the first step, and the last step ends
    before the closing tag. Thinking that says nothing is one step of tags.
    """
    pieces = model.token_bytes(trace.ids.tolist())
    return _step_ends(pieces, trace.prefix_tokens, gear, prompts)


def text_steps(pieces: Sequence[bytes], gear: Gear, prompts: Prompts) -> list[str]:
    """A text's steps, of the bytes of its tokens."""
    ends = _step_ends(pieces, 0, gear, prompts)
    return [
        b"".join(pieces[start:end]).decode(errors="replace").strip()
        for start, end in pairwise([0, *ends])
    ]


def _step_ends(
    pieces: Sequence[bytes], prefix_tokens: int, gear: Gear, prompts: Prompts
) -> list[int]:
    start, end = reasoning_span(pieces, prompts.think_close)
    if start >= end:
        return [max(end, 1)] if pieces else []
    bounds = [start, end]
    if start < prefix_tokens < end:
        bounds.insert(1, prefix_tokens)
    return [
        low + inner
        for low, high in pairwise(bounds)
        for inner in split_steps(
            pieces[low:high], min_tokens=gear.min_step_tokens, max_tokens=gear.max_step_tokens
        )
    ]


def step_text(trace: Trace, ends: list[int], step: int, model: TextModel) -> str:
    """Text of step number `step` (from 1)."""
    start = ends[step - 2] if step > 1 else 0
    return model.decode(trace.ids[start : ends[step - 1]].tolist()).strip()


def word_of(found: Found, setup: Setup, trace: Trace) -> StepWord | None:
    """The checker's word on a trace, kept steps included; None where no checker is named."""
    checker, problem = setup.checker, found.problem
    if checker is None:
        return None

    def ask() -> StepWord:
        ends = trace_steps(trace, setup.teacher, setup.config.gear, setup.prompts)
        steps = [step_text(trace, ends, k, setup.teacher) for k in range(1, len(ends) + 1)]
        return checker(problem.problem, problem.answer, steps)

    return found.once(("word", trace.key), ask)
