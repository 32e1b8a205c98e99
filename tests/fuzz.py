"""Damaged and hostile files by the real commands: `python -m tests.fuzz [--cases N] [--kind K …]`.

A case is a valid file or folder that is damaged, by structure or by bytes, and a verb that reads
it. It runs in a fork of this process, where everything is imported, under limits of CPU time and
memory. It passes if the verb ends by itself, without a traceback, within `LIMIT_S` and `LIMIT_MB`.
Seeds are fixed: a case has a number, and `--only KIND:NUMBER` shows what it does. Prints counts as
JSON; exits 1 if any case fell.
"""

import argparse
import contextlib
import copy
import gzip
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.scripted_run import SETTINGS, ScriptedRun, extreme, merge, small_world, world
from tests.test_hostile_answers import PIECES, hostile
from tests.tiny_models import make_checkpoint, make_tokenizer

from heal.cli import main as heal

LIMIT_S = 5
LIMIT_MB = 1024
HANGS_S = 30.0
"""Of wall time, on a machine that does other things too; the verdict is by CPU time."""
VALUES: list[Any] = [
    None, True, -1, 0, 1e308, -0.0, 10**30, 1.5, "", "x", "a" * 5000, "\u202e", "\ud800", "\0",
    "${HOME}", "1:1", [], {}, [[]], {"a": {"b": 1}}, [1, "2", None], [[["deep"]] * 3] * 3,
    "os:system", "notfound", "http://u:p@h", {"": ""}, "9" * 6000, "\\boxed{" * 500,
    "../../etc/passwd", "-", "nan", "2024-13-45",
]  # fmt: skip


@dataclass
class Tally:
    """What came of one kind's cases."""

    cases: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    most_mb: int = 0
    fell: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """Something to damage, and the verbs that read it."""

    share: float
    make: Callable[[random.Random, Path], Sequence[str]]
    """Damage a copy in this folder; the command that reads it."""


# --- damage ------------------------------------------------------------------------------------


def damaged_bytes(dice: random.Random, content: bytes) -> bytes:
    """Cut off, flipped, doubled, or with a piece of something else inside."""
    for _ in range(dice.randrange(1, 4)):
        at, size = dice.randrange(len(content) + 1), dice.choice([1, 4, 64, 4096])
        some = dice.choice(PIECES).encode("utf-8", "surrogatepass")
        own = (b"", content[at : at + size], b"\xff" * size, b"\0" * size)
        piece = dice.choice([*own, dice.randbytes(size), some])
        match dice.randrange(4):
            case 0:
                content = content[:at]
            case 1:
                content = content[:at] + piece + content[at + len(piece) :]
            case 2:
                content = content[:at] + piece + content[at:]
            case _:
                content = content[:at] + piece * dice.choice([1, 50]) + content[at + size :]
    return content


def damaged_tree(dice: random.Random, tree: Any) -> Any:
    """With odd values, missing or doubled keys, somewhere in it."""
    tree = copy.deepcopy(tree)
    for _ in range(dice.randrange(1, 4)):
        node = tree
        while True:
            keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = dice.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and dice.random() < 0.8:
                node = node[key]
            elif dice.random() < 0.2:
                del node[key]
                break
            else:
                node[key] = copy.deepcopy(dice.choice(VALUES))
                break
    return tree


def damage_file(dice: random.Random, path: Path) -> None:
    """A JSON file by its tree half of the time, any other by its bytes."""
    content = path.read_bytes()
    if path.suffix == ".json" and dice.random() < 0.6:
        with contextlib.suppress(ValueError, RecursionError):
            tree = damaged_tree(dice, json.loads(content))
            path.write_bytes(json.dumps(tree).encode("utf-8", "surrogatepass"))
            return
    path.write_bytes(damaged_bytes(dice, content))


# --- kinds -------------------------------------------------------------------------------------

ROWS = [
    {"question": f"How many are {n} and {n}?", "answer": str(2 * n), "level": "easy",
     "options": ["1", str(2 * n), "3"], "solution": f"{n} + {n} = {2 * n}"}
    for n in range(1, 9)
]  # fmt: skip


