"""Calibrate: what honest traces look like, and the lines PURE draws by them (docs/method.md §3).

Over all problems: unaided correct traces of those the teacher mostly solves, if they are enough;
where it mostly fails, a right answer is often luck (in the lab's `rows` 13 of 17 such traces did
not hold). They are scored like candidates. A selection that finds too few drops a fixed share
instead, which is a counted fact.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from heal.method.arms import selections, wants_calibration
from heal.method.pure import LINED, MIN_CALIBRATION, Calibration, calibrate
from heal.records import PureScore, Selection, Stratum, Trace
from heal.stages import sample, score
from heal.stages.found import Found, Request, Setup
from heal.store import ScoreRow, Store

TAG = "honest"

_CORRECT = """
SELECT t.key, t.problem FROM traces t JOIN problems p ON p.problem = t.problem
WHERE t.stage = 'sample' AND t.verdict = 'correct' AND p.split = 'train' {only}
ORDER BY t.key LIMIT ?
"""


@dataclass
class Honest:
    """The traces chosen, and what was measured on them."""

    by_problem: Mapping[str, list[str]]
    mastered: bool
    """All of them are of easy problems."""
    profiles: dict[str, PureScore] = field(default_factory=dict)
    rows: list[ScoreRow] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many were chosen."""
        return sum(map(len, self.by_problem.values()))


def choose(store: Store, setup: Setup) -> Honest:
    """The honest traces worth scoring: none unless lines are wanted and there are enough."""
    if not wants_calibration(setup.config):
        return Honest({}, True)
    most = setup.config.pure.calibration_traces
    easy = f"AND p.stratum = '{Stratum.EASY}'"
    chosen = list(store.query(_CORRECT.format(only=easy), (most,)))
    mastered = len(chosen) >= MIN_CALIBRATION
    if not mastered:
        chosen = list(store.query(_CORRECT.format(only=""), (most,)))
    by_problem: dict[str, list[str]] = defaultdict(list)
    for key, problem in chosen if len(chosen) >= MIN_CALIBRATION else ():
        by_problem[problem].append(key)
    return Honest(by_problem, mastered)


def owes(found: Found, setup: Setup, honest: Honest) -> Iterator[Request]:
    """Profiles of a problem's honest traces."""
    for candidate in candidates(found, setup, honest):
        yield from score.owed_scores(found, setup, candidate)


def conclude(found: Found, setup: Setup, honest: Honest) -> None:
    """Keep what was measured on a problem's honest traces."""
    for candidate in candidates(found, setup, honest):
        honest.rows += score.score_rows(found, setup, candidate, TAG)
        profile = score.measured(found, setup, candidate)
        if profile is not None:
            honest.profiles[candidate.trace.key] = profile


def draw_lines(setup: Setup, honest: Honest) -> tuple[Calibration | None, Counter[str]]:
    """PURE's lines, and what a reader should know of them."""
    facts = Counter[str]()
    if not wants_calibration(setup.config):
        return None, facts
    if honest.count and not honest.mastered:
        fact = "PURE's honest traces are of all problems, for too few are of easy ones"
        facts[fact] = honest.count
    profiles = [honest.profiles[key] for key in sorted(honest.profiles)]
    calibration = calibrate(profiles, setup.config.pure)
    undrawn = selections(setup.config).intersection(LINED) - calibration.lines.keys()
    for kind in sorted(undrawn):
        instead = " by the plain ratio" if kind is Selection.CALIBRATED else ""
        facts[
            f"PURE dropped a fixed share{instead}: '{kind}' needs {MIN_CALIBRATION} unaided "
            f"correct traces that it can read, and there are too few among {len(profiles)}"
        ] = 1
    return calibration, facts


def candidates(found: Found, setup: Setup, honest: Honest) -> Iterator[score.Candidate]:
    """A problem's honest traces, as they are scored."""
    for key in honest.by_problem.get(found.problem.id, ()):
        trace = found.get(sample.STAGE, key, Trace)
        if trace is not None:
            yield score.candidate_of(found, setup, trace)
