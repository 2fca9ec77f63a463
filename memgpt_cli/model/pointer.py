"""The pointer head: says words by pointing at them in the input or the memory (pointer-generator, arXiv 1704.04368).

Two learned biases lift the places that continue what was just written: those whose 1, 2 or 3 tokens before are the 1, 2
or 3 tokens last said, and the place behind the one that was last copied. So a name once begun is finished, also one that
training never held, and not mixed with another that shares a piece with it.
"""

from collections.abc import Iterable
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
        ctx.set_materialize_grads(False)
        attention = logits.softmax(-1)
        held = attention * holds
        mass = held.sum(-1)
        ctx.save_for_backward(attention, held, mass)
        ctx.mark_non_differentiable(attention)
        return mass, attention

    @staticmethod
    def backward(ctx: Any, d_mass: Tensor | None, _: None) -> tuple[Tensor | None, None]:
        if d_mass is None:
            return None, None
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
    input_tokens: Tensor  # [G, E, S]
    memory_tokens: Tensor  # [G, M]
    input_inside: Tensor  # [G, E, S]: 1 where a token goes on the word of the one before it
    memory_inside: Tensor  # [G, M]

    def tokens(self, packing: Packing) -> Tensor:
        """[G, Q, S + M]: the ids that each step can point at."""
        own = packing.of_example(self.input_tokens)
        return torch.cat([own, self.memory_tokens[:, None].expand(-1, own.shape[1], -1)], -1)

    def inside(self, packing: Packing) -> Tensor:
        """[G, Q, S + M]: the places inside words."""
        own = packing.of_example(self.input_inside)
        return torch.cat([own, self.memory_inside[:, None].expand(-1, own.shape[1], -1)], -1)

    def holds(self, ids: Tensor, packing: Packing) -> Tensor:
        """[G, Q, S + M]: the places that hold ids [G, Q]."""
        own = packing.of_example(self.input_tokens) == ids[..., None]
        return torch.cat([own, self.memory_tokens[:, None] == ids[..., None]], -1)


class Pointed(NamedTuple):
    logits: Tensor  # [G, Q, S + M]
    gate: Tensor  # [G, Q] log-odds of speaking from the vocabulary rather than copying
    last: Tensor  # [G, E, S + M] the last step's attention before it followed anything: what the next step follows


