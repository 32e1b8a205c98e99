"""Attention that also returns its log-sum-exp, so that parts can be merged exactly.

In: queries, keys and values as [batch, heads, tokens, head_dim]. Out: outputs and the log of the
softmax's denominator. Query heads that share a key-value head are laid out as further query tokens,
so keys and values are never repeated.
"""

import torch
from torch import Tensor


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax attention: out [B, H, Q, D] and lse [B, H, Q]. `mask` is added to the scores."""
    if q.device.type == "cpu":
        # The public scaled_dot_product_attention calls this very kernel and drops the lse.
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=mask, scale=scale
        )
        return out, lse
    return attend_plain(q, k, v, scale=scale, mask=mask)


def attend_plain(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same in elementary operations, for devices without the fused kernel."""
    scores = (torch.matmul(q, k.transpose(-1, -2)) * scale).float()
    if mask is not None:
        scores = scores + mask
    lse = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - lse.unsqueeze(-1)).to(v.dtype)
    return torch.matmul(weights, v), lse


def attend_causal(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """Causal attention of whole sequences: q [B, S, G, Hkv, D], k and v [B, Hkv, S, D].

    Out: like q, and lse [B, S, G, Hkv]. One call per query head of a group reads k and v as they
    lie; expanding them would copy.
    """
    parts = [_causal(q[:, :, g].transpose(1, 2), k, v, scale) for g in range(q.shape[2])]
    outs, lses = zip(*parts, strict=True)
    return (
        torch.stack([out.transpose(1, 2) for out in outs], dim=2),
        torch.stack([lse.transpose(1, 2) for lse in lses], dim=2),
    )


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, True, scale=scale
        )
        return out, lse
    hidden = torch.full((q.shape[2], k.shape[2]), float("-inf"), device=q.device).triu_(1)
    return attend_plain(q, k, v, scale=scale, mask=hidden)


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Tensor:
    """Attention over the union of two disjoint sets of keys. lse have out's shape without D."""
    share_b = torch.sigmoid(lse_b - lse_a).unsqueeze(-1).to(out_a.dtype)
    return torch.lerp(out_a, out_b, share_b)


def padding_mask(lengths: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
    """Additive mask [B, 1, 1, width] hiding keys at or beyond each length; None if none is."""
    if bool((lengths == width).all()):
        return None
    hidden = torch.arange(width, device=lengths.device)[None] >= lengths[:, None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=lengths.device)
    return mask.masked_fill_(hidden, float("-inf"))[:, None, None]
