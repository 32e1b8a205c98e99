"""Small trace files in the true shapes of the projects that write them: what a run should read.

Each holds the two traces of `ASKED`, one right and whole, one that was cut off; column names,
nesting and extra columns are those of the projects' own files.
"""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.scripted_run import ANSWER, row

ASKED = row("apples")
THOUGHT, SAID = "Sixty and eighty are 140, two more.", f"So it is \\boxed{{{ANSWER}}}."
WHOLE = f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"
CUT = "<think>\nSixty and eighty are a hundred and"
USER = {"role": "user", "content": ASKED["problem"]}


@dataclass(frozen=True)
class Shape:
    """A file of one form."""

    form: str
    file: str
    write: Callable[[Path], None]
    says_finish: bool = True
    """Whether it says why traces ended."""
    says_verdict: bool = True
    settings: tuple[str, ...] = ()
    has_gold: bool = True


def lines(*rows: dict[str, Any]) -> Callable[[Path], None]:
    text = "".join(json.dumps(one) + "\n" for one in rows)
    return lambda path: path.write_text(text) and None


def chat(answer: str) -> list[dict[str, str]]:
    return [USER, {"role": "assistant", "content": answer}]


def parquet(row: dict[str, Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([row]), path)

    return write


OPEN_R1 = {
    "problem": ASKED["problem"],
    "solution": f"61 + 81 = {ANSWER}.",
    "answer": ANSWER,
    "problem_type": "Algebra",
    "question_type": "math-word-problem",
    "source": "olympiads",
    "uuid": "586fd646-76d6-5070-8c81-9993ab9d8559",
    "is_reasoning_complete": [True, False],
    "generations": [WHOLE, CUT],
    "correctness_math_verify": [True, False],
    "correctness_llama": None,
    "finish_reasons": ["stop", "length"],
    "correctness_count": 1,
    "messages": chat(WHOLE),
}


def nemo(text: str, finish: str, right: bool) -> dict[str, Any]:
    return {
        "problem": ASKED["problem"],
        "expected_answer": ANSWER,
        "generation": text,
        "predicted_answer": ANSWER if right else None,
        "symbolic_correct": right,
        "num_generated_tokens": 812,
        "generation_time": 3.4,
        "finish_reason": finish,
    }


def swift(text: str) -> dict[str, Any]:
    system = {"role": "system", "content": "You are a helpful assistant."}
    return {"messages": [system, *chat(text)], "ground_truth": ANSWER, "id": "9b1d"}


def openthoughts(text: str) -> dict[str, Any]:
    return {
        "system": "Your role as an assistant involves thoroughly exploring questions.",
        "conversations": [
            {"from": "user", "value": "Return your final response within \\boxed{}. "
             + ASKED["problem"]},
            {"from": "assistant", "value": text},
        ],
    }  # fmt: skip


def verifiers(text: str, cut: bool, reward: float) -> dict[str, Any]:
    return {
        "example_id": 0,
        "prompt": [USER],
        "completion": [{"role": "assistant", "content": text}],
        "task": "default",
        "answer": ANSWER,
        "reward": reward,
        "is_truncated": cut,
        "error": None,
        "metrics": {"correct_answer": reward},
        "info": {},
    }


def inspect(epoch: int, content: Any, stop: str, value: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "source": "generate"}
    return {
        "id": 1,
        "epoch": epoch,
        "input": ASKED["problem"],
        "target": ANSWER,
        "messages": [USER, message],
        "output": {
            "model": "vllm/qwen",
            "choices": [{"message": message, "stop_reason": stop}],
            "usage": {"input_tokens": 40, "output_tokens": 90, "total_tokens": 130},
        },
        "scores": {"match": {"value": value, "answer": ANSWER, "explanation": "…"}},
        "attachments": {},
    }


PARTS = [
    {"type": "reasoning", "reasoning": THOUGHT, "signature": None},
    {"type": "text", "text": SAID},
]
SAMPLES = (inspect(1, PARTS, "stop", "C"), inspect(2, CUT, "max_tokens", "I"))


def inspect_json(path: Path) -> None:
    path.write_text(json.dumps({"version": 2, "status": "success", "samples": list(SAMPLES)}))


def inspect_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", json.dumps({"version": 2}))
        for sample in SAMPLES:
            name = f"samples/{sample['id']}_epoch_{sample['epoch']}.json"
            archive.writestr(name, json.dumps(sample))
        archive.writestr("header.json", json.dumps({"version": 2, "status": "success"}))


def nemo_folder(path: Path) -> None:
    path.mkdir()
    lines(nemo(WHOLE, "stop", True))(path / "output-rs0.jsonl")
    lines(nemo(CUT, "length", False))(path / "output-rs1.jsonl")


MAPPED = tuple(
    f"problems.traces.fields.{name}={column}"
    for name, column in {"problem": "frage", "answer": "loesung", "generation": "text",
                         "finish_reason": "ende", "verdict": "ok"}.items()
)  # fmt: skip
BARE = {"question": ASKED["problem"], "answer": ANSWER}
THOUGHTS = (
    f"<|begin_of_thought|>\n\n{THOUGHT}\n\n<|end_of_thought|>\n\n"
    f"<|begin_of_solution|>\n\n{SAID}\n\n<|end_of_solution|>"
)
NO_WORD = {"says_finish": False, "says_verdict": False}
SHAPES = (
    Shape("open-r1", "default.jsonl", lines(OPEN_R1)),
    Shape("open-r1", "train-00000-of-00010.parquet", parquet(OPEN_R1)),
    Shape("nemo-skills", "out", nemo_folder),
    Shape(
        "nemo-skills",
        "output.jsonl",
        lines(
            nemo(SAID, "stop", True) | {"reasoning_content": THOUGHT}, nemo(CUT, "length", False)
        ),
    ),
    Shape("ms-swift", "result.jsonl", lines(swift(WHOLE), swift(CUT)), **NO_WORD),
    Shape(
        "openthoughts",
        "thoughts.jsonl",
        lines(openthoughts(THOUGHTS), openthoughts(f"<|begin_of_thought|>\n\n{CUT[8:]}")),
        has_gold=False,
        **NO_WORD,
    ),
    Shape(
        "verifiers",
        "results.jsonl",
        lines(verifiers(WHOLE, False, 1.0), verifiers(CUT, True, 0.0)),
    ),
    Shape("inspect", "log.json", inspect_json),
    Shape("inspect", "2026-01-01T00-00-00_sums_3xKd.eval", inspect_zip),
    Shape(
        "generic",
        "mine.jsonl",
        lines(
            {"frage": ASKED["problem"], "loesung": ANSWER, "text": WHOLE, "ende": "stop", "ok": 1},
            {"frage": ASKED["problem"], "loesung": ANSWER, "text": CUT, "ende": "length", "ok": 0},
        ),
        settings=MAPPED,
    ),
    Shape(
        "generic",
        "mine.parquet",
        parquet({**BARE, "responses": [WHOLE, CUT], "finish_reason": ["stop", "length"]}),
        says_verdict=False,
    ),
    Shape("generic", "mine.csv", lambda path: path.write_text(csv()) and None, **NO_WORD),
)


def csv() -> str:
    asked = ASKED["problem"]
    return "question,answer,response\n" + "".join(
        f'"{asked}",{ANSWER},"{text}"\n' for text in (WHOLE, CUT)
    )
