"""Broken traces laid out for a reader: steps, how unsure the teacher was in each, the verdicts.

In: `BrokenTrace`s of a view. Out: `Exhibit`s, text and numbers without markup. Long texts are cut,
and say by how much.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heal.config import Pure
from heal.records import Breakpoint, Cut, Drop, Outcome, StepWord, Verdict
from heal.report import charts, pure_words, words
from heal.report.charts import Drawing
from heal.report.gallery import BrokenTrace, Repair, Step
from heal.report.view import RunView
from heal.wording import plural

MAX_STEP_CHARS = 1_500
MAX_STEPS = 40
_NO_SURGE: Mapping[str, str] = {
    Breakpoint.RANDOM: "chosen at random",
    Breakpoint.FIXED_THIRD: "the step that starts nearest a third",
    Breakpoint.RESTART: "nothing is kept",
    Breakpoint.CHECKER: "the first step that the checker finds wrong",
}
"""Why a cut is where it is, where no statistic chose it."""


@dataclass(frozen=True)
class Line:
    """One step of a trace."""

    number: int
    """From 1; 0 for what is no step."""
    text: str
    kept: bool
    note: str = ""
    """Its measurements."""
    mark: str = ""
    """`cut` on the first step dropped, `commits` on k_c."""
    level: float | None = None
    """Its entropy as a share of the trace's largest, for a bar beside it; None: not measured."""
    wrong: bool = False
    """A witness finds the first error here."""


@dataclass(frozen=True)
class Exhibit:
    """One broken trace."""

    case: BrokenTrace
    failed: Sequence[Line]
    failed_chart: Drawing | None
    """Its step entropies; None: nothing scored it."""
    repaired: Sequence[Line]
    repaired_chart: Drawing | None
    cut: str
    """How the cut was found, and whether that is certain."""
    outcome: str
    """What became of the repair."""
    pure: str | None
    """PURE's word on it."""
    truth: tuple[str, ...] = ()
    """What a witness says of the failed trace and of the repair."""


def exhibit(case: BrokenTrace, view: RunView, settings: Pure) -> Exhibit:
    """Lay out one broken trace."""
    cut, repair = case.cut, case.repair
    window = (1 + np.flatnonzero(np.isfinite(cut.surge))).tolist()
    note = "fallback" if cut.fallback else "undecided" if cut.undecided else ""
    top = float(np.nanmax(cut.entropy_hi, initial=0))
    entropies, chart = None, None
    if np.isfinite(cut.entropy_hi).any():
        bounds = cut.entropy_lo, cut.entropy_hi
        entropies = charts.entropy_chart(*bounds, window, cut.step, note=note)
    if repair is not None and repair.pure is not None:
        chart = charts.pure_chart(repair.pure, repair.commitment)
    return Exhibit(
        case=case,
        failed=shorten([_failed_line(step, case, top) for step in case.steps]),
        failed_chart=entropies,
        repaired=shorten([_repair_line(step, repair) for step in repair.steps]) if repair else [],
        repaired_chart=chart,
        cut=cut_note(cut, case.breakpoint),
        outcome=_outcome(repair) if repair else "No repair was drawn from this cut.",
        pure=pure_words.verdict_on(repair, view, settings) if repair else None,
        truth=tuple(_truth(case)),
    )


def cut_note(cut: Cut, kind: str) -> str:
    """Why the cut is where it is."""
    if cut.fallback is not None:
        return f"fallback: {str(cut.fallback).replace('_', ' ')}"
    surge = cut.surge[cut.step - 1] if 0 < cut.step <= len(cut.surge) else np.nan
    if np.isnan(surge):
        return _NO_SURGE.get(kind, "not chosen by entropy")
    sure = "undecided by the bounds" if cut.undecided else f"margin {cut.margin:.2f}"
    if kind == Breakpoint.CLAIMS:
        return f"breaks here with probability {surge:.2f}, {sure}"
    return f"entropy rises by {surge:.2f} nats, {sure}"


