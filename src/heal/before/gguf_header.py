"""What a `.gguf` file says of itself, read without the library: its settings stand at its start.

In: a file. Out: its settings by name; of a list nothing but its place is read, for a vocabulary
takes the library seconds. Nothing is trusted: a length beyond the file's end is damage.
"""

import struct
from pathlib import Path
from typing import BinaryIO

from heal.errors import UserError
from heal.wording import plural

__all__ = ["read_settings"]

Setting = int | float | bool | str

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
"""Little-endian ones; version 1 counted in 32 bits and went out of use within weeks."""
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
            10: "<Q", 11: "<q", 12: "<d"}  # fmt: skip
_STRING, _LIST = 8, 9
_MOST = 1 << 24
"""Settings, or texts in a list: many times what any model has."""


def read_settings(path: Path) -> dict[str, Setting]:
    """Numbers and texts by name, lists left out. Raises: UserError for what is no whole GGUF."""
    try:
        with path.open("rb") as file:
            return _settings(file, path.stat().st_size)
    except (OSError, ValueError, struct.error) as error:
        raise UserError(
            f"{path}: its header cannot be read: {error}", hint="is this file whole?"
        ) from None


def _settings(file: BinaryIO, size: int) -> dict[str, Setting]:
    version = _number(file, "<I") if file.read(len(_MAGIC)) == _MAGIC else None
    if version not in _VERSIONS:
        raise ValueError("no GGUF of version 2 or 3")
    _number(file, "<Q")  # how many tensors
    count, found = int(_number(file, "<Q")), {}
    if count > _MOST:
        raise ValueError(plural(count, "setting"))
    for _ in range(count):
        name = _text(file, size)
        value = _value(file, int(_number(file, "<I")), size)
        if value is not None:
            found[name] = value
    return found


def _value(file: BinaryIO, kind: int, size: int) -> Setting | None:
    """One value; None for a list, which is passed over."""
    if kind in _NUMBERS:
        return _number(file, _NUMBERS[kind])
    if kind == _STRING:
        return _text(file, size)
    if kind != _LIST:
        raise ValueError(f"a setting of kind {kind}")
    inner, count = int(_number(file, "<I")), int(_number(file, "<Q"))
    if inner in _NUMBERS:
        _skip(file, count * struct.calcsize(_NUMBERS[inner]), size)
        return None
    if inner != _STRING or count > _MOST:
        raise ValueError(f"a list of {plural(count, 'value')}, of kind {inner}")
    for _ in range(count):
        _skip(file, int(_number(file, "<Q")), size)
    return None


def _number(file: BinaryIO, form: str) -> int | float | bool:
    found: int | float | bool = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return found


def _text(file: BinaryIO, size: int) -> str:
    length = int(_number(file, "<Q"))
    if length > size - file.tell():
        raise ValueError(f"a text of {plural(length, 'byte')}, beyond its end")
    return file.read(length).decode("utf-8", errors="replace")


def _skip(file: BinaryIO, length: int, size: int) -> None:
    if length > size - file.tell():
        raise ValueError(f"a list of {plural(length, 'byte')}, beyond its end")
    file.seek(length, 1)
