"""A second round: the teacher repairs what a trained student fails, from the student's traces."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from benchmarks import bench_rounds
from tests.scripted_run import (
    PAGE,
    WAYS,
    Rule,
    ScriptedRun,
    Watch,
    World,
    easy,
    extreme,
    failed,
    right,
    row,
    small_batches,
    unaided,
    unsynced,
    world,
)
from tests.tiny_student import make_student

from heal.cli import main
from heal.data.problems import read_problems
from heal.engines.scripted import ScriptedEngine
from heal.execute import execute
from heal.recipe import load, load_over
from heal.records import Problem, Split, Trace
from heal.rounds import make_round, plan_round
from heal.rounds.plan import SOURCES
from heal.store import AttemptRow, ProblemRow, SelectedRow, Store, TraceRow

MINIMAL: dict[str, Any] = {
    "run": "run",
    "problems": {"path": "problems.jsonl"},
    "teacher": {"model": "teacher"},
}
Heal = Callable[..., tuple[int, str, str]]
N = 12
SETTINGS: dict[str, Any] = {
    "student": {"model": "student"},
    "arms": ["base", "heal"],
    "seeds": [3, 4],
    "problems": {"held_out": 0.4},
    "prompts": {"solve": "{problem}", "solve_hinted": "{problem} Hint: {hint}"},
    "sampling": {"n": N},
    "pace": {"epochs": 0.5, "rehearsal": 0.2},
    "train": {"threads": 1, "max_length": 900},
    "evaluate": {
        "samples": 2,
        "teacher_n": 20,
        "max_new_tokens": 4,
        "bootstrap": 200,
        "scored_token_cost": 0.5,
    },
    "engine": {"local": {"threads": 1}},
}


def seldom(name: str) -> World:
    """Solved one time in six."""
    return [row(name)], [unaided(name, right(name, "tall"), *(failed(name, w) for w in WAYS))]


def mended(name: str) -> World:
    """The teacher always solves it; what somebody else fails it repairs."""
    asked, rules = extreme(name)
    return asked, easy(name)[1] + rules


def strayed(name: str, way: str) -> str:
    """A failed trace in words that the teacher never writes."""
    return failed(name, way).replace("thirteen", "fourteen")


STUDENT: list[Rule] = [
    *(unaided(name, right(name, "own"), right(name, "dear")) for name in ("apples", "limes")),
    *(unaided(name, *(strayed(name, way) for way in WAYS)) for name in ("melons", "kiwis")),
]
"""It solves two training problems and fails two, one of which the teacher always solves."""


class Counted(ScriptedEngine):
    """Counts what it is asked."""

    asked = 0

    def generate(self, requests: Any) -> Iterator[Any]:
        for answer in super().generate(requests):
            Counted.asked += answer is not None
            yield answer


@contextmanager
def scripted_student(rules: list[Rule], kind: type[Counted] = Counted) -> Iterator[type[Counted]]:
    """The trained student answers by rules: one of two layers learns no trace."""
    Counted.asked = 0
    with patch("heal.students.arms.open_student", lambda *given: kind(rules)):
        yield Counted


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    """A first run to its end."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("first")
    config = make_student(home / "student") / "config.json"
    config.write_text(config.read_text().replace('_embeddings": 256', '_embeddings": 1024'))
    training = (easy("apples"), easy("limes"), mended("melons"), extreme("kiwis"))
    held_out = (easy("nuts"), seldom("peas"), extreme("plums"))
    run = ScriptedRun(home, world(*training, *held_out), SETTINGS)
    run.go()
    return run


@pytest.fixture
def at_home(first: ScriptedRun, monkeypatch: pytest.MonkeyPatch) -> ScriptedRun:
    monkeypatch.chdir(first.home)
    monkeypatch.setenv("COLUMNS", "80")
    return first


@pytest.fixture
def heal(
    at_home: ScriptedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Heal:
    monkeypatch.setattr("heal.cli.progress.time", SimpleNamespace(monotonic=lambda: 0.0))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["heal", *words])
        with pytest.raises(SystemExit) as ended, unsynced(), patch(PAGE, lambda view: "no charts"):
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def copied(at_home: ScriptedRun, request: pytest.FixtureRequest) -> Path:
    """The first run's folder once more, for tests that change it."""
    name = re.sub(r"\W", "-", request.node.name)
    return Path(shutil.copytree("run", name))


