"""A trace's text by steps, each with what was measured of it.

In: a trace, its cut and its scores, as far as they are stored. Out: lines for a page. Steps end
where whoever measured them says; a trace that nothing scored is shown by its paragraphs.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from heal.records import Cut, FloatArray, PureScore, StepWord, TokenScores, Trace
from heal.report.steps import step_texts
from heal.report.words import fixed
from heal.view.heat import Piece, level_of, shaded

MAX_CHARS = 400_000
"""Of a text, on one page."""


class StepLine(NamedTuple):
    """One step; what was not measured is None."""

    number: int
    """From 1; 0: it is no counted step."""
    pieces: Sequence[Piece]
    is_kept: bool
    """Shared with the failed trace."""
    is_cut: bool
    """The first that was dropped."""
    entropy: tuple[float, float] | None
    """Bounds of the step's entropy, nats."""
    surge: float | None
    """The breakpoint's statistic."""
    log_ppl: float | None
    uncertainty: float | None
    surprisal: float | None
    """Of the answer, where the step writes it."""
    commits: bool
    is_wrong: bool
    """The step checker's first wrong step."""

    @property
    def values(self) -> str:
        """What was measured, in a line."""
        told = []
        if self.entropy is not None:
            low, high = (number(bound) for bound in self.entropy)
            told.append(f"entropy {low}" if low == high else f"entropy {low}–{high}")
        for name, value in (
            ("statistic", self.surge),
            ("ln PPL", self.log_ppl),
            ("U", self.uncertainty),
            ("answer", self.surprisal),
        ):
            told += [f"{name} {number(value)}"] if value is not None else []
        return " · ".join(told)


class LaidOut(NamedTuple):
    """A text by steps, where they end, and what its shades mean."""

    steps: tuple[StepLine, ...]
    steps_by: str
    shaded_by: str
    ends: Sequence[int]


def number(value: float | None) -> str:
    """Two digits; a dash where there is none, and no sign on what rounds to zero."""
    return fixed(value, 2).replace("-0.00", "0.00").replace("-", "−")


def lay_out(
    trace: Trace | None,
    parent: Trace | None,
    cut: Cut | None,
    pure: PureScore | None,
    scores: TokenScores | None,
    commitment: int | None,
    word: StepWord | None,
) -> LaidOut:
    """A trace's text by steps, each with what was measured of it."""
    if trace is None:
        return LaidOut((), "", "", ())
    own_cut = cut if parent is None else None
    ends, by = _ends(own_cut, pure)
    if ends:
        texts = step_texts(trace.text[:MAX_CHARS], ends, len(trace.ids))
    else:
        texts = _paragraphs(trace, parent, cut)
    entropy = scores.entropy_hi if scores is not None and ends else None
    spans = [*pairwise([0, *ends])] if ends else []
    prefix = own_cut.prefix_tokens if own_cut is not None else trace.prefix_tokens
    lines = []
    for i, text in enumerate(texts):
        span = spans[i] if i < len(spans) else None
        nats = entropy[span[0] : span[1]] if entropy is not None and span is not None else None
        kept = span[1] <= prefix if span else not ends and _is_kept(texts, i, parent)
        lines.append(
            StepLine(
                number=i + 1 if span or not ends else 0,
                pieces=_pieces(text, nats, _value(pure.log_ppl, i) if pure else None),
                is_kept=kept,
                is_cut=_first_new(trace, own_cut, pure) == i + 1,
                entropy=_bounds(own_cut, i),
                surge=_value(own_cut.surge, i) if own_cut is not None else None,
                log_ppl=_value(pure.log_ppl, i) if pure is not None else None,
                uncertainty=_value(pure.uncertainty, i + 1) if pure is not None else None,
                surprisal=_value(pure.answer_surprisal, i) if pure is not None else None,
                commits=commitment == i + 1,
                is_wrong=word is not None and word.step == i + 1,
            )
        )
    shaded_by = "entropy" if entropy is not None else "ln PPL" if pure is not None else ""
    return LaidOut(tuple(line for line in lines if line.pieces), by, shaded_by, ends)


def _first_new(trace: Trace, own_cut: Cut | None, pure: PureScore | None) -> int | None:
    """The step that a cut stands before."""
    if own_cut is not None:
        return own_cut.step
    return pure.first_step if pure is not None and trace.prefix_tokens else None


def _ends(cut: Cut | None, pure: PureScore | None) -> tuple[list[int], str]:
    """Where steps end, in tokens, and who counted them."""
    if cut is not None:
        return list(cut.step_ends), "as they were cut"
    if pure is not None:
        return np.cumsum(pure.step_tokens).tolist(), "as PURE scored them"
    return [], "its paragraphs: nothing has scored this trace"


def _paragraphs(trace: Trace, parent: Trace | None, cut: Cut | None) -> list[str]:
    """Of a trace whose steps nobody counted; a repair's kept prefix by its parent's steps."""
    text, kept = trace.text[:MAX_CHARS], list[str]()
    if parent is not None and cut is not None:
        known = step_texts(parent.text, cut.step_ends, len(parent.ids))
        kept = [t for t, end in zip(known, cut.step_ends, strict=False) if end <= cut.prefix_tokens]
        kept = kept if text.startswith("".join(kept)) else []
    rest = text[len("".join(kept)) :]
    return [*kept, *(part for part in rest.split("\n\n") if part.strip())]


def _is_kept(texts: Sequence[str], place: int, parent: Trace | None) -> bool:
    return parent is not None and parent.text.startswith("".join(texts[: place + 1]))


def _pieces(text: str, nats: FloatArray | None, log_ppl: float | None) -> Sequence[Piece]:
    text = text.strip("\n")
    if not text:
        return []
    if nats is not None:
        return shaded(text, nats)
    return [Piece(text, level_of(log_ppl) if log_ppl is not None else None)]


def _bounds(cut: Cut | None, i: int) -> tuple[float, float] | None:
    if cut is None or not 0 <= i < len(cut.entropy_hi) or not np.isfinite(cut.entropy_hi[i]):
        return None
    return float(cut.entropy_lo[i]), float(cut.entropy_hi[i])


def _value(values: FloatArray | None, i: int) -> float | None:
    if values is None or not 0 <= i < len(values) or not np.isfinite(values[i]):
        return None
    return float(values[i])
