"""The closing stage: what the student of stage III gets right is shown to it once more."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.kills import differing, weights
from tests.scripted_run import ScriptedRun, kill
from tests.test_pace import LONGEST, POOLS, lengths, plan, tokens
from tests.test_run_arms import with_student
from tests.tiny_student import make_tokenizer

from heal.before.training import foresee
from heal.config import Pace
from heal.export.formats import export
from heal.method.curriculum import rehearse, stage_steps
from heal.recipe import load, parse
from heal.records import (
    EvalTrace,
    Finish,
    OwnAnswer,
    Problem,
    StageExam,
    StagePlan,
    TrainResult,
    Verdict,
)
from heal.rehearsal import step_check
from heal.run import Run
from heal.stages.candidates import Seen
from heal.store import AttemptRow, Store
from heal.students.own import at_most, gather
from heal.students.rendering import Renderer
from heal.students.sets import REHEARSED

BUDGET, BATCH = 40_000, 400
RIGHT = lengths("r", 60)


def rehearsal(rehearsed=RIGHT, share=0.2, seed=0, pools=POOLS, **settings):
    return rehearse(
        pools,
        rehearsed,
        Pace(rehearsal=share, **settings),
        batch_tokens=BATCH,
        budget=BUDGET,
        seed=seed,
    )


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("budget", [1600, 10_000, 40_000])
def test_the_rehearsal_is_a_part_of_the_same_steps_and_tokens(share: float, budget: int) -> None:
    usual = stage_steps(budget, BATCH, Pace())
    *first, last = stage_steps(budget, BATCH, Pace(rehearsal=share))
    assert sum(first) + last == sum(usual) or budget / BATCH < 10
    assert len(first) == 3 and last == pytest.approx(share * sum(usual), abs=1)
    own = plan(budget=budget, rehearsal=share)
    assert [len(stage.batches) for stage in own] == first


def test_rehearsed_arms_train_for_as_long_as_each_other_and_as_without() -> None:
    without = sum(map(sum, map(tokens, plan())))
    small = {"D1": lengths("a", 9), "D2": {}, "D3": {}}
    for pools in (POOLS, small):
        for rehearsed in (RIGHT, lengths("r", 2), {}):
            own = {**pools, "r": rehearsed}
            stages = [*plan(pools, rehearsal=0.2), rehearsal(rehearsed, pools=pools)]
            assert sum(len(stage.batches) for stage in stages) == BUDGET / BATCH
            assert sum(sum(tokens(s, own)) for s in stages) == pytest.approx(
                without, abs=3 * LONGEST
            )


def test_own_answers_are_shown_alone_and_evenly() -> None:
    stage = rehearsal()
    assert (stage.index, stage.lr_scale) == (4, Pace().stage_lr[2])
    visits = Counter(t for batch in stage.batches for t in batch)
    assert visits.keys() == RIGHT.keys()
    assert max(visits.values()) - min(visits.values()) <= 1


def test_few_own_answers_leave_the_rest_to_the_sets_and_none_leaves_it_all() -> None:
    few = lengths("r", 2)
    stage = rehearsal(few)
    visits = Counter(t for batch in stage.batches for t in batch)
    assert [visits[t] for t in few] == [Pace().max_shows] * 2
    alone = rehearsal({})
    assert {t[0] for batch in alone.batches for t in batch} == {"a", "b", "c"}
    assert len(alone.batches) == len(stage.batches)


def test_a_rehearsal_follows_from_the_answers_and_the_seed_alone() -> None:
    assert rehearsal(dict(reversed(RIGHT.items()))) == rehearsal()
    assert rehearsal(seed=1) != rehearsal()


def test_few_answers_of_a_problem_are_chosen_by_the_seed_whatever_their_order() -> None:
    answers = [OwnAnswer(f"{p}{i}", p, "", 1, 1) for p in "ab" for i in range(9)]
    chosen = at_most(answers, 4, 0)
    assert Counter(a.problem_id for a in chosen) == {"a": 4, "b": 4}
    assert at_most(answers[::-1], 4, 0) == chosen
    assert {a.key for a in at_most(answers, 4, 1)} != {a.key for a in chosen}


def rehearsed_run(home: Path, judge: str, **pace: Any) -> ScriptedRun:
    """Two arms and a verifier that finds everything right."""
    run = with_student(home)
    (home / f"{judge}.py").write_text("def judge(text, gold):\n    return True\n")
    settings = {
        "arms": ["rft", "heal"],
        "seeds": [0],
        "problems": {"held_out": 0.4, "verifier": f"{judge}:judge"},
        "pace": {"epochs": 4, "rehearsal": 0.4, **pace},
        "train": {"threads": 1, "max_length": 900, "learning_rate": 1e-3, "batch_size": 2},
        "evaluate": {"samples": 3, "teacher_n": 10, "max_new_tokens": 100, "bootstrap": 200,
                     "scored_token_cost": 0.5},
        "engine": {"local": {"threads": 1, "products": "mkl"}},
    }  # fmt: skip
    return ScriptedRun(home, run.world, {**run.settings, **settings})


def test_the_student_of_stage_three_is_asked_and_shown_its_own_answers(
    tmp_path: Path, code_allowed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "one"))
    run = rehearsed_run(tmp_path / "one", "agrees")
    watch = run.go("train.watch=1")
    assert watch.done["train"] == watch.totals["train"]
    results, plans = run.read("train", TrainResult), run.read("plan", StagePlan)
    assert Counter(r.stage for r in results) == dict.fromkeys((1, 2, 3, 4), 2)
    assert {(e.arm, e.stage) for e in run.read("watched", StageExam)} == {
        (arm, stage) for arm in ("rft", "heal") for stage in (1, 2, 3, 4)
    }
    answers = {a.key: a for a in run.read("rehearsed", OwnAnswer)}
    assert answers and not run.read("own", OwnAnswer)
    shown = [{t for b in p.batches for t in b} & set(answers) for p in plans if p.index == 4]
    assert len(shown) == 2 and all(shown) and not shown[0] & shown[1], "each its own alone"
    assert not any({t for b in p.batches for t in b} & set(answers) for p in plans if p.index < 4)
    assert [name.split("/")[2] for name in weights(run)] == ["stage4", "stage4"]
    assert run.view is not None
    assert any(row.stage == 4 and row.shares.get("rehearsed") for row in run.view.plan)
    facts = {fact.text: fact.count for fact in run.view.facts}
    assert facts["of these rehearsed"] == len(answers)
    steps = sum(r.steps for r in results)

    monkeypatch.chdir(run.home)
    exported = export(run.folder, "trl-plan", tmp_path / "plan").files
    assert exported["stage4_rehearsal.steps.jsonl"] == 6
    assert export(run.folder, "trl", tmp_path / "trl").settings_left_out == (
        "pace.rehearsal=0.4: what trl writes ends before that stage",
    )

    before = weights(run)
    again = run.go("train.watch=1", "evaluate.bootstrap=300")
    assert not again.answers.total() and weights(run) == before

    # more is asked of a student whose weights are gone: it is trained again
    more = run.go("train.watch=1", "evaluate.samples=4")
    assert sum("trained again up to stage 3" in line for line in more.said) == 2
    fresh = rehearsed_run(tmp_path / "two", "agrees")
    fresh.go("train.watch=1", "evaluate.samples=4")
    assert weights(run) == weights(fresh)

    run.go("pace.rehearsal=0", until="train")
    assert [name.split("/")[2] for name in weights(run)] == ["stage3", "stage3"]
    assert sum(r.steps for r in run.read("train", TrainResult)) == steps
    assert not run.read("rehearsed", OwnAnswer)


@pytest.mark.parametrize(("gate", "kept"), [(True, 2), (False, 3)])
def test_an_answer_with_a_wrong_step_is_not_rehearsed(
    tmp_path: Path, gate: bool, kept: int
) -> None:
    config = parse({
        "run": str(tmp_path / "run"), "problems": {"path": "-"}, "teacher": {"model": "-"},
        "steps": {"checker": "arithmetic", "gate": gate},
    })  # fmt: skip
    problem = Problem("p", "How many are 3 and 4?", "7")
    texts = ("3 + 4 = 7, so 7", "3 + 4 = 8\n\nThe answer is 7", "It is 7", "It is 7")
    rows = []
    with Store.open(tmp_path / "run") as store:
        for i, text in enumerate(texts):
            rows.append(
                AttemptRow("p", "heal", 0, i, f"k{i}", Verdict.CORRECT, "7", "stop", 5, None)
            )
            made = EvalTrace(f"k{i}", "p", "heal", 0, i, Finish.STOP, 5, text)
            store.put("evaluate", f"k{i}", "p", made)
        run = Run(SimpleNamespace(config=config, probed=()))  # type: ignore[arg-type]
        check = step_check(run, Renderer(make_tokenizer(), 200))
        found = gather(
            store, config.prompts, {"p": problem}, rows, lambda e: Seen(9), REHEARSED, check
        )
    assert len(found.answers) == kept and found.repeated == 1
    assert found.faulty == (1 if gate else 0)


def test_the_default_preset_rehearses_and_the_papers_does_not() -> None:
    least = {"run": "r", "problems": {"path": "p"}, "teacher": {"model": "m"}}
    assert parse(least).pace.rehearsal == 0.2
    assert parse({**least, "pace": {"epochs": 1}}).pace.rehearsal == 0.2
    assert parse({**least, "pace": {"rehearsal": 0}}).pace.stages == 3
    assert parse({**least, "preset": "paper"}).pace.stages == 3


def test_a_run_without_one_says_what_a_rehearsal_redoes_and_keeps_the_rest(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    run.go()
    before = run.stored()
    again = run.go("pace.rehearsal=0.2")
    assert [line for line in again.said if line.startswith("changed: ")] == [
        "changed: pace.rehearsal 0.0 → 0.2; redoes what it reaches from 'train' on"
    ]
    assert not again.answers.total() and run.stored() == before


def test_a_dry_run_tells_of_the_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_student(tmp_path)
    monkeypatch.chdir(tmp_path)
    more = ["pace.rehearsal=0.4", "pace.epochs=4", "arms=[heal]"]
    bound = foresee(load("recipe.yaml", more))
    run.go(*more, until="select")
    measured = foresee(load("recipe.yaml", more))
    for seen in (bound, measured):
        assert [stage.name for stage in seen.stages][-1] == "rehearsal"
        assert seen.stages[-1].steps > 0 and seen.stages[-1].tokens > 0
        assert seen.attempts == 4 * 2
    run.go(*more, until="train")
    results = [r for r in run.read("train", TrainResult) if r.seed == 0]
    steps = [r.steps for r in sorted(results, key=lambda r: r.stage)]
    assert steps == [stage.steps for stage in measured.stages]


def test_a_student_that_gets_nothing_right_is_shown_the_sets_alone(tmp_path: Path) -> None:
    run = with_student(tmp_path)
    watch = run.go("arms=[heal]", "seeds=[0]", "pace.rehearsal=0.4", "pace.epochs=4")
    assert any("nothing right to rehearse" in line for line in watch.said)
    assert run.view is not None
    facts = {fact.text: fact.count for fact in run.view.facts}
    assert facts["students without a correct answer to rehearse, shown the sets alone"] == 1
    assert not run.read("rehearsed", OwnAnswer)
    assert {r.stage for r in run.read("train", TrainResult)} == {1, 2, 3, 4}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_nine_while_it_is_asked_or_rehearses_ends_in_the_same_students(
    tmp_path: Path, code_allowed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rehearsed_run(tmp_path / "whole", "nods")
    monkeypatch.syspath_prepend(str(whole.home))
    run = rehearsed_run(tmp_path / "killed", "nods")
    whole.go()
    steps = {p.index: len(p.batches) for p in whole.read("plan", StagePlan)}
    kill(run.home, "evaluate", 3)
    kill(run.home, "train", sum(steps[i] for i in (1, 2, 3)) + 1)
    kill(run.home, "evaluate", 9)
    run.go()
    assert differing(run, whole) == []
