"""Training: exactly the plan is shown, a crash costs one stage, equal inputs, equal students."""

import json
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from heal.config import Train
from heal.errors import UserError
from heal.records import Example, StagePlan, TrainResult
from heal.students.rendering import IGNORED, Rendered, Renderer
from heal.students.train import Opener, read_model, train_arm

sys.path.insert(0, str(Path(__file__).parent))
from tiny_student import make_student, make_tokenizer

SETTINGS = Train(learning_rate=3e-3, max_length=200, threads=1)
PLANS = (
    StagePlan(1, (("a", "b"), ("c",), ("a", "d")), 1.0),
    StagePlan(2, (("d", "a", "a"), ("b",)), 0.7),
    StagePlan(3, (("c", "d"), ("d",)), 0.5),
)
EXAMPLES = {
    key: Example(key, f"p-{key}", "D1", f"{i} + {i}?", "so " * (4 * i + 1) + str(2 * i))
    for i, key in enumerate("abcd")
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def train(student: Path, folder: Path, plans=PLANS, settings=SETTINGS, **options):
    """All results, and the losses by step."""
    losses: dict[int, float] = {}

    def watch(step: int, total: int, loss: float) -> None:
        assert total == sum(len(plan.batches) for plan in plans)
        losses[step] = loss

    options = {"arm": "heal", "seed": 0, "examples": EXAMPLES} | options
    results = list(
        train_arm(
            plans=plans,
            student=student,
            settings=settings,
            folder=folder,
            on_progress=watch,
            **options,
        )
    )
    return results, losses


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_model(folder).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def reference(student: Path, plans=PLANS, settings=SETTINGS):
    """The same training as a bare loop: weights and losses."""
    renderer = Renderer(make_tokenizer(), settings.max_length)
    model = read_model(student).train()
    losses = []
    for plan in plans:
        peak, steps = settings.learning_rate * plan.lr_scale, len(plan.batches)
        optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.0)
        warm = math.ceil(settings.warmup * steps)
        for step, batch in enumerate(plan.batches):
            if step < warm:
                share = (step + 1) / warm
            else:
                cosine = 0.5 * (1 + math.cos(math.pi * (step - warm + 1) / (steps - warm)))
                share = settings.min_lr + (1 - settings.min_lr) * cosine
            optimizer.param_groups[0]["lr"] = peak * share
            loss, taught = torch.zeros(()), 0
            for key in batch:
                found = renderer.render(EXAMPLES[key])
                assert isinstance(found, Rendered)
                logits = model(torch.tensor([found.ids])).logits[0, :-1]
                labels = torch.tensor(found.labels[1:])
                log_probs = logits.log_softmax(-1)
                for place in (labels != IGNORED).nonzero().flatten():
                    own = log_probs[place, labels[place]]
                    loss = loss - own * (own.exp().detach() if settings.loss == "dft" else 1)
                taught += int((labels != IGNORED).sum())
            loss = loss / taught
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
    return model.state_dict(), losses


@pytest.mark.parametrize("loss", ["nll", "dft"])
def test_the_student_is_what_a_bare_loop_over_the_plan_makes(
    student: Path, tmp_path: Path, loss: str
) -> None:
    settings = SETTINGS.model_copy(update={"loss": loss})
    results, losses = train(student, tmp_path, settings=settings)
    expected, expected_losses = reference(student, settings=settings)
    assert list(losses.values()) == pytest.approx(expected_losses, rel=1e-4)
    found = weights(tmp_path / "stage3")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-5)
    assert not same(found, weights(student))
    assert [r.stage for r in results] == [1, 2, 3]


def test_results_count_what_was_shown(student: Path, tmp_path: Path) -> None:
    results, losses = train(student, tmp_path, run_folder=tmp_path.parent, refused_long=5)
    renderer = Renderer(make_tokenizer(), 200)
    tokens = {k: len(renderer.render(e).ids) for k, e in EXAMPLES.items()}
    for result, plan in zip(results, PLANS, strict=True):
        shown = [key for batch in plan.batches for key in batch]
        assert result.steps == len(plan.batches)
        assert result.presentations == len(shown)
        assert result.distinct == len(set(shown))
        assert result.tokens == sum(tokens[key] for key in shown)
        assert result.refused_long == 5
        assert result.learning_rate == pytest.approx(3e-3 * plan.lr_scale)
        assert result.folder == f"{tmp_path.name}/stage{plan.index}"
    assert list(losses) == list(range(1, 8))
    assert results[1].loss_first == pytest.approx((losses[4] + losses[5]) / 2)


