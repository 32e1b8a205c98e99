"""Read a recipe: one YAML file, a preset under it, `--set a.b=c` over it.

Fills `${NAME}` from the environment where a field is secret, and turns every mistake into a
`UserError` that names the key and the nearest known one.
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, SecretStr, ValidationError

from heal.bounded import YAML_BYTES, read_yaml, refusal
from heal.config import Config
from heal.errors import UserError
from heal.redaction import MASK, remember

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # In both worlds of the lab `surprisal` tells fudged from valid better than the plain ratio and
    # `calibrated`: LOG.md, the answer's own surprise.
    # A real teacher's fudged traces went from 33 % to none by the arithmetic checker's gate, which
    # kept 80 of 84 clean ones: LOG.md, yield of cuts, hints and filters.
    "default": {
        "pure": {"selection": "surprisal", "measure_uncertainty": False},
        "steps": {"checker": "arithmetic"},
        # Of so small a teacher's guided hints hardly one in three says anything of use. No student
        # is shown to gain by entropy cuts; random ones repair as many of a real teacher's traces
        # and need no scores: LOG.md, the real teacher on fresh problems.
        "gear": {"hint_gate": True, "breakpoint": "random"},
        # On fresh problems of both worlds of the lab easy problems come back, and the frontier pays
        # nothing: LOG.md, own answers after the frontier.
        "pace": {"rehearsal": 0.2},
    },
    "paper": {},
}
"""Settings each preset lays under the file; `paper` takes the field defaults as they are."""

MOST_MISTAKES = 10
SEE_ALL = "see every setting with: heal config"
LONGEST_NAME, LONGEST_PATH = 255, 4096
"""Bytes of a file's name and of its whole path, which no file system exceeds."""
_ENV = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML recipe and its `a.b=c` overrides. Raises: UserError."""
    file = Path(path)
    return load_over(read_tree(file), overrides, where=str(file))


def load_over(raw: dict[str, Any], overrides: Sequence[str], where: str = "config") -> Config:
    """A settings tree with its `a.b=c` overrides. Raises: UserError."""
    for text in overrides:
        _override(raw, text)
    return parse(raw, where=where)


def parse(raw: Mapping[str, Any], where: str = "config") -> Config:
    """Validate a settings tree. Raises: UserError naming every bad key."""
    if refused := refusal(raw):
        raise UserError(f"{where}: {': '.join(filter(None, refused))}", hint=SEE_ALL)
    preset = PRESETS.get(str(raw.get("preset", "default")), {})
    tree = _merge(preset, _fill_env(raw, where, ()))
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        found = error.errors()
        lines = [_explain(e) for e in found[:MOST_MISTAKES]]
        more = [f"and {len(found) - MOST_MISTAKES:,} more"] if len(found) > MOST_MISTAKES else []
        raise UserError(
            f"{where}: " + "; ".join([*dict.fromkeys(lines), *more]), hint=SEE_ALL
        ) from None
    _take_secrets(config, where)
    _check_paths(config, where)
    return config


def _check_paths(config: Config, where: str) -> None:
    """Raises: UserError for a path that no file system takes, which each would tell in its way."""
    models = {"teacher": config.teacher, "scorer": config.scorer, "student": config.student}
    paths = {f"{name}.model": ref.model for name, ref in models.items() if ref is not None}
    paths |= {"run": config.run, "problems.path": config.problems.path or ""}
    for dotted, path in paths.items():
        longest = max(len(os.fsencode(name)) for name in path.split("/"))
        if longest > LONGEST_NAME or len(os.fsencode(path)) > LONGEST_PATH:
            raise UserError(f"{where}: {dotted}: longer than any path can be", hint=SEE_ALL)


def _take_secrets(config: Config, where: str) -> None:
    """Have them kept out of every message. Raises: UserError for a mask in a secret's place."""
    http = config.engine.http
    logins = [e.login for e in http.endpoints]
    masked = [e for e in http.endpoints if e.login is None and f"{MASK}@" in e.url]
    for name, secret in (("api_key", http.api_key), *(("endpoints.login", s) for s in logins)):
        plain = secret.get_secret_value() if secret is not None else ""
        if masked or (plain and not plain.strip("*")):
            name = "endpoints.login" if masked else name
            raise UserError(
                f"{where}: engine.http.{name} is masked: a run folder keeps no secrets",
                hint=f"give it again: engine.http.{name}: ${{NAME}}",
            )
        remember(plain)
        if name == "endpoints.login":
            remember(plain.partition(":")[2])