def problem_file(dice: random.Random, home: Path) -> list[str]:
    rows = [damaged_tree(dice, ROWS) if dice.random() < 0.7 else ROWS, ROWS][dice.random() < 0.1]
    kind = dice.choice(["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "jsonl.zst"])
    path = home / f"problems.{kind}"
    content = _as_file(kind, rows)
    if dice.random() < 0.5:
        content = damaged_bytes(dice, content)
    path.write_bytes(content)
    return ["problems", path.name]


def _as_file(kind: str, rows: list[Any]) -> bytes:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "json":
        return json.dumps(rows).encode()
    if kind == "jsonl.gz":
        return gzip.compress(lines, mtime=0)
    if kind == "jsonl.zst":
        import zstandard

        return zstandard.compress(lines)
    if kind in ("csv", "tsv"):
        import csv

        text = io.StringIO()
        writer = csv.writer(text, delimiter="," if kind == "csv" else "\t")
        writer.writerow(list(ROWS[0]))
        for row in rows:
            writer.writerow(list(row.values()) if isinstance(row, dict) else [row])
        return text.getvalue().encode("utf-8", "surrogatepass")
    if kind == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        sink = io.BytesIO()
        # what no table can hold is the business of the other formats
        try:
            parquet.write_table(pa.Table.from_pylist(rows), sink)
        except (pa.ArrowException, TypeError, AttributeError, OverflowError, UnicodeError):
            parquet.write_table(pa.Table.from_pylist(ROWS), sink)
        return sink.getvalue()
    return lines


def recipe(dice: random.Random, home: Path) -> list[str]:
    run = ScriptedRun(home, small_world())
    path = run.home / "recipe.yaml"
    if dice.random() < 0.5:
        from heal.recipe import load

        with contextlib.chdir(home):
            full = load("recipe.yaml").model_dump(mode="json")
        tree = damaged_tree(dice, full)
        path.write_text(yaml.safe_dump(tree, allow_unicode=False), "utf-8", "surrogatepass")
    else:
        path.write_bytes(damaged_bytes(dice, path.read_bytes()))
    return [dice.choice(["verify", "config"]), "-c", path.name]


def model_folder(dice: random.Random, home: Path) -> list[str]:
    shutil.copytree(SHARED / "model", home / "model")
    names = sorted(p for p in (home / "model").iterdir())
    for path in dice.sample(names, dice.choice([1, 1, 2])):
        damage_file(dice, path)
    return _exam(home, "model")


def gguf_file(dice: random.Random, home: Path) -> list[str]:
    content = (SHARED / "model.gguf").read_bytes()
    # the head holds everything that is parsed
    head = dice.choice([200, 4_000, len(content)])
    (home / "model.gguf").write_bytes(damaged_bytes(dice, content[:head]) + content[head:])
    return _exam(home, "model.gguf")


def _exam(home: Path, model: str) -> list[str]:
    (home / "one.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    few = ["-k", "1", "--set", "evaluate.max_new_tokens=2", "--set", "engine.local.threads=1"]
    return ["eval", model, "-p", "one.jsonl", "--out", "exam", *few]


def run_folder(dice: random.Random, home: Path) -> list[str]:
    shutil.copytree(SHARED / "scripted", home, dirs_exist_ok=True)
    files = sorted(p for p in (home / "run").rglob("*") if p.is_file())
    path = dice.choice([home / "run" / "run.sqlite", dice.choice(files)])
    match dice.randrange(6):
        case 0:
            path.unlink()
        case 1:
            path.write_bytes(b"")
        case 2:
            path.unlink()
            path.mkdir()
        case _:
            damage_file(dice, path)
    verb = dice.choice(["show", "report", "doctor", "run"])
    return ["run", "-c", "recipe.yaml"] if verb == "run" else [verb, "run"]


def traces(dice: random.Random, home: Path) -> list[str]:
    """A teacher that writes hostile texts, alone, as hints and as repairs, read by every stage."""
    rows, rules = world(extreme("plums"))
    rules = [
        rule | {"replies": [t if dice.random() < 0.4 else _hostile(dice) for t in rule["replies"]]}
        if "replies" in rule else rule
        for rule in rules
    ]  # fmt: skip
    run = ScriptedRun(
        home, (rows, rules), {"sampling": {"n": 6}, "steps": {"checker": "arithmetic"}}
    )
    run.write_script(rules)
    tree = merge(
        merge(SETTINGS, run.settings), {"problems": {"verifier": dice.choice(["math", "exact"])}}
    )
    (home / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return ["run", "-c", "recipe.yaml"]


def _hostile(dice: random.Random) -> str:
    # a reply is JSON: half characters do not survive its file
    return hostile(dice)[:20_000].encode("utf-8", "replace").decode() or "x"


KINDS = {
    "problem files": Kind(0.28, problem_file),
    "recipes": Kind(0.26, recipe),
    "model folders": Kind(0.16, model_folder),
    "GGUF files": Kind(0.1, gguf_file),
    "run folders": Kind(0.12, run_folder),
    "traces": Kind(0.08, traces),
}
SHARED = Path()
"""Valid things, made once per process."""


def prepare(home: Path) -> None:
    """Make what is damaged, and import and warm what verbs import."""
    global SHARED
    SHARED = home
    import torch

    torch.set_num_threads(1)
    make_checkpoint(home / "model")
    write_gguf(home / "model.gguf")
    run = ScriptedRun(home / "scripted")
    run.go()
    (home / "one.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    for model in ("model", "model.gguf"):
        with contextlib.chdir(home):
            code, said = called([*_exam(home, model), "--out", f"warm-{model}"])
        assert code == 0, said


def write_gguf(path: Path) -> None:
    """A random Llama of one layer, with a byte-level tokenizer and a chat template."""
    import gguf
    import numpy as np

    tokenizer = make_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = [piece for piece, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    special = set(tokenizer.all_special_tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges(
        [" ".join(pair) if isinstance(pair, list) else pair for pair in state["merges"]]
    )
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    dice = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        return dice.normal(0, 0.3, shape).astype(np.float32)

    writer.add_tensor("token_embd.weight", weight(len(tokens), 32))
    writer.add_tensor("output.weight", weight(len(tokens), 32))
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    for name, shape in (
        ("attn_q", (32, 32)), ("attn_k", (32, 32)), ("attn_v", (32, 32)), ("attn_output", (32, 32)),
        ("ffn_gate", (64, 32)), ("ffn_up", (64, 32)), ("ffn_down", (32, 64)),
    ):  # fmt: skip
        writer.add_tensor(f"blk.0.{name}.weight", weight(*shape))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- cases -------------------------------------------------------------------------------------


def called(arguments: Sequence[str]) -> tuple[int, str]:
    """A verb in this process: its exit code, and all it said."""
    said = io.StringIO()
    sys.argv = ["heal", *arguments]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            heal()
        except SystemExit as ended:
            return int(ended.code or 0), said.getvalue()
    return 0, said.getvalue()


@dataclass(frozen=True)
class Fate:
    """How one case ended."""

    code: int | None
    """None: killed by a signal, or by us."""
    said: str
    seconds: float
    megabytes: int


def fate_of(arguments: Sequence[str], home: Path) -> Fate:
    """Run a verb in a fork under limits."""
    log = home / "said"
    started, child = time.monotonic(), os.fork()
    if child == 0:
        _be_the_case(arguments, home, log)
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - started > HANGS_S:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    said = log.read_text("utf-8", errors="replace") if log.exists() else ""
    seconds = usage.ru_utime + usage.ru_stime
    return Fate(code if code >= 0 else None, said, seconds, usage.ru_maxrss >> 10)


def _be_the_case(arguments: Sequence[str], home: Path, log: Path) -> None:
    status = 1
    try:
        os.setsid()
        os.chdir(home)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (LIMIT_MB << 20),) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (4 * LIMIT_S, 4 * LIMIT_S + 1))
        code, said = called(arguments)
        log.write_text(f"{said}", "utf-8", errors="replace")
        status = code
    except BaseException as error:
        log.write_text(f"Traceback (most recent call last): {type(error).__name__}: {error}")
    finally:
        os._exit(status)


def why_it_fell(fate: Fate, baseline_mb: int) -> str | None:
    if fate.code is None:
        return "killed by a signal"
    if "Traceback (most recent call last)" in fate.said:
        return f"a traceback: {fate.said.strip().splitlines()[-1][:200]}"
    if fate.code not in (0, 1, 2):
        return f"exit code {fate.code}"
    if fate.seconds > LIMIT_S:
        return f"{fate.seconds:.1f} s"
    if fate.megabytes - baseline_mb > LIMIT_MB:
        return f"{fate.megabytes - baseline_mb} MB"
    return None


def prove(cases: int, seed: int, kinds: Sequence[str], home: Path) -> dict[str, Tally]:
    """Run so many cases, shared out over the kinds."""
    prepare(home / "shared")
    baseline = fate_of(["--version"], _fresh(home / "case")).megabytes
    found = {name: Tally() for name in kinds}
    total = sum(KINDS[name].share for name in kinds)
    for name in kinds:
        for number in range(round(cases * KINDS[name].share / total)):
            _count(found[name], name, number, one_case(name, number, seed, home), baseline)
    return found


def one_case(name: str, number: int, seed: int, home: Path) -> tuple[Sequence[str], Fate]:
    """The command of a case and its fate."""
    folder = _fresh(home / "case")
    arguments = KINDS[name].make(random.Random(f"{seed}:{name}:{number}"), folder)
    return arguments, fate_of(arguments, folder)


def _count(
    tally: Tally, name: str, number: int, case: tuple[Sequence[str], Fate], baseline: int
) -> None:
    arguments, fate = case
    tally.cases += 1
    tally.codes[f"exit {fate.code}"] += 1
    tally.slowest_s = max(tally.slowest_s, round(fate.seconds, 2))
    tally.most_mb = max(tally.most_mb, fate.megabytes - baseline)
    if reason := why_it_fell(fate, baseline):
        tally.fell.append(f"{name}:{number} heal {' '.join(arguments)[:80]}: {reason}")


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", help="KIND:NUMBER: show this case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if options.only:
            name, _, number = options.only.rpartition(":")
            prepare(home / "shared")
            arguments, fate = one_case(name, int(number), options.seed, home)
            print(f"heal {' '.join(arguments)}\n{fate.said}\n{fate.code}, {fate.seconds:.2f} s")
            sys.exit(0)
        found = prove(options.cases, options.seed, options.kind, home)
    fell = [line for tally in found.values() for line in tally.fell]
    shown = {
        name: {**vars(t), "codes": dict(t.codes), "fell": len(t.fell)} for name, t in found.items()
    }
    print(
        json.dumps(
            {"cases": sum(t.cases for t in found.values()), "kinds": shown, "fell": fell}, indent=1
        )
    )
    sys.exit(bool(fell))


if __name__ == "__main__":
    main()
