"""The untouched student may choose among a problem's accepted traces: how, from what, when not."""

import json
import math
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from tests.http_server import Model, Server
from tests.scripted_run import ScriptedRun, easy, extreme, kill, world
from tests.test_cli_run import Shell
from tests.test_cli_run import shell as shell  # a fixture
from tests.test_pace import candidate, decide, kept
from tests.test_run_arms import varied, with_student
from tests.tiny_student import make_student
from transformers import AutoModelForCausalLM, AutoTokenizer

from heal.config import HttpEndpoint, HttpEngine
from heal.config.tree import _CHOOSING
from heal.engines.base import ScoreRequest
from heal.engines.http.engine import open_http
from heal.engines.local.engine import LocalEngine
from heal.engines.scripted import ScriptedEngine
from heal.errors import CapabilityError
from heal.method.arms import TRAINED
from heal.method.choice import BY_STUDENT, mean_rank, rank_surprisal, suitability
from heal.records import Choice, Drop, Problem, StudentScore, Trace
from heal.report.html import render_html
from heal.report.table import print_table
from heal.store import SelectedRow
from heal.students.choice import ranks_of

# ── rules ───────────────────────────────────────────────────────────────────────────────────────


def scored(logprob: float | None, rank: float | None = 1.0) -> StudentScore:
    return StudentScore("k", "p", 3, logprob, rank, 9)


def test_ranks_beyond_a_hundred_count_as_a_hundred() -> None:
    assert mean_rank(np.array([1, 2, 100, 101, 50_000], np.int32)) == (1 + 2 + 3 * 100) / 5


def test_the_ratio_is_mean_clipped_rank_over_mean_surprisal() -> None:
    # of −ln p 0.1, 0.7, 2.2 and ranks 1, 2, 9: 12 / 3 over 3 / 3
    assert rank_surprisal(scored(-1.0, 4.0)) == 4.0
    assert rank_surprisal(scored(0.0, 1.0)) == math.inf


@pytest.mark.parametrize(
    ("choice", "better", "worse"),
    [
        (Choice.RANK_SURPRISAL, scored(-2.0, 4.0), scored(-1.0, 3.0)),  # 2 < 3
        (Choice.RANK_SURPRISAL, scored(-0.5, 1.2), scored(-0.01, 1.0)),  # familiar teaches little
        (Choice.LOGPROB, scored(-0.2, 9.0), scored(-0.3, 1.0)),
        (Choice.MIDDLE, scored(math.log(0.5)), scored(math.log(0.9))),
        (Choice.MIDDLE, scored(math.log(0.5)), scored(math.log(0.2))),
        (Choice.MIDDLE, scored(math.log(0.7)), scored(math.log(0.2))),  # 0.21 > 0.16
    ],
)
def test_each_rule_prefers_what_it_says(
    choice: Choice, better: StudentScore, worse: StudentScore
) -> None:
    one, other = suitability(better, choice), suitability(worse, choice)
    assert one is not None and other is not None and one > other


def test_what_a_rule_reads_may_not_have_been_measured() -> None:
    assert all(suitability(scored(None, None), choice) is None for choice in BY_STUDENT)
    assert suitability(scored(-1.0, None), Choice.RANK_SURPRISAL) is None
    assert suitability(scored(-1.0, None), Choice.LOGPROB) == -1.0


def test_middle_is_the_product_of_the_mean_probability_and_what_is_left() -> None:
    assert suitability(scored(math.log(0.25)), Choice.MIDDLE) == pytest.approx(0.25 * 0.75)


# ── caps ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pool", ["D1", "D2", "D3"])
def test_a_cap_keeps_the_most_suitable_of_every_set(pool: str) -> None:
    offered = [candidate(f"t{i}", pool, suitability=float(i)) for i in range(9)]
    assert kept(decide(offered, choice="logprob")) == {"t5", "t6", "t7", "t8"}
    assert kept(decide(offered)) != {"t5", "t6", "t7", "t8"}, "likeness takes no heed of it"