@pytest.fixture(scope="module")
def second(first: ScriptedRun) -> Path:
    """The folder of the second run, to its end."""
    before = Path.cwd()
    os.chdir(first.home)
    try:
        with unsynced(), patch(PAGE, lambda view: "no charts"):
            with scripted_student(STUDENT):
                make_round(plan_round(Path("run"), Path("two.yaml")), Watch())
            execute(load("two.yaml"), Watch())
    finally:
        os.chdir(before)
    return first.home / "two"


def problems_of(folder: Path) -> dict[str, Problem]:
    with Store.open(folder, write=False) as store:
        return {problem.id: problem for _, problem in store.live("problem", Problem)}


def rows_of(folder: Path, kind: Any, where: str = "", *given: Any) -> list[Any]:
    with Store.open(folder, write=False) as store:
        return list(store.rows(kind, where, *given))


def noun(problem: Problem) -> str:
    return problem.problem.split()[2]


# ── the whole way ───────────────────────────────────────────────────────────────────────────────


def test_the_same_problems_are_held_out_in_the_teachers_strata(
    first: ScriptedRun, second: Path
) -> None:
    assert problems_of(second) == problems_of(first.folder)
    held_out = "split='held_out'"
    before, after = (rows_of(folder, ProblemRow, held_out) for folder in (first.folder, second))
    assert {row.stratum for row in before} == {"easy", "hard", "extreme"}
    told = [[(r.problem, r.n, r.correct, r.stratum) for r in rows] for rows in (before, after)]
    assert told[0] == told[1]


def test_training_strata_say_how_often_the_student_solves_a_problem(
    first: ScriptedRun, second: Path
) -> None:
    names = {key: noun(problem) for key, problem in problems_of(second).items()}
    rows = rows_of(second, ProblemRow, "split='train'")
    assert {names[r.problem]: (r.n, r.correct, r.stratum) for r in rows} == {
        "apples": (N, N, "easy"),
        "limes": (N, N, "easy"),
        "melons": (N, 0, "extreme"),
        "kiwis": (N, 0, "extreme"),
    }
    by_teacher = {names[r.problem]: r.stratum for r in rows_of(first.folder, ProblemRow)}
    assert by_teacher["melons"] == "easy"


def test_unaided_traces_are_the_students_and_repairs_go_on_from_its_own_words(second: Path) -> None:
    with Store.open(second, write=False) as store:
        sampled = dict(store.read("sample", Trace))
        repairs = dict(store.read("repair", Trace))
        kept = {row.trace for row in store.rows(SelectedRow, "arm='heal' AND pool='D3'")}
    training = {key for key, problem in problems_of(second).items() if problem.split is Split.TRAIN}
    own = [trace for trace in sampled.values() if trace.problem_id in training]
    assert len(own) == 4 * N
    wrong = [trace for trace in own if "First I look" in trace.text]
    assert len(wrong) == 2 * N and all("fourteen" in trace.text for trace in wrong)
    assert repairs and kept
    for repair in repairs.values():
        parent = sampled[repair.parent or ""]
        prefix = parent.text[: repair.prefix_tokens]  # an id per byte
        assert "fourteen" in prefix and repair.text.startswith(prefix)
    assert kept <= repairs.keys()


def test_the_student_trained_further_is_the_one_that_was_sampled(second: Path) -> None:
    recipe = load(second.parent / "two.yaml")
    assert recipe.student is not None
    assert recipe.student.model == "run/students/heal-seed3/stage4"
    before = second.parent / recipe.student.model / "model.safetensors"
    after = second / "students/heal-seed3/stage4/model.safetensors"
    assert before.read_bytes() != after.read_bytes()


def test_nothing_of_the_first_rounds_data_is_trained_on_again(
    first: ScriptedRun, second: Path
) -> None:
    shown = {row.trace for row in rows_of(second, SelectedRow)}
    before = {row.key for row in rows_of(first.folder, TraceRow)}
    assert shown and before
    assert shown.isdisjoint(before), "the teacher drew under the same dice again"


def test_the_recipe_says_all_that_the_first_run_had_and_what_a_round_changes(second: Path) -> None:
    text = (second.parent / "two.yaml").read_text()
    assert text.splitlines()[0] == ("# Written by heal round: the student heal, seed 3, of run")
    before, after = load(second.parent / "recipe.yaml"), load(second.parent / "two.yaml")
    unlike = {"run", "seed", "student", "problems"}
    assert before.model_dump(exclude=unlike) == after.model_dump(exclude=unlike)
    assert (after.run, after.seed) == ("two", before.seed + 1)
    own = {"traces", "verifier"}
    assert before.problems.model_dump(exclude=own) == after.problems.model_dump(exclude=own)
    assert len(text.splitlines()) < 60, "it says what is no default, and no more"


