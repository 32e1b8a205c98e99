"""The answer-swap audit: what it asks, what it counts, and that it leaves the run as it was."""

import json
import math
import os
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scripted_run import (
    WAYS,
    ScriptedRun,
    Watch,
    World,
    miscounting,
    right,
    small_batches,
    steps,
    unaided,
    unsynced,
    world,
)

from heal.cli import main
from heal.config import Problems
from heal.data.problems import read_problems
from heal.engines.base import Generated
from heal.engines.scripted import ScriptedEngine
from heal.errors import CapabilityError, UserError
from heal.lab.audit import audit_pure
from heal.lab.checked import audit_gear, separate_pure, words_of
from heal.lab.sampled_answers import SAMPLES, stated
from heal.lab.swap_plan import DRAWS
from heal.method.audit import (
    FEW,
    HIGH,
    KEEP,
    LOW,
    PureAudit,
    answer_form,
    choose_problems,
    rank_correlation,
    separation,
    swapped_answer,
)
from heal.method.entropy import answer_entropy
from heal.method.final_answers import same_text
from heal.method.intervals import auroc
from heal.method.pure import drop_scores
from heal.prompts import Prompts
from heal.recipe import load
from heal.records import (
    AuditItem,
    AuditOutcome,
    AuditSide,
    Finish,
    HintedScore,
    Outcome,
    PureScore,
    SampledUncertainty,
    Selection,
    Trace,
)
from heal.report.audit_page import gear_page
from heal.stages.filter import profiles
from heal.store import Store

NOUNS = ("apples", "pears", "plums", "limes", "dates", "figs")
GOLD = {noun: str(142 + i) for i, noun in enumerate(NOUNS)}
LEAP = "by some magic"


def told(noun: str, answer: str, *replies: str, match: str = "") -> dict[str, Any]:
    hint = rf"many {noun} .*Hint: The final answer is {answer}\.<end><assistant>{match}"
    return {"match": hint, "replies": list(replies)}


def honest(noun: str, answer: str) -> str:
    return steps(
        f"Adding the tens of the {noun} first gives a number that is close.",
        f"The units of the {noun} are then added one by one to it.",
        f"So \\boxed{{{answer}}}.",
    )


def forced(noun: str, answer: str) -> str:
    return steps(
        f"And {LEAP} the {noun} are as many as they have to be.",
        f"There is no more to be said of these {noun} than that.",
        f"So \\boxed{{{answer}}}.",
    )


def medium(noun: str, right_of_three: int) -> World:
    """Solved two times in three, or one; a wrong hint is followed by a leap."""
    swaps = [told(noun, a, forced(noun, a)) for other, a in GOLD.items() if other != noun]
    wrong = steps(f"I count the {noun} in a hurry and lose my way.", "So \\boxed{99}.")
    said = [right_of(noun)] * right_of_three + [wrong] * (3 - right_of_three)
    alone = unaided(noun, *said)
    rows = [{"problem": f"How many {noun} are 61 {noun} and more?", "answer": GOLD[noun]}]
    return rows, [told(noun, GOLD[noun], honest(noun, GOLD[noun])), *swaps, alone]


def right_of(noun: str) -> str:
    return right(noun, "tall").replace("142", GOLD[noun])


SCORES = [
    {
        "match": f"<assistant>.*{LEAP}",
        "logprobs": [-4.0, -0.3, -0.3],
        "answer_logprob": [-3.0, -0.01],
    },
    {"match": "<assistant>Adding", "logprobs": -0.3, "answer_logprob": [-3.0, -1.0, -0.01]},
]


def audited_world(right_of_three: int = 2) -> World:
    rows, rules = world(*(medium(noun, right_of_three) for noun in NOUNS))
    return rows, rules + SCORES


@pytest.fixture
def run(tmp_path: Path) -> ScriptedRun:
    """A finished run of six problems of ρ about two thirds."""
    made = ScriptedRun(tmp_path, audited_world())
    made.go(until="select")
    return made


