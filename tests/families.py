"""Chat models by family: their templates (`data/templates`), each with a tokenizer made for it.

A template is written from the family's published one: its tokens and what it does to a conversation
of system, user and assistant turns, without tools. A tokenizer reads bytes, pairs of line breaks as
one token, and the family's own tokens whole; it puts the family's first token before any text that
asks for special tokens, as the family's own does.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "data" / "templates"


@dataclass(frozen=True)
class Family:
    """What a tokenizer of one family knows."""

    eos: str
    special: tuple[str, ...]
    """Tokens that decoding may drop."""
    plain: tuple[str, ...] = ()
    """Tokens that are text."""
    bos: str | None = None
    template: str | None = None
    """File of the template, if it has another name than the family."""
    sets: str = ""
    """What stands before the template."""


_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_THINK = ("<think>", "</think>")
_LLAMA = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
FAMILIES = {
    "qwen2.5": Family("<|im_end|>", _IM),
    "qwen3": Family("<|im_end|>", _IM, _THINK),
    "qwen3-thinking-off": Family(
        "<|im_end|>", _IM, _THINK, template="qwen3", sets="{%- set enable_thinking = false -%}"
    ),
    "smollm2": Family("<|im_end|>", _IM),
    "llama-3": Family("<|end_of_text|>", _LLAMA, bos="<|begin_of_text|>"),
    "llama-3.2": Family("<|eot_id|>", _LLAMA, bos="<|begin_of_text|>"),
    "gemma-3": Family(
        "<eos>", ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), bos="<bos>"
    ),
    "deepseek-r1-distill": Family(
        "<｜end▁of▁sentence｜>",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        _THINK,
        bos="<｜begin▁of▁sentence｜>",
    ),
    "gpt-oss": Family(
        "<|return|>",
        (
            "<|startoftext|>",
            "<|endoftext|>",
            "<|return|>",
            "<|start|>",
            "<|end|>",
            "<|channel|>",
            "<|message|>",
            "<|call|>",
        ),
        bos="<|startoftext|>",
    ),
}


@cache
def family_tokenizer(name: str) -> Any:
    """A transformers tokenizer of one family, template and all; do not change it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ"]
    raw = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [("Ċ", "Ċ")]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in family.special])
    raw.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.plain])
    if family.bos is not None:
        first = (family.bos, raw.token_to_id(family.bos))
        raw.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[first]
        )
    file = TEMPLATES / f"{family.template or name}.jinja"
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.special[0],
        chat_template=family.sets + file.read_text(encoding="utf-8"),
        clean_up_tokenization_spaces=False,
    )
