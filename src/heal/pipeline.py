"""The method on one screen: the stages in order, each asking only for what is owed.

A `Run` holds what the stages so far have found; every stage reads it, does its part, adds to it
and says in one line what came of it, in counts that add up. All results live in the store under
content keys, so running again continues, and a changed setting redoes what it reaches only.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from heal import purchase
from heal.engines import read_tokenizer, read_weights, resolve_model
from heal.keys import seed_for
from heal.method.arms import TRAINED, Extra
from heal.method.ceiling import ceiling
from heal.method.pace import POOLS, pools
from heal.records import (
    Drop,
    EvalTrace,
    GateResult,
    HintedScore,
    PureScore,
    Selection,
    Split,
    Stratum,
    TokenScores,
    TrainResult,
    Verdict,
)
from heal.report.lines import fallback_name, finishes, hint_name, tally
from heal.rounds import (
    ask_hints,
    repair_breadth_first,
    sample_until_decided,
)
from heal.run import Lift, Run
from heal.stages import guide as guiding
from heal.stages import locate as locating
from heal.stages import repair as repairing
from heal.stages import score as scoring
from heal.stages import select as selecting
from heal.stages.sample import unaided
from heal.store import jsonl
from heal.students import roster as students
from heal.students.rendering import Lengths, Refusal


def sample(run: Run) -> str:
    """§1: n unaided traces per training problem; held-out ones get theirs for their stratum.

    Adaptive sampling is for training problems alone: the strata results are reported by are
    measured with a fixed number.
    """
    config, teacher = run.session.config, run.session.teacher
    train, held_out = run.problems(Split.TRAIN), run.problems(Split.HELD_OUT)
    if config.student is None:
        held_out = []
    plan = [(train, config.sampling.n), (held_out, config.evaluate.teacher_n)]
    run.session.observer.begin("sample", sum(len(problems) * n for problems, n in plan))
    if config.sampling.adaptive:
        sample_until_decided(run, train)
        plan = plan[1:]
    for problems, n in plan:
        run.unaided |= run.draw("sample", unaided(problems, run.prompts, teacher, range(n)))
    run.keep("sample", run.unaided)
    lead = f"{len(train) + len(held_out):,} problems"
    if config.sampling.adaptive:
        lead += f", {len(run.decided):,} decided early"
    return tally(lead, "traces", finishes(run.unaided))


def verify(run: Run) -> str:
    """§1: a verdict per trace, then each problem's ceiling: easy, hard, extreme."""
    run.session.observer.begin("verify", len(run.unaided))
    run.checks |= run.session.check(run.unaided.values(), shown=True)
    verdicts: dict[str, list[Verdict]] = {}
    for trace in run.unaided.values():
        verdicts.setdefault(trace.problem_id, []).append(run.checks[trace.key].verdict)
    config = run.session.config
    for problem_id, found in verdicts.items():
        split = run.session.problems[problem_id].split
        planned = config.sampling.n if split is Split.TRAIN else config.evaluate.teacher_n
        counted = ceiling(problem_id, found, planned)
        stratum = run.decided.get(problem_id, counted.stratum)
        run.ceilings[problem_id] = replace(counted, stratum=stratum)
    run.record("ceiling", ((c.problem_id, c.problem_id, c) for c in run.ceilings.values()))
    return tally("", "traces", Counter(run.checks[key].verdict for key in run.unaided))