def test_a_pass_in_parts_makes_the_same_student(student: Path, tmp_path: Path) -> None:
    _, whole = train(student, tmp_path / "whole")
    settings = SETTINGS.model_copy(update={"forward_tokens": 70})
    _, parts = train(student, tmp_path / "parts", settings=settings)
    assert list(parts.values()) == pytest.approx(list(whole.values()), rel=1e-4)


@pytest.mark.parametrize("loss", ["nll", "dft"])
def test_the_fused_head_of_trl_gives_the_same_losses(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    from heal.students import trainer

    settings = SETTINGS.model_copy(update={"loss": loss})
    _, built = train(student, tmp_path / "built", settings=settings)
    monkeypatch.setattr(trainer, "logits_limit", lambda cpu: 0)
    _, fused = train(student, tmp_path / "fused", settings=settings)
    assert list(fused.values()) == pytest.approx(list(built.values()), rel=1e-4)


def test_equal_inputs_give_equal_students_and_the_arm_plays_no_part(
    student: Path, tmp_path: Path
) -> None:
    first, losses = train(student, tmp_path / "one")
    second, again = train(student, tmp_path / "two", arm="rft")
    assert losses == again
    assert same(weights(tmp_path / "one" / "stage3"), weights(tmp_path / "two" / "stage3"))
    assert {r.key for r in first}.isdisjoint(r.key for r in second)


def test_the_order_of_batches_matters(student: Path, tmp_path: Path) -> None:
    backwards = (replace(PLANS[0], batches=PLANS[0].batches[::-1]), *PLANS[1:])
    train(student, tmp_path / "one")
    train(student, tmp_path / "two", backwards)
    assert not same(weights(tmp_path / "one" / "stage3"), weights(tmp_path / "two" / "stage3"))


def test_a_finished_arm_is_not_trained_again_and_keeps_one_student(
    student: Path, tmp_path: Path
) -> None:
    results, _ = train(student, tmp_path)
    again, losses = train(student, tmp_path)
    assert again == results
    assert losses == {}
    assert [sorted(p.name for p in (tmp_path / f"stage{i}").iterdir()) for i in (1, 2)] == [
        ["done.json"],
        ["done.json"],
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stage1", "stage2", "stage3"]
    kept = {p.name for p in (tmp_path / "stage3").iterdir()}
    assert kept >= {"model.safetensors", "config.json", "tokenizer.json", "done.json"}
    assert not {"README.md", "training_args.bin", "trainer_state.json"} & kept


def test_an_interrupted_arm_goes_on_where_it_stopped(student: Path, tmp_path: Path) -> None:
    _, whole = train(student, tmp_path / "whole")

    def interrupt(step: int, total: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    folder = tmp_path / "cut"
    arm = train_arm("heal", 0, PLANS, EXAMPLES, student, SETTINGS, folder, interrupt)
    results: list[TrainResult] = []
    with pytest.raises(KeyboardInterrupt):
        results.extend(arm)
    assert not (folder / "stage2").exists()
    _, rest = train(student, folder)
    assert rest == {step: whole[step] for step in range(4, 8)}
    assert same(weights(folder / "stage3"), weights(tmp_path / "whole" / "stage3"))
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("changed", ["plan", "text", "setting"])
def test_another_plan_text_or_setting_trains_again(
    student: Path, tmp_path: Path, changed: str
) -> None:
    first, _ = train(student, tmp_path)
    plans, examples, settings = PLANS, EXAMPLES, SETTINGS
    if changed == "plan":
        plans = (*PLANS[:2], replace(PLANS[2], batches=(("a",),)))
    elif changed == "text":
        examples = EXAMPLES | {"d": replace(EXAMPLES["d"], assistant="another")}
    else:
        settings = SETTINGS.model_copy(update={"learning_rate": 1e-3})
    second, losses = train(student, tmp_path, plans, settings, examples=examples)
    # weights of the earlier stages are gone, so training starts over even where only III differs
    assert len(losses) == sum(len(plan.batches) for plan in plans)
    assert first[2].key != second[2].key
    assert (first[0].key == second[0].key) is (changed == "plan")


def test_another_student_of_the_same_shape_is_trained_again(student: Path, tmp_path: Path) -> None:
    first, _ = train(student, tmp_path / "arm")
    other = make_student(tmp_path / "other", seed=1)
    second, losses = train(other, tmp_path / "arm")
    assert len(losses) == 7
    assert {r.key for r in first}.isdisjoint(r.key for r in second)


def test_a_student_read_from_a_gguf_is_trained_and_saved_as_plain_weights(
    student: Path, tmp_path: Path
) -> None:
    from transformers import GgufConfig
    from transformers.quantizers.quantizer_gguf import GgufHfQuantizer

    def from_gguf(folder: Path):
        # the marks transformers leaves on a model whose GGUF it has turned into float32
        model = read_model(folder)
        model.config.quantization_config = GgufConfig()
        model.hf_quantizer = GgufHfQuantizer(model.config.quantization_config)
        model.is_quantized = True
        return model

    train(student, tmp_path, opener=Opener(model=from_gguf))
    assert "quantization_config" not in (tmp_path / "stage3" / "config.json").read_text()
    assert not same(weights(tmp_path / "stage3"), weights(student))


def test_threads_and_memory_settings_train_nothing_again(student: Path, tmp_path: Path) -> None:
    train(student, tmp_path)
    settings = SETTINGS.model_copy(update={"threads": None, "forward_tokens": 64})
    _, losses = train(student, tmp_path, settings=settings)
    assert losses == {}


def test_the_trained_student_is_float32_and_stops_at_the_end_of_its_turn(
    student: Path, tmp_path: Path
) -> None:
    def without_end(folder: Path):
        model = read_model(folder)
        model.generation_config.eos_token_id = 3
        return model

    train(student, tmp_path, opener=Opener(model=without_end))
    model = read_model(tmp_path / "stage3")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert make_tokenizer().eos_token_id in model.generation_config.eos_token_id
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "stage3")
    assert tokenizer.chat_template == make_tokenizer().chat_template


def test_a_stage_without_batches_passes_its_weights_on(student: Path, tmp_path: Path) -> None:
    results, _ = train(student, tmp_path, (StagePlan(1, (), 1.0),))
    assert (results[0].steps, results[0].loss_last) == (0, 0.0)
    assert same(weights(tmp_path / "stage1"), weights(student))


def test_a_plan_that_names_a_refused_example_is_an_error(student: Path, tmp_path: Path) -> None:
    examples = EXAMPLES | {"d": replace(EXAMPLES["d"], assistant="long " * 50)}
    with pytest.raises(UserError, match="d, which the student must refuse: too_long"):
        train(student, tmp_path, examples=examples)
    assert not list(tmp_path.iterdir())


def test_a_plan_that_names_no_example_is_an_error(student: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trace d, which is no example"):
        train(student, tmp_path, examples={k: EXAMPLES[k] for k in "abc"})


def test_a_diverging_loss_stops_the_stage_and_leaves_none(student: Path, tmp_path: Path) -> None:
    def broken(folder: Path):
        model = read_model(folder)
        with torch.no_grad():
            model.lm_head.weight[0] = float("nan")
        return model

    with pytest.raises(UserError, match="the loss is nan at step 1") as caught:
        train(student, tmp_path, opener=Opener(model=broken))
    assert "learning_rate" in str(caught.value.hint)
    assert not (tmp_path / "stage1").exists()


def test_adapters_are_merged_into_an_ordinary_student(student: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    settings = SETTINGS.model_copy(update={"lora_rank": 2})
    train(student, tmp_path, settings=settings)
    before, after = weights(student), weights(tmp_path / "stage3")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name for name in changed)
    assert not (tmp_path / "stage3" / "adapter_config.json").exists()


@pytest.mark.parametrize("more", [{}, {"dora": True}, {"lora_dropout": 0.5}])
def test_kept_adapters_on_the_stage_before_give_the_merged_student(
    student: Path, tmp_path: Path, more: dict[str, object]
) -> None:
    from peft import PeftModel

    given = {"lora_rank": 2, "lora_alpha": 8.0, "lora_targets": ["q_proj", "v_proj"]} | more
    settings = Train.model_validate(SETTINGS.model_dump() | given)
    train(student, tmp_path, settings=settings)
    model = read_model(student)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is", FutureWarning)
        for stage in (1, 2, 3):
            adapter = tmp_path / f"stage{stage}" / "adapter"
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    found = weights(tmp_path / "stage3")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    before = weights(student)
    changed = {n.split(".")[-2] for n in before if not torch.equal(before[n], found[n])}
    assert changed == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    "given",
    [{"lora_rank": 3}, {"lora_alpha": 1.0}, {"lora_targets": ["v_proj"]}, {"dora": True}],
)
def test_another_adapter_is_another_student(
    student: Path, tmp_path: Path, given: dict[str, object]
) -> None:
    plain = SETTINGS.model_dump() | {"lora_rank": 2}
    one, _ = train(student, tmp_path / "a", PLANS[:1], Train.model_validate(plain))
    two, _ = train(student, tmp_path / "b", PLANS[:1], Train.model_validate(plain | given))
    assert one[0].key != two[0].key
    assert not same(weights(tmp_path / "a" / "stage1"), weights(tmp_path / "b" / "stage1"))


def test_settings_of_adapters_that_there_are_none_of_are_refused() -> None:
    with pytest.raises(ValueError, match="dora, lora_alpha: of adapters; lora_rank is null"):
        Train(lora_alpha=4, dora=True)


def test_a_layer_that_the_student_lacks_is_named(student: Path, tmp_path: Path) -> None:
    settings = Train.model_validate(
        SETTINGS.model_dump() | {"lora_rank": 2, "lora_targets": ["q_proj", "query"]}
    )
    with pytest.raises(UserError, match="has no layer query") as caught:
        train(student, tmp_path, settings=settings)
    assert "q_proj, up_proj, v_proj" in str(caught.value.hint)


def test_gradient_checkpointing_makes_the_same_student(student: Path, tmp_path: Path) -> None:
    _, plain = train(student, tmp_path / "plain", PLANS[:1])
    settings = SETTINGS.model_copy(update={"gradient_checkpointing": True})
    _, saving = train(student, tmp_path / "saving", PLANS[:1], settings)
    assert list(saving.values()) == pytest.approx(list(plain.values()), rel=1e-6)


BFLOAT16 = SETTINGS.model_copy(update={"precision": "bfloat16"})


@pytest.mark.parametrize("told", [{"avx2": True, "avx512_bf16": False, "cores": 2}, {}])
def test_bfloat16_is_refused_where_the_device_has_none(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, object]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    with pytest.raises(UserError, match="has no such products") as caught:
        train(student, tmp_path, settings=BFLOAT16)
    assert "train.precision=auto" in str(caught.value.hint)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a CPU")
def test_a_cpu_trains_in_bfloat16_when_asked(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain = train(student, tmp_path / "auto", PLANS[:1])
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    (result,), rounded = train(student, tmp_path / "bf16", PLANS[:1], BFLOAT16)
    assert list(rounded.values()) != list(plain.values())
    assert list(rounded.values()) == pytest.approx(list(plain.values()), rel=0.01)
    kept = weights(tmp_path / "bf16" / result.folder)
    assert {w.dtype for w in kept.values()} == {torch.float32}


def test_adapters_without_peft_name_the_command(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="peft") as caught:
        train(student, tmp_path, settings=SETTINGS.model_copy(update={"lora_rank": 2}))
    assert caught.value.hint == "pip install peft"


def test_training_prints_nothing(
    student: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(student, tmp_path)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_done_json_is_the_result(student: Path, tmp_path: Path) -> None:
    results, _ = train(student, tmp_path)
    stored = json.loads((tmp_path / "stage2" / "done.json").read_text())
    assert TrainResult(**stored) == results[1]
