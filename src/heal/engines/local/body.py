"""Our forward pass for Llama-like decoders (Llama, SmolLM2, Mistral, Qwen2, Qwen3).

In: a transformers module, whose weights are re-laid once: q, k and v fused, gate and up fused, norm
gains folded into the matrix that follows, rotary pairs interleaved so that a rotation is one
complex product, and query heads ordered (group, kv head) so that a group's heads are query tokens.
Out: logits. Knows nothing of requests, rows or sampling: attention comes in as a function.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from heal.engines.local.matrices import Dense, Matrix

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [N, G, Hkv, D], k [N, Hkv, D], v [N, Hkv, D]) → [N, G, Hkv, D] or [N, G·Hkv·D]."""

MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_KEPT_TOKENS = 512
"""Workspaces for so many tokens stay between calls."""
_STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})


def supports(config: Any) -> bool:
    """Whether this forward pass computes what transformers computes for such a model."""
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type in MODEL_TYPES
        and config.hidden_act == "silu"
        and rope.get("rope_type", "default") in _STATIC_ROPE
        and float(rope.get("partial_rotary_factor", 1.0)) == 1.0
    )


@dataclass(frozen=True)
class Layer:
    """One decoder layer's re-laid weights."""

    qkv: Matrix
    out: Matrix
    gate_up: Matrix
    down: Matrix
    qk_gain: Tensor | None = None
    """[H + Hkv, D]: Qwen3's per-head norms of q and k."""


@dataclass(frozen=True)
class Heads:
    """The shape of attention."""

    kv: int
    group: int
    dim: int
    scale: float

    @property
    def query(self) -> int:
        """Number of query heads."""
        return self.kv * self.group


