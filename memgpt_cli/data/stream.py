"""Training's batches without end: number *n* is a function of the seed and *n* alone."""

import random
from collections.abc import Callable, Iterator
from itertools import count

import torch

from memgpt_cli.data.augment import Renamer
from memgpt_cli.data.candidates import Candidates
from memgpt_cli.data.collate import collate
from memgpt_cli.data.dataset import EncodedEpisode, EpisodeDataset, encode
from memgpt_cli.data.plan import Part, parts_of, plan
from memgpt_cli.data.pool import Near, read_together
from memgpt_cli.model import Batch
from memgpt_cli.tokenizer import Tokenizer


def rename_row(row: EncodedEpisode, renamer: Renamer, rng: random.Random, tokenizer: Tokenizer) -> EncodedEpisode:
    """The row with names that nobody has seen, or as it is where the renamer leaves it alone."""
    episode = row.decode()
    renamed = renamer(episode, rng)
    return row if renamed is episode else encode(renamed, tokenizer)


def nothing_near(number: int) -> Near:
    """What a model that has not searched yet finds near the examples of a batch."""
    return {}


class TrainStream(torch.utils.data.IterableDataset[Batch]):
    """An endless stream of this process's batches; batch number `start` on is a pure function of seed and number.

    So a resumed run goes on exactly where it was, whatever happened in between.

    Args:
        candidates: what the examples bring from a corpus.
        near: what the model finds near the examples of batch number *n*, itself a function of the run up to there.
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
        distractors: int = 0,
        candidates: Candidates | None = None,
        near: Callable[[int], Near] = nothing_near,
    ) -> None:
        super().__init__()
        self.data, self.tokenizer, self.budget, self.seed, self.renamer = data, tokenizer, budget, seed, renamer
        self.start, self.rank, self.world, self.distractors = start, rank, world, distractors
        self.candidates, self.near = candidates, near
        self.parts = parts_of(data.lengths(), budget, candidates.cost if candidates else 0)

    def epoch(self, number: int) -> list[list[Part]]:
        return plan(self.parts, self.budget, random.Random(f"{self.seed}/{number}"), self.world)

    def plans(self, start: int) -> Iterator[tuple[int, int, list[list[Part]]]]:
        """From batch `start` on: its number, its epoch, and the parts that each process takes."""
        before = 0
        for epoch in count():
            batches = self.epoch(epoch)
            steps = len(batches) // self.world
            for step in range(max(0, start - before), steps):
                yield before + step, epoch, batches[step * self.world : (step + 1) * self.world]
            before += steps

    def __iter__(self) -> Iterator[Batch]:
        for number, epoch, batches in self.plans(self.start):
            yield self.make(batches[self.rank], epoch, number)

    def make(self, parts: list[Part], epoch: int, number: int) -> Batch:
        rows = []
        for part in parts:
            row = self.data.row(part.episode)
            if self.renamer is not None:
                row = rename_row(row, self.renamer, random.Random(f"{self.seed}/{epoch}/{part.episode}"), self.tokenizer)
            rows.append(row)
        rng = random.Random(f"{self.seed}/{epoch}/{parts[0].episode}")
        return collate(*read_together(rows, parts, rng, self.distractors, self.candidates, self.near(number)))