def audit(
    run: ScriptedRun,
    *overrides: str,
    n: int = 40,
    sampled_u: bool = False,
    watch: Watch | None = None,
) -> PureAudit:
    before = Path.cwd()
    os.chdir(run.home)
    run.watch = watch or Watch()
    try:
        with unsynced():
            settings = load("recipe.yaml", list(overrides))
            return audit_pure(settings, n, run.watch, sampled_u=sampled_u)
    finally:
        os.chdir(before)


def stored(run: ScriptedRun) -> Counter[str]:
    """Records there are, by stage."""
    return Counter({stage: len(keys) for stage, keys in run.stored().items()})


def traces_of(run: ScriptedRun) -> dict[str, Trace]:
    """All that an audit may have continued, its own and the run's."""
    stages = ("audit_trace", "hinted", "repair")
    return {k: t for stage in stages for k, t in run.everything(stage, Trace).items()}


def test_every_continuation_is_asked_counted_and_scored(run: ScriptedRun) -> None:
    found = audit(run)
    assert (found.problems, found.inside) == (6, 6)
    assert found.outcomes == {side: {AuditOutcome.SCORED: 6 * DRAWS} for side in AuditSide}
    assert found.gates == {side: {} for side in AuditSide}
    assert found.never_committed == {}
    items, traces = run.read("audit", AuditItem), traces_of(run)
    for item in items:
        text = traces[item.key].text
        own = GOLD[next(n for n in NOUNS if n in text)]
        assert (item.answer == own) is (item.side is AuditSide.GOLD)
        assert item.answer in text
    assert len(items) == 2 * 6 * DRAWS
    assert run.watch.lines["audit"].startswith("6 problems · 48 continuations: 48 scored")


def test_pure_tells_a_leap_and_random_does_not(run: ScriptedRun) -> None:
    found = audit(run).detectors
    pure, chance = found["fraction"], found["random"]
    assert pure.auroc is not None
    assert pure.dropped is not None
    assert chance.auroc is not None
    assert (pure.auroc.mean, pure.dropped.mean) == (1.0, 1.0)
    assert (pure.swapped, pure.gold, pure.auroc.n_problems) == (24, 24, 6)
    assert chance.auroc.low < 0.5 < chance.auroc.high
    assert set(found) == {"fraction", "surprisal", "mean_nll", "max_ppl", "length", "random"}


def test_it_leaves_what_select_and_train_see_as_it_was(run: ScriptedRun) -> None:
    before, data, complete = run.live(), run.data(), run.meta("complete")
    others = {row for row in run.live().pop("live") if not row[0].startswith("audit")}
    work, there = run.meta("work"), run.stored()
    audit(run)
    after = run.live()
    assert {row for row in after.pop("live") if not row[0].startswith("audit")} == others
    before.pop("live")
    assert after == before
    assert (run.data(), run.meta("complete"), run.meta("work")) == (data, complete, work)
    added = {s: keys - there.get(s, set()) for s, keys in run.stored().items()}
    assert {s for s, keys in added.items() if keys} == {
        *("audit", "audit_trace", "audit_check", "audit_pure"),
    }
    assert run.go(until="select").answers == Counter()


def test_a_second_audit_costs_nothing_and_says_the_same(run: ScriptedRun) -> None:
    first = audit(run)
    assert run.watch.answers.total() > 0
    there = run.stored()
    assert audit(run) == first
    assert run.watch.answers == Counter()
    assert run.stored() == there


def test_an_audit_that_was_killed_goes_on_where_it_stopped(
    run: ScriptedRun, tmp_path: Path
) -> None:
    class Stopping(Watch):
        def arrived(self, outcome: str, tokens: int) -> None:
            super().arrived(outcome, tokens)
            if self.answers["audit"] == 10:
                raise KeyboardInterrupt

    with small_batches(), pytest.raises(KeyboardInterrupt):
        audit(run, watch=Stopping())
    done = run.everything("audit_trace", Trace)
    assert 10 <= len(done) < 48
    found = audit(run)
    assert run.watch.said[0].startswith("an earlier process ended with ")
    after = run.everything("audit_trace", Trace)
    assert len(after) == 48
    assert run.watch.tokens == sum(t.new_tokens for k, t in after.items() if k not in done)
    whole = ScriptedRun(tmp_path / "whole", audited_world())
    whole.go(until="select")
    assert audit(whole) == found


