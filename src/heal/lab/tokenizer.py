"""The lab's tokenizer and chat template.

Byte-level BPE, so that any Unicode text encodes and decodes without loss. Every number of the world
and every word of its traces is one token; blank lines and braces never merge with what stands
beside them, so that a kept prefix or a probe tokenises alone as it does within the whole trace.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from heal.lab.lesson import ASSISTANT, END, USER
from heal.lab.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD = "<|pad|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{- '<|user|>' + message['content'] + '<|end|>' -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' -}}"
    "{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- raise_exception('the lab knows only user and assistant turns') -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

# Words keep the space after them rather than before, so that a number is the same token at the
# start of a step, in a line and inside \boxed{}: one embedding is enough to copy it everywhere. A
# door is one token with its room: what is looked up by one token is found within minutes, by two
# it was not in 6 M tokens.
PIECES = r"\n\n|\n|[{}]|\d{1,3}[<>]?|\p{L}+ ?|[^\p{L}\d\n{}]+"


def make_tokenizer(world: World, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train the tokenizer on a world's text; the same seed gives the same vocabulary."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=20,
        special_tokens=[PAD, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_corpus(world, seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def _corpus(world: World, seed: int) -> Iterator[str]:
    """World text of every form, and every number often enough to become one token."""
    rng = random.Random(seed)
    for _ in range(25):
        yield " ".join(map(str, world.numbers))
    for family, _ in itertools.product(world.all_families, range(60)):
        yield from world.corpus(family, rng)
