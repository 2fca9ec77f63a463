"""Translation: two text files, line by line; memory is a translation memory of similar pairs found by BM25."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memgpt_cli.data.sources import Source, Where
from memgpt_cli.errors import ConfigError, DataError
from memgpt_cli.ingest.text import read_lines
from memgpt_cli.schema import Entry, Episode, Example
from memgpt_cli.store.lexical import terms


@dataclass(frozen=True)
class ParallelOptions:
    """
    similar: training pairs in memory, 0 for none; never the pair itself, nor one with the same source.
    memory_source, memory_target: the files memory is taken from (the training files; empty: the split's own files).
    separator: between the two sides in an entry.
    """

    similar: int = 4
    memory_source: str = ""
    memory_target: str = ""
    separator: str = " = "


class BM25:
    """Okapi BM25 (k1 = 1.2, b = 0.75) over the terms that a store finds entries by."""

    def __init__(self, texts: list[str]) -> None:
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        lengths = np.zeros(len(texts))
        for n, text in enumerate(texts):
            words = Counter(terms(text))
            lengths[n] = sum(words.values())
            for word, count in words.items():
                self._postings[word].append((n, count))
        self._norm = 1.2 * (0.25 + 0.75 * lengths / max(1.0, lengths.mean() if len(texts) else 1.0))
        self._size = len(texts)

    def search(self, text: str, k: int, exclude: str = "", texts: list[str] | None = None) -> list[int]:
        """The best `k` rows, without those whose text is `exclude`."""
        scores = np.zeros(self._size)
        for word in set(terms(text)):
            rows = self._postings.get(word)
            if rows:
                where, counts = np.array(rows).T
                weight = np.log(1 + (self._size - len(rows) + 0.5) / (len(rows) + 0.5))
                scores[where] += weight * counts * 2.2 / (counts + self._norm[where])
        best = np.argsort(-scores, kind="stable")[: k + 64]
        found = [int(n) for n in best if scores[n] > 0 and not (texts and texts[n] == exclude)]
        return found[:k]


def read_parallel(paths: list[Path], options: ParallelOptions, where: Where) -> Iterator[Episode]:
    """Two files of equal length: source and target lines."""
    if len(paths) != 2:
        raise ConfigError(f"data.files.{where.split} names {len(paths)} files, expected two: [source, target]")
    pairs = _pairs(paths[0], paths[1], where)
    memory = list(pairs.values())
    if options.memory_source:
        beside = (paths[0].parent / options.memory_source, paths[1].parent / options.memory_target)
        memory = list((pairs if list(beside) == list(paths) else _pairs(*beside, where)).values())
    elif options.similar and where.split != "train":
        raise ConfigError(
            "data.options.memory_source and memory_target must name the training files: memory is made of training pairs"
        )
    texts = [source for source, _ in memory]
    index = BM25(texts) if options.similar else None
    for number, (source, target) in pairs.items():
        found = index.search(source, options.similar, source, texts) if index else []
        entries = tuple(Entry(memory[n][0] + options.separator + memory[n][1], "pair") for n in found)
        example = Example(source, target, len(entries), task="translation")
        yield Episode(f"{paths[0].name}:{number}", entries, (example,))


def _pairs(source: Path, target: Path, where: Where) -> dict[int, tuple[str, str]]:
    """Pairs by line number. A line that cannot be used on either side takes its pair with it, and no other."""
    sides, last = [], []
    for path in (source, target):
        rejected: list[int] = []
        lines = dict(read_lines(path, where.reject, rejected.append))
        sides.append(lines)
        last.append(max([*lines, *rejected], default=0))
    if last[0] != last[1]:
        raise DataError(f"{last[0]} lines, but {target} has {last[1]}: the two must be parallel", source)
    out = {}
    for number in sorted(sides[0].keys() & sides[1].keys()):
        pair = sides[0][number], sides[1][number]
        if all(text.strip() for text in pair):
            out[number] = pair
        else:
            empty = source if not pair[0].strip() else target
            where.reject(DataError("empty line in a parallel file", empty, number), list(pair))
    return out


def _memory_files(options: ParallelOptions, files: Sequence[Path]) -> list[Path]:
    names = (options.memory_source, options.memory_target)
    return [path.parent / name for path, name in zip(files, names, strict=False) if name]


PARALLEL = Source(read_parallel, ParallelOptions, pairs_files=True, extra_files=_memory_files)