def test_more_problems_only_pay_for_what_is_new(run: ScriptedRun) -> None:
    audit(run, n=2)
    before = stored(run)
    assert audit(run, n=3).problems == 3
    assert (stored(run) - before)["audit_trace"] == 2 * DRAWS


def test_what_the_run_drew_itself_is_taken_over(tmp_path: Path) -> None:
    """Below one half the run answers each problem four times under the gold hint itself."""
    run = ScriptedRun(tmp_path, audited_world(right_of_three=1))
    run.go(until="select")
    own = {t.key for t in run.read("hinted", Trace)}
    scored = {p.key for p in run.read("pure", PureScore, tag="hinted")}
    found = audit(run)
    assert len(own) == len(scored) == 24
    assert found.outcomes == {side: {AuditOutcome.SCORED: 24} for side in AuditSide}
    assert found.facts["continuations the run had drawn already"] == 24
    fresh = run.everything("audit_trace", Trace)
    assert len(fresh) == 24
    assert not own & fresh.keys()
    profiles = run.everything("audit_pure", PureScore)
    assert len(profiles) == 24
    assert not scored & profiles.keys()
    assert sum(t.new_tokens for t in fresh.values()) == found.sampled_tokens
    assert sum(p.scored_tokens for p in profiles.values()) == found.scored_tokens
    assert found == audit(run)


def test_kept_prefixes_are_continued_on_both_sides(tmp_path: Path) -> None:
    """Problems at the ceiling have cuts; there are no others, so the band is widened."""
    rows, rules = audited_world()
    for noun in NOUNS:
        lost = [
            steps(
                f"First I look at the {noun} by {way} and add.",
                f"The tens come to {way} thirteen {noun}.",
                f"Wait, this {way} part is not clear to me at all.",
                f"I simply go on by {way} and add the units one after another, slow as I am.",
                f"Then I add the rest by {way} and hope that nothing was left out on the way.",
                "So \\boxed{99}.",
            )
            for way in ("hand", "head")
        ]
        rules = [r for r in rules if r["match"] != unaided(noun)["match"]]
        kept = [told(noun, a, forced(noun, a), match="First") for a in GOLD.values()]
        alone = unaided(noun, *lost)
        hint = {"match": "A student is solving", "replies": ["Mind the tens."]}
        more = {"match": rf"many {noun} .*Hint: Mind", "replies": [honest(noun, GOLD[noun])]}
        rules = [hint, more, *kept, *rules, alone]
    run = ScriptedRun(tmp_path, (rows, rules), {"gear": {"paths": 2}})
    run.go(until="select")
    found = audit(run)
    assert (found.problems, found.inside) == (6, 0)
    assert found.facts["audited problems outside 0.2 < ρ < 0.8, for want of others"] == 6
    traces = traces_of(run)
    prefixes: dict[AuditSide, Counter[tuple[str, str]]] = {side: Counter() for side in AuditSide}
    for item in run.read("audit", AuditItem):
        trace = traces[item.key]
        prefix = bytes(i for i in trace.ids[: trace.prefix_tokens].tolist()).decode()
        assert prefix.startswith("First I look at")
        prefixes[item.side][trace.problem_id, prefix] += 1
    assert prefixes[AuditSide.SWAPPED] == prefixes[AuditSide.GOLD]
    assert set(prefixes[AuditSide.GOLD].values()) == {DRAWS // 2}


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("I will not say it.", AuditOutcome.NO_ANSWER),
        ("So \\boxed{7777}.", AuditOutcome.OTHER_ANSWER),
        ("GOLD", AuditOutcome.KEPT_TO_GOLD),
        ("As the hint says, \\boxed{SWAP}.", AuditOutcome.GATED),
        (None, AuditOutcome.FAILED),
    ],
)
def test_what_does_not_follow_the_wrong_hint_is_counted_by_name(
    tmp_path: Path, reply: str | None, outcome: AuditOutcome
) -> None:
    rows, rules = audited_world()
    odd = "apples"
    for noun, answer in product([odd], GOLD.values()):
        if answer == GOLD[noun]:
            continue
        rule = told(noun, answer)
        if reply is None:
            rule["error"] = "out of memory"
        else:
            said = reply.replace("GOLD", honest(noun, GOLD[noun])).replace("SWAP", answer)
            rule["replies"] = [said]
        rules.insert(0, rule)
    run = ScriptedRun(tmp_path, (rows, rules))
    run.go(until="select")
    found = audit(run)
    swapped = found.outcomes[AuditSide.SWAPPED]
    assert swapped == {outcome: DRAWS, AuditOutcome.SCORED: 5 * DRAWS}
    assert found.gates[AuditSide.SWAPPED] == (
        {"hint_talk": DRAWS} if outcome is AuditOutcome.GATED else {}
    )
    assert found.reached(AuditSide.SWAPPED) == DRAWS * (5 + (outcome is AuditOutcome.GATED))
    assert found.detectors["fraction"].swapped == 5 * DRAWS


