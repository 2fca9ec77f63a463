"""The embedded store: one SQLite file, the single source of truth; keys are searched exactly, from RAM.

`secure_delete` overwrites what is forgotten, the file is rewritten (VACUUM), and the rollback journal is gone before
`forget` returns.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from memgpt_cli.config import home
from memgpt_cli.errors import StoreError
from memgpt_cli.memory.protocol import Hit, Item, Stored

FORMAT = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS entries (
  id INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL, hash BLOB NOT NULL, text TEXT NOT NULL, kind TEXT NOT NULL,
  meta TEXT NOT NULL, created TEXT NOT NULL, count INTEGER NOT NULL DEFAULT 1, fingerprint TEXT NOT NULL, key BLOB,
  UNIQUE (namespace, hash));
CREATE INDEX IF NOT EXISTS by_kind ON entries (namespace, kind);
"""
_COLUMNS = "id, text, kind, meta, created, count"


def open_store(path: str, fingerprint: str = "") -> "SqliteStore":
    """The store at `path`, or the user's own where it is empty."""
    return SqliteStore(Path(path).expanduser() if path else home() / "memory.sqlite", fingerprint)


def _hash(text: str, kind: str, meta: dict[str, Any]) -> bytes:
    # the same words said in two sessions are two turns; facts and notes are the same wherever they came from
    place = json.dumps([meta.get("session"), meta.get("place")]) if kind == "turn" else ""
    return hashlib.sha256(f"{kind}\0{place}\0{text}".encode()).digest()


