"""Chat templates come with models: one that does too much is refused in words, and quickly."""

import json
import time
from pathlib import Path

import pytest
from tests.http_server import write_byte_tokenizer
from transformers import AutoTokenizer

from heal.engines.http.tokenizer import open_tokenizer
from heal.engines.local import templates
from heal.engines.local.templates import TemplateError, apply_template
from heal.errors import UserError

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "é 漢 <end>"}]
BOMBS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "multiplies": "{{ 'a' * 9999999999 }}",
    "doubles": "{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}"
    "{% endfor %}{{ n.s }}",
    "joins": "{{ range(99999) | join('b' * 99999) }}",
    "pads": "{{ 'a'.ljust(99999999999) }}",
    "replaces": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "formats": "{{ '%9999999999d' | format(1) }}",
    "powers": "{{ 9 ** (9 ** 9) }}",
    "recurses": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "branches": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "sorts lists of lists": "{% set n = namespace(l=[1]) %}{% for i in range(60) %}"
    "{% set n.l = n.l + n.l %}{% endfor %}",
    "writes": "{% for i in range(99999) %}{{ 'abcdefghij' * 99 }}{% endfor %}",
    "reaches for files": "{{ cycler.__init__.__globals__.os.popen('touch HERE').read() }}",
    "is no template": "{% for %}",
}
TOO_MUCH = ("takes longer", "takes more than", "calls itself", "writes", "died")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_byte_tokenizer(tmp_path)


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_does_too_much_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(templates, "LIMIT_S", 0.5)
    monkeypatch.chdir(folder)
    (folder / "chat_template.jinja").write_text(BOMBS[name] + "{{ messages[0].content }}")
    began = time.monotonic()
    opened = open_tokenizer(str(folder))
    with pytest.raises(UserError, match="the chat template refused the conversation") as caught:
        opened.tokens.render("x", None)
    assert time.monotonic() - began < 30
    assert len(str(caught.value)) < 1000
    if name not in ("reaches for files", "is no template"):
        assert any(words in str(caught.value) for words in TOO_MUCH), str(caught.value)
    assert not (folder / "HERE").exists()


def test_what_explodes_on_one_conversation_leaves_the_next_one_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "LIMIT_S", 0.5)
    bomb = "{% if 'boom' in messages[0].content %}" + BOMBS["loops"] + "{% endif %}"
    (folder / "chat_template.jinja").write_text(bomb + "{{ messages[0].content }}")
    tokens = open_tokenizer(str(folder)).tokens
    assert tokens.decode(tokens.render("first", None)) == "first"
    with pytest.raises(UserError, match=r"takes longer than 0\.5 s of CPU time"):
        tokens.render("boom", None)
    assert tokens.decode(tokens.render("next", None)) == "next"


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize(
    "template",
    [
        None,
        "{{ bos_token }}{% for m in messages %}\n  {{ m.content | tojson }}{% endfor %}",
        "{% generation %}a{% endgeneration %}{{ eos_token }}{{ messages | length }}",
        "{%- for m in messages -%}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}"
        "{%- endfor -%}",
    ],
)
def test_a_rendered_conversation_is_what_transformers_makes_of_it(
    folder: Path, prompt: bool, template: str | None
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = tokenizer.apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=prompt, chat_template=template
    )
    found = apply_template(tokenizer, MESSAGES, add_generation_prompt=prompt, template=template)
    assert found == expected
    ids = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=prompt, chat_template=template, return_dict=False
    )
    assert tokenizer.encode(found, add_special_tokens=False) == ids


def test_a_refusal_is_in_the_templates_own_words(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with pytest.raises(TemplateError, match=r"^no system turn$"):
        apply_template(
            tokenizer,
            MESSAGES,
            add_generation_prompt=True,
            template="{{ raise_exception('no system turn') }}",
        )


def test_several_templates_without_a_default_are_refused(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": n, "template": "x"} for n in ("a", "b")]
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="multiple chat templates with no default"):
        open_tokenizer(str(folder)).tokens.render("x", None)
