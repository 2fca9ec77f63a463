"""Counts and token lengths of a split."""

import math
from collections import Counter
from typing import Any

import numpy as np

from memgpt_cli.data.dataset import EncodedEpisode
from memgpt_cli.data.pool import borrows


class Statistics:
    """Counts and token lengths of a split as it is written: a histogram each, so that it takes no room.

    Args:
        distractors: entries of others that questions will see beside their own.
    """

    def __init__(self, distractors: int = 0) -> None:
        self.distractors = distractors
        self.lengths = {name: Counter[int]() for name in SPREADS}
        self.kinds: Counter[str] = Counter()

    def add(self, row: EncodedEpisode) -> None:
        sees = [n + self.distractors for n in row.sees] if borrows(row) else row.sees
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
            "kinds": dict(self.kinds.most_common()),
            **{name: _spread(counter) for name, counter in self.lengths.items()},
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
