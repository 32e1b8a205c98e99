"""When two answers are the same: what holds for every pair, and the rule that says so."""

import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from heal.verifiers.equality.compare import compare, is_readable

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "cases" / "equality.jsonl").read_text().splitlines()
]


def same(one: str, other: str) -> bool:
    return compare(one, other).same is True


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['one']}~{c['other']}")
def test_two_answers_are_the_same_or_not_whichever_is_the_reference(case: dict[str, Any]) -> None:
    assert same(case["one"], case["other"]) is case["same"]
    assert same(case["other"], case["one"]) is case["same"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['one']}~{c['other']}")
def test_every_answer_is_the_same_as_itself(case: dict[str, Any]) -> None:
    assert compare(case["one"], case["one"]).reason == "same spelling"


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("\\frac{1}{2}", "0.5", "equal values"),
        ("2^{-61}", "2^{-60}", "different values"),
        ("0.333333", "1/3", "equal when rounded"),
        ("3 km", "3 m", "different values"),
        ("3 km", "3 kg", "different units"),
        ("3 more", "3", "text behind the number"),
        ("x<2", "(-\\infty, 2)", "same interval"),
        ("\\{1, 2\\}", "(1, 2)", "a set is no tuple"),
        ("1, 2", "2, 1", "same list"),
        ("1, 2", "1", "a list is not one value"),
        ("5 = 7", "7", "an equation that is not true"),
        ("y = 2x", "2y = 4x", "equivalent equations"),
        ("Paris", "London", "different words"),
        ("52_8", "52_9", "different numbers in a base"),
        ("2024-01-05", "5 January 2024", "same days"),
        ("4:15 pm", "4:15 am", "different times"),
        ("\\text{not } 5", "5", "not read as mathematics"),
        ("x > 0", "\\emptyset", "different intervals"),
        ("a < b", "b < a", "different inequalities"),
    ],
)
def test_a_decision_names_its_rule(one: str, other: str, reason: str) -> None:
    assert compare(one, other).reason == reason


# ------------------------------------------------------------------ what holds for all answers

# fmt: off
PIECES = st.sampled_from([
    "1", "2", "10", "0.5", "x", "y", "n", "R", "r", "+", "-", "/", "^", "_", "(", ")", "[", "]",
    "{", "}", "\\{", "\\}", ",", "=", "<", "\\leq", "\\frac", "\\sqrt", "\\pi", "\\cup", "\\pm",
    "\\infty", "\\text{cm}", " km", " and ", " or ", "|", "!", ":", "\\%", "^\\circ", "\\cdot ",
    "\\sin ", "\\left(", "\\begin{pmatrix}", "&", "\\\\", "\\end{pmatrix}", "\\ldots", "½", "√",
    "million", "\\pmod 5", "\\equiv", "$", "e", "i", "Paris", " not ", "0x1F", "\\overline{3}",
])
# fmt: on
ANSWERS = st.lists(PIECES, min_size=1, max_size=9).map("".join)
NUMBERS = st.one_of(
    st.integers(-(10**9), 10**9).map(str),
    st.fractions(max_denominator=999).map(str),
    st.decimals(-1000, 1000, places=4).map(str),
    st.builds("{}\\times10^{{-{}}}".format, st.integers(1, 999), st.integers(1, 40)),
    st.builds("2^{{{}}}".format, st.integers(-90, 90).filter(bool)),
    st.builds("\\sqrt{{{}}}".format, st.integers(2, 999)),
    st.builds("{}!".format, st.integers(3, 400)),
)
UNITS = ["cm", "km", "kg", "J", "kJ", "cm^2", "cm^3", "apples", "pears", "hours", "^\\circ", "\\%"]


@settings(max_examples=400)
@given(ANSWERS, ANSWERS)
@example("\\{x : x", "\\begin{pmatrix}")
def test_a_decision_is_symmetric_and_never_an_exception(one: str, other: str) -> None:
    there, back = compare(one, other), compare(other, one)
    assert there.same is back.same


@settings(max_examples=200)
@given(ANSWERS)
def test_an_answer_is_its_own(answer: str) -> None:
    assert same(answer, answer)


@given(st.text(max_size=40))
def test_any_text_is_read_or_not_but_fails_nowhere(text: str) -> None:
    assert is_readable(text) in (True, False)
    assert same(text, text)