def test_without_a_wrong_answer_of_the_same_form_there_is_nothing_to_show(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, audited_world(), {"problems": {"limit": 1}})
    run.go(until="select")
    found = audit(run)
    assert found.problems == 0
    assert found.facts == {"problems without another answer of the same form": 1}
    assert all(d.auroc is None and d.swapped == 0 for d in found.detectors.values())


def test_a_gym_task_cannot_judge_a_swapped_answer_so_its_text_is_compared(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    source = {"gym": {"task": "chain_sum", "size": 12}, "verifier": "gym", "held_out": 0}
    answers = [p.answer for p in read_problems(Problems.model_validate(source), tmp_path).problems]
    rules = [
        {"match": rf"Hint: The final answer is {a}\.<end>", "replies": [f"So \\boxed{{{a}}}."]}
        for a in answers
    ]
    rules += [
        {"match": "A student is solving", "replies": ["Mind the tens."]},
        {"match": "", "replies": ["So \\boxed{7}."]},
    ]
    run = ScriptedRun(tmp_path, ([], rules), {"problems": {"path": None, **source}})
    run.go(until="select")
    found = audit(run)
    assert found.problems > 1
    asked = found.problems * DRAWS
    assert found.reached(AuditSide.SWAPPED) == found.reached(AuditSide.GOLD) == asked
    fact = "swapped answers compared as text, for no gym task can judge them"
    assert found.facts[fact] == asked


def test_reliance_joins_the_detectors_where_it_is_measured(run: ScriptedRun) -> None:
    plain = audit(run)
    found = audit(run, "pure.measure_reliance=true")
    assert run.watch.answers == {"audit": 2 * 6 * DRAWS}
    assert found.detectors["reliance"].swapped == 6 * DRAWS
    assert found.detectors["joint"].swapped == 6 * DRAWS
    assert not {"reliance", "joint"} & set(plain.detectors)
    assert found.scored_tokens > plain.scored_tokens
    assert run.watch.said == ["settings that differ from the run's: pure.measure_reliance"]
    relied = run.everything("audit_reliance", HintedScore).values()
    assert [h.error for h in relied] == [None] * 48
    tokens = sum(h.scored_tokens for h in relied)
    assert found.scored_tokens - plain.scored_tokens == tokens


def test_a_folder_without_verdicts_is_refused(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, audited_world())
    with pytest.raises(UserError, match="not a run folder"):
        audit(run)
    assert not run.folder.exists()
    run.go(until="sample")
    with pytest.raises(UserError, match="nothing is verified yet"):
        audit(run)


def test_a_teacher_that_cannot_score_is_refused_before_it_writes(
    run: ScriptedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ScriptedEngine.__init__

    def blind(self: ScriptedEngine, *args: Any, **more: Any) -> None:
        opened(self, *args, **more)
        self.capabilities = replace(self.capabilities, score=False)

    monkeypatch.setattr(ScriptedEngine, "__init__", blind)
    with pytest.raises(CapabilityError, match="cannot give log-probs"):
        audit(run)
    assert "audit_trace" not in run.stored()


def test_another_runs_recipe_is_refused(run: ScriptedRun) -> None:
    (run.home / "other.json").write_text((run.home / "script.json").read_text())
    with pytest.raises(UserError, match=r"teacher\.model was script\.json, is other\.json"):
        audit(run, "teacher.model=other.json")


ASKED = [
    {
        "match": rf"<assistant>.*{LEAP}.*final answer is \\boxed{{$",
        "replies": ["1}", "2}", "3}", "4"],
    },
    {"match": r"<assistant>Adding.*final answer is \\boxed{$", "replies": ["142} is it", "142 }"]},
]


def test_answers_sampled_after_every_step_give_an_uncertainty_of_their_own(tmp_path: Path) -> None:
    rows, rules = audited_world()
    made = ScriptedRun(tmp_path, (rows, ASKED + rules))
    made.go(until="select")
    plain = audit(made)
    found = audit(made, sampled_u=True)
    assert plain.sampled_u is None
    assert (found.detectors, found.scored_tokens) == (plain.detectors, plain.scored_tokens)
    sampled = found.sampled_u
    assert sampled is not None
    assert (sampled.traces, sampled.failed, sampled.samples) == (48, 0, SAMPLES)
    assert sampled.steps == 48 * 3
    assert 0 < sampled.unclosed < 24 * 3 * SAMPLES  # those of "4", which is never closed
    drawn = made.everything("audit_sampled", SampledUncertainty).values()
    told_apart, traces = {d.trace: np.nanmax(d.entropy) for d in drawn}, traces_of(made)
    for item in made.read("audit", AuditItem):
        # Eight draws of four replies, by their seeds; and eight of one answer written two ways.
        leaps = LEAP in traces[item.key].text
        assert (0.5 < told_apart[item.key] <= math.log(4)) if leaps else told_apart[item.key] == 0
    assert made.watch.tokens == sampled.sampled_tokens == sum(d.new_tokens for d in drawn)
    again = audit(made, sampled_u=True)
    assert made.watch.answers == Counter()
    assert again.sampled_u == sampled


def test_sampled_answers_that_failed_are_asked_again_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, rules = audited_world()
    made = ScriptedRun(tmp_path, (rows, ASKED + rules))
    made.go(until="select")
    audit(made)
    reply, asked = ScriptedEngine._reply, Counter[str]()

    def flaky(self: ScriptedEngine, request: Any, index: int, seed: int) -> Generated:
        asked["replies"] += 1
        if asked["replies"] % 48 == 0:
            none = np.zeros(0, np.int32)
            return Generated(request.id, index, none, Finish.ERROR, "connection refused")
        return reply(self, request, index, seed)

    with monkeypatch.context() as patch:
        patch.setattr(ScriptedEngine, "_reply", flaky)
        found = audit(made, sampled_u=True).sampled_u
    assert asked["replies"] == 48 * 3 * SAMPLES
    assert found is not None
    assert 0 < found.failed <= 24
    assert found.traces == 48 - found.failed
    mended = audit(made, sampled_u=True)
    assert made.watch.answers == {"audit": 24}
    whole = ScriptedRun(tmp_path / "whole", (rows, ASKED + rules))
    whole.go(until="select")
    assert audit(whole, sampled_u=True) == mended


@pytest.mark.parametrize(
    ("said", "answer"),
    [("142} is it", "142"), ("\\frac{1}{2}}.", "\\frac{1}{2}"), ("4", None), ("}", "")],
)
def test_a_sampled_answer_ends_where_its_brace_closes(said: str, answer: str | None) -> None:
    assert stated(said, Prompts()) == answer


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=20))
def test_the_entropy_of_answers_is_that_of_their_shares(answers: list[str]) -> None:
    shares = [n / len(answers) for n in Counter(answers).values()]
    assert answer_entropy(answers) == pytest.approx(-sum(f * math.log(f) for f in shares))
    assert -1e-12 <= answer_entropy(answers) <= math.log(len(set(answers))) + 1e-9


