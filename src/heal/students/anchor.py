"""The anchor against forgetting: KL from the untouched student, beside the SFT loss.

In: logits of the untouched and of the trained student at the same places. Out: the SFT loss and
KL(untouched ‖ trained), each summed over the taught tokens. The direction is that of anchored SFT
(arXiv 2509.23753), over the whole vocabulary: every token the untouched student would have tried
stays possible, which is what is lost where a student knows a rule and no longer tries it.
"""

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import kl_div, nll_loss
from torch.utils.checkpoint import checkpoint

from heal.engines import read_weights
from heal.errors import UserError
from heal.students.rendering import IGNORED
from heal.wording import plural

__all__ = ["anchored_sums", "read_untouched"]


def read_untouched(folder: Path, student: Any) -> Any:
    """The untouched student, frozen. Raises: UserError when its words are not the trained one's.

    To be called before a trainer is made: from then on transformers would read it in shards.
    """
    untouched = read_weights(folder).eval().requires_grad_(False)
    before, now = (m.config.get_text_config().vocab_size for m in (untouched, student))
    if before != now:
        raise UserError(
            f"train.anchor: the vocabulary of {folder} has {plural(before, 'token')}, that of the"
            f" student in training {now:,}",
            hint="--set train.anchor=null trains without one",
        )
    return untouched


def anchored_sums(
    untouched: torch.Tensor, student: torch.Tensor, wanted: torch.Tensor, loss: str, limit: int
) -> torch.Tensor:
    """[2]: the loss `train.loss` and the KL, in nats, summed over the taught tokens.

    Logits [rows, K, vocabulary], wanted [rows, K]. Beyond `limit` bytes of logits they are
    computed in groups of places, each once more for its gradient.
    """
    places = max(1, limit // (4 * student.shape[0] * student.shape[-1]))
    if student.shape[1] <= places:
        return _sums(untouched, student, wanted, loss)
    groups = zip(*(x.split(places, dim=1) for x in (untouched, student, wanted)), strict=True)
    sums = [checkpoint(_sums, *group, loss, use_reentrant=False) for group in groups]
    return torch.stack(sums).sum(0)


def _sums(
    untouched: torch.Tensor, student: torch.Tensor, wanted: torch.Tensor, loss: str
) -> torch.Tensor:
    before, now = untouched.log_softmax(-1), student.log_softmax(-1)
    away = kl_div(now, before, reduction="none", log_target=True).sum(-1)
    nll = nll_loss(now.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="none")
    if loss == "dft":
        nll = nll * torch.exp(-nll.detach())
    return torch.stack([nll.sum(), away[wanted != IGNORED].sum()])
