"""Files as they come: packed, in shards, in other encodings, damaged, or made to fill memory."""

import bz2
import gzip
import json
import lzma
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import zstandard

from heal.config import Problems
from heal.data import files
from heal.data.problems import ProblemSet, read_problems
from heal.errors import UserError

ROWS = [{"problem": f"{i} + 1?", "answer": str(i + 1)} for i in range(40)]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS)
CASES = 560
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def read(folder: Path, name: str, **settings: Any) -> ProblemSet:
    return read_problems(Problems(path=name, **settings), folder)


def refusal(folder: Path, name: str, **settings: Any) -> tuple[str, str]:
    with pytest.raises(UserError) as caught:
        read(folder, name, **settings)
    return str(caught.value), caught.value.hint or ""


def table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow

    return pyarrow.Table.from_pylist(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(table(rows), path, **options)


# ------------------------------------------------------------------ packed files and folders


@pytest.mark.parametrize("suffix", PACK)
def test_a_packed_file_gives_the_same_problems(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "p.jsonl").write_text(TEXT)
    (tmp_path / f"p.jsonl{suffix}").write_bytes(PACK[suffix](TEXT.encode()))
    assert read(tmp_path, f"p.jsonl{suffix}").problems == read(tmp_path, "p.jsonl").problems
    csv = b"problem,answer\n1 + 1?,2\n"
    (tmp_path / f"p.csv{suffix}").write_bytes(PACK[suffix](csv))
    assert read(tmp_path, f"p.csv{suffix}").problems[0].answer == "2"


@pytest.mark.parametrize("suffix", PACK)
def test_a_packed_file_in_several_parts_is_read_whole(tmp_path: Path, suffix: str) -> None:
    half = len(TEXT) // 2
    parts = [PACK[suffix](TEXT[:half].encode()), PACK[suffix](TEXT[half:].encode())]
    (tmp_path / f"p.jsonl{suffix}").write_bytes(b"".join(parts))
    assert len(read(tmp_path, f"p.jsonl{suffix}").problems) == len(ROWS)


@pytest.mark.parametrize("suffix", PACK)
def test_a_packed_file_that_was_cut_off_is_refused(tmp_path: Path, suffix: str) -> None:
    packed = PACK[suffix](TEXT.encode())
    (tmp_path / f"p.jsonl{suffix}").write_bytes(packed[: len(packed) - 12])
    message, hint = refusal(tmp_path, f"p.jsonl{suffix}")
    assert message.startswith(f"p.jsonl{suffix}: damaged: ")
    assert hint == f"{files.TOOLS[suffix]} -t p.jsonl{suffix}"


@pytest.mark.parametrize("suffix", PACK)
def test_a_packed_file_may_not_grow_without_bound(tmp_path: Path, suffix: str) -> None:
    bomb = PACK[suffix](b" " * (90 << 20))
    (tmp_path / f"p.jsonl{suffix}").write_bytes(bomb)
    most = (64 << 20) + 100 * len(bomb)
    assert refusal(tmp_path, f"p.jsonl{suffix}")[0] == (
        f"p.jsonl{suffix}: holds more than {most >> 20} MiB"
    )


def test_a_folder_of_shards_is_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(TEXT)
    shards = tmp_path / "set" / "data"
    shards.mkdir(parents=True)
    for i in range(2):
        write_parquet(shards / f"train-0000{i}-of-00002.parquet", ROWS[i * 20 : i * 20 + 20])
    (tmp_path / "set" / "README.md").write_text("about")
    (tmp_path / "set" / "dataset_infos.json").write_text("{}")
    found = read(tmp_path, "set/")
    assert found.problems == read(tmp_path, "p.jsonl").problems
    assert found.facts["problem files read"] == 2


def test_a_row_of_a_shard_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "part-0.jsonl").write_text(TEXT)
    (tmp_path / "set" / "part-1.jsonl.gz").write_bytes(
        gzip.compress(b'{"problem": "?", "answer": "?"}\n')
    )
    assert [one.place for one in read(tmp_path, "set").left_out] == ["set/part-1.jsonl.gz:1"]
    (tmp_path / "set" / "part-2.jsonl").write_text("{oops}\n")
    assert refusal(tmp_path, "set")[0].startswith("set/part-2.jsonl:1: not valid JSON: ")


