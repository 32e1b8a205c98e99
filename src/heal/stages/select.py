"""Select: what goes into the student's three sets (docs/method.md §4).

Over all problems, after PURE's word on the assisted traces (`filter`). PACE fills each problem's
sets, arm by arm; a trace's text is opened only while its problem is at hand.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from types import MappingProxyType

from heal.config import Config, Pace
from heal.method.arms import trained
from heal.method.choice import BY_STUDENT, suitability
from heal.method.pace import POOLS, Likeness, PoolCandidate, choose, contested
from heal.records import (
    Choice,
    Drop,
    Example,
    Outcome,
    Problem,
    Selected,
    Stratum,
    StudentScore,
)
from heal.stages.candidates import Opened, See, correct
from heal.stages.filter import Profiles
from heal.store import SelectedRow, Store

AT_ONCE = 5_000
"""Rows inserted together."""
NO_SCORES: Mapping[str, StudentScore] = MappingProxyType({})


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
    problems: Counter[str] = field(default_factory=Counter)
    """With accepted traces, by arm; like the next two, of arms that do not choose by likeness."""
    contested: Counter[str] = field(default_factory=Counter)
    """Of these problems, those with more accepted traces than a set takes."""
    other: Counter[str] = field(default_factory=Counter)
    """Kept traces whose text likeness would not have chosen."""

    def count(self, arm: str, x: Selected) -> None:
        """One decision."""
        self.drops[arm][x.drop] += 1
        if x.drop is Drop.MARKED:
            self.left_out.add(x.trace)
        if x.drop is Drop.KEPT:
            self.sizes[arm][x.pool] += 1

    def count_words(self, x: Selected, words: list[Outcome]) -> None:
        """The step checker's word on a trace of the main arm."""
        if x.drop is Drop.KEPT:
            self.words.update(words)
        elif x.drop is Drop.PURE:
            self.dropped.update(words)

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


class Offer:
    """What every arm's sets may take, problem by problem, PURE's word included."""

    def __init__(
        self,
        store: Store,
        config: Config,
        problems: Mapping[str, Problem],
        profiles: Profiles,
        see: See,
        marked: Collection[str] = frozenset(),
    ) -> None:
        """`see` says what the student makes of an example; `marked` traces readers want left out.

        How each arm was filtered is noted in the store.
        """
        self.store, self.config, self.arms = store, config, trained(config)
        self._problems, self._see, self._marked = problems, see, marked
        self._filters = {name: profiles.filter(name, arm) for name, arm in self.arms.items()}
        told = {name: profiles.told(self.arms[name], own) for name, own in self._filters.items()}
        store.set_meta("pure", told)

    def problems(self) -> Iterator[tuple[Opened, Stratum]]:
        """Each problem that has a correct trace, opened."""
        strata = dict(self.store.query("SELECT problem, stratum FROM problems"))
        for name, group in groupby(correct(self.store), key=lambda row: row.problem):
            problem, rows = self._problems[name], list(group)
            opened = Opened(self.store, problem, self.config.prompts, rows, self._see)
            yield opened, Stratum(strata[name])

    def candidates(self, arm: str, opened: Opened) -> list[PoolCandidate]:
        """A problem's candidates for one arm."""
        filtered = self._filters[arm]
        return opened.candidates(self.config, arm, self.arms[arm], filtered, self._marked)

    def rules(self, arm: str) -> Pace:
        """By which rules its sets are filled."""
        own = self.arms[arm].choice
        pace = self.config.pace
        return pace if own is None else pace.model_copy(update={"choice": own})

    def to_score(self) -> dict[str, dict[str, str]]:
        """Problem → trace → its stage, of all the student must score before arms can choose."""
        asking = [arm for arm in self.arms if self.rules(arm).choice in BY_STUDENT]
        found = defaultdict[str, dict[str, str]](dict)
        for opened, stratum in self.problems() if asking else ():
            for arm in asking:
                for c in contested(self.candidates(arm, opened), stratum, self.rules(arm)):
                    found[c.problem_id][c.trace] = opened.stage(c.trace)
        return found


def select(
    offer: Offer, write: Callable[[Example], None], scores: Mapping[str, StudentScore] = NO_SCORES
) -> Chosen:
    """Fill every arm's sets.

    `write` gets each kept example of the main arm, problem by problem; `scores` are the student's
    of what `to_score` names, by trace.
    """
    store, config = offer.store, offer.config
    chosen = Chosen(defaultdict(Counter), defaultdict(Counter))
    store.forget(SelectedRow)
    likeness, rows = Likeness(config.seed), list[SelectedRow]()
    for opened, stratum in offer.problems():
        for name in offer.arms:
            for x in _decided(offer, name, opened, stratum, likeness, scores, chosen):
                rows.append(opened.row(name, x))
                chosen.count(name, x)
                if name != config.main_arm:
                    continue
                if x.drop is Drop.KEPT:
                    write(opened.example(x.trace))
                chosen.count_words(x, opened.words(x))
        chosen.refused.update(opened.refused)
        chosen.unread += opened.thinking if config.prompts.think_close is None else 0
        likeness.forget()
        if len(rows) >= AT_ONCE:
            store.insert(rows)
            rows = []
    store.insert(rows)
    return chosen


def _decided(
    offer: Offer,
    arm: str,
    opened: Opened,
    stratum: Stratum,
    likeness: Likeness,
    scores: Mapping[str, StudentScore],
    chosen: Chosen,
) -> list[Selected]:
    """One arm's decisions on a problem; under another choice than likeness, what it changed."""
    rules, seed = offer.rules(arm), offer.config.seed
    usual, candidates = Choice.DIVERSE, offer.candidates(arm, opened)

    def by(rules: Pace, group: list[PoolCandidate]) -> list[Selected]:
        return choose(group, stratum, rules, seed, likeness, opened.refusal)

    if rules.choice is usual:
        return by(rules, candidates)
    found = by(rules, [_told(c, rules.choice, scores) for c in candidates])
    known = by(rules.model_copy(update={"choice": usual}), candidates)
    texts = {c.trace: c.text for c in candidates}
    kept = {texts[x.trace] for x in known if x.drop is Drop.KEPT}
    chosen.other[arm] += sum(x.drop is Drop.KEPT and texts[x.trace] not in kept for x in found)
    chosen.problems[arm] += any(c.accepted for c in candidates)
    chosen.contested[arm] += bool(contested(candidates, stratum, rules))
    return found


def _told(
    candidate: PoolCandidate, by: Choice, scores: Mapping[str, StudentScore]
) -> PoolCandidate:
    score = scores.get(candidate.trace)
    if score is None or by not in BY_STUDENT:
        return candidate
    return replace(candidate, suitability=suitability(score, by))


def sets_line(sizes: Mapping[str, int]) -> str:
    """`D1 300 · D2 111 · D3 93`"""
    return " · ".join(f"{name} {sizes.get(name, 0):,}" for name in POOLS)
