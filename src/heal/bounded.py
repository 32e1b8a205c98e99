"""Settings files from anybody, read in bounded time and memory.

In: the bytes of a YAML recipe, or a JSON file of a model's folder. Out: plain values, or a
`UserError` with the line. Refused: files larger than any person writes, nesting and aliases that
multiply, names given twice, numbers beyond reading, text that no path or file can hold. Knows no
setting by name.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from heal.errors import UserError
from heal.wording import plural

YAML_BYTES = 1 << 18
JSON_BYTES = 1 << 24
DEPTH = 32
NODES = 20_000
"""Values in one recipe, each counted as often as an alias repeats it."""
NUMBER_CHARS = 64


def read_yaml(text: str, where: str) -> Any:
    """What a YAML document holds. Raises: UserError naming `where:line`."""
    if len(text) > YAML_BYTES:
        raise UserError(f"{where}: more than {YAML_BYTES >> 10} KiB of settings")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else text.count("\n", 0, getattr(error, "position", 0)) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", "not valid YAML")
        raise UserError(f"{where}:{line}: {problem}", hint="check indentation and colons") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises: UserError naming the file."""
    hint = "is the model's folder complete? fetch this file again"
    try:
        with path.open("rb") as file:
            content = file.read(JSON_BYTES + 1)
        if len(content) > JSON_BYTES:
            raise UserError(f"{path}: more than {JSON_BYTES >> 20} MiB", hint=hint)
        found = json.loads(content)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", hint=hint) from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply", hint=hint) from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {str(error)[:200]}", hint=hint) from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds a {type(found).__name__}, not an object", hint=hint)
    return found


def refusal(tree: Any) -> tuple[str, str] | None:
    """(dotted key, reason) of the first value that no setting may have; None if there is none."""
    for count, (dotted, depth, value) in enumerate(_walk(tree)):
        if count > NODES:
            return dotted, f"more than {NODES:,} settings"
        if depth > DEPTH:
            return dotted.partition(".")[0], f"nested more than {DEPTH} deep"
        if reason := _unusable(value):
            return dotted, reason
    return None


def _walk(tree: Any) -> Iterator[tuple[str, int, Any]]:
    """(dotted key, depth, value) of everything in it; no recursion, or depth would end it."""
    waiting: list[tuple[str, int, Any]] = [("", 0, tree)]
    while waiting:
        dotted, depth, value = waiting.pop()
        yield dotted, depth, value
        if depth > DEPTH:
            continue
        if isinstance(value, Mapping):
            for key, below in value.items():
                name = str(key)[:100]
                yield name, depth, key
                waiting.append((f"{dotted}.{name}" if dotted else name, depth + 1, below))
        elif isinstance(value, list | tuple):
            waiting += [(dotted, depth + 1, below) for below in value]


def _unusable(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    if isinstance(value, int) and value.bit_length() > 4 * NUMBER_CHARS:
        return "a number too large to mean anything"
    if isinstance(value, str):
        if "\0" in value:
            return "holds a NUL character"
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            return "holds half a character (a lone surrogate)"
    return None


class _Loader(yaml.SafeLoader):
    """`SafeLoader` with limits. Nodes are counted while they are composed, before any value is."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._nodes = 0
        self._open: set[str] = set()
        """Anchors of the nodes around the one being read."""
        self._weights: dict[str, int] = {}
        """Nodes in what each anchor names."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor in self._open:
                raise _refused(f"*{anchor} stands inside what it names", event.start_mark)
            self._add(self._weights.get(str(anchor), 0), event)
            return super().compose_node(parent, index)
        before = self._nodes
        self._add(1, event)
        self._depth += 1
        if self._depth > DEPTH:
            raise _refused(f"nested more than {DEPTH} deep", event.start_mark)
        if anchor is not None:
            self._open.add(anchor)
        node = super().compose_node(parent, index)
        if anchor is not None:
            self._open.discard(anchor)
            self._weights[anchor] = self._nodes - before
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        first: dict[Any, Any] = {}
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in first:
                before = first[name].line + 1
                problem = f"{key.value[:80]!r} is given twice, first in line {before}"
                raise _refused(problem, key.start_mark)
            first[name] = key.start_mark
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        numeric = node.tag.endswith((":int", ":float"))
        if numeric and len(str(node.value)) > NUMBER_CHARS:
            raise _refused(f"a number of {plural(len(node.value), 'character')}", node.start_mark)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, OverflowError, TypeError, AttributeError) as error:
            # a date that is none, an explicit tag on what it does not fit
            raise _refused(f"cannot be read: {str(error)[:200]}", node.start_mark) from None
        if reason := _unusable(value):
            raise _refused(reason, node.start_mark)
        return value

    def _add(self, nodes: int, event: Any) -> None:
        self._nodes += nodes
        if self._nodes > NODES:
            raise _refused(f"more than {NODES:,} values, aliases included", event.start_mark)


def _refused(problem: str, mark: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(None, None, problem, mark)
