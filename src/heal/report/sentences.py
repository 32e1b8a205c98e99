"""What a run says in sentences: the outcome first, then what a careful reader would ask.

In: a `RunView`. Out: text without any markup, for the page and the terminal alike. Where a run has
nothing to show, the sentence says so and names what to try next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from heal.method.intervals import Interval
from heal.method.summary import HARD_AND_EXTREME, PRIMARY, ArmScore, Difference
from heal.records import Drop, Gate, Split, Verdict
from heal.report import numbers
from heal.report.hint_words import choice_sentence
from heal.report.numbers import Share
from heal.report.pure_words import headline
from heal.report.view import Progress, RunView
from heal.report.words import (
    ends_text,
    estimate_text,
    percent,
    points_text,
    share_text,
    stratum_name,
)
from heal.wording import count, plural

PROVENANCE = "an independent implementation from the published abstract of arXiv 2603.10359"

FEW_SEEDS = 3
"""Below so many training seeds an interval says nothing about the luck of training."""


TERMS = (
    ("trace", "one written attempt at a problem, cut into steps at blank lines"),
    (
        "extreme problem",
        "one that the teacher solves in at most 1 of 30 attempts: the ceiling of sampling",
    ),
    ("held out", "kept away from training, to measure the student on"),
    (
        "D1, D2, D3",
        "the training sets: correct unaided traces; whole traces written under an answer hint; "
        "repairs",
    ),
    (
        "gates",
        "checks that refuse a trace: wrong answer, unfinished, talking of the hint, the answer too "
        "early",
    ),
    ("PURE", "the filter after the gates, against right answers that were reached by a shortcut"),
    ("avg@k", "the mean share of k attempts that are correct; pass@k: the chance that one of k is"),
    (
        "rft, rft_more",
        "rejection sampling: training on the teacher's own correct traces; rft_more with further "
        "samples, for as many teacher tokens as HEAL spent",
    ),
    ("entropy, nats", "how unsure the teacher was of its next token; 0 is certain"),
    (
        "ln PPL, U",
        "how surprising a step is to the teacher without the hint, and how unsure it still is of "
        "the answer after it",
    ),
)
"""Words of the page, and what they mean."""


@dataclass(frozen=True)
class Endpoint:
    """The comparison that counts, in one line."""

    title: str
    value: str
    """The difference with its interval."""
    reading: str


def endpoint(view: RunView) -> Endpoint | None:
    """The primary endpoint, or what comes closest to it; None without a comparison."""
    shown = difference_to_show(view.evaluation.differences) if view.evaluation else None
    if shown is None or view.evaluation is None:
        return None
    kind = "Primary endpoint" if shown.primary else "Held-out problems"
    where = plural(shown.interval.n_problems, f"{stratum_name(shown.stratum)} problem")
    return Endpoint(
        f"{kind}: {shown.arm} − {shown.against} on {where}",
        f"{points_text(shown.interval)} points",
        reading(shown.interval),
    )


def arm_title(view: RunView) -> str:
    """The arm shown, as sentences and charts call it."""
    return "HEAL" if view.main_arm == "heal" else view.main_arm or "no arm"


def teacher_sentences(view: RunView) -> tuple[str, ...]:
    """What the teacher can do, and what HEAL added to it if its data is shown."""
    rows = numbers.strata(view, Split.TRAIN)
    total, solved = sum(r.problems for r in rows), sum(r.solved for r in rows)
    if total == 0:
        return ("No problem has been sampled yet.", *_go_on(view))
    if not sum(numbers.verdict_counts(view, Split.TRAIN).values()):
        return (f"{plural(total, 'problem')} sampled; no trace is verified yet.", *_go_on(view))
    if solved == 0:
        of = (
            f"none of the {plural(total, 'problem')}" if total > 1 else "not the one problem it has"
        )
        return (
            f"{_who_solved(view)} {of}, so there is nothing to teach a student first.",
            _why_nothing_solved(view),
        )
    alone = f"{_who_solved(view)} {count(solved)} of {plural(total, 'problem')}"
    extreme = view.extreme.problems
    if extreme == 0:
        nothing = f", so {arm_title(view)} had nothing to repair" if view.shows_heal else ""
        return (
            f"{alone}; none was beyond {_whose(view)} reach{nothing}.",
            "Harder problems, or a weaker teacher, would show what it can do.",
        )
    reach = f"{plural(extreme, 'was', 'were')} almost out of {_whose(view)} reach ({_reach(view)})."
    chosen = (choice_sentence(view.hint_choice),) if view.hint_choice is not None else ()
    unfiltered = headline(view)
    told = (*chosen, *([unfiltered] if unfiltered else []))
    repaired = (*_repair_sentences(view), *told) if view.shows_heal else ()
    return (f"{alone}; {reach}", *repaired)


def coverage_sentence(view: RunView) -> str | None:
    """How many extreme problems the student sees, with the arm shown and without it."""
    before, after = numbers.ceiling_before(view), numbers.ceiling_after(view)
    if after.hits == before.hits:
        return None
    source = f"the sets of {arm_title(view)}"
    if view.shows_heal:
        source = "whole traces written under the answer (D2) and repairs (D3)"
    return (
        f"Sampling alone gives the student a correct trace for {share_text(before)} of them; with "
        f"{source}, {share_text(after)}."
    )


def student_sentences(view: RunView) -> tuple[str, ...]:
    """What the student gained on held-out problems, by the primary endpoint."""
    if view.student is None:
        kept = sum(pool.drops.get(Drop.KEPT, 0) for pool in view.pools.values())
        if not kept:
            return ("No student was trained (student: null).",)
        return (
            f"No student was trained (student: null): {plural(kept, 'selected trace')} to "
            "train one on.",
            "Export them, or name a student and run the same command again.",
        )
    summary = view.evaluation
    if summary is None or not summary.arms:
        far = "the run is not there yet" if view.running else "the run did not get that far"
        why = far if view.problems.get(Split.HELD_OUT) else "no problem is held out"
        return (f"No student has been evaluated: {why}.",)
    shown = difference_to_show(summary.differences)
    if shown is None:
        return ("The student was evaluated, but no arm has another to be compared with.",)
    return _endpoint(view, shown)


def arm_line(score: ArmScore | None) -> str:
    """avg@k of one arm with its interval."""
    if score is None:
        return "an unmeasured"
    value, _, bounds = estimate_text(score.avg).partition(" [")
    return f"{value} % [{bounds}" if bounds else value


def arm_score(view: RunView, arm: str, stratum: str) -> ArmScore | None:
    """One arm on one group of problems, if it was measured."""
    rows = view.evaluation.arms if view.evaluation else ()
    return next((r for r in rows if r.arm == arm and r.stratum == stratum), None)


def caveats(view: RunView) -> tuple[str, ...]:
    """What a careful reader would ask, answered before the question."""
    said = [
        f"HEAL is {PROVENANCE}; it does not claim that paper's numbers.",
        "Extreme does not mean unsolvable: a problem solved in 10 % of attempts shows at most 1 of "
        "30 correct in 18 % of cases.",
        "Hint-talk phrases and doubt words are English lists.",
    ]
    summary = view.evaluation
    if summary is None:
        return tuple(said)
    if summary.seeds < FEW_SEEDS:
        seeds = plural(summary.seeds, "training seed")
        said.append(f"{seeds}: the intervals do not cover the luck of training.")
    if not any(score.arm == "rft_more" for score in summary.arms):
        said.append(
            "No rft_more arm: part of a gain over rft may come from the extra teacher tokens."
        )
    return tuple(said)


def next_step_after_no_repair(view: RunView) -> str:
    """What to try when every repair was refused, from what refused most of them."""
    gates = numbers.gate_counts(view, "repair")
    refused = [(n, gate) for gate, n in gates.items() if gate not in (None, Gate.PASSED)]
    if not view.cuts.cuts:
        return "No failed trace was complete enough to cut; a larger sampling.max_new_tokens helps."
    if not refused:
        return " ".join(("No repair was drawn.", *_go_on(view)))
    n, gate = max(refused)
    advice = {
        Gate.INCORRECT: "try gear.hint: answer, or more gear.candidates",
        Gate.INCOMPLETE: "raise sampling.max_new_tokens",
        Gate.WRONG_STEP: "the teacher bends its steps to the answer; try another gear.hint",
        Gate.SEVERAL_ANSWERS: "look at the gallery: the prompt may not ask for one final answer",
    }.get(gate, "the hint shows through: try gear.hint: guided, or another prompts.solve_hinted")
    reason = str(gate).replace("_", " ")
    return f"Most were refused as {reason} ({count(n)} of {count(gates.total())}): {advice}."


def running_sentence(now: Progress) -> str:
    """How far a run is that is still going."""
    far = f": {now.stage}, {count(now.done)} of {count(now.owed)}" if now.stage else ""
    return f"Still running{far}; what is finished is below."


def _go_on(view: RunView) -> tuple[str, ...]:
    return () if view.running else ("Run the same command again to go on.",)


def difference_to_show(differences: Sequence[Difference]) -> Difference | None:
    """The primary endpoint, or what comes closest to it in a run that lacks one of its arms."""
    ours, _, where = PRIMARY

    def distance(d: Difference) -> tuple[bool, bool, bool, bool]:
        return not d.primary, d.arm != ours, d.stratum != where, d.against != "rft"

    return min(differences, key=distance, default=None)


def _endpoint(view: RunView, shown: Difference) -> tuple[str, ...]:
    assert view.evaluation is not None
    summary = view.evaluation
    ours, theirs, base = (
        arm_score(view, name, shown.stratum) for name in (shown.arm, shown.against, "base")
    )
    where = stratum_name(shown.stratum)
    untouched = "" if base is None else f"; untouched, it scores {arm_line(base)}"
    first = (
        f"On {plural(shown.interval.n_problems, f'held-out {where} problem')} the student scores "
        f"{arm_line(ours)} avg@{summary.k} after {shown.arm} and {arm_line(theirs)} after "
        f"{shown.against}{untouched}."
    )
    seeds = plural(summary.seeds, "training seed")
    second = f"{shown.arm} − {shown.against}: {points_text(shown.interval)} points, {seeds}"
    sentences = (first, f"{second}; {reading(shown.interval)}.")
    if shown.primary:
        return sentences
    lacking = f"{' − '.join(PRIMARY[:2])} on {stratum_name(HARD_AND_EXTREME)} problems"
    return (*sentences, f"The primary endpoint, {lacking}, was not measured.")


def reading(interval: Interval) -> str:
    """What an interval of a difference says about it."""
    if not interval.is_known:
        return "too few problems for an interval, so this says nothing yet"
    if interval.low > 0:
        return "the interval lies above zero"
    if interval.high < 0:
        return "the interval lies below zero: it made the student worse"
    return "the interval includes zero: no difference shown at this size"


def _who_solved(view: RunView) -> str:
    return "The imported traces solve" if view.imported else "The teacher alone solved"


def _whose(view: RunView) -> str:
    return "their" if view.imported else "its"


def _repair_sentences(view: RunView) -> tuple[str, ...]:
    if not view.teacher:
        return ("Nothing was repaired, as there is no teacher (teacher: null); name one for that.",)
    share = numbers.repaired_share(view)
    if share.hits:
        return (f"{arm_title(view)} repaired {_of_those(share)}.",)
    passed = numbers.gate_counts(view, "hinted", "repair")[Gate.PASSED]
    if (view.stopped or view.running) and not view.pools:
        so_far = f"{plural(passed, 'hinted or repaired trace')} passed the gates so far"
        return (f"{so_far}; the training sets have not been chosen yet.",)
    none = "none of those" if share.n > 1 else "not that one"
    return (f"{arm_title(view)} repaired {none}.", next_step_after_no_repair(view))


def _of_those(share: Share) -> str:
    interval = f"95 % interval {ends_text(100 * share.lo, 100 * share.hi, 0)} %"
    those = f"{count(share.hits)} of those {count(share.n)}" if share.n > 1 else "that one"
    return f"{those} ({percent(share.value)}, {interval})"


def _reach(view: RunView) -> str:
    n = numbers.attempts_per_problem(view, Split.TRAIN)
    return f"at most {max(1, n // 30)} of {plural(n, 'attempt')} correct"


def _why_nothing_solved(view: RunView) -> str:
    counts = numbers.verdict_counts(view, Split.TRAIN)
    worst = max(counts, key=lambda v: counts[v])
    reason = {
        Verdict.TRUNCATED: "were cut off: raise sampling.max_new_tokens",
        Verdict.NO_ANSWER: "gave no answer the verifier could read: check prompts.solve",
        Verdict.UNVERIFIABLE: "could not be checked: look at problems.verifier and its timeout",
    }.get(worst, "were wrong: take easier problems or a stronger teacher, or check the verifier")
    total = sum(counts.values())
    return f"{count(counts[worst])} of {_whose(view)} {plural(total, 'trace')} {reason}."