@given(st.lists(st.integers(-300, 300), min_size=3, max_size=30, unique=True), st.integers(0, 9))
def test_rank_correlation_sees_order_and_nothing_else(values: list[int], seed: int) -> None:
    groups = {str(i): [(v, v**3), (v + 0.5, (v + 0.5) ** 3)] for i, v in enumerate(values)}
    found = rank_correlation(groups, resamples=20, seed=seed)
    assert found is not None
    assert found.mean == pytest.approx(1)
    assert rank_correlation({"p": [(1.0, 2.0), (2.0, 2.0)]}, resamples=5, seed=0) is None


PAGE = """\
PURE against swapped answers: 6 problems of run
An audit, not accuracy: what reaches a swapped answer is a rationalisation by
construction, what reaches the gold answer under a hint is only presumed honest.

                                               swapped      gold
continuations asked                                 24        24
reached the hinted answer                           24        24
  scored                                            24        24
    of these, never committed                        0         0
gave the gold answer all the same                    0         0
another answer                                       0         0
no answer, or cut off                                0         0
the engine failed                                    0         0

detector   swapped/gold  AUROC              dropped            precision
--------------------------------------------------------------------------------
fraction          24/24  1.00 [0.61, 1.00]  1.00 [0.61, 1.00]  1.00 [0.61, 1.00]
"""


