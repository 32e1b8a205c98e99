"""Filter: PURE's word on every arm's assisted traces (docs/method.md §3).

Over all problems: reads the profiles one by one and keeps a number for each; what is dropped
depends on all of them. What is then chosen of the rest is `select`'s.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from heal.config import Config
from heal.method.arms import Arm, spares_checked, trained
from heal.method.lines import AtLine, at_line, drawn_by_share
from heal.method.pure import (
    BY_RELIANCE,
    JOINED,
    LINED,
    Calibration,
    drop_at_random,
    drop_scores,
    dropped_by,
    fits,
    joint,
)
from heal.records import HintedScore, Outcome, PureScore, Selection
from heal.stages import repair, score
from heal.store import Store, step_words


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
        self._left = Counter[str]()
        """By group: traces that are none of PURE's, for the step checker vouches for them."""
        self._scores: dict[tuple[str, Selection], dict[str, float]] = defaultdict(dict)
        self._misfits = dict[str, int]()
        failed = "SELECT COUNT(DISTINCT key) FROM scores WHERE stage='reliance' AND failed"
        ((self._unmeasured,),) = store.query(failed)
        kinds = {self._kind(arm) for arm in trained(config).values() if arm.filtered}
        kinds.add(self._feasible(config.pure.selection))
        self._list_passed(store)
        said = self._words(store)
        if spares_checked(config):
            self._leave_to_checker(said)
        self._measure(store, kinds - {Selection.RANDOM})
        self._at_line: dict[Selection, AtLine] = {}
        self._by_share: set[Selection] = set()
        self._draw_by_words(said, kinds)

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
        left = "hinted and repaired traces PURE leaves alone, for the step checker found none wrong"
        main = (repair.HINTED, str(self._config.gear.breakpoint))
        count = sum(self._left[group] for group in main)
        return {**misfits, unmeasured: self._unmeasured, left: count}

    def _draw_by_words(self, said: Mapping[str, Outcome], kinds: Collection[Selection]) -> None:
        """Lines by the step checker's word where a share of it is wanted, and what lines do."""
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

    def _list_passed(self, store: Store) -> None:
        passed = (
            "SELECT problem, CASE stage WHEN 'hinted' THEN stage ELSE tag END, key FROM traces"
            " WHERE stage IN ('hinted', 'repair') AND gate='passed' ORDER BY problem"
        )
        for problem, group, key in store.query(passed):
            self.problem_of[group][key] = problem

    def _words(self, store: Store) -> dict[str, Outcome]:
        """The step checker's, on what passed the gates."""
        passed = set[str]().union(*self.problem_of.values())
        return {trace: word.outcome for trace, word in step_words(store) if trace in passed}

    def _leave_to_checker(self, said: Mapping[str, Outcome]) -> None:
        for group, own in self.problem_of.items():
            vouched = [trace for trace in own if said.get(trace) is Outcome.NONE_FOUND]
            self._left[group] = len(vouched)
            for trace in vouched:
                del own[trace]

    def _measure(self, store: Store, kinds: set[Selection]) -> None:
        joined = Selection.JOINT in kinds
        read = (kinds - {Selection.JOINT}).union(JOINED if joined else ())
        for group, profile in profiles(store):
            if profile.trace not in self.problem_of[group]:
                continue
            for kind in read:
                if not readable(profile, kind):
                    continue  # nothing speaks for what the selection's own measurement failed on
                self._scores[group, kind] |= drop_scores(
                    [profile], kind, self._config.pure, calibration=self._calibration
                )
        for group in self.problem_of if joined else ():  # ranks are of a whole group
            parts = (self._scores[group, part] for part in JOINED)
            self._scores[group, Selection.JOINT] = joint(*parts)


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


def readable(profile: PureScore, kind: Selection) -> bool:
    """Whether a selection has its measurement; `reliance` none on a trace without a new step."""
    own = profile.first_step <= len(profile.step_tokens)
    return kind not in BY_RELIANCE or profile.hinted_log_ppl is not None or not own
