"""Select: what goes into the student's three sets (docs/method.md §4).

Over all problems, after PURE's word on the assisted traces (`filter`). PACE fills each problem's
sets, arm by arm; a trace's text is opened only while its problem is at hand.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from heal.config import Config
from heal.method.arms import trained
from heal.method.pace import POOLS, Likeness, choose
from heal.records import Drop, Example, Outcome, Problem, Stratum
from heal.stages.candidates import Opened, See, correct
from heal.stages.filter import Profiles
from heal.store import SelectedRow, Store

AT_ONCE = 5_000
"""Rows inserted together."""


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
    for problem_id, group in groupby(correct(store), key=lambda row: row.problem):
        opened = Opened(store, problems[problem_id], config.prompts, list(group), see, checked)
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


def sets_line(sizes: Mapping[str, int]) -> str:
    """`D1 300 · D2 111 · D3 93`"""
    return " · ".join(f"{name} {sizes.get(name, 0):,}" for name in POOLS)
