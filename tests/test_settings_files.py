"""Recipes and model folders from anybody: read, or refused with a line, in bounded time."""

import copy
import json
import os
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.http_server import write_byte_tokenizer
from tests.tiny_models import make_checkpoint

from heal.config import Config
from heal.engines import model_files, read_tokenizer, read_weights, resolve_model
from heal.engines.http.tokenizer import open_tokenizer
from heal.engines.local.engine import open_local
from heal.errors import HealError, UserError
from heal.recipe import load, parse

GOOD = """\
run: runs/x
problems: {path: p.jsonl}
teacher: {model: m}
"""
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
BOMBS = {
    "aliases that multiply": (LAUGHS, r":\d+: more than 20,000 values"),
    "a hundred thousand brackets": ("run: " + "[" * 100_000, ":1: nested more than 32 deep"),
    "a hundred thousand braces": ("{a: " * 30_000, ":1: nested more than 32 deep"),
    "dashes": ("- " * 100_000, ":1: nested more than 32 deep"),
    "an anchor in itself": ("run: &a [*a]", r":1: \*a stands inside what it names"),
    "a merge of itself": ("run: &a\n  <<: *a", r":2: \*a stands inside what it names"),
    "a number of 5,000 digits": (f"seed: {'9' * 5000}", ":1: a number of 5,000 characters"),
    "a number in base 60": (f"seed: {':'.join(['59'] * 99)}", ":1: a number of 296 characters"),
    "a name given twice": (GOOD + "seed: 1\nseed: 2", ":5: 'seed' is given twice, first in line 4"),
    "a section given twice": (GOOD + "teacher: {model: b}", ":4: 'teacher' is given twice"),
    "a name given twice inside": ("run: {a: 1, b: 2, a: 3}", ":1: 'a' is given twice"),
    "infinity": (GOOD + "engine: {http: {give_up_s: .inf}}", ":4: not a finite number"),
    "minus infinity": (GOOD + "seed: -.inf", ":4: not a finite number"),
    "not a number": (GOOD + "train: {learning_rate: .nan}", ":4: not a finite number"),
    "beyond floats": (GOOD + "train: {learning_rate: 1.0e+999}", ":4: not a finite number"),
    "a NUL": ('run: "a\\0b"', ":1: holds a NUL character"),
    "half a character": ('run: "\\ud800"', ":1: holds half a character"),
    "a date that is none": ("run: 2024-13-45", ":1: cannot be read: month must be in 1..12"),
    "a raw control character": ("run: a\x07b", ":1: special characters are not allowed"),
    "a tag for Python": ("run: !!python/object/apply:os.system [true]", ":1: could not determine"),
    "a tag on what it does not fit": ("run: !!int hello", ":1: cannot be read: invalid literal"),
    "many settings": ("".join(f"k{n}: 1\n" for n in range(12_000)), ":10000: more than 20,000"),
    "a large file": ("#" * (1 << 18) + "\n", "more than 256 KiB of settings"),
}


