"""Which episodes go together in a batch, planned by cost."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memgpt_cli.data.dataset import EpisodeDataset


@dataclass(frozen=True)
class Part:
    """Some or all examples of one episode: [first, last) of row `episode`."""

    episode: int
    first: int
    last: int
    cost: int  # tokens to encode and to write


def parts_of(lengths: Sequence[tuple[np.ndarray, ...]], budget: int, brings: int = 0) -> list[Part]:
    """Whole episodes where they fit the token budget, else runs of their examples (each run reads all the entries).

    `brings`: tokens of what an example reads besides, of a corpus.
    """
    parts = []
    for n, (entries, inputs, targets, sees) in enumerate(lengths):
        first, cost = 0, 0
        shared = int(entries[: sees.max(initial=0)].sum())
        for k in range(len(inputs)):
            own = int(inputs[k] + targets[k]) + 2 + brings
            if k > first and shared + cost + own > budget:
                parts.append(Part(n, first, k, shared + cost))
                first, cost = k, 0
            cost += own
        parts.append(Part(n, first, len(inputs), shared + cost))
    return parts


def plan(parts: Sequence[Part], budget: int, rng: random.Random | None, world: int = 1) -> list[list[Part]]:
    """Batches of at most `budget` padded tokens; with `rng` shuffled, and their number a multiple of `world`.

    Parts of like cost stand together, so that little is padding. No part is left out and none comes twice.
    """
    order = list(parts)
    if rng is not None:
        rng.shuffle(order)
        order.sort(key=lambda p: p.cost * rng.uniform(0.8, 1.25))  # near-sorted: batches differ from epoch to epoch
    else:
        order.sort(key=lambda p: p.cost)
    batches: list[list[Part]] = []
    current: list[Part] = []
    for part in order:
        widest = max([part.cost, *(p.cost for p in current)])
        if current and widest * (len(current) + 1) > budget:
            batches.append(current)
            current = []
        current.append(part)
    if current:
        batches.append(current)
    _even_out(batches, world)
    if rng is not None:
        rng.shuffle(batches)
    return batches


def _examples(batch: list[Part]) -> int:
    return sum(p.last - p.first for p in batch)


def _even_out(batches: list[list[Part]], world: int) -> None:
    """Makes their number a multiple of `world`: by halving the largest, or, where there are too few examples for that, by
    joining the smallest, over the budget if need be."""
    more, fewer = -(-len(batches) // world) * world, len(batches) // world * world
    wanted = more if sum(map(_examples, batches)) >= more else fewer
    if not wanted:
        raise ValueError("fewer examples than processes: use fewer devices or more data")
    while len(batches) != wanted:
        batches.sort(key=_examples)
        if len(batches) < wanted:
            batches[-1:] = _halve(batches[-1])
        else:
            batches[:2] = [batches[0] + batches[1]]


def _halve(batch: list[Part]) -> list[list[Part]]:
    if len(batch) > 1:
        return [batch[::2], batch[1::2]]
    (part,) = batch
    middle = (part.first + part.last) // 2
    return [[Part(part.episode, part.first, middle, part.cost)], [Part(part.episode, middle, part.last, part.cost)]]


def evaluation_plan(
    data: EpisodeDataset, budget: int, limit: int = 0, examples: int = 0, world: int = 1, brings: int = 0
) -> list[list[Part]]:
    """Batches of a whole split in order of cost, or of its first `examples`; at most `limit`, evenly spread.

    Their number is a multiple of `world`, so that every process has as many.
    """
    parts = parts_of(data.lengths(), budget, brings)
    if examples:
        kept, left = [], examples
        for part in parts:
            take = min(left, part.last - part.first)
            if take:
                kept.append(Part(part.episode, part.first, part.first + take, part.cost))
            left -= take
        parts = kept
    batches = plan(parts, budget, None, world)
    limit = max(limit, world) // world * world if limit else 0
    return [batches[n * len(batches) // limit] for n in range(limit)] if limit and len(batches) > limit else batches
