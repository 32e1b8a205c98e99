"""`report.html`: one run on one page, in one file that needs nothing else.

In: a `RunView`. Out: the page as text. It asks the network for nothing (a content policy in the
page enforces that), reads on a phone, in the dark and on paper, and stays under 5 MB however large
the run: long texts and long lists are cut, and say by how much. Everything that came from a problem
or a model is escaped; what would act in it (control characters, direction overrides) is shown
instead; and the policy names the page's style sheet and script by their hashes: nothing else runs.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from heal.method.summary import ArmScore, Difference
from heal.records import Breakpoint, Cut, Drop, Split
from heal.redaction import visible
from heal.report import charts, numbers, words
from heal.report.charts import Bar
from heal.report.gallery import BrokenTrace, Repair, Step
from heal.report.numbers import FunnelRow, Share
from heal.report.view import RunView
from heal.wording import count, plural

MAX_STEP_CHARS = 1_500
MAX_STEPS = 40
MAX_PROBLEM_CHARS = 3_000
MAX_CONFIG_CHARS = 60_000
FEW_DIFFERENCES = 30

_SPLITS = {Split.TRAIN: "Training", Split.HELD_OUT: "Held-out"}
_RANGE = re.compile(r"(?<=\d)–(?=\d)")


@dataclass(frozen=True)
class Figure:
    """A chart and its title, which stays HTML so that it wraps on a phone."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Line:
    """One step of a trace as the gallery prints it."""

    number: int
    text: str
    kept: bool
    note: str
    """Its measurements."""
    mark: str = ""
    """`cut` on the first step dropped, `commits` on k_c."""


@dataclass(frozen=True)
class Exhibit:
    """One broken trace, laid out."""

    case: BrokenTrace
    failed: Sequence[Line]
    failed_chart: Markup
    repaired: Sequence[Line]
    repaired_chart: Markup | None
    note: str
    """How the cut was found, and whether that is certain."""


def render_html(view: RunView) -> str:
    """The whole page."""
    page = (
        _environment()
        .get_template("template.html.j2")
        .render(
            view=view,
            running=words.running_sentence(view.running) if view.running else None,
            teacher_sentences=[_unbroken(s) for s in words.teacher_sentences(view)],
            coverage=_unbroken(words.coverage_sentence(view) or ""),
            student_sentences=[_unbroken(s) for s in words.student_sentences(view)],
            ceiling_chart=_ceiling_chart(view),
            strata=[(split, numbers.strata(view, split)) for split in Split],
            verdicts=[(split, numbers.verdict_counts(view, split)) for split in Split],
            arm_charts=_arm_charts(view),
            arms_by_stratum=_by_stratum(view),
            differences=_differences(view),
            funnels=_funnels(view),
            exhibits=[_exhibit(case, i) for i, case in enumerate(view.gallery, start=1)],
            extreme=view.extreme_rows if view.shows_heal else (),
            yields=numbers.hint_yields(view) if view.shows_heal else (),
            sets=numbers.sets(view) if view.pools else (),
            facts=numbers.all_facts(view),
            caveats=words.caveats(view),
            provenance=words.PROVENANCE,
        )
    )
    return visible(page)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count,
        "clip": clip,
        "excerpt": words.excerpt,
        "plural": plural,
        "problem": lambda text: clip(text, MAX_PROBLEM_CHARS),
        "config": lambda text: clip(text, MAX_CONFIG_CHARS),
        "duration": words.duration,
        "estimate": words.estimate_text,
        "mean": words.mean_text,
        "plain": lambda name: str(name).replace("_", " "),
        "drop": lambda drop: "dropped by PURE" if drop is Drop.PURE else drop.replace("_", " "),
        "split": lambda split: _SPLITS[split],
        "points": words.points_text,
        "share": words.share_text,
        "stratum": words.stratum_name,
        "fixed": _fixed,
        "hashed": _hashed,
    }
    return environment


def _hashed(source: str) -> str:
    """How a content policy names what stands between two tags."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def clip(text: str, limit: int = MAX_STEP_CHARS) -> str:
    """The text, or its beginning and how much of it is missing."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … ({plural(len(text) - limit, 'more character')})"


def _unbroken(sentence: str) -> str:
    """No line break inside a number and its unit, nor inside an interval."""
    return _RANGE.sub("\u2060–\u2060", sentence.replace(" %", "\u00a0%").replace(", +", ",\u00a0+"))


def _fixed(value: float | None, digits: int = 0) -> str:
    """A plain number, or a dash where there is none."""
    return "–" if value is None or np.isnan(value) else f"{value:,.{digits}f}"


def _ceiling_chart(view: RunView) -> Figure | None:
    extreme = view.extreme.problems
    if not extreme:
        return None
    rows = [_share_bar("rejection sampling", numbers.ceiling_before(view))]
    if view.shows_heal:
        rows.append(_share_bar("repairs alone", numbers.repaired_share(view)))
    if view.main_arm is not None:
        rows.append(_share_bar(words.arm_title(view), numbers.ceiling_after(view), strong=True))
    title = f"Extreme problems with a trace (n\u00a0=\u00a0{count(extreme)})"
    return Figure(title, Markup(charts.interval_chart(rows, "ceiling", title, bars=True)))


def _share_bar(label: str, share: Share, *, strong: bool = False) -> Bar:
    value, lo, hi = (100 * v for v in (share.value, share.lo, share.hi))
    return Bar(label, value, lo, hi, strong)


@dataclass(frozen=True)
class _Differences:
    """Comparisons of the arm shown, and those that a reader may unfold."""

    shown: Sequence[Difference]
    others: Sequence[Difference] = ()