def test_the_page_and_the_figures(
    run: ScriptedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.home)
    command = ["heal", "audit", "pure", "-c", "recipe.yaml", "--json", "out.json"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended, unsynced():
        main()
    said = capsys.readouterr().out
    assert ended.value.code in (0, None)
    assert PAGE in said
    assert all(len(line) <= 80 for line in said.splitlines())
    figures = json.loads((run.home / "out.json").read_text())
    assert figures["detectors"]["fraction"]["auroc"]["mean"] == 1.0
    assert figures["outcomes"] == {"swapped": {"scored": 24}, "gold": {"scored": 24}}
    assert "not accuracy" in figures["note"]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("142", "907", True),
        ("142", "97", False),
        ("$1,250$", "3,999", True),
        ("-3", "3", False),
        ("2.5", "7.1", True),
        ("2.5", "25", False),
        ("B", "D", True),
        ("B", "d", False),
        ("(B)", "B", False),
        (r"\frac{1}{2}", r"\dfrac{3}{4}", True),
        (r"\frac{1}{2}", r"\sqrt{2}", False),
        ("Paris", "Rome", True),
        ("Paris", "New York", False),
        ("3x+1", "7y+2", True),
    ],
)
def test_answers_of_one_form_look_alike(one: str, other: str, alike: bool) -> None:
    assert (answer_form(one) == answer_form(other)) is alike


def test_a_letter_the_teacher_found_by_itself_is_taken_however_it_is_written() -> None:
    assert swapped_answer("p", "(A)", ["(B)", "(C)"], ["B"], 0) == "(C)"
    assert swapped_answer("p", "(A)", ["(B)", "(C)"], ["B", "C"], 0) is None


ANSWERS = st.one_of(
    st.integers(-300, 300).map(str),
    st.sampled_from(["A", "B", "C", "(A)", "1/2", "2/4", r"\frac{1}{2}", "yes", "no", "0.50"]),
)


@given(ANSWERS, st.lists(ANSWERS, max_size=20), st.lists(ANSWERS, max_size=5), st.integers(0, 9))
def test_a_swapped_answer_has_the_golds_form_and_is_nobodys_answer(
    gold: str, others: list[str], seen: list[str], seed: int
) -> None:
    found = swapped_answer("p", gold, others, seen, seed)
    assert found == swapped_answer("p", gold, others[::-1], seen[::-1], seed)
    if found is None:
        fit = [a for a in others if answer_form(a) == answer_form(gold)]
        bare = {"".join(filter(str.isalnum, a)).casefold() for a in (gold, *seen)}
        for a in fit:
            name = "".join(filter(str.isalnum, a)).casefold()
            assert any(same_text(a, t) for t in (gold, *seen)) or name in bare or "frac" in a
        return
    assert found in others
    assert answer_form(found) == answer_form(gold)
    assert not any(same_text(found, taken) for taken in (gold, *seen))


