"""Running again: nothing is lost or paid twice, and a changed setting says what it redoes."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_run import (
    DRAWN,
    SCORED,
    Crash,
    ScriptedRun,
    dying_in,
    easy,
    extreme,
    hard,
    kill,
    small_batches,
    unsynced,
    world,
)

from heal.engines.base import Generated, Scored
from heal.engines.scripted import ScriptedEngine
from heal.errors import UserError
from heal.execute import overview
from heal.pipeline import OF_ALL, OF_EACH_PROBLEM
from heal.reach import first_stage
from heal.recipe import leaves
from heal.records import Cut, Hint, HintKind
from heal.store import ProblemRow, ScoreRow, SelectedRow, Store, TraceRow

PHASES = ("before", "within", "after")
MOMENTS = (
    *(("sample", 30), ("check", 50), ("scores", 2), ("hint_draw", 3), ("hinted", 2)),
    *(("repair", 6), ("pure", 5), ("problem done", 1), ("problem done", 2), ("select", 0)),
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    run = ScriptedRun(tmp_path_factory.mktemp("undisturbed"))
    run.go()
    return run


@pytest.fixture
def paid(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What scripted engines were asked to do."""
    count: Counter[str] = Counter()
    generate, score = ScriptedEngine.generate, ScriptedEngine.score

    def counted_generate(self: ScriptedEngine, requests: Any) -> Iterator[Generated | None]:
        for found in generate(self, requests):
            count["generated"] += found is not None
            yield found

    def counted_score(self: ScriptedEngine, requests: Any) -> Iterator[Scored | None]:
        for found in score(self, requests):
            count["scored"] += found is not None
            yield found

    monkeypatch.setattr(ScriptedEngine, "generate", counted_generate)
    monkeypatch.setattr(ScriptedEngine, "score", counted_score)
    return count


def new_stages(before: dict[str, set[str]], after: dict[str, set[str]]) -> set[str]:
    """Stages that hold a key they did not hold before."""
    return {stage for stage in after if after[stage] - before.get(stage, set())}


# --- again -------------------------------------------------------------------------------------


def test_running_again_opens_no_engine_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ScriptedRun(tmp_path)
    run.go()
    before, page = run.live(), (run.folder / "report.html").stat().st_mtime_ns

    def refuse(*_: Any) -> None:
        raise AssertionError("an engine was opened")

    monkeypatch.setattr("heal.session.open_engine", refuse)
    watch = run.go()
    assert watch.said == ["run: complete, nothing to do (heal show run)"]
    assert watch.lines == {}
    assert run.live() == before
    assert (run.folder / "report.html").stat().st_mtime_ns == page
    assert not (run.folder / "data" / "repaired_so_far.jsonl").exists()


def test_settled_problems_are_not_even_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ScriptedRun(tmp_path)
    run.go()
    monkeypatch.setattr("heal.execute.OF_ALL", ())  # `select` opens the correct traces

    def refuse(*_: Any) -> None:
        raise AssertionError("a problem was opened")

    monkeypatch.setattr(Store, "bodies", refuse)
    watch = run.go("pace.cap_d3=1")
    assert watch.reused["problems"] == watch.totals["problems"] == 3
    assert watch.done["problems"] == 0
    with pytest.raises(AssertionError, match="a problem was opened"):
        run.go("gear.target=3")


def test_a_new_problem_only_samples_itself(tmp_path: Path, paid: Counter[str]) -> None:
    run = ScriptedRun(tmp_path, world(easy("apples"), extreme("plums"), easy("melons")))
    rows = run.world[0]
    run.write_problems(rows[:2])
    run.go()
    before = run.stored()
    paid.clear()
    run.write_problems([rows[2], *rows[:2]])
    watch = run.go()
    assert paid == {"generated": 40}
    assert watch.answers["problems"] == 80  # a trace and its verdict
    assert (watch.done["problems"], watch.reused["problems"]) == (1, 2)
    assert all(before[stage] <= keys for stage, keys in run.stored().items() if stage in before)
    assert watch.said == []