class Pointer(nn.Module):
    """Points by what is sought, by what was last said (`resume`), and from where the step before pointed to (`follow`).

    A selective read (CopyNet, arXiv 1603.06393): the step before's attention on the places that hold the token then said,
    normalised, moves one place on and is added to the logits. How much is learned from the decoder's state and from what
    stands there: a name is finished, and not gone past. The gate sees what is pointed at, and what would come next.

    Words are copied whole: three learned weights hold a copy off from beginning inside a word, lift what goes on the word
    that is being copied, and turn the gate towards it. Which tokens are parts of words the vocabulary tells (`spell`).
    """

    parts: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.d_model
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.follow = nn.Linear(3 * width, 1), nn.Linear(2 * width, 1)
        self.resume = nn.Parameter(torch.tensor([2.0, 1.0, 1.0]))
        self.word = nn.Parameter(torch.tensor([2.0, 4.0, 4.0]))
        self.register_buffer("parts", torch.zeros(config.vocab_size, 2, dtype=torch.bool))
        self.scale = width**-0.5

    def initialise(self) -> None:
        """What is followed begins as a constant."""
        nn.init.zeros_(self.follow.weight)
        nn.init.constant_(self.follow.bias, 4.0)

    def spell(self, parts: Iterable[tuple[bool, bool]]) -> None:
        """Takes in, of each id, whether it goes on a word, and whether a word may go on after it."""
        self.parts.copy_(torch.tensor(list(parts)))

    def inside(self, tokens: Tensor, before: Tensor) -> Tensor:
        """Ids [..] and the ids before each, [.., BACK] -> [..]: 1 where a token goes on the word of the one before it."""
        return (self.parts[:, 0][tokens] & self.parts[:, 1][before[..., 0]]).float()

    def keys(self, states: Tensor) -> Tensor:
        keys: Tensor = self.key(states)
        return keys

    def forward(
        self, hidden: Tensor, read: PointerContext, said: Tensor, packing: Packing, last: Tensor | None = None
    ) -> Pointed:
        """Where each step points.

        Args:
            hidden: [G, Q, D].
            said: [G, E, T, BACK], the ids last written at each step, the newest first.
            last: [G, E, S + M], `Pointed.last` of what these steps continue.
        """
        query = self.query(hidden) * self.scale
        said = packing.pack(said)
        own = packing.pack(packing.unpack(query) @ read.input_keys.transpose(-1, -2) + read.input_bias[:, :, None])
        memory_bias = packing.of_example(read.memory_bias).to(query.dtype)
        shared = torch.baddbmm(memory_bias, query, read.memory_keys.transpose(-1, -2))
        example = packing.example[..., None, None].expand(-1, -1, *read.input_before.shape[2:])
        own = self._resume(own, read.input_before.gather(1, example), said)
        shared = self._resume(shared, read.memory_before[:, None].expand(-1, said.shape[1], -1, -1), said)
        inside = read.inside(packing)
        logits = torch.cat([own, shared], -1).float() - self.word[0] * inside
        attention = logits.softmax(-1)
        following = self._following(attention, last, read.holds(said[..., 0], packing), packing)
        state = hidden.float()
        following_key = self._mean_key(following, read, packing)
        logits = logits + (self.follow(torch.cat([state, following_key], -1)) + self.word[1] * inside) * following
        pointed_key = self._mean_key(logits.softmax(-1), read, packing)
        gate = self.gate(torch.cat([state, pointed_key, following_key], -1))[..., 0]
        gate = gate - self.word[2] * (following * inside).sum(-1)
        return Pointed(logits, gate.float(), packing.unpack(attention.detach())[:, :, -1])

    @staticmethod
    def _following(attention: Tensor, last: Tensor | None, held: Tensor, packing: Packing) -> Tensor:
        """[G, Q, L]: the place behind the one that the step before copied from; all 0 where it copied nothing.

        Ends of texts are never pointed at, so what follows stays within its text.
        """
        before = F.pad(attention, (0, 0, 1, 0))[:, :-1]
        first = (packing.places % packing.length == 0)[..., None]
        before = before.masked_fill(first, 0) if last is None else torch.where(first, packing.of_example(last), before)
        copied = before * held
        copied = copied / copied.sum(-1, keepdim=True).clamp(min=1e-3)
        return F.pad(copied[..., :-1], (1, 0))

    @staticmethod
    def _mean_key(attention: Tensor, read: PointerContext, packing: Packing) -> Tensor:
        """[G, Q, L] -> [G, Q, D]: the mean of the keys that are attended to."""
        inputs = read.input_keys.shape[2]
        own = packing.pack(packing.unpack(attention[..., :inputs]) @ read.input_keys.float())
        return torch.baddbmm(own, attention[..., inputs:], read.memory_keys.float())

    def _resume(self, logits: Tensor, before: Tensor, said: Tensor) -> Tensor:
        """Lifts logits [G, Q, L] where the ids before, [G, Q, L, BACK], are those said, [G, Q, BACK]. Few are."""
        g, q, place = ((before[..., 0] == said[..., None, 0]) & (before[..., 0] > 0)).nonzero(as_tuple=True)
        same = (before[g, q, place] == said[g, q]) & (said[g, q] > 0)
        lift = same.cumprod(-1).to(self.resume.dtype) @ self.resume
        return logits.index_put((g, q, place), lift.to(logits.dtype), accumulate=True)


def copyable(tokens: Tensor) -> Tensor:
    """Ids that may be copied: no padding, no end of text."""
    return tokens > 1


def copied_mass(pointed: Pointed, holds: Tensor) -> tuple[Tensor, Tensor]:
    """The pointer's mass on the places that hold the target, [G, Q, L] (exactly 0 where there is none), and its attention."""
    mass, attention = Mass.apply(pointed.logits, holds)
    return mass, attention


def copied_distribution(pointed: Pointed, tokens: Tensor, vocab: int) -> Tensor:
    """[G, Q, V]: the pointer's mass on each token id of `tokens` [G, Q, L]."""
    attention = pointed.logits.softmax(-1)
    return torch.zeros(*attention.shape[:2], vocab, device=attention.device).scatter_add_(-1, tokens, attention)


def mix(vocab_logprobs: Tensor, copied: Tensor, gate: Tensor) -> Tensor:
    """Log of gate·p_vocab + (1 - gate)·p_copied from log p_vocab, p_copied and the gate's log-odds."""
    return torch.logaddexp(F.logsigmoid(gate) + vocab_logprobs, F.logsigmoid(-gate) + copied.clamp(min=1e-30).log())
