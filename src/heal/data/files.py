"""Bytes and text of a file: unpacked and decoded within bounds.

In: a path. Out: its bytes or its text. A packed file may not grow beyond what text packs to, so a
few kilobytes never fill the memory; a damaged one is refused. UTF-8, UTF-16 and UTF-32 are told by
their marks; other bytes are refused with the command that converts them.
"""

import bz2
import contextlib
import gzip
import itertools
import lzma
import shlex
import zlib
from collections.abc import Generator, Iterator
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
    if path.suffix.lower() in TOOLS or path.stat().st_size > LARGEST_BYTES:
        return b"".join(_bounded_parts(path, shown))
    return path.read_bytes()  # joining parts would hold it twice


def stream_lines(path: Path, shown: str) -> Iterator[tuple[int, str]]:
    """(number, text) of a text file's lines, in the memory of its longest one. Raises: UserError.

    UTF-16 and UTF-32, whose line ends are not one byte, are read whole.
    """
    parts = _bounded_parts(path, shown)
    first = next(parts, b"")
    if first.startswith(tuple(mark for mark, _ in _MARKS)) or _unmarked(first):
        whole = decode(b"".join([first, *parts]), shown)
        yield from enumerate(whole.split("\n"), 1)
        return
    number, pieces = 0, list[bytes]()
    for part in itertools.chain([first.removeprefix(_UTF8_MARK)], parts):
        *ended, rest = part.split(b"\n")
        for line in ended:
            number += 1
            yield number, _decoded_line(b"".join([*pieces, line]), shown, number)
            pieces = []
        pieces.append(rest)
    if last := b"".join(pieces):
        yield number + 1, _decoded_line(last, shown, number + 1)


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


def _bounded_parts(path: Path, shown: str) -> Iterator[bytes]:
    """A file's content piece by piece, unpacked, and refused beyond what its size allows."""
    size, suffix, total = path.stat().st_size, path.suffix.lower(), 0
    packed = suffix in TOOLS
    most = most_bytes(size) if packed else LARGEST_BYTES
    stream = _open(path) if packed else path.open("rb")
    with contextlib.closing(stream):
        while part := _next(stream, shown, suffix) if packed else stream.read(_CHUNK):
            total += len(part)
            if total > most:
                raise _too_large(shown, most)
            yield part


def _decoded_line(line: bytes, shown: str, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        with contextlib.suppress(UnicodeDecodeError):
            return line.decode("utf-8", "surrogatepass")
        raise UserError(
            f"{shown}:{number}: not UTF-8: byte 0x{line[error.start]:02x} in this line",
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
