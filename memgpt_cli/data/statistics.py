"""Counts and token lengths of a split."""

import math
from collections import Counter
from typing import Any

import numpy as np

from memgpt_cli.data.corpus import Counted
from memgpt_cli.data.dataset import EncodedEpisode
from memgpt_cli.data.pool import borrows

RECALLED = 32
"""Entries recalled for an input where nothing else is asked for, however many the examples of training saw: time grows with them."""


class Statistics:
    """Counts and token lengths of a split as it is written: a histogram each, so that it takes no room.

    Args:
        distractors: entries of others that questions will see beside their own.
        corpus: what the corpus holds, of which entries will be recalled for each example.
    """

    def __init__(self, distractors: int = 0, corpus: Counted | None = None) -> None:
        self.distractors, self.corpus = distractors, corpus or Counted()
        self.lengths = {name: Counter[int]() for name in SPREADS}
        self.kinds: Counter[str] = Counter()

    def add(self, row: EncodedEpisode) -> None:
        more = min(RECALLED, self.corpus.entries) or (self.distractors if borrows(row) else 0)
        sees = [n + more for n in row.sees]
        values = (([len(row.entry_ids)]), sees, *(map(len, ids) for ids in (row.input_ids, row.target_ids, row.entry_ids)))
        for counter, found in zip(self.lengths.values(), values, strict=True):
            counter.update(found)
        self.kinds.update(row.kinds)

    def summary(self) -> dict[str, Any]:
        episodes, _, inputs, targets, entries = self.lengths.values()
        return {
            "episodes": episodes.total(),
            "examples": targets.total(),
            "entries": entries.total(),
            "tokens": sum(length * n for counter in (inputs, targets, entries) for length, n in counter.items()),
            "kinds": dict((self.kinds + self.corpus.kinds).most_common()),
            **{name: _spread(counter) for name, counter in self.lengths.items()},
            "entry tokens": _spread(entries + self.corpus.lengths),
        }


def of_corpus(counted: Counted) -> dict[str, Any]:
    """What a manifest says of a corpus."""
    return {
        "entries": counted.entries,
        "tokens": sum(length * n for length, n in counted.lengths.items()),
        "kinds": dict(counted.kinds.most_common()),
        "entry tokens": _spread(counted.lengths),
        "changes": {k: v for k, v in sorted(counted.changes.items()) if v},
    }


SPREADS = ("entries per episode", "entries seen per example", "input tokens", "target tokens", "entry tokens")


def _spread(counter: Counter[int]) -> dict[str, float]:
    if not counter:
        return {"mean": 0.0, "median": 0, "p95": 0, "max": 0}
    lengths = np.array(sorted(counter))
    upto = np.cumsum([counter[n] for n in lengths.tolist()])
    total = int(upto[-1])

    def percentile(q: float) -> int:
        """Interpolated between the two nearest, as numpy.percentile does."""
        place = q / 100 * (total - 1)
        below, above = (int(lengths[np.searchsorted(upto, n, side="right")]) for n in (math.floor(place), math.ceil(place)))
        return int(below + (above - below) * (place - math.floor(place)))

    mean = sum(length * n for length, n in counter.items()) / total
    return {"mean": round(mean, 1), "median": percentile(50), "p95": percentile(95), "max": int(lengths[-1])}
