"""Encoder and decoder layers: pre-norm, RMSNorm, no biases, gated feed-forward, as T5 v1.1."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memgpt_cli.model.attention import KV, Packing, ReadAttention, Reading, SelfAttention
from memgpt_cli.schema import ModelConfig


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")  # T5 v1.1's "gelu_new"


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "relu": F.relu, "gelu": gelu}


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False) if config.gated else None
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.gate(x)) * self.up(x) if self.gate is not None else self.activation(self.up(x))
        out: Tensor = self.down(self.dropout(hidden))
        return out


RADIUS = 2  # tokens to each side that a convolution mixes in


class _Mix(torch.autograd.Function):
    """x plus a weighted sum of its neighbours, feature by feature: in place, where autograd would keep a tensor a neighbour."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """x [B, L, D], weight [2R, D] for the neighbours at -R … -1, 1 … R -> [B, L, D]."""
        ctx.save_for_backward(x, weight)
        out = x.clone()
        for to, of, one in _neighbours(x.shape[1], weight):
            out[:, to].addcmul_(x[:, of], one)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        d_x, d_weight = d_out.clone(), torch.zeros_like(weight)
        for n, (to, of, one) in enumerate(_neighbours(x.shape[1], weight)):
            d_x[:, of].addcmul_(d_out[:, to], one)
            d_weight[n] = (x[:, of] * d_out[:, to]).sum((0, 1))
        return d_x, d_weight


def _neighbours(length: int, weight: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Of each weight: the places that have such a neighbour, the neighbours' places, and the weight."""
    radius = len(weight) // 2
    for one, away in zip(weight, [n for n in range(-radius, radius + 1) if n], strict=True):
        yield slice(max(0, -away), max(0, length - max(0, away))), slice(max(0, away), max(0, length + min(0, away))), one


class Convolution(nn.Module):
    """Mixes each token with its neighbours before attention (Primer, arXiv 2109.08668): what stands beside what.

    Starts as the identity. Padding takes no part, so that a text is the same in every batch.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.near = nn.Parameter(torch.zeros(2 * RADIUS, config.d_model))

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x [B, L, D], real [B, L, 1] bool -> [B, L, D]."""
        mixed: Tensor = _Mix.apply(x * real, self.near.to(x.dtype))
        return mixed


class EncoderLayer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.convolution = Convolution(config) if config.convolution else None
        self.attention, self.attention_norm = SelfAttention(config, causal=False), nn.RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward, self.feed_forward_norm = FeedForward(config), nn.RMSNorm(config.d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor, real: Tensor) -> Tensor:
        """x [B, L, D], real [B, L, 1] bool -> [B, L, D]."""
        if self.convolution is not None:
            x = self.convolution(x, real)
        x = x + self.dropout(self.attention(self.attention_norm(x), bias)[0])
        out: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return out


class LayerKV(NamedTuple):
    """What one decoder layer reads: keys and values of the inputs [G, E, H, S, K] and of the memory [G, H, M, K]."""

    inputs: KV
    memory: KV


class DecoderLayer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention, self.attention_norm = SelfAttention(config, causal=True), nn.RMSNorm(config.d_model, config.norm_eps)
        self.read, self.read_norm = ReadAttention(config), nn.RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward, self.feed_forward_norm = FeedForward(config), nn.RMSNorm(config.d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        read: LayerKV,
        read_bias: tuple[Tensor, Tensor],
        packing: Packing,
        past: KV | None,
    ) -> tuple[Tensor, Reading, KV | None]:
        """x [G, Q, D] -> [G, Q, D], how the memory was attended to, and the past grown by x."""
        attended, past = self.attention(self.attention_norm(x), bias, past, packing)
        x = x + self.dropout(attended)
        found, reading = self.read(self.read_norm(x), read.inputs, read.memory, read_bias, packing)
        x = x + self.dropout(found)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), reading, past
