"""Episodes staged on disk between reading and writing, and which of them are held out. Twelve bytes of each are in memory."""

import hashlib
import random
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from memgpt_cli.data.dataset import EpisodeWriter, encode, read_episodes
from memgpt_cli.schema import Episode

ALL = (0, 1 << 64)


def texts_of(episode: Episode) -> Iterator[str]:
    """What a tokenizer learns from."""
    yield from (entry.text for entry in episode.entries)
    yield from (text for example in episode.examples for text in (example.input, example.target))


def _place(episode: Episode, seed: int) -> int:
    """A number of 64 bits for the episode's document: those of the lowest are held out.

    A document is held out as a whole: one part of it holds what the next is asked for.
    """
    document = str(episode.meta.get("document", episode.id))
    return int.from_bytes(hashlib.blake2b(f"{seed}/{document}".encode(errors="replace"), digest_size=8).digest(), "big")


class Staged:
    """Episodes staged on disk: all of them, or those whose documents' places lie from the first of `span` to below the last."""

    def __init__(self, folder: Path, places: np.ndarray, sizes: np.ndarray, span: tuple[int, int] = ALL) -> None:
        self.folder, self.places, self.sizes = folder, places, sizes
        low, high = span
        self.held = (places >= np.uint64(low)) & ((places < np.uint64(high)) if high < ALL[1] else True)

    @classmethod
    def stage(cls, folder: Path, episodes: Iterable[Episode], seed: int) -> "Staged":
        """Writes them below `folder`, texts alone."""
        writer, places, sizes = EpisodeWriter(folder), array("Q"), array("I")
        for episode in episodes:
            writer.write(encode(episode, None))
            places.append(_place(episode, seed))
            sizes.append(sum(map(len, texts_of(episode))))
        writer.close()
        return cls(folder, np.array(places, np.uint64), np.array(sizes, np.uint32))

    def within(self, low: int, high: int) -> "Staged":
        return Staged(self.folder, self.places, self.sizes, (low, high))

    def __len__(self) -> int:
        return int(self.held.sum())

    def __iter__(self) -> Iterator[Episode]:
        return (episode for n, episode in enumerate(read_episodes(self.folder)) if self.held[n])

    def sample(self, seed: int, chars: int) -> Iterator[Episode]:
        """Episodes in random order, until they have a little more than so many characters; read in one pass over the file."""
        order = array("I", range(len(self.places)))
        random.Random(seed).shuffle(order)
        drawn = np.array(order)[self.held[np.array(order)]]
        most = int(np.searchsorted(np.cumsum(self.sizes[drawn], dtype=np.int64), 1.25 * chars)) + 1
        rank = {int(n): place for place, n in enumerate(drawn[:most])}
        found = {rank[n]: episode for n, episode in enumerate(read_episodes(self.folder)) if n in rank}
        return (found[place] for place in range(len(found)))
