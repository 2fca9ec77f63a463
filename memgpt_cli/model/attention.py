"""Attention: over one sequence (SelfAttention), and over an input and a shared memory at once (ReadAttention).

Shapes: B rows, L tokens, D width, H heads, K width of a head; G episodes, E examples, T target, S input, M memory tokens.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memgpt_cli.schema import ModelConfig

MASKED = -1e4  # a logit that softmax turns into an exact zero in fp32, and that stays finite when biases add up


class KV(NamedTuple):
    """Keys and values, [.., L, K] each."""

    k: Tensor
    v: Tensor


def rotate(x: Tensor, start: int = 0) -> Tensor:
    """Rotary positions (RoFormer, arXiv 2104.09864) on [.., L, K], the first token standing at `start`."""
    length, width = x.shape[-2:]
    position = torch.arange(start, start + length, device=x.device, dtype=torch.float32)
    angle = position[:, None] / 10000 ** (torch.arange(0, width, 2, device=x.device, dtype=torch.float32) / width)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class RelativeBias(nn.Module):
    """T5's relative position bias (arXiv 1910.10683): logarithmic buckets of key minus query position, per head."""

    def __init__(self, config: ModelConfig, bidirectional: bool) -> None:
        super().__init__()
        self.buckets, self.max_distance, self.bidirectional = (
            config.relative_buckets,
            config.relative_max_distance,
            bidirectional,
        )
        self.weight = nn.Embedding(self.buckets, config.n_heads)

    def forward(self, queries: int, keys: int) -> Tensor:
        """[H, queries, keys]; the last query stands at the last key."""
        device = self.weight.weight.device
        position = torch.arange(keys - queries, keys, device=device)
        distance = torch.arange(keys, device=device)[None] - position[:, None]
        buckets = self.buckets
        if self.bidirectional:
            buckets //= 2
            offset = (distance > 0).long() * buckets
            distance = distance.abs()
        else:
            offset, distance = torch.zeros_like(distance), (-distance).clamp(min=0)
        exact = buckets // 2
        far = exact + (distance.clamp(min=1).float() / exact).log() / math.log(self.max_distance / exact) * (buckets - exact)
        bucket = torch.where(distance < exact, distance, far.long().clamp(max=buckets - 1))
        bias: Tensor = self.weight(bucket + offset).permute(2, 0, 1)
        return bias


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """[B, H, L, K] attention. Short sequences on a CPU are written out: 4 to 12 times as fast there as PyTorch's kernel."""
    if q.is_cuda or k.shape[2] > 256:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias if bias is None else bias.to(q.dtype), scale=scale)
    logits = (q * scale) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


class Projections(nn.Module):
    """What every attention has: queries, keys and values by head, and the way back.

    With `model.qk_norm` queries and keys are normalised, and weighted, head by head (arXiv 2010.04245, with RMSNorm).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.n_heads * config.d_kv
        self.heads = config.n_heads
        self.scale = config.d_kv**-0.5 if config.scale_attention else 1.0
        self.q, self.k, self.v = (nn.Linear(config.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self.q_norm, self.k_norm = (nn.RMSNorm(config.d_kv, config.norm_eps) if config.qk_norm else None for _ in range(2))

    def queries(self, x: Tensor) -> Tensor:
        """[.., L, D] -> [.., L, H, K]."""
        return self._heads(self.q(x), self.q_norm)

    def keys(self, x: Tensor) -> Tensor:
        """[.., L, D] -> [.., L, H, K]."""
        return self._heads(self.k(x), self.k_norm)

    def values(self, x: Tensor) -> Tensor:
        """[.., L, D] -> [.., L, H, K]."""
        return self._heads(self.v(x), None)

    def _heads(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        x = x.unflatten(-1, (self.heads, -1))
        return x if norm is None else norm(x)


class SelfAttention(Projections):
    """Multi-head attention of a sequence to itself, or of its end to all of it where the past's keys and values are given.

    With `model.position=relative_per_layer` it has a position bias of its own (umT5, arXiv 2304.09151).
    """

    def __init__(self, config: ModelConfig, causal: bool) -> None:
        super().__init__(config)
        self.rope = config.position == "rope"
        self.attend = attend
        own = config.position == "relative_per_layer"
        self.position = RelativeBias(config, bidirectional=not causal) if own else None

    def forward(
        self, x: Tensor, bias: Tensor | None = None, past: KV | None = None, packing: "Packing | None" = None
    ) -> tuple[Tensor, KV | None]:
        """x [B, L, D], bias broadcastable to [B, H, L, keys] -> [B, L, D], and the past grown by x where one was given.

        A past is keys and values [B, H, keys, K]; of the first step it has no keys. With a packing x is [G, Q, D], and so is
        what comes out: B is then G*E, and L is T.
        """
        q, k, v = self.queries(x), self.keys(x), self.values(x)
        if packing is not None:
            q, k, v = (packing.unpack(y).flatten(0, 1) for y in (q, k, v))
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        if self.rope:
            start = past.k.shape[2] if past else 0
            q, k = rotate(q, start), rotate(k, start)
        if past is not None:
            past = KV(torch.cat([past.k, k], 2), torch.cat([past.v, v], 2))
            k, v = past
        if self.position is not None:
            position = self.position(q.shape[2], k.shape[2])
            bias = position if bias is None else bias + position
        out = self.attend(q, k, v, bias, self.scale).transpose(1, 2).flatten(2)
        if packing is not None:
            out = packing.pack(out.unflatten(0, (-1, packing.examples)))
        return self.o(out), past


def window_bias(length: int, radius: int, device: torch.device) -> Tensor:
    """[length, length]: MASKED where query and key stand more than `radius` apart."""
    position = torch.arange(length, device=device)
    far = (position[:, None] - position).abs() > radius
    return torch.zeros(length, length, device=device).masked_fill(far, MASKED)


def causal_bias(queries: int, keys: int, device: torch.device) -> Tensor:
    """[queries, keys]: MASKED where a key lies after its query; the last query stands at the last key."""
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return torch.zeros(queries, keys, device=device).masked_fill(~allowed, MASKED)


class _Rows(torch.autograd.Function):
    """Rows of x by index, where no row is taken twice: its gradient is then taken by index as well, and nothing is added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        """x [N, W], there [N'] (N: a row of zeros), back [N] (N': a row nobody has taken) -> [N', W]."""
        ctx.back = back
        return F.pad(x, (0, 0, 0, 1)).index_select(0, there)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None]:
        return F.pad(d_out, (0, 0, 0, 1)).index_select(0, ctx.back), None, None


