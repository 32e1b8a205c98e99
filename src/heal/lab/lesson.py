"""A lesson: text with loss flags, as the lab's models are trained on it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from heal.lab import dialogue

Segment = tuple[str, bool]
"""A piece of text and whether its tokens are learnt."""

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"


@dataclass(frozen=True)
class Lesson:
    """Text in segments; after segments[i] for i in probed, the answer is asked for and learnt."""

    segments: tuple[Segment, ...]
    probed: tuple[int, ...] = ()
    answer: str = ""
    """What every probe of this lesson should say: the answer the trace reaches."""


def lesson(user: str, shown: Sequence[str], learnt: Sequence[str]) -> Lesson:
    """The user turn, steps shown without loss, then steps learnt; the turn is closed after them."""
    segments: list[Segment] = [opening(user)]
    segments += [(step + dialogue.STEP_BREAK, False) for step in shown]
    segments += [(step + dialogue.STEP_BREAK, True) for step in learnt]
    text, learn = segments[-1]
    segments[-1] = (text.removesuffix(dialogue.STEP_BREAK) + END, learn)
    return Lesson(tuple(segments))


def opening(user: str) -> Segment:
    """The user turn, and the head of the assistant's."""
    return f"{USER}{user}{END}{ASSISTANT}", False


def probed(plain: Lesson, answer: str, count: int, rng: random.Random, earliest: int = 0) -> Lesson:
    """The lesson with `count` probes: after the prompt (0) or after any step but the last."""
    able = range(earliest, len(plain.segments) - 1)
    points = rng.sample(able, min(count, len(able)))
    return replace(plain, probed=tuple(sorted(points)), answer=answer)