def test_a_third_round_starts_from_the_second(second: Path, at_home: ScriptedRun) -> None:
    with scripted_student(STUDENT), unsynced():
        made = make_round(plan_round(Path("two"), Path("three.yaml")), Watch())
    assert made.held_out_traces == 60
    assert load("three.yaml").student.model == "two/students/heal-seed3/stage4"  # type: ignore[union-attr]
    assert not made.moved


# ── what a person sees ──────────────────────────────────────────────────────────────────────────

SAID = """\
student   run/students/heal-seed3/stage4
sampled   4 training problems · 10,074 tokens
          48 traces: 24 correct · 24 wrong
          4 problems: 2 easy · 2 extreme
repair    24 wrong traces of 2 extreme problems
          few: a second round has little to teach; give it harder problems
held out  the same 3 problems, in strata by 60 traces of the teacher's
wrote     said-traces.jsonl
wrote     said.yaml
next      heal run said.yaml
"""


def test_it_reads_exactly_like_this_and_the_same_again(heal: Heal) -> None:
    command = ("round", "run", "--out", "said.yaml", "--json", "said.json")
    with scripted_student(STUDENT) as student:
        code, out, err = heal(*command)
        asked = student.asked
        assert heal(*command)[:2] == (code, out)
        assert student.asked == asked, "a finished round asks no model"
    assert (code, out, err) == (0, SAID, "")
    told = json.loads(Path("said.json").read_text())
    assert (told["wrong"], told["held_out_traces"], told["run"]) == (24, 60, "said")


def test_a_student_that_solves_everything_leaves_nothing_to_repair(heal: Heal) -> None:
    names = ("apples", "limes", "melons", "kiwis")
    with scripted_student([unaided(name, right(name, "own")) for name in names]):
        _, out, _ = heal("round", "run", "-o", "none.yaml", "--seed", "4", "--set", "sampling.n=3")
    assert "          4 problems: 4 easy\nrepair    0 wrong traces of 0 extreme problems\n" in out
    assert "nothing for the teacher to repair: the second round would train" in out
    assert load("none.yaml").sampling.n == 3


def test_the_real_student_is_sampled_and_what_it_does_not_finish_is_told(heal: Heal) -> None:
    few = ("--set", "sampling.n=2", "--set", "sampling.max_new_tokens=5")
    code, out, err = heal("round", "run", "--out", "real.yaml", *few)
    assert code == 0, err
    assert "4 training problems · 40 tokens\n          8 traces: 8 truncated\n" in out
    rows = [json.loads(line) for line in Path("real-traces.jsonl").read_text().splitlines()]
    assert {row["by"]: set(row["finish_reasons"]) for row in rows} == {
        "student": {"length"},
        "teacher": {"stop"},
    }
    assert {verdict for row in rows if row["by"] == "student" for verdict in row["correct"]} == {
        None
    }


def test_attempts_that_the_engine_lost_are_in_no_file_and_are_counted(heal: Heal) -> None:
    rules = [*STUDENT[:3], {"match": "many kiwis ", "error": "out of memory"}]
    with scripted_student(rules):
        code, out, _ = heal("round", "run", "--out", "lost.yaml", "--set", "seed=20")
    assert code == 0
    assert "          12 attempts lost to the engine, in no file\n" in out
    assert "          36 traces: 24 correct · 12 wrong\n" in out


# ── to be gone on with ──────────────────────────────────────────────────────────────────────────


class Dying(Counted):
    """Is interrupted after so many answers."""

    def generate(self, requests: Any) -> Iterator[Any]:
        for answer in super().generate(requests):
            if Counted.asked > 20:
                raise KeyboardInterrupt
            yield answer