@given(NUMBERS, st.integers(1, 10**6))
def test_a_number_is_never_another_number(number: str, shift: int) -> None:
    assert not same(f"{number}+{shift}", number)
    assert not same(f"{number}+\\frac{{{shift}}}{{10^{{30}}}}", number)


@given(NUMBERS, st.integers(0, 30), st.sampled_from("0123456789"))
def test_a_changed_digit_is_never_correct(number: str, place: int, digit: str) -> None:
    places = [i for i, c in enumerate(number) if c.isdecimal()]
    at = places[place % len(places)]
    changed = number[:at] + digit + number[at + 1 :]
    assume(digit != number[at] and changed.lstrip("-0.") != number.lstrip("-0."))
    assume(not _is_zero(number) or not _is_zero(changed))
    assert not same(changed, number)


def _is_zero(number: str) -> bool:
    return not any(c in "123456789" for c in number.split("/")[0].split("\\times")[0])


@given(NUMBERS, st.sampled_from(UNITS), st.sampled_from(UNITS))
def test_another_unit_is_never_correct_and_a_missing_one_is(n: str, one: str, other: str) -> None:
    def with_unit(unit: str) -> str:
        return f"{n}{unit}" if unit.startswith(("^", "\\")) else f"{n} \\text{{ {unit}}}"

    assume(not _is_zero(n))
    assert same(with_unit(one), with_unit(other)) is (one == other)
    if "!" not in n and "^" not in n:
        assert same(with_unit(one), n)


@given(
    st.sampled_from("abcdgkmnpqrstuvwxyz"),
    st.sampled_from(["{}+1", "3{}^2", "\\frac{{{}}}{{2}}", "{}_1"]),
)
def test_another_letter_and_another_case_is_never_correct(letter: str, form: str) -> None:
    other = "h" if letter != "h" else "k"
    assert same(form.format(letter), form.format(letter))
    assert not same(form.format(letter), form.format(letter.upper()))
    assert not same(form.format(letter), form.format(other))


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=5, unique=True), st.randoms())
def test_lists_and_sets_have_no_order_and_tuples_have(numbers: list[int], random: Any) -> None:
    shuffled = list(numbers)
    random.shuffle(shuffled)
    one, other = (", ".join(map(str, row)) for row in (numbers, shuffled))
    assert same(one, other)
    assert same(f"\\{{{one}\\}}", f"\\{{{other}\\}}")
    assert same(f"({one})", f"({other})") is (numbers == shuffled)
    assert not same(f"({one})", f"\\{{{one}\\}}")


@given(st.integers(-99, 99), st.integers(1, 99), st.booleans(), st.booleans())
def test_an_interval_is_its_inequality_and_no_other(
    low: int, size: int, low_closed: bool, high_closed: bool
) -> None:
    high = low + size
    interval = f"{'[' if low_closed else '('}{low}, {high}{']' if high_closed else ')'}"
    signs = ("\\le" if low_closed else "<", "≤" if high_closed else "<")
    assert same(interval, f"{low} {signs[0]} x {signs[1]} {high}")
    assert same(interval, f"x \\in {interval}")
    open_instead = "<" if low_closed else "≤"
    assert not same(interval, f"{low} {open_instead} x {signs[1]} {high}")
    assert not same(interval, f"{low} {signs[0]} x {signs[1]} {high + 1}")


@given(st.fractions(max_denominator=50))
def test_a_fraction_is_its_decimal_its_percentage_and_its_mixed_number(value: Fraction) -> None:
    written = f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    assert same(written, str(value))
    assert same(written, f"{100 * value}\\%")
    sign, (whole, rest) = "-" if value < 0 else "", divmod(abs(value), 1)
    if whole and rest:
        assert same(written, f"{sign}{whole}\\frac{{{rest.numerator}}}{{{rest.denominator}}}")
        assert same(written, f"{sign}{whole} {rest}")


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^9}}",
        "(10^{10^{10}})!",
        "\\binom{10^9}{10^8}",
        "2^{2^{2^{2^{2^{2}}}}}",
        "10^{10^{6}}",
    ],
)
def test_huge_numbers_have_a_verdict_at_once(answer: str) -> None:
    start = time.process_time()
    assert same(answer, answer)
    assert same(f"{answer} + 1 - 1", answer) in (True, False)
    assert not same(answer, "5")
    assert not same(f"{answer}+1", "5")
    assert time.process_time() - start < 5
