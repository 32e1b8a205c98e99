"""Figures as JSON: what every `--json` writes.

In: numbers, texts, sequences, mappings and data classes of these. Out: standard JSON, which knows
no NaN: a number that nobody knows (the ends of an interval that does not exist, say) is null.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any


def as_json(figures: Any) -> str:
    """Figures as JSON text, in the order they are given, ending in a new line."""
    return json.dumps(plain(figures), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Data classes as objects, enumerations as their values, NaN and infinities as null.

    What JSON has no name for is written as text.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(own) for key, own in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(own) for own in value]
    return str(value)
