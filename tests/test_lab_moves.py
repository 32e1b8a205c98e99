"""The world of moves: every step it writes is judged as it was meant, and its dials are kept to."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal.lab import chain_lessons, chains
from heal.lab.chain_lessons import Manner, MoveDials, Step, alone, guided, honest, under_answer
from heal.lab.chains import KIND, TRUE, Chain
from heal.lab.moves import Moves
from heal.steps import first_wrong_step

WORLD = Moves()
DIALS = MoveDials()
problems = st.builds(
    lambda family, seed: WORLD.draw(family, random.Random(seed)),
    st.sampled_from(WORLD.all_families),
    st.integers(0, 10**6),
)
manners = st.sampled_from(["alone", "honest", "answer", "wrong answer", "guided"])


def manner_of(name: str, problem: Chain) -> Manner:
    word = problem.moves[2].word
    return {
        "alone": alone(DIALS),
        "honest": honest(DIALS),
        "answer": under_answer(DIALS, problem.gold),
        "wrong answer": under_answer(DIALS, str(int(problem.gold) + 3)),
        "guided": guided(DIALS, (word, TRUE[word])),
    }[name]


def text(steps: list[Step]) -> str:
    return "\n\n".join(step.text for step in steps)


@settings(max_examples=400, deadline=None)
@given(problems, manners, st.integers(0, 10**6))
def test_the_checker_finds_the_first_bad_step_that_the_writer_wrote(problem, name, seed) -> None:
    steps = chain_lessons.write(problem, manner_of(name, problem), random.Random(seed))
    found = WORLD.judge(problem, text(steps))
    bad = [number for number, step in enumerate(steps) if not step.holds]
    assert found.first_bad == (bad[0] if bad else None)
    assert found.correct == (steps[-1].text == chains.final(problem.gold))
    assert found.valid == (found.correct and not bad)
    assert found.rule_step == (bad[0] if bad and steps[bad[0]].names else None)
    if name == "honest":
        assert found.valid
        assert found.family == problem.rule.family


@settings(max_examples=200, deadline=None)
@given(problems, manners, manners, st.integers(0, 10**6), st.integers(0, 16))
def test_a_trace_kept_anywhere_goes_on_as_if_never_cut(problem, first, then, seed, cut) -> None:
    rng = random.Random(seed)
    begun = chain_lessons.write(problem, manner_of(first, problem), rng)
    kept = begun[: min(cut, len(begun) - 1)]
    steps = chain_lessons.write(problem, manner_of(then, problem), rng, kept)
    assert steps[: len(kept)] == kept
    assert [step.place for step in steps if step.names] == [0, 1, 2, 3, 4]
    bad = [number for number, step in enumerate(steps) if not step.holds]
    assert WORLD.judge(problem, text(steps)).first_bad == (bad[0] if bad else None)


@settings(max_examples=200, deadline=None)
@given(problems, st.integers(0, 10**6), st.data())
def test_an_edited_step_is_the_first_bad_one(problem, seed, data) -> None:
    steps = chain_lessons.write(problem, honest(DIALS), random.Random(seed))
    edited = [step.text for step in steps]
    at = data.draw(st.integers(0, len(edited) - 1))
    how = data.draw(st.sampled_from(["left out", "twice", "another number", "cheese"]))
    if how == "left out":
        del edited[at]
    elif how == "twice":
        edited.insert(at, edited[at])
    elif how == "another number":
        digits = [i for i, letter in enumerate(edited[at]) if letter.isdigit()]
        i = data.draw(st.sampled_from(digits)) if digits else 0
        edited[at] = edited[at][:i] + "0" + edited[at][i + 1 :]
    else:
        edited[at] = "I like cheese very much indeed."
    found = WORLD.judge(problem, "\n\n".join(edited))
    # a remark is free to stand where it is true
    harmless = steps[at].text.startswith("Here") and how in ("left out", "twice")
    unchanged = edited == [step.text for step in steps]
    assert found.valid == (harmless or unchanged)
    if how == "left out" and at == len(steps) - 1:
        assert (found.first_bad, found.answer) == (None, None)
    elif not found.valid:
        assert found.first_bad in (at, at + 1)


@settings(max_examples=200, deadline=None)
@given(problems)
def test_a_problem_leads_to_its_answer_and_its_family_is_its_hardest(problem: Chain) -> None:
    value = problem.start
    for move in problem.moves:
        value = chains.equations(value, TRUE[move.word], move.amount)[-1][-1]
    assert problem.gold == str(value)
    kinds = [KIND[move.word] for move in problem.moves]
    hardest = next(kind for kind in ("latent", "rare", "common") if kind in kinds)
    assert WORLD.kind_of(problem.rule.family) == hardest
    assert WORLD.idea(problem)


def test_no_word_is_mistaken_for_what_it_is() -> None:
    for word, reading in TRUE.items():
        assert reading not in chains.MISTAKEN[word]
        ends = {chains.equations(0, r, 3)[-1][-1] for r in (reading, *chains.MISTAKEN[word])}
        assert len(ends) == 1 + len(chains.MISTAKEN[word])


def test_traces_go_wrong_all_along_and_as_often_as_the_dials_say() -> None:
    rng, shares, named = random.Random(0), [], {"common": [], "rare": [], "latent": []}
    for family in WORLD.families["latent"] * 200:
        problem = WORLD.draw(family, rng)
        steps = chain_lessons.write(problem, alone(DIALS), rng)
        for step in steps:
            if step.names:
                named[KIND[problem.moves[step.place].word]].append(step.holds)
        bad = next((i for i, step in enumerate(steps) if not step.holds), None)
        if bad is not None:
            shares.append(bad / len(steps))
    thirds = [sum(int(3 * s) == third for s in shares) / len(shares) for third in range(3)]
    assert min(thirds) > 0.1
    assert 0.3 < sorted(shares)[len(shares) // 2] < 0.5
    for kind, share in (("common", 0.985), ("rare", 0.35), ("latent", 0.02)):
        assert sum(named[kind]) / len(named[kind]) == pytest.approx(share, abs=0.035)


def test_hinted_traces_reach_right_answers_over_bad_steps_under_either_hint() -> None:
    rng = random.Random(0)
    for told in (False, True):
        found = []
        for family in WORLD.families["latent"] * 100:
            problem = WORLD.draw(family, rng)
            told_of = guided(DIALS, (family, TRUE[family]))
            manner = told_of if told else under_answer(DIALS, problem.gold)
            steps = chain_lessons.write(problem, manner, rng)
            found.append(WORLD.judge(problem, text(steps)))
        right = [each for each in found if each.correct]
        assert 0.2 < sum(each.fudged for each in right) / len(right) < 0.6


def test_an_unhinted_lesson_teaches_hard_readings_as_often_as_the_dials_say() -> None:
    rng = random.Random(0)
    never = replace(DIALS, spontaneous_latent=0.0, spontaneous_rare=0.0)
    taught = 0
    for _ in range(800):
        lesson = WORLD.teacher_lesson(rng, never)
        if "Hint:" in lesson.segments[0][0] or "Write a hint" in lesson.segments[0][0]:
            continue
        for step, learnt in lesson.segments[1:]:
            named = step.removesuffix("\n\n").removesuffix(".").rpartition(": ")
            word = named[0].split(" ")[2] if named[0] else "up"
            if learnt and KIND[word] != "common":
                taught += 1
                assert named[2] != TRUE[word]
    assert taught > 200


def test_a_hint_is_right_where_it_says_what_a_word_of_the_problem_does() -> None:
    problem = WORLD.draw("zig", random.Random(0))
    assert WORLD.hints_right(problem, "Try this: zig is take it twice.")
    assert not WORLD.hints_right(problem, "Try this: zig is take it.")
    assert not WORLD.hints_right(problem, "Try this: bow is take it and one.")


def test_a_choice_is_that_of_the_family_and_one_step_follows_it() -> None:
    for family in WORLD.all_families:
        problem = WORLD.draw(family, random.Random(1))
        steps, lead = WORLD.choice(problem, random.Random(2))
        assert steps[-2].startswith(lead)
        assert steps[-2].removeprefix(lead) == f"{TRUE[family]}."
        assert f" {family} " in lead


def test_the_arithmetic_checker_sees_slips_and_no_misreadings() -> None:
    rng = random.Random(0)
    slips = replace(honest(DIALS), slip=0.3)
    misread = replace(honest(DIALS), right={"common": 0.5, "rare": 0.5, "latent": 0.5})
    for family in WORLD.all_families:
        problem = WORLD.draw(family, rng)
        texts = [step.text for step in chain_lessons.write(problem, misread, rng)]
        assert first_wrong_step(texts, problem.text).step is None
        steps = chain_lessons.write(problem, slips, rng)
        first = next((i for i, step in enumerate(steps, start=1) if not step.holds), None)
        assert first_wrong_step([step.text for step in steps], problem.text).step == first
