"""PURE in words: what it looked for, what it dropped, and what is known of whether it was right.

In: a `RunView`, or one repair. Out: sentences. PURE is only ever said to have judged where it has
dropped something, or has compared traces with a line and found none above it.
"""

from collections.abc import Mapping

from heal.config import Pure
from heal.method.pure import LINED, MIN_CALIBRATION, telling_step
from heal.records import Drop, Gate, Selection
from heal.report import numbers
from heal.report.gallery import Repair
from heal.report.truth import Judged
from heal.report.view import Filtering, RunView
from heal.report.words import ends_text, percent, share_text
from heal.wording import plural

IDLE = "PURE could not judge: nothing was filtered"

SUSPECTS: Mapping[str, str] = {
    Selection.FRACTION: "a step that surprises the teacher and after which the answer is suddenly "
    "certain",
    Selection.CALIBRATED: "a step that surprises the teacher more than honest steps of its length "
    "and uncertainty do",
    Selection.SURPRISAL: "the answer surprising the teacher where the trace writes it down",
    Selection.WORST_RESULT: "a claimed number surprising the teacher where the trace writes it",
    Selection.JOINT: "the answer surprising the teacher where the trace writes it, or a trace that "
    "only the hint makes likely, whichever sets it further apart",
    Selection.RANDOM: "nothing (traces were dropped by chance)",
    Selection.RELIANCE: "a trace that only the hint makes likely",
    Selection.LENGTH: "a short trace",
    Selection.MEAN_NLL: "a trace that surprises the teacher on the whole",
    Selection.MAX_PPL: "one step that surprises the teacher",
}
"""What each selection takes for the mark of a shortcut."""


def pure_sentences(view: RunView) -> tuple[str, ...]:
    """What PURE did with the traces of the arm shown; nothing where that arm has none to filter."""
    if not view.shows_heal or not view.pools:
        return ()
    if view.filtering is not None and view.filtering.selection is None:
        return (f"PURE is switched off in the arm {view.main_arm}.",)
    by_set = {name: _judged(view, stage) for name, stage in _SETS.items()}
    judged = sum(n for n, _ in by_set.values())
    dropped = sum(n for _, n in by_set.values())
    if not judged:
        return ("PURE had nothing to judge: no hinted or repaired trace passed the gates.",)
    if not dropped:
        return (_nothing_dropped(view, judged),)
    told = " and ".join(f"{gone:,} of {plural(n, name)}" for name, (n, gone) in by_set.items() if n)
    return (f"PURE dropped {told} as likely shortcuts.", *_how(view.filtering))


_SETS = {"repair": "repair", "whole hinted trace": "hinted"}
"""What a set's candidates are called, and the stage that made them."""


def _judged(view: RunView, stage: str) -> tuple[int, int]:
    """Traces of a stage past the gates, and how many of them PURE dropped."""
    past = [t for t in numbers.traces_of(view, stage) if t.gate is Gate.PASSED and not t.failed]
    own = [t for t in past if t.drop is not None]
    return sum(t.traces for t in own), sum(t.traces for t in own if t.drop is Drop.PURE)


def _nothing_dropped(view: RunView, judged: int) -> str:
    how = view.filtering
    traces = plural(judged, "trace")
    if how is not None and how.line is not None and how.cut_at_line:
        return f"PURE found none of {traces} above its line: nothing was filtered."
    if how is not None and how.line is None and _is_lined(how):
        few = f"{plural(how.honest, 'honest trace')}, and a line needs {MIN_CALIBRATION}"
        return f"{IDLE} ({few}; of {traces} the share to drop rounds to none)."
    return f"{IDLE} (of {traces} the share to drop rounds to none)."


def _how(how: Filtering | None) -> tuple[str, ...]:
    if how is None or how.selection is None:
        return ()
    looked = f"It looks for {SUSPECTS[how.selection]}"
    if not _is_lined(how):
        return (f"{looked}, and drops a fixed share, the most suspicious.",)
    if how.line is None:
        return (
            f"{looked}; too few honest traces had it measured ({how.honest:,}) to draw a line, so "
            "a fixed share was dropped, which says nothing of any one trace.",
        )
    sure = f"{looked}; the line is {how.line:.2f} nats, {_drawn(how)}."
    judged = _at_line(how)
    if how.cut_at_line:
        return (sure, *judged)
    return (sure, *judged, "Nearly all traces lay above it, so a fixed share was dropped instead.")


