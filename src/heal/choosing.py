"""Have the untouched student score what PACE is to choose among, where `pace.choice` asks for it.

Only traces of problems that have more of them than a set takes. Every score is stored when it
comes; running again scores what is missing.
"""

from collections.abc import Mapping
from dataclasses import asdict

from heal.records import Choice, StudentScore
from heal.report.choice_words import META, ArmChoice, TraceChoice, trace_choice_sentences
from heal.run import Run
from heal.stages.found import Found
from heal.stages.select import Chosen, Offer
from heal.students import arms as students
from heal.students.choice import STAGE, Reader
from heal.students.rendering import Renderer


def score_to_choose(
    run: Run, offer: Offer, renderer: Renderer | None
) -> Mapping[str, StudentScore]:
    """The student's scores by trace; none where no arm chooses by them.

    Raises: CapabilityError where the student's servers cannot give them.
    """
    s, c = run.session, run.session.config
    wanted = offer.to_score()
    scores = dict[str, StudentScore]()
    if wanted:
        assert renderer is not None, "settings that ask the student name one"
        student = students.untouched(c)
        ranks = any(offer.rules(a).choice is Choice.RANK_SURPRISAL for a in offer.arms)
        reader = Reader(students.weights_of(c, student), renderer, c.prompts, ranks)
        s.close_engines()  # nobody asks the teacher any more: the student may need its room
        s.observer.begin("choice", sum(map(len, wanted.values())), "traces")

        def done(found: Found) -> None:
            traces = wanted[found.problem.id]
            scores.update(reader.conclude(found, traces))
            s.observer.advance(len(traces))

        run.ask_student(
            student,
            [s.problems[problem] for problem in wanted],
            lambda found, student: reader.owes(found, wanted[found.problem.id], student),
            done,
        )
    s.store.set_live(STAGE, [(score.key, score.problem_id) for score in scores.values()])
    return scores


def note_choice(run: Run, offer: Offer, scores: Mapping[str, StudentScore], chosen: Chosen) -> None:
    """Store and say what came of choosing otherwise than by likeness; nothing where no arm does."""
    s, main = run.session, run.session.config.main_arm
    arms = tuple(
        ArmChoice(
            arm,
            offer.rules(arm).choice,
            chosen.problems[arm],
            chosen.contested[arm],
            chosen.sizes[arm].total(),
            chosen.other[arm],
        )
        for arm in sorted(offer.arms, key=lambda arm: arm != main)
        if offer.rules(arm).choice is not Choice.DIVERSE
    )
    failed = sum(score.mean_logprob is None for score in scores.values())
    texts = {score.key: score.scored_tokens for score in scores.values()}
    found = TraceChoice(arms, len(scores), len(texts), sum(texts.values()), failed)
    s.store.set_meta(META, asdict(found) if arms else None)
    for line in trace_choice_sentences(found):
        s.observer.say(line)
