"""Generation over the contexts of a batch: greedy and sampling for all examples at once, beam search likewise.

The memory's keys and values are projected once per context and shared by examples and beams; each step adds one token to
the self-attention caches. The naive loop that recomputes everything stands in the tests as the reference.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memgpt_cli.config import GenerateConfig
from memgpt_cli.inference.sampling import choose, constrain
from memgpt_cli.model import Batch, Context, MemoryTransformer
from memgpt_cli.model.transformer import Cache, Encoded
from memgpt_cli.tokenizer import EOS, PAD

OnToken = Callable[[int], bool]
NEVER = -1e9


@dataclass(frozen=True)
class Hypothesis:
    """One answer: ids without EOS, whether it ended by itself, and what was read for it on the average of its tokens."""

    ids: list[int]
    ended: bool
    logp: float  # the sum over its tokens, EOS included
    score: float  # what it was ranked by: logp / length ** length_penalty
    entries: Tensor  # [N] attention on each entry, mean over layers and heads
    null: float  # on the null slot


@dataclass(frozen=True)
class Generated:
    """`best[g][e]`: the answers found for each example, the likeliest first; empty where there is no example."""

    best: list[list[list[Hypothesis]]]
    scores: Tensor  # [G, E, N] retrieval scores

    @property
    def ids(self) -> list[list[list[int]]]:
        return [[found[0].ids if found else [] for found in row] for row in self.best]


@torch.inference_mode()
def generate(
    model: MemoryTransformer,
    batch: Batch,
    config: GenerateConfig,
    top_k: int = 0,
    only: Tensor | None = None,
    on_token: OnToken | None = None,
    encoded: Encoded | None = None,
) -> Generated:
    """Answers for every example of the batch.

    Args:
        top_k: entries read per example, 0 for the model's own number.
        only: [G, E, N] restricts what may be read.
        on_token: called with each id of the first example as it is said; returning False stops. A beam search says nothing
            before it has found its answer.
        encoded: the batch's texts, where they have been encoded already.
    """
    context = model.read(batch, top_k, only, encoded)
    if config.beams == 1:
        return _Sampler(model, batch, context, config).run(on_token)
    made = _BeamSearch(model, batch, context, config).run()
    for token in made.ids[0][0] if on_token else ():
        if on_token is not None and not on_token(token):
            break
    return made


class _Readings:
    """Attention on entries and null slot of every row [G, R], summed over the steps."""

    def __init__(self, batch: Batch, rows: int) -> None:
        self.batch = batch
        g, n = batch.entry_kind.shape
        self.mass = torch.zeros(g, rows, n, device=batch.sees.device)
        self.null = torch.zeros(g, rows, device=batch.sees.device)

    def step(self, attention: Tensor) -> tuple[Tensor, Tensor]:
        """One step's attention [G, R, M] by entry [G, R, N], and on the null slot [G, R]."""
        by_entry = attention.new_zeros(*attention.shape[:2], self.mass.shape[2])
        if not attention.shape[-1]:
            return by_entry, attention.new_zeros(attention.shape[:2])
        of_entries = attention * (self.batch.memory_tokens != 0)[:, None]
        by_entry.scatter_add_(2, self.batch.memory_entry[:, None].expand_as(of_entries), of_entries)
        return by_entry, attention[..., 0]


