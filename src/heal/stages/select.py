"""Select: what goes into the student's three sets (docs/method.md §3 and §4).

Over all problems, in two passes over the columns. PURE reads the profiles of the assisted traces,
one by one, and keeps a number for each; what it drops depends on all of them. PACE then fills each
problem's sets, arm by arm; a trace's text is opened only while its problem is at hand.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from heal.config import Config
from heal.method.arms import Arm, trained
from heal.method.lines import AtLine, at_line, drawn_by_share
from heal.method.metrics import doubt_rate
from heal.method.pace import POOL_OF, POOLS, Likeness, PoolCandidate, choose
from heal.method.pure import LINED, Calibration, drop_at_random, drop_scores, dropped_by, fits
from heal.method.thinking import CLOSE, Malformed, read_thought
from heal.prompts import Prompts, fill
from heal.records import (
    Drop,
    Example,
    Gate,
    HintedScore,
    Origin,
    Outcome,
    Problem,
    PureScore,
    Selected,
    Selection,
    StepWords,
    Stratum,
    Trace,
)
from heal.stages import match_budget, repair, sample, score, words
from heal.store import SelectedRow, Store, decode

AT_ONCE = 5_000
"""Rows inserted together."""
ORIGIN_OF = {
    sample.STAGE: Origin.UNAIDED,
    repair.HINTED: Origin.HINTED,
    repair.REPAIRED: Origin.REPAIRED,
}


class Seen(NamedTuple):
    """What a student makes of an example."""

    tokens: int | None
    """Prompt and end included; None where it must refuse, or there is no student."""
    refused: Drop | None = None


See = Callable[[Example], Seen]


def unseen(shown: Example) -> Seen:
    """Without a student only what none could be taught is refused."""
    malformed = isinstance(read_thought(shown.assistant), Malformed)
    return Seen(None, Drop.THINKING if malformed else None)


class _Row(NamedTuple):
    """One correct trace of a training problem."""

    problem: str
    stage: str
    tag: str
    key: str
    gate: str | None
    cut: str | None
    tokens: int


# ── PURE ────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Filter:
    """PURE's word on one arm's assisted traces."""

    dropped: set[str] = field(default_factory=set)
    suspicion: dict[str, float] = field(default_factory=dict)
    misfits: int = 0
    """Sets that were to be cut at a line, and honest traces are no measure for."""
    cut_at_line: list[str] = field(default_factory=list)
    """Groups of traces that were: all above it went. Of any other group a share went."""


class Profiles:
    """A number for every assisted trace past the gates, by the group it is of and by selection."""

    def __init__(self, store: Store, config: Config, calibration: Calibration | None) -> None:
        self._config, self._calibration = config, calibration
        self.problem_of: dict[str, dict[str, str]] = defaultdict(dict)
        """Group (`hinted` or a breakpoint) → trace → problem; unscored ones too."""
        self._scores: dict[tuple[str, Selection], dict[str, float]] = defaultdict(dict)
        self._misfits = dict[str, int]()
        failed = "SELECT COUNT(DISTINCT key) FROM scores WHERE stage='reliance' AND failed"
        ((self._unmeasured,),) = store.query(failed)
        kinds = {self._kind(arm) for arm in trained(config).values() if arm.filtered}
        kinds.add(self._feasible(config.pure.selection))
        self._read(store, kinds - {Selection.RANDOM})
        self._at_line: dict[Selection, AtLine] = {}
        self._by_share: set[Selection] = set()
        self._draw_by_words(store, kinds)

    def filter(self, name: str, arm: Arm) -> Filter:
        """What one arm drops, set by set; a trace that could not be scored is dropped too."""
        found = Filter()
        for group in self._groups(arm) if arm.filtered else ():
            self._judge(arm, group, found)
        self._misfits[name] = found.misfits
        return found

    def told(self, arm: Arm, found: Filter) -> dict[str, Any]:
        """How one arm's traces were filtered, for the report."""
        kind, lines = self._kind(arm), self._calibration
        at_line = self._at_line.get(kind)
        return {
            "selection": str(kind) if arm.filtered else None,
            "line": lines.lines.get(kind) if lines is not None else None,
            "honest": lines.traces if lines is not None else 0,
            "cut_at_line": found.cut_at_line,
            "by_share": kind in self._by_share,
            "at_line": asdict(at_line) if at_line is not None else None,
        }

    def facts(self) -> dict[str, int]:
        """What a reader should know of it; asked once every arm was filtered."""
        misfits = {
            f"arm {name}: sets that honest traces are no measure for, so a share went": count
            for name, count in self._misfits.items()
        }
        unmeasured = "traces that could not be scored with their hint in view"
        return {**misfits, unmeasured: self._unmeasured}

    def _draw_by_words(self, store: Store, kinds: Collection[Selection]) -> None:
        """Lines by the step checker's word where a share of it is wanted, and what lines do."""
        said = {key: word.outcome for _, own in store.read(words.STAGE, StepWords)
                for key, word in own.words.items()}  # fmt: skip
        for kind in sorted(set(LINED).intersection(kinds)) if said else ():
            clean, fudged = self._by_word(kind, said)
            drawn = drawn_by_share(clean, fudged, self._config.pure.line)
            lines = self._calibration or Calibration(None, {}, 0)
            if drawn is not None:
                line, self._at_line[kind] = drawn
                self._by_share.add(kind)
                self._calibration = replace(lines, lines={**lines.lines, kind: line})
            elif (line := lines.lines.get(kind, np.inf)) < np.inf:
                by_problem = dict.fromkeys([*clean, *fudged], line)
                self._at_line[kind] = at_line(clean, fudged, by_problem.__getitem__)

    def _by_word(
        self, kind: Selection, said: Mapping[str, Outcome]
    ) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Suspicions by problem, of traces the checker found clean and of fudged ones."""
        sides: dict[Outcome, dict[str, list[float]]] = {
            Outcome.NONE_FOUND: defaultdict(list),
            Outcome.WRONG_STEP: defaultdict(list),
        }
        # of HEAL's own traces, so that no control moves its line
        for group in (repair.HINTED, str(self._config.gear.breakpoint)):
            for trace, suspicion in self._scores[group, kind].items():
                side = sides.get(said.get(trace, Outcome.CANNOT_TELL))
                if side is not None:
                    side[self.problem_of[group][trace]].append(suspicion)
        return sides[Outcome.NONE_FOUND], sides[Outcome.WRONG_STEP]

    def _judge(self, arm: Arm, group: str, found: Filter) -> None:
        pure, seed, kind = self._config.pure, self._config.seed, self._kind(arm)
        at_random = kind is Selection.RANDOM
        by = self._feasible(pure.selection) if at_random else kind
        scores, problems, lines = self._scores[group, by], self.problem_of[group], self._calibration
        own = {trace: problems[trace] for trace in scores}
        dropped = dropped_by(scores, own, by, pure, lines)
        if at_random:  # as many as HEAL's own selection would drop
            dropped = drop_at_random(scores, len(dropped), seed=seed)
        else:
            found.suspicion |= scores
        found.dropped |= dropped | (problems.keys() - scores.keys())
        line = lines.lines.get(kind) if lines is not None else None
        if line is None:
            return
        if fits(scores, line, pure):
            found.cut_at_line.append(group)
        else:
            found.misfits += 1

    def _groups(self, arm: Arm) -> list[str]:
        own = {"D2": repair.HINTED, "D3": str(arm.breakpoint or self._config.gear.breakpoint)}
        return [group for pool, group in own.items() if pool in arm.pools]

    def _kind(self, arm: Arm) -> Selection:
        return self._feasible(arm.selection or self._config.pure.selection)

    def _feasible(self, kind: Selection) -> Selection:
        """`calibrated` reads by the plain ratio where too few honest traces drew its line."""
        undrawn = self._calibration is None or kind not in self._calibration.lines
        return Selection.FRACTION if kind is Selection.CALIBRATED and undrawn else kind

    def _read(self, store: Store, kinds: set[Selection]) -> None:
        passed = (
            "SELECT problem, CASE stage WHEN 'hinted' THEN stage ELSE tag END, key FROM traces"
            " WHERE stage IN ('hinted', 'repair') AND gate='passed' ORDER BY problem"
        )
        for problem, group, key in store.query(passed):
            self.problem_of[group][key] = problem
        for group, profile in profiles(store):
            if profile.trace not in self.problem_of[group]:
                continue
            for kind in kinds:
                if kind is Selection.RELIANCE and not has_reliance(profile):
                    continue  # nothing speaks for what the selection's own measurement failed on
                self._scores[group, kind] |= drop_scores(
                    [profile], kind, self._config.pure, calibration=self._calibration
                )


def profiles(store: Store, *groups: str) -> Iterator[tuple[str, PureScore]]:
    """(group, profile) of what was scored, with its hinted score where there is one.

    groups: `hinted`, breakpoints, `honest`; none named: everything assisted.
    """
    wanted = f"p.tag IN ({','.join('?' * len(groups))})" if groups else "p.tag<>'honest'"
    rows = store.query(
        "SELECT p.problem, p.tag, p.key, r.key FROM scores p LEFT JOIN scores r"
        " ON r.problem=p.problem AND r.stage='reliance' AND r.tag=p.tag AND r.trace=p.trace"
        f" AND NOT r.failed WHERE p.stage='pure' AND {wanted} AND NOT p.failed"
        " ORDER BY p.problem, p.tag, p.key",
        groups,
    )
    for problem, tag, key, hinted in rows:
        profile = store.get(score.STAGE, key, problem, PureScore)
        assert profile is not None, "columns name only what is stored"
        if hinted is not None:
            told = store.get(score.RELIANCE, hinted, problem, HintedScore)
            profile = replace(profile, hinted_log_ppl=told.log_ppl if told else None)
        yield tag, profile


def has_reliance(profile: PureScore) -> bool:
    """Whether `reliance` can read a profile: measured, or without a step of its own to measure."""
    own = profile.first_step <= len(profile.step_tokens)
    return profile.hinted_log_ppl is not None or not own


# ── PACE ────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Chosen:
    """What came of selecting, in counts."""

    drops: dict[str, Counter[Drop]]
    """By arm."""
    sizes: dict[str, Counter[str]]
    """Kept traces by arm and set."""
    words: Counter[Outcome] = field(default_factory=Counter)
    """The step checker's on the kept hinted and repaired traces of the main arm."""
    dropped: Counter[Outcome] = field(default_factory=Counter)
    """Likewise, on those that PURE dropped."""
    refused: Counter[Drop] = field(default_factory=Counter)
    unread: int = 0
    """Traces whose thinking was cut into steps together with their answer."""
    left_out: set[str] = field(default_factory=set)
    """Traces that some arm would have taken, but for a reader's mark."""

    def facts(self) -> dict[str, int]:
        """What a reader should know of it."""
        wrong, told = self.words[Outcome.WRONG_STEP], self.words.total()
        of = told - self.words[Outcome.CANNOT_TELL]
        return {
            "examples the student's tokenizer cannot give back": self.refused[Drop.LOSSY],
            "examples whose thinking is not one closed section": self.refused[Drop.THINKING],
            "examples that think, though prompts.think_close is not set": self.unread,
            f"hinted and repaired traces to train on that hold a wrong step, of {of:,} that the"
            " step checker can read": wrong,
            f"hinted and repaired traces to train on of which it cannot tell, of {told:,}": (
                self.words[Outcome.CANNOT_TELL]
            ),
            "hinted and repaired traces that PURE dropped over a wrong step": self.dropped[
                Outcome.WRONG_STEP
            ],
            "hinted and repaired traces that PURE dropped though the step checker read them and"
            " found none": self.dropped[Outcome.NONE_FOUND],
        }