def _differences(view: RunView) -> _Differences:
    """All of them while they are few; a dozen arms have hundreds."""
    found = view.evaluation.differences if view.evaluation else ()
    if len(found) <= FEW_DIFFERENCES:
        return _Differences(found)
    own = [d for d in found if d.primary or view.main_arm in (d.arm, d.against)]
    return _Differences(own, [d for d in found if d not in own])


def _by_stratum(view: RunView) -> dict[str, list[ArmScore]]:
    """Every arm's scores, stratum by stratum."""
    groups: dict[str, list[ArmScore]] = {}
    for score in view.evaluation.arms if view.evaluation else ():
        groups.setdefault(score.stratum, []).append(score)
    return groups


def _arm_charts(view: RunView) -> list[Figure]:
    """One small figure per stratum, all on one scale so that they compare."""
    groups = _by_stratum(view)
    highs = [100 * s.avg.high for scores in groups.values() for s in scores]
    top = max((high for high in highs if not np.isnan(high)), default=100.0)
    upper = min(100.0, 10 * np.ceil(top / 10 + 0.01))
    figures, main = [], view.main_arm
    for number, (stratum, scores) in enumerate(groups.items()):
        bars = [
            Bar(s.arm, 100 * s.avg.mean, 100 * s.avg.low, 100 * s.avg.high, s.arm == main)
            for s in scores
        ]
        n = count(scores[0].avg.n_problems)
        title = f"{words.stratum_name(stratum)} (n\u00a0=\u00a0{n})"
        svg = charts.interval_chart(bars, f"arm{number}", title, upper=upper)
        figures.append(Figure(title, Markup(svg)))
    return figures


def _funnels(view: RunView) -> list[tuple[str, tuple[FunnelRow, ...]]]:
    """Each set's way in, those that are empty left out."""
    under_answer = "D2: whole traces written under an answer hint"
    found = [("D1: unaided traces", numbers.set_funnel(view, "D1", "correct unaided traces"))]
    if view.shows_heal:
        found = [
            ("D3: repairs of extreme problems", numbers.repair_funnel(view)),
            (under_answer, numbers.candidate_funnel(view, "D2")),
            *found,
        ]
    else:  # no gate and no PURE before any of its sets
        found.insert(0, (under_answer, numbers.set_funnel(view, "D2", "correct traces")))
    return [(title, rows) for title, rows in found if rows]


def _exhibit(case: BrokenTrace, number: int) -> Exhibit:
    cut, repair = case.cut, case.repair
    window = (1 + np.flatnonzero(np.isfinite(cut.surge))).tolist()
    note = "fallback" if cut.fallback else "undecided" if cut.undecided else ""
    failed_chart = charts.entropy_chart(
        cut.entropy_lo, cut.entropy_hi, window, cut.step, f"failed{number}", note=note
    )
    return Exhibit(
        case=case,
        failed=_shorten([_failed_line(step, cut) for step in case.steps]),
        failed_chart=Markup(failed_chart),
        repaired=_shorten([_repair_line(step, repair) for step in repair.steps]) if repair else [],
        repaired_chart=_repair_chart(repair, number) if repair else None,
        note=_cut_note(cut, case.breakpoint),
    )


def _repair_chart(repair: Repair, number: int) -> Markup | None:
    pure = repair.pure
    if pure is None:
        return None
    return Markup(charts.pure_chart(pure, repair.commitment, f"repair{number}"))


def _cut_note(cut: Cut, kind: str) -> str:
    if cut.fallback is not None:
        return f"fallback: {str(cut.fallback).replace('_', ' ')}"
    surge = cut.surge[cut.step - 1] if 0 < cut.step <= len(cut.surge) else np.nan
    if np.isnan(surge):
        return "not chosen by entropy"
    sure = "undecided by the bounds" if cut.undecided else f"margin {cut.margin:.2f}"
    if kind == Breakpoint.CLAIMS:
        return f"breaks here with probability {surge:.2f}, {sure}"
    return f"surge {surge:+.2f}, {sure}"


def _failed_line(step: Step, cut: Cut) -> Line:
    index = step.number - 1
    note = ""
    if 0 <= index < len(cut.entropy_lo):
        low, high = float(cut.entropy_lo[index]), float(cut.entropy_hi[index])
        note = f"E {low:.2f}" if high - low < 0.005 else f"E {low:.2f}–{high:.2f}"
    mark = "cut" if step.number == cut.step else ""
    return Line(step.number, clip(step.text), step.kept, note, mark)


def _repair_line(step: Step, repair: Repair) -> Line:
    pure, index = repair.pure, step.number - 1
    note = ""
    if pure is not None and not step.kept and 0 <= index < len(pure.log_ppl):
        note = f"ln PPL {_fixed(float(pure.log_ppl[index]), 2)}"
        if pure.has_uncertainty:
            note += f" · U {_fixed(float(pure.uncertainty[index + 1]), 2)}"
        if pure.answer_surprisal is not None and np.isfinite(pure.answer_surprisal[index]):
            note += f" · answer {_fixed(float(pure.answer_surprisal[index]), 2)}"
    settled = step.number > 0 and step.number == repair.commitment
    return Line(step.number, clip(step.text), step.kept, note, "commits" if settled else "")


def _shorten(lines: list[Line]) -> list[Line]:
    """The steps around the middle give way when there are very many."""
    if len(lines) <= MAX_STEPS:
        return lines
    head, tail = lines[: MAX_STEPS * 3 // 4], lines[-MAX_STEPS // 4 :]
    missing = plural(len(lines) - len(head) - len(tail), "step")
    gap = Line(0, f"… {missing} not shown …", False, "")
    return [*head, gap, *tail]