def test_an_interrupted_round_goes_on_where_it_was(heal: Heal, copied: Path) -> None:
    command = ("round", str(copied), "--set", "seed=9")
    recipe, traces = Path(f"{copied}-round2.yaml"), Path(f"{copied}-round2-traces.jsonl")
    with small_batches(), scripted_student(STUDENT, Dying):
        code, _, err = heal(*command)
    assert code == 130 and "the same command continues" in err
    assert not recipe.exists() and not traces.exists()
    with scripted_student(STUDENT) as student:
        assert heal(*command)[0] == 0
        left = student.asked
    assert 0 < left < 4 * N, "what was stored is not asked again"
    with scripted_student(STUDENT) as student:
        assert heal("round", "run", "--set", "seed=9", "--out", "whole.yaml")[0] == 0
        assert student.asked == 4 * N
    assert traces.read_bytes() == Path("whole-traces.jsonl").read_bytes()


def json_rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def test_the_first_run_stays_complete(first: ScriptedRun, second: Path) -> None:
    assert not first.go().answers.total()
    assert first.meta("complete")


# ── problems ────────────────────────────────────────────────────────────────────────────────────


def test_problems_that_only_traces_gave_are_given_by_the_new_traces(
    first: ScriptedRun, copied: Path
) -> None:
    """Made of the first run's folder, as if its traces had been imported without a problem file."""
    with Store.open(copied) as store:
        tree = store.meta("config")
        tree["problems"]["path"] = None
        tree["problems"]["traces"] = {"path": "gone.jsonl"}
        store.set_meta("config", tree)
    with scripted_student(STUDENT), unsynced():
        make_round(plan_round(copied, Path("bare.yaml")), Watch())
    problems = load("bare.yaml").problems
    assert all(getattr(problems, name) is None for name in SOURCES)
    found = read_problems(problems, Path.cwd()).problems
    assert {problem.id: problem for problem in found} == problems_of(first.folder)


def test_problems_that_changed_are_refused_before_anything_is_sampled(
    heal: Heal, at_home: ScriptedRun
) -> None:
    rows = at_home.world[0]
    at_home.write_problems(rows[:-1])
    try:
        with scripted_student(STUDENT) as student:
            code, _, err = heal("round", "run", "--out", "changed.yaml", "--set", "sampling.n=5")
    finally:
        at_home.write_problems(rows)
    assert (code, student.asked) == (2, 0)
    assert err == (
        "heal: run: its problems have changed since: 1 gone; what was held out would not be\n"
        "  → undo that, or bring the run up to date: heal run run/config.yaml\n"
    )
    code, _, err = heal("round", "run", "--set", "problems.held_out=0.8", "--out", "changed.yaml")
    assert code == 2 and "on the other side of the split" in err


# ── refusals ────────────────────────────────────────────────────────────────────────────────────

