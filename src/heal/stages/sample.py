"""Sample: what the teacher writes unaided, and its ceiling (docs/method.md §1).

n traces per training problem, fewer where `sampling.adaptive` settles the stratum early; held-out
problems always get their fixed number, for theirs is what results are reported by. Traces keep the
places they have in the fixed plan, so that switching adaptive sampling off draws only what was left
out. Imported traces count as the first of the plan: they are all of it, unless the teacher tops up.
"""

from collections.abc import Iterator
from dataclasses import replace

from heal.method.ceiling import ceiling
from heal.method.stopping import decided, looks
from heal.prompts import Prompts, fill
from heal.records import Ceiling, Imported, Origin, Problem, Stratum, Trace
from heal.stages import verify
from heal.stages.draw import Draw, make_draw, owed_draws, traces_of
from heal.stages.found import Found, Request, Setup, TextModel
from heal.store.columns import TraceRow

STAGE, IMPORT = "sample", "import"


def solve_ids(problem: Problem, prompts: Prompts, model: TextModel) -> tuple[int, ...]:
    """The unhinted prompt: what the student will be trained on and all scoring is done under."""
    return model.render(fill(prompts.solve, problem=problem.problem), system=prompts.system)


def unaided_draw(found: Found, setup: Setup) -> Draw:
    """The bare problem, to be continued."""

    def make() -> Draw:
        ids = solve_ids(found.problem, setup.prompts, setup.teacher)
        return make_draw(setup, found.problem.id, Origin.UNAIDED, ids)

    return found.once("unaided", make)


def imported(found: Found, setup: Setup) -> list[Trace]:
    """The problem's imported traces, in the order of their file."""

    def read() -> list[Trace]:
        name = setup.imports
        listed = found.get(IMPORT, name, Imported) if name is not None else None
        keys = listed.traces if listed is not None else []
        traces = (found.get(STAGE, key, Trace) for key in keys)
        return [trace for trace in traces if trace is not None]

    return found.once("imported", read)


def planned(found: Found, setup: Setup) -> int:
    """N: traces of the fixed plan."""
    c, there = setup.config, len(imported(found, setup))
    if c.problems.traces is not None and not c.problems.traces.top_up:
        return there
    return max(there, c.sampling.n if verify.is_training(found.problem) else c.evaluate.teacher_n)


def owes(found: Found, setup: Setup) -> Iterator[Request]:
    """Traces that are not drawn yet; where verdicts decide how many, these too."""
    wanted, _ = _settled(found, setup)
    missing = range(len(imported(found, setup)), wanted)
    draws = [(STAGE, unaided_draw(found, setup), missing)] if missing else []
    owed = list(owed_draws(found, setup, draws))
    if not owed and wanted < planned(found, setup):
        owed = list(owes_verdicts(found, setup))
    yield from owed


def owes_verdicts(found: Found, setup: Setup) -> Iterator[Request]:
    """Verdicts on the traces there are."""
    return verify.owed_checks(found, setup, unaided(found, setup))


def unaided(found: Found, setup: Setup) -> list[Trace]:
    """The traces that count: those of the plan, as far as it was needed."""
    wanted, _ = _settled(found, setup)
    return _first(found, setup, wanted)


def ceiling_of(found: Found, setup: Setup) -> Ceiling:
    """How the teacher fares; asked once its traces have their verdicts."""

    def work_out() -> Ceiling:
        _, early = _settled(found, setup)
        verdicts = verify.verdicts_of(found, setup, unaided(found, setup)) or []
        counted = ceiling(found.problem.id, verdicts, planned(found, setup))
        return replace(counted, stratum=early or counted.stratum)

    return found.once("ceiling", work_out)


def is_in(found: Found, setup: Setup, *strata: Stratum) -> bool:
    """Whether this is a training problem of one of these strata."""
    return verify.is_training(found.problem) and ceiling_of(found, setup).stratum in strata


def conclude(found: Found, setup: Setup) -> Iterator[TraceRow]:
    """Rows of the unaided traces."""
    for trace in unaided(found, setup):
        yield verify.trace_row(found, setup, trace, STAGE)


def _settled(found: Found, setup: Setup) -> tuple[int, Stratum | None]:
    """How many traces are wanted so far, and the stratum where fewer than all have settled it."""
    n, settings, there = planned(found, setup), setup.config.sampling, len(imported(found, setup))
    if not settings.adaptive or not verify.is_training(found.problem) or n == there:
        return n, None
    for drawn in looks(n)[:-1]:  # at the last look the plan is there, and says it itself
        if drawn < there:
            continue  # they are there, and cost nothing
        traces = _first(found, setup, drawn)
        verdicts = verify.verdicts_of(found, setup, traces)
        if len(traces) < drawn or verdicts is None:
            return drawn, None
        stratum = decided(verdicts, drawn, n, settings.adaptive_error)
        if stratum is not None:
            return drawn, stratum
    return n, None


def _first(found: Found, setup: Setup, count: int) -> list[Trace]:
    """So many of the plan's traces, imported ones first, as far as they are there."""
    there = imported(found, setup)
    if len(there) >= count:
        return there[:count]
    return there + traces_of(found, STAGE, unaided_draw(found, setup), range(len(there), count))