def locate(run: Run) -> str:
    """§2: failed paths of extreme problems, their unhinted entropies, and where each one broke."""
    s, gear = run.session, run.session.config.gear
    by_problem = run.traces_by_problem()
    failed = [
        trace
        for problem in run.in_strata(Stratum.EXTREME)
        for trace in locating.failed_paths(by_problem[problem.id], run.checks, gear.paths)
    ]
    s.observer.begin("locate", len(failed))
    scores = s.collect(
        "scores",
        TokenScores,
        [locating.scores_key(trace, s.scorer) for trace in failed],
        lambda done, claim: locating.scan(failed, s.problems, run.prompts, s.scorer, done, claim),
    )
    scored = {scores[key].trace: scores[key] for key in scores if scores[key].error is None}
    for kind in run.cut_kinds():
        lift = run.lifts[kind] = Lift(gear.model_copy(update={"breakpoint": kind}))
        for trace in failed:
            if trace.key in scored:
                found = scored[trace.key]
                cut = locating.cut(trace, found, s.teacher, lift.gear, run.prompts, s.config.seed)
                sibling = run.only_correct(by_problem[trace.problem_id])
                problem = s.problems[trace.problem_id]
                lift.paths.append(guiding.Path(problem, trace, cut, sibling))
    run.keep("scores", scores)
    run.record("cut", ((p.cut.key, p.problem.id, p.cut) for p in run.main_lift.paths))
    how = Counter(fallback_name(path.cut) for path in run.main_lift.paths)
    how["not scored"] = len(failed) - len(scored)
    extreme = len(run.in_strata(Stratum.EXTREME))
    return tally(f"{extreme:,} extreme problems", "failed paths", how)


def guide(run: Run) -> str:
    """§2: one hint per path, written by the teacher and past the leak gate."""
    kind = run.session.config.gear.hint
    paths = {path.cut.key: path for lift in run.lifts.values() for path in lift.paths}
    run.session.observer.begin("guide", len(paths))
    hints = ask_hints(run, paths.values(), kind)
    for lift in run.lifts.values():
        lift.hints = {(path.cut.key, kind): hints[path.cut.key] for path in lift.paths}
    run.keep("hint", [hint.key for hint in run.main_lift.hints.values()])
    return tally("", "hints", Counter(hint_name(hint) for hint in hints.values()))


def repair(run: Run) -> str:
    """§2: whole traces under the answer (D2), then repairs of each path (D3)."""
    s, gear = run.session, run.session.config.gear
    below = run.in_strata(Stratum.HARD, Stratum.EXTREME)
    paths, most = sum(len(lift.paths) for lift in run.lifts.values()), gear.candidates
    s.observer.begin("repair", len(below) * gear.hinted_samples + paths * most)
    pairs = [(problem, guiding.answer_hint(problem, run.prompts)) for problem in below]
    run.hints = {hint.key: hint for _, hint in pairs}
    draws = repairing.whole_traces(pairs, run.prompts, s.teacher, gear.hinted_samples)
    run.hinted = run.draw("hinted", draws)
    run.admit(run.hinted)
    for lift in run.lifts.values():
        run.hints |= {hint.key: hint for hint in lift.hints.values()}
        repair_breadth_first(run, lift)

    main = run.main_lift
    run.keep("hinted", run.hinted)
    run.keep("repair", main.repaired)
    run.record("answer_hint", ((hint.key, problem.id, hint) for problem, hint in pairs))
    assisted = run.hinted | main.repaired
    gates = {key: GateResult(key, run.gates[key]) for key in assisted}
    run.record("gate", ((key, assisted[key].problem_id, gates[key]) for key in gates))
    covered = len({trace.problem_id for trace in run.passed(main.repaired)})
    lead = f"{covered:,} of {len({p.problem.id for p in main.paths}):,} problems repaired"
    return tally(lead, "traces", Counter(found.gate for found in gates.values()))


def score(run: Run) -> str:
    """§3: perplexity, surprisal and uncertainty, step by step, under the unhinted teacher."""
    s, gear = run.session, run.session.config.gear
    passed = run.passed(run.hinted)
    for lift in run.lifts.values():
        passed += run.passed(lift.repaired)
    honest = run.calibration_traces()
    candidates = [
        scoring.Candidate(
            s.problems[trace.problem_id],
            trace,
            run.checks[trace.key].answer or s.problems[trace.problem_id].answer,
            run.hints.get(trace.hint or ""),
        )
        for trace in (*passed, *honest)
    ]
    reliance, probes = run.wants_reliance(), run.wants_uncertainty()
    s.observer.begin("score", len(candidates) + reliance * len(passed))
    owed = run.profile_keys(candidates)
    scores = s.collect(
        "pure",
        PureScore,
        list(owed),
        lambda done, claim: scoring.score(owed, run.prompts, gear, s.scorer, probes, done, claim),
    )
    run.pure = {found.trace: found for found in scores.values() if found.error is None}
    measure_reliance(run, candidates if reliance else ())
    run.calibrate([run.pure[trace.key] for trace in honest if trace.key in run.pure])
    main = run.hinted | run.main_lift.repaired
    run.keep("pure", [found.key for found in scores.values() if found.trace in main])
    unaided = {trace.key for trace in honest}
    run.keep("pure", [p.key for p in scores.values() if p.trace in unaided], tag="honest")
    how = Counter("failed" if found.error else "scored" for found in scores.values())
    return tally("", "traces past the gates", how)