class Packing:
    """Places [G, Q] of the target tokens that are really there among the E*T of a padded batch.

    Lengths of targets differ by far, and memory is long: the decoder runs on the real ones alone.

    Args:
        places: [G, Q], E*T pads; all places in order where None.
    """

    def __init__(self, places: Tensor | None, episodes: int, examples: int, length: int, device: torch.device) -> None:
        self.examples, self.length = examples, length
        self._there: tuple[Tensor, Tensor] | None = None
        total = examples * length
        if places is None:
            self.places = torch.arange(total, device=device).expand(episodes, -1)
        else:
            self.places = places
            many = episodes * total
            row = torch.arange(episodes, device=device)[:, None] * total
            there = torch.where(places < total, row + places, many).flatten()
            back = torch.full((many + 1,), there.numel(), device=device)
            back[there] = torch.arange(there.numel(), device=device)
            self._there = there, back[:-1]
        self.example = (self.places // length).clamp(max=examples - 1)  # [G, Q] whose token it is

    def pack(self, x: Tensor) -> Tensor:
        """[G, E, T, ..] -> [G, Q, ..]; padding is zero."""
        flat = x.flatten(1, 2)
        if self._there is None:
            return flat
        there, back = self._there
        return self._move(flat, there, back)

    def unpack(self, x: Tensor) -> Tensor:
        """[G, Q, ..] -> [G, E, T, ..]; padding is zero."""
        if self._there is not None:
            there, back = self._there
            x = self._move(x, back, there)
        out: Tensor = x.unflatten(1, (self.examples, self.length))
        return out

    @staticmethod
    def _move(x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        """[G, N, ..] -> [G, N', ..], the rows of all episodes by index."""
        rows: Tensor = _Rows.apply(x.reshape(x.shape[0] * x.shape[1], -1), there, back)
        return rows.view(x.shape[0], -1, *x.shape[2:])

    def of_example(self, x: Tensor) -> Tensor:
        """[G, E, L] -> [G, Q, L], or [G, H, E, L] -> [G, H, Q, L]: each token gets its example's row."""
        episodes, examples, width = x.shape[0], x.shape[-2], x.shape[-1]
        block = torch.arange(math.prod(x.shape[:-2]), device=x.device).view(episodes, -1, 1)  # whose rows they are
        rows = (block * examples + self.example[:, None]).flatten()
        return x.reshape(math.prod(x.shape[:-1]), width).index_select(0, rows).view(*x.shape[:-2], self.example.shape[1], width)


class SharedRead(torch.autograd.Function):
    """softmax(q·kᵀ + bias)·v with the softmax's log-normaliser, so that it can be merged with another softmax.

    Autograd would keep and copy several tensors of queries times memory tokens; this keeps one. Both outputs, and the
    bias, carry gradients (checked in double precision against autograd by a test).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, Q, K], k and v [B, M, K], bias [B, Q or 1, M] -> read [B, Q, K], log-normaliser [B, Q], attention [B, Q, M]."""
        ctx.set_materialize_grads(False)  # the attention's would be as large as itself
        ctx.bias_rows = bias.shape[1]
        logits = torch.baddbmm(bias, q, k.transpose(1, 2))
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        attention = logits.softmax(-1)
        # twice as fast here as logsumexp: log Σ exp(x) = x - log softmax(x), taken at the largest x
        largest, place = attention.max(-1)
        normaliser = logits.gather(-1, place[..., None])[..., 0] - largest.log()
        attention = attention.to(q.dtype)
        out = attention @ v
        ctx.save_for_backward(q, k, v, attention, out)
        ctx.mark_non_differentiable(attention)
        return out, normaliser, attention

    @staticmethod
    def backward(ctx: Any, d_out: Tensor | None, d_normaliser: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        q, k, v, attention, out = ctx.saved_tensors
        d_out = torch.zeros_like(out) if d_out is None else d_out
        d_logits = d_out @ v.transpose(1, 2)
        shift = -(d_out * out).sum(-1) if d_normaliser is None else d_normaliser - (d_out * out).sum(-1)
        d_logits.add_(shift.to(d_logits.dtype)[..., None]).mul_(attention)
        d_bias = None
        if ctx.needs_input_grad[3]:
            d_bias = d_logits if ctx.bias_rows > 1 else d_logits.sum(1, keepdim=True)
        return d_logits @ k, d_logits.transpose(1, 2) @ q, attention.transpose(1, 2) @ d_out, d_bias


class Reading(NamedTuple):
    """How a layer attended to the memory: within it, and how much of all attention that was. Without gradient."""

    attention: Tensor  # [G, H, Q, M], each row sums to 1
    share: Tensor | None  # [G, H, Q], None where there is no memory

    def mean(self) -> Tensor:
        """[G, Q, M]: the mean over heads."""
        return self._over_heads(self.attention)

    def null(self) -> Tensor:
        """[G, Q]: the null slot's, the mean over heads."""
        return self._over_heads(self.attention[..., :1])[..., 0]

    def _over_heads(self, attention: Tensor) -> Tensor:
        attention = attention.float()
        return (attention if self.share is None else attention * self.share[..., None]).mean(1)


class ReadAttention(Projections):
    """The one cross-attention: a single softmax over an example's input tokens, the null slot and the memory's tokens.

    Keys and values of the memory are projected once for all the examples of an episode (`project`); the examples are told
    apart by the bias alone. The softmax is computed in two parts, which are then merged by their normalisers.

    Where a decoder was pretrained without memory (`memory.gate`), memory's share is multiplied by a weight per head that
    starts at 0: the output is then exactly the pretrained one, and the weight alone has a gradient at first, the others
    as soon as it has moved (Flamingo, arXiv 2204.14198). A bias low enough to hide memory would have no gradient at all.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.gate = nn.Parameter(torch.zeros(config.n_heads)) if config.memory.gate else None

    def project(self, states: Tensor) -> KV:
        """[.., L, D] -> keys and values [.., H, L, K]."""
        return KV(self.keys(states).transpose(-2, -3), self.values(states).transpose(-2, -3))

    def forward(
        self,
        x: Tensor,
        inputs: KV,
        memory: KV,
        bias: tuple[Tensor, Tensor],
        packing: Packing,
    ) -> tuple[Tensor, Reading]:
        """x [G, Q, D], inputs [G, E, H, S, K] and memory [G, H, M, K] (keys, values), bias of inputs [G, E, S] and of
        memory [G, H, Q, M] -> output [G, Q, D], and how the memory was attended to."""
        q = self.queries(x) * self.scale  # [G, Q, H, K]
        own_bias = bias[0].to(x.dtype)[:, :, None, None].expand(-1, -1, self.heads, -1, -1)
        flat = [t.flatten(0, 2) for t in (packing.unpack(q).transpose(2, 3), *inputs, own_bias)]  # of each example and head
        found, own, _ = (t.unflatten(0, own_bias.shape[:3]) for t in SharedRead.apply(*flat))
        found = packing.pack(found.transpose(2, 3))  # [G, Q, H, K]
        if not memory[0].shape[2]:
            return self.o(found.flatten(2)), Reading(bias[1], None)
        flat = [t.flatten(0, 1) for t in (q.transpose(1, 2), *memory, bias[1].to(x.dtype))]
        read, normaliser, attention = (t.unflatten(0, (x.shape[0], self.heads)) for t in SharedRead.apply(*flat))
        # the share of memory in the joint softmax
        share = torch.sigmoid(normaliser.transpose(1, 2) - packing.pack(own.transpose(2, 3)))  # [G, Q, H]
        if self.gate is not None:
            share = share * self.gate
        weight = share[..., None].to(x.dtype)
        out = (found * (1 - weight) + read.transpose(1, 2) * weight).flatten(2)
        return self.o(out), Reading(attention, share.detach().clamp(min=0).transpose(1, 2))
