"""Bytes and text of a file: unpacked and decoded within bounds.

In: a path. Out: its bytes or its text. A packed file may not grow beyond what text packs to, so a
few kilobytes never fill the memory; a damaged one is refused. UTF-8, UTF-16 and UTF-32 are told by
their marks; other bytes are refused with the command that converts them.
"""

import bz2
import contextlib
import gzip
import lzma
import shlex
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from heal.errors import UserError

LARGEST_BYTES = 8 << 30
"""Of one file, unpacked. Whatever is larger comes in shards."""
_FREE_BYTES = 64 << 20
_MOST_GROWTH = 100
_CHUNK = 1 << 20
# a block of three bytes can stand for 128 KiB of zstd output: feeding little bounds what comes back
_FED_TO_ZSTD = 1 << 10
_ZSTD_WINDOW = 1 << 27

TOOLS = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bzip2"}
"""The program that unpacks a suffix, named in messages."""

_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, MemoryError)
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_UTF8_MARK = b"\xef\xbb\xbf"
_LOOKED_AT = 256
_ZEROS = 0.25


def most_bytes(packed: int) -> int:
    """How far a file of so many bytes may grow: text packs to a tenth, seldom to a hundredth."""
    return min(LARGEST_BYTES, _FREE_BYTES + _MOST_GROWTH * packed)


def read_bytes(path: Path, shown: str) -> bytes:
    """A file's content, unpacked where its suffix says it is packed. Raises: UserError."""
    size, suffix = path.stat().st_size, path.suffix.lower()
    if suffix not in TOOLS:
        if size > LARGEST_BYTES:
            raise _too_large(shown, LARGEST_BYTES)
        return path.read_bytes()
    most, total, parts = most_bytes(size), 0, []
    with contextlib.closing(_open(path)) as stream:
        while part := _next(stream, shown, suffix):
            total += len(part)
            if total > most:
                raise _too_large(shown, most)
            parts.append(part)
    return b"".join(parts)


def decode(data: bytes, shown: str) -> str:
    """Text of a file's bytes. Raises: UserError with offset, line and a command that converts."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    encoding = encoding or _unmarked(data)
    if encoding is not None:
        try:
            return data.decode(encoding).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            name = encoding.upper()
            raise UserError(
                f"{shown}: not {name} although it looks so: offset {error.start}",
                hint=_convert(f"-c -f {name}", shown),
            ) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("utf-8", "surrogatepass").removeprefix("\ufeff")
        at = error.start + (len(_UTF8_MARK) if data.startswith(_UTF8_MARK) else 0)
        line = data.count(b"\n", 0, at) + 1
        raise UserError(
            f"{shown}:{line}: not UTF-8: byte 0x{data[at]:02x} at offset {at}",
            hint=_convert("-f LATIN1", shown),
        ) from None


def _unmarked(data: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of plain text is zero."""
    looked_at = data[:_LOOKED_AT]
    even, odd = looked_at[::2].count(0), looked_at[1::2].count(0)
    if max(even, odd) < len(looked_at) * _ZEROS or min(even, odd):
        return None
    return "utf-16-le" if odd else "utf-16-be"


def _convert(flags: str, shown: str) -> str:
    path = Path(shown)
    tool = TOOLS.get(path.suffix.lower())
    source = shlex.quote(shown)
    target = shlex.quote(f"utf8-{path.stem if tool else path.name}")
    if tool:
        return f"{tool} -dc {source} | iconv {flags} -t UTF-8 > {target}"
    return f"iconv {flags} -t UTF-8 {source} > {target}"


def _next(stream: BinaryIO, shown: str, suffix: str) -> bytes:
    try:
        return stream.read(_CHUNK)
    except _DAMAGED as error:
        raise UserError(
            f"{shown}: damaged: {str(error) or type(error).__name__}",
            hint=f"{TOOLS[suffix]} -t {shlex.quote(shown)}",
        ) from None


def _too_large(shown: str, most: int) -> UserError:
    return UserError(
        f"{shown}: holds more than {most >> 20:,} MiB",
        hint="split it into shards in a folder of their own, and name the folder",
    )


class _ZstdFile:
    """A zstd file, frame after frame; unlike zstandard's own reader it tells a cut-off one."""

    def __init__(self, path: Path) -> None:
        self._parts = _zstd_parts(path)

    def read(self, _: int) -> bytes:
        return next(self._parts, b"")

    def close(self) -> None:
        self._parts.close()


def _zstd_parts(path: Path) -> Generator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    frame = None
    with path.open("rb") as file:
        while fed := file.read(_FED_TO_ZSTD):
            while fed:
                frame = frame or decompressor.decompressobj()
                if part := frame.decompress(fed):
                    yield part
                fed = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the file ends in the middle of a frame")


def _open(path: Path) -> BinaryIO:
    suffix = path.suffix.lower()
    if suffix == ".zst":
        return cast(BinaryIO, _ZstdFile(path))
    module: Any = {".gz": gzip, ".bz2": bz2, ".xz": lzma}[suffix]
    return cast(BinaryIO, module.open(path))
