"""Training's batches without end: number *n* is a function of the seed and *n* alone."""

import random
from collections.abc import Iterator

import torch

from memgpt_cli.data.augment import Renamer
from memgpt_cli.data.collate import collate
from memgpt_cli.data.dataset import EncodedEpisode, EpisodeDataset, encode
from memgpt_cli.data.plan import Part, parts_of, plan
from memgpt_cli.data.pool import with_distractors
from memgpt_cli.model import Batch
from memgpt_cli.tokenizer import Tokenizer


def rename_row(row: EncodedEpisode, renamer: Renamer, rng: random.Random, tokenizer: Tokenizer) -> EncodedEpisode:
    """The row with names that nobody has seen, or as it is where the renamer leaves it alone."""
    episode = row.decode()
    renamed = renamer(episode, rng)
    return row if renamed is episode else encode(renamed, tokenizer)


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
        distractors: int = 0,
    ) -> None:
        super().__init__()
        self.data, self.tokenizer, self.budget, self.seed, self.renamer = data, tokenizer, budget, seed, renamer
        self.start, self.rank, self.world, self.distractors = start, rank, world, distractors
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
                row = rename_row(row, self.renamer, random.Random(f"{self.seed}/{epoch}/{part.episode}"), self.tokenizer)
            rows.append(row)
        rng = random.Random(f"{self.seed}/{epoch}/{parts[0].episode}")
        return collate(*with_distractors(rows, parts, self.distractors, rng))
