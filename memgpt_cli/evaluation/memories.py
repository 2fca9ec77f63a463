"""A model's memory as it is, shuffled, taken away, or given by an oracle; and how retrieval ranks what is evidence."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from memgpt_cli.data.dataset import EncodedEpisode, EpisodeDataset
from memgpt_cli.errors import UsageError, did_you_mean
from memgpt_cli.model import Batch

MEMORIES = ("oracle", "learned", "shuffled", "empty")
"""oracle: only the entries named as evidence · learned: what the model's scores choose · shuffled: another episode's
entries · empty: none."""


def check_memories(names: Sequence[str]) -> None:
    for name in names:
        if name not in MEMORIES:
            raise UsageError(f"'{name}' is no kind of memory.{did_you_mean(name, MEMORIES)}")


def with_memory(memory: str, rows: Sequence[EncodedEpisode], others: Sequence[EncodedEpisode]) -> list[EncodedEpisode]:
    """Episodes with their memory replaced; `others` are those whose entries a shuffled memory shows."""
    if memory == "empty":
        return [replace(row, sees=[0] * len(row.sees), evidence=[[] for _ in row.evidence]) for row in rows]
    if memory == "shuffled":
        return [exchange(row, other) for row, other in zip(rows, others, strict=True)]
    return list(rows)


def exchange(row: EncodedEpisode, other: EncodedEpisode) -> EncodedEpisode:
    """The episode with as many entries of another one as each example sees of its own, or as there are."""
    sees = [min(seen, len(other.entry_ids)) for seen in row.sees]
    taken = {name: getattr(other, name) for name in ("entries", "kinds", "entry_meta", "entry_ids")}
    return replace(row, **taken, sees=sees, evidence=[[] for _ in row.evidence])


def other_episode(data: EpisodeDataset, episode: int) -> EncodedEpisode:
    """An episode of another document (the parts of one follow each other, and tell what comes next)."""
    document = data[episode].meta.get("document", episode)
    for step in range(1, len(data)):
        n = (episode + step) % len(data)
        if data[n].meta.get("document", n) != document:
            return data.row(n)
    return replace(data.row(episode), entries=[], kinds=[], entry_meta=[], entry_ids=[])


def oracle(batch: Batch) -> Tensor:
    """[G, E, N]: the evidence; every entry for an example that names none."""
    only = torch.zeros(*batch.sees.shape, batch.entry_kind.shape[1], dtype=torch.bool)
    only[tuple(batch.evidence.T)] = True
    return only | ~only.any(-1, keepdim=True)


def ranks(scores: Tensor, visible_to: Tensor, evidence: Tensor) -> Iterator[int]:
    """The rank (from 1) of the best-scored evidence among what each example sees.

    scores [G, E, N], visible_to [G, E] entries that each example sees, evidence [K, 3] (episode, example, entry).
    """
    best: dict[tuple[int, int], int] = {}
    time_of = torch.arange(scores.shape[-1])
    for g, e, n in evidence.tolist():
        seen = time_of < visible_to[g, e]
        rank = 1 + int(((scores[g, e] > scores[g, e, n]) & seen).sum())
        best[g, e] = min(rank, best.get((g, e), rank))
    yield from best.values()
