"""Steps: they partition the tokens, end at blank lines, and never cut a fence or a formula."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal.method.segments import reasoning_span, split_steps


def tokens(text):
    """Words with the whitespace before them apart: enough like a real tokenizer."""
    return [piece.encode() for piece in re.findall(r"\n+|[^\S\n]+|[^\s]+", text)]


def steps(pieces, minimum=1, maximum=512, **options):
    start, found = 0, []
    for end in split_steps(pieces, min_tokens=minimum, max_tokens=maximum, **options):
        found.append(b"".join(pieces[start:end]).decode())
        start = end
    return found


fragments = st.sampled_from(
    ["a ", "b", "\n", "\n\n", " \n \n", "```", "\n```\n", "$$", ". ", "! ", "é", "。", "", "x = 1"]
)


@given(
    st.lists(st.binary(max_size=4) | fragments.map(str.encode), max_size=60),
    st.integers(1, 10),
    st.integers(8, 40),
)
def test_steps_partition_the_tokens(pieces, minimum, maximum):
    ends = split_steps(pieces, min_tokens=minimum, max_tokens=maximum)
    assert ends == sorted(set(ends))
    assert (ends[-1] == len(pieces) and ends[0] > 0) if pieces else ends == []


@given(st.lists(fragments.map(str.encode), max_size=60), st.integers(1, 10))
def test_no_step_is_short_unless_it_is_the_only_one(pieces, minimum):
    ends = split_steps(pieces, min_tokens=minimum, max_tokens=12)
    sizes = [b - a for a, b in zip([0, *ends], ends, strict=False)]
    assert len(sizes) <= 1 or min(sizes) >= minimum


def test_blank_lines_end_the_step_before():
    assert steps(tokens("one\n\ntwo\n \t\nthree\n")) == ["one\n\n", "two\n \t\n", "three\n"]


def test_single_newlines_do_not_split():
    assert len(steps(tokens("one\ntwo\nthree"))) == 1


def test_a_token_across_the_boundary_goes_to_the_step_before():
    assert steps([b"one", b".\n\nT", b"wo"]) == ["one.\n\nT", "wo"]


def test_short_steps_merge_forward_and_a_short_last_one_backward():
    text = "a\n\n" + "b b b b b\n\n" + "c c c c c\n\n" + "d"
    assert steps(tokens(text), minimum=4) == ["a\n\nb b b b b\n\n", "c c c c c\n\nd"]


def test_end_of_sequence_tokens_close_the_last_step():
    assert split_steps([b"a", b"\n\n", b"b", b"\n\n", b"", b""], min_tokens=1, max_tokens=9) == [
        2,
        6,
    ]
    assert split_steps([b"", b""], min_tokens=1, max_tokens=9) == [2]


@pytest.mark.parametrize(
    "block", ["```python\nx = 1\n\ny = 2\n```\n", "~~~\na\n\nb\n~~~\n", "$$\nx\n\ny\n$$\n"]
)
def test_a_closed_block_is_never_split(block):
    text = f"before\n\n{block}\nafter"
    assert steps(tokens(text)) == ["before\n\n", f"{block}\n", "after"]
    long = f"One. Two.\n\n{block.replace('x', 'Stop. Go. ' * 20)}\nAfter. End."
    assert all(s.count(block[:2]) != 1 for s in steps(tokens(long), maximum=8))


@pytest.mark.parametrize("opener", ["```python\n", "~~~\n", "$$\n"])
def test_an_unclosed_block_is_text(opener):
    assert len(steps(tokens(f"{opener}a\n\nb\n\nc"))) == 3


def test_a_longer_fence_holds_a_shorter_one():
    text = "````\n```\n\n```\n\nstill inside\n````\n\nafter"
    assert steps(tokens(text)) == [text[: -len("after")], "after"]


def test_long_steps_split_at_sentence_ends_and_stay_within_the_limit():
    sentence = "The next term is larger by 3.5 here. "
    found = steps(tokens(sentence * 40), minimum=4, maximum=64)
    assert len(found) > 5
    assert all(len(tokens(s)) <= 64 for s in found)
    assert all(s.endswith("here. ") for s in found)


def test_splitting_leaves_no_short_piece():
    assert len(steps(tokens("a b c d e. f"), minimum=4, maximum=8)) == 1
    assert len(steps(tokens("a b c d e. f g h"), minimum=4, maximum=8)) == 2


def test_a_long_step_without_a_sentence_end_stays_whole():
    assert len(steps(tokens("word " * 300), maximum=64)) == 1


def test_sentences_end_in_chinese_too():
    pieces = [c.encode() for c in "首先看差。" * 10]
    assert all(s.endswith("。") for s in steps(pieces, maximum=12))
    assert len(steps(pieces, maximum=12)) == 5


def test_half_characters_are_no_obstacle():
    pieces = [b"caf", b"\xc3", b"\xa9", b"\n\n", b"\xf0\x9f", b"\x98\x80"]
    assert split_steps(pieces, min_tokens=1, max_tokens=9) == [4, 6]


def test_thinking_is_what_stands_between_the_tags():
    pieces = [b"<think>", b"\n", b"a", b"\n\n", b"b", b"</think>", b"\n\n", b"c", b""]
    assert reasoning_span(pieces, "</think>") == (1, 5)
    assert reasoning_span(pieces, None) == (0, 9)


def test_a_template_may_have_opened_the_thinking_already():
    assert reasoning_span([b"a", b"b", b"</th", b"ink>", b"c"], "</think>") == (0, 2)


def test_thinking_that_never_ends_reaches_to_the_end():
    assert reasoning_span([b"<th", b"ink>", b"a", b"b"], "</think>") == (2, 4)


def test_empty_thinking_reasons_nowhere():
    assert reasoning_span([b"<think>", b"</think>", b"5"], "</think>") == (1, 1)
    assert reasoning_span([b"</think>", b"5"], "</think>") == (0, 0)
