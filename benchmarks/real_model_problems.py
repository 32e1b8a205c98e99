"""Problems for the real-model benchmark: families whose traces the arithmetic checker can read.

In: a seed. Out: a JSONL file of reasoning-gym problems with `problem`, `answer` and `family`, in
sizes at which a teacher of half a billion parameters has easy, hard and extreme ones; and beside it
a recipe for `heal score`. Other seeds give other problems. Needs reasoning-gym.

    python -m benchmarks.real_model_problems --teacher MODEL --out FOLDER [--seed N] [--sizes NAME]
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Sizes = Mapping[str, tuple[int, tuple[Mapping[str, Any], ...]]]
"""Family → how many problems, and the settings they take turns with."""

EASIER: Sizes = {
    "chain_sum": (8, (
        {"min_terms": 2, "max_terms": 3, "min_digits": 2, "max_digits": 3},
        {"min_terms": 3, "max_terms": 4, "min_digits": 2, "max_digits": 3},
        {"min_terms": 4, "max_terms": 6, "min_digits": 3, "max_digits": 4},
    )),
    "gsm_symbolic": (10, ({"difficulty": 1.0},)),
    "leg_counting": (7, (
        {"min_animals": 2, "max_animals": 2, "max_instances": 6},
        {"min_animals": 2, "max_animals": 3, "max_instances": 9},
        {"min_animals": 3, "max_animals": 5, "max_instances": 12},
    )),
    "lcm": (6, ({"max_value": 12}, {"max_value": 20}, {"max_value": 40})),
    "simple_equations": (2, (
        {"max_terms": 2, "max_value": 30}, {"max_terms": 3, "max_value": 60},
    )),
    "products": (5, (
        {"min_digits": 1, "max_digits": 2},
        {"min_digits": 2, "max_digits": 2},
        {"min_digits": 2, "max_digits": 3},
    )),
}  # fmt: skip
HARDER: Sizes = {
    "chain_sum": (6, (
        {"min_terms": 3, "max_terms": 4, "min_digits": 2, "max_digits": 2},
        {"min_terms": 4, "max_terms": 6, "min_digits": 2, "max_digits": 3},
        {"min_terms": 5, "max_terms": 7, "min_digits": 3, "max_digits": 4},
    )),
    "gsm_symbolic": (8, ({"difficulty": 1.0},)),
    "leg_counting": (6, (
        {"min_animals": 2, "max_animals": 3, "max_instances": 9},
        {"min_animals": 3, "max_animals": 5, "max_instances": 12},
        {"min_animals": 5, "max_animals": 7, "max_instances": 15},
    )),
    "lcm": (6, ({"max_value": 30}, {"max_value": 60}, {"max_value": 100})),
    "simple_equations": (6, (
        {"max_terms": 2, "max_value": 30},
        {"max_terms": 3, "max_value": 60},
        {"max_terms": 4, "max_value": 100},
    )),
    "products": (4, (
        {"min_digits": 1, "max_digits": 2},
        {"min_digits": 2, "max_digits": 3},
        {"min_digits": 3, "max_digits": 3},
    )),
}  # fmt: skip
SIZES = {"easier": EASIER, "harder": HARDER}
_BARE = " Give only the result as your final answer."
"""Left out: it talks the teacher out of its steps."""


def problems(seed: int, sizes: Sizes) -> Iterator[dict[str, str]]:
    """Every family's problems, the same for the same seed."""
    import reasoning_gym

    for family, (count, levels) in sizes.items():
        for number in range(count):
            level = levels[number % len(levels)]
            one = 7919 * seed + 31 * number + len(family)
            entry = reasoning_gym.create_dataset(family, size=1, seed=one, **level)[0]
            question = entry["question"].replace(_BARE, "").strip()
            yield {"problem": question, "answer": str(entry["answer"]), "family": family}


def recipe(folder: Path, teacher: str) -> dict[str, Any]:
    """What the committed figures were made with: n = 12, bare answers as hints, one thread."""
    return {
        "run": str(folder / "run"),
        "problems": {
            "path": str(folder / "problems.jsonl"),
            "verifier": "math",
            "held_out": 0.0,
        },
        "teacher": {"model": teacher},
        "student": None,
        "arms": ["base", "heal"],
        "sampling": {"n": 12, "max_new_tokens": 320, "temperature": 0.7},
        "gear": {
            "breakpoint": "difference",  # failed traces are scored for the readings
            "hint": "answer",
            "paths": 4,
            "candidates": 2,
            "target": None,
            "hinted_samples": 8,
        },
        "pure": {"measure_reliance": True, "measure_uncertainty": False},
        "engine": {"local": {"rows": 64, "threads": 1}},
    }


def write(folder: Path, teacher: str, seed: int, sizes: Sizes) -> None:
    """The problem file and the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in problems(seed, sizes))
    (folder / "problems.jsonl").write_text(rows, "utf-8")
    text = yaml.safe_dump(recipe(folder.resolve(), teacher), sort_keys=False)
    (folder / "recipe.yaml").write_text(text, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sizes", choices=sorted(SIZES), default="easier")
    args = parser.parse_args()
    write(args.out, args.teacher, args.seed, SIZES[args.sizes])
    print(f"heal score -c {args.out / 'recipe.yaml'}")


if __name__ == "__main__":
    main()