def select(
    store: Store,
    config: Config,
    problems: Mapping[str, Problem],
    profiles: Profiles,
    see: See,
    write: Callable[[Example], None],
    marked: Collection[str] = frozenset(),
) -> Chosen:
    """Fill every arm's sets.

    `see` says what the student makes of an example; `write` gets each kept example of the main arm,
    problem by problem; `marked` are traces that readers want left out.
    """
    arms = trained(config)
    filters = {name: profiles.filter(name, arm) for name, arm in arms.items()}
    store.set_meta("pure", {name: profiles.told(arms[name], own) for name, own in filters.items()})
    strata = dict(store.query("SELECT problem, stratum FROM problems"))
    chosen = Chosen(defaultdict(Counter), defaultdict(Counter))
    store.forget(SelectedRow)
    checked = config.steps.checker is not None
    likeness, rows = Likeness(config.seed), list[SelectedRow]()
    for problem_id, group in groupby(_correct(store), key=lambda row: row.problem):
        opened = _Opened(store, problems[problem_id], config.prompts, list(group), see, checked)
        for name, arm in arms.items():
            candidates = opened.candidates(config, name, arm, filters[name], marked)
            stratum = Stratum(strata[problem_id])
            for x in choose(
                candidates, stratum, config.pace, config.seed, likeness, opened.refusal
            ):
                rows.append(opened.row(name, x))
                chosen.drops[name][x.drop] += 1
                chosen.left_out.update([x.trace] if x.drop is Drop.MARKED else [])
                if x.drop is Drop.KEPT:
                    chosen.sizes[name][x.pool] += 1
                    if name == config.main_arm:
                        write(opened.example(x.trace))
                if name == config.main_arm and x.drop in (Drop.KEPT, Drop.PURE):
                    kept = x.drop is Drop.KEPT
                    (chosen.words if kept else chosen.dropped).update(opened.words(x))
        chosen.refused.update(opened.refused)
        chosen.unread += opened.thinking if config.prompts.think_close is None else 0
        likeness.forget()
        if len(rows) >= AT_ONCE:
            store.insert(rows)
            rows = []
    store.insert(rows)
    return chosen