REFUSALS = {
    "no run": (
        ("students",),
        "students: not a run folder\n  → heal run -c FILE.yaml makes one",
    ),
    "unknown arm": (
        ("run", "--arm", "star"),
        "run: no arm 'star' was trained; trained are heal\n  → heal round run --arm heal",
    ),
    "unknown seed": (
        ("run", "--seed", "7"),
        "run: heal was not trained under seed 7; its seeds are 3, 4\n"
        "  → heal round run --arm heal --seed 3",
    ),
    "its own folder": (
        ("run", "--out", "run.yaml"),
        "run: the second run would be in the first one's folder\n"
        "  → heal round run --out run-round2.yaml",
    ),
    "a folder": (
        ("run", "--out", "run/students"),
        "run/students: is a folder\n  → heal round run --out run/students/round2.yaml",
    ),
    "another's recipe": (
        ("run", "--out", "recipe.yaml"),
        "recipe.yaml: is there already, and says something else\n"
        "  → heal round run --out OTHER.yaml, or --force to write over it",
    ),
    "no teacher": (
        ("run", "--set", "teacher=null"),
        "run: a run without a teacher, who would repair\n"
        "  → name one: heal round run --set teacher.model=FOLDER",
    ),
    "an unknown setting": (
        ("run", "--set", "sampling.m=3"),
        "run-round2.yaml: unknown key 'sampling.m'; did you mean 'sampling.n'?\n"
        "  → see every setting with: heal config",
    ),
    "code": (
        ("run", "--set", "problems.verifier=own:check"),
        "problems.verifier: own:check is code",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_done_is_refused_with_the_command_that_can(name: str, heal: Heal) -> None:
    words, message = REFUSALS[name]
    code, out, err = heal("round", *words)
    assert code == 2 and not out
    assert message in err


def test_weights_that_are_gone_name_a_student_that_is_there(heal: Heal) -> None:
    weights = Path("run/students/heal-seed4/stage4/model.safetensors")
    weights.rename("kept")
    try:
        code, _, err = heal("round", "run", "--seed", "4")
    finally:
        Path("kept").rename(weights)
    assert code == 2
    assert err == (
        "heal: run/students/heal-seed4/stage4: the student's weights are gone\n"
        "  → heal round run --arm heal --seed 3, or bring them back\n"
    )


def test_a_run_that_has_trained_nobody_is_refused(heal: Heal, at_home: ScriptedRun) -> None:
    with unsynced(), patch(PAGE, lambda view: "no charts"):
        execute(load("recipe.yaml", ["run=half"]), Watch(), until="select")
        execute(load("recipe.yaml", ["run=data", "student=null"]), Watch(), until="verify")
    _, _, err = heal("round", "half")
    assert err == (
        "heal: half: no student is trained to the end yet\n  → heal run half/config.yaml\n"
    )
    _, _, err = heal("round", "data")
    assert err == (
        "heal: data: a run without a student\n"
        "  → heal run data/config.yaml --set student.model=FOLDER\n"
    )


def test_secrets_are_asked_for_and_never_written(
    heal: Heal, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(copied) as store:
        tree = store.meta("config")
        tree["engine"]["http"]["api_key"] = "**********"
        store.set_meta("config", tree)
    code, _, err = heal("round", str(copied))
    assert code == 2
    assert err == (
        f"heal: {copied}/config.yaml: engine.http.api_key holds a secret, which no run folder"
        " keeps\n"
        f"  → heal round {copied} --set 'engine.http.api_key=${{NAME}}'\n"
    )
    monkeypatch.setenv("MY_KEY", "hush-hush-hush")
    with scripted_student(STUDENT):
        code, _, err = heal("round", str(copied), "--set", "engine.http.api_key=${MY_KEY}")
    assert code == 0, err
    text = Path(f"{copied}-round2.yaml").read_text()
    assert "api_key: ${MY_KEY}" in text and "hush" not in text


def test_thinking_that_the_students_prompt_opens_is_in_the_file(copied: Path) -> None:
    template = copied / "students/heal-seed3/stage4/chat_template.jinja"
    opens = "<|start|>assistant\n"
    assert opens in template.read_text()
    template.write_text(template.read_text().replace(opens, f"{opens}<think>\n"))
    with (
        scripted_student([{"match": "", "replies": ["I add.</think>\n\n\\boxed{142}"]}]),
        unsynced(),
    ):
        make_round(plan_round(copied, overrides=["seed=30"]), Watch())
    said = {
        text
        for row in json_rows(f"{copied}-round2-traces.jsonl")
        if row["by"] == "student"
        for text in row["generations"]
    }
    assert said == {"<think>\nI add.</think>\n\n\\boxed{142}"}


# ── the benchmark ───────────────────────────────────────────────────────────────────────────────


def test_the_benchmark_sets_both_second_rounds_against_each_other_and_the_first() -> None:
    strata = {f"p{i}": ("easy", "hard", "extreme")[i % 3] for i in range(12)}
    right = {bench_rounds.ONE: {"easy"}, bench_rounds.TWO: {"easy", "hard"}}
    rows = [
        AttemptRow(problem, arm, seed, 0, f"{arm}{seed}{problem}", verdict, None, "stop", 9, None)
        for arm in bench_rounds.ARMS
        for seed in ((0,) if arm == "base" else (0, 1))
        for problem, stratum in strata.items()
        for verdict in ("correct" if stratum in right.get(arm, ()) else "wrong",)
    ]
    with patch("benchmarks.bench_rounds.known", lambda first: (strata, dict.fromkeys(strata, "f"))):
        found, own = bench_rounds.compared(rows, load_over(MINIMAL, []))
    by = {(c.arm, c.against, c.stratum): c for c in own}
    assert len(own) == len(by) == 18
    two, one, plain = bench_rounds.TWO, bench_rounds.ONE, bench_rounds.PLAIN_TWO
    assert by[two, one, "hard+extreme"].interval.mean == 0.5
    assert by[two, one, "easy"].interval.mean == 0
    assert by[plain, one, "easy"].interval.mean == -1
    assert [(c.arm, c.against, c.stratum) for c in own if c.primary] == [
        (two, plain, "hard+extreme")
    ]
    lines = bench_rounds.page(found, own, []).splitlines()
    (line,) = (line for line in lines if line.startswith(f"| {two} − {plain} |"))
    assert line.split(" | ")[1].startswith("100.0 [")
