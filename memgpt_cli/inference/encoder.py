"""Texts through the encoder: vectors that a store compares, and token states that are kept while their entries are."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from memgpt_cli.model import Batch, MemoryTransformer
from memgpt_cli.model.pooling import means
from memgpt_cli.model.transformer import Encoded, mean_state
from memgpt_cli.schema import Entry
from memgpt_cli.store import Item, Store
from memgpt_cli.tokenizer import EOS, Tokenizer

Report = Callable[[str, int], None]
AT_ONCE = 512
"""Entries that are given vectors, and kept, at a time."""
MOST_TOKENS = 512
"""Of a text that a vector is made of; what is behind is not compared."""


class Name(NamedTuple):
    """Which stored text a state is of: an edited entry has another version, a long one several parts."""

    id: int
    version: int
    part: int = 0


class States:
    """Token states of stored entries within a budget of bytes; the least lately read go first. Never on disk."""

    def __init__(self, budget: int) -> None:
        self.budget, self.bytes = budget, 0
        self._held: OrderedDict[Name, tuple[Tensor, Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def ids(self) -> set[int]:
        return {name.id for name in self._held}

    def get(self, name: Name | None) -> tuple[Tensor, Tensor] | None:
        """States [L, D] and their mean [D]."""
        if name is None or name not in self._held:
            return None
        self._held.move_to_end(name)
        return self._held[name]

    def put(self, name: Name, states: Tensor, mean: Tensor) -> None:
        self.drop([name])
        self._held[name] = states, mean
        self.bytes += states.nbytes + mean.nbytes
        while self.bytes > self.budget:
            self.drop([next(iter(self._held))])

    def drop(self, names: Iterable[Name]) -> None:
        for name in names:
            if held := self._held.pop(name, None):
                self.bytes -= held[0].nbytes + held[1].nbytes

    def keep(self, versions: Mapping[int, int]) -> None:
        """Drops what is not of these versions of these entries: edited or forgotten, by whomever."""
        self.drop([name for name in self._held if versions.get(name.id) != name.version])


class Encoder:
    """The model's encoder for texts of this tokenizer.

    Args:
        cache_bytes: of token states that are kept.
        clean: what the run's data does to every text.
    """

    def __init__(
        self, model: MemoryTransformer, tokenizer: Tokenizer, cache_bytes: int = 256 << 20, clean: Callable[[str], str] = str
    ) -> None:
        self.model, self.tokenizer, self.clean, self.states = model, tokenizer, clean, States(cache_bytes)

    @property
    def device(self) -> torch.device:
        return self.model.null.device

    def _means(self, texts: Sequence[str]) -> Tensor:
        """[N, D]."""
        ids = [[*i[:MOST_TOKENS], EOS] for i in self.tokenizer.encode_all([self.clean(text) for text in texts])]
        return means(self.model, ids)

    @torch.inference_mode()
    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """[N, D] of length 1: what the store keeps of entries."""
        return np.asarray(self.model.retriever.vectors(self._means(texts)).cpu().numpy())

    @torch.inference_mode()
    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """[N, D] of length 1: what entries' vectors are compared with."""
        return np.asarray(self.model.retriever.queries(self._means(texts)).cpu().numpy())

    def items(self, entries: Sequence[Entry], provenance: dict[str, Any] | None = None) -> list[Item]:
        vectors = self.vectors([e.text for e in entries]) if entries else ()
        return [Item(e.text, e.kind, e.meta, provenance or {}, v) for e, v in zip(entries, vectors, strict=True)]

    @torch.inference_mode()
    def encode(self, batch: Batch, names: Mapping[tuple[int, ...], Name]) -> Encoded:
        """The batch's texts; those of stored entries are encoded once, however often they are read.

        Args:
            names: ids of a text, EOS included -> the stored entry it is of.
        """
        parts, means = [self.model.null[None]], []
        for tokens in batch.texts:
            wanted = [names.get(tuple(i for i in ids if i)) for ids in tokens.tolist()]
            held = [self.states.get(name) for name in wanted]
            fresh = [n for n, there in enumerate(held) if there is None]
            states = torch.zeros(*tokens.shape, self.model.config.d_model, device=self.device, dtype=self.model.null.dtype)
            mean = states.new_zeros(len(tokens), states.shape[2])
            if fresh:
                of_fresh = tokens[fresh]
                made = self.model.encode(of_fresh).to(states.dtype)
                states[fresh], mean[fresh] = made, mean_state(made, of_fresh)
            for n, there in enumerate(held):
                if there is not None:
                    states[n, : len(there[0])], mean[n] = there
                elif (name := wanted[n]) is not None:
                    length = int((tokens[n] != 0).sum())
                    self.states.put(name, states[n, :length].clone(), mean[n].clone())
            parts.append(states.flatten(0, 1))
            means.append(mean)
        return Encoded(torch.cat(parts), torch.cat(means))


def add_vectors(store: Store, namespace: str, encoder: Encoder, report: Report = lambda stage, n: None) -> int:
    """Gives every searchable entry without one a vector of this encoder; returns how many.

    It can be stopped at any time and goes on where it was. Vectors of other encoders stay, and go on serving those.
    """
    done = after = 0
    while page := store.without_vector(namespace, after, AT_ONCE):
        vectors = encoder.vectors([e.text for e in page])
        done += store.add_vectors(namespace, [e.id for e in page], [e.text for e in page], vectors)
        after = page[-1].id
        report("vectors", done)
    return done
