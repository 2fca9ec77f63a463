"""What a model that is being trained finds near its examples in a corpus: the entries it is most likely to mistake."""

from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from memgpt_cli.data.candidates import DEPTH
from memgpt_cli.data.corpus import Corpus
from memgpt_cli.data.pool import Near
from memgpt_cli.data.stream import TrainStream
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.model.pooling import means
from memgpt_cli.tokenizer import EOS

AHEAD = 2
"""Batches that are made before the step before them is done: what was found after step n is read from batch n + 2 on."""
_ROWS, _QUERIES = 16384, 512


class Nearest(L.Callback):
    """Every so many steps the running average of the weights makes vectors of the whole corpus, and searches it for every example
    of the steps to come (ANCE, arXiv 2007.00808).

    Only what was found is kept, and saved with a checkpoint, so that a resumed run reads what it would have read.
    """

    def __init__(self, corpus: Corpus, every: int) -> None:
        self.corpus, self.every = corpus, every
        self.stream: TrainStream | None = None
        self._windows: dict[int, tuple[Tensor, Tensor]] = {}  # first batch -> examples [N, 2], rows near them [N, DEPTH]
        self._near: dict[int, Near] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"windows": [[first, *found] for first, found in self._windows.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._windows = {int(first): (examples, rows) for first, examples, rows in state["windows"]}
        self._near = {}

    def __call__(self, number: int) -> Near:
        """What was found near the examples of a batch; nothing before the first search."""
        first = max((first for first in self._windows if first <= number), default=None)
        if first is None:
            return {}
        if first not in self._near:
            examples, rows = self._windows[first]
            pairs = zip(examples.tolist(), rows.tolist(), strict=True)
            self._near = {first: {(episode, n): near for (episode, n), near in pairs}}
        return self._near[first]

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        step = trainer.global_step
        if step % self.every or step >= trainer.max_steps:
            return
        assert self.stream is not None
        first = step + AHEAD
        self._windows[first] = self._search(module.best_guess, [*self._coming(first)])
        still_read = AHEAD // self.every + 2  # by the batches from this step on
        self._windows = dict(sorted(self._windows.items())[-still_read:])

    def _coming(self, first: int) -> Iterator[tuple[int, int, list[int]]]:
        """Episode, number and input of each example that is read until the next search, by any process."""
        assert self.stream is not None
        inputs = self.stream.data.rows.data.table.column("input_ids")
        for _, _, batches in takewhile(lambda plan: plan[0] < first + self.every, self.stream.plans(first)):
            for part in (part for parts in batches for part in parts):
                texts = inputs[part.episode]
                yield from ((part.episode, n, texts[n].as_py()) for n in range(part.first, part.last))

    @torch.inference_mode()
    def _search(self, model: MemoryTransformer, coming: list[tuple[int, int, list[int]]]) -> tuple[Tensor, Tensor]:
        training = model.training
        model.eval()
        queries = model.retriever.queries(means(model, [[*ids, EOS] for _, _, ids in coming]))
        scores = torch.full((len(coming), 0), 0.0)
        rows = torch.zeros(len(coming), 0, dtype=torch.long)
        for first in range(0, len(self.corpus), _ROWS):
            block = range(first, min(first + _ROWS, len(self.corpus)))
            vectors = model.retriever.vectors(means(model, [[*self.corpus.ids(row), EOS] for row in block]))
            best = [(q @ vectors.T).topk(min(DEPTH, len(block)), -1) for q in queries.split(_QUERIES)]
            scores = torch.cat([scores, torch.cat([b.values for b in best]).cpu()], -1)
            rows = torch.cat([rows, first + torch.cat([b.indices for b in best]).cpu()], -1)
            scores, order = scores.topk(min(DEPTH, scores.shape[1]), -1)
            rows = rows.gather(-1, order)
        model.train(training)
        return torch.tensor([pair[:2] for pair in coming], dtype=torch.int32), rows.int()
