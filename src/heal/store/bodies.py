"""Records as bytes and back: MessagePack, compressed, each with its checksum.

In: a record (a dataclass of `heal.records`). Out: bytes that decode to the same record, or fail
loudly. Fields go by position, so a record may grow at its end, by fields with a default. Arrays
are little-endian and byte by byte apart (all first bytes, then all second ones), which compresses
token ids well. Knows no disk.
"""

import zlib
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_type_hints

import msgspec
import numpy as np
import zstandard

Record = TypeVar("Record")

LEVEL = 3
"""On traces of 4,000 tokens, levels up to 9 save another 3 % and take four times as long."""
_PLAIN, _ZSTD = b"\x00", b"\x01"
_WORTH_BYTES = 128
"""Shorter bodies do not shrink."""
_HEAD_BYTES = 5

_compress = zstandard.ZstdCompressor(level=LEVEL).compress
_decompress = zstandard.ZstdDecompressor().decompress


class DamagedError(ValueError):
    """The bytes are not what was written."""


def encode(record: object) -> bytes:
    """A record's body."""
    names = _names(cast(Any, type(record)))
    packed = msgspec.msgpack.encode([getattr(record, name) for name in names], enc_hook=_pack_array)
    mark = _PLAIN
    if len(packed) > _WORTH_BYTES and len(small := _compress(packed)) < len(packed):
        mark, packed = _ZSTD, small
    return mark + zlib.crc32(packed).to_bytes(4, "big") + packed


def decode(kind: type[Record], body: bytes) -> Record:
    """The record in a body. Raises: DamagedError."""
    unpacked = unpack(body)
    try:
        return cast(Record, _reader(cast(Any, kind))(unpacked))
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise DamagedError(f"no {kind.__name__}: {error}") from None


def unpack(body: bytes) -> bytes:
    """What is in a body, checked and decompressed. Raises: DamagedError."""
    mark, packed = body[:1], body[_HEAD_BYTES:]
    if len(body) < _HEAD_BYTES or zlib.crc32(packed) != int.from_bytes(body[1:_HEAD_BYTES], "big"):
        raise DamagedError("the checksum does not match")
    if mark == _PLAIN:
        return packed
    try:
        return _decompress(packed)
    except zstandard.ZstdError as error:
        raise DamagedError(str(error)) from None


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@cache
def _reader(kind: type) -> Callable[[bytes], Any]:
    """Decodes positional fields; those that a body is too old to have get their defaults."""
    hints = get_type_hints(kind)
    described: list[Any] = []
    for field in fields(kind):
        if field.default is not MISSING:
            described.append((field.name, hints[field.name], field.default))
        elif field.default_factory is not MISSING:
            factory = msgspec.field(default_factory=field.default_factory)
            described.append((field.name, hints[field.name], factory))
        else:
            described.append((field.name, hints[field.name]))
    twin = msgspec.defstruct(f"{kind.__name__}Body", described, array_like=True)
    read = msgspec.msgpack.Decoder(twin, dec_hook=_unpack_array).decode
    names = _names(kind)
    return lambda packed: kind(*(getattr(body, name) for body in [read(packed)] for name in names))


def _pack_array(value: Any) -> bytes:
    if not isinstance(value, np.ndarray):
        raise NotImplementedError(f"cannot store a {type(value).__name__}")
    little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(-1, value.dtype.itemsize).T.tobytes()


def _unpack_array(kind: Any, value: bytes) -> Any:
    _shape, dtype = get_args(kind)
    (scalar,) = get_args(dtype)
    little = np.dtype(scalar).newbyteorder("<")
    planes = np.frombuffer(value, np.uint8).reshape(little.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(little).ravel().astype(scalar)