def _outcome(repair: Repair) -> str:
    verdict = "not verified" if repair.verdict is None else str(repair.verdict).replace("_", " ")
    gate = "not checked" if repair.gate is None else str(repair.gate).replace("_", " ")
    said = f"Verifier: {verdict}. Gates: {gate}."
    if repair.drop is None:
        return said
    dropped = "dropped by PURE" if repair.drop is Drop.PURE else repair.drop.replace("_", " ")
    return f"{said} Set D3: {dropped}."


def _truth(case: BrokenTrace) -> Sequence[str]:
    if case.witness is None:
        return ()
    who = f"{case.witness[0].upper()}{case.witness[1:]}"
    said = [f"{who} on the failed trace: {_word(case.word)}."]
    if case.word is not None and case.word.step:
        off = case.cut.step - case.word.step
        where = (
            "at it" if not off else f"{plural(abs(off), 'step')} {'late' if off > 0 else 'early'}"
        )
        said[0] = f"{said[0][:-1]}; the cut is {where}."
    if case.repair is not None and case.repair.word is not None:
        said.append(f"On the repair: {_word(case.repair.word)}.")
    return said


def _word(word: StepWord | None) -> str:
    if word is None or word.outcome is Outcome.CANNOT_TELL:
        return "it cannot tell"
    if word.outcome is Outcome.WRONG_STEP:
        return f"step {word.step} is the first that does not hold"
    return "it finds no wrong step"


def _failed_line(step: Step, case: BrokenTrace, top: float) -> Line:
    cut, index = case.cut, step.number - 1
    note, level = "", None
    if 0 <= index < len(cut.entropy_lo) and np.isfinite(cut.entropy_hi[index]):
        low, high = float(cut.entropy_lo[index]), float(cut.entropy_hi[index])
        note = f"{low:.2f}" if high - low < 0.005 else f"{low:.2f}–{high:.2f}"
        middle = (low + high) / 2
        level = middle / top if top > 0 and not np.isnan(middle) else None
    mark = "cut" if step.number == cut.step else ""
    wrong = case.word is not None and step.number > 0 and case.word.step == step.number
    return Line(step.number, clip(step.text), step.kept, note, mark, level, wrong)


def _repair_line(step: Step, repair: Repair) -> Line:
    pure, index = repair.pure, step.number - 1
    note = ""
    if pure is not None and not step.kept and 0 <= index < len(pure.log_ppl):
        note = f"ln PPL {words.fixed(float(pure.log_ppl[index]), 2)}"
        if pure.has_uncertainty:
            note += f" · U {words.fixed(float(pure.uncertainty[index + 1]), 2)}"
        if pure.answer_surprisal is not None and np.isfinite(pure.answer_surprisal[index]):
            note += f" · answer {words.fixed(float(pure.answer_surprisal[index]), 2)}"
    settled = step.number > 0 and step.number == repair.commitment
    wrong = repair.word is not None and step.number > 0 and repair.word.step == step.number
    mark = "commits" if settled else ""
    return Line(step.number, clip(step.text), step.kept, note, mark, None, wrong)


def clip(text: str, limit: int = MAX_STEP_CHARS) -> str:
    """The text, or its beginning and how much of it is missing."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … ({plural(len(text) - limit, 'more character')})"


def shorten(lines: list[Line]) -> list[Line]:
    """The steps around the middle give way when there are very many."""
    if len(lines) <= MAX_STEPS:
        return lines
    head, tail = lines[: MAX_STEPS * 3 // 4], lines[-MAX_STEPS // 4 :]
    missing = plural(len(lines) - len(head) - len(tail), "step")
    return [*head, Line(0, f"… {missing} not shown …", False), *tail]


def is_mended(case: BrokenTrace) -> bool:
    """Whether the failed trace has a repair that is correct."""
    return case.repair is not None and case.repair.verdict is Verdict.CORRECT
