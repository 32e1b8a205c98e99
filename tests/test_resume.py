"""Running again: nothing is lost or paid twice, and a changed setting says what it redoes."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_run import (
    ScriptedRun,
    counts,
    easy,
    extreme,
    hard,
    kill,
    world,
)

from heal.engines.base import Generated, Scored
from heal.engines.scripted import ScriptedEngine
from heal.errors import UserError
from heal.execute import first_stage, overview
from heal.pipeline import STAGES
from heal.recipe import leaves
from heal.records import Hint, HintKind, Trace
from heal.store import Store

STAGES_AT_WORK = ("sample", "verify", "locate", "guide", "repair", "score", "select")


class Crash(BaseException):
    """Stands for the power going: nothing in HEAL catches it."""


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

    def counted_generate(self: ScriptedEngine, requests: Any) -> Iterator[Generated]:
        for found in generate(self, requests):
            count["generated"] += 1
            yield found

    def counted_score(self: ScriptedEngine, requests: Any) -> Iterator[Scored]:
        for found in score(self, requests):
            count["scored"] += 1
            yield found

    monkeypatch.setattr(ScriptedEngine, "generate", counted_generate)
    monkeypatch.setattr(ScriptedEngine, "score", counted_score)
    return count


def new_tables(before: dict[str, set[str]], after: dict[str, set[str]]) -> set[str]:
    """Tables that hold a key they did not hold before."""
    return {table for table in after if after[table] - before.get(table, set())}


# --- again -------------------------------------------------------------------------------------


def test_running_again_opens_no_engine_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ScriptedRun(tmp_path)
    run.go()
    before = run.live()
    view = run.view

    def refuse(*_: Any) -> None:
        raise AssertionError("an engine was opened")

    monkeypatch.setattr("heal.session.open_engine", refuse)
    watch = run.go()
    assert watch.said == ["run: complete, nothing to do (heal show run)"]
    assert watch.lines == {}
    assert run.live() == before
    assert run.view is not None
    assert view is not None
    assert run.view.selected == view.selected


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
    assert (watch.arrived["sample"], watch.reused["sample"]) == (40, 80)
    assert all(before[table] <= keys for table, keys in run.stored().items() if table in before)
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


REPAIRED = {"repair", "check", "gate", "pure", "selected"}


@pytest.mark.parametrize(
    ("setting", "said", "reached"),
    [
        ("arms=[heal, heal-no-pure]", "redoes what it reaches from 'locate' on", {"selected"}),
        ("gear.target=20", "gear.target 8 → 20; redoes what it reaches from 'repair' on", REPAIRED),
        ("gear.target=3", "gear.target 8 → 3; redoes what it reaches from 'repair' on", set()),
        ("pure.drop=0.5", "pure.drop 0.2 → 0.5; redoes what it reaches from 'select' on", set()),
        ("pace.cap_d3=1", "pace.cap_d3 4 → 1; redoes what it reaches from 'select' on", set()),
        (
            "prompts.write_hint=A student is solving {problem}",
            "→ A student is solving {problem}; redoes what it reaches from 'guide' on",
            {"hint"},
        ),
        (
            "prompts.write_hint=Be short. {problem}",
            "→ Be short. {problem}; redoes what it reaches from 'guide' on",
            {"hint", *REPAIRED},
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
            {"cut", "hint", *REPAIRED},
        ),
        (
            "prompts.system=Be brief.",
            "redoes what it reaches from 'sample' on",
            {"sample", "scores", "cut", "hint", "hinted", *REPAIRED},
        ),
    ],
)  # fmt: skip
def test_a_changed_setting_redoes_what_it_reaches_and_says_so(
    tmp_path: Path, setting: str, said: str, reached: set[str]
) -> None:
    rows, rules = extreme("plums")
    rules = [{"match": "Be short.*plums", "replies": ["Mind the tens."]}, *rules]
    run = ScriptedRun(tmp_path, world(easy("apples"), (rows, rules)), {"gear": {"candidates": 4}})
    run.go()
    before = run.stored()
    watch = run.go(setting)
    (line,) = watch.said
    assert said in line
    assert new_tables(before, run.stored()) == reached


def test_every_setting_names_the_first_stage_it_reaches() -> None:
    names = {stage.__name__ for stage in STAGES} | {None}
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
    run = ScriptedRun(tmp_path, extreme("plums"))
    run.go()
    assert len(run.read("repair", Trace)) == 10
    paid.clear()
    run.go("gear.target=3")
    assert paid == {}
    assert len(run.read("repair", Trace)) == 5
    run.go("gear.target=8")
    assert len(run.read("repair", Trace)) == 10
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
    hints = {key for table, _, key in run.live() if table == "hint"}
    assert {t.hint for t in run.read("repair", Trace)} == hints


def test_a_mended_answer_is_not_hinted_at_in_its_old_form(tmp_path: Path) -> None:
    rows, rules = extreme("plums", hints=["It is 141, you see."])
    run = ScriptedRun(tmp_path, ([rows[0] | {"answer": "141"}], rules))
    run.go(until="guide")
    assert {h.kind for h in run.read("hint", Hint)} == {HintKind.ANSWER}
    run.write_problems(rows)
    run.go()
    assert {(h.kind, h.text) for h in run.read("hint", Hint)} == {
        (HintKind.GUIDED, "It is 141, you see.")
    }


@pytest.mark.parametrize("stage", ["sample", "repair", "select"])
def test_a_verb_stops_after_its_stage_and_run_goes_on(
    tmp_path: Path, undisturbed: ScriptedRun, paid: Counter[str], stage: str
) -> None:
    run = ScriptedRun(tmp_path)
    watch = run.go(until=stage)
    assert list(watch.lines)[-1] == stage
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
    assert run.view is not None
    assert len(run.view.problems) == 2
    run.go()
    assert not run.view.cuts


def test_a_typo_in_the_first_run_does_not_claim_the_folder(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    with pytest.raises(UserError, match=r"problem\.jsonl"):
        run.go("problems.path=problem.jsonl")
    with pytest.raises(UserError, match=r"scrip\.json"):
        run.go("teacher.model=scrip.json")
    run.go(until="sample")


def test_traces_are_judged_while_later_ones_are_drawn(
    tmp_path: Path, undisturbed: ScriptedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    put = Store.put

    def watched(self: Store, table: str, *rest: Any) -> None:
        written.append(table)
        put(self, table, *rest)

    monkeypatch.setattr(Store, "put", watched)
    run = ScriptedRun(tmp_path)
    run.go(until="sample")
    assert written.count("sample") == written.count("check") == 120
    assert written.index("check") < 10
    watch = run.go()
    assert counts(watch.lines["verify"])[0] == 120
    assert run.live() == undisturbed.live()


# --- kill at any moment ------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES_AT_WORK)
def test_kill_nine_in_a_stage_loses_nothing(
    tmp_path: Path, undisturbed: ScriptedRun, paid: Counter[str], stage: str
) -> None:
    run = ScriptedRun(tmp_path)
    k = 0 if stage == "select" else 3
    kill(run.home, stage, k)
    stored, claims = run.stored(), run.claims()
    assert claims <= 40
    watch = run.go()
    assert run.live() == undisturbed.live()
    assert run.stored() == undisturbed.stored()
    assert run.data() == undisturbed.data()
    assert run.claims() == 0
    assert (run.meta("in_flight_lost") or 0) == claims
    assert any(f"{claims} requests in flight" in said for said in watch.said) == (claims > 0)
    done = sum(len(stored.get(table, ())) for table in ("sample", "hint", "hinted", "repair"))
    everything = undisturbed.stored()
    total = sum(len(everything[table]) for table in ("sample", "hint", "hinted", "repair"))
    assert paid["generated"] == total - done


def test_a_run_that_dies_every_few_writes_comes_to_the_same_end(
    tmp_path: Path, undisturbed: ScriptedRun, paid: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0

    def dying(name: str) -> None:
        method = getattr(Store, name)

        def write(self: Store, *args: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes > 23:
                raise Crash
            return method(self, *args)

        monkeypatch.setattr(Store, name, write)

    for name in ("put", "put_many", "claim"):
        dying(name)
    run = ScriptedRun(tmp_path)
    for lives in range(100):  # noqa: B007
        writes = 0
        try:
            run.go()
            break
        except Crash:
            continue
    assert 5 < lives < 50
    assert run.live() == undisturbed.live()
    assert run.stored() == undisturbed.stored()
    assert run.data() == undisturbed.data()
    everything = undisturbed.stored()
    owed = sum(len(everything[table]) for table in ("sample", "hint", "hinted", "repair"))
    lost = run.meta("in_flight_lost")
    # a result that was computed but not yet stored is the one that is paid again
    assert owed <= paid["generated"] <= owed + lost
    assert lost <= 40 * lives


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
    with Store.open(run.folder, write=False) as store:
        assert list(overview(store))[-1] == "not complete: it was interrupted"
    run.go()
    assert run.live() == undisturbed.live()
