"""`report.html`: one run on one page, in one file that needs nothing else.

In: a `RunView`. Out: the page as text. It opens on one broken and mended trace and the ceiling
before and after; what most readers do not need is folded. It asks the network for nothing (a
content policy in the page enforces that), reads on a phone, in the dark and on paper, and stays
under 5 MB however large the run: long texts and long lists are cut, and say by how much. Everything
that came from a problem or a model is escaped; what would act in it (control characters, direction
overrides) is shown instead; and the policy names the page's style sheet and script by their hashes:
nothing else runs.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from heal.method.summary import Difference
from heal.records import Split, Stratum
from heal.redaction import visible
from heal.report import figures, numbers, pure_words, sentences, tables, words
from heal.report.charts import Drawing
from heal.report.choice_words import trace_choice_sentences
from heal.report.exhibits import Exhibit, Line, clip, exhibit
from heal.report.tables import Table
from heal.report.templates import templates
from heal.report.view import RunView
from heal.wording import count, plural

MAX_PROBLEM_CHARS = 3_000
MAX_CONFIG_CHARS = 60_000
FEW_DIFFERENCES = 30
OPEN_CHARS = 320
"""Of a step or a problem, where the page opens; the whole is in the fold below."""
OPEN_STEPS = 7

_RANGE = re.compile(r"(?<=\d)–(?=\d)")


@dataclass(frozen=True)
class Shown:
    """A figure as the page prints it; its title stays HTML so that it wraps on a phone."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Case:
    """An exhibit with its figures, and the part of its steps that is not folded."""

    it: Exhibit
    entropy: Markup | None
    profile: Markup | None
    failed: Sequence[Line]
    repaired: Sequence[Line]

    @property
    def is_all(self) -> bool:
        """Whether no step is folded."""
        short = len(self.it.case.problem.problem) <= OPEN_CHARS
        return short and (*self.failed, *self.repaired) == (*self.it.failed, *self.it.repaired)


def render_html(view: RunView) -> str:
    """The whole page."""
    page = _environment().get_template("template.html.j2").render(_told(view))
    return visible(page)


def _told(view: RunView) -> dict[str, Any]:
    exhibits = [exhibit(case, view, view.pure_settings) for case in view.gallery]
    said = [_unbroken(s) for s in sentences.teacher_sentences(view)]
    students = figures.students(view)
    return {
        "view": view,
        "running": sentences.running_sentence(view.running) if view.running else None,
        "headline": " ".join(said[:2]),
        "leads": said[2:],
        "coverage": _unbroken(sentences.coverage_sentence(view) or ""),
        "choice": [*trace_choice_sentences(view.choice)] if view.choice else [],
        "student_sentences": [_unbroken(s) for s in sentences.student_sentences(view)],
        "endpoint": sentences.endpoint(view),
        "pure": [_unbroken(s) for s in pure_words.pure_sentences(view)],
        "judged": [_unbroken(s) for s in pure_words.judged_sentences(view.judged)],
        "ceiling": _figure(figures.ceiling(view), "ceiling"),
        "students": [_figure(f, f"arm{i}") for i, f in enumerate(students.values())],
        "strata": _strata(view),
        "differences": _differences(view),
        "arms": _arms(view),
        "kept": _kept(view),
        "funnels": [tables.funnel(title, rows) for title, rows in numbers.funnels(view)],
        "cases": [_case(it, number) for number, it in enumerate(exhibits, start=1)],
        "extreme": tables.extreme(view.extreme_rows) if view.shows_heal else None,
        "costs": list(tables.spent(view)),
        "noted": list(tables.noted(view)),
        "facts": len(numbers.all_facts(view)),
        "caveats": sentences.caveats(view),
        "terms": sentences.TERMS,
        "provenance": sentences.PROVENANCE,
    }


@cache
def _environment() -> jinja2.Environment:
    filters: dict[str, Callable[..., Any]] = {
        "brief": lambda text: clip(text, OPEN_CHARS),
        "clip": clip,
        "config": lambda text: clip(text, MAX_CONFIG_CHARS),
        "count": count,
        "excerpt": words.excerpt,
        "hashed": _hashed,
        "plural": plural,
        "problem": lambda text: clip(text, MAX_PROBLEM_CHARS),
    }
    return templates(Path(__file__).parent, filters)


