"""Records as bytes: they come back as they were, or say that they are damaged."""

from dataclasses import fields, is_dataclass, make_dataclass
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store_folders import trace

from heal import records
from heal.records import Check, Cut, Trace, Verdict
from heal.store import (
    DamagedError,
    bodies,
    decode,
    encode,
)

RECORDS = [kind for kind in vars(records).values() if isinstance(kind, type) and is_dataclass(kind)]
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
SCALARS = {str: st.text(), int: INT64, float: st.floats(), bool: st.booleans()}


def filled(hint: Any) -> st.SearchStrategy[Any]:
    """Whatever a field of a record may hold."""
    inner = get_args(hint)
    if get_origin(hint) is np.ndarray:
        scalar = get_args(inner[1])[0]
        numbers = INT32 if scalar is np.int32 else st.floats(width=32)
        return st.lists(numbers, max_size=200).map(lambda values: np.array(values, scalar))
    if NoneType in inner:
        return st.none() | filled(inner[0])
    if get_origin(hint) is tuple:
        return st.lists(filled(inner[0]), max_size=5).map(tuple)
    if get_origin(hint) is list:
        return st.lists(filled(inner[0]), max_size=50)
    if get_origin(hint) is dict:
        return st.dictionaries(filled(inner[0]), filled(inner[1]), max_size=5)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    if is_dataclass(hint):
        kinds = get_type_hints(hint)
        return st.builds(hint, **{f.name: filled(kinds[f.name]) for f in fields(hint)})
    return SCALARS[hint]


def same(before: Any, after: Any) -> bool:
    if isinstance(before, np.ndarray):
        kept = before.dtype == after.dtype and before.tobytes() == after.tobytes()
        return kept and before.shape == after.shape
    return type(before) is type(after) and repr(before) == repr(after)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_record_of_any_kind_comes_back_as_it_was(kind: type, data: st.DataObject) -> None:
    hints = get_type_hints(kind)
    before = kind(**{f.name: data.draw(filled(hints[f.name])) for f in fields(kind)})
    after = decode(kind, encode(before))
    for field in fields(kind):
        assert same(getattr(before, field.name), getattr(after, field.name)), field.name


def test_long_arrays_and_texts_come_back_as_they_were() -> None:
    ids = np.random.default_rng(0).integers(0, 150_000, 40_000).astype(np.int32)
    before = trace("k", "the walk goes left and then right, " * 9000, tuple(ids.tolist()))
    after = decode(Trace, encode(before))
    np.testing.assert_array_equal(after.ids, ids)
    assert after.text == before.text
    assert len(encode(before)) < 40_000 * 2.5


def test_a_decoded_array_can_be_written_to() -> None:
    for count in (0, 3, 4000):
        ids = decode(Trace, encode(trace("k", ids=tuple(range(count))))).ids
        assert ids.flags.writeable
        assert ids.flags.c_contiguous


@given(data=st.data())
def test_a_body_with_any_byte_changed_is_damaged(data: st.DataObject) -> None:
    count = data.draw(st.sampled_from([3, 400]))
    body = bytearray(encode(trace("k", "a word " * count, tuple(range(count)))))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedError):
        decode(Trace, bytes(body))


@pytest.mark.parametrize("length", [0, 1, 4, 5, 8, 9, 20, -1])
def test_a_body_cut_short_is_damaged(length: int) -> None:
    with pytest.raises(DamagedError):
        decode(Trace, encode(trace("k", "word " * 100))[:length])


def test_the_body_of_another_kind_is_damaged() -> None:
    with pytest.raises(DamagedError, match="no Cut"):
        decode(Cut, encode(trace("k")))
    with pytest.raises(DamagedError, match="no Check"):
        decode(Check, encode(trace("k")))


def test_a_body_that_would_unpack_to_gigabytes_is_refused() -> None:
    bomb = bodies._zstd.shrink(b"\0" * 1000)
    claim = bytes([bomb[0], bomb[1], bomb[2], bomb[3], 0xE0]) + (2**40).to_bytes(8, "little")
    checked = len(claim).to_bytes(4, "big") + claim
    mark = bytes([1])
    with pytest.raises(DamagedError):
        decode(Check, mark + bodies._checksum(mark, checked) + checked)


def test_a_record_that_grew_at_its_end_reads_old_bodies_and_new_ones_are_read_by_the_old() -> None:
    old = make_dataclass("Old", [("key", str), ("scores", records.FloatArray)], frozen=True)
    new = make_dataclass(
        "New",
        [
            ("key", str),
            ("scores", records.FloatArray),
            ("note", str, "none"),
            ("more", records.FloatArray | None, None),
        ],
        frozen=True,
    )
    values = np.array([1.5, np.nan], np.float32)
    grown = decode(new, encode(old("k", values)))
    assert (grown.key, grown.note, grown.more) == ("k", "none", None)
    np.testing.assert_array_equal(grown.scores, values)
    assert decode(old, encode(new("k", values, "said"))).key == "k"


def test_a_verdict_is_an_enum_again() -> None:
    assert decode(Check, encode(Check("t", Verdict.WRONG))).verdict is Verdict.WRONG
