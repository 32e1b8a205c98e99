"""Recipes and model folders are data: what they bring is not run unless the user says so."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.scripted_run import ScriptedRun, unsynced
from tests.tiny_models import make_checkpoint

from heal import functions
from heal.cli import main
from heal.config import Problems
from heal.engines import model_files, open_engine, read_tokenizer, read_weights, resolve_model
from heal.engines.local.engine import open_local
from heal.errors import UserError
from heal.functions import TRUSTED, load_function, require_allowed
from heal.recipe import parse
from heal.students.rendering import read_tokenizer as read_students_tokenizer
from heal.students.train import read_model
from heal.verifiers import edition, open_verifier

MARK = "from pathlib import Path\nPath({!r}).touch()\n"
SOURCE = (
    "import json\n"
    "def rows():\n"
    "    with open('problems.jsonl') as file: return [json.loads(line) for line in file]\n"
)
JUDGE = "def judge(text, answer): return '\\\\boxed{' + answer + '}' in text\n"
VERBS = ("run", "sample", "select", "evaluate", "check", "audit pure")


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_allowed", False)
    monkeypatch.setattr(functions, "_named", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    edition.__globals__["function_edition"].cache_clear()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder somebody sent: a recipe, its data and modules beside it that leave a mark."""
    ScriptedRun(tmp_path)
    for name, text in (("their_source", SOURCE), ("their_judge", JUDGE)):
        (tmp_path / f"{name}.py").write_text(MARK.format(str(tmp_path / "RAN")) + text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text(MARK.format(str(tmp_path / "RAN")))
    (package / "inner.py").write_text(JUDGE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_problems(home: Path, **problems: Any) -> None:
    path = home / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    kept = {k: v for k, v in recipe["problems"].items() if k != "path" or "source" not in problems}
    path.write_text(yaml.safe_dump({**recipe, "problems": {**kept, **problems}}))


@pytest.fixture
def shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["heal", *words])
        with pytest.raises(SystemExit) as ended, unsynced():
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return call


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "named",
    [
        {"source": "os:system", "args": {"command": "touch RAN"}},
        {"source": "their_source:rows"},
        {"source": "subprocess:check_output", "args": {"args": ["touch", "RAN"]}},
        {"source": "heal.lab.build:train", "args": {"out": "RAN"}},
        {"verifier": "their_judge:judge"},
        {"verifier": "their_package.inner:judge"},
    ],
    ids=lambda named: str(next(iter(named.values()))),
)
def test_a_recipe_alone_runs_nobodys_code(
    home: Path, shell: Callable[..., tuple[int, str]], verb: str, named: dict[str, Any]
) -> None:
    with_problems(home, **named)
    setting, spec = next(iter(named.items()))
    code, said = shell(*verb.split(), "-c", "recipe.yaml", "--set", "seed=0")
    assert code == 2
    assert f"problems.{setting}: {spec} is code" in said
    assert f"heal {verb} -c recipe.yaml --set seed=0 --allow-code" in said
    assert not (home / "RAN").exists()
    assert not (home / "run").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_recipe_alone_runs_nobodys_step_checker(
    home: Path, shell: Callable[..., tuple[int, str]], verb: str
) -> None:
    words = ["-c", "recipe.yaml", "--set", "steps.checker=their_judge:judge"]
    code, said = shell(*verb.split(), *words)
    assert (code, "steps.checker: their_judge:judge is code" in said) == (2, True), said
    assert f"heal {verb} {' '.join(words)} --allow-code" in said
    assert not (home / "RAN").exists()
    assert not (home / "run").exists()


def test_a_recipe_cannot_allow_itself() -> None:
    for where in ({"allow_code": True}, {"problems": {"path": "p", "allow_code": True}}):
        with pytest.raises(UserError, match="unknown key"):
            parse({"run": "r", "teacher": {"model": "m"}, "problems": {"path": "p"}, **where})


def test_what_the_user_allows_runs_and_is_recorded(
    home: Path, shell: Callable[..., tuple[int, str]]
) -> None:
    with_problems(home, source="their_source:rows", verifier="their_judge:judge")
    code, said = shell("verify", "-c", "recipe.yaml", "--allow-code")
    assert code == 0, said
    assert (home / "RAN").exists()
    assert "runs by --allow-code: their_judge:judge, their_source:rows" in said
    assert "ran by --allow-code: their_judge:judge, their_source:rows" in shell("show", "run")[1]


