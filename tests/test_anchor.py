"""The anchor: KL from the untouched student beside the loss, whatever way a step is computed."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from heal.config import Launch, Train
from heal.errors import UserError
from heal.reach import first_stage
from heal.students import trainer
from heal.students.anchor import anchored_sums
from heal.students.rendering import IGNORED, Renderer
from heal.students.train import read_model

sys.path.insert(0, str(Path(__file__).parent))
from test_checkpoints import EXAMPLES, KILLED_AT, PLANS, killed, same
from test_checkpoints import train as train_in
from test_launch import close
from tiny_models import make_checkpoint
from tiny_student import make_student, make_tokenizer

BETA = 0.5
SETTINGS = Train(learning_rate=3e-3, max_length=200, threads=1, checkpoint_every=None, anchor=BETA)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def train(student: Path, folder: Path, **more: Any) -> list[float]:
    """Losses by step."""
    losses, told, _ = train_in(student, folder, SETTINGS.model_copy(update=more))
    assert told == []
    return [*losses.values()]


@pytest.mark.parametrize("loss", ["nll", "dft"])
@pytest.mark.parametrize("limit", [1 << 30, 4 * 2 * 7 * 2], ids=["at once", "two places a time"])
def test_the_sums_are_those_of_a_hand_computation(loss: str, limit: int) -> None:
    torch.manual_seed(0)
    before, now = torch.randn(2, 2, 5, 7, dtype=torch.float64)
    now.requires_grad_()
    wanted = torch.tensor([[3, IGNORED, 0, 6, 1], [IGNORED, 2, 2, IGNORED, 5]])
    sft, away = anchored_sums(before, now, wanted, loss, limit)
    nll, kl, gradient = 0.0, 0.0, torch.zeros_like(now)
    for row, place in (wanted != IGNORED).nonzero().tolist():
        p = before[row, place].exp() / before[row, place].exp().sum()
        q = (now[row, place].exp() / now[row, place].exp().sum()).detach()
        weight = float(q[wanted[row, place]]) if loss == "dft" else 1.0
        nll -= weight * float(q[wanted[row, place]].log())
        kl += sum(float(p[v] * (p[v].log() - q[v].log())) for v in range(7))
        hit = torch.eye(7, dtype=torch.float64)[wanted[row, place]]
        gradient[row, place] = weight * (q - hit) + BETA * (q - p)
    assert sft.item() == pytest.approx(nll, rel=1e-12)
    assert away.item() == pytest.approx(kl, rel=1e-12)
    (sft + BETA * away).backward()
    torch.testing.assert_close(now.grad, gradient, rtol=1e-12, atol=1e-12)


def bare_loop(student: Path, beta: float) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same training row by row: SFT losses, and weights; the KL is to the first student."""
    renderer = Renderer(make_tokenizer(), SETTINGS.max_length)
    model, first = read_model(student).train(), read_model(student).eval()
    losses = []
    for plan in PLANS:
        peak, steps = SETTINGS.learning_rate * plan.lr_scale, len(plan.batches)
        optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.0)
        schedule = trainer_schedule(optimizer, steps)
        for batch in plan.batches:
            nll, kl, taught = torch.zeros(()), torch.zeros(()), 0
            for key in batch:
                found = renderer.render(EXAMPLES[key])
                ids, start = torch.tensor([found.ids]), found.prompt_tokens - 1
                now = model(ids).logits[0, start:-1].log_softmax(-1)
                with torch.no_grad():
                    before = first(ids).logits[0, start:-1].log_softmax(-1)
                nll = nll - now.gather(1, ids[0, start + 1 :, None]).sum()
                kl = kl + (before.exp() * (before - now)).sum()
                taught += len(now)
            optimizer.zero_grad()
            ((nll + beta * kl) / taught).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(nll.detach()) / taught)
    return losses, model.state_dict()


def trainer_schedule(optimizer: Any, steps: int) -> Any:
    from transformers import get_scheduler

    return get_scheduler(
        "cosine_warmup_with_min_lr",
        optimizer,
        num_warmup_steps=-(-steps * SETTINGS.warmup // 1),
        num_training_steps=steps,
        scheduler_specific_kwargs={"min_lr_rate": SETTINGS.min_lr},
    )


def test_all_stages_are_pulled_to_the_student_before_the_first(
    student: Path, tmp_path: Path
) -> None:
    losses = train(student, tmp_path / "anchored")
    expected, weights = bare_loop(student, BETA)
    assert losses == pytest.approx(expected, rel=1e-4), "the SFT loss alone is told"
    found = read_model(tmp_path / "anchored" / "stage2").state_dict()
    for name, tensor in weights.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-5)
    _, free = bare_loop(student, 0.0)
    apart = max(float((found[name] - free[name]).abs().max()) for name in free)
    assert apart > 1e-3, "what is compared above would tell"


def test_an_anchor_of_nothing_is_no_anchor_and_a_strong_one_holds(
    student: Path, tmp_path: Path
) -> None:
    none = train(student, tmp_path / "none", anchor=None)
    assert train(student, tmp_path / "faint", anchor=1e-9) == pytest.approx(none, rel=1e-6)
    close(tmp_path / "none" / "stage2", tmp_path / "faint" / "stage2")
    held = train(student, tmp_path / "held", anchor=1e3)
    assert none[0] - none[-1] > 5 * abs(held[0] - held[-1])


