"""Episodes staged on disk between reading and writing, and which of them are held out."""

import hashlib
import random
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from memgpt_cli.data.dataset import EpisodeDataset, EpisodeWriter, encode
from memgpt_cli.schema import Episode


def document_of(episode: Episode) -> str:
    """What is held out as a whole: one part of a document holds what the next is asked for."""
    return str(episode.meta.get("document", episode.id))


def place_of(document: str, seed: int) -> int:
    """A number of 64 bits for a document: those of the lowest are held out."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{document}".encode(errors="replace"), digest_size=8).digest(), "big")


class Staged:
    """Episodes staged on disk: all of them, or those whose documents' places lie from `low` to below `high`."""

    def __init__(self, data: EpisodeDataset, seed: int = 0, low: int = 0, high: int = 1 << 64) -> None:
        self.data, self.seed, self.low, self.high = data, seed, low, high
        self._count = len(data) if high - low == 1 << 64 else sum(1 for _ in self)

    @classmethod
    def stage(cls, folder: Path, episodes: Iterable[Episode]) -> "Staged":
        writer = EpisodeWriter(folder)
        for episode in episodes:
            writer.write(encode(episode, None))
        writer.close()
        return cls(EpisodeDataset(folder))

    def within(self, low: int, high: int, seed: int) -> "Staged":
        return Staged(self.data, seed, low, high)

    def __len__(self) -> int:
        return self._count

    def _holds(self, episode: Episode) -> bool:
        return self.high - self.low == 1 << 64 or self.low <= place_of(document_of(episode), self.seed) < self.high

    def __iter__(self) -> Iterator[Episode]:
        return filter(self._holds, self.data)

    def shuffled(self, seed: int) -> Iterator[Episode]:
        order = array("I", range(len(self.data)))
        random.Random(seed).shuffle(order)
        return filter(self._holds, (self.data[n] for n in order))
