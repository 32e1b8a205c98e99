"""Rows end to end in one sequence, so that no padding goes through the student.

In: a student. Out: the same student, whose attention is computed row by row while the context
lasts: no row sees another. That a student keeps to it is tried on it, not assumed (`obstacle`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from heal.errors import UserError

__all__ = ["obstacle", "packing", "row_by_row"]

ATTENTION = "heal_row_by_row"
PLAIN = {"full_attention", "sliding_attention"}
"""Kinds of layers that see only the rows they are given."""
TOLERANCE = 1e-4
"""Relative; rounding of float32 stays below 1e-5, and a row that is seen by another above 1e-3."""
PROBED = (7, 19)
"""Tokens of the two rows a student is tried on."""


@contextmanager
def packing(model: Any, wanted: bool | None, note: Callable[[str], None]) -> Iterator[bool]:
    """Whether rows may be put end to end while this lasts, as `train.packing` wants it.

    Raises: UserError when it wants what the student cannot do.
    """
    reason = None if wanted is False else obstacle(model)
    if reason and wanted:
        raise UserError(
            f"train.packing: this student cannot be packed: {reason}",
            hint="--set train.packing=null pads where it must",
        )
    if reason:
        note(f"batches are padded, for this student cannot be packed: {reason}")
    if reason or wanted is False:
        yield False
        return
    with row_by_row(model):
        yield True


def obstacle(model: Any) -> str | None:
    """Why rows of this student cannot stand end to end; None when they can."""
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return f"its attention is {config._attn_implementation!r}, not PyTorch's sdpa"
    if others := set(getattr(config, "layer_types", None) or ()) - PLAIN:
        return f"it has layers of {', '.join(sorted(others))}"
    first, second = (torch.arange(n, device=model.device) % config.vocab_size for n in PROBED)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = model(input_ids=second[None], use_cache=False).logits[0]
            with row_by_row(model):
                together = _logits_of_second(model, first, second)
    except TypeError as error:
        return f"it does not hand its rows' lengths to its attention ({error})"
    finally:
        model.train(was_training)
    far = float((together - alone).norm() / alone.norm())
    return None if far <= TOLERANCE else f"one row changed another, by {far:.1e}, when it was tried"


def _logits_of_second(model: Any, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model(
        input_ids=torch.cat([first, second])[None],
        position_ids=torch.cat([torch.arange(n, device=first.device) for n in PROBED])[None],
        row_lengths=[*PROBED],
        use_cache=False,
    ).logits[0, len(first) :]
    return found


@contextmanager
def row_by_row(model: Any) -> Iterator[None]:
    """Its attention is computed so while this lasts, whether or not it keeps to it."""
    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, lambda *_, **__: None)
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    row_lengths: list[int],
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' own attention for each row. q, k, v: [1, heads, tokens, width]."""
    rows = zip(*(x.split(row_lengths, dim=2) for x in (query, key, value)), strict=True)
    seen = [
        sdpa_attention_forward(module, *row, _window(row[0], sliding_window), **rest)[0]
        for row in rows
    ]
    return torch.cat(seen, dim=1), None


def _window(query: torch.Tensor, width: int | None) -> torch.Tensor | None:
    """The last `width` tokens up to each; None: all of them."""
    length = query.shape[2]
    if width is None or length <= width:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=query.device)
    return ones.tril().triu(1 - width)[None, None]
