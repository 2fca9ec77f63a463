"""The embedded engine: one SQLite file is the single source of truth; search runs in RAM over what it holds."""

import contextlib
import itertools
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from memgpt_cli.errors import StoreError
from memgpt_cli.files import beside, remove_dead, told_of
from memgpt_cli.store import rules
from memgpt_cli.store.engine import Entries, Ids, Origins, Paths, Problems, Rankings
from memgpt_cli.store.lexical import TERMS
from memgpt_cli.store.protocol import Store
from memgpt_cli.store.rules import as_json, text_bytes
from memgpt_cli.store.sqlite import entries, inspection, vectors, words
from memgpt_cli.store.sqlite.file import FORMAT, Connection, Database
from memgpt_cli.store.sqlite.vectors import Vectors
from memgpt_cli.store.types import Capabilities, Filter, Limits, Namespace, Receipt, Row, Stored, StoreStats

_PENDING = "UPDATE meta SET value=value+1 WHERE name='pending'"
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE namespaces (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rev INTEGER NOT NULL DEFAULT 0,
  entries INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0, terms INTEGER NOT NULL DEFAULT 0, limits TEXT NOT NULL DEFAULT '{}',
  sum BLOB NOT NULL DEFAULT x'');
"""
SCHEMA = _TABLES + entries.TABLES + vectors.TABLES + words.TABLES


class SqliteStore(Store):
    """See `Store`. `key` encrypts the file; it is kept in this process only."""

    def __init__(self, path: Path, fingerprint: str = "", key: str = "", create: bool = True) -> None:
        self.path, self.url, self.fingerprint = path, str(path), fingerprint
        self._db = Database(path, key, create)
        try:
            with self._db.errors("cannot be opened as a memory store"):
                self._salt = self._open()
        except BaseException:
            self._db.connection.close()
            raise
        self._index = Vectors(path)

    def _open(self) -> bytes:
        read = "SELECT value FROM meta WHERE name=?"
        version = self._db.connection.pragma("user_version")
        if version == 0:
            with self._db.writing() as db:
                if not db.pragma("user_version"):  # else another process was first
                    db.execute(SCHEMA)
                    db.executemany(
                        "INSERT INTO meta VALUES (?, ?)",
                        [("salt", secrets.token_bytes(32)), ("next", 1), ("next_ns", 1), ("pending", 0), ("terms", TERMS)],
                    )
                    db.pragma("user_version", FORMAT)
            version = FORMAT
        salt = self._db.connection.execute(read, ("salt",)).get
        if not isinstance(salt, bytes):
            raise StoreError(f"{self.path} is damaged: it has lost its salt. Restore a snapshot or an export")
        if version < FORMAT or self._db.connection.execute(read, ("terms",)).get != TERMS:
            with self._db.writing() as db:  # else another process was first
                if (version := db.pragma("user_version")) == 2:
                    entries.add_checksums(db, salt)
                    db.execute("ALTER TABLE namespaces ADD COLUMN sum BLOB NOT NULL DEFAULT x''")
                if version < FORMAT:
                    db.execute("ALTER TABLE namespaces ADD COLUMN terms INTEGER NOT NULL DEFAULT 0")
                    db.execute("CREATE VIRTUAL TABLE word_places USING fts5vocab(words, instance)")
                    db.pragma("user_version", FORMAT)
                if db.execute(read, ("terms",)).get != TERMS:
                    words.make_anew(db)
        return salt

    def files(self) -> Paths:
        return [self.path, *(Path(f"{self.path}-{part}") for part in ("wal", "shm", "journal"))]

    def close(self) -> None:
        self._index.close()
        self._db.close()

    def _writing(self) -> AbstractContextManager[Connection]:
        return self._db.writing()

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._db.reading()

    # namespaces

    def _namespace(self, db: Connection, name: str, lock: bool = False) -> Namespace | None:
        query = "SELECT id, rev, entries, bytes, limits FROM namespaces WHERE name=?"
        row = db.execute(query, (rules.check_namespace(name),)).fetchone()
        if row is None:
            return None
        *numbers, limits = row
        id, rev, entries, size = (n if type(n) is int else 0 for n in numbers)  # `verify` tells of damage
        return Namespace(id, rev, entries, size, rules.read_limits(limits))

    def _make_namespace(self, db: Connection, name: str) -> Namespace:
        found = self._namespace(db, name)
        if found is None:
            id = self._next(db, "next_ns", 1)  # never used twice: an index in another process may still be of the old one
            db.execute("INSERT INTO namespaces (id, name) VALUES (?, ?)", (id, name))
            found = Namespace(id, 0, 0, 0, Limits())
        return found

    @staticmethod
    def _next(db: Connection, name: str, n: int) -> int:
        """The first of `n` fresh numbers."""
        return int(db.execute("UPDATE meta SET value=value+? WHERE name=? RETURNING value-?", (n, name, n)).get)

    def _drop(self, db: Connection, ns: Namespace) -> None:
        for table in ("codebooks", "codes", "changes"):
            db.execute(f"DELETE FROM {table} WHERE ns=?", (ns.id,))
        db.execute("DELETE FROM namespaces WHERE id=?", (ns.id,))
        db.execute("DELETE FROM meta WHERE name=?", (f"settings {ns.id}",))
        db.execute(_PENDING)

    def _write_limits(self, db: Connection, ns: Namespace, limits: Limits) -> None:
        text = as_json(asdict(limits))
        sum = rules.keyed_hash(self._salt, text.encode())
        db.execute("UPDATE namespaces SET limits=?, sum=? WHERE id=?", (text, sum, ns.id))

    def _read_settings(self, db: Connection, ns: Namespace) -> str:
        return str(db.execute("SELECT value FROM meta WHERE name=?", (f"settings {ns.id}",)).get or "{}")

    def _write_settings(self, db: Connection, ns: Namespace, text: str) -> None:
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"settings {ns.id}", text))

    # entries

    def _hash(self, ns: Namespace, identity: bytes) -> bytes:
        return rules.keyed_hash(self._salt, identity)

    def _known(self, db: Connection, ns: Namespace, hashes: Sequence[bytes]) -> dict[bytes, tuple[int, Origins]]:
        return entries.known(db, ns.id, hashes)

    def _fresh(self, db: Connection, count: int) -> Iterator[int]:
        return itertools.count(self._next(db, "next", count))

    def _insert(self, db: Connection, ns: Namespace, new: Sequence[tuple[int, Row, bytes]]) -> None:
        grown = sum(text_bytes(row.text) for _, row, _ in new)
        db.execute("UPDATE namespaces SET rev=rev+1, entries=entries+?, bytes=bytes+? WHERE id=?", (len(new), grown, ns.id))
        entries.insert(db, ns.id, new, self._salt)
        words.add(db, ns.id, ((id, row.text) for id, row, _ in new if row.searchable))

    def _set_origins(self, db: Connection, ns: Namespace, changed: dict[int, Origins]) -> None:
        entries.set_origins(db, ns.id, changed, self._salt)

    def _replace(self, db: Connection, ns: Namespace, old: Stored, row: Row, hash: bytes) -> None:
        self._remove_search(db, ns.id, [old])
        entries.replace(db, old.id, row, hash, self._salt)
        if row.searchable:
            words.add(db, ns.id, [(old.id, row.text)])
        words.leave_no_separator(db, ns.id, [old.text])
        self._changed(db, ns.id, [old.id], 0, text_bytes(row.text) - text_bytes(old.text))

    @contextlib.contextmanager
    def _removing(self, db: Connection, count: int) -> Iterator[bool]:
        many = count > words.MANY
        if many:
            words.begin_removing_many(db)
        yield many
        if many:
            words.end_removing_many(db)

    def _remove(self, db: Connection, ns: Namespace, entries: Sequence[Stored], many: bool) -> None:
        self._remove_search(db, ns.id, entries)
        db.executemany("DELETE FROM entries WHERE id=?", ((e.id,) for e in entries))
        self._changed(db, ns.id, [e.id for e in entries], -len(entries), -sum(text_bytes(e.text) for e in entries))
        if not many:
            words.leave_no_separator(db, ns.id, (e.text for e in entries))

    def _remove_search(self, db: Connection, ns: int, entries: Sequence[Stored]) -> None:
        """Takes entries out of the index of words, and their vectors and codes away."""
        words.remove(db, ns, [(e.id, e.text) for e in entries if e.searchable])
        for encoder in self._index.encoders(db).values():
            self._index.delete(db, ns, [e.id for e in entries], encoder)

    def _changed(self, db: Connection, ns: int, ids: Sequence[int], entries: int, size: int) -> None:
        """Tells the indices of every process that these ids are gone or new."""
        query = "UPDATE namespaces SET rev=rev+1, entries=entries+?, bytes=bytes+? WHERE id=? RETURNING rev"
        self._index.log(db, ns, db.execute(query, (entries, size, ns)).get, ids)
        db.execute(_PENDING)

    def _count(self, db: Connection, ns: Namespace) -> None:
        db.execute("UPDATE namespaces SET rev=rev+1 WHERE id=?", (ns.id,))

    def _erase(self, everything: bool = False) -> str:
        """`pending` counts deletions: it goes back to 0 only if no other process has deleted meanwhile."""
        if everything:
            self._index.close()  # its vectors are in RAM no more
        try:
            with self._db.reading() as db:
                count = db.execute("SELECT value FROM meta WHERE name='pending'").get
            if not self._db.erase():
                return "another process is still reading what was there before: `memgpt memory compact` finishes it"
            with self._db.writing() as db:
                db.execute("UPDATE meta SET value=0 WHERE name='pending' AND value=?", (count,))
        except StoreError as error:
            return f"{error}; `memgpt memory compact` finishes it"
        return ""

    def _fetch(self, db: Connection, ns: Namespace, ids: Sequence[int]) -> Entries:
        return entries.fetch(db, ns.id, ids)

    def _silent(self, db: Connection, ns: Namespace) -> Entries:
        return entries.silent(db, ns.id)

    def _rows(self, db: Connection, ns: Namespace, where: Filter | None, after: int, limit: int) -> Any:
        return entries.rows(db, ns.id, where, after)

    def _select(self, db: Connection, ns: Namespace, where: Filter | None) -> Ids:
        return entries.select(db, ns.id, where)

    def _oldest(self, db: Connection, ns: Namespace) -> Iterable[tuple[int, int]]:
        return ((id, size) for id, size in db.execute(entries.OLDEST, (ns.id,)))

    # searching, and vectors

    def _ranked(
        self, db: Connection, ns: Namespace, vectors: np.ndarray | None, texts: Sequence[str] | None, k: int, where: Filter
    ) -> tuple[Rankings, Rankings]:
        allowed = np.array(entries.select(db, ns.id, where), np.int64) if where.narrows else None
        near: Rankings = []
        if vectors is not None:
            near = self._index.search(db, ns.id, ns.rev, self.fingerprint, vectors, k, allowed)
        return near, [words.search(db, ns.id, text, k, allowed) for text in texts or ()]

    def _write_vectors(
        self, db: Connection, ns: Namespace, fingerprint: str, ids: Sequence[int], vectors: np.ndarray, late: bool
    ) -> int:
        return self._index.write(db, ns.id, fingerprint, ids, vectors, late)

    def _has_vector(self, db: Connection, ns: Namespace, id: int) -> bool:
        return self._index.has(db, ns.id, self.fingerprint, id)

    def _without_vector(self, db: Connection, ns: Namespace, after: int, limit: int) -> Entries:
        encoder = self._index.encoder(db, self.fingerprint)
        return entries.without_vector(db, ns.id, encoder.id if encoder else 0, after, limit)

    def _delete_other_vectors(self, db: Connection, ns: Namespace) -> int:
        retired = 0
        for fingerprint, encoder in self._index.encoders(db).items():
            if fingerprint != self.fingerprint:
                ids = [id for (id,) in db.execute("SELECT id FROM codes WHERE ns=? AND encoder=?", (ns.id, encoder.id))]
                self._index.delete(db, ns.id, ids, encoder)
                db.execute("DELETE FROM codebooks WHERE ns=? AND encoder=?", (ns.id, encoder.id))
                retired += len(ids)
        if retired:
            db.execute(_PENDING)
        return retired

    def _read_vectors(self, db: Connection, ns: Namespace, ids: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
        out = {}
        for fingerprint, encoder in self._index.encoders(db).items():
            found = self._index.read(db, encoder, np.array(ids, np.int64))
            own = {id: vector for id, vector in zip(ids, found, strict=True) if np.isfinite(vector[0])}
            if own:
                out[fingerprint] = own
        return out

    # the store

    def stats(self, namespace: str) -> StoreStats:
        with self._db.reading() as db:
            ns = self._namespace(db, namespace) or Namespace(0, 0, 0, 0, Limits())
            counts = inspection.statistics(db, ns.id, self.fingerprint)
        size = sum(f.stat().st_size for f in self.files() if f.exists())
        return StoreStats(self.url, namespace, ns.entries, ns.bytes, **counts, limits=ns.limits, store_bytes=size)

    def verify(self) -> Problems:
        with self._db.reading() as db:
            return [*inspection.problems(db, self._salt, self._index, SCHEMA)]

    def compact(self) -> Receipt:
        with self._db.writing() as db:
            for ns, encoder in db.execute("SELECT ns, encoder FROM codebooks").fetchall():
                mine = next(e for e in self._index.encoders(db).values() if e.id == encoder)
                self._index.code(db, ns, mine)
            db.execute("UPDATE namespaces SET rev=rev+1")
            words.optimise(db)
        self._db.vacuum()
        return self._receipt(0, self._erase())

    def snapshot(self, path: Path) -> None:
        if os.path.lexists(path):
            raise StoreError(f"{path} is there already: a snapshot never replaces a file")
        partial = beside(path)
        remove_dead(path)
        with self._db.errors(f"could not be copied to {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with told_of(partial, path):
                    partial.touch(mode=0o600)  # as empty as VACUUM INTO wants it
                    self._db.connection.execute("VACUUM INTO ?", (str(partial),))
                    os.rename(partial, path)
            finally:
                partial.unlink(missing_ok=True)

    def capabilities(self) -> Capabilities:
        return Capabilities(
            engine="sqlite",
            version=apsw.sqlite_lib_version(),
            encrypted=self._db.encrypted,
            index="this process, in RAM",
            erasure="physical",
            erases="after `erased` the bytes are in no file of the store, its log included",
            not_erased="copies made before: snapshots, exports, backups, and what the file system or the drive keeps",
            snapshot=True,
        )


def open_sqlite(url: str, fingerprint: str, key: str, create: bool) -> Store:
    """The file of `sqlite:///path`; four slashes where the path begins at the root."""
    return SqliteStore(Path(url.removeprefix("sqlite:///")).expanduser(), fingerprint, key, create)