def test_what_was_not_scored_comes_last_and_what_is_refused_takes_no_place() -> None:
    offered = [candidate("best", suitability=9.0, marked_bad=True)]
    offered += [candidate(f"t{i}", suitability=float(i)) for i in range(3)]
    offered += [candidate("unread0"), candidate("unread1")]
    drops = decide(offered, choice="middle")
    assert {"t0", "t1", "t2"} < kept(drops) and len(kept(drops)) == 4
    assert drops["best"] is Drop.MARKED


def test_duplicates_and_prefixes_are_limited_under_any_choice() -> None:
    texts = {"a": "one two three four five six", "b": "one two three four five six"}
    twins = [candidate(t, text=text, suitability=5.0) for t, text in texts.items()]
    offered = twins + [candidate(f"t{i}", suitability=float(i)) for i in range(5)]
    drops = decide(offered, choice="logprob")
    assert sorted(drops[t] for t in texts) == [Drop.KEPT, Drop.NEAR_DUPLICATE]
    repairs = [candidate(f"r{i}", "D3", parent="cut", suitability=float(i)) for i in range(6)]
    assert kept(decide(repairs, choice="logprob")) == {"r4", "r5"}


def test_where_all_have_room_no_choice_is_made() -> None:
    offered = [candidate(f"t{i}", suitability=float(i)) for i in range(4)]
    for choice in Choice:
        assert decide(offered, choice=choice) == decide(offered)


def test_random_takes_by_the_seed_alone() -> None:
    offered = [candidate(f"t{i}", suitability=float(i)) for i in range(12)]
    taken = {frozenset(kept(decide(offered, seed=s, choice="random"))) for s in range(20)}
    assert len(taken) > 10 and {len(one) for one in taken} == {4}
    assert decide(offered, seed=3, choice="random") == decide(offered, seed=3, choice="random")


def test_the_settings_know_which_arms_ask_the_student() -> None:
    asking = {name: arm.choice for name, arm in TRAINED.items() if arm.choice in BY_STUDENT}
    assert asking == _CHOOSING


# ── runs ────────────────────────────────────────────────────────────────────────────────────────

FEW = ("pace.cap_d1=2", "pace.cap_d1_hard=2", "pace.cap_d3=2", "problems.held_out=0", "seeds=[0]")
ARMS = ("heal", "heal-random-choice", "heal-rank-surprisal", "heal-logprob", "heal-middle")


def choosing(home: Path) -> ScriptedRun:
    """Ten wordings of each of two problems, and repairs of a third; sets take two of each."""
    run = with_student(home)
    questions, rules = world(easy("apples"), varied("pears"), varied("melons"), extreme("plums"))
    run.write_problems(questions)
    run.write_script(rules)
    return run


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    run = choosing(tmp_path_factory.mktemp("choice"))
    run.go(*FEW, f"arms=[{','.join(ARMS)}]", until="select")
    return run


def kept_by(run: ScriptedRun, arm: str) -> set[str]:
    return {x.trace for x in run.rows(SelectedRow, "arm=?", arm) if x.drop == Drop.KEPT}


def texts_of(run: ScriptedRun) -> dict[str, str]:
    """By trace, of every stage."""
    stages = ("sample", "hinted", "repair")
    return {k: t.text for stage in stages for k, t in run.everything(stage, Trace).items()}


def to_score(run: ScriptedRun) -> set[tuple[str, str]]:
    """(problem, text) of every accepted trace of a set that cannot take all it has."""
    texts, caps = texts_of(run), {"D1": 2, "D2": 4, "D3": 2}
    accepted = [x for x in run.rows(SelectedRow, "arm='heal'") if x.drop != Drop.PURE]
    offered = Counter((x.problem, x.pool) for x in accepted)
    many = [x for x in accepted if offered[x.problem, x.pool] > caps[x.pool]]
    return {(x.problem, texts[x.trace]) for x in many}