def measure_reliance(run: Run, candidates: Sequence[scoring.Candidate]) -> None:
    """§3, the `reliance` control: score assisted traces again, with their hint in view."""
    s, gear = run.session, run.session.config.gear
    asked = scoring.assisted(candidates, run.pure)
    hinted = s.collect(
        "reliance",
        HintedScore,
        [scoring.hinted_key(c, run.prompts, gear, s.scorer) for c in asked],
        lambda done, claim: scoring.score_hinted(asked, run.prompts, gear, s.scorer, done, claim),
    )
    known = scoring.with_hinted(run.pure, hinted.values())
    s.store.put_many("pure", ((p.key, p.problem_id, p) for p in known.values()))
    run.pure |= known
    run.keep("reliance", hinted)
    failed = {h.trace for h in hinted.values() if h.error is not None}
    s.fact("traces that could not be scored with their hint in view", len(failed))
    if s.config.pure.selection is Selection.RELIANCE:
        # Nothing speaks for a trace that the selection's own measurement failed on.
        run.pure = {key: found for key, found in run.pure.items() if key not in failed}


def spend(run: Run) -> str:
    """§5: `rft_more` and `star` buy what else HEAL's whole bill could have bought."""
    s = run.session
    buyers = {name: arm for name, arm in run.trained().items() if arm.extra is not Extra.NOTHING}
    s.observer.begin("spend", 0)
    for name in TRAINED.keys() - buyers.keys():  # arms of an earlier config among them
        run.keep("bought", (), tag=name)
    if not buyers:
        return "no arm asks for it"
    bill = purchase.bill_of(run)
    s.store.set_meta("bill", bill)
    lines = []
    for name, arm in buyers.items():
        run.bought[name], left = purchase.buy(run, arm, bill)
        run.keep("bought", run.bought[name], tag=name)
        lines.append(f"{name} {len(run.bought[name]):,} traces, {left:,} tokens left")
    return f"bill {bill:,} tokens · " + " · ".join(lines)


def select(run: Run) -> str:
    """§3 and §4: PURE drops, PACE caps; what remains is each arm's sets and the stage files."""
    s, c = run.session, run.session.config
    s.observer.begin("select", 0)
    if c.student is not None:
        run.lengths = Lengths(resolve_model(c.student.model), c.train.max_length, read_tokenizer)
    strata = {problem: found.stratum for problem, found in run.ceilings.items()}
    for name, arm in run.trained().items():
        traces = run.unaided | run.hinted | run.lift(arm).repaired | run.bought.get(name, {})
        usable = run.usable(traces, arm)
        candidates = selecting.candidates(usable, run.pure, arm, c.pure, c.seed, run.calibration)
        missed = selecting.misfits(usable, run.pure, arm, c.pure, run.calibration)
        s.fact(f"arm {name}: sets that honest traces are no measure for, so a share went", missed)
        shown = {t.key: selecting.example(t, s.problems[t.problem_id], run.prompts) for t in usable}
        refusal = selecting.refusals(shown, run.lengths)
        run.chosen[name] = pools(candidates, strata, c.pace, c.seed, refusal)
        run.examples |= {x.trace: shown[x.trace] for x in run.chosen[name] if x.drop is Drop.KEPT}
    for name in TRAINED:  # arms of an earlier config among them: they have nothing now
        chosen = run.chosen.get(name, [])
        run.record("selected", ((f"{name}/{x.trace}", x.problem_id, x) for x in chosen), tag=name)
    refused = Counter(run.lengths.refused.values() if run.lengths else ())
    s.fact("examples the student's tokenizer cannot give back", refused[Refusal.LOSSY])
    selected = run.chosen[c.main_arm] if c.main_arm else []
    run.keep("selected", [f"{c.main_arm}/{x.trace}" for x in selected])
    kept = [run.examples[x.trace] for x in selected if x.drop is Drop.KEPT]
    for stage, name in enumerate(selecting.STAGE_NAMES, 1):
        s.store.write_text(
            f"data/stage{stage}_{name}.jsonl", jsonl(selecting.stage_rows(kept, stage))
        )
    sizes = Counter(example.pool for example in kept)
    sets = " · ".join(f"{name} {sizes[name]:,}" for name in POOLS)
    return tally(sets, "candidates", Counter(x.drop for x in selected))


