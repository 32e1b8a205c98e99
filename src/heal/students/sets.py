"""What an arm's students may be shown, from the columns of `select`.

Token lengths come from columns alone; a trace's text is opened when it is rendered.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from heal.config import Config
from heal.method.curriculum import Beside
from heal.method.pace import POOLS
from heal.prompts import Prompts, fill
from heal.records import Drop, Example, OwnAnswer, Problem, Stratum, Trace
from heal.stages.candidates import example
from heal.store import Store

OWN = "own"
"""Where the untouched student's own answers are stored, and what their set is called."""
REHEARSED = "rehearsed"
"""Likewise those of the students of stage III, each of which is shown its own alone."""

Sizes = Mapping[str, Mapping[str, int]]
"""Set → trace → tokens, as the student reads it."""


def set_sizes(store: Store, arm: str) -> dict[str, dict[str, int]]:
    """An arm's sets: set → trace → tokens, as the student reads it."""
    sizes: dict[str, dict[str, int]] = {pool: {} for pool in POOLS}
    for pool, _, trace, tokens in _chosen(store, arm, Drop.KEPT):
        sizes[pool][trace] = tokens
    return sizes


def beside(store: Store, arm: str) -> Beside:
    """What an arm's students may be shown beside its sets; own answers once they were asked for."""
    easy = store.query(
        "SELECT s.trace FROM selected s JOIN problems p ON p.problem = s.problem"
        ' WHERE s.arm=? AND s."drop"=? AND s.pool=? AND p.stratum=?',
        (arm, Drop.KEPT, "D1", Stratum.EASY),
    )
    own = {key: answer.student_tokens for key, answer in store.live(OWN, OwnAnswer)}
    return Beside(alternates(store, arm), frozenset(trace for (trace,) in easy).union(own), own)


def in_own_words(store: Store, arm: str, sizes: Sizes) -> dict[str, dict[str, int]]:
    """The sets, with the student's own answers in place of D1's traces, one for one.

    A problem it has fewer answers of keeps the rest; one it has none of keeps all.
    """
    own = defaultdict[str, list[tuple[str, int]]](list)
    for key, answer in store.live(OWN, OwnAnswer):
        own[answer.problem_id].append((key, answer.student_tokens))
    found = {pool: dict(traces) for pool, traces in sizes.items()}
    for pool, problem, trace, _ in _chosen(store, arm, Drop.KEPT):
        if pool == "D1" and own[problem]:
            key, tokens = own[problem].pop(0)
            del found[pool][trace]
            found[pool][key] = tokens
    return found


def alternates(store: Store, arm: str) -> dict[str, dict[str, int]]:
    """Trace of a set → others that take turns with it, dealt evenly over its problem's traces."""
    kept = defaultdict[tuple[str, str], list[str]](list)
    for pool, problem, trace, _ in _chosen(store, arm, Drop.KEPT):
        kept[pool, problem].append(trace)
    dealt = defaultdict[tuple[str, str], int](int)
    found = defaultdict[str, dict[str, int]](dict)
    for pool, problem, trace, tokens in _chosen(store, arm, Drop.ALTERNATE):
        places = kept[pool, problem]
        found[places[dealt[pool, problem] % len(places)]][trace] = tokens
        dealt[pool, problem] += 1
    return dict(found)


def lengths(sizes: Sizes, more: Beside) -> dict[str, int]:
    """Trace → tokens of everything that may be shown."""
    sets = (*sizes.values(), *more.alternates.values(), more.own)
    return {trace: n for traces in sets for trace, n in traces.items()}


def pool_of(store: Store, arm: str) -> dict[str, str]:
    """Trace → the set it is shown for, of everything an arm's students may be shown."""
    chosen = (Drop.KEPT, Drop.ALTERNATE)
    found = {t: pool for drop in chosen for pool, _, t, _ in _chosen(store, arm, drop)}
    own = (OWN, REHEARSED)
    return found | {key: stage for stage in own for key, _ in store.live(stage, OwnAnswer)}


class StoredExamples(Mapping[str, Example]):
    """What the arms' students are shown, by trace; each opened when it is asked for."""

    def __init__(self, store: Store, config: Config, problems: Mapping[str, Problem]) -> None:
        self._store, self._prompts, self._problems = store, config.prompts, problems
        shown = store.query(
            'SELECT DISTINCT trace, problem, stage FROM selected WHERE "drop" IN (?, ?)',
            (Drop.KEPT, Drop.ALTERNATE),
        )
        self._places = {trace: (problem, stage) for trace, problem, stage in shown}
        for stage in (OWN, REHEARSED):
            own = store.live(stage, OwnAnswer)
            self._places |= {key: (answer.problem_id, stage) for key, answer in own}

    def __getitem__(self, trace: str) -> Example:
        problem, stage = self._places[trace]
        if stage in (OWN, REHEARSED):
            return self._own(stage, trace, problem)
        found = self._store.get(stage, trace, problem, Trace)
        assert found is not None, "columns name only what is stored"
        return example(found, self._problems[problem], self._prompts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _own(self, stage: str, key: str, problem: str) -> Example:
        answer = self._store.get(stage, key, problem, OwnAnswer)
        assert answer is not None, "the live table names only what is stored"
        return own_example(stage, key, self._problems[problem], answer.text, self._prompts)


def own_example(stage: str, key: str, problem: Problem, text: str, prompts: Prompts) -> Example:
    """The training pair of one of a student's own answers; `stage` is where it is stored."""
    user = fill(prompts.solve, problem=problem.problem)
    return Example(key, problem.id, stage, user, text, prompts.system)


def _chosen(store: Store, arm: str, drop: Drop) -> Iterator[tuple[str, str, str, int]]:
    """(set, problem, trace, tokens), in the order of problem, set and trace."""
    yield from store.query(
        'SELECT pool, problem, trace, student_tokens FROM selected WHERE arm=? AND "drop"=?'
        " ORDER BY problem, pool, trace",
        (arm, drop),
    )