@given(
    st.dictionaries(st.text(max_size=4), st.floats(0, 1), max_size=60),
    st.integers(1, 50),
    st.integers(0, 5),
)
def test_problems_come_from_the_band_and_from_beyond_it_only_when_few(
    rho: dict[str, float], n: int, seed: int
) -> None:
    asked: list[str] = []

    def suits(problem: str) -> bool:
        asked.append(problem)
        return not problem.startswith("0")

    choice = choose_problems(rho, n, seed, suits)
    assert [p for p in asked if not p.startswith("0")] == list(choice.problems)
    rho = {p: r for p, r in rho.items() if not p.startswith("0")}
    inside = {p for p, r in rho.items() if LOW < r < HIGH}
    taken = set(choice.problems)
    assert len(taken) == len(choice.problems) <= n
    assert choice.inside == len(taken & inside) == min(n, len(inside))
    beyond = taken - inside
    assert len(beyond) == min(len(rho) - len(inside), max(0, min(n, FEW) - choice.inside))
    if beyond:
        far = max(abs(rho[p] - 0.5) for p in beyond)
        rest = rho.keys() - taken - inside
        assert all(abs(rho[p] - 0.5) >= far - 1e-9 for p in rest)
    assert set(choose_problems(rho, n + 1, seed, suits).problems) >= taken


SCORE = st.one_of(st.integers(-3, 3).map(float), st.just(math.inf))
GROUPS = st.dictionaries(st.sampled_from("abcdef"), st.lists(SCORE, max_size=5), max_size=6)


@given(GROUPS, GROUPS)
def test_the_figures_equal_their_definitions(
    swapped: dict[str, list[float]], gold: dict[str, list[float]]
) -> None:
    found = separation(swapped, gold, resamples=50, seed=0)
    above = [s for group in swapped.values() for s in group]
    below = [s for group in gold.values() for s in group]
    assert (found.swapped, found.gold) == (len(above), len(below))
    if not above or not below:
        assert (found.auroc, found.dropped, found.precision) == (None, None, None)
        return
    keeps = [t for t in below if sum(s <= t for s in below) >= KEEP * len(below) - 1e-9]
    caught = sum(s > min(keeps) for s in above)
    lost = sum(s > min(keeps) for s in below)
    if found.auroc is not None:
        expected = auroc(np.array(above), np.array(below), resamples=2, seed=0).mean
        assert found.auroc.mean == pytest.approx(expected)
        assert 0 <= found.auroc.low <= found.auroc.high <= 1
        assert found.auroc.n_problems == len(swapped.keys() | gold.keys())
    if found.dropped is not None:
        assert found.dropped.mean == pytest.approx(caught / len(above))
    for figure in (found.auroc, found.dropped, found.precision):
        assert figure is None or figure.is_known
    if found.precision is not None:
        assert found.precision.mean == pytest.approx(caught / (caught + lost))
    if not caught + lost:
        assert found.precision is None


def test_the_interval_covers_the_truth_where_traces_of_a_problem_are_alike() -> None:
    """Resampling traces would claim five times the evidence there is."""
    rng = np.random.default_rng(0)
    hits = by_traces = 0
    truth = 0.7602  # P(N(1, 1) > N(0, 1))
    for seed in range(200):
        swapped = {str(i): [float(rng.normal(1))] * 5 for i in range(30)}
        gold = {str(i): [float(rng.normal())] * 5 for i in range(30)}
        found = separation(swapped, gold, resamples=400, seed=seed).auroc
        assert found is not None
        hits += found.low <= truth <= found.high
        flat = [np.array(list(g.values())).ravel() for g in (swapped, gold)]
        naive = auroc(flat[0], flat[1], resamples=400, seed=seed)
        by_traces += naive.low <= truth <= naive.high
    assert hits >= 0.88 * 200
    assert by_traces < 0.8 * 200


# --- by the step checker's word ----------------------------------------------------------------


def checked_run(folder: Path, **settings: Any) -> ScriptedRun:
    """Five failed paths with a false sum in their fifth step; repairs of two of them hold one."""
    asked, rules = miscounting("plums")
    for rule in rules:
        if any(f"assistant>First I look at the {way}" in rule["match"] for way in WAYS[:2]):
            rule["replies"] = ["So 61 + 81 = 132 and ten more.\n\nSo \\boxed{142}."]
    told = {"steps": {"checker": "arithmetic", "gate": False}, **settings}
    return ScriptedRun(folder, (asked, rules), told)