def test_of_several_splits_one_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in ("train", "test"):
        (tmp_path / "set" / f"{name}.jsonl").write_text(
            json.dumps({"problem": f"{name}?", "answer": 1}) + "\n"
        )
    message, hint = refusal(tmp_path, "set")
    assert message == "set: holds the splits test, train; choose one"
    assert hint.startswith("--set problems.split=train, or name one file")
    assert read(tmp_path, "set", split="test").problems[0].problem == "test?"
    assert refusal(tmp_path, "set", split="dev")[0] == message


def test_files_of_several_kinds_are_not_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jsonl").write_text(TEXT)
    (tmp_path / "set" / "b.csv").write_text("problem,answer\n")
    assert refusal(tmp_path, "set") == (
        "set: a folder, but its files are of several kinds: .csv, .jsonl",
        "--set problems.path=set/a.jsonl",
    )
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path, "empty")[0].startswith("empty: a folder, but it holds no data set")


def test_a_split_of_a_saved_data_set_is_chosen(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "set"))
    assert len(read(tmp_path, "set", split="test").problems) == len(ROWS)


# ------------------------------------------------------------------ the Hub


def test_a_data_set_on_the_hub_is_read_through_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` takes a folder of that name for the data set, so no network is needed."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "org" / "sums"
    folder.mkdir(parents=True)
    write_parquet(folder / "train-00000-of-00001.parquet", ROWS)
    write_parquet(folder / "test-00000-of-00001.parquet", ROWS[:3])
    with pytest.raises(UserError, match="org/sums: holds the splits test, train; choose one"):
        read_problems(Problems(hub="org/sums"), tmp_path)
    assert len(read_problems(Problems(hub="org/sums", split="test"), tmp_path).problems) == 3


def test_the_hub_out_of_reach_is_a_message_with_the_command(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from heal.config import Problems\n"
        "from heal.data.problems import read_problems\n"
        "from heal.errors import UserError\n"
        "try: read_problems(Problems(hub='openai/gsm8k', subset='main', split='test'), Path())\n"
        "except UserError as error: print(error); print(error.hint)\n"
    )
    home = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | home, text=True,
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    message, hint = done.stdout.strip().splitlines()
    assert message.startswith("openai/gsm8k: neither on the Hub nor in its cache, as far as")
    assert "hf download --repo-type dataset openai/gsm8k --local-dir openai--gsm8k" in hint


# ------------------------------------------------------------------ encodings, CSV, surrogates


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_unicode_in_another_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    text = '{"problem": "Wie groß ist π, gerundet?", "answer": "3"}\n'
    mark = "" if encoding in ("utf-16", "utf-32", "utf-8-sig") else "\ufeff"
    for lead in {mark, ""}:
        (tmp_path / "p.jsonl").write_bytes((lead + text).encode(encoding))
        assert read(tmp_path, "p.jsonl").problems[0].problem == "Wie groß ist π, gerundet?"


@pytest.mark.parametrize("name", ["a file.jsonl", "p.jsonl.gz"])
def test_the_command_for_another_encoding_works(tmp_path: Path, name: str) -> None:
    data = '{"problem": "Größe?", "answer": 1}\n'.encode("latin1")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    _, hint = refusal(tmp_path, name)
    subprocess.run(hint, shell=True, cwd=tmp_path, check=True)
    assert read(tmp_path, f"utf8-{name.removesuffix('.gz')}").problems[0].problem == "Größe?"


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_a_table_with_other_signs_between_columns_is_read(tmp_path: Path, sign: str) -> None:
    (tmp_path / "p.csv").write_text(f'problem{sign}answer\n"1{sign} 2 or 3, odd?"{sign}"1, 3"\n')
    (problem,) = read(tmp_path, "p.csv").problems
    assert (problem.problem, problem.answer) == (f"1{sign} 2 or 3, odd?", "1, 3")


def test_a_field_of_a_table_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(f"problem,answer\n{'x' * 1_000_000},2\n")
    assert len(read(tmp_path, "p.csv").problems[0].problem) == 1_000_000


def test_half_a_surrogate_pair_is_mended_and_counted(tmp_path: Path) -> None:
    lone, paired = r'"a\ud800b?"', r'"\ud83d\ude00?"'
    (tmp_path / "p.jsonl").write_text(
        f'{{"problem": {lone}, "answer": "\\udfff"}}\n{{"problem": {paired}, "answer": "2"}}\n'
    )
    found = read(tmp_path, "p.jsonl")
    assert [p.problem for p in found.problems] == ["a\ufffdb?", "😀?"]
    assert found.problems[0].answer == "\ufffd"
    assert found.facts["problems whose broken characters became U+FFFD"] == 1
    (tmp_path / "raw.jsonl").write_bytes(b'{"problem": "a\xed\xa0\x80b?", "answer": "2"}\n')
    assert "\ufffd" in read(tmp_path, "raw.jsonl").problems[0].problem
    (tmp_path / "name.jsonl").write_text('{"problem": "?", "\\ud800": 1}\n')
    refusal(tmp_path, "name.jsonl")[0].encode()


# ------------------------------------------------------------------ what must not harm


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 100_000, "not valid JSON: nested too deeply"),
        ('{"a":' * 100_000, "not valid JSON: nested too deeply"),
        (f'{{"problem": "?", "answer": {"9" * 5000}}}', "not valid JSON: a number of more than"),
        ('{"problem": "?", "answer": 1, "answer": 2}', "not valid JSON: 'answer' stands twice"),
    ],
)
@pytest.mark.parametrize("name", ["p.jsonl", "p.json"])
def test_json_made_to_harm_is_refused_with_its_line(
    tmp_path: Path, name: str, line: str, reason: str
) -> None:
    (tmp_path / name).write_text(line)
    assert refusal(tmp_path, name)[0].startswith(f"{name}:1: {reason}")


@pytest.mark.parametrize("column", ["answer", "verifier_data", "meta", "options", "context"])
def test_a_deeply_nested_column_costs_its_row_at_most(tmp_path: Path, column: str) -> None:
    deep: Any = 1
    for _ in range(400):
        deep = {"a": [deep]}
    rows = [{"problem": "1?", "answer": 1}, {"problem": "2?", "answer": 1} | {column: deep}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(tmp_path, "p.jsonl").problems[0].problem == "1?"


def test_dates_and_decimals_of_parquet_become_json_in_verifier_data(tmp_path: Path) -> None:
    row = {"problem": "?", "answer": "1", "verifier_data": {"day": date(2024, 2, 29)}}
    write_parquet(tmp_path / "p.parquet", [row])
    assert read(tmp_path, "p.parquet").problems[0].verifier_data == '{"day": "2024-02-29"}'
    raw = {"problem": "?", "answer": "1", "verifier_data": {"x": b"\xff"}}
    write_parquet(tmp_path / "b.parquet", [raw, {"problem": "!", "answer": "2"}])
    found = read(tmp_path, "b.parquet")
    assert found.facts["rows left out: verifier_data is not JSON"] == 1


@pytest.mark.parametrize("path", ["a\0b.jsonl", "\0", "~nobody\0", "x" * 5000, "~no-such/p.jsonl"])
def test_a_path_that_cannot_be_is_refused(tmp_path: Path, path: str) -> None:
    message, hint = refusal(tmp_path, path)
    assert "\0" not in message
    assert "\0" not in hint


def test_links_that_lead_nowhere_or_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").symlink_to("gone.jsonl")
    assert refusal(tmp_path, "p.jsonl")[0] == "p.jsonl: a link that leads nowhere"
    (tmp_path / "a.jsonl").symlink_to("a.jsonl")
    refusal(tmp_path, "a.jsonl")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "p.jsonl").write_text(TEXT)
    assert len(read(tmp_path, "set").problems) == len(ROWS)


def test_a_wide_header_over_many_short_lines_takes_no_more_than_its_text(tmp_path: Path) -> None:
    header = ",".join(f"c{i}" for i in range(100_000))
    (tmp_path / "p.csv").write_text(header + "\n" + "x\n" * 100_000)
    start = time.monotonic()
    assert refusal(tmp_path, "p.csv")[0].startswith("p.csv:2: 1 value under 100,000 columns")
    assert time.monotonic() - start < 5


def bombs(folder: Path) -> Iterator[Path]:
    """Small Parquet files that claim what would fill the memory."""
    import pyarrow
    import pyarrow.parquet

    def save(name: str, arrays: dict[str, Any], **options: Any) -> Path:
        pyarrow.parquet.write_table(pyarrow.table(arrays), folder / name, **options)
        return folder / name

    yield save("rows.parquet", {"problem": pyarrow.nulls(50_000_000)})
    text = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * 300, pyarrow.int32()), ["x" * 1_000_000]
    )
    yield save("text.parquet", {"problem": text}, compression="zstd")
    yield save("zeros.parquet", {"problem": [" " * (200 << 20)]}, compression="zstd")
    inside = pyarrow.ListArray.from_arrays([0, 30_000_000], pyarrow.nulls(30_000_000))
    yield save("list.parquet", {"problem": inside})


def test_parquet_made_to_fill_the_memory_is_refused(tmp_path: Path) -> None:
    names = [path.name for path in bombs(tmp_path)]
    code = (
        "import resource, sys, time\n"
        "from pathlib import Path\n"
        "from heal.config import Problems\n"
        "from heal.data.problems import read_problems\n"
        "from heal.errors import UserError\n"
        "for name in sys.argv[1:]:\n"
        "    start = time.monotonic()\n"
        "    try: read_problems(Problems(path=name), Path())\n"
        "    except UserError as error: print(error, time.monotonic() - start, sep='\\t')\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(status.partition('VmHWM:')[2].split()[0])\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=tmp_path, text=True, capture_output=True,
        timeout=120, check=True,
    )  # fmt: skip
    *refused, own_kib, children_kib = done.stdout.splitlines()
    assert len(refused) == len(names)
    for name, line in zip(names, refused, strict=True):
        message, seconds = line.split("\t")
        assert message.startswith(f"{name}: cannot be read as Parquet: ")
        assert float(seconds) < 10
    # getrusage's own figure would include the process that started this one
    assert max(int(own_kib), int(children_kib)) < 1 << 20


def test_values_that_share_their_bytes_are_counted_each(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import compute

    from heal.data.arrow_probe import _size

    text = pyarrow.array(["x" * 1000] * 10)
    for array in (
        text,
        text.dictionary_encode(),
        compute.run_end_encode(text),
        text.cast(pyarrow.string_view()),
        pyarrow.array(
            [["x" * 1000] * 10], pyarrow.list_(pyarrow.dictionary(pyarrow.int8(), "str"))
        ),
        pyarrow.array([{"a": "x" * 1000}] * 10),
        pyarrow.array([[("k", "x" * 1000)]] * 10, pyarrow.map_("str", "str")),
    ):
        values, held = _size(array)
        assert values >= 10, array.type
        assert held >= 10_000, array.type


# ------------------------------------------------------------------ random damage


def sources(folder: Path) -> dict[str, bytes]:
    """One whole file of each format."""
    csv = "problem,answer\n" + "".join(f'"{r["problem"]}",{r["answer"]}\n' for r in ROWS)
    buffer = folder / "whole.parquet"
    write_parquet(buffer, ROWS)
    return {
        "p.jsonl": TEXT.encode(),
        "p.json": json.dumps(ROWS).encode(),
        "p.csv": csv.encode(),
        "p.tsv": csv.replace(",", "\t").encode("utf-16"),
        "p.parquet": buffer.read_bytes(),
        **{f"p.jsonl{suffix}": pack(TEXT.encode()) for suffix, pack in PACK.items()},
    }


def damaged(data: bytes, chance: random.Random) -> bytes:
    kind, found = chance.randrange(5), bytearray(data)
    if kind == 0:
        return chance.randbytes(chance.randrange(200))
    if kind == 1:
        return data[: chance.randrange(len(data))]
    for _ in range(chance.choice((1, 3, 20))):
        at = chance.randrange(len(found))
        if kind == 2:
            found[at] = chance.randrange(256)
        elif kind == 3:
            found[at:at] = chance.randbytes(chance.randrange(1, 9))
        else:
            found[at : at + chance.randrange(1, 40)] = chance.choice(
                (b"", b"\0\0", b'[{"', b"9" * 50)
            )
            found = found or bytearray(b"{")
    return bytes(found)


def test_no_damage_to_a_file_is_a_traceback(tmp_path: Path) -> None:
    chance = random.Random(13)
    whole = sources(tmp_path)
    # each Parquet case starts a process: fewer of them
    names = [name for name in whole if name != "p.parquet"]
    todo = [names[i % len(names)] for i in range(CASES - 24)] + ["p.parquet"] * 24
    outcomes = {"read": 0, "refused": 0}
    for name in todo:
        (tmp_path / name).write_bytes(damaged(whole[name], chance))
        start = time.monotonic()
        try:
            read(tmp_path, name)
            outcomes["read"] += 1
        except UserError as error:
            assert error.hint
            str(error).encode()
            outcomes["refused"] += 1
        assert time.monotonic() - start < 5, name
    assert sum(outcomes.values()) == CASES
    assert min(outcomes.values()) > CASES // 30


def test_no_damage_to_a_saved_data_set_is_a_traceback(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    chance, refused = random.Random(19), 0
    for _ in range(24):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "saved", tmp_path / "copy")
        file = chance.choice(sorted((tmp_path / "copy").iterdir()))
        file.write_bytes(damaged(file.read_bytes(), chance))
        try:
            read(tmp_path, "copy")
        except UserError as error:
            assert str(error).startswith("copy")
            refused += 1
    assert refused > 12


JUNK: tuple[Any, ...] = (
    None, True, 0, -1.5, float("nan"), float("inf"), "", " ", "x", "\ud800", "\0", [], {}, [None],
    [[1]], {"a": {"b": [1]}}, ["A", "B"], {"A": "x", "B": "y"}, "[1", "['a', 'b']",
    10**400, "9" * 30, [{"role": "user", "content": "hi"}], [{"from": "gpt", "value": None}],
    {"text": [1], "label": 3},
)  # fmt: skip
NAMES = (
    *("problem", "question", "prompt", "answer", "solution", "options", "choices", "context", "A"),
    *("B", "C", "input", "instruction", "output", "messages", "conversations", "reward_model"),
    *("meta", "verifier_data", "image", "problem_is_valid", "correct_answer", "incorrect_answers"),
    *("answerKey", "family", "label", "opa", "opb", "cop"),
)


def test_no_content_of_rows_is_a_traceback(tmp_path: Path) -> None:
    chance = random.Random(17)
    read_whole = 0
    for _ in range(CASES):
        columns = chance.sample(NAMES, chance.randrange(1, 9))
        rows = [{name: chance.choice(JUNK) for name in columns} for _ in range(4)]
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        try:
            found = read(tmp_path, "p.jsonl")
        except UserError as error:
            str(error).encode()
            continue
        read_whole += 1
        for problem in found.problems:
            f"{problem}{problem.verifier_data}".encode()
    assert read_whole > CASES // 50


def test_what_is_quoted_in_a_command_can_be_pasted(tmp_path: Path) -> None:
    (tmp_path / "my file;rm.jsonl").write_text(TEXT)
    _, hint = refusal(tmp_path, "my file;rn.jsonl")
    assert shlex.split(hint) == ["--set", "problems.path=my file;rm.jsonl"]
