"""Encoder and decoder layers: pre-norm, RMSNorm, no biases, gated feed-forward, as T5 v1.1."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from memgpt_cli.model.attention import KV, Packing, ReadAttention, SelfAttention
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


class EncoderLayer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention, self.attention_norm = SelfAttention(config, causal=False), nn.RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward, self.feed_forward_norm = FeedForward(config), nn.RMSNorm(config.d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
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
    ) -> tuple[Tensor, Tensor, KV | None]:
        """x [G, Q, D] -> [G, Q, D], the attention read with, on memory [G, H, Q, M], and the past grown by x."""
        attended, past = self.attention(self.attention_norm(x), bias, past, packing)
        x = x + self.dropout(attended)
        found, attention = self.read(self.read_norm(x), read.inputs, read.memory, read_bias, packing)
        x = x + self.dropout(found)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), attention, past
