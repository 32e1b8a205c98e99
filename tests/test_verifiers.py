"""Five verdicts: what each verifier says, and what no verifier may say."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal.config import Problems
from heal.errors import HealError, UserError
from heal.functions import edition
from heal.method.final_answers import (
    count_final_answers,
    extract_answer,
    number,
    same_text,
)
from heal.records import Finish, Problem, Verdict
from heal.verifiers import Verifier, open_verifier, second_reading, verify_answer

CASES = Path(__file__).parent / "cases"
ENDLESS = "\\int_0^{9^{9^{9^{9}}}} x dx"
"""math-verify, which is asked about integrals, computes this number before anything else."""


def cases(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASES / f"{name}.jsonl").read_text().splitlines()]


def problem(gold: str, **others: Any) -> Problem:
    return Problem(f"id of {gold}", "What is it?", gold, **others)


def settings(verifier: str, timeout_s: float = 20) -> Problems:
    return Problems(path="unused", verifier=verifier, verify_timeout_s=timeout_s)


@pytest.fixture(scope="module")
def math() -> Iterator[Verifier]:
    verifier = open_verifier(settings("math"))
    yield verifier
    verifier.close()


@pytest.fixture(scope="module")
def gym() -> Iterator[Verifier]:
    verifier = open_verifier(settings("gym", timeout_s=60))
    yield verifier
    verifier.close()


@pytest.fixture
def checkers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code_allowed: None) -> Path:
    """A module of custom checkers in the current directory, as a user would have it."""
    (tmp_path / "my_checkers.py").write_text(
        "from heal.records import Verdict\n"
        "def ends_with(text, answer): return text.rstrip('.').endswith(answer)\n"
        "def named(text, answer): return Verdict.NO_ANSWER if text == '' else 'wrong'\n"
        "def vague(text, answer): return 0.5\n"
        "def broken(text, answer): raise KeyError(answer)\n"
        "def chatty(text, answer): print('noise'); return True\n"
        "def tests(text, answer, row): return row['verifier_data']['tests'] == [1] "
        "and row['family'] == 'sums' and row['problem'] == 'What is it?' and answer == '42'\n"
        "def strict(text, answer, strict=False): return strict is False\n"
        "def marked(text, answer, row=None): return row['id']\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------ final answers as text


@pytest.mark.parametrize("case", cases("final_answers"), ids=lambda c: c["text"][:40])
def test_the_final_answer_and_their_number_are_read_from_the_text(case: dict[str, Any]) -> None:
    assert extract_answer(case["text"]) == case["answer"]
    assert count_final_answers(case["text"]) == case["count"]


@given(st.text(st.characters(exclude_characters="{}\\", codec="utf-8"), min_size=1))
def test_a_boxed_answer_comes_back_but_for_outer_spaces(content: str) -> None:
    expected = content.strip() or None
    assert extract_answer(f"so \\boxed{{{content}}}") == expected


@given(st.text())
def test_reading_answers_never_fails_and_counts_what_it_reads(text: str) -> None:
    answer = extract_answer(text)
    assert (answer is None) == (count_final_answers(text) == 0)


@given(st.integers(-(10**12), 10**12))
def test_an_integer_is_the_same_number_with_separators_or_decimals(value: int) -> None:
    assert number(f"{value:,}") == number(f"{value}.0") == number(f"${value}$") == value
    assert same_text(f"{value:,}", str(value))
    assert not same_text(str(value), str(value + 1))


def test_a_spaced_list_is_not_a_number() -> None:
    assert number("100, 200") is None
    assert not same_text("100, 200", "100200")


# ------------------------------------------------------------------ what holds for every verifier


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.LOOP])
def test_truncated_trace_is_never_correct(math: Verifier, finish: Finish) -> None:
    (check,) = math.verify_all([("t", "\\boxed{42}", finish, problem("42"))])
    assert check.verdict is Verdict.TRUNCATED
    assert check.trace == "t"


@pytest.mark.parametrize("finish", [Finish.ERROR, Finish.CANCELLED])
def test_a_trace_the_engine_lost_is_unverifiable_with_the_reason(
    math: Verifier, finish: Finish
) -> None:
    (check,) = math.verify_all([("t", "\\boxed{42}", finish, problem("42"))])
    assert check.verdict is Verdict.UNVERIFIABLE
    assert check.detail == f"the trace ended with '{finish.value}'"


def test_every_item_gets_exactly_one_check(math: Verifier) -> None:
    texts = ["\\boxed{\\sqrt{4}}", "\\boxed{2}", "nothing", "\\boxed{\\sqrt{9}}"] * 40
    items = [(str(i), text, Finish.STOP, problem("2")) for i, text in enumerate(texts)]
    found = {check.trace: check for check in math.verify_all(items)}
    assert len(found) == len(items)
    expected = [Verdict.CORRECT, Verdict.CORRECT, Verdict.NO_ANSWER, Verdict.WRONG] * 40
    assert [found[str(i)].verdict for i in range(len(items))] == expected
    assert found["0"].answer == "\\sqrt{4}"


def test_items_are_read_lazily(math: Verifier) -> None:
    read = []

    def items() -> Iterator[tuple[str, str, Finish, Problem]]:
        for i in range(3):
            read.append(i)
            yield str(i), "\\boxed{2}", Finish.STOP, problem("2")

    next(math.verify_all(items()))
    assert read == [0]


def test_two_interleaved_streams_each_get_their_own_checks(math: Verifier) -> None:
    def stream(name: str) -> Iterator[str]:
        texts = [f"\\boxed{{\\sqrt{{{i}}}}}" for i in range(3, 9)]
        items = [(f"{name}{i}", t, Finish.STOP, problem("2.5")) for i, t in enumerate(texts)]
        return (check.trace for check in math.verify_all(items))

    first, second = stream("a"), stream("b")
    seen = [next(first), next(second), *first, *second]
    assert sorted(seen) == [f"{name}{i}" for name in "ab" for i in range(6)]


def test_a_stream_that_is_dropped_half_way_spoils_nothing(math: Verifier) -> None:
    items = [(str(i), f"\\boxed{{e^{i}}}", Finish.STOP, problem("e")) for i in range(2, 40)]
    dropped = math.verify_all(items)
    next(dropped)
    dropped.close()
    assert math.check("\\boxed{e^1}", problem("e")).verdict is Verdict.CORRECT


def test_unknown_verifier_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        open_verifier(settings("maths"))
    assert str(caught.value) == "problems.verifier: no verifier 'maths'; did you mean 'math'?"
    assert caught.value.hint == (
        "choose one of math, exact, choice, gym, code, or give your own as module:function"
    )


def test_a_closed_verifier_says_so() -> None:
    verifier = open_verifier(settings("math"))
    verifier.close()
    verifier.close()
    with pytest.raises(HealError, match=r"^the verifier is closed$"):
        verifier.check("\\boxed{\\sqrt{2}}", problem("2"))


def test_opening_a_verifier_loads_no_checker_in_this_process() -> None:
    code = (
        "import sys; from heal.config import Problems; from heal.verifiers import open_verifier\n"
        "for name in ('math', 'exact', 'choice', 'gym', 'code', 'a:b'):\n"
        "    open_verifier(Problems(path='x', verifier=name)).close()\n"
        "print({'torch', 'sympy', 'math_verify', 'reasoning_gym'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# ------------------------------------------------------------------ math


@pytest.mark.parametrize(
    "case", cases("math_verdicts"), ids=lambda c: f"{c['answer'][:30]}~{c['gold'][:30]}"
)
def test_math_verdicts(math: Verifier, case: dict[str, str]) -> None:
    found = math.check(f"Thus \\boxed{{{case['answer']}}}.", problem(case["gold"]))
    assert found.verdict is Verdict(case["verdict"])


def test_two_boxes_in_one_list_are_one_answer(math: Verifier) -> None:
    text = "Hence $\\boxed{1331}$ and $\\boxed{1728}$."
    assert math.check(text, problem("1728")).verdict is Verdict.WRONG
    assert math.check(text, problem("1728, 1331")).verdict is Verdict.CORRECT


def test_an_answer_that_hangs_the_checker_is_unverifiable_and_the_next_is_checked() -> None:
    verifier = open_verifier(settings("math", timeout_s=1.5))
    try:
        hung = verifier.check(f"\\boxed{{{ENDLESS}}}", problem("5"))
        after = verifier.check("\\boxed{\\sqrt{25}}", problem("5"))
    finally:
        verifier.close()
    assert hung.verdict is Verdict.UNVERIFIABLE
    assert hung.detail == "the checker took longer than 1.5 s"
    assert hung.answer == ENDLESS
    assert after.verdict is Verdict.CORRECT


def test_a_slow_check_does_not_hold_up_where_traces_come_from() -> None:
    verifier, drawn = open_verifier(settings("math", timeout_s=1.5)), list[str]()
    roots = [f"\\boxed{{\\sqrt{{{n}}}+1}}" for n in range(2, 202)]

    def traces() -> Iterator[Any]:
        for text in (f"\\boxed{{{ENDLESS}}}", *roots):
            drawn.append(text)
            yield text, text, Finish.STOP, problem("1+\\sqrt{7}")

    try:
        checks = verifier.verify_all(traces())
        first = next(checks)
        drawn_by_then = len(drawn)
        found = Counter(check.verdict for check in (first, *checks))
    finally:
        verifier.close()
    assert drawn_by_then == 201
    assert found == {Verdict.UNVERIFIABLE: 1, Verdict.WRONG: 199, Verdict.CORRECT: 1}


def test_preflight_names_gold_answers_the_verifier_cannot_use(math: Verifier) -> None:
    golds = ["5", "\\sqrt{2}", "Evelyn", "\\frac{", "3, 4", "by 2 lemmas the claim follows"]
    found = math.preflight([problem(gold) for gold in golds])
    assert (found.checked, found.doubtful) == (6, 3)
    assert found.named == (
        "id of Evelyn: 'Evelyn': words, compared as text",
        "id of \\frac{: '\\\\frac{': math-verify cannot read it; compared as text",
        "id of by 2 lemmas the claim follows: 'by 2 lemmas the claim follows': "
        "reads like prose, not like one answer",
    )


def test_preflight_names_only_the_first_few(math: Verifier) -> None:
    found = math.preflight([problem(f"word{'s' * i}") for i in range(9)])
    assert found.doubtful == 9
    assert len(found.named) == 5


@pytest.mark.parametrize(
    ("answer", "gold", "verdict", "reason"),
    [
        ("42.0", "42", Verdict.CORRECT, "same number"),
        ("41", "42", Verdict.WRONG, "different numbers"),
        ("x + 1", "x+1", Verdict.CORRECT, "same spelling"),
        ("1+x", "x+1", Verdict.CORRECT, "equal values"),
        ("9^{9^{9^9}}", "5", Verdict.WRONG, "different values"),
        ("\\int_0^1 2x\\,dx", "1", Verdict.CORRECT, "equal by math-verify"),
        ("\\int_0^1 2x\\,dx", "2", Verdict.WRONG, "not equal by math-verify"),
        ("\\sum_{k=1}^{4} k", "10", Verdict.CORRECT, "equal values"),
        ("5 ? 7", "5", Verdict.WRONG, "not read as mathematics, and the texts differ"),
    ],
)
def test_every_verdict_has_a_reason(
    math: Verifier, answer: str, gold: str, verdict: Verdict, reason: str
) -> None:
    found = math.check(f"\\boxed{{{answer}}}", problem(gold))
    assert (found.verdict, found.detail) == (verdict, reason)


@pytest.mark.parametrize(
    ("text", "gold", "verifier", "verdict", "reason"),
    [
        ("5 km", "5000 m", "math", Verdict.CORRECT, "equal values"),
        ("So the answer is 5 km.", "5000 m", "math", Verdict.CORRECT, "equal values"),
        ("R/r", "r/R", "exact", Verdict.WRONG, "different texts"),
        ("(B) 12", "B", "choice", Verdict.CORRECT, "same letters"),
    ],
)
def test_one_answer_is_verified_without_a_config(
    text: str, gold: str, verifier: str, verdict: Verdict, reason: str
) -> None:
    found = verify_answer(text, gold, verifier)
    assert (found.verdict, found.detail) == (verdict, reason)


def test_one_answer_for_the_gym_is_an_error_with_the_choices() -> None:
    with pytest.raises(UserError) as caught:
        verify_answer("5", "5", "gym")
    assert caught.value.hint == "choose one of math, exact, choice, code, or module:function"


def test_two_readings_of_golds_are_counted_where_they_differ() -> None:
    found = second_reading([problem(gold) for gold in ("5", "\\sqrt{2}", "5 ft 9 in", "%%")])
    assert (found.read, found.undecided) == (4, 0)
    assert found.both >= 2
    assert found.disagree == len(found.named)


def test_two_readings_of_pairs_are_counted_where_they_differ() -> None:
    pairs = [("5", "5"), ("5", "6"), ("3 \\text{ million}", "3"), ("5 km", "5000 m")]
    found = second_reading(pairs)
    assert (found.both, found.neither) == (1, 1)
    assert (found.only_math_verify, found.only_ours) == (1, 1)
    assert "only math-verify would call them equal" in found.named[0]


# ------------------------------------------------------------------ exact, choice


@pytest.mark.parametrize("case", cases("exact_verdicts"), ids=lambda c: f"{c['text']}~{c['gold']}")
def test_exact_verdicts(case: dict[str, str]) -> None:
    found = open_verifier(settings("exact")).check(case["text"], problem(case["gold"]))
    assert found.verdict is Verdict(case["verdict"])


@pytest.mark.parametrize("case", cases("choice_verdicts"), ids=lambda c: f"{c['text']}~{c['gold']}")
def test_choice_verdicts(case: dict[str, str]) -> None:
    found = open_verifier(settings("choice")).check(case["text"], problem(case["gold"]))
    assert found.verdict is Verdict(case["verdict"])


@given(st.sets(st.sampled_from("ABCDEFGHIJ"), min_size=1), st.sampled_from([", ", " and ", "; "]))
def test_the_order_of_several_letters_does_not_count(chosen: set[str], between: str) -> None:
    up, down = sorted(chosen), sorted(chosen, reverse=True)
    found = open_verifier(settings("choice")).check(
        f"\\boxed{{{between.join(down)}}}", problem(between.join(up))
    )
    assert found.verdict is Verdict.CORRECT
    assert found.answer == "".join(up)


def test_preflight_of_choice_names_a_gold_answer_without_a_letter() -> None:
    found = open_verifier(settings("choice")).preflight([problem("B"), problem("Paris")])
    assert found.named == (
        "id of Paris: 'Paris': the gold answer 'Paris' names no letter from A to J",
    )


# ------------------------------------------------------------------ gym, custom


def entry(task: str = "gsm_symbolic", answer: str = "288") -> str:
    metadata = {"source_dataset": task, "source_index": 0}
    return json.dumps({"question": "?", "answer": answer, "metadata": metadata})


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("\\boxed{288}", Verdict.CORRECT),
        ("The answer is 288.", Verdict.CORRECT),
        ("\\boxed{287}", Verdict.WRONG),
        ("I cannot say", Verdict.NO_ANSWER),
    ],
)
def test_gym_verdicts(gym: Verifier, text: str, verdict: Verdict) -> None:
    pytest.importorskip("reasoning_gym")
    assert gym.check(text, problem("288", verifier_data=entry())).verdict is verdict


def test_a_partial_gym_score_is_wrong_with_the_score(gym: Verifier) -> None:
    pytest.importorskip("reasoning_gym")
    found = gym.check("\\boxed{287}", problem("288", verifier_data=entry()))
    assert found.detail is not None and found.detail.startswith("score 0")


def test_a_gym_entry_of_an_unknown_task_is_unverifiable(gym: Verifier) -> None:
    pytest.importorskip("reasoning_gym")
    found = gym.check("\\boxed{1}", problem("1", verifier_data=entry("no_such_task", "1")))
    assert found.verdict is Verdict.UNVERIFIABLE
    assert found.detail is not None and "no_such_task" in found.detail


def test_gym_preflight_counts_problems_without_an_entry(gym: Verifier) -> None:
    pytest.importorskip("reasoning_gym")
    found = gym.preflight([problem("288", verifier_data=entry()), problem("7")])
    assert (found.checked, found.doubtful) == (2, 1)
    assert found.named == ("id of 7: '7': the problem carries no reasoning-gym entry",)


def test_missing_reasoning_gym_is_an_error_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reasoning_gym.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    verifier = open_verifier(settings("gym"))
    with pytest.raises(UserError) as caught:
        verifier.check("\\boxed{1}", problem("1", verifier_data=entry()))
    assert str(caught.value) == (
        "problems.verifier: gym needs reasoning-gym, which is not installed"
    )
    assert caught.value.hint == "pip install reasoning-gym"


@pytest.mark.parametrize(
    ("function", "text", "verdict", "detail"),
    [
        ("ends_with", "so 42.", Verdict.CORRECT, "my_checkers:ends_with returned True"),
        ("ends_with", "so 41.", Verdict.WRONG, "my_checkers:ends_with returned False"),
        ("named", "", Verdict.NO_ANSWER, "my_checkers:named returned 'no_answer'"),
        ("named", "x", Verdict.WRONG, "my_checkers:named returned 'wrong'"),
        ("chatty", "x", Verdict.CORRECT, "my_checkers:chatty returned True"),
        (
            "vague",
            "x",
            Verdict.UNVERIFIABLE,
            "my_checkers:vague returned 0.5; expected True, False or a Verdict",
        ),
    ],
)
def test_custom_verdicts(
    checkers: Path, function: str, text: str, verdict: Verdict, detail: str | None
) -> None:
    verifier = open_verifier(settings(f"my_checkers:{function}"))
    try:
        found = verifier.check(text, problem("42"))
    finally:
        verifier.close()
    assert (found.verdict, found.detail) == (verdict, detail)


def test_a_custom_checker_with_a_third_argument_is_given_the_whole_row(checkers: Path) -> None:
    verifier = open_verifier(settings("my_checkers:tests"))
    rows = [json.dumps({"tests": [1]}), json.dumps({"tests": [2]}), "not JSON", None]
    try:
        found = [
            verifier.check("x", problem("42", meta={"family": "sums"}, verifier_data=data)).verdict
            for data in rows
        ]
    finally:
        verifier.close()
    assert found == [Verdict.CORRECT, Verdict.WRONG, Verdict.UNVERIFIABLE, Verdict.UNVERIFIABLE]


def test_an_option_of_a_custom_checker_is_not_mistaken_for_the_row(checkers: Path) -> None:
    verifier = open_verifier(settings("my_checkers:strict"))
    try:
        assert verifier.check("x", problem("42")).verdict is Verdict.CORRECT
    finally:
        verifier.close()


def test_equal_traces_of_different_rows_are_different_questions(checkers: Path) -> None:
    verifier = open_verifier(settings("my_checkers:marked"))
    problems = [Problem(f"row {i}", "?", "42") for i in range(3)]
    try:
        items = [(p.id, "x", Finish.STOP, p) for p in problems]
        found = {check.trace: check.detail or "" for check in verifier.verify_all(items)}
    finally:
        verifier.close()
    assert all(f"returned '{key}'" in detail for key, detail in found.items())


def test_an_exception_in_a_custom_checker_is_unverifiable_with_its_line(checkers: Path) -> None:
    verifier = open_verifier(settings("my_checkers:broken"))
    try:
        found = verifier.check("x", problem("42"))
    finally:
        verifier.close()
    assert found.verdict is Verdict.UNVERIFIABLE
    assert found.detail == f"KeyError: '42' ({checkers / 'my_checkers.py'}:5)"


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        (
            "my_checkers:end_with",
            "problems.verifier: my_checkers has no function 'end_with'; did you mean 'ends_with'?",
            "define it in {folder}/my_checkers.py",
        ),
        (
            "no_such_module:check",
            "problems.verifier: no module 'no_such_module' "
            "(looked in the Python path and {folder})",
            "run from the folder that holds no_such_module.py",
        ),
        (
            ":check",
            "problems.verifier: ':check' is not module:function",
            "--set problems.verifier=my_module:my_name",
        ),
    ],
)
def test_a_custom_checker_that_is_not_there_is_an_error(
    checkers: Path, spec: str, message: str, hint: str
) -> None:
    verifier = open_verifier(settings(spec))
    with pytest.raises(UserError) as caught:
        verifier.preflight([problem("42")])
    assert str(caught.value) == message.format(folder=checkers)
    assert caught.value.hint == hint.format(folder=checkers)


def test_a_users_function_has_another_edition_once_its_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code_allowed: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = tmp_path / "a_judge_of_mine.py"
    editions = []
    for text in ("x = 1\n", "x = 2\n", "x = 1\n"):
        source.write_text(text)
        edition.cache_clear()
        editions.append(edition("a_judge_of_mine:check"))
    assert editions[0] == editions[2] != editions[1]
    assert editions[0].startswith("a_judge_of_mine:check@")
    assert edition("math") == "math"
    assert edition("no_such_module:check") == "no_such_module:check"
    edition.cache_clear()
