"""The shapes of well-known data sets: which columns tell them, and what is read from which.

One table. A shape names only columns that the usual names would miss or misread; case, spaces and
underscores in names do not count. Data sets whose columns have the usual names (GSM8K, MATH, LIMO,
AIME) need no row.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shape:
    """One data set's columns."""

    name: str
    needs: tuple[str, ...]
    """All of these are there."""
    lacks: tuple[str, ...] = ()
    """None of these is."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Field → its column, a path with dots included."""
    right: str | None = None
    """The column of the right option, where it does not stand among the others."""
    wrong: tuple[str, ...] = ()
    """The columns of the wrong ones."""


_ASKED = ("problem", "question", "prompt", "instruction", "query")

SHAPES = (
    Shape(
        "GPQA",
        needs=("question", "correct_answer", "incorrect_answer_1", "incorrect_answer_2"),
        fields={"problem": "question", "solution": "explanation"},
        right="correct_answer",
        wrong=("incorrect_answer_1", "incorrect_answer_2", "incorrect_answer_3"),
    ),
    Shape(
        "SciQ",
        needs=("question", "correct_answer", "distractor1", "distractor2"),
        fields={"problem": "question", "solution": "support"},
        right="correct_answer",
        wrong=("distractor1", "distractor2", "distractor3"),
    ),
    Shape(
        "right and wrong answers",
        needs=("question", "correct_answer", "incorrect_answers"),
        fields={"problem": "question"},
        right="correct_answer",
        wrong=("incorrect_answers",),
    ),
    Shape(
        "MMLU-Pro",
        needs=("question", "options", "answer", "answer_index"),
        fields={"problem": "question", "options": "options", "answer": "answer"},
    ),
    Shape(
        "MedQA",
        needs=("question", "options", "answer_idx"),
        fields={"problem": "question", "options": "options", "answer": "answer_idx"},
    ),
    Shape(
        "SuperGPQA",
        needs=("question", "options", "answer_letter"),
        fields={"problem": "question", "options": "options", "answer": "answer_letter"},
    ),
    Shape(
        "AQuA",
        needs=("question", "options", "correct"),
        fields={
            "problem": "question",
            "options": "options",
            "answer": "correct",
            "solution": "rationale",
        },
    ),
    Shape(
        "MathQA",
        needs=("problem", "options", "correct"),
        fields={"problem": "problem", "options": "options", "answer": "correct"},
    ),
    Shape(
        "ARC",
        needs=("question", "choices", "answerkey"),
        fields={"problem": "question", "options": "choices", "answer": "answerkey"},
    ),
    Shape(
        "OpenBookQA",
        needs=("question_stem", "choices", "answerkey"),
        fields={"problem": "question_stem", "options": "choices", "answer": "answerkey"},
    ),
    Shape(
        "MedMCQA",
        needs=("question", "opa", "opb", "opc", "opd", "cop"),
        fields={"problem": "question", "answer": "cop", "solution": "exp"},
    ),
    Shape(
        "MMLU",
        needs=("question", "choices", "answer", "subject"),
        fields={"problem": "question", "options": "choices", "answer": "answer"},
    ),
    Shape(
        "TheoremQA",
        needs=("question", "answer", "answer_type"),
        fields={"problem": "question", "answer": "answer"},
    ),
    Shape(
        "OlympiadBench",
        needs=("question", "final_answer", "is_multiple_answer"),
        fields={"problem": "question", "answer": "final_answer", "solution": "solution"},
    ),
    Shape(
        "DAPO, Skywork (verl)",
        needs=("prompt", "reward_model"),
        lacks=("answer", "solution"),
        fields={"problem": "prompt", "answer": "reward_model.ground_truth"},
    ),
    Shape(
        "OpenThoughts with metadata",
        needs=("problem", "ground_truth_solution"),
        lacks=("answer", "solution"),
        fields={"problem": "problem", "answer": "ground_truth_solution"},
    ),
    Shape(
        "OpenThoughts",
        needs=("conversations",),
        lacks=_ASKED,
        fields={"problem": "conversations", "answer": "conversations"},
    ),
    Shape(
        "chats",
        needs=("messages",),
        lacks=_ASKED,
        fields={"problem": "messages", "answer": "messages"},
    ),
    Shape("OpenR1-Math", needs=("problem", "answer", "generations", "correctness_math_verify")),
    Shape("NuminaMath 1.5", needs=("problem", "answer", "problem_is_valid", "question_type")),
    Shape("NuminaMath", needs=("problem", "solution", "messages", "source"), lacks=("answer",)),
    Shape("s1K", needs=("question", "solution", "cot_type")),
    Shape("DeepMath", needs=("question", "final_answer", "r1_solution_1")),
    Shape("Big-Math", needs=("problem", "answer", "llama8b_solve_rate")),
    Shape(
        "Alpaca",
        needs=("instruction", "input", "output"),
        fields={"problem": "instruction", "input": "input", "answer": "output"},
    ),
)
"""The first that fits counts."""


def shape_of(columns: Iterable[str]) -> Shape | None:
    """The data set these columns are of, or None: then the usual names are tried."""
    there = {same_name(column) for column in columns}
    return next(
        (
            shape
            for shape in SHAPES
            if there.issuperset(shape.needs) and there.isdisjoint(shape.lacks)
        ),
        None,
    )


def same_name(column: str) -> str:
    """What spellings of one column name share: `Correct Answer`, `correct_answer`."""
    return column.strip().casefold().replace(" ", "_").replace("-", "_")
