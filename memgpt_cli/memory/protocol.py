"""What a memory store does. A namespace is a wall: every call names one, and no call reaches into another."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Item:
    """An entry to keep: its text, kind, provenance, and the key its encoder made of it."""

    text: str
    kind: str = "note"
    meta: dict[str, Any] = field(default_factory=dict)
    key: np.ndarray | None = None  # [D] float32


@dataclass(frozen=True)
class Stored:
    id: int
    text: str
    kind: str
    meta: dict[str, Any]
    created: str  # ISO 8601, UTC
    count: int  # how often the same text was added


@dataclass(frozen=True)
class Hit:
    entry: Stored
    score: float


class Store(Protocol):
    fingerprint: str
    """Of the encoder whose keys are searched; keys made by another encoder are never compared."""

    def add(self, namespace: str, items: Iterable[Item]) -> list[int]:
        """Keeps entries and returns their ids once they are on disk; an exact duplicate is merged and counted."""

    def search(self, namespace: str, keys: np.ndarray, k: int) -> list[list[Hit]]:
        """The `k` entries with the largest inner product for each of `keys` [Q, D]."""

    def get(self, namespace: str, ids: Sequence[int]) -> list[Stored]: ...

    def find(self, namespace: str, text: str) -> list[Stored]:
        """Entries that contain the text, letter case aside."""

    def list(self, namespace: str, kind: str = "") -> Iterator[Stored]:
        """Entries in the order they came."""

    def update(self, namespace: str, id: int, item: Item) -> None: ...

    def forget(self, namespace: str, ids: Sequence[int]) -> int:
        """Erases entries, physically, and returns how many."""

    def stale(self, namespace: str) -> Iterator[Stored]:
        """Entries whose key is missing or was made by another encoder."""

    def rekey(self, namespace: str, ids: Sequence[int], keys: np.ndarray) -> None: ...

    def export(self, namespace: str) -> Iterator[dict[str, Any]]: ...

    def stats(self, namespace: str) -> dict[str, Any]: ...

    def close(self) -> None: ...
