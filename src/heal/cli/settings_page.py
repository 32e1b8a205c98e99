"""The settings as a page: every key, its default and its meaning, read from the config itself.

In: the config classes and their source. Out: YAML-like text. Nothing here is written by hand, so
the page cannot disagree with the code.
"""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from heal.config import Config
from heal.recipe import PRESETS, submodel


def reference() -> str:
    """Every setting with its meaning and its default: what a recipe gets that names no preset."""
    return "\n".join(_section(Config, 0, PRESETS["default"]))


def resolved_yaml(config: Config) -> str:
    """A config as HEAL understood it, every default filled in."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _section(
    model: type[BaseModel], depth: int, preset: Mapping[str, Any], own: BaseModel | None = None
) -> list[str]:
    """A section's lines; `own` is what it is where nothing is set, if it may be left out."""
    indent = "  " * depth
    lines: list[str] = []
    for name, info in model.model_fields.items():
        notes = [f"{indent}# {line}" for line in meaning(model, name).splitlines()]
        inner = submodel(info.annotation)
        if inner is None:
            value = getattr(own, name) if own else info.get_default(call_default_factory=True)
            default = "…  # required" if info.is_required() else _shown(value)
            if name in preset:
                default = f"{_shown(preset[name])}  # preset paper: {default}"
            lines += [*notes, f"{indent}{name}: {default}"]
            continue
        about = inspect.cleandoc(inner.__doc__ or "").splitlines()[0]
        optional = "" if info.is_required() or info.default is not None else "  # default: null"
        head = notes or [f"{indent}# {about}"]
        lines += ["", *head, f"{indent}{name}:{optional}"]
        filled = info.default if isinstance(info.default, inner) else None
        lines += _section(inner, depth + 1, preset.get(name) or {}, filled)
    return lines


def meaning(model: type[BaseModel], name: str) -> str:
    """What stands under a setting in the source; its choices, where it has a fixed list."""
    text = _notes(model).get(name, "")
    choices = _choices(model.model_fields[name].annotation)
    if choices:
        text = f"{text}\nOne of: {', '.join(choices)}.".strip()
    return text


def _choices(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and hasattr(annotation, "__members__"):
        return [str(member.value) for member in annotation]  # type: ignore[attr-defined]
    values = [v for v in get_args(annotation) if isinstance(v, str)]
    return values if len(values) > 1 else []


def _shown(value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, tuple):
        value = [item.value if isinstance(item, Enum) else item for item in value]
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


@lru_cache
def _notes(model: type[BaseModel]) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(model)))
    (definition,) = tree.body
    assert isinstance(definition, ast.ClassDef)
    notes: dict[str, str] = {}
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            words = after.value if isinstance(after, ast.Expr) else None
            if isinstance(words, ast.Constant) and isinstance(words.value, str):
                notes[field.target.id] = inspect.cleandoc(words.value)
    return notes
