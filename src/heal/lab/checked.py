"""Audits by the step checker's word: where breakpoints cut, and what PURE says of false steps.

In: a run folder whose `steps.checker` has read its traces. Out: how far each breakpoint's cuts are
from the first wrong step it names, and how far PURE's readings of traces over a wrong step stand
above those of traces it could read and found nothing in. Reads what is stored; asks no model. The
word is of what a checker can see: a trace that goes wrong otherwise counts nowhere.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heal.config import Config
from heal.errors import UserError
from heal.keys import seed_for
from heal.method.audit import GearAudit, LocatedCut, Separation, separation
from heal.method.entropy import step_values
from heal.method.gear import UNSCORED, find_breakpoint
from heal.method.intervals import Interval, ratio_of_sums
from heal.method.pure import Calibration, calibrate, drop_scores
from heal.records import (
    Breakpoint,
    Cut,
    Outcome,
    PureScore,
    Selection,
    StepWord,
    TokenScores,
)
from heal.stages import calibrate as calibrating
from heal.stages import locate, repair
from heal.stages.filter import profiles, readable
from heal.store import Store, step_words

RESAMPLES = 2_000
BY_ARITHMETIC = tuple(
    kind for kind in Breakpoint if kind not in (Breakpoint.CLAIMS, Breakpoint.CHECKER)
)
"""Breakpoints that stored step entropies decide; any other is shown where the run itself used it.
The checker's own is right by definition wherever it counts."""


def words_of(store: Store) -> dict[str, StepWord]:
    """The checker's word by trace. Raises: UserError where there is none."""
    found = dict(step_words(store))
    if not found:
        raise UserError(
            f"{store.folder}: no step checker has read its traces",
            hint="heal score -c FILE.yaml --set steps.checker=arithmetic",
        )
    return found


# ── GEAR ────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Tally:
    """One way of cutting, by problem."""

    exact: Counter[str] = field(default_factory=Counter)
    not_after: Counter[str] = field(default_factory=Counter)
    kept: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cuts: Counter[str] = field(default_factory=Counter)

    def add(self, problem: str, step: int, wrong: int, ends: Sequence[int]) -> None:
        """Compare a cut with the first wrong step; both from 1."""
        self.cuts[problem] += 1
        self.exact[problem] += step == wrong
        self.not_after[problem] += step <= wrong
        good, before = (ends[k - 2] if k > 1 else 0 for k in (wrong, step))
        if good:
            self.kept[problem].append(min(good, before) / good)

    def located(self, main: "_Tally") -> LocatedCut:
        """The shares, with intervals over problems, and the exact ones minus `main`'s."""
        problems = sorted(self.cuts)
        n = np.array([self.cuts[p] for p in problems])
        hits, safe = (
            _share(np.array([own[p] for p in problems]), n) for own in (self.exact, self.not_after)
        )
        gap = None
        if main is not self:
            more = np.array([self.exact[p] - main.exact[p] for p in problems])
            gap = ratio_of_sums(more, n, seed=0, resamples=RESAMPLES, bounds=(-1.0, 1.0))
        return LocatedCut(int(n.sum()), len(problems), hits, safe, self._mean_kept(), gap)

    def _mean_kept(self) -> Interval | None:
        if not self.kept:
            return None
        sums, counts = (np.array([f(own) for own in self.kept.values()]) for f in (sum, len))
        return _share(sums, counts)


def _share(sums: NDArray[Any], counts: NDArray[Any]) -> Interval | None:
    return ratio_of_sums(sums, counts, seed=0, resamples=RESAMPLES, bounds=(0.0, 1.0))