def test_more_samples_only_draw_the_extra_ones(tmp_path: Path, paid: Counter[str]) -> None:
    run = ScriptedRun(tmp_path, world(easy("apples"), hard("pears")))
    run.go()
    before = run.stored()["sample"]
    paid.clear()
    watch = run.go("sampling.n=44")
    assert paid == {"generated": 2 * 4}
    assert before < run.stored()["sample"]
    assert watch.said == ["changed: sampling.n 40 → 44; redoes what it reaches from 'sample' on"]


REPAIRED = {"repair", "check", "pure"}


@pytest.mark.parametrize(
    ("setting", "said", "reached"),
    [
        ("arms=[heal, heal-no-pure]", "redoes what it reaches from 'locate' on", set()),
        (
            "arms=[heal, heal-restart]",
            "redoes what it reaches from 'locate' on",
            {"hint", "hint_draw", *REPAIRED},
        ),
        ("gear.target=20", "gear.target 8 → 20; redoes what it reaches from 'repair' on", REPAIRED),
        ("gear.target=3", "gear.target 8 → 3; redoes what it reaches from 'repair' on", set()),
        ("pure.drop=0.5", "pure.drop 0.2 → 0.5; redoes what it reaches from 'select' on", set()),
        ("pace.cap_d3=1", "pace.cap_d3 4 → 1; redoes what it reaches from 'select' on", set()),
        (
            "prompts.write_hint=A student is solving {problem}",
            "→ A student is solving {problem}; redoes what it reaches from 'guide' on",
            {"hint", "hint_draw"},
        ),
        (
            "prompts.write_hint=Be short. {problem}",
            "→ Be short. {problem}; redoes what it reaches from 'guide' on",
            {"hint", "hint_draw", *REPAIRED},
        ),
        (
            "prompts.probe=So it is \\boxed{",
            "→ So it is \\boxed{; redoes what it reaches from 'score' on",
            {"pure"},
        ),
        ("prompts.probe_close=' }'", "→  }; redoes what it reaches from 'score' on", {"pure"}),
        (
            "gear.breakpoint=restart",
            "redoes what it reaches from 'locate' on",
            {"cut", "hint", "hint_draw", *REPAIRED},
        ),
        (
            "prompts.system=Be brief.",
            "redoes what it reaches from 'sample' on",
            {"sample", "scores", "cut", "hint", "hint_draw", "hinted", *REPAIRED},
        ),
    ],
)  # fmt: skip
def test_a_changed_setting_redoes_what_it_reaches_and_says_so(
    tmp_path: Path, setting: str, said: str, reached: set[str]
) -> None:
    rows, rules = extreme("plums")
    rules = [{"match": "Be short.*plums", "replies": ["Mind the tens."]}, *rules]
    run = ScriptedRun(tmp_path, world(easy("apples"), (rows, rules)), {"gear": {"candidates": 8}})
    run.go()
    before = run.stored()
    watch = run.go(setting)
    line, *_ = watch.said
    assert said in line
    assert new_stages(before, run.stored()) == reached


def test_every_setting_names_the_first_stage_it_reaches() -> None:
    names = {stage.name for stage in OF_EACH_PROBLEM} | {name for name, _ in OF_ALL} | {None}
    for key, _ in leaves():
        assert first_stage(key) in names, key
    assert first_stage("arms") == "locate"
    assert first_stage("prompts.probe_close") == "score"
    assert first_stage("prompts.solve") == "sample"
    assert first_stage("limits.teacher_tokens") is None