def _hashed(source: str) -> str:
    """How a content policy names what stands between two tags."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def _unbroken(sentence: str) -> str:
    """No line break inside a number and its unit, nor inside an interval."""
    return _RANGE.sub("\u2060–\u2060", sentence.replace(" %", "\u00a0%").replace(", +", ",\u00a0+"))


def _figure(figure: figures.Figure | None, name: str) -> Shown | None:
    return Shown(figure.title, _inline(figure.drawing, name)) if figure is not None else None


def _inline(drawing: Drawing, name: str) -> Markup:
    return Markup(drawing.inline(name))


def _strata(view: RunView) -> list[Table]:
    found = []
    for split in Split:
        rows = numbers.strata(view, split)
        if any(row.problems for row in rows):
            found.append(tables.strata(split, rows, numbers.verdict_counts(view, split)))
    return found


@dataclass(frozen=True)
class _Differences:
    """Comparisons: the one that counts, those of the arm shown, and all others."""

    first: Table | None = None
    own: Table | None = None
    others: Table | None = None


def _differences(view: RunView) -> _Differences:
    """The arm shown against the others; a dozen arms have hundreds of pairs more."""
    found = view.evaluation.differences if view.evaluation else ()
    shown = sentences.difference_to_show(found)
    if shown is None or view.evaluation is None:
        return _Differences()
    rest = [d for d in found if d is not shown]
    few = len(found) <= FEW_DIFFERENCES
    own = [d for d in rest if few or view.main_arm in (d.arm, d.against)]
    others = [d for d in rest if d not in own]
    k = view.evaluation.k

    def told(rows: Sequence[Difference], caption: str) -> Table | None:
        return tables.compared(caption, rows, k) if rows else None

    points = "in percentage points, paired over problems"
    return _Differences(
        told([shown], f"The comparison that counts, {points}"),
        told(own, f"{plural(len(own), 'more comparison')}, {points}"),
        told(others, f"The other {plural(len(others), 'comparison')}, {points}"),
    )


def _arms(view: RunView) -> Table | None:
    rows = [score for group in figures.by_stratum(view).values() for score in group]
    return tables.arms(view.evaluation, rows) if view.evaluation and rows else None


def _kept(view: RunView) -> Table | None:
    """Easy problems first: what a student can forget."""
    if view.evaluation is None or not view.retention:
        return None
    rows = sorted(view.retention, key=lambda own: own.stratum != Stratum.EASY)
    return tables.kept(rows, view.evaluation)


def _case(it: Exhibit, number: int) -> Case:
    entropy, profile = it.failed_chart, it.repaired_chart
    return Case(
        it=it,
        entropy=_inline(entropy, f"failed{number}") if entropy is not None else None,
        profile=_inline(profile, f"repair{number}") if profile is not None else None,
        failed=_around(it.failed, it.case.cut.step),
        repaired=_around(it.repaired, it.case.cut.step),
    )


def _around(lines: Sequence[Line], cut: int) -> list[Line]:
    """The steps about a cut, briefly, and the last one; all where they are few and short."""
    if len(lines) <= 2 * OPEN_STEPS and all(len(line.text) <= OPEN_CHARS for line in lines):
        return list(lines)
    first = max(0, next((i for i, line in enumerate(lines) if line.number >= cut - 1), 0))
    middle = lines[first : first + OPEN_STEPS - 1]
    last = [line for line in lines[-1:] if line not in middle]
    shown = [*_gap(first), *middle]
    shown += [*_gap(len(lines) - first - len(middle) - len(last)), *last]
    return [
        Line(x.number, clip(x.text, OPEN_CHARS), x.kept, x.note, x.mark, x.level, x.wrong)
        for x in shown
    ]


def _gap(steps: int) -> list[Line]:
    return [Line(0, f"… {plural(steps, 'step')} folded …", False)] if steps else []