class _Sampler:
    """Greedy or sampled answers, one a row; rows that have ended are left out of the batch once they are half of it."""

    def __init__(self, model: MemoryTransformer, batch: Batch, context: Context, config: GenerateConfig) -> None:
        self.model, self.batch, self.context, self.config = model, batch, context, config
        g, e = batch.sees.shape
        device = batch.sees.device
        self.random = torch.Generator().manual_seed(config.seed)
        self.cache = model.start(batch)
        self.place = torch.arange(e, device=device).expand(g, -1)  # which example each live row is
        self.ended = batch.sees < 0  # places without an example
        self.finished = self.ended.clone()
        self.said = torch.zeros(g, e, config.max_tokens, dtype=torch.long, device=device)
        self.total = torch.zeros(g, e, device=device)
        self.steps = torch.zeros(g, e, device=device)
        self.read = _Readings(batch, e)

    def run(self, on_token: OnToken | None) -> Generated:
        last = torch.full((*self.batch.sees.shape, 1), PAD, device=self.batch.sees.device)
        scores = self.context.choice.scores
        for step in range(self.config.max_tokens):
            token = self._step(step, last)
            if on_token is not None and not self.ended[0, 0] and not on_token(int(token[0, 0])):
                break
            if bool(self.ended.all()):
                break
            last = self._go_on_with_the_living(token[..., None])
        return Generated(self._answers(), scores)

    def _step(self, step: int, last: Tensor) -> Tensor:
        """Says one more token of every row [G, R]."""
        decoded = self.model.decode(last, self.context, cache=self.cache)
        assert decoded.cache is not None
        self.cache = decoded.cache
        before = self.cache.said[..., 1:].flatten(0, 1)
        logp = constrain(self.model.log_probs(decoded, self.context)[:, :, -1].flatten(0, 1), before, self.config)
        token = choose(logp, self.config, self.random).view(self.place.shape)
        own = logp.gather(1, token.view(-1, 1)).view(self.place.shape)
        self.total.scatter_add_(1, self.place, torch.where(self.ended, 0.0, own))
        self._add_reading(decoded.attention())
        token = token.masked_fill(self.ended, PAD)
        self.said[:, :, step].scatter_add_(1, self.place, token)
        self.ended = self.ended | (token == EOS)
        self.finished.scatter_(1, self.place, self.ended)
        return token

    def _add_reading(self, attention: Tensor) -> None:
        running = ~self.ended
        mass, null = self.read.step(attention * running[..., None])
        self.steps.scatter_add_(1, self.place, running.float())
        self.read.null.scatter_add_(1, self.place, null)
        self.read.mass.scatter_add_(1, self.place[..., None].expand_as(mass), mass)

    def _go_on_with_the_living(self, last: Tensor) -> Tensor:
        most = int((~self.ended).sum(1).max())
        if most > self.place.shape[1] // 2:
            return last
        rows = self.ended.long().argsort(dim=1, stable=True)[:, :most]
        self.context, self.cache = self.context.select(rows), self.cache.select(rows)
        self.place, self.ended = self.place.gather(1, rows), self.ended.gather(1, rows)
        return last.gather(1, rows[..., None])

    def _answers(self) -> list[list[list[Hypothesis]]]:
        steps = self.steps.clamp(min=1)
        mass, null = (self.read.mass / steps[..., None]).cpu(), (self.read.null / steps).tolist()
        ended, total, there = self.finished.tolist(), self.total.tolist(), (self.batch.sees >= 0).tolist()
        out = []
        for g, rows in enumerate(self.said.tolist()):
            found = []
            for e, row in enumerate(rows):
                ids = row[: row.index(EOS)] if EOS in row else [i for i in row if i != PAD]
                score = total[g][e] / max(1, len(ids) + ended[g][e]) ** self.config.length_penalty
                found.append([Hypothesis(ids, ended[g][e], total[g][e], score, mass[g, e], null[g][e])] if there[g][e] else [])
            out.append(found)
        return out


