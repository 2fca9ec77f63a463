"""The pointer head: says words by pointing at them in the input or the memory (pointer-generator, arXiv 1704.04368).

A learned bias lifts context positions that continue what was just written: those whose 1, 2 or 3 tokens before are the
1, 2 or 3 tokens last said. So a name once begun is finished, also one that training never held.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memgpt_cli.model.attention import Packing
from memgpt_cli.schema import ModelConfig

BACK = 3  # how many tokens of what was just written are compared


class Mass(torch.autograd.Function):
    """The softmax's mass on the positions where `holds` is true, and the softmax itself (without gradient)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, holds: Tensor) -> tuple[Tensor, Tensor]:
        """logits [.., L], holds [.., L] bool -> mass [..], attention [.., L]."""
        attention = logits.softmax(-1)
        held = attention * holds
        mass = held.sum(-1)
        ctx.save_for_backward(attention, held, mass)
        ctx.mark_non_differentiable(attention)
        return mass, attention

    @staticmethod
    def backward(ctx: Any, d_mass: Tensor, _: Tensor) -> tuple[Tensor, None]:
        attention, held, mass = ctx.saved_tensors
        return torch.addcmul(held, attention, mass[..., None], value=-1).mul_(d_mass[..., None]), None


class PointerContext(NamedTuple):
    """What can be pointed at: inputs [G, E, S, ..] and the memory [G, M, ..]."""

    input_keys: Tensor  # [G, E, S, D]
    memory_keys: Tensor  # [G, M, D]
    input_bias: Tensor  # [G, E, S]: MASKED where nothing may be copied
    memory_bias: Tensor  # [G, E, M]
    input_before: Tensor  # [G, E, S, BACK] the ids before each token
    memory_before: Tensor  # [G, M, BACK]


class Pointed(NamedTuple):
    logits: Tensor  # [G, Q, S + M]
    gate: Tensor  # [G, Q] log-odds of speaking from the vocabulary rather than copying


class Pointer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.d_model
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, 1)
        self.resume = nn.Parameter(torch.tensor([2.0, 1.0, 1.0]))
        self.scale = width**-0.5

    def keys(self, states: Tensor) -> Tensor:
        keys: Tensor = self.key(states)
        return keys

    def forward(self, hidden: Tensor, read: PointerContext, said: Tensor, packing: Packing) -> Pointed:
        """hidden [G, E, T, D]; said [G, E, T, BACK]: the ids last written at each step, the newest first."""
        query = self.query(hidden) * self.scale
        said = packing.pack(said)
        own = packing.pack(query @ read.input_keys.transpose(-1, -2) + read.input_bias[:, :, None])
        memory_bias = packing.of_example(read.memory_bias).to(query.dtype)
        shared = torch.baddbmm(memory_bias, packing.pack(query), read.memory_keys.transpose(-1, -2))
        example = packing.example[..., None, None].expand(-1, -1, *read.input_before.shape[2:])
        own = self._resume(own, read.input_before.gather(1, example), said)
        shared = self._resume(shared, read.memory_before[:, None].expand(-1, said.shape[1], -1, -1), said)
        return Pointed(torch.cat([own, shared], -1).float(), packing.pack(self.gate(hidden))[..., 0].float())

    def _resume(self, logits: Tensor, before: Tensor, said: Tensor) -> Tensor:
        """Lifts logits [G, Q, L] where the ids before, [G, Q, L, BACK], are those said, [G, Q, BACK]. Few are."""
        g, q, place = ((before[..., 0] == said[..., None, 0]) & (before[..., 0] > 0)).nonzero(as_tuple=True)
        same = (before[g, q, place] == said[g, q]) & (said[g, q] > 0)
        lift = same.cumprod(-1).to(self.resume.dtype) @ self.resume
        return logits.index_put((g, q, place), lift.to(logits.dtype), accumulate=True)


def copyable(tokens: Tensor) -> Tensor:
    """Ids that may be copied: no padding, no end of text."""
    return tokens > 1


def copied_mass(pointed: Pointed, tokens: tuple[Tensor, Tensor], targets: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """The pointer's mass on positions that hold the target [G, Q] (exactly 0 where none may be read), and its attention."""
    own = packing.of_example(tokens[0]) == targets[..., None]
    holds = torch.cat([own, tokens[1][:, None] == targets[..., None]], -1)
    mass, attention = Mass.apply(pointed.logits, holds)
    return mass, attention


def copied_distribution(pointed: Pointed, tokens: tuple[Tensor, Tensor], vocab: int, packing: Packing) -> Tensor:
    """[G, Q, V]: the pointer's mass on each token id."""
    attention = pointed.logits.softmax(-1)
    ids = torch.cat([packing.of_example(tokens[0]), tokens[1][:, None].expand(-1, attention.shape[1], -1)], -1)
    return torch.zeros(*attention.shape[:2], vocab, device=attention.device).scatter_add_(-1, ids, attention)


def mix(vocab_logprobs: Tensor, copied: Tensor, gate: Tensor) -> Tensor:
    """Log of gate·p_vocab + (1 - gate)·p_copied from log p_vocab, p_copied and the gate's log-odds."""
    return torch.logaddexp(F.logsigmoid(gate) + vocab_logprobs, F.logsigmoid(-gate) + copied.clamp(min=1e-30).log())
