"""Generation over the contexts of a batch: greedy and sampling for all examples at once, beam search likewise.

The memory's keys and values are projected once per context and shared by examples and beams; each step adds one token to
the self-attention caches. The naive loop that recomputes everything stands in the tests as the reference.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from memgpt_cli.config import GenerateConfig
from memgpt_cli.generation.sampling import choose, constrain
from memgpt_cli.model import Batch, Context, MemoryTransformer
from memgpt_cli.tokenizer import EOS, PAD

OnToken = Callable[[int], bool]


@dataclass
class Reading:
    """What was read while an answer was written, averaged over its tokens."""

    entries: Tensor  # [G, E, N] attention on each entry, mean over layers and heads
    null: Tensor  # [G, E] on the null slot
    scores: Tensor  # [G, E, N] retrieval scores


@dataclass
class Generated:
    """ids[g][e]: the answer of each example without EOS; `ended[g][e]`: it ended by itself; its log-probability."""

    ids: list[list[list[int]]]
    ended: list[list[bool]]
    logp: list[list[float]]
    reading: Reading


@torch.inference_mode()
def generate(
    model: MemoryTransformer,
    batch: Batch,
    config: GenerateConfig,
    top_k: int = 0,
    only: Tensor | None = None,
    on_token: OnToken | None = None,
) -> Generated:
    """Answers for every example of the batch.

    Args:
        top_k: entries read per example, 0 for the model's own number.
        only: [G, E, N] restricts what may be read.
        on_token: called with each id of the first example as it is said; returning False stops.
    """
    context = model.read(batch, top_k, only)
    if config.beams > 1:
        return _beam_search(model, batch, context, config)
    g, e = batch.sees.shape
    device = batch.sees.device
    generator = torch.Generator().manual_seed(config.seed)
    place = torch.arange(e, device=device).expand(g, -1)  # which example each live row is
    ended = batch.sees < 0  # places without an example
    finished = ended.clone()
    said = torch.zeros(g, e, config.max_tokens, dtype=torch.long, device=device)
    total = torch.zeros(g, e, device=device)
    mass, null, steps = _nothing_read(batch)
    last = torch.full((g, e, 1), PAD, device=device)
    for step in range(config.max_tokens):
        decoded = model.decode(last, context, incremental=True)
        assert context.said is not None
        before = context.said[..., 1:].flatten(0, 1)
        logp = constrain(model.log_probs(decoded, context)[:, :, -1].flatten(0, 1), before, config)
        token = choose(logp, config, generator).view(place.shape)
        total.scatter_add_(1, place, torch.where(ended, 0.0, logp.gather(1, token.view(-1, 1)).view(place.shape)))
        _add_reading(decoded.attention(), batch, place, ~ended, mass, null, steps)
        token = token.masked_fill(ended, PAD)
        said[:, :, step].scatter_add_(1, place, token)
        ended = ended | (token == EOS)
        finished.scatter_(1, place, ended)
        if on_token is not None and not ended[0, 0] and not on_token(int(token[0, 0])):
            break
        if bool(ended.all()):
            break
        last = token[..., None]
        most = int((~ended).sum(1).max())
        if most <= place.shape[1] // 2:  # most have ended: go on with the others alone
            rows = ended.long().argsort(dim=1, stable=True)[:, :most]
            context = context.select(rows)
            place, ended, last = place.gather(1, rows), ended.gather(1, rows), last.gather(1, rows[..., None])
    reading = Reading(mass / steps.clamp(min=1)[..., None], null / steps.clamp(min=1), context.choice.scores)
    ids = [[_until_end(row) for row in rows] for rows in said.tolist()]
    return Generated(ids, finished.tolist(), total.tolist(), reading)


def _until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS)] if EOS in ids else [i for i in ids if i != PAD]


def _nothing_read(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    g, e = batch.sees.shape
    device = batch.sees.device
    return (
        torch.zeros(g, e, batch.entry_kind.shape[1], device=device),
        torch.zeros(g, e, device=device),
        torch.zeros(g, e, device=device),
    )


def _add_reading(
    attention: Tensor, batch: Batch, place: Tensor, running: Tensor, mass: Tensor, null: Tensor, steps: Tensor
) -> None:
    """Adds one step's attention [G, E', M] of the examples at `place` [G, E'] to the running sums."""
    steps.scatter_add_(1, place, running.float())
    if not attention.shape[-1]:
        return
    step = attention * running[..., None]
    null.scatter_add_(1, place, step[..., 0])
    step = step * (batch.memory_tokens != 0)[:, None]
    by_entry = step.new_zeros(*step.shape[:2], mass.shape[2])
    by_entry.scatter_add_(2, batch.memory_entry[:, None].expand_as(step), step)
    mass.scatter_add_(1, place[..., None].expand_as(by_entry), by_entry)


def _beam_search(model: MemoryTransformer, batch: Batch, context: Context, config: GenerateConfig) -> Generated:
    """Beam search with a length penalty (score / length ** penalty), as `transformers` runs it without early stopping."""
    g, e = batch.sees.shape
    device, width, vocab = batch.sees.device, config.beams, model.config.vocab_size
    scores = context.choice.scores
    spread = torch.arange(e, device=device).repeat_interleave(width).expand(g, -1)
    context = context.select(spread)
    running = torch.full((g, e, width), -1e9, device=device)
    running[..., 0] = 0
    said = torch.zeros(g, e * width, 0, dtype=torch.long, device=device)
    last = torch.full((g, e * width, 1), PAD, device=device)
    best: list[list[list[tuple[float, list[int]]]]] = [[[] for _ in range(e)] for _ in range(g)]
    done = (batch.sees < 0).tolist()
    for step in range(1, config.max_tokens + 1):
        decoded = model.decode(last, context, incremental=True)
        logp = constrain(model.log_probs(decoded, context)[:, :, -1].flatten(0, 1), said.flatten(0, 1), config)
        total = running[..., None] + logp.view(g, e, width, vocab)
        values, places = total.flatten(2).topk(2 * width, -1)  # [G, E, 2·width]
        parents, tokens = places // vocab, places % vocab
        next_parent = torch.zeros(g, e, width, dtype=torch.long, device=device)
        next_token = torch.zeros(g, e, width, dtype=torch.long, device=device)
        for i in range(g):
            for j in range(e):
                if done[i][j]:
                    continue
                kept = 0
                rows = zip(values[i, j].tolist(), parents[i, j].tolist(), tokens[i, j].tolist(), strict=True)
                for rank, (value, parent, token) in enumerate(rows):
                    if token == EOS:
                        if rank < width:
                            ids = said[i, j * width + parent].tolist()
                            best[i][j].append((value / step**config.length_penalty, ids))
                    elif kept < width:
                        next_parent[i, j, kept], next_token[i, j, kept] = parent, token
                        running[i, j, kept] = value
                        kept += 1
                best[i][j] = sorted(best[i][j], key=lambda b: -b[0])[:width]
                reachable = float(running[i, j, 0]) / step**config.length_penalty
                done[i][j] = len(best[i][j]) >= width and best[i][j][-1][0] >= reachable
        rows_now = (torch.arange(e, device=device)[:, None] * width + next_parent).flatten(1)
        context = context.select(rows_now)
        said = torch.cat(
            [said.gather(1, rows_now[..., None].expand(-1, -1, said.shape[2])), next_token.flatten(1)[..., None]], 2
        )
        last = next_token.flatten(1)[..., None]
        if all(all(row) for row in done):
            break
    ids, ended, logps = [], [], []
    for i in range(g):
        for j in range(e):
            if not done[i][j]:
                for k in range(width):
                    length = max(1, said.shape[2])
                    best[i][j].append(
                        (float(running[i, j, k]) / length**config.length_penalty, [*said[i, j * width + k].tolist(), PAD])
                    )
        chosen = [max(b, key=lambda h: h[0]) if b else (0.0, []) for b in best[i]]
        ids.append([[t for t in c[1] if t != PAD] for c in chosen])
        ended.append([not (c[1] and c[1][-1] == PAD) for c in chosen])
        logps.append([c[0] for c in chosen])
    mass, null, _ = _nothing_read(batch)
    return Generated(ids, ended, logps, Reading(mass, null, scores))