class Body:
    """The decoder: token ids to hidden states, and hidden states to logits."""

    def __init__(self, model: Any, context: int) -> None:
        """Take over `model`'s weights; its layers are emptied as they are copied."""
        config = model.config
        self.eps = float(config.rms_norm_eps)
        self.heads = _heads(model)
        self.embedding: Tensor = model.get_input_embeddings().weight.detach()
        self.dtype, self.device = self.embedding.dtype, self.embedding.device
        self.width = self.embedding.shape[1]
        self.head: Matrix = _head(model)
        self.vocabulary = self.head.shape[1]
        self.rotation = _rotation(model, context)
        self._scratch = self.embedding.new_empty((0, self.vocabulary), dtype=torch.float32)
        self._space: _Workspace | None = None
        self.layers: list[Layer] = []
        for index in range(len(model.model.layers)):
            self.layers.append(_layer(model.model.layers[index], self.heads))
            model.model.layers[index] = torch.nn.Identity()

    def change(self, matrix: Callable[[Matrix], Matrix]) -> None:
        """Put another matrix in the place of each, layer by layer; embeddings stay as they are."""
        self.head = matrix(self.head)
        for index, layer in enumerate(self.layers):
            self.layers[index] = replace(
                layer,
                qkv=matrix(layer.qkv),
                out=matrix(layer.out),
                gate_up=matrix(layer.gate_up),
                down=matrix(layer.down),
            )

    def hidden(self, ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """Normalised hidden states [N, d] of N tokens, whatever sequences they belong to."""
        x = self.embedding.index_select(0, ids)
        turn = self.rotation.index_select(0, positions).unsqueeze(1)
        space = self._workspace(len(ids))
        for index, layer in enumerate(self.layers):
            q, k, v = self._qkv(layer, x, turn, space)
            mixed = attention(index, q, k, v).reshape(x.shape[0], -1)
            layer.out.add_product(x, mixed)
            gate_up = layer.gate_up.product(self._norm(x, space.normed), space.gate_up)
            gate, up = gate_up.chunk(2, dim=-1)
            layer.down.add_product(x, F.silu(gate, inplace=True).mul_(up))
        return self._norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [N, V]."""
        return self.head.product(hidden).float()

    def step_logits(self, hidden: Tensor) -> Tensor:
        """The same in memory that the next call overwrites: fresh pages cost time."""
        if len(self._scratch) < len(hidden):
            shape = (len(hidden), self.vocabulary)
            self._scratch = hidden.new_empty(shape, dtype=torch.float32)
        room = self._scratch[: len(hidden)]
        if self.dtype is torch.float32:
            return self.head.product(hidden, room)
        return room.copy_(self.head.product(hidden))

    def _workspace(self, tokens: int) -> "_Workspace":
        if tokens > _KEPT_TOKENS:
            return self._new_workspace(tokens)
        if self._space is None or len(self._space.normed) < tokens:
            self._space = self._new_workspace(tokens)
        return self._space.first(tokens)

    def _new_workspace(self, tokens: int) -> "_Workspace":
        layer = self.layers[0]
        sizes = (self.width, layer.qkv.shape[1], layer.gate_up.shape[1])
        return _Workspace(*(self.embedding.new_empty((tokens, size)) for size in sizes))

    def _norm(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        if self.dtype is not torch.float32:
            return F.rms_norm(x, (self.width,), None, self.eps)
        # Two passes over x; rms_norm makes five on CPU.
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = length.square_().mul_(1 / self.width).add_(self.eps).rsqrt_()
        return torch.mul(x, inverse, out=out)

    def _qkv(
        self, layer: Layer, x: Tensor, turn: Tensor, space: "_Workspace"
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads, tokens = self.heads, x.shape[0]
        fused = layer.qkv.product(self._norm(x, space.normed), space.qkv)
        fused = fused.view(tokens, heads.query + 2 * heads.kv, heads.dim)
        turned = fused[:, : heads.query + heads.kv]
        if layer.qk_gain is not None:
            turned = F.rms_norm(turned, (heads.dim,), None, self.eps) * layer.qk_gain
        turned = _rotated(turned, turn)
        q = turned[:, : heads.query].unflatten(1, (heads.group, heads.kv))
        return q, turned[:, heads.query :], fused[:, heads.query + heads.kv :]


@dataclass(frozen=True)
class _Workspace:
    """Memory that every layer writes over: pages fresh from the system cost a tenth of a step."""

    normed: Tensor
    qkv: Tensor
    gate_up: Tensor

    def first(self, tokens: int) -> "_Workspace":
        return _Workspace(self.normed[:tokens], self.qkv[:tokens], self.gate_up[:tokens])


def _rotated(x: Tensor, turn: Tensor) -> Tensor:
    """`x` turned, in place where it is float32."""
    pairs = x.float().unflatten(-1, (-1, 2))  # complex products exist in float32 only
    torch.view_as_complex(pairs).mul_(turn)
    return pairs.flatten(-2).to(x.dtype)


def _heads(model: Any) -> Heads:
    config, attention = model.config, model.model.layers[0].self_attn
    kv = int(config.num_key_value_heads)
    group = int(config.num_attention_heads) // kv
    return Heads(kv, group, int(attention.head_dim), float(attention.scaling))


def _head(model: Any) -> Dense:
    linear = model.get_output_embeddings()
    gain = model.model.norm.weight.detach()
    return Dense(_transposed(linear.weight.detach(), gain), _detached(linear.bias))


def _rotation(model: Any, context: int) -> Tensor:
    """complex64 [context, D/2]: the model's own cosines and sines, attention scaling included."""
    weight = model.get_input_embeddings().weight
    probe = torch.zeros(1, dtype=torch.float32, device=weight.device)
    cos, sin = model.model.rotary_emb(probe, torch.arange(context, device=weight.device)[None])
    half = cos.shape[-1] // 2
    return torch.complex(cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())


def _layer(module: Any, heads: Heads) -> Layer:
    attention, mlp = module.self_attn, module.mlp
    q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
    qkv = torch.cat([_queries(q.weight, heads), _pairs(k.weight, heads), v.weight])
    bias = None
    if q.bias is not None:
        bias = torch.cat([_queries(q.bias, heads), _pairs(k.bias, heads), v.bias]).detach()
    gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    gate_up_bias = None
    if mlp.gate_proj.bias is not None:
        gate_up_bias = torch.cat([mlp.gate_proj.bias, mlp.up_proj.bias]).detach()
    columns = attention.o_proj.weight.t()  # [H·D, d], rows ordered like q's heads
    out = columns.unflatten(0, (heads.kv, heads.group, heads.dim)).transpose(0, 1)
    into_qkv = module.input_layernorm.weight.detach()
    into_gate_up = module.post_attention_layernorm.weight.detach()
    return Layer(
        qkv=Dense(_transposed(qkv.detach(), into_qkv), bias),
        out=Dense(out.flatten(0, 2).detach().contiguous(), _detached(attention.o_proj.bias)),
        gate_up=Dense(_transposed(gate_up.detach(), into_gate_up), gate_up_bias),
        down=Dense(_transposed(mlp.down_proj.weight.detach()), _detached(mlp.down_proj.bias)),
        qk_gain=_qk_gain(attention, heads),
    )


def _queries(weight: Tensor, heads: Heads) -> Tensor:
    """Rows (kv, group, dim) → (group, kv, interleaved dim)."""
    shaped = weight.unflatten(0, (heads.kv, heads.group, heads.dim)).transpose(0, 1)
    return _interleaved(shaped, 2).flatten(0, 2)


def _pairs(weight: Tensor, heads: Heads) -> Tensor:
    return _interleaved(weight.unflatten(0, (heads.kv, heads.dim)), 1).flatten(0, 1)


def _interleaved(x: Tensor, dim: int) -> Tensor:
    """transformers rotates element i with i + D/2; here the two lie side by side."""
    return x.unflatten(dim, (2, -1)).transpose(dim, dim + 1).flatten(dim, dim + 1)


def _qk_gain(attention: Any, heads: Heads) -> Tensor | None:
    if getattr(attention, "q_norm", None) is None:
        return None
    q = _interleaved(attention.q_norm.weight.detach(), 0).expand(heads.query, -1)
    k = _interleaved(attention.k_norm.weight.detach(), 0).expand(heads.kv, -1)
    return torch.cat([q, k])


def _transposed(weight: Tensor, gain: Tensor | None = None) -> Tensor:
    scaled = weight if gain is None else (weight.float() * gain.float()).to(weight.dtype)
    return scaled.t().contiguous()


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