class _Opened:
    """One problem's correct traces, opened as they are needed."""

    def __init__(
        self,
        store: Store,
        problem: Problem,
        prompts: Prompts,
        rows: Sequence[_Row],
        see: See,
        checked: bool,
    ) -> None:
        self._problem, self._prompts, self._rows, self._see = problem, prompts, rows, see
        self._bodies = store.bodies(problem.id)
        self._said = store.get(words.STAGE, words.KEY, problem.id, StepWords) if checked else None
        self._stages = {row.key: row.stage for row in rows}
        self._tokens = {row.key: row.tokens for row in rows}
        self._traces: dict[str, Trace] = {}
        self._seen: dict[str, Seen] = {}

    def candidates(
        self, config: Config, name: str, arm: Arm, found: Filter, marked: Collection[str]
    ) -> list[PoolCandidate]:
        """An arm's candidates, as PACE sees them."""
        repairs = str(arm.breakpoint or config.gear.breakpoint)
        tags = {repair.REPAIRED: repairs, match_budget.STAGE: name}
        return [
            PoolCandidate(
                trace=row.key,
                problem_id=row.problem,
                pool=pool,
                text=self._trace(row.key).text,
                parent=row.cut,
                score=found.suspicion.get(row.key),
                pure_dropped=row.key in found.dropped,
                marked_bad=row.key in marked,
            )
            for row in self._rows
            if row.tag == tags.get(row.stage, "")
            and (pool := self._pool(row.key)) in arm.pools
            and (not arm.gated or row.gate in (None, Gate.PASSED))
        ]

    def refusal(self, trace: str) -> Drop | None:
        """Why the student cannot be shown a trace."""
        return self._seen_as(trace).refused

    def words(self, x: Selected) -> list[Outcome]:
        """The step checker's word on an assisted trace, if it has one."""
        if self._said is None or x.pool == "D1" or x.trace not in self._said.words:
            return []
        return [self._said.words[x.trace].outcome]

    @property
    def refused(self) -> list[Drop]:
        """Why the student could not be shown some of the traces."""
        return [seen.refused for seen in self._seen.values() if seen.refused is not None]

    @property
    def thinking(self) -> int:
        """How many of the traces looked at have a thinking section."""
        return sum(CLOSE in self._trace(key).text for key in self._seen)

    def example(self, trace: str) -> Example:
        """The training pair: the problem without any hint, and the whole trace."""
        return example(self._trace(trace), self._problem, self._prompts)

    def row(self, arm: str, x: Selected) -> SelectedRow:
        """What the columns say of a decision."""
        kept = x.drop is Drop.KEPT
        shown = kept or x.drop is Drop.ALTERNATE
        return SelectedRow(
            arm,
            x.problem_id,
            x.trace,
            x.pool,
            x.drop,
            x.score,
            self._tokens[x.trace],
            self._seen_as(x.trace).tokens if shown else None,
            doubt_rate(self._trace(x.trace).text) if kept else None,
            self._stages[x.trace],
        )

    def _pool(self, key: str) -> str:
        stage = self._stages[key]
        return POOL_OF[ORIGIN_OF.get(stage) or self._trace(key).origin]

    def _seen_as(self, trace: str) -> Seen:
        if trace not in self._seen:
            self._seen[trace] = self._see(self.example(trace))
        return self._seen[trace]

    def _trace(self, key: str) -> Trace:
        if key not in self._traces:
            self._traces[key] = decode(Trace, self._bodies[self._stages[key], key])
        return self._traces[key]


def example(trace: Trace, problem: Problem, prompts: Prompts) -> Example:
    """The training pair of one trace."""
    user = fill(prompts.solve, problem=problem.problem)
    pool = POOL_OF[trace.origin]
    return Example(trace.key, problem.id, pool, user, trace.text, prompts.system)


def _correct(store: Store) -> Iterator[_Row]:
    """Correct traces of training problems, problem by problem."""
    rows = store.query(
        "SELECT t.problem, t.stage, t.tag, t.key, t.gate, t.cut, t.tokens FROM traces t"
        " JOIN problems p ON p.problem = t.problem"
        " WHERE t.verdict='correct' AND p.split='train' ORDER BY t.problem, t.stage, t.tag, t.key"
    )
    return map(_Row._make, rows)


def sets_line(sizes: Mapping[str, int]) -> str:
    """`D1 300 · D2 111 · D3 93`"""
    return " · ".join(f"{name} {sizes.get(name, 0):,}" for name in POOLS)
