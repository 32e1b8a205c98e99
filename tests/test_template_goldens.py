"""What a student of each family reads and is taught: prompt, row and loss, as golden files.

`data/templates/FAMILY.txt` has them, loss between ⟦ and ⟧. After a change that is meant:
HEAL_WRITE_GOLDENS=1 python -m pytest tests/test_template_goldens.py, and read the difference.
"""

import itertools
import os
from typing import Any

import pytest
from tests.families import FAMILIES, TEMPLATES, family_tokenizer

from heal.engines.local.tokens import Tokens
from heal.engines.text import undated
from heal.method.thinking import CHANNELS, TAGS, Thought, canonical, spelt
from heal.records import Example
from heal.students.rendering import IGNORED, Refusal, Rendered, Renderer

ASKED, SYSTEM = "How many are 2 and 2?", "Be brief."
PLAIN, THINKS = Thought(None, "So 4."), Thought("Two and two.\n\nThat is 4.", "So 4.")
TRACES = {"without thinking": PLAIN, "with thinking": THINKS}
EMPTY_PAIR = {"qwen3", "qwen3-thinking-off", "deepseek-r1-distill"}
"""Families that write an empty thinking section before an answer without thinking."""
REFUSED = {("qwen3-thinking-off", "with thinking")}
TAUGHT = [case for case in itertools.product(FAMILIES, TRACES) if case not in REFUSED]


def rendered(name: str, thought: Thought) -> Rendered | Refusal:
    example = Example("t", "p", "D1", ASKED, canonical(thought))
    return Renderer(family_tokenizer(name), 10_000).render(example)


def row_of(name: str, kind: str) -> Rendered:
    found = rendered(name, TRACES[kind])
    assert isinstance(found, Rendered)
    return found


def by_template(name: str, messages: list[dict[str, str]], **more: Any) -> Any:
    """What transformers makes of a conversation by the family's template."""
    tokenizer = family_tokenizer(name)
    template = undated(tokenizer.chat_template)
    return tokenizer.apply_chat_template(messages, chat_template=template, **more)


def marked(name: str, found: Rendered | Refusal) -> str:
    """A row's text, what bears loss between marks; its reason if it is refused."""
    if isinstance(found, Refusal):
        return f"refused: {found.value}"
    runs = itertools.groupby(
        zip(found.ids, found.labels, strict=True), lambda pair: pair[1] != IGNORED
    )
    text = ""
    for bears, pairs in runs:
        words = family_tokenizer(name).decode([i for i, _ in pairs], skip_special_tokens=False)
        text += f"⟦{words}⟧" if bears else words
    return text


def golden(name: str) -> str:
    user = {"role": "user", "content": ASKED}
    asked = {"tokenize": False, "add_generation_prompt": True}
    parts = {
        "prompt": by_template(name, [user], **asked),
        "prompt, with a system turn": by_template(
            name, [{"role": "system", "content": SYSTEM}, user], **asked
        ),
    }
    for kind, thought in TRACES.items():
        parts[f"row of a trace {kind}"] = marked(name, rendered(name, thought))
    told = Renderer(family_tokenizer(name), 10_000).form.describe()
    return f"student: {told}\n" + "".join(f"\n--- {k} ---\n{v}\n" for k, v in parts.items())


@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_row_and_loss_are_the_golden_ones(name: str) -> None:
    file, now = TEMPLATES / f"{name}.txt", golden(name)
    if os.environ.get("HEAL_WRITE_GOLDENS"):
        file.write_text(now, encoding="utf-8")
    assert now == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", TAUGHT, ids="-".join)
def test_a_row_goes_on_from_the_prompt_token_by_token(case: tuple[str, str]) -> None:
    name, kind = case
    found, user = row_of(name, kind), [{"role": "user", "content": ASKED}]
    prompt = by_template(name, user, add_generation_prompt=True, return_dict=False)
    assert list(found.ids[: len(prompt)]) == prompt
    assert found.prompt_tokens == len(prompt)
    # what an evaluation of the student asks it
    assert Tokens(family_tokenizer(name), name, ()).render(ASKED, None) == tuple(prompt)


