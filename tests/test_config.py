"""Settings: one YAML, every mistake named with the nearest known key."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from heal.cli.settings_page import meaning, reference, resolved_yaml
from heal.config import Config, Evaluate
from heal.errors import UserError
from heal.reach import first_stage
from heal.recipe import leaves, load, parse, submodel
from heal.records import Breakpoint

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))

SMALLEST: dict[str, Any] = {
    "run": "runs/x",
    "problems": {"path": "p.jsonl"},
    "teacher": {"model": "m"},
}


def write(folder: Path, tree: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_parses(path: Path) -> None:
    assert load(path).run.startswith("runs/")


def test_an_override_reaches_any_depth(tmp_path: Path) -> None:
    config = load(write(tmp_path, SMALLEST), ["gear.target=null", "problems.fields.answer=gold"])
    assert config.gear.target is None
    assert config.problems.fields.answer == "gold"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "gear.brakpoint=difference",
            "unknown key 'gear.brakpoint'; did you mean 'gear.breakpoint'",
        ),
        ("samplng.n=3", "unknown key 'samplng'; did you mean 'sampling'"),
        ("sampling.n=0", "sampling.n: must be greater than or equal to 1"),
        ("sampling.n=many", "sampling.n: must be a whole number"),
        ("gear.breakpoint=middle", "gear.breakpoint: must be 'difference'"),
        ("sampling.n", "--set sampling.n: expected a.b=value"),
        ("problems.gym.task=gsm_symbolic", "give exactly one of path, hub, gym, source"),
    ],
)
def test_a_mistaken_setting_is_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, SMALLEST), [override])
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("arm", "own"), [("heal-random-cut", "random"), ("heal-restart", "restart")]
)
def test_a_control_that_would_cut_as_heal_does_is_refused(arm: str, own: str) -> None:
    both = SMALLEST | {"arms": ["rft", "heal", arm]}
    with pytest.raises(UserError, match=f"the arm '{arm}' is 'heal' itself") as caught:
        parse(both | {"gear": {"breakpoint": own}})
    assert "--set gear.breakpoint=difference" in str(caught.value)
    assert parse(both | {"gear": {"breakpoint": "difference"}}).arms[-1] == arm
    assert parse(both | {"preset": "paper"}).arms[-1] == arm


def test_the_default_preset_cuts_at_random_and_the_papers_by_entropy() -> None:
    assert parse(SMALLEST).gear.breakpoint is Breakpoint.RANDOM
    assert parse(SMALLEST | {"gear": {"paths": 2}}).gear.breakpoint is Breakpoint.RANDOM
    assert parse(SMALLEST | {"preset": "paper"}).gear.breakpoint is Breakpoint.DIFFERENCE


def test_several_mistakes_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, SMALLEST), ["sampling.n=0", "pure.drop=2"])
    assert "sampling.n" in str(caught.value)
    assert "pure.drop" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty, or not a mapping"),
        ("- a\n- b\n", "empty, or not a mapping"),
        ("run: x\n  teacher: [\n", "recipe.yaml:2:"),
    ],
)
def test_a_file_that_is_no_recipe_is_named_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, text))


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "nope.yaml")
    with pytest.raises(UserError, match="a folder, not a recipe"):
        load(tmp_path)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"run: caf\xe9\n")
    with pytest.raises(UserError, match="not UTF-8 at byte 8"):
        load(path)


def test_the_environment_is_for_secrets_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", "somewhere")
    with pytest.raises(UserError, match="for secrets only"):
        parse(SMALLEST | {"teacher": {"model": "${MODEL}"}})


def test_the_tree_is_frozen() -> None:
    config = parse(SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        config.sampling.n = 3  # type: ignore[misc]


def test_a_resolved_config_reads_back_as_itself(tmp_path: Path) -> None:
    config = parse(SMALLEST)
    assert load(write(tmp_path, resolved_yaml(config))) == config


@pytest.mark.parametrize("key", [key for key, _ in leaves()])
def test_every_setting_says_which_stage_it_reaches(key: str) -> None:
    stage = first_stage(key)
    free = key.split(".")[0] in {"run", "preset", "limits", "engine"}
    rounding = key in {"engine.local.weights", "engine.local.dtype"}
    how = key == "problems.verify_workers" or key.startswith(("teacher.serve.", "scorer.serve."))
    assert (stage is None) == ((free and not rounding) or how)


def test_the_reference_names_every_setting_and_nothing_is_unexplained_twice() -> None:
    page = reference()
    for key, _ in leaves():
        assert f"{key.split('.')[-1]}:" in page


def test_every_setting_whose_none_means_something_says_what() -> None:
    def walk(model: type[BaseModel]) -> list[str]:
        silent = []
        for name, info in model.model_fields.items():
            inner = submodel(info.annotation)
            if inner is not None:
                silent += walk(inner)
            elif info.default is None and "None" not in meaning(model, name):
                silent.append(f"{model.__name__}.{name}")
        return silent

    assert walk(Config) == ["Problems.path", "Problems.hub", "Problems.source"]
    assert "None takes" in meaning(Evaluate, "max_new_tokens")
