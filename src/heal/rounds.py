"""Rounds: draw, judge, decide, draw again.

Unaided sampling that stops once a stratum is decided, and repairs that stop once there are enough,
by a fixed plan or where it pays. What is drawn next follows from stored records and the run's seed
alone, so a resumed run decides alike and pays for nothing twice.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import count, pairwise

import numpy as np

from heal.keys import seed_for
from heal.method.budget import History, Limits, Way, next_draws
from heal.method.stopping import decided, looks
from heal.records import Gate, Hint, HintKind, Problem, Trace, Verdict
from heal.run import Lift, Run, teacher_sampling
from heal.stages import guide as guiding
from heal.stages import repair as repairing
from heal.stages.draw import Draw, draw_keys
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


def repair_where_it_pays(run: Run, lift: Lift) -> None:
    """`gear.budget=bandit`: the next draws go to the ways most likely to pay per token.

    The same cap as the fixed plan, problem by problem: the hardest must not starve, for they are
    what repairs are for. Hints are written when a way is first tried.
    """
    options = {o.way.key: o for p in lift.paths for o in repairing.options(p, lift.gear)}
    ways: dict[str, list[Way]] = {}
    for option in options.values():
        ways.setdefault(option.way.problem_id, []).append(option.way)
    paths = Counter(path.problem.id for path in lift.paths)
    per_cut = run.session.config.pace.per_parent
    limits = {
        problem: Limits(n * lift.gear.candidates, lift.gear.target, per_cut)
        for problem, n in paths.items()
    }
    history, places = History(), Counter[tuple[str, str]]()
    for number in count():
        chosen = [
            options[way.key]
            for problem, own in ways.items()
            for way in next_draws(own, history, limits[problem], _dice(run, problem, number))
        ]
        if not chosen:
            break
        _write_hints(run, lift, chosen, history)
        _draw_chosen(run, lift, chosen, history, places)
    for kind in sorted({option.way.kind for option in options.values()}):
        run.session.fact(f"repairs drawn by the bandit with {kind}", history.of("kind", kind).draws)


def _dice(run: Run, problem_id: str, number: int) -> np.random.Generator:
    return np.random.default_rng(seed_for(run.session.config.seed, problem_id, number))


def _write_hints(
    run: Run, lift: Lift, chosen: Iterable[repairing.Option], history: History
) -> None:
    """Hints of ways tried for the first time, charged to them."""
    new: dict[HintKind, dict[str, repairing.Option]] = {}
    for option in chosen:
        cut = option.path.cut
        if (cut.key, option.hint) not in lift.hints:
            new.setdefault(option.hint, {})[cut.key] = option
            lift.tried[cut.key] = cut
    for kind, asked in new.items():
        for cut_key, hint in ask_hints(run, (o.path for o in asked.values()), kind).items():
            lift.hints[cut_key, kind] = run.hints[hint.key] = hint
            history.add(asked[cut_key].way, draws=0, tokens=hint.new_tokens)


def _draw_chosen(
    run: Run,
    lift: Lift,
    chosen: Iterable[repairing.Option],
    history: History,
    places: Counter[tuple[str, str]],
) -> None:
    """Draw, gate, and remember what came of each; `places` counts draws by cut and hint text."""
    # A leaking hint falls back to the bare answer: two ways may then ask for the very same text.
    alike: dict[tuple[str, str], list[repairing.Option]] = {}
    for option in chosen:
        hint = lift.hints[option.path.cut.key, option.hint]
        alike.setdefault((option.path.cut.key, hint.text), []).append(option)
    s, ways, draws = run.session, dict[str, Way](), list[Draw]()
    for name, options in alike.items():
        indices = tuple(range(places[name], places[name] + len(options)))
        hint = lift.hints[options[0].path.cut.key, options[0].hint]
        draw = repairing.repair_draw(options[0].path, hint, run.prompts, s.teacher, indices)
        keys = draw_keys([draw], s.teacher, teacher_sampling(s), s.config.seed)
        ways |= {key: option.way for key, option in zip(keys, options, strict=True)}
        draws.append(draw)
        places[name] += len(options)
    drawn = run.draw("repair", draws)
    run.admit(drawn)
    lift.repaired |= drawn
    for key, way in ways.items():
        tokens = drawn[key].new_tokens if key in drawn else 0
        history.add(way, accepted=int(run.gates.get(key) is Gate.PASSED), tokens=tokens)
