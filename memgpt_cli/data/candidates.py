"""What of a corpus an example is trained on: the evidence for its target, and entries that only look like it."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from memgpt_cli.config import CorpusConfig
from memgpt_cli.data.corpus import NAMESPACE, Corpus, Names
from memgpt_cli.data.spans import bearing
from memgpt_cli.errors import DataError
from memgpt_cli.schema import RESTS_ON, Episode, Example
from memgpt_cli.store import Hit, Store

FILE = "candidates.arrow"
DEPTH = 32
"""Entries that share an example's words, as many are kept."""
_LISTS = pa.list_(pa.list_(pa.int32()))
_SCHEMA = pa.schema({"evidence": _LISTS, "bears": _LISTS, "words": _LISTS, "found": pa.list_(pa.bool_())})


@dataclass(frozen=True, slots=True)
class Linked:
    """Rows of the corpus that belong to an example.

    found: the evidence was not named by the data, but found by its bearing an answer: any piece of it may suffice, or mislead.
    """

    evidence: list[int]
    bears: list[int]  # which of the example's references each piece bears, where it was found
    words: list[int]  # the best by their words, the evidence among them
    found: bool


class Linker:
    """Finds what an example rests on in a corpus: as the data name it, by id or by exact text; else by its bearing the answer.

    What is found so is, for each reference, the best entry by words that holds it (distant supervision, as in DPR, arXiv
    2004.04906). How often each way was used is counted.
    """

    def __init__(self, store: Store, corpus: Corpus, names: Names, counts: Counter[str]) -> None:
        self.store, self.corpus, self.names, self.counts = store, corpus, names, counts

    def __call__(self, episodes: Sequence[Episode]) -> list[list[Linked]]:
        """For each episode, what belongs to each of its examples."""
        inputs = [example.input for episode in episodes for example in episode.examples]
        hits = iter(self.store.search(NAMESPACE, None, inputs, DEPTH))
        return [[self._link(episode, example, next(hits)) for example in episode.examples] for episode in episodes]

    def _link(self, episode: Episode, example: Example, hits: list[Hit]) -> Linked:
        words = [row for hit in hits for row in self.corpus.rows_of(hit.entry.id)]
        if named := self._named(episode, example):
            self.counts["examples whose evidence in the corpus the data name"] += 1
            return Linked(named, [], words, found=False)
        words = [row for row in words if self.corpus.text(row) != example.target]
        found = self._bearing(example, words) if example.task == "qa" else {}
        where = "found: the best by words that hold an answer" if found else "not known"
        self.counts[f"examples whose evidence in the corpus is {where}"] += 1
        return Linked([*found], [*found.values()], words, found=True)

    def _named(self, episode: Episode, example: Example) -> list[int]:
        names = [str(name) for name in episode.meta.get(RESTS_ON) or ()]
        entries = [entry for name in names if (entry := self.names(name)) is not None]
        self.counts["names of evidence that the corpus does not hold"] += len(names) - len(entries)
        entries += [entry for e in example.evidence if (entry := self.names(episode.entries[e].text)) is not None]
        return sorted({row for entry in entries for row in self.corpus.rows_of(entry)})

    def _bearing(self, example: Example, rows: Sequence[int]) -> dict[int, int]:
        """Rows that bear an answer, and the number of the reference that each bears."""
        texts = {row: self.corpus.text(row) for row in rows}
        found: dict[int, int] = {}
        for n, reference in enumerate(example.all_references):
            bears = bearing([reference])
            if (row := next((row for row in rows if bears(texts[row])), None)) is not None:
                found.setdefault(row, n)
        return found


class CandidateWriter:
    """Writes what belongs to the examples of a split, beside its episodes and in their order."""

    def __init__(self, folder: Path, linker: Linker) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer, self._linker = pa.ipc.new_stream(str(folder / FILE), _SCHEMA), linker
        self._waiting: list[Episode] = []

    def write(self, episode: Episode) -> None:
        self._waiting.append(episode)
        if len(self._waiting) >= 512:
            self._flush()

    def _flush(self) -> None:
        linked = self._linker(self._waiting)
        columns = [pa.array([[getattr(x, f.name) for x in row] for row in linked], f.type) for f in _SCHEMA]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))
        self._waiting = []

    def close(self) -> None:
        if self._waiting:
            self._flush()
        self._writer.close()


class Candidates:
    """What each example of a split brings into its batch.

    Args:
        encode: a text to ids: of several right answers the one is asked for that the evidence in the batch bears.
    """

    def __init__(self, corpus: Corpus, split: Path, config: CorpusConfig, encode: Callable[[str], list[int]]) -> None:
        try:
            self._table = pa.ipc.open_stream(pa.memory_map(str(split / FILE))).read_all()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{FILE} is not there, or damaged: run memgpt preprocess --force", split) from error
        if self._table.schema != _SCHEMA:
            raise DataError(f"{FILE} holds other columns than these: run memgpt preprocess --force", split)
        self.corpus, self.config, self.encode = corpus, config, encode
        self.typical = float(corpus.sizes().mean()) + 1  # tokens of a row, its end included

    @property
    def cost(self) -> int:
        """Tokens of what an example brings, about."""
        c = self.config
        return round((min(1, c.evidence) + c.words + c.vectors + c.random) * self.typical)

    def linked(self, episode: int, example: int) -> Linked:
        evidence, bears, words, found = (self._table.column(name)[episode][example].as_py() for name in _SCHEMA.names)
        return Linked(evidence, bears, words, found)

    def pick(self, linked: Linked, near: Sequence[int] | None, rng: random.Random) -> list[int]:
        """Rows for an example: of its evidence, of what shares its words, of what the model finds near, of anything.

        Of evidence that was found one piece is taken: it suffices. Where none is known the best by words are taken; where the model has
        not searched yet, more by words.
        """
        c, held = self.config, set(linked.evidence)
        picked = rng.sample(linked.evidence, min(c.evidence, len(held), 1 if linked.found else len(held)))
        words = [row for row in linked.words if row not in held]
        many = c.words + (c.vectors if near is None else 0)
        picked += rng.sample(words, min(many, len(words))) if held else words[: many + c.evidence]
        taken = held.union(picked)
        left = [row for row in near or () if row not in taken]
        picked += rng.sample(left, min(c.vectors, len(left)))
        anything = (rng.randrange(len(self.corpus)) for _ in range(c.random))
        return picked + [row for row in anything if row not in held]

    def answer(self, linked: Linked, picked: Sequence[int], references: Sequence[str]) -> list[int] | None:
        """Ids of the reference that the evidence picked bears; None where the target is asked for as it is."""
        borne = [n for row, n in zip(linked.evidence, linked.bears, strict=False) if row in picked]
        return self.encode(references[borne[0]]) if borne and len(references) > 1 else None
