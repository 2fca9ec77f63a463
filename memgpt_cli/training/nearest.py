"""What a model that is being trained finds near its examples in a corpus: the entries it is most likely to mistake."""

import copy
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
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
"""Batches that are made before a step is done: what is found before step n is read from batch n + 2 on."""
_ROWS, _QUERIES = 4096, 512
_Found = tuple[Tensor, Tensor]  # examples [N, 2], rows of the corpus near them [N, DEPTH]


@dataclass
class _Searching:
    first: int  # the first batch that reads what is found
    model: MemoryTransformer  # as it was when the search began
    found: Future[_Found]


class Nearest(L.Callback):
    """Every so many steps the running average of the weights makes vectors of the whole corpus, and searches it for every example
    of the steps to come (ANCE, arXiv 2007.00808).

    Only what was found is kept, and saved with a checkpoint, so that a resumed run reads what it would have read; of a search that
    goes on beside the training the weights are saved, and it is begun again.

    Args:
        beside: train on meanwhile, and read what is found half of `every` later; else training waits.
    """

    def __init__(self, corpus: Corpus, every: int, beside: bool = False) -> None:
        self.corpus, self.every, self.beside = corpus, every, beside
        self.stream: TrainStream | None = None
        self._offset = 0  # of a batch's number from the step that reads it: not 0 after a change of devices
        self._windows: dict[int, _Found] = {}  # by the first batch that reads them
        self._near: dict[int, Near] = {}
        self._thread, self._stop = ThreadPoolExecutor(1), threading.Event()
        self._searching: _Searching | None = None
        self._to_begin_again: tuple[int, dict[str, Tensor]] | None = None

    def state_dict(self) -> dict[str, Any]:
        windows = [[first, *found] for first, found in self._windows.items()]
        going_on = self._searching and [self._searching.first, dict(self._searching.model.state_dict())]
        return {"offset": self._offset, "windows": windows, "searching": going_on}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._offset = int(state.get("offset", 0))
        self._windows = {int(first): (examples, rows) for first, examples, rows in state["windows"]}
        self._near = {}
        if searching := state.get("searching"):
            self._to_begin_again = int(searching[0]), searching[1]

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

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        assert self.stream is not None
        before, self._offset = self._offset, self.stream.start - trainer.global_step
        if before != self._offset:  # other devices: batches of the same number hold other examples
            self._windows, self._near, self._to_begin_again = {}, {}, None
        if self._to_begin_again:
            (first, weights), self._to_begin_again = self._to_begin_again, None
            model = copy.deepcopy(module.best_guess)
            model.load_state_dict(weights)
            self._begin(first, model)

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_index: int) -> None:
        step = trainer.global_step
        if not step or step % self.every:
            return
        self._settle()
        first = step + (max(AHEAD, self.every // 2) if self.beside else AHEAD)
        if first >= trainer.max_steps:
            return
        first += self._offset
        if self.beside:
            self._begin(first, copy.deepcopy(module.best_guess))
        else:
            self._keep(first, self._search(module.best_guess, [*self._coming(first)]))

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if self._searching and trainer.global_step + self._offset >= self._searching.first - AHEAD:
            self._settle()

    def _begin(self, first: int, model: MemoryTransformer) -> None:
        found = self._thread.submit(self._search, model, [*self._coming(first)])
        self._searching = _Searching(first, model, found)

    def _settle(self) -> None:
        """Waits for a search that goes on, and keeps what it found."""
        if self._searching is None:
            return
        searching, self._searching = self._searching, None
        self._keep(searching.first, searching.found.result())

    def _keep(self, first: int, found: _Found) -> None:
        self._windows[first] = found
        still_read = AHEAD // self.every + 2  # by the batches from this step on
        self._windows = dict(sorted(self._windows.items())[-still_read:])

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        self._end()

    def teardown(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        self._end()

    def _end(self) -> None:
        """A search that goes on is given up."""
        self._stop.set()
        self._thread.shutdown()

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
        training = model.training
        model.eval()
        queries = model.retriever.queries(means(model, [[*ids, EOS] for _, _, ids in coming]))
        scores = torch.zeros(len(coming), 0, dtype=torch.float32)
        rows = torch.zeros(len(coming), 0, dtype=torch.long)
        for first in range(0, len(self.corpus), _ROWS):
            if self._stop.is_set():
                raise CancelledError
            block = range(first, min(first + _ROWS, len(self.corpus)))
            vectors = model.retriever.vectors(means(model, [[*self.corpus.ids(row), EOS] for row in block]))
            best = [(q @ vectors.T).topk(min(DEPTH, len(block)), -1) for q in queries.split(_QUERIES)]
            scores = torch.cat([scores, torch.cat([b.values for b in best]).float().cpu()], -1)
            rows = torch.cat([rows, first + torch.cat([b.indices for b in best]).cpu()], -1)
            scores, order = scores.topk(min(DEPTH, scores.shape[1]), -1)
            rows = rows.gather(-1, order)
        model.train(training)
        return torch.tensor([pair[:2] for pair in coming], dtype=torch.int32), rows.int()