class _BeamSearch:
    """Beam search with a length penalty (score / length ** penalty), as `transformers` runs it without early stopping."""

    def __init__(self, model: MemoryTransformer, batch: Batch, context: Context, config: GenerateConfig) -> None:
        self.model, self.batch, self.config, self.width = model, batch, config, config.beams
        g, e = batch.sees.shape
        device = batch.sees.device
        self.scores = context.choice.scores
        spread = torch.arange(e, device=device).repeat_interleave(self.width).expand(g, -1)
        self.context, self.cache = context.select(spread), model.start(batch).select(spread)
        self.running = torch.full((g, e, self.width), NEVER, device=device)
        self.running[..., 0] = 0
        self.read = _Readings(batch, e * self.width)
        self.best: list[list[list[Hypothesis]]] = [[[] for _ in range(e)] for _ in range(g)]
        self.done = (batch.sees < 0).tolist()

    @property
    def said(self) -> Tensor:
        """[G, E·W, t] without the 0 that starts them."""
        return self.cache.said[..., 1:]

    def run(self) -> Generated:
        last = torch.full((*self.running.flatten(1).shape, 1), PAD, device=self.running.device)
        step = 0
        while step < self.config.max_tokens and not all(map(all, self.done)):
            step += 1
            last = self._step(step, last)
        if not all(map(all, self.done)):  # at `max_tokens`: what is still being said counts as it is
            self.cache = replace_said(self.cache, last)
            self._take_unfinished(step)
        return Generated(self.best, self.scores)

    def _step(self, step: int, last: Tensor) -> Tensor:
        g, e, width = self.running.shape
        decoded = self.model.decode(last, self.context, cache=self.cache)
        assert decoded.cache is not None
        self.cache = decoded.cache
        mass, null = self.read.step(decoded.attention())
        self.read.mass, self.read.null = self.read.mass + mass, self.read.null + null
        logp = self.model.log_probs(decoded, self.context)[:, :, -1].flatten(0, 1)
        logp = constrain(logp, self.said.flatten(0, 1), self.config).view(g, e, width, -1)
        values, places = (self.running[..., None] + logp).flatten(2).topk(2 * width, -1)  # [G, E, 2·width]
        vocab = logp.shape[-1]
        rows = [x.tolist() for x in (values, places // vocab, places % vocab)]
        parents, tokens = torch.zeros(2, g, e, width, dtype=torch.long)
        for i in range(g):
            for j in range(e):
                if not self.done[i][j]:
                    kept = self._sort(step, i, j, list(zip(*(x[i][j] for x in rows), strict=True)))
                    parents[i, j], tokens[i, j] = torch.tensor([p for p, _ in kept]), torch.tensor([t for _, t in kept])
        device = last.device
        order = (torch.arange(e)[:, None] * width + parents).flatten(1).to(device)
        self.context, self.cache = self.context.select(order), self.cache.select(order)
        self.read.mass = self.read.mass.gather(1, order[..., None].expand_as(self.read.mass))
        self.read.null = self.read.null.gather(1, order)
        said: Tensor = tokens.flatten(1)[..., None].to(device)
        return said

    def _sort(self, step: int, i: int, j: int, rows: list[tuple[float, int, int]]) -> list[tuple[int, int]]:
        """Takes the hypotheses that end here, and returns the parents and tokens of those that go on."""
        kept: list[tuple[int, int]] = []
        for rank, (value, parent, token) in enumerate(rows):
            if token == EOS:
                if rank < self.width:
                    self._take(i, j, self.width * j + parent, value, step, ended=True)
            elif len(kept) < self.width:
                self.running[i, j, len(kept)] = value
                kept.append((parent, token))
        best = self.best[i][j] = sorted(self.best[i][j], key=lambda h: -h.score)[: self.width]
        reachable = float(self.running[i, j, 0]) / step**self.config.length_penalty
        self.done[i][j] = len(best) >= self.width and best[-1].score >= reachable
        return kept + [(0, PAD)] * (self.width - len(kept))

    def _take(self, i: int, j: int, row: int, logp: float, length: int, ended: bool) -> None:
        score = logp / max(1, length) ** self.config.length_penalty
        ids = [t for t in self.said[i, row].tolist() if t != PAD]
        mass, null = self.read.mass[i, row] / max(1, length), float(self.read.null[i, row]) / max(1, length)
        self.best[i][j].append(Hypothesis(ids, ended, logp, score, mass.cpu(), null))

    def _take_unfinished(self, step: int) -> None:
        for i, row in enumerate(self.done):
            for j, done in enumerate(row):
                if not done:
                    for k in range(self.width):
                        self._take(i, j, self.width * j + k, float(self.running[i, j, k]), step, ended=False)
                    self.best[i][j].sort(key=lambda h: -h.score)


def replace_said(cache: Cache, last: Tensor) -> Cache:
    """The cache with ids that were said, and not decoded from any more."""
    return replace(cache, said=torch.cat([cache.said, last], 2))