def _drawn(how: Filtering) -> str:
    if how.by_share:
        return "drawn by a share of the traces of which the step checker has a word (pure.line)"
    return f"drawn by {plural(how.honest, 'honest trace')} of the same teacher (pure.line)"


def _at_line(how: Filtering) -> tuple[str, ...]:
    """What the line costs and lets pass, where a step checker has a word."""
    found = how.at_line
    if found is None or not found.clean + found.fudged:
        return ()
    parts = [
        f"{fate} {percent(own.mean)} {ends_text(100 * own.low, 100 * own.high, 0)} of {n:,} {kind}"
        for own, n, fate, kind in (
            (found.clean_lost, found.clean, "drops", "clean traces"),
            (found.fudged_passed, found.fudged, "lets pass", "fudged ones"),
        )
        if own is not None
    ]
    where = "on problems that did not draw it " if how.by_share else ""
    return (f"By the step checker's word such a line {where}{' and '.join(parts)}.",)


def headline(view: RunView) -> str | None:
    """What must be said first of PURE: that no line could be drawn, and what went instead."""
    how = view.filtering
    if not view.shows_heal or how is None or how.selection is None or how.line is not None:
        return None
    by_set = [_judged(view, stage) for stage in _SETS.values()]
    judged, dropped = sum(n for n, _ in by_set), sum(gone for _, gone in by_set)
    if not _is_lined(how) or not judged:
        return None
    few = f"{plural(how.honest, 'honest trace')}, and a line needs {MIN_CALIBRATION}"
    if not dropped:
        return f"D2 and D3 are unfiltered: PURE could not judge ({few})."
    return (
        f"PURE drew no line ({few}): the most suspicious {dropped:,} of {plural(judged, 'trace')}"
        " of D2 and D3 went, which says nothing of any one of them."
    )


def _is_lined(how: Filtering) -> bool:
    return how.selection in LINED


def verdict_on(repair: Repair, view: RunView, settings: Pure) -> str | None:
    """Which step spoke for or against one repair, and by how much; None: it was not judged."""
    how = view.filtering
    if repair.pure is None or repair.score is None or how is None or how.selection is None:
        return None
    kind = Selection(how.selection)
    step, dropped = telling_step(repair.pure, kind, settings), repair.drop is Drop.PURE
    where = f"Step {step} " + ("condemned it" if dropped else "was the most suspicious")
    said = f"{where if step else 'On the whole'}: {_measured(kind)} {repair.score:.2f}"
    if how.line is None or not how.cut_at_line:
        return f"{said}; no line was drawn, the most suspicious share goes."
    side = "above" if repair.score > how.line else "below"
    return f"{said}, {side} the line of {how.line:.2f}."


def _measured(kind: Selection) -> str:
    if kind is Selection.SURPRISAL:
        return "there the answer costs (−ln p, nats)"
    if kind is Selection.WORST_RESULT:
        return "its least expected number costs (−ln p, nats)"
    if kind is Selection.JOINT:
        return "the higher of its two ranks is"
    return "its score is"


def judged_sentences(judged: Judged | None) -> tuple[str, ...]:
    """How PURE's word compares with whoever knows the steps; nothing where nobody does."""
    if judged is None or not judged.kept + judged.dropped:
        return ()
    parts = [
        f"{percent_of(sound, n)} of the repairs PURE {fate}"
        for fate, n, sound in (
            ("kept", judged.kept, judged.kept_sound),
            ("dropped", judged.dropped, judged.dropped_sound),
        )
        if n
    ]
    told = f"{judged.by[0].upper()}{judged.by[1:]} finds every step sound in {' and '.join(parts)}"
    unsure = f"; it could not tell of {plural(judged.cannot_tell, 'other')}"
    more = "; a sample of them was opened" if judged.sampled else ""
    return (f"{told}{unsure if judged.cannot_tell else ''}{more}.",)


def percent_of(hits: int, n: int) -> str:
    """`84 of 96 (88 % [79–93])`"""
    return share_text(numbers.share_of(hits, n))
