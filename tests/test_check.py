"""`heal check`: says before a run what is missing, and what it would cost."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.http_server import Model, Server
from tests.scripted_run import ScriptedRun, easy, extreme, hard, world
from tests.tiny_models import make_checkpoint
from tests.tiny_student import make_student
from typer.testing import CliRunner

from heal.before.check import check
from heal.before.estimate import Assumed, Cost, costs, lines_of
from heal.before.findings import Finding, Outcome, Target
from heal.before.meeting import meet
from heal.before.probe import shown
from heal.before.readings import readings
from heal.cli import app
from heal.config import Config
from heal.engines.base import GenRequest, Scored
from heal.engines.local.engine import LocalEngine
from heal.engines.scripted import ScriptedEngine
from heal.recipe import load, parse
from heal.records import Hint, HintedScore, Problem, PureScore, Split, TokenScores, Trace
from heal.stages.match_budget import tokens_to_match
from heal.store import Store
from heal.verifiers.code import open_doors
from heal.verifiers.programs import doors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checked"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model(folder)


@pytest.fixture
def server(model: Model) -> Iterator[Server]:
    started = Server(model)
    yield started
    started.kill()


@pytest.fixture
def recipe(folder: Path, tmp_path: Path) -> Callable[..., Config]:
    problems = tmp_path / "problems.jsonl"
    rows = [{"problem": f"three times {i}?", "answer": str(3 * i)} for i in range(20)]
    problems.write_text("\n".join(json.dumps(row) for row in rows))

    def make(*servers: Server, **changes: Any) -> Config:
        kind = "http" if servers else "local"
        raw: dict[str, Any] = {
            "run": str(tmp_path / "run"),
            "problems": {"path": str(problems)},
            "teacher": {"engine": kind, "model": str(folder)},
            "prompts": {"solve": "{problem}"},
            "sampling": {"max_new_tokens": 32},
            "engine": {
                "local": {"threads": 1},
                "http": {"endpoints": [{"url": s.url} for s in servers]},
            },
        }
        return parse(raw | changes)

    return make


def finding(target: Target, question: str) -> Finding:
    (found,) = [f for f in target.findings if f.question == question]
    return found


def outcomes(target: Target) -> dict[str, Outcome]:
    return {f.question: f.outcome for f in target.findings}


CAPABLE = {
    "reached",
    "context",
    "token ids",
    "continuation",
    "seeds",
    "thinking",
    "scoring",
    "log-prob basis",
}


def test_a_server_that_can_do_everything_passes(
    recipe: Callable[..., Config], server: Server
) -> None:
    (target,) = check(recipe(server))
    assert outcomes(target) == dict.fromkeys(CAPABLE, Outcome.OK), target.findings
    assert target.prompt is not None
    assert "three times 0?" in target.prompt
    assert "⟨" in target.prompt
    assert "entropies known to ±" in finding(target, "scoring").words
    assert target.speed is not None
    assert target.speed.tokens_s > 0


def test_the_local_engine_passes_too(recipe: Callable[..., Config]) -> None:
    (target,) = check(recipe())
    assert outcomes(target) == dict.fromkeys(CAPABLE, Outcome.OK), target.findings
    assert "exact" in finding(target, "scoring").words


def test_each_server_is_probed_by_itself(
    recipe: Callable[..., Config], server: Server, model: Model
) -> None:
    other = Server(model)
    other.kill()
    one, two = check(recipe(server, other))
    assert not one.failed
    assert finding(two, "reached").outcome is Outcome.FAILED
    assert "no connection" in finding(two, "reached").words
    assert other.url in two.name


def test_nothing_is_written(recipe: Callable[..., Config], server: Server) -> None:
    config = recipe(server)
    list(check(config))
    assert not Path(config.run).exists()


def test_a_server_that_begins_anew_instead_of_continuing_is_found(
    recipe: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalEngine.generate

    def forgetful(self: LocalEngine, requests: Any) -> Any:
        start = len(self.render("three times 0?"))
        cut = (GenRequest(r.id, r.prompt_ids[:start], r.seeds, r.sampling) for r in requests)
        return real(self, cut)

    monkeypatch.setattr(LocalEngine, "generate", forgetful)
    (target,) = check(recipe())
    assert finding(target, "continuation").outcome is Outcome.FAILED
    assert target.failed


def test_a_server_with_another_tokenizer_is_found(
    recipe: Callable[..., Config], server: Server
) -> None:
    server.fault = lambda number, body: "spoil:choices[0]['text'] = 'other words'"
    (target,) = check(recipe(server))
    found = finding(target, "token ids")
    assert found.outcome is Outcome.FAILED
    assert "'other words'" in found.words


def test_seeds_that_are_not_kept_are_noted(recipe: Callable[..., Config], server: Server) -> None:
    config = recipe(server)
    http = config.engine.http.model_copy(update={"samples_per_request": 4})
    engine = config.engine.model_copy(update={"http": http})
    (target,) = check(config.model_copy(update={"engine": engine}))
    assert finding(target, "seeds").outcome is Outcome.NOTE
    assert not target.failed


def test_a_teacher_that_cannot_score_needs_a_scorer(
    recipe: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, server: Server, folder: Path
) -> None:
    from heal.engines.http.dialects.completions import Vllm

    monkeypatch.setattr(Vllm, "scores", False)
    (target,) = check(recipe(server))
    assert finding(target, "scoring").outcome is Outcome.FAILED
    assert "scorer.engine=local" in (finding(target, "scoring").hint or "")
    teacher, scorer = check(recipe(server, scorer={"model": str(folder)}))
    assert not teacher.failed
    assert "scoring" not in outcomes(teacher)
    assert outcomes(scorer)["scoring"] is Outcome.OK


def test_log_probs_that_follow_the_temperature_are_noted(
    recipe: Callable[..., Config], server: Server
) -> None:
    halve = (
        "spoil:[e.update(logprob=2 * e['logprob']) for p in choices[0]['prompt_logprobs'] if p"
        " for e in p.values()]"
    )
    server.fault = lambda number, body: halve if body["temperature"] == 0.5 else None
    (target,) = check(recipe(server))
    assert finding(target, "log-prob basis").outcome is Outcome.NOTE


def test_weights_that_call_their_own_choice_unlikely_are_found(
    recipe: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absurd(self: LocalEngine, requests: Any) -> Iterator[Scored]:
        for r in requests:
            low = np.full(len(r.target_ids), -30.0, np.float32)
            yield Scored(r.id, low, -low, -low)

    monkeypatch.setattr(LocalEngine, "score", absurd)
    (target,) = check(recipe())
    assert finding(target, "scoring").outcome is Outcome.FAILED


def test_a_budget_beyond_the_context_is_noted_and_a_prompt_beyond_it_fails(
    recipe: Callable[..., Config],
) -> None:
    (target,) = check(recipe(sampling={"max_new_tokens": 4096}))
    assert finding(target, "context").outcome is Outcome.NOTE
    (target,) = check(recipe(prompts={"solve": "{problem}" + "x" * 300}))
    assert finding(target, "context").outcome is Outcome.FAILED


def test_thinking_tags_are_looked_for(recipe: Callable[..., Config]) -> None:
    (target,) = check(recipe(prompts={"solve": "{problem} <think>"}))
    found = finding(target, "thinking")
    assert found.outcome is Outcome.NOTE
    assert "think_close" in found.words
    (target,) = check(recipe(prompts={"solve": "{problem}", "think_close": "</think>"}))
    assert finding(target, "thinking").outcome is Outcome.OK


def test_a_question_that_goes_wrong_is_a_finding(
    recipe: Callable[..., Config], server: Server
) -> None:
    server.fault = lambda number, body: "400"
    (target,) = check(recipe(server))
    assert target.failed
    assert "not today" in finding(target, "seeds").words


def test_special_tokens_show_as_their_ids() -> None:
    engine = ScriptedEngine([])
    assert shown(engine.render("hi"), engine) == "⟨257⟩hi⟨256⟩⟨258⟩"


# ── the command ─────────────────────────────────────────────────────────────────────────────────


def run(tmp_path: Path, rules: list[dict[str, Any]], *options: str) -> Any:
    (tmp_path / "script.json").write_text(json.dumps(rules))
    (tmp_path / "problems.jsonl").write_text('{"problem": "Q", "answer": "1"}\n')
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"run: {tmp_path}/run\nproblems: {{path: {tmp_path}/problems.jsonl, held_out: 0}}\n"
        f"teacher: {{engine: scripted, model: {tmp_path}/script.json}}\n"
    )
    return CliRunner().invoke(app, ["check", "-c", str(recipe), *options])


def test_the_command_shows_prompt_findings_and_price(tmp_path: Path) -> None:
    rules = [{"match": "Q", "replies": ["One.", "Two.", "Three."]}]
    done = run(tmp_path, rules, "--price-in", "1", "--price-out", "2", "--trace-tokens", "100")
    assert done.exit_code == 0, done.output
    assert "⟨257⟩Q" in done.output
    assert "a script begins anew" in done.output
    assert "if traces take 100 tokens" in done.output
    assert "in money" in done.output


def test_the_command_fails_with_2_when_something_is_missing(tmp_path: Path) -> None:
    done = run(tmp_path, [{"match": "Q", "error": "out of memory"}])
    assert done.exit_code == 2
    assert "FAILED" in done.output
    assert "out of memory" in done.output


def told(tmp_path: Path, verifier: str, golds: list[str], answers: list[tuple[str, str]]) -> Any:
    rows = [{"problem": f"Problem {i}?", "answer": gold} for i, gold in enumerate(golds)]
    (tmp_path / "golds.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = str(tmp_path / "golds.jsonl")
    config = parse(BASE | {"problems": {"path": path, "verifier": verifier}})
    return [*readings(config, [Target("teacher", answers=answers)])]


def test_two_readings_of_golds_and_drawn_answers_are_compared(tmp_path: Path) -> None:
    golds = ["5", "\\sqrt{2}", "5 ft 9 in", "12"]
    lines = told(tmp_path, "math", golds, [("5", "5"), ("3 \\text{ million}", "3")])
    assert lines[0] == "answers: our rules, and math-verify by itself"
    assert lines[1].startswith("  ok      golds           0 of 4 golds can be used by only one")
    assert "  note    drawn answers   1 of 2 are judged differently" in lines
    assert "only math-verify would call them equal" in " ".join(" ".join(lines).split())


def test_readings_fit_80_columns_and_name_a_few(tmp_path: Path) -> None:
    pairs = [("x " * 60 + f"{i} \\text{{ million}}", "y" * 90) for i in range(3)]
    pairs += [(f"{i} \\text{{ million}}", str(i)) for i in range(3, 9)]
    lines = told(tmp_path, "exact", ["1"], pairs)
    assert max(map(len, lines)) <= 80
    assert sum("→" in line for line in lines) == 3
    assert "          … and 3 more" in lines


def test_at_most_so_many_golds_are_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heal.before.readings.GOLDS", 2)
    assert " 0 of 2 golds (of 3) can be used " in told(tmp_path, "math", ["1", "2", "3"], [])[1]


@pytest.mark.parametrize("verifier", ["choice", "gym", "mine:check"])
def test_nothing_is_read_twice_where_answers_are_not_mathematics(
    tmp_path: Path, verifier: str
) -> None:
    assert told(tmp_path, verifier, ["A"], []) == []


def test_programs_are_not_read_twice_but_what_they_may_do_is_said(tmp_path: Path) -> None:
    lines = told(tmp_path, "code", ['{"inputs": ["1"], "outputs": ["1"]}'], [])
    left = open_doors(doors())
    assert lines[0] == "programs: the model's own are run on this machine"
    said = " ".join(" ".join(lines[1:]).split())
    assert said == (
        f"note kept from {left}"
        if left
        else "ok kept from no network, no other processes, no files written elsewhere"
    )


def test_the_command_reads_what_it_drew(tmp_path: Path) -> None:
    rules = [{"match": "Q", "replies": ["So \\boxed{1}.", "So \\boxed{2}."]}]
    done = run(tmp_path, rules)
    assert "drawn answers   0 of 4 are judged differently" in done.output, done.output
    silent = run(tmp_path, [{"match": "Q", "replies": ["One.", "Two."]}])
    assert "no trace drawn here stated an answer" in silent.output


# ── the estimate ────────────────────────────────────────────────────────────────────────────────


def problems(train: int, held_out: int) -> list[Problem]:
    sides = [Split.TRAIN] * train + [Split.HELD_OUT] * held_out
    return [Problem(str(i), "q", "a", side) for i, side in enumerate(sides)]


BASE: dict[str, Any] = {"run": "r", "problems": {"path": "p"}, "teacher": {"model": "m"}}


def test_sampling_costs_every_trace_of_every_problem() -> None:
    config = parse(BASE | {"student": {"model": "m"}, "sampling": {"n": 30}})
    sample = costs(config, problems(10, 5), Assumed(100, 7))[0]
    assert sample.written == (10 * 30 + 5 * 30) * 100
    assert sample.read == (10 * 30 + 5 * 30) * 7


def test_without_a_student_nothing_held_out_is_sampled() -> None:
    sample = costs(parse(BASE), problems(10, 5), Assumed(100, 7))[0]
    assert sample.written == 10 * 30 * 100


@given(st.floats(0, 1), st.floats(0, 1), st.floats(1, 1e5), st.integers(1, 100))
def test_no_part_is_negative_and_more_extreme_problems_never_cost_less(
    low: float, high: float, length: float, train: int
) -> None:
    low, high = sorted((low, high))
    few, many = (
        costs(parse(BASE), problems(train, 0), Assumed(length, 7, extreme, 1.0))
        for extreme in (low, high)
    )
    for a, b in zip(few, many, strict=True):
        assert 0 <= a.read <= b.read
        assert 0 <= a.written <= b.written


COMPARED = "[heal, heal-random-cut, heal-restart, rft_more, star]"
OWN = ("guide", "repair", "hinted traces")
CUTS = ("heal-random-cut", "heal-restart")


def by_part(found: list[Cost]) -> dict[str, Cost]:
    return {cost.part: cost for cost in found}


@pytest.mark.parametrize(
    "settings",
    [
        ("pure={selection: surprisal}",),
        ("pure={selection: fraction, measure_reliance: true, measure_calibrated: true}",),
        ("pure={selection: calibrated}",),
        ("pure={selection: joint}",),
        ("gear.hint=answer", "evaluate.scored_token_cost=0.5"),
    ],
)
def test_a_run_never_costs_more_than_its_estimate(tmp_path: Path, settings: tuple[str]) -> None:
    leak = ("The final answer is 142.",)
    run = ScriptedRun(tmp_path, world(easy("apples"), hard("pears"), extreme("plums", hints=leak)))
    # Timed, a scored token of a scripted model may cost more than a sampled one.
    given = (f"arms={COMPARED}", "gear.target=null", "evaluate.scored_token_cost=1.0", *settings)
    run.go(*given)
    assert run.view is not None
    with Store.open(run.folder, write=False) as store:

        def all_of(stage: str, kind: type[Any]) -> list[Any]:
            return [record for _, record in store.read(stage, kind)]

        traces = {stage: all_of(stage, Trace) for stage in ("sample", "hinted", "repair")}
        hints, scores = all_of("hint", Hint), all_of("scores", TokenScores)
        pure, reliance = all_of("pure", PureScore), all_of("reliance", HintedScore)
        extra = {
            arm: [trace for _, trace in store.live("matched", Trace, arm)]
            for arm in ("rft_more", "star")
        }
        matched = tokens_to_match(store, Config(**store.meta("config")), 1.0)
    longest = max(t.new_tokens for table in (*traces.values(), *extra.values()) for t in table)
    prompt = max(t.prompt_tokens for t in traces["sample"])
    config = load(tmp_path / "recipe.yaml", given)
    with Store.open(run.folder, write=False) as store:
        own_problems = [problem for _, problem in store.live("problem", Problem)]
    most = by_part(costs(config, own_problems, Assumed(longest, prompt, 1 / 3, 2 / 3)))
    written = {part: cost.written for part, cost in most.items()}

    assert sum(t.new_tokens for t in traces["sample"]) <= written["sample"]
    assert sum(t.new_tokens for t in traces["hinted"]) <= written["hinted traces"]
    sampled = sum(h.new_tokens for h in hints) + sum(t.new_tokens for t in traces["repair"])
    assert sampled <= sum(written[part] for part in ("guide", "repair", *CUTS))
    for arm, own in extra.items():
        assert sum(t.new_tokens for t in own) <= matched <= written[arm]
    scored = sum(s.scored_tokens for s in (*scores, *pure, *reliance))
    read = [most[part].read for part in ("locate", "score", *CUTS)]
    assert scored <= sum(read) + (most["honest traces"].read if "honest traces" in most else 0)


def test_an_arm_with_a_cut_of_its_own_costs_hints_repairs_and_scores_again() -> None:
    base = BASE | {"gear": {"breakpoint": "difference"}}
    few = by_part(costs(parse(base), problems(100, 0), Assumed(100, 7)))
    config = parse(base | {"arms": ["heal", *CUTS]})
    many = by_part(costs(config, problems(100, 0), Assumed(100, 7)))
    assert set(many) - set(few) == set(CUTS)
    for arm in CUTS:
        assert many[arm].written == few["guide"].written + few["repair"].written
        assert many[arm].read > few["guide"].read + few["repair"].read


@pytest.mark.parametrize(
    ("more", "read"),
    [
        ({}, 0),
        ({"arms": ["heal", "heal-restart"]}, 0),
        ({"gear": {"breakpoint": "difference"}}, 10_000 * 107),
        ({"preset": "paper", "arms": ["heal", "heal-random-cut"]}, 10_000 * 107),
    ],
)
def test_failed_traces_are_read_only_for_cuts_that_depend_on_it(
    more: dict[str, Any], read: int
) -> None:
    found = by_part(costs(parse(BASE | more), problems(10_000, 0), Assumed(100, 7)))
    assert found["locate"] == Cost("locate", read, 0)


def test_a_hint_is_counted_with_all_its_redraws() -> None:
    once, thrice = (
        by_part(
            costs(parse(BASE | {"gear": {"hint_redraws": n}}), problems(100, 0), Assumed(100, 7))
        )["guide"]
        for n in (0, 2)
    )
    assert thrice == Cost("guide", 3 * once.read, 3 * once.written)
    given = parse(BASE | {"gear": {"hint": "answer"}})
    assert by_part(costs(given, problems(100, 0), Assumed(100, 7)))["guide"].written == 0


def test_the_matched_token_budget_of_an_arm_is_all_that_heal_uses_after_sampling() -> None:
    config = parse(BASE | {"arms": ["rft_more", "star"], "evaluate": {"scored_token_cost": 0}})
    found = by_part(costs(config, problems(100, 0), Assumed(100, 7)))
    assert found["rft_more"].written == sum(found[part].written for part in OWN)
    assert found["star"].written == found["rft_more"].written
    timed = by_part(costs(parse(BASE | {"arms": ["star"]}), problems(100, 0), Assumed(100, 7)))
    scored = sum(timed[part].read for part in ("locate", "score", "honest traces"))
    assert timed["star"].written == found["star"].written + scored


@pytest.mark.parametrize(("train", "traces"), [(1000, 200), (5, 150)])
def test_honest_traces_are_at_most_those_asked_for_or_there(train: int, traces: int) -> None:
    found = by_part(costs(parse(BASE), problems(train, 0), Assumed(100, 7)))
    assert found["honest traces"] == Cost("honest traces", traces * 107, 0)
    ratio = parse(BASE | {"preset": "paper"})
    assert "honest traces" not in by_part(costs(ratio, problems(train, 0), Assumed(100, 7)))


def test_the_table_fits_80_columns() -> None:
    arms = ["heal", *CUTS, "rft_more", "star"]
    config = parse(BASE | {"arms": arms, "gear": {"breakpoint": "difference"}})
    assumed = Assumed(12_000, 900)
    found = costs(config, problems(1_000_000, 0), assumed)
    lines = [*lines_of(found, assumed, 1e4, 0.5, 2.0)]
    assert max(map(len, lines)) <= 80
    assert len({len(line) for line in lines[2 : 4 + len(found)]}) == 1


def test_a_student_is_looked_at_before_any_model_is_opened(
    folder: Path, recipe: Callable[..., Config], tmp_path: Path
) -> None:
    def student(model: Path, **changes: Any) -> dict[str, Finding]:
        target = meet(recipe(student={"model": str(model)}, **changes)).found
        assert target is not None
        assert target.name == f"student: {model}"
        return {found.question: found for found in target.findings}

    good = make_student(tmp_path / "student")
    found = student(good)
    assert {f.outcome for f in found.values()} == {Outcome.OK}
    found = student(good, train={"max_length": 33})
    assert found["room"].outcome is Outcome.NOTE
    assert "train.max_length" in (found["room"].hint or "")
    assert student(tmp_path / "nothing")["reached"].outcome is Outcome.FAILED
    (good / "chat_template.jinja").unlink()
    found = student(good)
    assert found["reached"].outcome is Outcome.FAILED
    assert "chat template" in found["reached"].words
