"""Which entries are read, and with what bias: the learned score between an input and an entry.

    logit(token) = q·k_token + β·log softmax over the entries read, and none of them (score) + bias(kind, age)

The softmax runs over the entries that are read, not over the store: normalised over the store, answers decay as it grows.
"None of them" has a learned score, and is what the null slot stands for: where no entry reaches it, the null slot is read,
however many entries there are. So a model can know that it has not been told.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memgpt_cli.model.attention import MASKED
from memgpt_cli.model.inputs import Batch
from memgpt_cli.schema import KINDS, TIMELESS, ModelConfig


class Choice(NamedTuple):
    scores: Tensor  # [G, E, N]
    chosen: Tensor  # [G, E, N] bool: read by this example
    visible: Tensor  # [G, E, N] bool
    bias: Tensor  # [G, H, E, N], MASKED where not chosen
    logp: Tensor  # [G, E, N + 1] log-probability of each visible entry, and of none of them: what evidence is asked of
    read: Tensor  # [G, E, N + 1] the same over the chosen ones
    none: Tensor  # [G, E] bias of the null slot
    near: tuple[Tensor, Tensor] | None = (
        None  # scores and logp by vectors alone, where words weigh as well: what a store compares
    )


class SharedWords(nn.Module):
    """What an input and an entry have in common: tokens, and pairs of neighbours, each with a weight that is learned of its place.

        score = Σ over what the input holds of w(its place in the input) · w'(its place in the entry)

    So a name is told from those like it whether training held it or not (uniCOIL, arXiv 2106.14807, with pairs besides).
    """

    same: Tensor

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.input, self.entry = nn.Parameter(torch.zeros(width, 2)), nn.Parameter(torch.zeros(width, 2))
        self.input_bias, self.entry_bias = nn.Parameter(torch.full((2,), -1.0)), nn.Parameter(torch.full((2,), -1.0))
        self.scale = nn.Parameter(torch.tensor(16.0))  # of the cosine where vectors are asked to choose by themselves
        ids = torch.arange(vocab_size)
        self.register_buffer("same", ids * (ids > 2))  # id -> number of what it says, 0 for what is no text

    def spell(self, same: Sequence[int]) -> None:
        """Which ids say the same (`tokenizer.same_words`): with and without a space before them, in capitals or not."""
        self.same[: len(same)] = torch.tensor(same, device=self.same.device)

    def extend(self, vocab_size: int) -> None:
        """Room for ids that a vocabulary has gained; each says something of its own."""
        more = torch.arange(len(self.same), vocab_size, device=self.same.device)
        self.same = torch.cat([self.same, more])

    def _keys(self, tokens: Tensor, before: Tensor) -> Tensor:
        """Ids [.., L] and those before them [.., L] -> [.., 2L]: a number for each, and for it with the one before; -1 for none."""
        one, last = self.same[tokens], self.same[before]
        pair = torch.where((one > 0) & (last > 0), (last << 32) + one, -1)
        return torch.stack([torch.where(one > 0, one, -1), pair], -1).flatten(-2)

    def forward(self, batch: Batch, inputs: Tensor, memory: Tensor) -> Tensor:
        """States of inputs [G, E, S, D] and of entries [G, M, D] -> [G, E, N]."""
        (g, e), n = batch.sees.shape, batch.entry_kind.shape[1]
        said = self._keys(batch.input_tokens, batch.input_before[..., 0])  # [G, E, 2S]
        held = self._keys(batch.memory_tokens, batch.memory_before[..., 0])  # [G, 2M]
        known = (
            said.flatten(1).sort(-1).values
        )  # all that the inputs of an episode hold; the place of the first of equals names it
        width = known.shape[1]
        own = torch.searchsorted(known, said.flatten(1)).view_as(said)
        there = torch.searchsorted(known, held).clamp(max=width - 1)
        of_input = F.softplus(inputs.float() @ self.input.float() + self.input_bias).flatten(2) * (said >= 0)
        of_entry = F.softplus(memory.float() @ self.entry.float() + self.entry_bias).flatten(1)
        of_entry = of_entry * ((held >= 0) & (known.gather(1, there) == held))
        queries = of_input.new_zeros(g, e, width).scatter_add(2, own, of_input)
        place = batch.memory_entry.repeat_interleave(2, 1) * width + there
        entries = of_entry.new_zeros(g, n * width).scatter_reduce(1, place, of_entry, "amax")
        return queries @ entries.view(g, n, width).transpose(1, 2)


class Retriever(nn.Module):
    """Scores entries against inputs and turns scores, kinds and ages into the bias of what is read."""

    timed: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, self.config = config.d_model, config.memory
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.scale = nn.Parameter(torch.tensor(self.config.score_scale))
        self.beta = nn.Parameter(torch.tensor(self.config.beta))
        self.none = nn.Parameter(torch.zeros(()))
        self.words = SharedWords(width, config.vocab_size) if self.config.words else None
        # 2.0: eight entries read with equal scores then weigh about as much as the input
        self.age_bias = nn.Parameter(torch.full((len(KINDS), self.config.age_buckets, config.n_heads), 2.0))
        timed = torch.tensor([kind not in TIMELESS for kind in KINDS])
        self.register_buffer("timed", timed, persistent=False)

    def queries(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.query(pooled.to(self.query.weight.dtype)), dim=-1)

    def vectors(self, pooled: Tensor) -> Tensor:
        """[.., D] -> [.., D] of length 1: what the store keeps of an entry."""
        return F.normalize(self.key(pooled.to(self.key.weight.dtype)), dim=-1)

    def by_vectors(self, queries: Tensor, vectors: Tensor) -> Tensor | None:
        """[G, E, D] and [G, N, D] -> scores [G, E, N] of the vectors by themselves, while words are trained beside them.

        What a store compares shall choose as well: beside words that choose, the losses of what is read teach it nothing.
        """
        if self.words is None or not self.training:
            return None
        scores: Tensor = self.words.scale * queries.float() @ vectors.float().transpose(1, 2)
        return scores

    def age_bucket(self, age: Tensor) -> Tensor:
        """Ages 1, 2, … to logarithmic buckets."""
        exact = self.config.age_buckets // 2
        age = age.clamp(min=1)
        far = exact + (age.float() / exact).log() / math.log(self.config.max_time / exact) * (self.config.age_buckets - exact)
        return torch.where(age <= exact, age - 1, far.long().clamp(max=self.config.age_buckets - 1))

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        kinds: Tensor,
        sees: Tensor,
        top_k: int = 0,
        only: Tensor | None = None,
        shared: Tensor | None = None,
        alone: Tensor | None = None,
    ) -> Choice:
        """queries [G, E, D], keys [G, N, D], kinds [G, N] (-1: none), sees [G, E] -> Choice.

        top_k 0 is the configured one; `only` [G, E, N] restricts what may be chosen (the oracle of an ablation); `shared`
        [G, E, N] is what `SharedWords` gives, `alone` what `by_vectors` does.
        """
        entries = keys.shape[1]
        scores = self.scale * queries.float() @ keys.float().transpose(1, 2)
        time = torch.arange(entries, device=keys.device)
        visible = (time < sees[..., None]) & (kinds >= 0)[:, None]
        if only is not None:
            visible = visible & only
        if shared is not None:
            scores = scores + shared
        near = None if alone is None else (alone, self._with_none(alone, visible))
        limit = top_k or self.config.top_k
        chosen = visible
        if limit < entries:
            best = scores.masked_fill(~visible, -math.inf).topk(limit, -1).indices
            chosen = torch.zeros_like(visible).scatter(2, best, True) & visible
        logp = self._with_none(scores, visible)
        read = self._with_none(scores, chosen) if limit < entries else logp
        prior = self.beta * read
        kind = kinds.clamp(min=0)[:, None].expand_as(scores)
        age = torch.where(self.timed[kind], sees[..., None] - time, torch.ones_like(kind))
        bias = prior[..., :-1, None] + self.age_bias[kind, self.age_bucket(age)]
        bias = bias.masked_fill(~chosen[..., None], MASKED).permute(0, 3, 1, 2)
        return Choice(scores, chosen, visible, bias, logp, read, prior[..., -1], near)

    def _with_none(self, scores: Tensor, which: Tensor) -> Tensor:
        """[G, E, N] -> log-probabilities of those entries, and of none, [G, E, N + 1]."""
        none = self.none.float().expand(*scores.shape[:2], 1)
        return torch.cat([scores.masked_fill(~which, MASKED), none], -1).log_softmax(-1)