def audit_gear(config: Config) -> GearAudit:
    """Where each breakpoint cuts the failed traces whose first wrong step is named."""
    with Store.open(Path(config.run), write=False) as store:
        words = words_of(store)
        tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
        told: Counter[str] = Counter()
        starts: list[float] = []
        used, main = _cuts_of(store), str(config.gear.breakpoint)
        for cut, scores in _scored_cuts(store, config):
            word = words.get(cut.trace)
            told[str(word.outcome) if word else "not read"] += 1
            if word is None or word.step is None:
                continue
            good = cut.step_ends[word.step - 2] if word.step > 1 else 0
            starts.append(good / cut.step_ends[-1])
            for kind, step in _steps(cut, scores, config, used[cut.trace]).items():
                tallies[kind].add(cut.problem_id, step, word.step, cut.step_ends)
        return GearAudit(
            run=str(store.folder),
            told=dict(told),
            main=main,
            starts_at=float(np.median(starts)) if starts else None,
            in_first_third=sum(start < 1 / 3 for start in starts),
            cuts={kind: tally.located(tallies[main]) for kind, tally in tallies.items()},
        )


def _cuts_of(store: Store) -> Mapping[str, dict[str, int]]:
    """Where the run itself cut: trace → breakpoint → step."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for trace, tag, step in store.query("SELECT trace, tag, step FROM cuts"):
        found[trace][tag] = step
    return found


def _scored_cuts(store: Store, config: Config) -> Iterator[tuple[Cut, TokenScores | None]]:
    """The run's own cuts, with the scores of their traces where these were scored."""
    keys = dict(store.query("SELECT trace, key FROM scores WHERE stage=?", (locate.STAGE,)))
    for _, cut in store.live("cut", Cut, str(config.gear.breakpoint)):
        key = keys.get(cut.trace)
        yield cut, store.get(locate.STAGE, key, cut.problem_id, TokenScores) if key else None


def _steps(
    cut: Cut, scores: TokenScores | None, config: Config, used: Mapping[str, int]
) -> dict[str, int]:
    """Where each breakpoint cuts a trace; the run's own as it stands.

    Of a trace without scores, those that read none.
    """
    low = high = np.full(len(cut.step_ends), np.nan, np.float32)
    if scores is not None:
        low, high = (
            step_values(entropy, cut.step_ends, config.gear.step_entropy)
            for entropy in (scores.entropy_lo, scores.entropy_hi)
        )
    dice = seed_for(config.seed, cut.trace, 0)
    found = {
        str(kind): find_breakpoint(
            low, high, cut.step_ends, kind=kind, window=config.gear.window, seed=dice
        ).step
        for kind in BY_ARITHMETIC
        if scores is not None or kind in UNSCORED
    }
    if str(Breakpoint.CLAIMS) in used:
        found[str(Breakpoint.CLAIMS)] = used[str(Breakpoint.CLAIMS)]
    return found | {str(config.gear.breakpoint): cut.step}


# ── PURE ────────────────────────────────────────────────────────────────────────────────────────


def separate_pure(
    store: Store, config: Config, kinds: Sequence[Selection]
) -> dict[str, Separation]:
    """How far each reading of traces over a wrong step stands above that of traces without one.

    Of what passed the gates and was scored, whole hinted traces and the main breakpoint's repairs;
    empty where no checker has read them. `joint` ranks each of the two sets for itself.
    """
    said = dict(step_words(store))
    groups = repair.HINTED, str(config.gear.breakpoint)
    sets, problem_of = defaultdict[str, list[PureScore]](list), dict[str, str]()
    for group, profile in profiles(store, *groups):
        sets[group].append(profile)
        if profile.trace in said:
            problem_of[profile.trace] = profile.problem_id
    calibration = _calibration(store, config)
    found = {}
    for kind in kinds if problem_of else ():
        scores: dict[str, float] = {}
        for own in sets.values():
            able = [profile for profile in own if readable(profile, kind)]
            scores |= drop_scores(able, kind, config.pure, calibration=calibration)
        wrong, clean = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
        sides = {Outcome.WRONG_STEP: wrong, Outcome.NONE_FOUND: clean}
        for trace, problem in problem_of.items():
            side = sides.get(said[trace].outcome)
            if side is not None and trace in scores:
                side[problem].append(scores[trace])
        found[str(kind)] = separation(wrong, clean, resamples=RESAMPLES, seed=config.seed)
    return found


def _calibration(store: Store, config: Config) -> Calibration:
    honest = [profile for _, profile in profiles(store, calibrating.TAG)]
    return calibrate(sorted(honest, key=lambda profile: profile.trace), config.pure)