def plain_scores(run: ScriptedRun, problem: str, text: str) -> tuple[int, float, float]:
    """Tokens, mean log-prob and mean clipped rank of a text, by a plain forward of the student."""
    model, tokenizer = student_in(run.home / "student")
    asked = [{"role": "user", "content": problem}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    before, own = (tokenizer.encode(t, add_special_tokens=False) for t in (prompt, text))
    with torch.inference_mode():
        logits = model(torch.tensor([before + own])).logits[0, len(before) - 1 : -1].double()
    logp = torch.log_softmax(logits, -1)
    chosen = logp.gather(1, torch.tensor(own)[:, None])
    rank = (1 + (logp > chosen).sum(-1)).clamp(max=100)
    return len(own), float(chosen.mean()), float(rank.double().mean())


@cache
def student_in(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_scores_are_those_of_a_plain_forward_over_the_traces_tokens_alone(
    done: ScriptedRun,
) -> None:
    asked = {p.id: p.problem for p in done.read("problem", Problem)}
    expected = [plain_scores(done, asked[problem], text) for problem, text in to_score(done)]
    scores = done.read("student_score", StudentScore)
    found = [(s.tokens, s.mean_logprob, s.mean_rank) for s in scores]
    assert len(found) == len(expected) > 20
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=0, atol=0.02)


def test_only_traces_of_sets_that_cannot_take_all_are_scored_and_equal_texts_once(
    done: ScriptedRun,
) -> None:
    scores = done.read("student_score", StudentScore)
    assert Counter(s.problem_id for s in scores) == Counter(p for p, _ in to_score(done))
    assert len(scores) < len(done.rows(SelectedRow, "arm='heal'"))


def test_every_arm_keeps_as_many_and_what_the_choice_changed_is_told(done: ScriptedRun) -> None:
    sets = {arm: kept_by(done, arm) for arm in ARMS}
    assert len({len(own) for own in sets.values()}) == 1
    assert len({frozenset(own) for own in sets.values()}) > 3
    texts = texts_of(done)
    usual = {texts[t] for t in sets["heal"]}
    told = json.loads((done.folder / "report.json").read_text())["choice"]
    assert [own["arm"] for own in told["arms"]] == [*ARMS[1:]]
    for own in told["arms"]:
        assert own["choice"] == TRAINED[own["arm"]].choice
        assert own["contested"] == own["problems"] == 4
        assert own["kept"] == len(sets[own["arm"]])
        others = [texts[t] for t in sets[own["arm"]]]
        assert own["other"] == sum(text not in usual for text in others)
    scores = done.read("student_score", StudentScore)
    assert (told["texts"], told["failed"]) == (len(scores), 0)
    assert told["texts"] < told["traces"]
    assert told["tokens"] == sum(s.scored_tokens for s in scores)


def test_logprob_keeps_the_likeliest_text_of_every_set(done: ScriptedRun) -> None:
    asked = {p.id: p.problem for p in done.read("problem", Problem)}
    texts = {key: t.text for key, t in done.everything("sample", Trace).items()}
    likeliest = dict[str, float]()
    for problem, text in to_score(done) & {(x.problem, texts[x.trace]) for x in d1(done)}:
        value = plain_scores(done, asked[problem], text)[1]
        likeliest[problem] = max(value, likeliest.get(problem, -math.inf))
    kept = {x.problem: [] for x in d1(done)}
    for x in d1(done, "heal-logprob"):
        if x.drop == Drop.KEPT:
            kept[x.problem].append(plain_scores(done, asked[x.problem], texts[x.trace])[1])
    assert likeliest
    for problem, best in likeliest.items():
        assert max(kept[problem]) == pytest.approx(best, abs=1e-4)


def d1(run: ScriptedRun, arm: str = "heal") -> list[SelectedRow]:
    return run.rows(SelectedRow, "arm=? AND pool='D1'", arm)


def test_the_terminal_and_the_page_say_what_was_chosen(done: ScriptedRun) -> None:
    assert done.view is not None
    console = Console(width=80, record=True)
    print_table(done.view, console)
    shown = " ".join(console.export_text().split())
    for words in (
        "heal-logprob chose by logprob: 4 of 4 problems had more accepted traces than a set takes",
        "For that the untouched student scored",
    ):
        assert words in shown and words in " ".join(done.watch.said)
        assert words in " ".join(render_html(done.view).split())


def test_nothing_is_scored_twice_and_a_changed_choice_redoes_no_teachers_work(
    done: ScriptedRun, tmp_path: Path
) -> None:
    run = choosing(tmp_path)
    run.go(*FEW, "arms=[heal]", until="select")
    assert run.view is not None and run.view.choice is None and "student_score" not in run.stored()
    teachers = run.stored()
    run.go(*FEW, "arms=[heal]", "pace.choice=logprob", until="select")
    said = " ".join(run.watch.said)
    assert "changed: pace.choice diverse → logprob; redoes what it reaches from 'select' on" in said
    scored = run.stored()
    assert {**scored, "student_score": None} == {**teachers, "student_score": None}
    assert kept_by(run, "heal") == kept_by(done, "heal-logprob")
    with patch.object(LocalEngine, "score", side_effect=AssertionError("scored twice")):
        for choice, arm in (("rank_surprisal", "heal-rank-surprisal"), ("middle", "heal-middle")):
            run.go(*FEW, "arms=[heal]", f"pace.choice={choice}", until="select")
            assert kept_by(run, "heal") == kept_by(done, arm)
    assert run.stored() == scored
    run.go(*FEW, "arms=[heal]", until="select")
    assert run.view.choice is None and kept_by(run, "heal") == kept_by(done, "heal")
    assert not run.read("student_score", StudentScore)


def test_another_student_and_another_prompt_score_anew(tmp_path: Path) -> None:
    run = choosing(tmp_path)
    chosen = (*FEW, "arms=[heal]", "pace.choice=logprob")
    run.go(*chosen, until="select")
    first = {s.key for s in run.read("student_score", StudentScore)}
    other = make_student(tmp_path / "other", seed=5) / "config.json"
    other.write_text(other.read_text().replace('_embeddings": 256', '_embeddings": 1024'))
    run.go(*chosen, "student.model=other", until="select")
    second = {s.key for s in run.read("student_score", StudentScore)}
    assert len(first) == len(second) and first.isdisjoint(second)
    assert run.stored()["student_score"] == first | second
    run.go(*chosen, until="select")
    assert {s.key for s in run.read("student_score", StudentScore)} == first
    asked_otherwise = "prompts.solve='Please answer. {problem}'"
    run.go(*chosen, asked_otherwise, until="select")
    assert first.isdisjoint({s.key for s in run.read("student_score", StudentScore)})


@pytest.mark.parametrize("k", [1, 9])
def test_kill_nine_while_the_student_scores_ends_in_the_same_choice(
    tmp_path: Path, done: ScriptedRun, k: int
) -> None:
    run = choosing(tmp_path)
    own = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    for setting in (*FEW, "arms=[heal]", "pace.choice=logprob", "evaluate.samples=1"):
        name, _, value = setting.partition("=")
        *section, leaf = name.split(".")
        (own.setdefault(section[0], {}) if section else own)[leaf] = yaml.safe_load(value)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(own))
    kill(tmp_path, "student_score", k)
    before = run.stored()["student_score"]
    assert k <= len(before) < len(done.stored()["student_score"])
    run.go(until="select")
    assert kept_by(run, "heal") == kept_by(done, "heal-logprob")
    assert run.stored()["student_score"] == done.stored()["student_score"] > before


