"""`heal eval`: any model on any problems, resumable, comparable, in files others read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.scripted_run import unsynced
from tests.test_docs import DOCS
from tests.tiny_models import make_checkpoint

from heal.cli import main
from heal.data.benchmarks import BENCHMARKS, settings_of
from heal.engines.local import engine as local_engine
from heal.errors import UserError
from heal.store import AttemptRow, Store

Shell = Callable[[str], tuple[int, str]]
FEW = "--set evaluate.max_new_tokens=12 --set engine.local.threads=1"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny checkpoints and a problem file."""
    home = tmp_path_factory.mktemp("exam")
    make_checkpoint(home / "one", seed=1)
    make_checkpoint(home / "two", seed=2)
    rows = [{"question": f"What is {n} times 2?", "answer": str(2 * n)} for n in range(1, 7)]
    (home / "six.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "four.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[2:]))
    return home


@pytest.fixture
def shell(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """Runs a `heal …` command beside the models; its exit code and output."""
    monkeypatch.chdir(models)
    monkeypatch.setenv("COLUMNS", "80")

    def call(command: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", command.split())
        with pytest.raises(SystemExit) as ended, unsynced():
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return call


def attempts(folder: Path) -> dict[str, str]:
    with Store.open(folder, write=False) as store:
        return {row.key: row.verdict for row in store.rows(AttemptRow)}


def test_an_exam_gives_figures_attempts_and_details(shell: Shell, models: Path) -> None:
    code, said = shell(f"heal eval one -p six.jsonl -k 4 --out a --json a.json {FEW}")
    assert code == 0, said
    assert "one: 6 of 6 rows are used" in said
    for line in ("avg@4", "pass@2", "pass@4", "maj@4", "no answer", "truncated", "tokens, mean"):
        assert f"| {line} " in said
    figures = json.loads((models / "a.json").read_text())
    (score,) = figures["summary"]["arms"]
    assert (score["arm"], score["avg"]["n_problems"]) == ("one", 6)
    assert len(attempts(models / "a")) == 24


def test_its_details_are_read_by_datasets(shell: Shell, models: Path) -> None:
    shell(f"heal eval one -p six.jsonl -k 4 --out a {FEW}")
    from datasets import load_dataset

    rows = load_dataset(
        "parquet", data_files=str(models / "a/details.parquet"), cache_dir=str(models / "cache")
    )["train"]
    assert len(rows) == 6
    assert set(rows.column_names) == {"doc", "model_response", "metric"}
    for row in rows:
        assert len(row["model_response"]["text"]) == row["doc"]["num_samples"] == 4
        right = row["doc"]["specific"]["verdicts"].count("correct")
        assert row["metric"]["avg@4"] == right / 4


def test_the_same_exam_again_opens_no_model(
    shell: Shell, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"heal eval one -p six.jsonl -k 4 --out a {FEW}"
    first = shell(command)

    def never(*_: object) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(local_engine, "open_local", never)
    assert shell(command)[1].splitlines()[-12:] == first[1].splitlines()[-12:]


def test_more_samples_keep_those_that_are_there(shell: Shell, models: Path) -> None:
    shell(f"heal eval one -p six.jsonl -k 2 --out more {FEW}")
    before = attempts(models / "more")
    shell(f"heal eval one -p six.jsonl -k 3 --out more {FEW}")
    after = attempts(models / "more")
    assert (len(before), len(after)) == (12, 18)
    assert before.items() <= after.items()


def test_two_models_are_compared_on_the_problems_they_share(shell: Shell) -> None:
    shell(f"heal eval one -p four.jsonl -k 2 --out four {FEW}")
    code, said = shell(f"heal eval two -p six.jsonl -k 2 --out six --against four {FEW}")
    assert code == 0, said
    assert "2 problems left out of the comparison" in said
    assert "all problems: 4 problems × 2 attempts" in said
    assert "two − one" in said


def test_a_model_compared_with_itself_differs_by_nothing(shell: Shell, models: Path) -> None:
    shell(f"heal eval one -p six.jsonl -k 2 --out x {FEW}")
    code, _ = shell(f"heal eval one -p six.jsonl -k 2 --out y --against x --json y.json {FEW}")
    assert code == 0
    (difference,) = json.loads((models / "y.json").read_text())["summary"]["differences"]
    assert (difference["arm"], difference["against"]) == ("one", "one (x)")
    assert difference["interval"]["mean"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("two -p six.jsonl -k 2 --out a", "holds another exam"),
        ("one -p five.jsonl -k 2 --out b", "no such file"),
        ("one -p math-50", "did you mean math-500?"),
        ("nowhere -p six.jsonl", "nowhere"),
        ("one -p six.jsonl --against six.jsonl", "six.jsonl"),
    ],
)
def test_what_cannot_be_examined_is_refused_in_words(
    shell: Shell, arguments: str, words: str
) -> None:
    shell(f"heal eval one -p six.jsonl -k 4 --out a {FEW}")
    code, said = shell(f"heal eval {arguments} {FEW}")
    assert code == 2, said
    assert words in said
    assert "→" in said
    assert "Traceback" not in said


def test_a_benchmark_that_is_not_at_hand_says_how_to_get_it(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    code, said = shell("heal eval one -p math-500")
    assert code == 2, said
    assert "hf download --repo-type dataset HuggingFaceH4/MATH-500" in said


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_a_problem_source(name: str) -> None:
    from heal.config import Problems

    assert Problems.model_validate(settings_of(name)).hub == BENCHMARKS[name].hub


def test_no_benchmark_is_guessed() -> None:
    with pytest.raises(UserError, match="neither a file"):
        settings_of("mathematics")


def test_the_table_of_benchmarks_is_documented() -> None:
    text = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    for name, one in BENCHMARKS.items():
        where = f"{one.hub} · {one.subset}" if one.subset else one.hub
        row = f"| `{name}` | {one.problems} | {where} | {one.split} | {one.verifier} |"
        assert f"{row} {one.licence} |" in text


def test_a_recipe_lends_its_prompts_and_its_verifier(shell: Shell, models: Path) -> None:
    (models / "r.yaml").write_text(
        "run: r\nproblems: {path: six.jsonl, verifier: exact}\nteacher: {model: one}\n"
        "prompts: {solve: 'Please: {problem}'}\n"
    )
    code, said = shell(f"heal eval one -p six.jsonl -k 1 -c r.yaml --out lent {FEW}")
    assert code == 0, said
    settings = json.loads((models / "lent/eval.json").read_text())["settings"]
    assert settings["prompts"]["solve"] == "Please: {problem}"
    assert settings["problems"]["verifier"] == "exact"
