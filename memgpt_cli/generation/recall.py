"""From an input to the stored entries that belong beside it: keys and queries of texts, and the store searched by them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from memgpt_cli.memory import Item, Store
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.schema import Entry
from memgpt_cli.tokenizer import EOS, Tokenizer

Report = Callable[[str, int], None]
REKEY = 512


class Encoder:
    """Keys of entries and queries of inputs, as the store compares them; [N, D], normalised."""

    def __init__(self, model: MemoryTransformer, tokenizer: Tokenizer, max_tokens: int = 512) -> None:
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens

    @torch.inference_mode()
    def _pooled(self, texts: Sequence[str]) -> torch.Tensor:
        device = next(self.model.parameters()).device
        ids = [[*i[: self.max_tokens], EOS] for i in self.tokenizer.encode_all(texts)]
        order = sorted(range(len(ids)), key=lambda n: -len(ids[n]))
        out = torch.zeros(len(ids), self.model.config.d_model)
        for first in range(0, len(order), 512):
            rows = order[first : first + 512]
            tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[n]) for n in rows], batch_first=True).to(device)
            out[rows] = self.model.encode_texts([tokens])[1].float().cpu()
        return out.to(device)

    @torch.inference_mode()
    def keys(self, texts: Sequence[str]) -> torch.Tensor:
        return self.model.retriever.keys(self._pooled(texts)).cpu()

    @torch.inference_mode()
    def queries(self, texts: Sequence[str]) -> torch.Tensor:
        return self.model.retriever.queries(self._pooled(texts)).cpu()

    def items(self, entries: Sequence[Entry], provenance: dict[str, Any] | None = None) -> list[Item]:
        keys: np.ndarray | list[np.ndarray] = self.keys([e.text for e in entries]).numpy() if entries else []
        return [Item(e.text, e.kind, e.meta, provenance or {}, key) for e, key in zip(entries, keys, strict=True)]


def add_keys(store: Store, namespace: str, encoder: Encoder, report: Report = lambda stage, n: None) -> int:
    """Gives every searchable entry without one a key of this encoder; returns how many.

    It can be stopped at any time and goes on where it was. Keys of other encoders stay, and go on serving those.
    """
    done = after = 0
    while page := store.unkeyed(namespace, after, REKEY):
        keys = encoder.keys([e.text for e in page]).numpy()
        done += store.rekey(namespace, [e.id for e in page], [e.text for e in page], keys)
        after = page[-1].id
        report("keys", done)
    return done


class Recall:
    """Entries of one namespace for inputs: by key and by word, in the order they were said."""

    def __init__(self, store: Store, namespace: str, encoder: Encoder, k: int) -> None:
        self.store, self.namespace, self.encoder, self.k = store, namespace, encoder, k

    def entries(self, inputs: Sequence[str]) -> list[list[Entry]]:
        """The best `k` entries for each input."""
        if not inputs:
            return []
        found = self.store.search(self.namespace, self.encoder.queries(inputs).numpy(), list(inputs), self.k)
        return [
            [Entry(h.entry.text, h.entry.kind, h.entry.meta) for h in sorted(hits, key=lambda h: h.entry.id)] for hits in found
        ]
