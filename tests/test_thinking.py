"""Thinking in one form: what a teacher thought, and what its student is taught of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.scripted_run import SETTINGS, ScriptedRun, easy, merge, world
from tests.test_docs import DOCS
from tests.tiny_student import TEMPLATE, make_student, make_tokenizer

from heal.engines.local.delimiters import Delimiters, form_of
from heal.method.thinking import (
    BRACKETS,
    CHANNELS,
    FORMS,
    TAGS,
    Malformed,
    Thought,
    canonical,
    opened_by,
    read_thought,
    spelt,
)
from heal.records import Drop, Example
from heal.store import SelectedRow
from heal.students.forms import Rule, StudentForm, student_form
from heal.students.rendering import Refusal, Rendered, Renderer

THINKS, PLAIN = Thought("It is 2 and 2.", "So 4."), Thought(None, "So 4.")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("So 4.", PLAIN),
        ("<think>\nIt is 2 and 2.\n</think>\n\nSo 4.", THINKS),
        ("It is 2 and 2.\n</think>\n\nSo 4.", THINKS),
        ("<think>\n\n</think>\n\nSo 4.", PLAIN),
        ("<think>It is", Malformed.UNCLOSED),
        ("<think>a</think>b<think>c</think>", Malformed.SEVERAL),
        ("<think>a<think>b</think>c", Malformed.SEVERAL),
        ("a</think>b</think>c", Malformed.SEVERAL),
        ("[THINK]a[/THINK]b", Malformed.SEVERAL),
    ],
)
def test_a_trace_is_thinking_and_answer_or_malformed(text: str, found: Thought | Malformed) -> None:
    assert read_thought(text) == found


@pytest.mark.parametrize("thought", [THINKS, PLAIN])
def test_the_canonical_form_reads_back(thought: Thought) -> None:
    assert read_thought(canonical(thought)) == thought


@pytest.mark.parametrize("form", FORMS)
def test_a_prompt_that_opens_the_thinking_is_seen(form: Any) -> None:
    assert opened_by(f"<|user|>{form.opens}\n", form) == f"{form.opens}\n"
    assert opened_by(f"<|user|>{form.opens}\nwords", form) == ""


# --- students ------------------------------------------------------------------------------------

STUDENTS = {
    "knows no thinking": StudentForm(None),
    "`<think>` tags, opens them itself": StudentForm(TAGS),
    "`<think>` tags, its prompt opens them": StudentForm(TAGS, opened="<think>\n"),
    "`<think>` tags, its prompt closes them": StudentForm(TAGS, closed=True),
    "`<think>` tags, writes an empty pair before plain answers": StudentForm(
        TAGS, bare="<think>\n\n</think>\n\n"
    ),
    "`[THINK]` tokens": StudentForm(BRACKETS),
    "channels (gpt-oss)": StudentForm(CHANNELS, bare=CHANNELS.bare),
}


def cell(student: StudentForm, thought: Thought) -> str:
    text = student.taught(thought)
    shown = "–" if text is None else f"`{text.replace(chr(10), '⏎').replace('|', chr(92) + '|')}`"
    return f"{shown}: {student.rule(thought.thinking is not None).value}"


def table() -> str:
    head = "| student | a trace that thinks | a trace that does not |\n|---|---|---|\n"
    rows = (f"| {n} | {cell(s, THINKS)} | {cell(s, PLAIN)} |" for n, s in STUDENTS.items())
    return head + "\n".join(rows) + "\n"


def test_the_page_has_the_table_of_teacher_and_student() -> None:
    assert table() in (DOCS / "thinking.md").read_text(encoding="utf-8"), table()


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("thought", [THINKS, PLAIN])
def test_a_student_gets_one_closed_pair_or_none(name: str, thought: Thought) -> None:
    student = STUDENTS[name]
    text, form = student.taught(thought), student.form or TAGS
    if text is None:
        assert student.rule(thought.thinking is not None) is Rule.REFUSED
        return
    whole = student.opened + text
    if thought.thinking is None and not student.opened and not student.bare:
        assert whole == thought.answer
        return
    assert whole.count(form.closes) <= 1
    assert whole.endswith(thought.answer)
    if thought.thinking is not None:
        assert whole.count(form.opens) == whole.count(form.closes) == 1
        assert thought.thinking in whole


def test_words_that_are_a_students_own_signs_are_refused() -> None:
    assert STUDENTS["`[THINK]` tokens"].taught(Thought(None, "the token [THINK] opens")) is None


@pytest.mark.parametrize(
    ("opening", "answered", "rule"),
    [
        ("<a>", "<a>", Rule.REWRITTEN),
        ("<a><think>\n", "<a>", Rule.CONTINUED),
        ("<a><think>\n\n</think>\n\n", "<a>", Rule.REFUSED),
    ],
)
def test_a_template_says_how_its_student_thinks(opening: str, answered: str, rule: Rule) -> None:
    assert student_form(TAGS, opening, answered).rule(thinks=True) is rule


# --- tokenizers ----------------------------------------------------------------------------------


def with_tokens(*names: str, template: str = TEMPLATE) -> Any:
    tokenizer = make_tokenizer(template)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|start|>", *names]}, replace_extra_special_tokens=False
    ) if names else None
    return tokenizer


def test_tokens_that_decoding_drops_are_read_as_tags() -> None:
    tokenizer = with_tokens("[THINK]", "[/THINK]")
    special = frozenset(tokenizer.all_special_ids)
    assert form_of(tokenizer) is BRACKETS
    delimiters = Delimiters(tokenizer, special)
    ids = tokenizer.encode("[THINK]ab[/THINK]c", add_special_tokens=False)
    found = [(words, end - start) for start, end, words in delimiters.find(ids)]
    assert found == [("<think>", 1), ("</think>", 1)]
    assert delimiters.native("<think>ab</think>c") == "[THINK]ab[/THINK]c"


def test_tags_in_a_models_own_text_need_no_rewriting() -> None:
    tokenizer = with_tokens(template=TEMPLATE + "{# <think> #}")
    assert form_of(tokenizer) is TAGS
    assert not Delimiters(tokenizer, frozenset(tokenizer.all_special_ids))


OPENS = TEMPLATE.replace("assistant\\n'", "assistant\\n<think>\\n'").replace(
    "assistant\n'", "assistant\n<think>\n'"
)


def example(text: str) -> Example:
    return Example("t", "p", "D1", "How many?", text)


@pytest.mark.parametrize(
    ("template", "text", "taught"),
    [
        (TEMPLATE, "<think>\na\n</think>\n\n4", "<think>\na\n</think>\n\n4<|end|>"),
        (TEMPLATE, "4", "4<|end|>"),
        (OPENS, "<think>\na\n</think>\n\n4", "a\n</think>\n\n4<|end|>"),
        (OPENS, "4", "\n</think>\n\n4<|end|>"),
    ],
)
def test_the_loss_is_on_what_the_student_writes(template: str, text: str, taught: str) -> None:
    tokenizer = make_tokenizer(template)
    found = Renderer(tokenizer, 1000).render(example(text))
    assert isinstance(found, Rendered)
    labels = [label for label in found.labels if label >= 0]
    assert tokenizer.decode(labels).strip() == taught.strip()


@pytest.mark.parametrize("text", ["<think>a", "<think>a</think>b</think>", "<think>a<think>b"])
def test_what_is_not_one_closed_section_is_refused(text: str) -> None:
    assert Renderer(make_tokenizer(), 1000).render(example(text)) is Refusal.THINKING


# --- whole runs ----------------------------------------------------------------------------------


def run_with(home: Path, template: str, thinks: bool) -> ScriptedRun:
    """A teacher that thinks, or not, and a student of a template; data only up to select."""
    rows, rules = world(easy("apples"), easy("melons"))
    if thinks:
        rules = [
            rule | {"replies": [f"<think>\nLet me see.\n</think>\n\n{t}" for t in rule["replies"]]}
            for rule in rules
        ]
    run = ScriptedRun(home, (rows, rules), {"arms": ["rft"], "student": {"model": "student"}})
    make_student(home / "student")
    make_tokenizer(template).save_pretrained(home / "student")
    tree = merge(SETTINGS, run.settings)
    if thinks:
        tree["prompts"] = {"think_close": "</think>"}
    (home / "recipe.yaml").write_text(yaml.safe_dump(tree))
    run.go("train.max_length=900", until="select")
    return run


@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("template", [TEMPLATE, OPENS], ids=["plain student", "think student"])
def test_any_teacher_teaches_any_student(tmp_path: Path, template: str, thinks: bool) -> None:
    run = run_with(tmp_path, template, thinks)
    kept = run.rows(SelectedRow, "\"drop\" = 'kept'")
    assert len(kept) == 4
    assert not run.rows(SelectedRow, '"drop" = ?', Drop.THINKING)
    rows = run.stage_rows("stage1_foundation.jsonl")
    for row in rows:
        said = row["messages"][-1]["content"]
        assert said.count("<think>") == said.count("</think>") == int(thinks)
    found = Renderer(make_tokenizer(template), 900).render(
        Example("t", "p", "D1", "?", rows[0]["messages"][-1]["content"])
    )
    assert isinstance(found, Rendered)
    text = make_tokenizer(template).decode(list(found.ids))
    assert text.count("</think>") == int(thinks or template == OPENS)


def test_a_teacher_that_does_not_close_its_thinking_is_counted(tmp_path: Path) -> None:
    rows, rules = world(easy("apples"), easy("melons"))
    text = json.dumps(rules).replace("The apples in tall", "<think> The apples in tall")
    run = ScriptedRun(
        tmp_path, (rows, json.loads(text)), {"arms": ["rft"], "student": {"model": "student"}}
    )
    make_student(tmp_path / "student")
    run.go("train.max_length=900", until="select")
    assert len(run.rows(SelectedRow, '"drop" = ?', Drop.THINKING)) >= 1
    assert run.meta("facts")["examples whose thinking is not one closed section"] >= 1


def test_every_form_spells_a_pair() -> None:
    for form in FORMS:
        text = spelt("a", "b", form)
        assert text.index(form.opens) < text.index("a") < text.index(form.closes) < text.rindex("b")
