"""Batches: which episodes go together (planned by cost), and how they become tensors (every different text once)."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from memgpt_cli.data.augment import Renamer
from memgpt_cli.data.dataset import EpisodeDataset, decode_row, encode_row
from memgpt_cli.model.inputs import Batch
from memgpt_cli.model.pointer import BACK
from memgpt_cli.schema import KINDS
from memgpt_cli.tokenizer import EOS, Tokenizer


@dataclass(frozen=True)
class Part:
    """Some or all examples of one episode: [first, last) of row `episode`."""

    episode: int
    first: int
    last: int
    cost: int  # tokens to encode and to write


def parts_of(lengths: Sequence[tuple[np.ndarray, ...]], budget: int) -> list[Part]:
    """Whole episodes where they fit the token budget, else runs of their examples (each run reads all the entries)."""
    parts = []
    for n, (entries, inputs, targets, sees) in enumerate(lengths):
        first, cost = 0, 0
        shared = int(entries[: sees.max(initial=0)].sum())
        for k in range(len(inputs)):
            own = int(inputs[k] + targets[k]) + 2
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


def pad(rows: Sequence[Sequence[int] | np.ndarray], width: int | None = None, value: int = 0) -> np.ndarray:
    """Ragged rows to one array; `width` at least the longest row."""
    width = max([len(r) for r in rows], default=0) if width is None else width
    out = np.full((len(rows), width), value, dtype=np.int64)
    for n, row in enumerate(rows):
        out[n, : len(row)] = row
    return out


def _before(tokens: np.ndarray) -> np.ndarray:
    """[.., L] -> [.., L, BACK]: the ids 1, 2, 3 places earlier, 0 before the beginning."""
    out = np.zeros((*tokens.shape, BACK), dtype=np.int64)
    for back in range(1, BACK + 1):
        out[..., back:, back - 1] = tokens[..., :-back]
    return out


class _Texts:
    """The different texts of a batch, each once, in groups of like length."""

    def __init__(self, wanted: Iterator[tuple[int, ...]]) -> None:
        unique = sorted(set(wanted), key=lambda t: (-len(t), t))
        self.row = {text: n for n, text in enumerate(unique)}
        self.start = np.zeros(len(unique), dtype=np.int64)  # index of its first token's state; 0 is the null slot
        self.groups: list[torch.Tensor] = []
        begin, state = 0, 1
        while begin < len(unique):
            width = len(unique[begin])
            end = begin + 1
            while end < len(unique) and (len(unique[end]) >= 0.75 * width or end - begin < 32):
                end += 1
            self.groups.append(torch.from_numpy(pad(unique[begin:end])))
            self.start[begin:end] = state + width * np.arange(end - begin)
            state += width * (end - begin)
            begin = end


def collate(rows: Sequence[dict[str, Any]], spans: Sequence[tuple[int, int]] | None = None) -> Batch:
    """Rows of an EpisodeDataset (or of `encode_row`), and of each the examples [first, last), to one batch."""
    spans = spans or [(0, len(row["input_ids"])) for row in rows]
    sees = [row["sees"][a:b] for row, (a, b) in zip(rows, spans, strict=True)]
    used = [max(s, default=0) for s in sees]  # entries that nobody sees are not encoded
    entries = [[(*e, EOS) for e in row["entry_ids"][:n]] for row, n in zip(rows, used, strict=True)]
    inputs = [[(*i, EOS) for i in row["input_ids"][a:b]] for row, (a, b) in zip(rows, spans, strict=True)]
    texts = _Texts(text for group in (*entries, *inputs) for text in group)
    g, e, n = len(rows), max(map(len, inputs)), max(used)
    s = max(len(i) for group in inputs for i in group)
    m = 1 + max(sum(map(len, group)) for group in entries) if n else 0
    t = 1 + max((len(y) for row, (a, b) in zip(rows, spans, strict=True) for y in row["target_ids"][a:b]), default=0)
    input_text = np.zeros((g, e), np.int64)
    input_tokens, input_index = np.zeros((g, e, s), np.int64), np.zeros((g, e, s), np.int64)
    entry_text, entry_kind = np.zeros((g, n), np.int64), np.full((g, n), -1, np.int64)
    memory_tokens, memory_index, memory_entry = (np.zeros((g, m), np.int64) for _ in range(3))
    memory_before = np.zeros((g, m, BACK), np.int64)
    seen, targets = np.full((g, e), -1, np.int64), np.zeros((g, e, t), np.int64)
    evidence: list[tuple[int, int, int]] = []
    for k, (row, (a, b)) in enumerate(zip(rows, spans, strict=True)):
        for x, text in enumerate(inputs[k]):
            i = texts.row[text]
            input_text[k, x] = i
            input_tokens[k, x, : len(text)] = text
            input_index[k, x, : len(text)] = texts.start[i] + np.arange(len(text))
            target = row["target_ids"][a + x]
            targets[k, x, : len(target) + 1] = [*target, EOS]
            evidence += [(k, x, j) for j in row["evidence"][a + x]]
        seen[k, : b - a] = sees[k]
        slot = 1
        for j, text in enumerate(entries[k]):
            i = texts.row[text]
            entry_text[k, j], entry_kind[k, j] = i, KINDS.index(row["kinds"][j])
            here = slice(slot, slot + len(text))
            memory_tokens[k, here], memory_entry[k, here] = text, j
            memory_index[k, here] = texts.start[i] + np.arange(len(text))
            memory_before[k, here] = _before(memory_tokens[k, here])
            slot += len(text)
    return Batch(
        texts=texts.groups,
        input_text=torch.from_numpy(input_text),
        input_tokens=torch.from_numpy(input_tokens),
        input_index=torch.from_numpy(input_index),
        input_before=torch.from_numpy(_before(input_tokens)),
        entry_text=torch.from_numpy(entry_text),
        entry_kind=torch.from_numpy(entry_kind),
        memory_tokens=torch.from_numpy(memory_tokens),
        memory_index=torch.from_numpy(memory_index),
        memory_entry=torch.from_numpy(memory_entry),
        memory_before=torch.from_numpy(memory_before),
        sees=torch.from_numpy(seen),
        targets=torch.from_numpy(targets),
        packed=torch.from_numpy(pad([np.flatnonzero(row) for row in targets.reshape(g, -1)], value=e * t)),
        evidence=torch.tensor(evidence, dtype=torch.long).view(-1, 3),
        rows=[[(k, a + x) for x in range(b - a)] for k, (a, b) in enumerate(spans)],
    )


class TrainStream(torch.utils.data.IterableDataset[Batch]):
    """An endless stream of this process's batches; batch number `start` on is a pure function of seed and number.

    So a resumed run goes on exactly where it was, whatever happened in between.
    """

    def __init__(
        self,
        data: EpisodeDataset,
        tokenizer: Tokenizer,
        budget: int,
        seed: int,
        renamer: Renamer | None = None,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__()
        self.data, self.tokenizer, self.budget, self.seed, self.renamer = data, tokenizer, budget, seed, renamer
        self.start, self.rank, self.world = start, rank, world
        self.parts = parts_of(data.lengths(), budget)

    def epoch(self, number: int) -> list[list[Part]]:
        return plan(self.parts, self.budget, random.Random(f"{self.seed}/{number}"), self.world)

    def __iter__(self) -> Iterator[Batch]:
        number, skip = 0, self.start
        while True:
            batches = self.epoch(number)
            steps = len(batches) // self.world
            if skip < steps:
                for step in range(skip, steps):
                    yield self.make(batches[step * self.world + self.rank], number)
            skip = max(0, skip - steps)
            number += 1

    def make(self, parts: list[Part], epoch: int) -> Batch:
        rows = []
        for part in parts:
            row = self.data.row(part.episode)
            if self.renamer is not None:
                episode = decode_row(row)
                renamed = self.renamer(episode, random.Random(f"{self.seed}/{epoch}/{part.episode}"))
                row = row if renamed is episode else encode_row(renamed, self.tokenizer)
            rows.append(row)
        return collate(rows, [(p.first, p.last) for p in parts])


def evaluation_plan(data: EpisodeDataset, budget: int, limit: int = 0, examples: int = 0, world: int = 1) -> list[list[Part]]:
    """Batches of a whole split in order of cost, or of its first `examples`; at most `limit`, evenly spread.

    Their number is a multiple of `world`, so that every process has as many.
    """
    parts = parts_of(data.lengths(), budget)
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