def test_a_trace_that_cannot_be_scored_comes_last_and_is_counted(
    tmp_path: Path, done: ScriptedRun
) -> None:
    run, refuse = choosing(tmp_path), LocalEngine._why_not_score
    words = {key: t.text for key, t in done.everything("sample", Trace).items()}
    many = [p for p, noun in done.nouns().items() if noun in ("pears", "melons")]
    best = {words[x.trace] for x in d1(done, "heal-logprob")
            if x.drop == Drop.KEPT and x.problem in many}  # fmt: skip

    def failing(self: LocalEngine, request: ScoreRequest) -> str | None:
        text = self.decode(request.target_ids)
        return "out of memory" if text in best else refuse(self, request)

    with patch.object(LocalEngine, "_why_not_score", failing):
        run.go(*FEW, "arms=[heal]", "pace.choice=logprob", until="select")
    assert len(best) == 4
    assert run.view is not None and run.view.choice is not None
    assert run.view.choice.failed >= len(best)
    assert "could not be scored and come last" in " ".join(run.watch.said)
    kept = [words[x.trace] for x in d1(run) if x.drop == Drop.KEPT and x.problem in many]
    assert len(kept) == 4 and best.isdisjoint(kept)
    run.go(*FEW, "arms=[heal]", "pace.choice=logprob", "pace.cap_d2=3", until="select")
    assert run.view.choice is not None and run.view.choice.failed == 0, "asked again, and mended"