def test_a_setting_that_changes_no_result_redoes_nothing(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    run.go()
    watch = run.go("limits.failed_share=0.4")
    assert watch.said == [
        "changed: limits.failed_share 0.5 → 0.4; redoes nothing",
        "run: complete, nothing to do (heal show run)",
    ]


def test_a_smaller_target_uses_fewer_repairs_and_draws_none(
    tmp_path: Path, paid: Counter[str]
) -> None:
    run = ScriptedRun(tmp_path, extreme("plums"), {"gear": {"candidates": 8}})
    run.go()
    assert len(run.rows(TraceRow, "stage='repair'")) == 15
    paid.clear()
    run.go("gear.target=3")
    assert paid == {}
    assert len(run.rows(TraceRow, "stage='repair'")) == 5
    run.go("gear.target=8")
    assert len(run.rows(TraceRow, "stage='repair'")) == 15
    assert paid == {}


def test_going_back_to_earlier_settings_gives_the_earlier_result(
    tmp_path: Path, undisturbed: ScriptedRun
) -> None:
    run = ScriptedRun(tmp_path)
    run.go("gear.breakpoint=fixed_third", "gear.target=2", "sampling.n=30")
    run.go()
    assert run.live() == undisturbed.live()
    assert run.data() == undisturbed.data()


def test_a_hint_of_other_settings_but_the_same_words_keeps_its_repairs(
    tmp_path: Path, paid: Counter[str]
) -> None:
    run = ScriptedRun(tmp_path, extreme("plums"))
    run.go()
    paid.clear()
    run.go("gear.hint_max_tokens=120")
    assert paid == {"generated": 5}
    hints = {hint.key for hint in run.read("hint", Hint, "difference")}
    assert len(hints) == 5
    assert {row.hint for row in run.rows(TraceRow, "stage='repair'")} == hints


def test_a_mended_answer_is_not_hinted_at_in_its_old_form(tmp_path: Path) -> None:
    rows, rules = extreme("plums", hints=["It is 141, you see."])
    old = ([rows[0] | {"answer": "141"}], rules)
    run = ScriptedRun(tmp_path, old, {"gear": {"hint_gate": False}})
    run.go(until="guide")
    assert {h.kind for h in run.read("hint", Hint, "difference")} == {HintKind.ANSWER}
    run.write_problems(rows)
    run.go()
    assert {(h.kind, h.text) for h in run.read("hint", Hint, "difference")} == {
        (HintKind.GUIDED, "It is 141, you see.")
    }


@pytest.mark.parametrize("stage", ["sample", "repair", "select"])
def test_a_verb_stops_after_its_stage_and_run_goes_on(
    tmp_path: Path, undisturbed: ScriptedRun, paid: Counter[str], stage: str
) -> None:
    run = ScriptedRun(tmp_path)
    watch = run.go(until=stage)
    assert list(watch.lines)[-1] == stage
    assert paid["generated"] == (120 if stage == "sample" else 143)
    assert run.meta("stopped") == f"it was only asked to go up to '{stage}'"
    assert (run.folder / "report.html").is_file()
    run.go()
    assert run.live() == undisturbed.live()
    assert run.meta("stopped") is None


def test_a_verb_after_a_problem_is_gone_still_gives_a_report(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, page=True)
    run.go()
    run.write_problems(run.world[0][:2])
    run.go(until="sample")
    assert len(run.nouns()) == len(run.rows(ProblemRow)) == 2
    assert (run.folder / "report.html").is_file()
    run.go()
    assert not run.read("cut", Cut, "difference")


def test_a_typo_in_the_first_run_does_not_claim_the_folder(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    with pytest.raises(UserError, match=r"problem\.jsonl"):
        run.go("problems.path=problem.jsonl")
    with pytest.raises(UserError, match="did you mean 'arithmetic'"):
        run.go("steps.checker=arithmetics")
    with pytest.raises(UserError, match=r"scrip\.json"):
        run.go("teacher.model=scrip.json")
    run.go(until="sample")


def test_a_stage_asked_for_under_other_settings_leaves_nothing_of_the_earlier_ones(
    tmp_path: Path,
) -> None:
    run = ScriptedRun(tmp_path)
    run.go()
    run.go("seed=1", until="verify")
    seeds = {row.key for row in run.rows(TraceRow)}
    assert len(seeds) == 120
    assert not run.rows(SelectedRow)
    assert {row.settled for row in run.rows(ProblemRow)} == {None}


def test_sample_then_verify_then_run_ask_each_trace_once(
    tmp_path: Path, undisturbed: ScriptedRun, paid: Counter[str]
) -> None:
    run = ScriptedRun(tmp_path)
    for stage in ("sample", "verify", "locate", "guide", "repair", "score", None):
        run.go(until=stage)
    assert run.live() == undisturbed.live()
    assert run.stored() == undisturbed.stored()
    assert paid["generated"] == sum(len(undisturbed.stored().get(stage, ())) for stage in DRAWN)
    assert paid["scored"] == sum(len(undisturbed.stored().get(stage, ())) for stage in SCORED)


def test_a_changed_answer_asks_its_own_problem_alone(tmp_path: Path, paid: Counter[str]) -> None:
    rows, rules = world(easy("apples"), extreme("plums"))
    run = ScriptedRun(tmp_path, (rows, rules))
    run.go()
    paid.clear()
    run.write_problems([rows[0] | {"answer": "5"}, rows[1]])
    watch = run.go()
    assert (watch.done["problems"], watch.reused["problems"]) == (1, 1)
    nouns = run.nouns()
    verdicts = {(nouns[row.problem], row.verdict) for row in run.rows(TraceRow, "stage='sample'")}
    assert verdicts == {("apples", "wrong"), ("plums", "wrong")}


def test_a_solution_that_comes_later_is_hinted_at(tmp_path: Path) -> None:
    rows, rules = extreme("plums")
    run = ScriptedRun(tmp_path, (rows, rules), {"gear": {"hint": "partial"}})
    run.go()
    assert {h.kind for h in run.read("hint", Hint, "difference")} == {HintKind.ANSWER}
    run.write_problems([rows[0] | {"solution": "Add the tens and then add the units to them."}])
    run.go()
    assert {h.kind for h in run.read("hint", Hint, "difference")} == {HintKind.PARTIAL}


def test_commitment_is_read_anew_when_its_line_moves(tmp_path: Path, paid: Counter[str]) -> None:
    run = ScriptedRun(tmp_path, extreme("plums"))
    run.go()
    before = committed(run)
    paid.clear()
    run.go("pure.commit_below=10")
    assert set(committed(run).values()) == {3} != set(before.values())
    assert paid == {}


def committed(run: ScriptedRun) -> dict[str, int | None]:
    return {
        row.trace: row.commitment for row in run.rows(ScoreRow, "stage='pure' AND tag='difference'")
    }


# --- first results -----------------------------------------------------------------------------


def test_repaired_rows_can_be_read_while_later_problems_are_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("plums", "figs", "dates", "limes")
    run = ScriptedRun(tmp_path, world(*map(extreme, names)))
    so_far = run.folder / "data" / "repaired_so_far.jsonl"
    seen: dict[str, int] = {}
    reply = ScriptedEngine._reply

    def looked(self: ScriptedEngine, request: Any, *rest: Any) -> Generated:
        if b"many limes" in bytes(i & 255 for i in request.prompt_ids) and not seen:
            seen["rows"] = len(so_far.read_text().splitlines())
        return reply(self, request, *rest)

    monkeypatch.setattr(ScriptedEngine, "_reply", looked)
    monkeypatch.setattr("heal.runner.WINDOW", 2)
    with small_batches():
        run.go(until="score")
    assert seen["rows"] >= 4
    rows = [json.loads(line) for line in so_far.read_text().splitlines()]
    nouns = run.nouns()
    # at most as many of each problem as D3 takes
    assert Counter(nouns[r["problem_id"]] for r in rows) == dict.fromkeys(names, 4)
    assert {r["set"] for r in rows} == {"D3"}
    run.go()
    assert not so_far.exists()


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("stored", [True, False])
def test_repaired_rows_survive_a_crash_and_none_comes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int, stored: bool
) -> None:
    names = ("plums", "figs", "dates")
    whole = ScriptedRun(tmp_path / "whole", world(*map(extreme, names)))
    whole.go(until="score")
    run, done = ScriptedRun(tmp_path / "run", whole.world), Counter[str]()
    conclude = Store.conclude

    def mortal(self: Store, *rows: Any) -> None:
        done["problems"] += 1
        if stored:
            conclude(self, *rows)
        if done["problems"] == k:
            raise Crash
        if not stored:
            conclude(self, *rows)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "conclude", mortal)
        with pytest.raises(Crash):
            run.go(until="score")
    run.go(until="score")
    assert sorted(repaired(run)) == sorted(repaired(whole))


