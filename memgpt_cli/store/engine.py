"""What an engine brings to a store: transactions, and what is done within one. In which order, `protocol.Store` decides."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from memgpt_cli.store.types import Capabilities, Filter, Hit, Limits, Receipt, Row, Stored, StoreStats

Entries: TypeAlias = list[Stored]  # `list` is a method of a store
Hits: TypeAlias = list[list[Hit]]
Problems: TypeAlias = list[str]
Paths: TypeAlias = list[Path]
Ids: TypeAlias = list[int]
Found: TypeAlias = list[tuple[int, float]]
"""Ids with their scores, the best first."""
Rankings: TypeAlias = list[Found]
Origins: TypeAlias = list[dict[str, Any]]


class Engine(ABC):
    """`db` is what the engine's transaction gives, `ns` its own kind of `Namespace`."""

    @abstractmethod
    def stats(self, namespace: str) -> StoreStats: ...

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
    def capabilities(self) -> Capabilities: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _writing(self) -> AbstractContextManager[Any]:
        """A transaction that is on disk when the block ends, or has not happened."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Any]:
        """One consistent state."""

    @abstractmethod
    def _namespace(self, db: Any, name: str, lock: bool = False) -> Any:
        """The `Namespace` of this name, or None; with `lock` other writers wait until the transaction ends."""

    @abstractmethod
    def _make_namespace(self, db: Any, name: str) -> Any: ...

    @abstractmethod
    def _hash(self, ns: Any, identity: bytes) -> bytes: ...

    @abstractmethod
    def _known(self, db: Any, ns: Any, hashes: Sequence[bytes]) -> dict[bytes, tuple[int, Origins]]:
        """Ids and origins of the entries that have these hashes."""

    @abstractmethod
    def _fresh(self, db: Any, count: int) -> Iterator[int]:
        """`count` ids, ascending, that were never used."""

    @abstractmethod
    def _insert(self, db: Any, ns: Any, new: Sequence[tuple[int, Row, bytes]]) -> None:
        """Ids, rows and hashes; counted, and found by their words."""

    @abstractmethod
    def _set_origins(self, db: Any, ns: Any, changed: dict[int, Origins]) -> None: ...

    @abstractmethod
    def _write_vectors(self, db: Any, ns: Any, fingerprint: str, ids: Sequence[int], vectors: np.ndarray, late: bool) -> int:
        """Returns how many were added: one that is there stays. `late` where one may be older than others that have vectors."""

    @abstractmethod
    def _replace(self, db: Any, ns: Any, old: Stored, row: Row, hash: bytes) -> None:
        """The row instead of `old`, under its id, without a vector; the change is counted."""

    @abstractmethod
    def _remove(self, db: Any, ns: Any, entries: Sequence[Stored], many: bool) -> None:
        """Rows, words and vectors; the change is counted."""

    def _removing(self, db: Any, count: int) -> AbstractContextManager[bool]:
        """Around the removal of `count` entries; True where that changes how it is done."""
        return contextlib.nullcontext(False)

    @abstractmethod
    def _drop(self, db: Any, ns: Any) -> None:
        """The empty namespace itself."""

    @abstractmethod
    def _erase(self, everything: bool = False) -> str:
        """Erases what was deleted from every file; returns why it could not, if it could not. Raises nothing."""

    @abstractmethod
    def _fetch(self, db: Any, ns: Any, ids: Sequence[int]) -> Entries: ...

    @abstractmethod
    def _silent(self, db: Any, ns: Any) -> Entries:
        """Those that are never found."""

    @abstractmethod
    def _rows(self, db: Any, ns: Any, where: Filter | None, after: int, limit: int) -> Any:
        """A generator of entries in order; to be closed."""

    @abstractmethod
    def _select(self, db: Any, ns: Any, where: Filter | None) -> Ids:
        """Ids of the entries meant, ascending."""

    @abstractmethod
    def _oldest(self, db: Any, ns: Any) -> Iterable[tuple[int, int]]:
        """Ids and sizes in bytes, those first said first."""

    @abstractmethod
    def _ranked(
        self, db: Any, ns: Any, vectors: np.ndarray | None, texts: Sequence[str] | None, k: int, where: Filter
    ) -> tuple[Rankings, Rankings]:
        """Rankings by vector and by word, empty where not asked for."""

    @abstractmethod
    def _count(self, db: Any, ns: Any) -> None:
        """Tells every reader that the namespace has changed."""

    @abstractmethod
    def _has_vector(self, db: Any, ns: Any, id: int) -> bool: ...

    @abstractmethod
    def _without_vector(self, db: Any, ns: Any, after: int, limit: int) -> Entries: ...

    @abstractmethod
    def _read_vectors(self, db: Any, ns: Any, ids: Sequence[int]) -> dict[str, dict[int, np.ndarray]]: ...

    @abstractmethod
    def _delete_other_vectors(self, db: Any, ns: Any) -> int: ...

    @abstractmethod
    def _write_limits(self, db: Any, ns: Any, limits: Limits) -> None: ...

    @abstractmethod
    def _read_settings(self, db: Any, ns: Any) -> str: ...

    @abstractmethod
    def _write_settings(self, db: Any, ns: Any, text: str) -> None: ...
