"""`heal check` shows teacher and student side by side before it opens either."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tests.families import family_tokenizer
from tests.tiny_student import make_tokenizer

from heal.before.meeting import Meeting, Side
from heal.before.side_by_side import lines_of
from heal.cli import main
from heal.cli.console import print_side_by_side

Check = Callable[..., tuple[int, str]]


def save(tokenizer: object, folder: Path) -> Path:
    """A model folder whose weights nobody could open."""
    tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    (folder / "config.json").write_text('{"model_type": "llama", "vocab_size": 300}')
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Check:
    """Runs `heal check r.yaml` for a teacher that no server serves and a student, by family."""
    (tmp_path / "p.jsonl").write_text('{"problem": "Three times 4?", "answer": "12"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(teacher: str, student: str | None, **prompts: str) -> tuple[int, str]:
        for name in (teacher, student):
            if name is not None and not Path(name).exists():
                save(family_tokenizer(name), tmp_path / name)
        scripted = teacher.endswith(".json")
        recipe = {
            "run": "run",
            "problems": {"path": "p.jsonl", "held_out": 0},
            "teacher": {"engine": "scripted" if scripted else "http", "model": teacher},
            "student": student and {"model": student},
            "prompts": {"solve": "{problem}", **prompts},
            "engine": {"http": {"endpoints": [{"url": "http://127.0.0.1:9"}]}},
        }
        Path("r.yaml").write_text(yaml.safe_dump(recipe))
        monkeypatch.setattr("sys.argv", ["heal", "check", "r.yaml"])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert said.err == ""
        assert max(cell_len(line) for line in said.out.splitlines()) <= 80
        return int(ended.value.code or 0), said.out

    return run


TAGS_BESIDE_NONE = """\
checking r.yaml: reading the problems and the tokenizers …

The first problem as each reads it; the trace stands in: nothing is sampled yet.

teacher: qwen3                         │ student: llama-3.2
<think> tags; it opens the thinking    │ it knows no thinking
itself                                 │
── its prompt ends ────────────────────┼─── its prompt ends ───────────────────
<|im_start|>user⏎                      │ …
Three times 4?<|im_end|>⏎              │ ⏎
<|im_start|>assistant⏎                 │ Three times 4?<|eot_id|>
                                       │ <|start_header_id|>assistant
                                       │ <|end_header_id|>⏎
                                       │ ⏎
── it goes on ─────────────────────────┼─── trained on what is in ⟦ ⟧ ─────────
<think>⏎                               │ ⟦<think>⏎
(its thinking)⏎                        │ (its thinking)⏎
</think>⏎                              │ </think>⏎
⏎                                      │ ⏎
(its answer)                           │ (its answer)<|eot_id|>⟧

student: llama-3.2
  ok      reached         its tokenizer and its chat template can be used
  ok      taught          one closed pair of <think> tags, as plain text: the
                          student has no tokens for it
  ok      room            train.max_length, 4,096, holds any repair
opening the models …
"""
CHANNELS_BESIDE_OPENED = """\
teacher: gpt-oss                       │ student: deepseek-r1-distill
channels; it opens the thinking itself │ <think> tags; its prompt opens the
                                       │ thinking
── its prompt ends ────────────────────┼─── its prompt ends ───────────────────
…                                      │ <｜begin▁of▁sentence｜><｜User｜>Three
# Valid channels: analysis,            │ times 4?<｜Assistant｜><think>⏎
commentary, final. Channel must be     │
included for every message.<|end|>     │
<|start|>user<|message|>Three times 4? │
<|end|><|start|>assistant              │
── it goes on ─────────────────────────┼─── trained on what is in ⟦ ⟧ ─────────
<|channel|>analysis<|message|>(its     │ ⟦(its thinking)⏎
thinking)<|end|><|start|>assistant     │ </think>⏎
<|channel|>final<|message|>(its        │ ⏎
answer)                                │ (its answer)<｜end▁of▁sentence｜>⟧

student: deepseek-r1-distill
  ok      reached         its tokenizer and its chat template can be used
  ok      taught          the student's prompt opens the pair; the row goes on
                          in it and closes it
"""
CLOSED = """\
checking r.yaml: reading the problems and the tokenizers …

The first problem as each reads it; the trace stands in: nothing is sampled yet.

teacher: deepseek-r1-distill           │ student: qwen3-thinking-off
<think> tags; its prompt opens the     │ <think> tags; its prompt closes the
thinking                               │ thinking: it is switched off
── its prompt ends ────────────────────┼─── its prompt ends ───────────────────
<｜begin▁of▁sentence｜><｜User｜>Three │ …
times 4?<｜Assistant｜><think>⏎        │ <|im_start|>assistant⏎
                                       │ <think>⏎
                                       │ ⏎
                                       │ </think>⏎
                                       │ ⏎
── it goes on ─────────────────────────┼─── a row ─────────────────────────────
(its thinking)⏎                        │ refused: the student's prompt has
</think>⏎                              │ closed its thinking already
⏎                                      │
(its answer)                           │

student: qwen3-thinking-off
  ok      reached         its tokenizer and its chat template can be used
  FAILED  taught          its prompt closes the thinking, and the teacher
                          thinks: no row can be taught
                          → one that leaves it open: --set student.model=FOLDER
  ok      room            train.max_length, 4,096, holds any repair
The student cannot be trained, so no model was opened. Once it can:
  heal check r.yaml