def train(run: Run) -> str:
    """§4: every arm and seed through three chained stages, at equal steps and tokens."""
    from heal.students.train import Opener, train_arm

    s, c = run.session, run.session.config
    if c.student is None or run.lengths is None:
        s.observer.begin("train", 0)
        return "no student: the training data is in data/"
    s.close_engines()
    student = resolve_model(c.student.model)
    opener, tokens = Opener(read_weights, read_tokenizer), run.lengths.tokens
    sizes = {
        name: {pool: {x.trace: tokens[x.trace] for x in kept if x.pool == pool} for pool in POOLS}
        for name, kept in run.kept().items()
    }
    shown = [n for sets in sizes.values() for traces in sets.values() for n in traces.values()]
    main = sizes[c.main_arm] if c.main_arm else {}
    spend = selecting.budget(main, c.pace, c.train.batch_size, max(shown, default=0))
    for name, arm in run.trained().items():
        if spend is None or not any(sizes[name].values()):
            s.fact(f"arm {name} not trained: it has no examples", 1)
            continue
        plan = partial(selecting.arm_plan, arm, sizes[name], spend, c.pace)
        run.plans |= {(name, n): plan(seed_for(c.seed, "plan", n)) for n in c.seeds}
    planned = [(arm, n, p) for (arm, n), plan in run.plans.items() for p in plan]
    run.record("plan", ((f"{arm}-seed{n}-{p.index}", "", p) for arm, n, p in planned))
    s.observer.begin("train", sum(len(p.batches) for _, _, p in planned))
    results: list[TrainResult] = []
    for name, seed in students.to_train(run):
        folder = s.store.folder / students.student_folder(name, seed)
        for result in train_arm(
            name,
            seed,
            run.plans[name, seed],
            run.examples,
            student,
            c.train,
            folder,
            s.trained,
            run_folder=s.store.folder,
            refused_long=sum(x.drop is Drop.TOO_LONG for x in run.chosen[name]),
            opener=opener,
        ):
            results.append(result)
            s.store.put("train", result.key, "", result)
            run.models[name, seed] = result.key
    run.keep("train", [result.key for result in results])
    trained = f"{len({arm for arm, _ in run.plans}):,} arms × {len(c.seeds):,} seeds"
    return tally(trained, "stages", {"trained": len(results)})


def evaluate(run: Run) -> str:
    """§6: every arm on the held-out problems, by the teacher's stratum."""
    s, c = run.session, run.session.config
    held_out = run.problems(Split.HELD_OUT)
    if c.student is None or not held_out:
        s.observer.begin("evaluate", 0)
        return "no student" if c.student is None else "no held-out problems: nothing measured"
    examined = students.to_examine(run)
    s.observer.begin("evaluate", len(examined) * len(held_out) * c.evaluate.samples)
    attempts: dict[str, EvalTrace] = {}
    for name, seed, model, folder in examined:
        asked = students.exam(run, name, seed, model)
        attempts |= students.examine(run, asked, folder, held_out)
    run.keep("evaluate", attempts)
    return tally(
        f"{len(examined):,} students", "attempts", Counter(a.verdict for a in attempts.values())
    )


STAGES: tuple[Callable[[Run], str], ...] = (
    sample,
    verify,
    locate,
    guide,
    repair,
    score,
    spend,
    select,
    train,
    evaluate,
)