# ── servers, and what is missing ────────────────────────────────────────────────────────────────


def test_servers_choose_as_the_local_engine_does(tmp_path: Path, done: ScriptedRun) -> None:
    run = choosing(tmp_path)
    model = Model(tmp_path / "student")
    model.context = 1024
    server = Server(model)
    settings = HttpEngine(endpoints=(HttpEndpoint(url=server.url),), top_logprobs=1)
    chosen = (*FEW, "arms=[heal]", "pace.choice=rank_surprisal")
    try:
        with patch(
            "heal.students.arms.open_student",
            lambda *_: open_http(str(tmp_path / "student"), None, settings),
        ):
            run.go(*chosen, until="select")
    finally:
        server.kill()
    assert len(server.posts) == len(done.read("student_score", StudentScore))
    assert kept_by(run, "heal") == kept_by(done, "heal-rank-surprisal")


def test_an_engine_without_ranks_serves_the_choices_that_need_none() -> None:
    engine = ScriptedEngine([])
    assert not ranks_of(engine, wanted=False)
    with pytest.raises(CapabilityError, match="do not tell a token's rank") as refused:
        ranks_of(engine, wanted=True)
    assert refused.value.hint is not None and "pace.choice=logprob" in refused.value.hint
    engine.capabilities = replace(engine.capabilities, score=False)
    with pytest.raises(CapabilityError, match="no log-probs of a given text") as refused:
        ranks_of(engine, wanted=False)
    assert refused.value.hint is not None and "student.serve=null" in refused.value.hint


REFUSED = {
    "--set pace.choice=logprob": (
        "pace.choice 'logprob' asks the student, and there is none; try: --set"
        " student.model=FOLDER, or --set pace.choice=diverse"
    ),
    "--set arms=[heal,heal-middle]": (
        "the arm 'heal-middle' asks the student, and there is none; try: --set"
        " student.model=FOLDER, or leave it out of arms"
    ),
    "--set pace.choice=rank_surprisal --set student.model=s"
    " --set student.serve.command=x --set student.serve.dialect=sglang": (
        "pace.choice 'rank_surprisal' asks for token ranks, which the student's server does not"
        " tell (serve.dialect: sglang); try: --set student.serve=null, which scores with the local"
        " engine, or --set pace.choice=diverse"
    ),
    "--set pace.choice=middle --set student.model=s"
    " --set student.serve.command=x --set student.serve.dialect=llamacpp": (
        "pace.choice 'middle' asks for log-probs of given text, which the student's llamacpp"
        " servers do not give; try: --set student.serve=null, which scores with the local engine,"
        " or --set pace.choice=diverse"
    ),
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_cannot_choose_is_refused_before_anything_is_drawn(
    shell: Shell, tmp_path: Path, given: str
) -> None:
    code, said = shell(f"heal run -c recipe.yaml {given}")
    assert (code, said.splitlines()) == (
        2,
        [
            f"heal: recipe.yaml: settings: {REFUSED[given]}",
            "  → see every setting with: heal config",
        ],
    )
    assert not (tmp_path / "run").exists()