"""
NO_TEMPLATE = """\
teacher: qwen2.5                       │ student: bare
it knows no thinking                   │ it cannot be taught; see below
── its prompt ends ────────────────────┼─── its prompt ends ───────────────────
…                                      │
Cloud. You are a helpful assistant.    │
<|im_end|>⏎                            │
<|im_start|>user⏎                      │
Three times 4?<|im_end|>⏎              │
<|im_start|>assistant⏎                 │
── it goes on ─────────────────────────┼─── a row ─────────────────────────────
(its answer)                           │

student: bare
  FAILED  reached         bare: the tokenizer has no chat template
                          → use an instruction-tuned model, or add
                            chat_template.jinja to the folder
The student cannot be trained, so no model was opened. Once it can:
  heal check r.yaml
"""
SCRIPT = """\
teacher: script.json                   │ student: none
a script: it has no chat template      │ rows are written in canonical form,
                                       │ for other trainers
── its prompt ends ────────────────────┼─── its prompt ends ───────────────────
Three times 4?                         │ Three times 4?
── it goes on ─────────────────────────┼─── a row ─────────────────────────────
(its answer)                           │ (its answer)

opening the models …
"""


def test_a_teacher_that_thinks_beside_a_student_that_does_not(check: Check) -> None:
    code, said = check("qwen3", "llama-3.2")
    assert said.startswith(TAGS_BESIDE_NONE)
    # the servers are asked only then
    assert "no server answers" in said.removeprefix(TAGS_BESIDE_NONE)
    assert code == 2


def test_channels_beside_a_prompt_that_opens_the_thinking(check: Check) -> None:
    assert CHANNELS_BESIDE_OPENED in check("gpt-oss", "deepseek-r1-distill")[1]


def test_a_student_whose_thinking_is_off_is_refused_before_any_model_is_opened(
    check: Check,
) -> None:
    assert check("deepseek-r1-distill", "qwen3-thinking-off") == (2, CLOSED)


def test_where_a_teacher_may_not_think_it_is_a_note(check: Check) -> None:
    _, said = check("qwen3", "qwen3-thinking-off")
    assert (
        "  note    taught          its prompt closes the thinking: rows of a teacher that\n"
        "                          thinks are refused\n"
    ) in said
    assert "opening the models …" in said
    assert check("qwen3", "qwen3-thinking-off", think_close="</think>")[0] == 2
    _, said = check("qwen2.5", "qwen3-thinking-off")
    assert "│ ⟦(its answer)<|im_end|>⟧\n" in said


def test_a_student_without_a_template_is_refused_before_any_model_is_opened(
    check: Check, tmp_path: Path
) -> None:
    save(make_tokenizer(None), tmp_path / "bare")
    code, said = check("qwen2.5", "bare")
    assert code == 2
    assert said.endswith(NO_TEMPLATE)


def test_a_student_that_cannot_give_text_back_is_refused(check: Check, tmp_path: Path) -> None:
    from tokenizers import normalizers

    shouting = make_tokenizer()
    shouting.backend_tokenizer.normalizer = normalizers.Replace("its", "ITS")
    save(shouting, tmp_path / "shouting")
    code, said = check("qwen2.5", "shouting")
    assert code == 2
    assert (
        "  FAILED  taught          its tokenizer does not give its text back, or reads\n"
        "                          its own signs in plain words\n"
        "                          → choose another one: --set student.model=FOLDER\n"
    ) in said
    assert "opening the models" not in said


def test_a_student_whose_template_knows_no_system_turn_is_refused(
    check: Check, tmp_path: Path
) -> None:
    strict = (
        "{%- if messages[0].role == 'system' -%}{{ raise_exception('no system') }}{%- endif -%}"
    )
    template = strict + str(make_tokenizer().chat_template)
    save(make_tokenizer(template), tmp_path / "strict")
    code, said = check("qwen2.5", "strict", system="Be brief.")
    assert code == 2
    assert (
        "                          → if it knows no system turn:\n"
        "                            --set prompts.system=null\n"
    ) in said


def test_a_script_and_no_student(check: Check, tmp_path: Path) -> None:
    rules = [{"match": "Three", "replies": ["So \\boxed{12}."]}]
    (tmp_path / "script.json").write_text(json.dumps(rules))
    code, said = check("script.json", None)
    assert code == 0
    assert SCRIPT in said


def test_where_there_is_colour_loss_is_in_reverse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    meeting = Meeting(
        Side("teacher: a", "t", "p", "r"), Side("student: b", "t", "p", "r", True), None
    )
    print_side_by_side(meeting)
    said = capsys.readouterr().out
    assert "│ \x1b[7mr\x1b[0m\n" in said
    assert "⟦" not in said
    monkeypatch.setenv("NO_COLOR", "1")
    print_side_by_side(meeting)
    assert "│ ⟦r⟧\n" in capsys.readouterr().out


def test_control_characters_are_seen_and_do_nothing() -> None:
    side = Side("teacher: \x1b[31m", "told", "a\tb\x1b[2J", "r")
    text = "\n".join(
        "".join(t for t, _ in line) for line in lines_of(Meeting(side, side, None), colour=False)
    )
    assert "\x1b" not in text
    assert "a⇥b␛[2J" in text


texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cf")), max_size=200)


@given(texts, texts)
def test_any_text_fits_the_page_and_loses_only_spaces(prompt: str, row: str) -> None:
    side = Side("student: m", "told", prompt, row, bears_loss=True)
    lines = [*lines_of(Meeting(side, side, None), colour=True)]
    assert all(sum(cell_len(text) for text, _ in line) <= 80 for line in lines)
    taught = "".join(text for line in lines for text, bears in line if bears)
    assert "".join(taught.split()) == "".join(row.replace("\n", "⏎").split())