def leaves(model: type[BaseModel] = Config, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Every setting as (`dotted.key`, section name), for completion and the documentation."""
    for name, info in model.model_fields.items():
        inner = submodel(info.annotation)
        if inner is None:
            yield f"{prefix}{name}", model.__name__
        else:
            yield from leaves(inner, f"{prefix}{name}.")


def submodel(annotation: Any) -> type[BaseModel] | None:
    """The section a field holds, if it holds one."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def read_tree(file: Path) -> dict[str, Any]:
    """A recipe as it is written, nothing checked but that it is a mapping. Raises: UserError."""
    try:
        with file.open("rb") as opened:
            text = opened.read(YAML_BYTES + 1).decode()
    except FileNotFoundError:
        raise UserError(
            f"{file}: no such file", hint="heal init writes one for your problems"
        ) from None
    except IsADirectoryError:
        raise UserError(
            f"{file}: is a folder, not a recipe", hint="heal run -c FILE.yaml"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}", hint="heal run -c FILE.yaml") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 at byte {error.start}") from None
    raw = read_yaml(text, str(file))
    if not isinstance(raw, dict):
        raise UserError(f"{file}: empty, or not a mapping", hint="start from one in recipes/")
    return cast(dict[str, Any], raw)


def _override(raw: dict[str, Any], text: str) -> None:
    dotted, equals, value = text.partition("=")
    if not equals or not dotted:
        # no more than a name is quoted: behind it may stand a key
        named = re.match(r"[\w.]*", text)
        shown = named[0][:LONGEST_NAME] if named else ""
        raise UserError(f"--set {shown}: expected a.b=value", hint="--set sampling.n=8")
    *parents, leaf = dotted.split(".")
    node = raw
    for name in parents:
        child = node.get(name)
        if not isinstance(child, dict):
            child = node[name] = {}
        node = child
    try:
        node[leaf] = read_yaml(value, "value")
    except UserError as error:
        # neither the value nor what is wrong with it is quoted where it may be a key
        told = "" if dotted.startswith("engine.http") else f": {str(error).partition(': ')[2]}"
        raise UserError(f"--set {dotted}: not valid YAML{told}", hint="quote it") from None


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(cast(Any, below), cast(Any, value)) if both else value
    return merged


def _fill_env(value: Any, where: str, path: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {k: _fill_env(v, where, (*path, str(k))) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill_env(v, where, path) for v in value]
    if not isinstance(value, str) or not _ENV.search(value):
        return value
    dotted = ".".join(path)
    if not _is_secret(path):
        raise UserError(
            f"{where}: {dotted}: ${{NAME}} is for secrets only, so that a run folder says what ran",
            hint=f"pass it with --set {dotted}=VALUE",
        )
    names = _ENV.findall(value)
    missing = [n for n in names if n not in os.environ]
    if missing:
        raise UserError(
            f"{where}: {dotted}: ${missing[0]} is not set", hint=f"export {missing[0]}=…"
        )
    return _ENV.sub(lambda m: os.environ[m[1]], value)


def _is_secret(path: tuple[str, ...]) -> bool:
    model: type[BaseModel] | None = Config
    for name in path:
        if model is None or name not in model.model_fields:
            return False
        annotation = model.model_fields[name].annotation
        model = submodel(annotation)
        if annotation is SecretStr or SecretStr in get_args(annotation):
            return True
    return False


def _explain(error: Any) -> str:
    dotted = ".".join(str(part)[:LONGEST_NAME] for part in error["loc"])
    if error["type"] == "extra_forbidden":
        top = list(Config.model_fields)
        known = [key for key, _ in leaves()] if "." in dotted else top
        near = difflib.get_close_matches(dotted, known, n=1, cutoff=0.5)
        return f"unknown key '{dotted}'" + (f"; did you mean '{near[0]}'?" if near else "")
    if error["type"] == "missing":
        return f"'{dotted}' is missing"
    plainly = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    told = _WORDS.get(error["type"], plainly)
    if error["type"] in ("model_type", "model_attributes_type"):
        inner = _section(error["loc"])
        told = _WORDS["dict_type"] if inner is None else _one_of(inner, dotted)
    return f"{dotted or 'settings'}: {told}"


def _one_of(section: type[BaseModel], dotted: str) -> str:
    fields = section.model_fields
    first = next((n for n, info in fields.items() if info.is_required()), next(iter(fields)))
    return f"is a section of settings; write {dotted}.{first}=VALUE or one of its others"


_WORDS: Mapping[str, str] = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text; quote it",
    "dict_type": "must be a mapping, {name: value}",
    "tuple_type": "must be a list, [a, b]",
    "list_type": "must be a list, [a, b]",
    "none_required": "must be null",
}
"""What is expected, by pydantic's name of the mistake."""


def _section(place: Sequence[str | int]) -> type[BaseModel] | None:
    """The section a dotted name stands for, where it stands for one."""
    model: type[BaseModel] | None = Config
    for name in place:
        field = model.model_fields.get(str(name)) if model else None
        model = submodel(field.annotation) if field else None
    return model
