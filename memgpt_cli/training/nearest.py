"""What a model that is being trained finds near its examples in a corpus: the entries it is most likely to mistake."""

import copy
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
_Found = tuple[Tensor, Tensor]  # examples [N, 2], rows of the corpus near them [N, DEPTH]


def beside_training(on_gpu: bool) -> bool:
    """Whether there is somebody to search while training goes on: a GPU trains, or as many cores are idle as train."""
    return on_gpu or (os.cpu_count() or 1) >= 2 * torch.get_num_threads()


class Nearest(L.Callback):
    """Every so many steps the running average of the weights makes vectors of the whole corpus, and searches it for every example
    of the steps to come (ANCE, arXiv 2007.00808).

    Where there are cores for it the search goes on beside the training, and what it finds is read from half a window later on;
    else training waits for it. Only what was found is kept, and saved with a checkpoint, which waits for a search that goes on,
    so that a resumed run reads what it would have read.
    """

    def __init__(self, corpus: Corpus, every: int) -> None:
        self.corpus, self.every = corpus, every
        self.stream: TrainStream | None = None
        self._windows: dict[int, _Found] = {}  # by the first batch that reads them
        self._near: dict[int, Near] = {}
        self._thread = ThreadPoolExecutor(1)
        self._searching: tuple[int, Future[_Found]] | None = None

    def state_dict(self) -> dict[str, Any]:
        self._settle()
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
        if step % self.every == 0:
            self._settle()
            first = step + (max(AHEAD, self.every // 2) if beside_training(module.device.type != "cpu") else AHEAD)
            if first < trainer.max_steps:
                model = copy.deepcopy(module.best_guess)  # as it is now, whatever training does meanwhile
                self._searching = first, self._thread.submit(self._search, model, [*self._coming(first)])
        if self._searching and step >= self._searching[0] - AHEAD:
            self._settle()

    def _settle(self) -> None:
        """Waits for a search that goes on, and keeps what it found."""
        if self._searching is None:
            return
        (first, found), self._searching = self._searching, None
        self._windows[first] = found.result()
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
    def _search(self, model: MemoryTransformer, coming: list[tuple[int, int, list[int]]]) -> _Found:
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
        return torch.tensor([pair[:2] for pair in coming], dtype=torch.int32), rows.int()