@pytest.mark.parametrize("case", TAUGHT, ids="-".join)
def test_the_stop_token_is_taught_once_and_text_begins_once(case: tuple[str, str]) -> None:
    name, kind = case
    found, tokenizer = row_of(name, kind), family_tokenizer(name)
    taught = [label for label in found.labels if label != IGNORED]
    user, said = {"role": "user", "content": ASKED}, {"role": "assistant", "content": "So 4."}
    whole = by_template(name, [user, said], tokenize=False)
    stop = whole.rpartition("So 4.")[2].strip()
    assert tokenizer.convert_ids_to_tokens(taught[-1]) == stop
    assert taught.count(taught[-1]) == 1
    bos = tokenizer.bos_token_id
    written = FAMILIES[name].bos is not None and name != "gpt-oss"
    assert list(found.ids).count(bos) == (1 if written else 0)


@pytest.mark.parametrize("case", TAUGHT, ids="-".join)
def test_a_row_has_exactly_one_thinking_section(case: tuple[str, str]) -> None:
    name, kind = case
    found, renderer = row_of(name, kind), Renderer(family_tokenizer(name), 10_000)
    text = family_tokenizer(name).decode(found.ids, skip_special_tokens=False)
    form = renderer.form.form or TAGS
    if kind == "with thinking":
        assert text.count(form.opens) == text.count(form.closes) == 1
        assert text.count(THINKS.thinking or "") == 1
        return
    # without: none, or an empty one where the family writes one before plain answers
    assert text.partition(form.opens)[2].partition(form.closes)[0].strip() == ""
    if form is CHANNELS:
        assert (text.count(form.opens), text.count(form.bare)) == (0, 1)
    else:
        assert text.count(form.opens) == text.count(form.closes) == len(EMPTY_PAIR & {name})


UNLIKE = {"deepseek-r1-distill", "qwen3-thinking-off"}
"""Their templates do not go on in an assistant turn from where their own prompt ends."""


def as_published(name: str, thought: Thought) -> str:
    """The conversation by the family's template alone."""
    said = {"role": "assistant", "content": thought.answer}
    if name == "gpt-oss" and thought.thinking is not None:
        said["thinking"] = thought.thinking
    elif thought.thinking is not None:
        said["content"] = spelt(thought.thinking, thought.answer, TAGS)
    text: str = by_template(name, [{"role": "user", "content": ASKED}, said], tokenize=False)
    return text.removesuffix("\n")


@pytest.mark.parametrize("case", [c for c in TAUGHT if c[0] not in UNLIKE], ids="-".join)
def test_a_row_is_what_the_familys_own_template_makes_of_it(case: tuple[str, str]) -> None:
    name, kind = case
    text = family_tokenizer(name).decode(row_of(name, kind).ids, skip_special_tokens=False)
    assert text == as_published(name, TRACES[kind])


def test_templates_do_to_thinking_what_the_published_ones_do() -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nold\n</think>\n\nb"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "<think>\nnew\n</think>\n\nd"},
    ]
    qwen = by_template("qwen3", turns, tokenize=False)
    assert "old" not in qwen
    assert qwen.endswith("<|im_start|>assistant\n<think>\nnew\n</think>\n\nd<|im_end|>\n")
    r1 = by_template("deepseek-r1-distill", turns, tokenize=False)
    assert "think" not in r1
    assert r1.endswith("<｜Assistant｜>\n\nd<｜end▁of▁sentence｜>")
    thinking = [t | {"content": t["content"][-1], "thinking": "old"} for t in turns[:2]]
    asked = by_template(
        "gpt-oss", [*thinking, turns[2]], tokenize=False, add_generation_prompt=True
    )
    assert "old" not in asked
    assert "<|channel|>final<|message|>b<|end|><|start|>user" in asked
