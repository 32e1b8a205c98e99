"""Rounds: draw, judge, decide, draw again.

Unaided sampling that stops once a stratum is decided, and repairs that stop once there are enough.
What is drawn next follows from stored records and the run's seed alone, so a resumed run decides
alike and pays for nothing twice.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from heal.method.stopping import decided, looks
from heal.records import Hint, HintKind, Problem, Trace, Verdict
from heal.run import Lift, Run
from heal.stages import guide as guiding
from heal.stages import repair as repairing
from heal.stages.sample import unaided

# --- sampling ----------------------------------------------------------------------------------


def sample_until_decided(run: Run, problems: Sequence[Problem]) -> None:
    """§1 with `sampling.adaptive`: draw each problem's traces until its stratum is decided.

    Traces keep the places they have in the fixed plan, so that switching it off draws only what
    was left out.
    """
    s, settings = run.session, run.session.config.sampling
    verdicts: dict[str, list[Verdict]] = {problem.id: [] for problem in problems}
    waiting = list(problems)
    for before, drawn in pairwise((0, *looks(settings.n))):
        plan = unaided(waiting, run.prompts, s.teacher, range(before, drawn))
        fresh = run.draw("sample", plan)
        run.unaided |= fresh
        run.checks |= s.check(fresh.values())
        for trace in fresh.values():
            verdicts[trace.problem_id].append(run.checks[trace.key].verdict)
        if drawn == settings.n:
            break  # all of the plan is there, and says itself what the stratum is
        for problem in waiting:
            found = decided(verdicts[problem.id], drawn, settings.n, settings.adaptive_error)
            run.decided |= {} if found is None else {problem.id: found}
        waiting = [problem for problem in waiting if problem.id not in run.decided]
    _saved(run)


def _saved(run: Run) -> None:
    """Count what stopping early left undrawn, and state its error beside it."""
    s, settings = run.session, run.session.config.sampling
    drawn: dict[str, list[Trace]] = {problem_id: [] for problem_id in run.decided}
    for trace in run.unaided.values():
        if trace.problem_id in drawn:
            drawn[trace.problem_id].append(trace)
    left = {problem_id: settings.n - len(traces) for problem_id, traces in drawn.items()}
    tokens = sum(
        left[problem_id] * sum(trace.new_tokens for trace in traces) / max(1, len(traces))
        for problem_id, traces in drawn.items()
    )
    risk = f"each stratum differs from that of {settings.n} traces with probability"
    s.fact(f"problems sampled until decided: {risk} ≤ {settings.adaptive_error:g}", len(drawn))
    s.fact("traces not drawn because their problem was decided", sum(left.values()))
    s.fact("teacher tokens saved by that, by the mean length of each problem's", round(tokens))


# --- repairs -----------------------------------------------------------------------------------


def ask_hints(run: Run, paths: Iterable[guiding.Path], kind: HintKind) -> dict[str, Hint]:
    """One hint of a kind for each path, by cut; only those owed are written."""
    s, gear = run.session, run.session.config.gear.model_copy(update={"hint": kind})
    seed = s.config.seed
    key_of = {
        path.cut.key: (guiding.hint_key(path, run.prompts, s.teacher, gear, seed), path)
        for path in paths
    }
    hints = s.collect(
        "hint",
        Hint,
        [key for key, _ in key_of.values()],
        lambda done, claim: guiding.guide(
            dict(key_of.values()), run.prompts, s.teacher, gear, seed, done, claim
        ),
    )
    return {cut: hints[key] for cut, (key, _) in key_of.items()}


def repair_breadth_first(run: Run, lift: Lift) -> None:
    """One candidate of every open path per round; a problem closes at `gear.target` repairs."""
    accepted: Counter[str] = Counter()
    for candidate in range(lift.gear.candidates):
        open_paths = [
            (path, lift.hints[path.cut.key, lift.gear.hint])
            for path in lift.paths
            if lift.gear.target is None or accepted[path.problem.id] < lift.gear.target
        ]
        if not open_paths:
            return
        teacher = run.session.teacher
        draws = repairing.repair_round(open_paths, run.prompts, teacher, candidate)
        drawn = run.draw("repair", draws)
        accepted.update(run.admit(drawn))
        lift.repaired |= drawn