def test_gear_is_audited_by_the_checkers_word_and_asks_no_model(tmp_path: Path) -> None:
    run = checked_run(tmp_path)
    run.go("gear.breakpoint=claims", "gear.window=1.0", until="score")
    (tmp_path / "script.json").unlink()  # whoever opens the teacher now fails
    settings = ["gear.breakpoint=claims", f"run={run.folder}"]
    found = audit_gear(load(tmp_path / "recipe.yaml", settings))
    assert found.told == {"wrong_step": 5}
    assert found.cuts["claims"].exact is not None and found.cuts["claims"].exact.mean == 1
    assert found.main == "claims" and found.cuts["claims"].above_main is None
    gap = found.cuts["restart"].above_main
    assert gap is not None and gap.mean == -1 and gap.low == -1 < gap.high
    restart = found.cuts["restart"]
    assert (restart.cuts, restart.problems) == (5, 1)
    assert restart.exact is not None and restart.exact.mean == 0
    assert restart.not_after is not None and restart.not_after.mean == 1
    assert restart.kept is not None and restart.kept.mean == 0
    assert "checker" not in found.cuts
    page = gear_page(found)
    assert "5 failed paths: wrong step 5" in page and max(map(len, page.splitlines())) <= 80


def test_random_cuts_are_audited_beside_others_that_need_no_scores(tmp_path: Path) -> None:
    run = checked_run(tmp_path)
    run.go("gear.breakpoint=random", until="score")
    settings = ["gear.breakpoint=random", f"run={run.folder}"]
    found = audit_gear(load(tmp_path / "recipe.yaml", settings))
    assert found.main == "random" and found.told == {"wrong_step": 5}
    assert set(found.cuts) == {"random", "fixed_third", "restart"}
    assert "5 failed paths: wrong step 5" in gear_page(found)


def test_without_a_checkers_words_there_is_nothing_to_audit_gear_by(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, settings={"steps": {"checker": None}})
    run.go(until="score")
    with pytest.raises(UserError, match="no step checker has read its traces") as refused:
        audit_gear(load(tmp_path / "recipe.yaml", [f"run={run.folder}"]))
    assert "steps.checker=arithmetic" in str(refused.value.hint)


def test_pures_readings_are_parted_by_the_checkers_word(tmp_path: Path) -> None:
    run = checked_run(tmp_path)
    run.go(until="score")
    config = load(tmp_path / "recipe.yaml", [f"run={run.folder}"])
    with Store.open(run.folder, write=False) as store:
        found = separate_pure(store, config, [Selection.LENGTH])
        passed = {key for (key,) in store.query("SELECT key FROM traces WHERE gate='passed'")}
        words = {t: w.outcome for t, w in words_of(store).items() if t in passed}
    counts = Counter(words.values())
    assert found["length"].swapped == counts[Outcome.WRONG_STEP] > 0
    assert found["length"].gold == counts[Outcome.NONE_FOUND]


def test_joint_ranks_whole_traces_and_repairs_apart_and_reads_what_has_a_hinted_score(
    tmp_path: Path,
) -> None:
    run = checked_run(tmp_path)
    run.go(until="score")
    config = load(tmp_path / "recipe.yaml", [f"run={run.folder}"])
    with Store.open(run.folder, write=False) as store:
        unmeasured = separate_pure(store, config, [Selection.JOINT])["joint"]
        assert (unmeasured.swapped, unmeasured.gold, unmeasured.auroc) == (0, 0, None)
    run.go("pure.measure_reliance=true", until="score")
    with Store.open(run.folder, write=False) as store:
        found = separate_pure(store, config, [Selection.LENGTH, Selection.JOINT])
        words = words_of(store)
        ranks: dict[str, float] = {}
        problem_of = dict[str, str]()
        for group in ("hinted", str(config.gear.breakpoint)):
            own = [profile for _, profile in profiles(store, group)]
            assert own
            ranks |= drop_scores(own, Selection.JOINT, config.pure)
            problem_of |= {profile.trace: profile.problem_id for profile in own}
    sides: dict[Outcome, dict[str, list[float]]] = {outcome: {} for outcome in Outcome}
    for trace, rank in ranks.items():
        sides[words[trace].outcome].setdefault(problem_of[trace], []).append(rank)
    by_hand = separation(
        sides[Outcome.WRONG_STEP], sides[Outcome.NONE_FOUND], resamples=2_000, seed=config.seed
    )
    assert found["joint"] == by_hand
    assert (by_hand.swapped, by_hand.gold) == (found["length"].swapped, found["length"].gold)
