"""What a memory store promises, whichever engine keeps it. A namespace is a wall: every call names one, none crosses it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from memgpt_cli.errors import StoreError
from memgpt_cli.memory.lexical import fuse
from memgpt_cli.memory.records import Edited, Filter, Hit, Item, Limits, Receipt, Row, Stored, Written, now

Entries: TypeAlias = list[Stored]  # `list` is a method of a store
Hits: TypeAlias = list[list[Hit]]
Problems: TypeAlias = list[str]
Paths: TypeAlias = list[Path]
Found: TypeAlias = list[tuple[int, float]]
"""Ids with their scores, the best first."""
Rankings: TypeAlias = list[Found]
Fetch: TypeAlias = Callable[[Sequence[int]], list[Stored]]


class Store(ABC):
    """A memory that lasts. Every change is on disk when the call returns.

    Errors: `StoreError` where the store cannot do what was asked; nothing is changed then.
    """

    url: str
    fingerprint: str
    """Of the encoder whose keys are written and searched; keys made by another encoder are never compared."""

    def files(self) -> "Paths":
        """The files that it keeps on this machine."""
        return []

    # entries

    def put(self, namespace: str, items: Iterable[Item]) -> Written:
        """Keeps entries. What is there already is merged: a new origin is counted, the same origin changes nothing."""
        moment, rows = now(), []
        for item in items:
            keys = {} if item.key is None or not item.searchable else {self.fingerprint: item.key}
            origins = [item.provenance] if item.provenance else []
            rows.append(Row(item.text, item.kind, item.meta, origins, moment, moment, 1, item.searchable, keys))
        return self.restore(namespace, rows)

    @abstractmethod
    def restore(self, namespace: str, rows: Sequence[Row]) -> Written:
        """`put` for entries that have a past: dates, versions, several origins, keys of several encoders."""

    @abstractmethod
    def get(self, namespace: str, ids: Sequence[int]) -> Entries:
        """Those of the entries that are there, by id."""

    @abstractmethod
    def list(self, namespace: str, where: Filter | None = None, after: int = 0, limit: int = 1000) -> Entries:
        """Up to `limit` entries in the order they came; the last one's id, as `after`, goes on from there."""

    def all(self, namespace: str, where: Filter | None = None) -> Iterator[Stored]:
        """Every entry, a page at a time, so that no reader stands in the way of forgetting."""
        after = 0
        while page := self.list(namespace, where, after):
            yield from page
            after = page[-1].id

    def search(
        self,
        namespace: str,
        vectors: np.ndarray | None = None,
        texts: Sequence[str] | None = None,
        k: int = 8,
        where: Filter | None = None,
    ) -> Hits:
        """The best `k` entries for each query.

        Args:
            vectors: [Q, D], compared with the keys by inner product.
            texts: Q texts, compared by their words (BM25). With both, the two rankings are fused by reciprocal rank.
        """
        many = len(vectors) if vectors is not None else len(texts or ())
        if texts is not None and len(texts) != many:
            raise StoreError(f"{many} vectors and {len(texts)} texts: expected one text a vector")
        if not many or k < 1:
            return [[] for _ in range(many)]
        both = vectors is not None and texts is not None
        with self._ranked(namespace, vectors, texts, max(64, 4 * k) if both else k, where) as (near, said, fetch):
            near, said = near or [[]] * many, said or [[]] * many
            pairs = zip(near, said, strict=True)
            found = [fuse([[id for id, _ in ranking] for ranking in pair], k) if both else pair[0] or pair[1] for pair in pairs]
            entries = {e.id: e for e in fetch(sorted({id for hits in found for id, _ in hits}))}
        out: Hits = []
        for hits, similarity, words in zip(found, map(dict, near), map(dict, said), strict=True):
            there = ((id, score) for id, score in hits if id in entries)  # an index may know more than a damaged table holds
            out.append([Hit(entries[id], score, similarity.get(id), words.get(id)) for id, score in there])
        return out

    @abstractmethod
    def _ranked(
        self, namespace: str, vectors: np.ndarray | None, texts: Sequence[str] | None, k: int, where: Filter | None
    ) -> AbstractContextManager[tuple[Rankings, Rankings, Fetch]]:
        """Rankings by key and by word (empty where not asked for), and how to fetch entries, all of one moment."""

    @abstractmethod
    def edit(self, namespace: str, id: int, item: Item, if_version: int | None = None) -> Edited:
        """Replaces text, kind, meta and key of an entry; its origins stay. The old bytes are erased as by `forget`.

        Raises:
            StoreError: no such entry, another version than `if_version`, or another entry that says the same.
        """

    @abstractmethod
    def forget(
        self, namespace: str, ids: Sequence[int] | None = None, where: Filter | None = None, everything: bool = False
    ) -> Receipt:
        """Erases entries from every file of the store: by id, by condition, or all (then the namespace's name as well)."""

    # keys

    @abstractmethod
    def unkeyed(self, namespace: str, after: int = 0, limit: int = 1000) -> Entries:
        """Searchable entries that have no key of this encoder."""

    @abstractmethod
    def rekey(self, namespace: str, ids: Sequence[int], texts: Sequence[str], keys: np.ndarray) -> int:
        """Adds this encoder's keys beside those of others; entries whose text has changed meanwhile are left out."""

    @abstractmethod
    def retire(self, namespace: str) -> Receipt:
        """Erases the keys of other encoders; `entries` counts them."""

    @abstractmethod
    def keys(self, namespace: str, ids: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
        """Keys of entries, by encoder."""

    # the store

    @abstractmethod
    def limits(self, namespace: str) -> Limits: ...

    @abstractmethod
    def set_limits(self, namespace: str, limits: Limits) -> None: ...

    @abstractmethod
    def expire(self, namespace: str) -> Receipt:
        """Erases what is older than the limit. `put` does it too."""

    @abstractmethod
    def stats(self, namespace: str) -> dict[str, Any]: ...

    @abstractmethod
    def verify(self) -> Problems:
        """What is wrong with the whole store; empty where nothing is."""

    @abstractmethod
    def compact(self) -> Receipt:
        """Finishes what forgetting left pending and gives space back."""

    @abstractmethod
    def snapshot(self, path: Path) -> None:
        """A consistent copy of the whole store, made while others go on writing."""

    @abstractmethod
    def capabilities(self) -> dict[str, Any]: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
