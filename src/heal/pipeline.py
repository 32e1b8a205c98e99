"""The method on one screen: the stages in order.

Eight stages see one problem at a time: `owes` says what is still to be asked before a stage is done
with it, `conclude` what came of it. `heal.runner` carries the requests. The other five see all
problems, through the columns. All results live in the store under content keys, so running again
continues, and a changed setting redoes what it reaches only.
"""

from collections import Counter
from collections.abc import Callable

from heal.choosing import note_choice, score_to_choose
from heal.marking import marked_bad, tell_left_out
from heal.method.arms import Extra, trained, wants_calibration
from heal.records import Split
from heal.rehearsal import train_each
from heal.report.lines import scored, tally
from heal.retention import WATCHED, ask_own, watch
from heal.run import SO_FAR, Run, Stage
from heal.stages import calibrate as calibrating
from heal.stages import guide, locate, match_budget, probe, repair, sample, score, select, words
from heal.stages.candidates import unseen
from heal.stages.filter import Profiles
from heal.students import arms as students
from heal.students.export import StageFiles
from heal.students.rendering import open_renderer, reader
from heal.wording import plural

OF_EACH_PROBLEM = (
    Stage("sample", sample.owes, sample.conclude),
    Stage("verify", sample.owes_verdicts),
    Stage("locate", locate.owes, locate.conclude),
    Stage("probe", probe.owes, probe.conclude),
    Stage("guide", guide.owes, guide.conclude),
    Stage("repair", repair.owes, repair.conclude),
    Stage("words", words.owes, words.conclude),
    Stage("score", score.owes, score.conclude),
)

WITHOUT_A_TEACHER = OF_EACH_PROBLEM[:2]
"""What imported traces need no model for."""


def calibrate(run: Run) -> str:
    """§3: score honest traces, and draw PURE's lines by them."""
    s, setup = run.session, run.setup
    if s.config.teacher is None:
        return "no teacher to score them"
    if not wants_calibration(s.config):
        return "no selection asks for it"
    honest = calibrating.choose(s.store, setup)
    run.ask(
        [s.problems[problem] for problem in honest.by_problem],
        lambda found: calibrating.owes(found, setup, honest),
        lambda found: calibrating.conclude(found, setup, honest),
    )
    s.store.insert(honest.rows)
    run.calibration, facts = calibrating.draw_lines(setup, honest)
    s.facts.update(facts)
    return scored(s.store, honest=True)


def match(run: Run) -> str:
    """§5: `rft_more` and `star` draw for as many teacher tokens as HEAL has spent."""
    s, setup = run.session, run.setup
    arms = {n: a for n, a in trained(s.config).items() if a.extra is not Extra.NOTHING}
    if not arms:
        return "no arm asks for it"
    budget = match_budget.tokens_to_match(s.store, s.config, run.scored_token_cost())
    lines = []
    for name, arm in arms.items():
        drawn = match_budget.matching(s.store, setup, name, arm, budget)
        while plan := drawn.next_round():
            if not drawn.take(run.matched(plan, name, arm.extra)):
                break
        s.store.insert(drawn.rows)
        got = plural(len(drawn.rows), "trace")
        lines.append(f"{name} {got}, {plural(drawn.left, 'token')} left")
    return f"{plural(budget, 'token')} to match · " + " · ".join(lines)


def choose(run: Run) -> str:
    """§3 and §4: PURE drops, PACE caps; what remains is each arm's sets and the stage files."""
    s, c = run.session, run.session.config
    profiles = Profiles(s.store, c, run.calibration)
    own = open_renderer(c.student.model, c.train.max_length) if c.student is not None else None
    see, marked = reader(own) if own is not None else unseen, marked_bad(s)
    offer = select.Offer(s.store, c, s.problems, profiles, see, marked)
    scores = score_to_choose(run, offer, own)
    with StageFiles(s.store) as files:
        chosen = select.select(offer, files.write, scores)
    note_choice(run, offer, scores, chosen)
    tell_left_out(s, marked, chosen.left_out)
    (s.store.folder / SO_FAR).unlink(missing_ok=True)
    for text, count in (*profiles.facts().items(), *chosen.facts().items()):
        s.fact(text, count)
    sizes, drops = chosen.sizes[c.main_arm or ""], chosen.drops[c.main_arm or ""]
    return tally(select.sets_line(sizes), "candidate", {str(k): n for k, n in drops.items()})


def train(run: Run) -> str:
    """§4: every arm and seed through its chained stages, at equal steps and tokens."""
    s, c = run.session, run.session.config
    if c.student is None:
        return "no student: the training data is in data/"
    s.close_engines()
    ask_own(run)
    offer = students.offered(s.store, c)
    plans, empty = students.plan(c, offer)
    for name in empty:
        s.fact(f"arm {name} not trained: it has no examples", 1)
    run.keep_plans(plans, sum(offer.steps(c.pace)))
    results, watched = [], list[str]()
    for result in train_each(run, offer):
        s.store.put("train", result.key, "", result)
        run.names[result.arm, result.seed] = result.key
        run.stage_over(result)
        results.append(result)
        key = watch(run, result)
        watched += [key] if key else []
    s.store.set_live("train", [(result.key, "") for result in results])
    s.store.set_live(WATCHED, [(key, "") for key in watched])
    arms = plural(len({arm for arm, _ in plans}), "arm")
    lead = f"{arms} × {plural(len(c.seeds), 'seed')}"
    return tally(lead, "stage", {"trained": len(results)})


def evaluate(run: Run) -> str:
    """§6: every arm on the held-out problems, by the teacher's stratum."""
    s, held_out = run.session, run.problems(Split.HELD_OUT)
    if s.config.student is None or not held_out:
        return "no student" if s.config.student is None else "no held-out problems"
    examined = students.to_examine(s.config, s.store.folder, run.plans, run.names)
    attempts = len(examined) * len(held_out) * s.config.evaluate.samples
    s.observer.begin("evaluate", attempts, "attempts")
    verdicts = Counter[str]()
    for student in examined:
        verdicts.update(attempt.verdict for attempt in run.examine(student, held_out))
    return tally(plural(len(examined), "student"), "attempt", verdicts)


OF_ALL: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("calibrate", calibrate),
    ("match", match),
    ("select", choose),
    ("train", train),
    ("evaluate", evaluate),
)