@contextmanager
def modest(seconds: float = 20.0, megabytes: float = 100.0) -> Iterator[None]:
    """Refused early: in seconds of a slow core whose every allocation is traced, not in hours."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert time.process_time() - began < seconds
    assert peak < megabytes * 1e6


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    text, message = BOMBS[name]
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with modest(), pytest.raises(UserError, match=rf"recipe\.yaml.*{message}") as caught:
        load(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("problems.args.x=.inf", "--set problems.args.x: not valid YAML: not a finite number"),
        (f"seed={'9' * 5000}", "a number of 5,000 characters"),
        ("gear.hint_talk=" + "[" * 100_000, "nested more than 32 deep"),
        ("a." * 50_000 + "b=1", "nested more than 32 deep"),
        (f"run={'x' * 300}", "run: longer than any path can be"),
        (f"teacher.model={'x/' * 3000}", r"teacher\.model: longer than any path can be"),
    ],
)
def test_an_override_has_the_same_limits(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD)
    with modest(), pytest.raises(UserError, match=message):
        load(path, [override])


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        ({"path": "a\0b"}, r"problems\.path: holds a NUL character"),
        ({"path": "p", "args": {"x": float("nan")}}, r"problems\.args\.x: not a finite number"),
        ({"path": "p", "args": {"x": 10**400}}, r"problems\.args\.x: a number too large"),
    ],
)
def test_a_tree_from_a_program_has_the_same_limits(problems: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse({**yaml.safe_load(GOOD), "problems": problems})


def test_a_tree_that_holds_itself_is_refused() -> None:
    args: dict[str, Any] = {}
    args["again"] = args
    with pytest.raises(UserError, match="nested more than 32 deep"):
        parse({**yaml.safe_load(GOOD), "problems": {"path": "p", "args": args}})


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([9, 9, 9], "less than or equal to 1"),
        ([0.5, 0.5, 0.5], "the shares add up to 1.5, not to 1"),
        ([1.5, -0.25, -0.25], "greater than or equal to 0"),
    ],
)
def test_the_shares_of_the_stages_add_up(shares: list[float], message: str) -> None:
    with pytest.raises(UserError, match=rf"pace\.stage_share.*{message}"):
        parse({**yaml.safe_load(GOOD), "pace": {"stage_share": shares}})


def test_three_thirds_and_an_empty_stage_are_shares() -> None:
    for shares in ([0.333, 0.333, 0.333], [1, 0, 0]):
        assert parse({**yaml.safe_load(GOOD), "pace": {"stage_share": shares}})


def test_aliases_and_merges_that_people_write_are_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "run: r\nproblems: {path: p}\nteacher: &t {model: m, engine: local}\n"
        "scorer:\n  <<: *t\n  model: other\n"
    )
    config = load(path)
    assert config.scorer is not None
    assert (config.scorer.model, config.scorer.engine) == ("other", "local")


# ── fuzzed recipes ──────────────────────────────────────────────────────────────────────────────

PIECES = [
    *"[]{}:,&*!|>%@`\"'#?-\n ~",
    "&a ", "*a", "<<: *a\n", "- ", ": ", "!!int ", "!!binary ", "!!timestamp ", "!!set ", "!!omap ",
    ".inf", ".nan", "0x" + "f" * 40, "1_000", "0o7", "2024-02-30", "2001-12-14t21:59:43.10-25:00",
    "\t", "\x00", "\u2028", "\ufeff", "\U0001f600", "---\n", "...\n", "%YAML 9.9\n", "null", "true",
    "\"\\ud800\"", "\"\\x00\"", "? ", "run: ", "pace: {stage_share: [1, 0, 0]}\n", "seed: 1e999\n",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, -1, 0, 1e308, -0.0, 10**30, "", "x", "a" * 5000, "\u202e", "${HOME}", "${", "1:1",
    [], {}, [[]], {"a": {"b": 1}}, [1, "2", None], b"\xff", "os:system", "http://u:p@h", {"": ""},
]  # fmt: skip
FULL = Config.model_validate(yaml.safe_load(GOOD)).model_dump(mode="json")


def survives(call: Callable[[], Any]) -> bool:
    """Whether it was read; anything but a `HealError` fails the test."""
    try:
        call()
    except HealError as error:
        assert len(str(error)) < 3000
        return False
    return True


def test_six_hundred_broken_recipes_end_in_no_traceback(tmp_path: Path) -> None:
    dice, path = random.Random(17), tmp_path / "recipe.yaml"
    began = time.process_time()
    for _ in range(600):
        text = yaml.safe_dump(yaml.safe_load(GOOD)) if dice.random() < 0.5 else GOOD
        for _ in range(dice.randrange(1, 6)):
            at = dice.randrange(len(text) + 1)
            cut = dice.randrange(4)
            text = text[:at] + dice.choice(PIECES) * dice.choice([1, 1, 9]) + text[at + cut :]
        path.write_text(text, "utf-8", "surrogatepass", newline="")
        survives(lambda: load(path))
    assert time.process_time() - began < 60


def test_six_hundred_recipes_with_odd_values_end_in_no_traceback() -> None:
    dice, read = random.Random(18), 0
    for _ in range(600):
        tree = copy.deepcopy(FULL)
        for _ in range(dice.randrange(1, 3)):
            node: Any = tree
            while True:
                key = dice.choice(list(node) or ["new"])
                if isinstance(node.get(key), dict) and node[key] and dice.random() < 0.8:
                    node = node[key]
                    continue
                node[key] = dice.choice(VALUES)
                break
        read += survives(lambda tree=tree: parse(tree))  # type: ignore[misc]
    assert 20 < read < 580


def test_any_bytes_are_a_recipe_or_a_refusal(tmp_path: Path) -> None:
    dice, path = random.Random(19), tmp_path / "recipe.yaml"
    for size in range(300):
        path.write_bytes(dice.randbytes(size))
        survives(lambda: load(path))


# ── model folders ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a model that can be opened."""
    folder = make_checkpoint(tmp_path_factory.mktemp("whole"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path, whole: dict[str, bytes]) -> Path:
    return fill(tmp_path / "model", whole)


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def with_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def written(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def linked(name: str, to: str) -> Callable[[Path], None]:
    def link(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(to)

    return link


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


BROKEN = {
    "a list": (written("config.json", "[1, 2]"), "config.json: holds a list, not an object"),
    "bad JSON": (written("config.json", '{"a": '), "config.json: not valid JSON"),
    "no UTF-8": (written("config.json", b'{"a": "\xff"}'), "config.json: not valid JSON"),
    "empty": (written("config.json", ""), "config.json: not valid JSON"),
    "deep": (written("config.json", '{"a":' + "[" * 99_999), "config.json: nested too deeply"),
    "digits": (written("config.json", '{"a":' + "9" * 5000 + "}"), "config.json: not valid JSON"),
    "large": (written("config.json", " " * (1 << 25)), "config.json: more than 16 MiB"),
    "a million layers": (with_config(num_hidden_layers=10**6), "config.json: 1,000,000 layers"),
    "no count of layers": (with_config(num_hidden_layers=float("inf")), "config.json: inf layers"),
    "fewer than no layers": (with_config(num_hidden_layers=-1), "config.json: -1 layers"),
    "layers within": (with_config(text_config={"n_layer": 10**6}), "1,000,000 layers"),
    "a vast vocabulary": (with_config(vocab_size=10**12), "vocab_size is 1,000,000,000,000"),
    "a vast width": (with_config(hidden_size=10**7), "does not fit weights of"),
    "layers as text": (with_config(num_hidden_layers="many"), "cannot be opened"),
    "layers without weights": (with_config(num_hidden_layers=9), "weights are missing, model.la"),
    "a link to nothing": (
        linked("model.safetensors", "../gone"),
        "a link to ../gone, which is not",
    ),
    "a link to itself": (linked("config.json", "config.json"), "a link to config.json, which"),
    "a tokenizer that is gone": (
        linked("tokenizer.json", "/gone"),
        "a link to /gone, which is not",
    ),
    "a pipe": (pipe, "no config.json"),
    "a tokenizer of words": (written("tokenizer.json", "words"), "tokenizer cannot be opened"),
    "a tokenizer that is a list": (written("tokenizer.json", "[]"), "tokenizer cannot be opened"),
    "a deep tokenizer": (written("tokenizer.json", "[" * 99_999), "tokenizer cannot be opened"),
    "weights of words": (written("model.safetensors", b"\xff" * 5000), ""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_folder_is_refused_and_named(folder: Path, name: str) -> None:
    breaks, message = BROKEN[name]
    breaks(folder)
    began = time.process_time()
    with pytest.raises(HealError) as caught:
        open_local(str(folder)).close()
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert time.process_time() - began < 10


@pytest.mark.parametrize("model", ["a\0b", "x" * 5000, "pkg://", "pkg://..", "~nobody-here/x", ""])
def test_a_name_that_is_no_path_is_refused(model: str) -> None:
    with pytest.raises(UserError):
        resolve_model(model)


@pytest.mark.parametrize("name", ("a list", "bad JSON", "deep", "empty"))
def test_a_broken_config_beside_a_served_tokenizer_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_byte_tokenizer(tmp_path)
    breaks, message = BROKEN[name]
    breaks(folder)
    with pytest.raises(UserError) as caught:
        open_tokenizer(str(folder))
    assert message in str(caught.value)


def test_odd_ends_beside_a_served_tokenizer_are_no_ends(tmp_path: Path) -> None:
    folder = write_byte_tokenizer(tmp_path)
    odd = {"eos_token_id": {"a": 1}, "vocab_size": "many"}
    (folder / "generation_config.json").write_text(json.dumps(odd))
    assert open_tokenizer(str(folder)).tokens.end_ids


@pytest.mark.parametrize("pattern", [r"(a+)+b", r"(a|a)*c", r"(?:(?:a*)*)*d"])
def test_a_tokenizer_whose_pattern_does_not_end_is_refused_in_time(
    folder: Path, pattern: str
) -> None:
    path = folder / "tokenizer.json"
    tree = json.loads(path.read_text())
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, tree["pre_tokenizer"]]}
    path.write_text(json.dumps(tree))
    tokenizer, began = read_tokenizer(folder), time.process_time()
    for length in (10, 50, 5_000):
        survives(lambda length=length: tokenizer.encode("a" * length))  # type: ignore[misc]
    assert time.process_time() - began < 10


JSON_VALUES: list[Any] = [None, [], {}, -1, 0, 1.5, 10**9, "x", True, [1, "a"], {"a": []}, "\ud800"]


def test_four_hundred_broken_model_folders_end_in_no_traceback(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    dice, opened, slowest = random.Random(20), 0, 0.0
    openers = (model_files, lambda f: read_tokenizer(Path(f)), open_tokenizer, _weights)
    names = [n for n in whole if n.endswith(".json")]
    for number in range(400):
        files, name = dict(whole), dice.choice(sorted(whole))
        if dice.random() < 0.5:
            name = dice.choice(names)
            tree = json.loads(files[name])
            tree[dice.choice(sorted(tree))] = dice.choice(JSON_VALUES)
            files[name] = json.dumps(tree).encode()
        else:
            content = files[name]
            at = dice.randrange(len(content))
            files[name] = content[:at] + dice.randbytes(dice.randrange(9)) + content[at + 4 :]
            if dice.random() < 0.3:
                files[name] = content[:at]
        folder = fill(tmp_path / str(number), files)
        began = time.process_time()
        opened += survives(lambda folder=folder: dice.choice(openers)(str(folder)))  # type: ignore[misc]
        slowest = max(slowest, time.process_time() - began)
    assert opened > 20
    assert slowest < 5


def _weights(folder: str) -> None:
    read_weights(resolve_model(folder))