def test_a_users_own_word_on_the_command_line_is_enough_for_one_answer(
    home: Path, shell: Callable[..., tuple[int, str]]
) -> None:
    code, said = shell("verify-answer", r"\boxed{4}", "4", "--verifier", "their_judge:judge")
    assert (code, "verdict: correct" in said) == (0, True), said


@pytest.mark.parametrize("spec", sorted(TRUSTED))
def test_what_ships_with_an_installed_package_may_be_named(spec: str) -> None:
    require_allowed(spec, "problems.source")
    assert callable(load_function(spec, "problems.source"))


def test_a_package_beside_the_recipe_is_not_the_installed_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "reasoning_gym.py").write_text(MARK.format(str(home / "RAN")))
    monkeypatch.syspath_prepend(home)
    monkeypatch.delitem(sys.modules, "reasoning_gym", raising=False)
    with pytest.raises(UserError, match="reasoning_gym:create_dataset is code"):
        load_function("reasoning_gym:create_dataset", "problems.source")
    assert not (home / "RAN").exists()


def test_a_worker_process_allows_what_its_pool_was_allowed_and_nothing_else(home: Path) -> None:
    settings = Problems(path="p", verifier="their_judge:judge")
    opened = open_verifier(settings)
    try:
        with pytest.raises(UserError, match="their_judge:judge is code"):
            opened.preflight([])
            opened.check("x", _problem())
    finally:
        opened.close()
    assert not (home / "RAN").exists()
    functions.allow_code()
    opened = open_verifier(settings)
    try:
        assert opened.check(r"\boxed{4}", _problem()).verdict == "correct"
    finally:
        opened.close()


def _problem() -> Any:
    from heal.records import Problem

    return Problem("p", "2 + 2?", "4")


def test_the_name_of_a_verifier_imports_nothing(home: Path) -> None:
    with pytest.raises(UserError, match="is code"):
        edition("their_package.inner:judge")
    assert not (home / "RAN").exists()


# ── model folders ───────────────────────────────────────────────────────────────────────────────

CLASSES = {
    "config.json": {
        "AutoConfig": "theirs.Config",
        "AutoModelForCausalLM": "theirs.Model",
        "AutoModel": "theirs.Model",
    },
    "tokenizer_config.json": {"AutoTokenizer": ["theirs.Tokenizer", "theirs.Tokenizer"]},
}


@pytest.fixture
def bringing_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose folder says that its own Python is needed; the terminal would say yes."""
    folder = make_checkpoint(tmp_path / "model")
    for name, classes in CLASSES.items():
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, "auto_map": classes}))
    (folder / "theirs.py").write_text(MARK.format(str(tmp_path / "RAN")))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return folder


OPENERS: dict[str, Callable[[Path], Any]] = {
    "the local engine": lambda folder: open_local(str(folder)),
    "any engine": lambda folder: open_engine(_ref(folder), parse(_recipe()).engine),
    "the student's weights": read_weights,
    "the student's tokenizer": read_tokenizer,
    "a trained student's weights": read_model,
    "a trained student's tokenizer": read_students_tokenizer,
    "a fingerprint": lambda folder: model_files(str(folder)),
    "a folder": lambda folder: resolve_model(str(folder)),
}


def _recipe() -> dict[str, Any]:
    return {"run": "r", "problems": {"path": "p"}, "teacher": {"model": "m"}}


def _ref(folder: Path) -> Any:
    return parse({**_recipe(), "teacher": {"model": str(folder)}}).teacher


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("known", [True, False])
def test_a_model_folder_runs_nothing_of_its_own(
    bringing_code: Path, tmp_path: Path, opener: str, known: bool
) -> None:
    if not known:
        config = json.loads((bringing_code / "config.json").read_text())
        (bringing_code / "config.json").write_text(json.dumps({**config, "model_type": "theirs"}))
    try:
        OPENERS[opener](bringing_code)
    except (UserError, ValueError) as error:
        assert not known
        if isinstance(error, UserError):
            assert "brings Python code of its own, which heal never runs" in str(error)
    assert not (tmp_path / "RAN").exists()