WAYS: dict[str, dict[str, Any]] = {
    "padded": {"packing": False},
    "in parts": {"forward_tokens": 70},
    "computed twice": {"gradient_checkpointing": True},
    "two processes": {"launch": Launch(processes=2), "forward_tokens": 120},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_student_is_the_same_whatever_way_a_step_is_computed(
    student: Path, tmp_path: Path, way: str
) -> None:
    packed = train(student, tmp_path / "packed", packing=True)
    other = train(student, tmp_path / "other", **WAYS[way])
    assert other == pytest.approx(packed, rel=1e-5)
    close(tmp_path / "packed" / "stage2", tmp_path / "other" / "stage2")


@pytest.mark.parametrize("loss", ["nll", "dft"])
def test_logits_beyond_the_limit_are_anchored_all_the_same(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    whole = train(student, tmp_path / "whole", loss=loss)
    monkeypatch.setattr(trainer, "logits_limit", lambda cpu: 0)
    groups = train(student, tmp_path / "groups", loss=loss)
    assert groups == pytest.approx(whole, rel=1e-5)
    close(tmp_path / "whole" / "stage2", tmp_path / "groups" / "stage2")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's
def test_an_anchor_holds_adapters_too(student: Path, tmp_path: Path) -> None:
    more = {"lora_rank": 2, "learning_rate": 0.03}
    free = train(student, tmp_path / "free", anchor=None, **more)
    held = train(student, tmp_path / "held", anchor=1e3, **more)
    assert held[0] == pytest.approx(free[0], rel=1e-6)
    assert free[0] - free[-1] > 5 * abs(held[0] - held[-1])


@pytest.mark.skipif(not trainer._cpu_has_bfloat16(), reason="this CPU has no such products")
def test_in_bfloat16_the_anchor_is_where_training_starts(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled: list[float] = []
    told = trainer.anchored_sums

    def watched(*given: Any) -> torch.Tensor:
        sums = told(*given)
        pulled.append(float(sums[1].detach()))
        return sums

    monkeypatch.setattr(trainer, "anchored_sums", watched)
    exact = train(student, tmp_path / "float32", anchor=BETA)
    float32, pulled[:] = [*pulled], []
    rounded = train(student, tmp_path / "bfloat16", anchor=BETA, precision="bfloat16")
    assert rounded == pytest.approx(exact, rel=0.02) and rounded != exact
    assert pulled[0] == float32[0] == 0.0
    assert pulled[1:] == pytest.approx(float32[1:], rel=0.3)


def test_a_killed_stage_goes_on_to_the_bit(student: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"checkpoint_every": 2})
    whole, _, _ = train_in(student, tmp_path / "whole", settings)
    kept = killed(student, tmp_path / "cut", settings)
    assert [f.name for f in kept.glob("step-*")] == ["step-00000004"]
    rest, told, _ = train_in(student, tmp_path / "cut", settings)
    assert rest == {step: whole[step] for step in range(KILLED_AT, 10)}
    assert same(tmp_path / "whole" / "stage2", tmp_path / "cut" / "stage2")
    assert told == []


def test_a_changed_anchor_trains_again_and_none_is_the_key_of_before(
    student: Path, tmp_path: Path
) -> None:
    assert first_stage("train.anchor") == "train"
    _, _, one = train_in(student, tmp_path, SETTINGS)
    losses, _, again = train_in(student, tmp_path, SETTINGS)
    assert losses == {} and again == one
    losses, _, other = train_in(student, tmp_path, SETTINGS.model_copy(update={"anchor": 0.6}))
    assert len(losses) == 9
    assert {r.key for r in one}.isdisjoint(r.key for r in other)


def test_tensorboard_is_told_the_kl_beside_the_loss(student: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses = train(student, tmp_path / "arm", report_to=("tensorboard",))
    found = EventAccumulator(str(tmp_path / "arm" / "logs" / "stage2")).Reload()
    told = {
        name: [e.value for e in found.Scalars(f"train/{name}")] for name in ("loss", "anchor_kl")
    }
    assert told["loss"] == pytest.approx(losses[2:], rel=1e-4)
    assert len(told["anchor_kl"]) == 7 and min(told["anchor_kl"]) > 0


def test_another_vocabulary_and_a_loss_of_experts_are_refused(
    student: Path, tmp_path: Path
) -> None:
    from heal.students.anchor import read_untouched

    other = make_checkpoint(tmp_path / "other", "llama", vocab_size=300)
    with pytest.raises(UserError, match=r"has 300 tokens, that of .* training 260") as caught:
        read_untouched(other, read_model(student))
    assert caught.value.hint == "--set train.anchor=null trains without one"
    experts = mixture(tmp_path / "experts")
    with pytest.raises(
        UserError, match=r"train\.anchor: the student balances its experts"
    ) as caught:
        train(experts, tmp_path / "arm")
    assert caught.value.hint == "--set train.anchor=null"


def mixture(folder: Path) -> Path:
    from transformers import MixtralConfig, MixtralForCausalLM

    tokenizer = make_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_local_experts": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1}
    words = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 2}
    MixtralForCausalLM(MixtralConfig(**sizes, **heads, **words)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("value", [0, -1, "nan", "inf"])
def test_an_anchor_that_pulls_nowhere_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="anchor"):
        Train.model_validate({"anchor": value})