def repaired(run: ScriptedRun) -> list[str]:
    return (run.folder / "data" / "repaired_so_far.jsonl").read_text().splitlines()


# --- kill at any moment ------------------------------------------------------------------------


def dies_in(run: ScriptedRun, writes: int, phase: str) -> bool:
    """Run until the so-manieth transaction; whether there were so many."""
    try:
        with unsynced(), dying_in(writes, phase):
            run.go()
    except Crash:
        return True
    return False


def owed_of(run: ScriptedRun, stages: tuple[str, ...]) -> int:
    stored = run.stored()
    return sum(len(stored.get(stage, ())) for stage in stages)


def assert_same(run: ScriptedRun, other: ScriptedRun) -> None:
    """Same columns, bodies, training files; nothing is in flight."""
    assert run.live() == other.live()
    assert run.stored() == other.stored()
    assert run.data() == other.data()
    assert run.claims() == 0
    with Store.open(run.folder, write=False) as one, Store.open(other.folder, write=False) as two:
        left, right = one.totals(), two.totals()
    # what was in flight came once, or it was not stored
    assert left._replace(lost=0) == right._replace(lost=0)
    assert left.replaced == 0


@pytest.mark.parametrize(("stage", "k"), MOMENTS)
def test_kill_nine_in_a_stage_loses_nothing(
    tmp_path: Path, undisturbed: ScriptedRun, paid: Counter[str], stage: str, k: int
) -> None:
    run = ScriptedRun(tmp_path)
    kill(run.home, stage, k)
    before, claims = owed_of(run, (*DRAWN, *SCORED)), run.claims()
    assert claims <= 2 * 40
    watch = run.go()
    assert_same(run, undisturbed)
    assert run.lost() == claims
    assert any(f"{claims} requests in flight" in said for said in watch.said) == (claims > 0)
    # what was stored is not asked again: what was in flight is all that is
    assert paid.total() == owed_of(undisturbed, (*DRAWN, *SCORED)) - before


