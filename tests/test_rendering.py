"""Rendering: what bears loss is exactly what the student shall write."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal.engines.local.tokens import Tokens
from heal.errors import UserError
from heal.method.thinking import Malformed, canonical, read_thought
from heal.records import Drop, Example
from heal.stages.candidates import Seen
from heal.students.rendering import IGNORED, Refusal, Rendered, Renderer, end_of_turn, reader

sys.path.insert(0, str(Path(__file__).parent))
from tiny_student import TEMPLATE, make_tokenizer

TOKENIZER = make_tokenizer()
DELETES_THINKING = TEMPLATE.replace("m['content']", "m['content'].split('</think>')[-1]")
OPENS_THINKING = TEMPLATE.replace("assistant\n", "assistant\n<think>\n")


def example(assistant: str, *, user: str = "1 + 1?", system: str | None = None) -> Example:
    return Example("t", "p", "D1", user, assistant, system)


def rendered(assistant: str, template: str = TEMPLATE, max_length: int = 10_000) -> Rendered:
    found = Renderer(make_tokenizer(template), max_length).render(example(assistant))
    assert isinstance(found, Rendered)
    return found


def taught(found: Rendered) -> str:
    return TOKENIZER.decode([i for i in found.labels if i != IGNORED], skip_special_tokens=False)


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_the_labels_spell_the_assistant_text_and_one_end(text: str) -> None:
    found = Renderer(TOKENIZER, 10_000).render(example(text))
    thought = read_thought(text)
    if isinstance(thought, Malformed):
        assert found is Refusal.THINKING
    elif isinstance(found, Rendered):
        assert taught(found) == canonical(thought) + "<|end|>"
    else:
        assert "<|" in text


def test_the_prompt_bears_no_loss_and_is_the_prompt_of_the_evaluation() -> None:
    found = Renderer(TOKENIZER, 10_000).render(example("2", system="Be brief."))
    assert isinstance(found, Rendered)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
    ]
    prompt = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert list(found.ids[: found.prompt_tokens]) == prompt
    assert found.labels[: found.prompt_tokens] == [IGNORED] * len(prompt)


def test_a_template_that_deletes_thinking_cannot_touch_the_text() -> None:
    text = "<think>\none and one\n</think>\n\n2"
    assert taught(rendered(text, DELETES_THINKING)) == text + "<|end|>"


def test_a_template_that_asks_for_the_date_gets_one_day_for_ever() -> None:
    dated = make_tokenizer("{{ strftime_now('%d %B %Y') }}" + TEMPLATE)
    found = Renderer(dated, 10_000).render(example("2"))
    assert isinstance(found, Rendered)
    assert dated.decode(list(found.ids)).startswith("01 January 2025")
    tokens = Tokens(dated, "student", ())
    assert tokens.render("1 + 1?", None) == found.ids[: found.prompt_tokens]


def test_a_prompt_that_opens_the_thinking_is_not_opened_twice() -> None:
    found = rendered("<think>\none and one\n</think>\n\n2", OPENS_THINKING)
    assert taught(found) == "one and one\n</think>\n\n2<|end|>"
    assert TOKENIZER.decode(found.ids).count("<think>") == 1


def test_text_without_an_opener_stays_whole_behind_a_prompt_that_opens() -> None:
    assert taught(rendered("one and one</think>2", OPENS_THINKING)).startswith("one and one")


def test_a_thinking_tag_in_the_question_opens_nothing() -> None:
    asked = Example("t", "p", "D1", "What is <think>?", "<think>A tag</think>")
    found = Renderer(TOKENIZER, 10_000).render(asked)
    assert isinstance(found, Rendered)
    assert taught(found) == "<think>\nA tag\n</think>\n\n<|end|>"


def test_an_example_of_the_maximal_length_is_kept_and_one_longer_is_refused() -> None:
    length = len(rendered("abc").ids)
    assert isinstance(Renderer(TOKENIZER, length).render(example("abc")), Rendered)
    assert Renderer(TOKENIZER, length).render(example("abcd")) is Refusal.TOO_LONG


def test_an_end_of_turn_within_the_text_is_refused() -> None:
    found = Renderer(TOKENIZER, 10_000).render(example("so<|end|>on"))
    assert found is Refusal.LOSSY


def test_text_the_tokenizer_cannot_give_back_is_refused() -> None:
    from tokenizers import normalizers

    lowercase = make_tokenizer()
    lowercase.backend_tokenizer.normalizer = normalizers.Lowercase()
    renderer = Renderer(lowercase, 10_000)
    assert renderer.render(example("So")) is Refusal.LOSSY
    assert isinstance(renderer.render(example("so")), Rendered)


def test_the_end_of_a_turn_is_the_templates_not_the_end_of_text() -> None:
    tokenizer = make_tokenizer(end="<|eos|>")
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|end|>")


def test_without_an_end_in_the_template_the_turn_ends_with_the_end_of_text() -> None:
    bare = "{%- for m in messages -%}{{ m['content'] }}\n{%- endfor -%}"
    tokenizer = make_tokenizer(bare, end="<|eos|>")
    assert end_of_turn(tokenizer) == tokenizer.eos_token_id


def test_a_student_without_a_chat_template_is_refused_with_advice() -> None:
    with pytest.raises(UserError, match="no chat template") as caught:
        Renderer(make_tokenizer(None), 100)
    assert "instruction-tuned" in str(caught.value.hint)


def test_a_template_without_system_turns_is_refused_with_advice() -> None:
    strict = "{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('no system') }}"
    renderer = Renderer(make_tokenizer(strict + "{%- endif -%}" + TEMPLATE), 100)
    with pytest.raises(UserError, match="no system") as caught:
        renderer.render(example("2", system="Be brief."))
    assert "prompts.system" in str(caught.value.hint)


def test_what_is_seen_counts_prompt_and_end_and_names_what_is_refused() -> None:
    see = reader(Renderer(TOKENIZER, 80))
    assert see(example("2")) == Seen(len(rendered("2").ids), None)
    assert see(example("2" * 90)) == Seen(None, Drop.TOO_LONG)
    assert see(example("<|end|>")) == Seen(None, Drop.LOSSY)


def test_every_refusal_is_a_reason_to_drop() -> None:
    assert {Drop(refusal.value) for refusal in Refusal} == {
        Drop.TOO_LONG,
        Drop.LOSSY,
        Drop.THINKING,
    }
