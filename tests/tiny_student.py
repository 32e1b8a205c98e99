"""A random two-layer Llama with a byte tokenizer and a ChatML-like template, for training tests."""

from pathlib import Path

TEMPLATE = (
    "{%- for m in messages -%}"
    "{{- '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start|>assistant\n' -}}{%- endif -%}"
)


def make_tokenizer(template: str | None = TEMPLATE, *, end: str = "<|end|>"):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|pad|>", "<|start|>", "<|end|>", "<|eos|>"]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<|pad|>",
        eos_token=end,
        additional_special_tokens=[s for s in special[1:] if s != end],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def make_student(folder: Path, *, seed: int = 0) -> Path:
    """Save one to a folder; its vocabulary is that of `make_tokenizer`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    logging.disable_progress_bar()
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