class SqliteStore:
    def __init__(self, path: Path, fingerprint: str = "") -> None:
        self.path, self.fingerprint = path, fingerprint
        self._cache: dict[str, tuple[tuple[int, int], np.ndarray, np.ndarray]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=DELETE")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA secure_delete=ON")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, FORMAT):
                raise StoreError(f"{path} is a memory of format {version}, expected {FORMAT}: a newer memgpt made it")
            self._db.executescript(_TABLES)
            self._db.execute(f"PRAGMA user_version={FORMAT}")
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{path} cannot be opened as a memory store: {error}") from error
        path.chmod(0o600)

    def close(self) -> None:
        self._db.close()

    def _write(self, statement: str, rows: Iterable[Sequence[Any]]) -> list[Any]:
        """Runs the statement for each row in one durable transaction."""
        out: list[Any] = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for row in rows:
                out.append(self._db.execute(statement, row).fetchone())
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise StoreError(f"the memory at {self.path} could not be changed: {error}") from error
        return out

    def add(self, namespace: str, items: Iterable[Item]) -> list[int]:
        now = datetime.now(UTC).isoformat(timespec="seconds")

        def rows() -> Iterator[tuple[Any, ...]]:
            for item in items:
                key = None if item.key is None else np.asarray(item.key, np.float32).tobytes()
                mark = self.fingerprint if key is not None else ""
                meta = json.dumps(item.meta, ensure_ascii=False)
                yield namespace, _hash(item.text, item.kind, item.meta), item.text, item.kind, meta, now, mark, key

        statement = (
            "INSERT INTO entries (namespace, hash, text, kind, meta, created, fingerprint, key) VALUES (?,?,?,?,?,?,?,?) "
            "ON CONFLICT (namespace, hash) DO UPDATE SET count = count + 1 RETURNING id"
        )
        return [int(row[0]) for row in self._write(statement, rows())]

    def _erase_traces(self) -> None:
        """Rewrites the file: pages that SQLite moved rows out of keep copies that `secure_delete` does not know of."""
        try:
            self._db.execute("VACUUM")
        except sqlite3.Error as error:
            raise StoreError(
                f"entries are deleted, but {self.path} could not be rewritten to erase their bytes: {error}"
            ) from error

    def _rows(self, query: str, values: Sequence[Any]) -> Iterator[Stored]:
        for id, text, kind, meta, created, count in self._db.execute(query, values):
            yield Stored(id, text, kind, json.loads(meta), created, count)

    def _keys(self, namespace: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids [N] and keys [N, D] made by this encoder, kept in RAM until the file changes."""
        state = (self._db.execute("PRAGMA data_version").fetchone()[0], self._db.total_changes)
        if namespace not in self._cache or self._cache[namespace][0] != state:
            query = "SELECT id, key FROM entries WHERE namespace=? AND fingerprint=? AND key IS NOT NULL ORDER BY id"
            found = self._db.execute(query, (namespace, self.fingerprint)).fetchall()
            ids = np.array([id for id, _ in found], dtype=np.int64)
            keys = np.frombuffer(b"".join(key for _, key in found), np.float32)
            self._cache[namespace] = (state, ids, keys.reshape(len(ids), -1) if len(ids) else keys.reshape(0, 0))
        return self._cache[namespace][1:]

    def search(self, namespace: str, keys: np.ndarray, k: int) -> list[list[Hit]]:
        ids, stored = self._keys(namespace)
        if not len(ids) or not len(keys):
            return [[] for _ in keys]
        scores = np.asarray(keys, np.float32) @ stored.T
        k = min(k, len(ids))
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable"), 1)
        entries = {e.id: e for e in self.get(namespace, sorted({int(i) for i in ids[best].ravel()}))}
        return [[Hit(entries[int(ids[n])], float(scores[q, n])) for n in row] for q, row in enumerate(best)]

    def get(self, namespace: str, ids: Sequence[int]) -> list[Stored]:
        marks = ",".join("?" * len(ids))
        return list(
            self._rows(f"SELECT {_COLUMNS} FROM entries WHERE namespace=? AND id IN ({marks}) ORDER BY id", (namespace, *ids))
        )

    def find(self, namespace: str, text: str) -> list[Stored]:
        wanted = text.casefold()
        return [entry for entry in self.list(namespace) if wanted in entry.text.casefold()]

    def list(self, namespace: str, kind: str = "") -> Iterator[Stored]:
        only = " AND kind=?" if kind else ""
        values = (namespace, kind) if kind else (namespace,)
        return self._rows(f"SELECT {_COLUMNS} FROM entries WHERE namespace=?{only} ORDER BY id", values)

    def update(self, namespace: str, id: int, item: Item) -> None:
        key = None if item.key is None else np.asarray(item.key, np.float32).tobytes()
        meta, mark = json.dumps(item.meta, ensure_ascii=False), self.fingerprint if key is not None else ""
        row = (item.text, item.kind, meta, _hash(item.text, item.kind, item.meta), mark, key, namespace, id)
        query = (
            "UPDATE entries SET text=?, kind=?, meta=?, hash=?, fingerprint=?, key=? WHERE namespace=? AND id=? RETURNING id"
        )
        if self._write(query, [row]) == [None]:
            raise StoreError(f"no entry {id} in '{namespace}'")
        self._erase_traces()

    def forget(self, namespace: str, ids: Sequence[int]) -> int:
        gone = self._write("DELETE FROM entries WHERE namespace=? AND id=? RETURNING id", [(namespace, id) for id in ids])
        self._cache.pop(namespace, None)
        erased = sum(row is not None for row in gone)
        if erased:
            self._erase_traces()
        return erased

    def stale(self, namespace: str) -> Iterator[Stored]:
        query = f"SELECT {_COLUMNS} FROM entries WHERE namespace=? AND (key IS NULL OR fingerprint<>?) ORDER BY id"
        return self._rows(query, (namespace, self.fingerprint))

    def rekey(self, namespace: str, ids: Sequence[int], keys: np.ndarray) -> None:
        rows = [
            (self.fingerprint, np.asarray(key, np.float32).tobytes(), namespace, id) for id, key in zip(ids, keys, strict=True)
        ]
        self._write("UPDATE entries SET fingerprint=?, key=? WHERE namespace=? AND id=? RETURNING id", rows)

    def export(self, namespace: str) -> Iterator[dict[str, Any]]:
        for e in self.list(namespace):
            yield {"id": e.id, "text": e.text, "kind": e.kind, "meta": e.meta, "created": e.created, "count": e.count}

    def stats(self, namespace: str) -> dict[str, Any]:
        query = "SELECT kind, COUNT(*), SUM(LENGTH(text)) FROM entries WHERE namespace=? GROUP BY kind ORDER BY kind"
        kinds = {kind: {"entries": n, "characters": size} for kind, n, size in self._db.execute(query, (namespace,))}
        stale = sum(1 for _ in self.stale(namespace)) if self.fingerprint else 0
        total = sum(k["entries"] for k in kinds.values())
        return {
            "store": str(self.path),
            "namespace": namespace,
            "entries": total,
            "kinds": kinds,
            "stale": stale,
            "bytes": self.path.stat().st_size,
        }
