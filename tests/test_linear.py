"""Whatever a model writes, reading it takes time in proportion to its length, and one verdict."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.timing import cpu_seconds

from heal.config import Problems
from heal.method.answers import mention, mention_spans, plain, states_answer
from heal.method.boxes import boxed
from heal.method.final_answers import count_final_answers, extract_answer, same_text
from heal.method.gates import HINT_TALK, answers_early, copies_hint, talks_of_hint
from heal.method.segments import reasoning_span, split_steps
from heal.records import Finish, Problem, Verdict
from heal.report.steps import step_texts
from heal.verifiers import Verifier, choice, exact, open_verifier
from heal.verifiers.base import Finding

LENGTH = 100_000
FIXED_S, PER_CHARACTER_S = 0.5, 20e-6
"""A reading of 100,000 characters takes 1 to 300 ms; one that grows with their square, minutes."""


def tokens(text: str) -> list[bytes]:
    data = text.encode("utf-8", "surrogatepass")
    return [data[i : i + 4] for i in range(0, len(data), 4)]


def problem(gold: str) -> Problem:
    return Problem("id", "What is it?", gold)


def steps_of(text: str) -> list[str]:
    ends = list(range(5, len(text) // 4, 7))
    return step_texts(text, ends, len(text) // 4)


READERS: dict[str, Callable[[str], Any]] = {
    "boxed": boxed,
    "extract_answer": extract_answer,
    "count_final_answers": count_final_answers,
    "same_text": lambda text: same_text(text, "42"),
    "choice": lambda text: choice.read(text, problem("A")),
    "choice in a box": lambda text: choice.letters(text),
    "exact": lambda text: exact.read(text, problem("42")),
    "plain": plain,
    "mention of a number": lambda text: mention(text, "158"),
    "mention of words": lambda text: mention(text, "( x y"),
    "states a short answer": lambda text: states_answer(text, "7"),
    "states a long answer": lambda text: states_answer(text, "-1,158"),
    "spans": lambda text: mention_spans(text.encode("utf-8", "surrogatepass"), "1,158 and 4"),
    "spans of a hostile answer": lambda text: mention_spans(b"4 and 7", text[:20_000]),
    "hint talk": lambda text: talks_of_hint(text, "", HINT_TALK),
    "copied hint": lambda text: copies_hint(text, "look at the jumps " * 9, "", 13),
    "early answer": lambda text: answers_early(text, "", "158", 0.3),
    "steps": lambda text: split_steps(tokens(text), min_tokens=8, max_tokens=64),
    "reasoning": lambda text: reasoning_span(tokens(text), "</think>"),
    "report steps": steps_of,
}

POISON = {
    "letters and spaces": ("A    ", "zz"),
    "nested boxes": ("\\boxed{", ""),
    "nested closed boxes": ("\\boxed{\\boxed{", "}" * LENGTH),
    "open braces": ("{", ""),
    "closing braces": ("}", ""),
    "open answer tags": ("<answer>", ""),
    "closing answer tags": ("<answer>5</answer", ">"),
    "open formulas": ("the answer is $$", ""),
    "open displays": ("answer: \\[", ""),
    "answers in one line": ("answer is 5. ", ""),
    "answers in answers": ("answer: ", ""),
    "answer to": ("answer to the ", "is 5"),
    "spaces": (" ", "x"),
    "a box, then spaces": ("\\boxed{5}" + " " * 50, "and"),
    "line breaks": ("\n", "x"),
    "blank lines with spaces": ("\n \t", "x"),
    "is, then spaces": ("is          ", "z"),
    "equal signs and brackets": ("= ([{ ", ""),
    "zeros": ("0", "x"),
    "thousands": (",123", "x"),
    "thousands after a digit": ("1,234,567", ","),
    "signed numbers": ("-158 ", ""),
    "decimals of zeros": ("158.0", "1"),
    "fractions": ("\\frac{1}", ""),
    "text macros": ("\\text{", ""),
    "backslashes": ("\\", "{"),
    "fences": ("```\n", ""),
    "formulas": ("$$a$$\n\n", ""),
    "stops": (".", "x"),
    "quoted stops": ('."', "x"),
    "sentences": ("a. ", ""),
    "think ends": ("</think>", ""),
    "lone surrogates": ("\ud800 ", ""),
    "null characters": ("\0", ""),
}


def growing_fences() -> str:
    return "\n".join("`" * n for n in range(3, 440)) + "\n" + "~~~\n" * 100


def assert_linear(reader: Callable[[str], Any], text: str) -> None:
    taken = cpu_seconds(lambda: reader(text))
    assert taken <= FIXED_S + PER_CHARACTER_S * len(text), f"{taken:.1f} s"


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_poison_is_read_in_time_proportional_to_its_length(
    reader: Callable[[str], Any], poison: tuple[str, str]
) -> None:
    unit, tail = poison
    assert_linear(reader, unit * (LENGTH // len(unit)) + tail)


def test_fences_of_growing_length_are_read_in_time_proportional_to_theirs() -> None:
    assert_linear(READERS["steps"], growing_fences())


@settings(max_examples=30)
@given(
    unit=st.lists(
        st.sampled_from([unit for unit, _ in POISON.values()]) | st.text(max_size=3),
        min_size=1,
        max_size=4,
    ).map("".join),
    tail=st.sampled_from([tail for _, tail in POISON.values()]),
)
def test_any_repeated_piece_is_read_in_time_proportional_to_its_length(
    unit: str, tail: str
) -> None:
    text = unit * (20_000 // max(1, len(unit))) + tail
    for reader in READERS.values():
        assert_linear(reader, text)


@pytest.fixture(scope="module")
def verifiers() -> Iterator[dict[str, Verifier]]:
    opened = {
        name: open_verifier(Problems(path="unused", verifier=name, verify_timeout_s=20))
        for name in ("math", "exact", "choice")
    }
    yield opened
    for verifier in opened.values():
        verifier.close()


@pytest.mark.parametrize("name", ["math", "exact", "choice"])
def test_poison_costs_one_verdict_and_the_next_answer_is_judged(
    verifiers: dict[str, Verifier], name: str
) -> None:
    gold = "B" if name == "choice" else "42"
    texts = [unit * (LENGTH // len(unit)) + tail for unit, tail in POISON.values()]
    texts += [f"\\boxed{{{unit * 300}}}" for unit, _ in POISON.values()]
    items = [(str(i), text, Finish.STOP, problem(gold)) for i, text in enumerate(texts)]
    items.append(("good", f"\\boxed{{{gold}}}", Finish.STOP, problem(gold)))
    found = {check.trace: check.verdict for check in verifiers[name].verify_all(items)}
    assert len(found) == len(items)
    assert found["good"] is Verdict.CORRECT
    assert Verdict.CORRECT not in [found[str(i)] for i in range(len(texts))]


def test_a_reader_that_fails_costs_that_verdict_with_its_reason() -> None:
    def read(text: str, _: Problem) -> Finding:
        if text == "poison":
            raise RecursionError("too deep")
        return Finding(Verdict.CORRECT)

    def read_gold(wanted: Problem) -> Finding:
        return read(wanted.answer, wanted)

    verifier = Verifier("mine", read, read_gold)
    items = [(text, text, Finish.STOP, problem("5")) for text in ("fine", "poison", "too")]
    found = {check.trace: check for check in verifier.verify_all(items)}
    assert found["poison"].verdict is Verdict.UNVERIFIABLE
    assert found["poison"].detail == "the reader failed: RecursionError: too deep"
    assert found["fine"].verdict is found["too"].verdict is Verdict.CORRECT
    assert verifier.preflight([problem("poison")]).doubtful == 1