@pytest.mark.parametrize("phase", PHASES)
def test_a_run_that_dies_in_any_transaction_comes_to_the_same_end(
    tmp_path: Path, undisturbed: ScriptedRun, phase: str
) -> None:
    for writes in range(1, 60, 4):
        run = ScriptedRun(tmp_path / str(writes))
        with small_batches(17):
            died = dies_in(run, writes, phase)
        run.go()
        assert_same(run, undisturbed)
    assert died, "a run has more transactions than that"


def test_a_run_that_dies_over_and_over_pays_for_what_was_in_flight_alone(
    tmp_path: Path, undisturbed: ScriptedRun, paid: Counter[str]
) -> None:
    run, dice, lives = ScriptedRun(tmp_path), random.Random(5), 0
    with small_batches():
        # a process needs some transactions before it comes to work, and some for its end
        while dies_in(run, dice.randrange(18, 24 + 2 * lives), dice.choice(PHASES)):
            lives += 1
    assert 5 < lives < 60
    assert_same(run, undisturbed)
    owed = owed_of(undisturbed, (*DRAWN, *SCORED))
    assert owed < paid.total() <= owed + run.lost()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thirty_random_kills_over_all_stages_change_nothing(
    tmp_path: Path, undisturbed: ScriptedRun
) -> None:
    dice, kills, runs = random.Random(11), 0, 0
    while kills < 30:
        run, runs = ScriptedRun(tmp_path / str(runs)), runs + 1
        while kills < 30 and killed(run, dice.choice(PHASES), dice.randrange(18, 70)):
            kills += 1
        run.go()
        assert_same(run, undisturbed)
    assert runs > 1


def killed(run: ScriptedRun, phase: str, writes: int) -> bool:
    """Whether a process died there; one that comes to its end first is not killed."""
    try:
        kill(run.home, phase, writes)
    except AssertionError:
        assert run.meta("complete")
        return False
    return True


def test_ctrl_c_out_of_the_engine_leaves_a_run_to_continue(
    tmp_path: Path, undisturbed: ScriptedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ScriptedRun(tmp_path)
    reply = ScriptedEngine._reply
    asked = Counter[str]()

    def interrupted(self: ScriptedEngine, *args: Any) -> Generated:
        asked["replies"] += 1
        if asked["replies"] == 50:
            raise KeyboardInterrupt
        return reply(self, *args)

    monkeypatch.setattr(ScriptedEngine, "_reply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.go()
    assert len(run.stored()["sample"]) == 49
    assert run.claims() == 2 * 40 - 49
    with Store.open(run.folder, write=False) as store:
        assert list(overview(store))[-1] == "not complete: it was interrupted"
    run.go()
    assert run.live() == undisturbed.live()
