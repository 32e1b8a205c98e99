"""Stages as tables: which records of a problem are there, and what it still owes.

A `Desk` plays engine, scorer and verifier with scripted answers, one request at a time, so that
every test says exactly what is known when a stage is asked.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from tests.scripted_run import (
    ANSWER,
    HINT,
    SETTINGS,
    WAYS,
    Rule,
    World,
    easy,
    extreme,
    hard,
    hinted,
    merge,
    miscounting,
    row,
    unaided,
)

from heal.config import Config
from heal.engines.base import GenRequest, ScoreRequest
from heal.engines.scripted import ScriptedEngine
from heal.keys import trace_key
from heal.method.stopping import looks
from heal.pipeline import OF_EACH_PROBLEM
from heal.recipe import parse
from heal.records import (
    Breakpoint,
    Fallback,
    Finish,
    Gate,
    Hint,
    HintFlaw,
    HintKind,
    Outcome,
    Problem,
    Split,
    Stratum,
    Trace,
    Verdict,
)
from heal.stages import guide, locate, sample, score, verify
from heal.stages.found import Found, Lane, Request, Setup
from heal.stages.steps import trace_steps
from heal.store.columns import CutRow, HintRow, ScoreRow, TraceRow
from heal.verifiers import edition
from heal.verifiers.base import Finding, Verifier

Records = dict[tuple[str, str], Any]


def judge() -> Verifier:
    def read(text: str, problem: Problem) -> Finding:
        answer = text.rpartition("\\boxed{")[2].partition("}")[0] or None
        if answer is None:
            return Finding(Verdict.NO_ANSWER)
        right = answer == problem.answer
        return Finding(Verdict.CORRECT if right else Verdict.WRONG, answer)

    return Verifier("desk", read, lambda problem: Finding(Verdict.CORRECT))


@dataclass
class Desk:
    """One problem, its records, and whoever answers for it."""

    world: World = field(default_factory=lambda: extreme("plums"))
    settings: dict[str, Any] = field(default_factory=dict)
    split: Split = Split.TRAIN
    records: Records = field(default_factory=dict)
    """What is stored."""

    def __post_init__(self) -> None:
        (asked,), rules = self.world
        more = {"solution": asked["solution"]} if "solution" in asked else {}
        self.problem = Problem("p", asked["problem"], asked["answer"], self.split, **more)
        self.engine = ScriptedEngine(rules)
        self.verifier = judge()
        self.setup = Setup(self.config(), self.models())
        self.reopen()

    def config(self) -> Config:
        return parse(merge(SETTINGS, self.settings))

    def models(self) -> "Models":
        return Models(self.engine, edition(self.config().problems.verifier))

    def reopen(self, **settings: Any) -> None:
        """As another process finds the problem, perhaps under other settings."""
        if settings:
            self.settings = merge(self.settings, settings)
            self.setup = Setup(self.config(), self.models())
        self.found = Found(self.problem, lambda stage, key, kind: self.records.get((stage, key)))

    def owes(self, name: str) -> list[Request]:
        return list(STAGES[name].owes(self.found, self.setup))

    def concludes(self, name: str) -> list[Any]:
        return list(STAGES[name].conclude(self.found, self.setup))

    def answer(self, requests: Iterable[Request]) -> None:
        """Answer them all; a record is stored and found."""
        for request in requests:
            for key, record in zip(request.keys, self._answers(request), strict=True):
                self.records[request.stage, key] = record
                self.found.add(request.stage, key, record)

    def finish(self, *names: str) -> Counter[str]:
        """Ask and answer until these stages owe nothing; how many rounds each took."""
        rounds = Counter[str]()
        for name in names:
            while requests := self.owes(name):
                rounds[name] += 1
                self.answer(requests)
        return rounds

    def _answers(self, request: Request) -> list[Any]:
        ask = request.ask
        if isinstance(ask, GenRequest):
            written = {g.index: g for g in self.engine.generate([ask]) if g}
            return [request.read(written[index]) for index in range(len(request.keys))]
        if isinstance(ask, ScoreRequest):
            return [request.read(scored) for scored in self.engine.score([ask]) if scored]
        items = [("one", ask.text, ask.finish, ask.problem)]
        return [request.read(check) for check in self.verifier.verify_all(items) if check]


@dataclass
class Models:
    teacher: ScriptedEngine
    judge: str

    @property
    def scorer(self) -> ScriptedEngine:
        return self.teacher


STAGES = {stage.name: stage for stage in OF_EACH_PROBLEM}
UP_TO = {name: tuple(STAGES)[: place + 1] for place, name in enumerate(STAGES)}


def asked(requests: Iterable[Request]) -> Counter[tuple[Lane, str]]:
    """How many records of each stage."""
    count = Counter[tuple[Lane, str]]()
    for request in requests:
        count[request.lane, request.stage] += len(request.keys)
    return count


def traces(desk: Desk) -> list[Trace]:
    return sample.unaided(desk.found, desk.setup)


# --- every stage -------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [easy("apples"), hard("pears"), extreme("plums")])
def test_what_is_answered_is_not_owed_again_by_whoever_comes_later(world: World) -> None:
    desk = Desk(world)
    desk.finish(*STAGES)
    first = {name: desk.concludes(name) for name in STAGES}
    desk.reopen()
    for name in STAGES:
        assert desk.owes(name) == []
        assert repr(desk.concludes(name)) == repr(first[name])


@pytest.mark.parametrize("stage", ["sample", "check", "scores", "hint_draw", "hinted", "repair"])
def test_a_lost_record_is_owed_again_and_comes_out_the_same(stage: str) -> None:
    desk = Desk()
    desk.finish(*STAGES)
    whole = dict(desk.records)
    lost = next(name for name in whole if name[0] == stage)
    del desk.records[lost]
    desk.reopen()
    desk.finish(*STAGES)
    assert repr(sorted(desk.records.items(), key=repr)) == repr(sorted(whole.items(), key=repr))


def test_no_record_is_asked_for_twice_at_once() -> None:
    desk = Desk(settings={"arms": ["heal", "heal-random-cut", "heal-restart"]})
    for name in STAGES:
        while requests := desk.owes(name):
            keys = [(request.stage, key) for request in requests for key in request.keys]
            assert len(set(keys)) == len(keys)
            assert not set(keys) & desk.records.keys()
            desk.answer(requests)


def test_requests_do_not_depend_on_the_order_of_answers() -> None:
    one, other = Desk(), Desk()
    for name in STAGES:
        while requests := one.owes(name):
            others = other.owes(name)
            assert [r.keys for r in requests] == [r.keys for r in others]
            one.answer(requests)
            other.answer(reversed(others))
    assert repr(sorted(one.records.items(), key=repr)) == repr(
        sorted(other.records.items(), key=repr)
    )


@pytest.mark.parametrize("world", [easy("apples"), extreme("plums")])
def test_a_held_out_problem_is_sampled_and_judged_and_nothing_else(world: World) -> None:
    desk = Desk(world, {"evaluate": {"teacher_n": 6}}, Split.HELD_OUT)
    assert asked(desk.owes("sample")) == {(Lane.WRITE, "sample"): 6}
    desk.finish("sample", "verify")
    assert len(desk.records) == 2 * 6
    assert all(desk.owes(name) == [] for name in STAGES)
    assert all(desk.concludes(name) == [] for name in ("locate", "guide", "repair", "score"))


# --- sample and verify -------------------------------------------------------------------------


def test_sampling_asks_for_the_places_that_are_empty() -> None:
    desk = Desk(settings={"sampling": {"n": 10}})
    (request,) = desk.owes("sample")
    assert len(request.keys) == len(set(request.ask.seeds)) == 10  # type: ignore[union-attr]
    seeds = dict(zip(request.keys, request.ask.seeds, strict=True))  # type: ignore[union-attr]
    desk.answer([request])
    desk.records = {n: r for n, r in desk.records.items() if r.seed_index not in (3, 7)}
    desk.reopen(sampling={"n": 12})
    (request,) = desk.owes("sample")
    places = [int(key.rpartition("-")[2]) for key in request.keys]
    assert places == [3, 7, 10, 11]
    # the same place has the same dice
    again = dict(zip(request.keys, request.ask.seeds, strict=True))  # type: ignore[union-attr]
    assert all(again[key] == seeds[key] for key in again.keys() & seeds.keys())


def test_a_trace_the_engine_failed_on_counts_here_and_is_owed_later() -> None:
    desk = Desk(settings={"sampling": {"n": 4}})
    desk.finish("sample", "verify")
    broken = replace(traces(desk)[1], error="timed out", finish=Finish.ERROR)
    desk.records["sample", broken.key] = broken
    desk.found.add("sample", broken.key, broken)
    assert desk.owes("sample") == []
    # its verdict is another than that of the trace it will be
    assert asked(desk.owes("verify")) == {(Lane.VERIFY, "check"): 1}
    desk.finish("verify")
    rows = {r.key: r for r in desk.concludes("sample")}
    assert (rows[broken.key].failed, rows[broken.key].verdict) == (True, Verdict.UNVERIFIABLE)
    desk.reopen()
    (request,) = desk.owes("sample")
    assert request.keys == (broken.key,)
    desk.finish("sample", "verify")
    assert not any(row.failed for row in desk.concludes("sample"))


@pytest.mark.parametrize(
    ("change", "judged"),
    [({}, 0), ({"verifier": "math"}, 4), ({"verify_timeout_s": 77.0}, 4)],
)
def test_a_verdict_hangs_on_verifier_and_patience(change: dict[str, Any], judged: int) -> None:
    desk = Desk(settings={"sampling": {"n": 4}})
    desk.finish("sample", "verify")
    desk.reopen(problems=change)
    assert desk.owes("sample") == []
    assert asked(desk.owes("verify")).total() == judged


def undecided(desk: Desk) -> list[str]:
    """Keys of the stored verdicts; two of them are made to say that the checker took too long."""
    keys = [key for stage, key in desk.records if stage == "check"]
    for key in keys[:2]:
        desk.records["check", key] = replace(
            desk.records["check", key], verdict=Verdict.UNVERIFIABLE, detail="took longer than 10 s"
        )
    return keys


def test_a_verdict_that_decided_nothing_is_owed_again_only_where_that_is_asked_for() -> None:
    desk = Desk(settings={"sampling": {"n": 4}})
    desk.finish("sample", "verify")
    keys = undecided(desk)
    desk.reopen()
    assert desk.owes("verify") == []
    desk.reopen(limits={"retry_unverifiable": True})
    assert [key for request in desk.owes("verify") for key in request.keys] == keys[:2]
    desk.finish("verify")
    assert {row.verdict for row in desk.concludes("sample")} == {Verdict.WRONG}


def test_a_verdict_that_decides_nothing_again_is_asked_for_once_in_a_process() -> None:
    desk = Desk(settings={"sampling": {"n": 4}, "limits": {"retry_unverifiable": True}})
    desk.finish("sample", "verify")
    undecided(desk)
    desk.reopen()
    slow = Finding(Verdict.UNVERIFIABLE, detail="took longer than 10 s")
    desk.verifier = Verifier("slow", lambda text, problem: slow, lambda problem: slow)
    assert desk.finish("verify") == {"verify": 1}
    desk.reopen()  # another pass of the same process
    assert desk.owes("verify") == []
    desk.reopen(limits={"retry_unverifiable": True})  # another process
    assert asked(desk.owes("verify")) == {(Lane.VERIFY, "check"): 2}


def test_other_tests_are_run_again_although_the_answer_is_the_same() -> None:
    desk = Desk(easy("apples"), {"sampling": {"n": 4}})
    keys = {
        judge: {
            verify.check_key(trace, replace(desk.problem, verifier_data=data), judge, 10.0)
            for data in ("[1]", "[2]")
        }
        for trace in [trace_of(desk)]
        for judge in ("code@2", "gym@2", "mine:check@1", "math@2", "exact@2", "choice@2")
    }
    assert [len(found) for found in keys.values()] == [2, 2, 2, 1, 1, 1]


def trace_of(desk: Desk) -> Trace:
    desk.finish("sample")
    return traces(desk)[0]


def test_another_answer_is_judged_anew_and_draws_nothing() -> None:
    desk = Desk(easy("apples"), {"sampling": {"n": 4}})
    desk.finish("sample", "verify")
    desk.problem = replace(desk.problem, answer="5")
    desk.reopen()
    assert desk.owes("sample") == []
    assert asked(desk.owes("verify")) == {(Lane.VERIFY, "check"): 4}
    desk.finish("verify")
    assert {row.verdict for row in desk.concludes("sample")} == {Verdict.WRONG}


@pytest.mark.parametrize(
    ("world", "stratum"),
    [(easy("apples"), Stratum.EASY), (hard("pears"), Stratum.HARD),
     (extreme("plums"), Stratum.EXTREME)],
)  # fmt: skip
def test_adaptive_sampling_alternates_draws_and_verdicts_until_it_is_decided(
    world: World, stratum: Stratum
) -> None:
    desk = Desk(world, {"sampling": {"adaptive": True, "n": 30}})
    lanes: list[tuple[Lane, int]] = []
    while requests := desk.owes("sample"):
        ((lane, _), count) = next(iter(asked(requests).items()))
        lanes.append((lane, count))
        desk.answer(requests)
    drawn = len(traces(desk))
    assert lanes[:2] == [(Lane.WRITE, 5), (Lane.VERIFY, 5)]
    assert sum(count for lane, count in lanes if lane is Lane.WRITE) == drawn < 30
    assert desk.owes("verify") == []
    assert sample.ceiling_of(desk.found, desk.setup).stratum is stratum
    desk.reopen(sampling={"adaptive": False})
    assert asked(desk.owes("sample")) == {(Lane.WRITE, "sample"): 30 - drawn}


def test_adaptive_sampling_goes_to_the_end_of_its_plan_where_nothing_decides() -> None:
    nobody_can_judge: World = ([row("figs")], [unaided("figs", error="out of memory")])
    desk = Desk(nobody_can_judge, {"sampling": {"adaptive": True, "n": 12}})
    rounds = desk.finish("sample")
    assert rounds == {"sample": 2 * len(looks(12)) - 1}  # the last look is `verify`'s
    assert len(traces(desk)) == 12
    desk.finish("verify")
    assert sample.ceiling_of(desk.found, desk.setup).stratum is Stratum.UNDETERMINED


# --- locate and guide --------------------------------------------------------------------------


@pytest.mark.parametrize(("world", "paths"), [(easy("apples"), 0), (hard("pears"), 0),
                                              (extreme("plums"), 5)])  # fmt: skip
def test_only_failed_paths_of_extreme_problems_are_scored(world: World, paths: int) -> None:
    desk = Desk(world)
    desk.finish("sample", "verify")
    requests = desk.owes("locate")
    assert asked(requests) == ({(Lane.SCORE, "scores"): paths} if paths else {})
    context = sample.solve_ids(desk.problem, desk.setup.prompts, desk.engine)
    assert all(r.ask.context_ids == context for r in requests)  # type: ignore[union-attr]
    desk.finish("locate")
    rows = [made for made in desk.concludes("locate") if isinstance(made, CutRow)]
    assert len(rows) == paths
    assert all(cut.step == 3 for cut in rows)


def test_every_breakpoint_reads_the_same_scores() -> None:
    desk = Desk(settings={"arms": ["heal", "heal-random-cut", "heal-restart"]})
    desk.finish(*UP_TO["verify"])
    assert asked(desk.owes("locate")) == {(Lane.SCORE, "scores"): 5}
    desk.finish("locate")
    made = desk.concludes("locate")
    cuts = Counter(row.tag for row in made if isinstance(row, CutRow))
    assert cuts == {"difference": 5, "random": 5, "restart": 5}
    assert Counter(row.tag for row in made if isinstance(row, ScoreRow)) == {"": 5}


@pytest.mark.parametrize("arms", [["heal"], ["heal", "heal-restart"]])
def test_random_cuts_are_made_without_a_score(arms: list[str]) -> None:
    desk = Desk(settings={"gear": {"breakpoint": "random"}, "arms": arms})
    desk.finish(*UP_TO["verify"])
    assert desk.owes("locate") == []
    made = desk.concludes("locate")
    assert Counter(row.tag for row in made if isinstance(row, CutRow))["random"] == 5
    assert not [row for row in made if isinstance(row, ScoreRow)]
    assert {r.lane for r in desk.owes("guide")} == {Lane.WRITE}


def test_a_random_cut_is_the_same_whether_traces_are_scored_or_not() -> None:
    steps = []
    for own in ({"gear": {"breakpoint": "random"}}, {"arms": ["heal", "heal-random-cut"]}):
        desk = Desk(settings=own)
        desk.finish(*UP_TO["locate"])
        steps.append([(row.trace, row.step) for row in cut_rows(desk, Breakpoint.RANDOM)])
    assert steps[0] == steps[1]


def cut_rows(desk: Desk, kind: Breakpoint) -> list[CutRow]:
    return [r for r in desk.concludes("locate") if isinstance(r, CutRow) and r.tag == kind]


@pytest.mark.parametrize(
    ("world", "window", "step", "fallback"),
    [
        (miscounting("plums"), 1 / 3, 5, None),
        (miscounting("plums"), 1.0, 5, None),
        (extreme("plums"), 1 / 3, 2, Fallback.NO_CLAIM),
    ],
)
def test_claims_cut_from_the_same_scores_wherever_the_doubtful_number_is(
    world: World, window: float, step: int, fallback: Fallback | None
) -> None:
    settings = {"breakpoint": "claims", "window": window}
    desk = Desk(world, {"gear": settings, "arms": ["heal", "heal-random-cut"]})
    desk.finish(*UP_TO["verify"])
    assert asked(desk.owes("locate")) == {(Lane.SCORE, "scores"): 5}
    desk.finish("locate")
    rows = cut_rows(desk, Breakpoint.CLAIMS)
    assert {(row.step, row.fallback, row.undecided) for row in rows} == {(step, fallback, False)}
    for path in locate.paths(desk.found, desk.setup, Breakpoint.CLAIMS):
        assert path.cut.prefix_tokens == path.cut.step_ends[step - 2]
        assert len(path.cut.surge) == len(path.cut.step_ends) == len(path.cut.entropy_lo)
    desk.reopen(gear={"breakpoint": "difference"})
    assert desk.owes("locate") == []


@pytest.mark.parametrize(("width", "undecided"), [(0.0, False), (9.0, True)])
def test_claims_are_undecided_where_a_server_leaves_much_of_the_entropy_open(
    width: float, undecided: bool
) -> None:
    desk = Desk(miscounting("plums"), {"gear": {"breakpoint": "claims"}})
    desk.finish(*UP_TO["locate"])
    for (stage, key), record in desk.records.items():
        if stage == "scores":
            wide = replace(record, entropy_hi=record.entropy_hi + np.float32(width))
            desk.records[stage, key] = wide
    desk.reopen()
    assert {row.undecided for row in cut_rows(desk, Breakpoint.CLAIMS)} == {undecided}


@pytest.mark.parametrize(
    ("world", "step", "fallback"),
    [(miscounting("plums"), 5, None), (extreme("plums"), 2, Fallback.NO_WORD)],
)
def test_a_cut_by_the_checker_is_at_its_wrong_step_and_says_where_it_named_none(
    world: World, step: int, fallback: Fallback | None
) -> None:
    settings = {"gear": {"breakpoint": "checker"}, "steps": ARITHMETIC}
    desk = Desk(world, settings)
    desk.finish(*UP_TO["locate"])
    rows = cut_rows(desk, Breakpoint.CHECKER)
    assert {(row.step, row.fallback) for row in rows} == {(step, fallback)}


def test_a_path_that_could_not_be_scored_is_neither_cut_nor_hinted_at() -> None:
    rows, rules = extreme("plums")
    blind: Rule = {
        "match": r"many plums .*<assistant>First I look at the red ",
        "error": "too long",
    }
    desk = Desk((rows, [*rules[:-3], blind, *rules[-3:]]))
    desk.finish(*UP_TO["locate"])
    made = desk.concludes("locate")
    assert [row.failed for row in made if isinstance(row, ScoreRow)].count(True) == 1
    assert len([row for row in made if isinstance(row, CutRow)]) == 4
    assert asked(desk.owes("guide")) == {(Lane.WRITE, "hint_draw"): 4}
    desk.reopen()
    assert asked(desk.owes("locate")) == {(Lane.SCORE, "scores"): 1}


LEAK = f"It is {ANSWER}, you see."


@pytest.mark.parametrize(
    ("said", "rounds", "kind", "leaks"),
    [
        ([HINT], 1, HintKind.GUIDED, 0),
        ([LEAK], 4, HintKind.ANSWER, 4),
        ([""], 4, HintKind.ANSWER, 4),
    ],
)
def test_a_hint_is_drawn_again_while_it_leaks(
    said: list[str], rounds: int, kind: HintKind, leaks: int
) -> None:
    desk = Desk(extreme("plums", hints=said))
    desk.finish(*UP_TO["locate"])
    assert desk.finish("guide") == {"guide": rounds}
    hints = [row for row in desk.concludes("guide") if isinstance(row, HintRow)]
    assert {(row.kind, row.asked, row.leaks) for row in hints} == {(kind, HintKind.GUIDED, leaks)}
    drawn = [record for (stage, _), record in desk.records.items() if stage == "hint_draw"]
    assert len(drawn) == 5 * rounds
    assert {row.new_tokens for row in hints} == {rounds * (len(said[0]) + 1)}


RESTATED = "How many plums are 61 plums and 81 plums? First I look at the red plums and add."


@pytest.mark.parametrize(
    ("said", "settings", "flaws"),
    [
        (RESTATED, {"hint_gate": False}, {}),
        ("As 60 + 80 = 130, group the tens.", {"hint_gate": False}, {}),
        ("As 60 + 80 = 130, group the tens.", {}, {HintFlaw.FALSE: 4}),
        ("Group the tens. So the answer is 99.", {}, {HintFlaw.CONCLUDES: 4}),
        ("Check your work carefully and try again!", {}, {HintFlaw.NAMES_NOTHING: 4}),
        ("Use Fermat.", {}, {HintFlaw.RESTATES: 4}),
        ("Use Fermat's little theorem.", {}, {}),
        (RESTATED, {"hint_gate": True}, {HintFlaw.RESTATES: 4}),
        (HINT, {"hint_gate": True}, {}),
        (
            "x" * 40 + " never ends",
            {"hint_gate": True, "hint_max_tokens": 8},
            {HintFlaw.CUT_OFF: 4},
        ),
        (LEAK, {"hint_gate": True}, {HintFlaw.LEAKS: 4}),
        ("", {"hint_gate": True}, {HintFlaw.EMPTY: 4}),
    ],
)
def test_a_hint_that_says_nothing_is_refused_by_name_where_that_is_asked_for(
    said: str, settings: dict[str, Any], flaws: dict[str, int]
) -> None:
    desk = Desk(extreme("plums", hints=[said]), {"gear": settings})
    desk.finish(*UP_TO["guide"])
    hints = [made for made in desk.concludes("guide") if isinstance(made, Hint)]
    assert len(hints) == 5 and all(hint.flaws == flaws for hint in hints)
    kind = HintKind.ANSWER if flaws else HintKind.GUIDED
    assert {hint.kind for hint in hints} == {kind}


def test_a_gate_on_hints_draws_none_again_that_it_lets_pass() -> None:
    desk = Desk(extreme("plums"), {"gear": {"hint_gate": False}})
    desk.finish(*UP_TO["guide"])
    desk.reopen(gear={"hint_gate": True})
    assert desk.owes("guide") == []


CORRECTED = "An earlier attempt went wrong where it said: 60 + 80 = 130. In truth 60 + 80 is 140."


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (ANSWER, HintKind.CHECKER, CORRECTED),
        ("140", HintKind.ANSWER, "The final answer is 140."),  # it would give it away
    ],
)
def test_the_checkers_hint_says_what_is_false_and_what_is_so_unless_that_leaks(
    answer: str, kind: HintKind, text: str
) -> None:
    (question,), rules = extreme("plums")
    spoilt = json.loads(
        json.dumps(rules).replace("add the rest", "see 60 + 80 = 130, and the rest")
    )
    settings = {"gear": {"hint": "checker"}, "steps": {"gate": False}}
    desk = Desk(([question | {"answer": answer}], spoilt), settings)
    desk.finish(*UP_TO["locate"])
    assert desk.owes("guide") == []
    hints = [made for made in desk.concludes("guide") if isinstance(made, Hint)]
    assert {(hint.kind, hint.asked, hint.text) for hint in hints} == {
        (kind, HintKind.CHECKER, text)
    }
    assert {hint.new_tokens for hint in hints} == {0}


@pytest.mark.parametrize(
    ("kind", "shown", "hidden"),
    [
        (HintKind.PLAN, "The work so far", ANSWER),
        (HintKind.DIAGNOSIS, "The step that went wrong", "missing idea"),
        (HintKind.GUIDED, "names the missing idea", "List the steps"),
    ],
)
def test_each_kind_asks_in_its_own_words_and_a_plan_is_made_without_the_answer(
    kind: HintKind, shown: str, hidden: str
) -> None:
    desk = Desk(extreme("plums"), {"gear": {"hint": str(kind)}})
    desk.finish(*UP_TO["locate"])
    asks = (request.ask for request in desk.owes("guide"))
    prompts = [ask.prompt_ids for ask in asks if isinstance(ask, GenRequest)]
    texts = [desk.setup.teacher.decode(ids) for ids in prompts]
    assert len(texts) == 5 and all(shown in text and hidden not in text for text in texts)


@pytest.mark.parametrize("redraws", [0, 2])
def test_redraws_are_as_many_as_set(redraws: int) -> None:
    desk = Desk(extreme("plums", hints=[LEAK]), {"gear": {"hint_redraws": redraws}})
    desk.finish(*UP_TO["locate"])
    assert desk.finish("guide") == {"guide": 1 + redraws}


def test_a_restart_in_the_midst_of_redraws_goes_on_with_the_next() -> None:
    desk = Desk(extreme("plums", hints=[LEAK]))
    desk.finish(*UP_TO["locate"])
    for _ in range(2):
        desk.answer(desk.owes("guide"))
    desk.reopen()
    assert {key[-2:] for request in desk.owes("guide") for key in request.keys} == {"-2"}


@pytest.mark.parametrize("kind", ["answer", "partial", "sibling"])
def test_a_hint_that_needs_no_teacher_is_not_owed(kind: str) -> None:
    desk = Desk(settings={"gear": {"hint": kind}})
    desk.finish(*UP_TO["locate"])
    assert desk.owes("guide") == []
    assert len([row for row in desk.concludes("guide") if isinstance(row, HintRow)]) == 5


# --- repair ------------------------------------------------------------------------------------


def repaired(desk: Desk) -> Counter[int]:
    """Repairs by their place in the plan."""
    own = desk.concludes("repair")
    return Counter(r.seed_index for r in own if isinstance(r, TraceRow) and r.stage == "repair")


def test_repairs_of_all_paths_come_round_by_round_with_verdicts_between() -> None:
    desk = Desk(settings={"gear": {"target": 6, "candidates": 20}})
    desk.finish(*UP_TO["guide"])
    told = []
    while requests := desk.owes("repair"):
        told.append(dict(asked(requests)))
        desk.answer(requests)
    write, check = (Lane.WRITE, "repair"), (Lane.VERIFY, "check")
    assert told == [
        {(Lane.WRITE, "hinted"): 4, write: 5},
        {check: 9},
        {write: 10},
        {check: 10},
    ]
    assert repaired(desk) == dict.fromkeys(range(3), 5)


def test_without_a_target_all_candidates_are_asked_for_at_once() -> None:
    desk = Desk(settings={"gear": {"target": None, "candidates": 20}})
    desk.finish(*UP_TO["guide"])
    assert asked(desk.owes("repair"))[Lane.WRITE, "repair"] == 100
    assert desk.finish("repair") == {"repair": 2}


def test_a_round_that_is_half_there_is_completed_before_the_next() -> None:
    desk = Desk(settings={"gear": {"target": 6, "candidates": 20}})
    desk.finish(*UP_TO["repair"])
    last = [n for n, r in desk.records.items() if n[0] == "repair" and r.seed_index == 2]
    for name in last[:2]:
        del desk.records[name]
    desk.reopen()
    assert asked(desk.owes("repair")) == {(Lane.WRITE, "repair"): 2}
    desk.finish("repair")
    assert repaired(desk) == dict.fromkeys(range(3), 5)


@pytest.mark.parametrize(("target", "used"), [(5, 1), (6, 3), (15, 3), (16, 7), (99, 20)])
def test_another_target_uses_as_many_rounds_as_it_needs_of_what_is_there(
    target: int, used: int
) -> None:
    desk = Desk(settings={"gear": {"target": 99, "candidates": 20}})
    desk.finish(*UP_TO["repair"])
    desk.reopen(gear={"target": target})
    assert desk.owes("repair") == []
    assert repaired(desk) == dict.fromkeys(range(used), 5)


def test_a_repair_goes_on_from_its_cut_under_its_hint() -> None:
    desk = Desk()
    desk.finish(*UP_TO["guide"])
    requests = [r for r in desk.owes("repair") if r.stage == "repair"]
    paths = locate.paths(desk.found, desk.setup, Breakpoint.DIFFERENCE)
    assert len(requests) == len(paths) == len(WAYS)
    for request, path in zip(requests, paths, strict=True):
        prompt = desk.engine.decode(request.ask.prompt_ids)  # type: ignore[union-attr]
        kept = desk.engine.decode(path.trace.ids[: path.cut.prefix_tokens].tolist())
        assert HINT in prompt
        assert prompt.endswith(kept)


def test_gates_are_asked_of_every_assisted_trace() -> None:
    wrong = {way: ["Then it must be this.\n\nSo \\boxed{9}."] for way in WAYS}
    desk = Desk(extreme("plums", repairs=wrong))
    desk.finish(*UP_TO["repair"])
    rows = [made for made in desk.concludes("repair") if isinstance(made, TraceRow)]
    gates = Counter((row.stage, row.gate) for row in rows)
    assert gates == {("hinted", Gate.PASSED): 4, ("repair", Gate.INCORRECT): 10}


FALSE_SUM, TRUE_SUM = "61 + 81 = 132, with ten more", "60 + 80 = 140, and two more"
ARITHMETIC = {"checker": "arithmetic"}
SPARE = {"pure": {"spare_checked": True}}
OWN = "tests.test_stages:refuses_ten_more"


def refuses_ten_more(problem: str, answer: str, steps: list[str]) -> int | None:
    """A checker as a user writes one."""
    assert (answer, "plums" in problem) == (ANSWER, True)
    return next((k for k, step in enumerate(steps, 1) if "ten more" in step), None)


@pytest.mark.parametrize(
    ("settings", "said", "gate"),
    [
        ({"checker": None}, FALSE_SUM, Gate.PASSED),
        ({}, FALSE_SUM, Gate.WRONG_STEP),
        (ARITHMETIC, FALSE_SUM, Gate.WRONG_STEP),
        (ARITHMETIC, TRUE_SUM, Gate.PASSED),
        (ARITHMETIC, "I say so, and it cannot be told", Gate.PASSED),
        (ARITHMETIC | {"gate": False}, FALSE_SUM, Gate.PASSED),
        ({"checker": OWN}, FALSE_SUM, Gate.WRONG_STEP),
        ({"checker": OWN}, TRUE_SUM, Gate.PASSED),
        # the other gates come first
        (ARITHMETIC, f"{FALSE_SUM}, as the hint says", Gate.HINT_TALK),
    ],
)
def test_a_repair_over_a_wrong_step_is_refused_where_a_checker_is_named(
    settings: dict[str, Any], said: str, gate: Gate, code_allowed: None
) -> None:
    over = [f"Now {said}.\n\nSo \\boxed{{{ANSWER}}}."]
    desk = Desk(extreme("plums", repairs=dict.fromkeys(WAYS, over)), {"steps": settings})
    desk.finish(*UP_TO["repair"])
    rows = [made for made in desk.concludes("repair") if isinstance(made, TraceRow)]
    assert {row.gate for row in rows if row.stage == "repair"} == {gate}
    assert {row.gate for row in rows if row.stage == "hinted"} == {Gate.PASSED}


@pytest.mark.parametrize(
    ("said", "settings", "scored"),
    [
        (TRUE_SUM, SPARE, 4),  # repairs are left alone; whole traces claim nothing
        (TRUE_SUM, {}, 14),
        (TRUE_SUM, SPARE | {"steps": ARITHMETIC | {"gate": False}}, 14),
        (TRUE_SUM, SPARE | {"steps": {"checker": None}}, 14),
        ("I say so, and it cannot be told", SPARE, 14),
        (FALSE_SUM, SPARE, 4),  # refused by the gate
    ],
)
def test_what_the_checker_read_and_let_pass_is_not_scored(
    said: str, settings: dict[str, Any], scored: int
) -> None:
    over = [f"Now {said}.\n\nSo \\boxed{{{ANSWER}}}."]
    desk = Desk(extreme("plums", repairs=dict.fromkeys(WAYS, over)), settings)
    desk.finish(*UP_TO["repair"])
    assert len({request.keys[0] for request in desk.owes("score")}) == scored
    desk.finish("score")
    rows = [row for row in desk.concludes("score") if isinstance(row, ScoreRow)]
    assert len({row.trace for row in rows}) == scored


def test_a_whole_trace_and_a_kept_step_are_checked_too() -> None:
    """The wrong step is in what the repairs kept, and in what was written under the answer."""
    (asked_for,), rules = extreme("plums")
    spoilt = json.loads(json.dumps(rules).replace("The tens come to", "As 60 + 80 = 130 I see"))
    told = next(rule for rule in spoilt if rule["match"] == hinted("plums")["match"])
    told["replies"] = [f"61 + 81 = 141, I think.\n\nSo it is \\boxed{{{ANSWER}}}."]
    desk = Desk(([asked_for], spoilt), {"steps": ARITHMETIC})
    desk.finish(*UP_TO["repair"])
    rows = [made for made in desk.concludes("repair") if isinstance(made, TraceRow)]
    assert {(row.stage, row.gate) for row in rows} == {
        ("hinted", Gate.WRONG_STEP),
        ("repair", Gate.WRONG_STEP),
    }


def test_a_checker_named_later_judges_what_is_there_and_asks_for_more_repairs() -> None:
    over = {way: [f"Now {FALSE_SUM}.\n\nSo \\boxed{{{ANSWER}}}."] for way in WAYS}
    more = {"gear": {"target": 5, "candidates": 3}, "steps": {"checker": None}}
    desk = Desk(extreme("plums", repairs=over), more)
    desk.finish(*UP_TO["repair"])
    assert repaired(desk) == {0: 5}
    desk.reopen(steps=ARITHMETIC)
    assert asked(desk.owes("repair")) == {(Lane.WRITE, "repair"): 10}
    desk.finish("repair")
    assert desk.owes("score") != []  # the whole traces under the answer
    desk.reopen(steps={"gate": False})
    assert repaired(desk) == {0: 5}


def test_the_checkers_word_on_every_complete_trace_is_kept_once_for_a_problem() -> None:
    desk = Desk(miscounting("plums"), {"steps": ARITHMETIC | {"gate": False}})
    desk.finish(*UP_TO["repair"])
    (made,) = desk.concludes("words")
    failed = Counter(made.words[t.key] for t in traces(desk))
    (word,) = failed
    assert (word.outcome, word.step, word.detail) == (Outcome.WRONG_STEP, 5, "140 + 2 = 152")
    rows = [row for row in desk.concludes("repair") if isinstance(row, TraceRow)]
    assert {row.key for row in rows} < made.words.keys()
    desk.reopen(steps={"checker": None})
    assert desk.concludes("words") == []


@pytest.mark.parametrize(("world", "hinted"), [(easy("apples"), 0), (hard("pears"), 4)])
def test_only_problems_below_easy_are_answered_under_their_answer(
    world: World, hinted: int
) -> None:
    desk = Desk(world)
    desk.finish(*UP_TO["guide"])
    count = asked(desk.owes("repair"))
    assert count == ({(Lane.WRITE, "hinted"): hinted} if hinted else {})


# --- score -------------------------------------------------------------------------------------


def profile_keys(desk: Desk) -> set[str]:
    return {key for stage, key in desk.records if stage == "pure"}


def test_what_passed_the_gates_is_scored_and_nothing_else() -> None:
    wrong = {way: ["Then it must be this.\n\nSo \\boxed{9}."] for way in WAYS[1:]}
    desk = Desk(extreme("plums", repairs={WAYS[0]: [f"So \\boxed{{{ANSWER}}}."]} | wrong))
    desk.finish(*UP_TO["repair"])
    passed = [
        row.key
        for row in desk.concludes("repair")
        if isinstance(row, TraceRow) and row.gate == Gate.PASSED
    ]
    requests = desk.owes("score")
    assert asked(requests) == {(Lane.SCORE, "pure"): len(passed)}
    desk.finish("score")
    assert {row.trace for row in desk.concludes("score")} == set(passed)


def test_reliance_asks_a_second_time_once_there_is_a_profile() -> None:
    desk = Desk(settings={"pure": {"measure_reliance": True}})
    desk.finish(*UP_TO["repair"])
    first = desk.owes("score")
    assert {request.stage for request in first} == {"pure"}
    desk.answer(first)
    second = desk.owes("score")
    assert asked(second) == {(Lane.SCORE, "reliance"): len(first)}
    hinted = [desk.engine.decode(r.ask.context_ids) for r in second]  # type: ignore[union-attr]
    plain = [desk.engine.decode(r.ask.context_ids) for r in first]  # type: ignore[union-attr]
    assert all("Hint:" in text for text in hinted)
    assert not any("Hint:" in text for text in plain)
    desk.answer(second)
    assert desk.owes("score") == []


@pytest.mark.parametrize(
    ("before", "after", "owed"), [(True, False, 0), (False, True, 14), (True, True, 0)]
)
def test_a_profile_with_uncertainty_will_do_where_none_is_asked_for(
    before: bool, after: bool, owed: int
) -> None:
    plain = {"selection": "surprisal", "measure_uncertainty": before}
    desk = Desk(settings={"pure": plain})
    desk.finish(*UP_TO["score"])
    keys = profile_keys(desk)
    desk.reopen(pure={"measure_uncertainty": after})
    assert asked(desk.owes("score")).total() == owed
    assert len(keys) == 14


BY_WORST = {"selection": "worst_result", "measure_uncertainty": False}
BY_SURPRISAL = BY_WORST | {"selection": "surprisal"}


def forget_worst_results(desk: Desk) -> None:
    """As profiles are that were stored before it was measured."""
    for (stage, key), record in desk.records.items():
        if stage == "pure":
            desk.records[stage, key] = replace(record, worst_result=None)


@pytest.mark.parametrize(
    ("before", "after", "forgotten", "owed"),
    [
        (BY_SURPRISAL, BY_WORST, False, 0),
        (BY_SURPRISAL, BY_SURPRISAL, True, 0),
        (BY_SURPRISAL, BY_WORST, True, 14),
        (BY_SURPRISAL, BY_WORST | {"measure_uncertainty": True}, True, 14),
        (BY_SURPRISAL | {"measure_uncertainty": True}, BY_WORST, True, 14),
    ],
)
def test_a_profile_without_the_worst_result_is_owed_again_where_that_is_selected_by(
    before: dict[str, Any], after: dict[str, Any], forgotten: bool, owed: int
) -> None:
    desk = Desk(settings={"pure": before})
    desk.finish(*UP_TO["score"])
    keys = profile_keys(desk)
    if forgotten:
        forget_worst_results(desk)
    desk.reopen(pure=after)
    assert asked(desk.owes("score")).total() == owed
    desk.finish("score")
    assert len(profile_keys(desk)) == len(keys) + owed
    desk.reopen()
    assert desk.owes("score") == []
    rows = [row for row in desk.concludes("score") if isinstance(row, ScoreRow)]
    assert ({row.key for row in rows} <= keys) == (owed == 0)
    desk.reopen(pure=before)
    assert desk.owes("score") == []


def test_the_worst_result_is_of_the_numbers_that_new_steps_claim() -> None:
    said = [
        "Here 61 + 81 = 142, and this holds.",
        "And there are 9 of them.",
        f"So \\boxed{{{ANSWER}}}.",
    ]
    over = {way: ["\n\n".join([f"In the {way} way I go on.", *said])] for way in WAYS}
    rows, rules = extreme("plums", repairs=over)
    costs = {"match": r"<assistant>.*this holds", "logprobs": [-9, -9, -0.5, -4, -7, -8]}
    desk = Desk((rows, [costs, *rules]), {"pure": BY_WORST})
    desk.finish(*UP_TO["score"])
    groups = score.assisted(desk.found, desk.setup)
    worst = {
        tag: {score.profile_of(desk.found, desk.setup, c).worst_result for c in group}  # type: ignore[union-attr]
        for tag, group in groups.items()
    }
    assert worst["difference"] == {4.0}
    assert all(value is not None and np.isnan(value) for value in worst["hinted"])


def test_probes_are_asked_for_only_after_steps_of_its_own() -> None:
    desk = Desk()
    desk.finish(*UP_TO["repair"])
    asks = {request.keys[0]: request.ask for request in desk.owes("score")}
    groups = score.assisted(desk.found, desk.setup)
    assert {tag: len(group) for tag, group in groups.items()} == {"hinted": 4, "difference": 10}
    for candidate in (c for group in groups.values() for c in group):
        trace, ask = candidate.trace, asks[score.profile_key(candidate, desk.setup, probes=True)]
        assert isinstance(ask, ScoreRequest)
        assert ask.target_ids == tuple(trace.ids.tolist())
        ends = trace_steps(trace, desk.engine, desk.setup.config.gear, desk.setup.prompts)
        own = [end for end in ends if end > trace.prefix_tokens]
        assert [probe.at for probe in ask.probes] == own
        assert len(own) < len(ends) or not trace.prefix_tokens


def test_the_bare_answer_is_a_hint_that_costs_nothing() -> None:
    desk = Desk()
    hint = guide.answer_hint(desk.problem, desk.setup.prompts)
    assert (hint.kind, hint.new_tokens, ANSWER in hint.text) == (HintKind.ANSWER, 0, True)


def test_a_trace_key_names_its_place() -> None:
    desk = Desk(settings={"sampling": {"n": 3}})
    draw = sample.unaided_draw(desk.found, desk.setup)
    (request,) = desk.owes("sample")
    assert request.keys == tuple(trace_key(draw.key, index) for index in range(3))
