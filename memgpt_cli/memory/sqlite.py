"""The embedded engine: one SQLite file is the single source of truth; search runs in RAM over what it holds."""

import contextlib
import itertools
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from memgpt_cli.errors import StoreError
from memgpt_cli.files import beside, remove_dead, told_of
from memgpt_cli.memory import entries, inspection, keys, mapped, records, words
from memgpt_cli.memory.database import FORMAT, Connection, Database
from memgpt_cli.memory.keys import Keys
from memgpt_cli.memory.protocol import Entries, Fetch, Paths, Problems, Rankings, Store
from memgpt_cli.memory.records import Edited, Filter, Item, Limits, Receipt, Row, Stored, Written, as_json, text_bytes

_PENDING = "UPDATE meta SET value=value+1 WHERE name='pending'"
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE namespaces (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rev INTEGER NOT NULL DEFAULT 0,
  entries INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0, limits TEXT NOT NULL DEFAULT '{}',
  sum BLOB NOT NULL DEFAULT x'');
"""
SCHEMA = _TABLES + entries.TABLES + keys.TABLES + words.TABLES


@dataclass(frozen=True)
class _Namespace:
    id: int
    rev: int
    entries: int
    bytes: int
    limits: Limits


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
        self._keys = Keys(path, "" if key else records.keyed_hash(self._salt, b"mapped codes").hex())

    def _open(self) -> bytes:
        read = "SELECT value FROM meta WHERE name=?"
        version = self._db.connection.pragma("user_version")
        if version == 0:
            with self._db.writing() as db:
                if not db.pragma("user_version"):  # else another process was first
                    db.execute(SCHEMA)
                    db.executemany(
                        "INSERT INTO meta VALUES (?, ?)",
                        [("salt", secrets.token_bytes(32)), ("next", 1), ("next_ns", 1), ("pending", 0)],
                    )
                    db.pragma("user_version", FORMAT)
            version = FORMAT
        salt = self._db.connection.execute(read, ("salt",)).get
        if not isinstance(salt, bytes):
            raise StoreError(f"{self.path} is damaged: it has lost its salt. Restore a snapshot or an export")
        if version == 2:
            with self._db.writing() as db:
                if db.pragma("user_version") == 2:
                    entries.add_checksums(db, salt)
                    db.execute("ALTER TABLE namespaces ADD COLUMN sum BLOB NOT NULL DEFAULT x''")
                    db.pragma("user_version", FORMAT)
        return salt

    def files(self) -> Paths:
        return [self.path, *(Path(f"{self.path}-{part}") for part in ("wal", "shm", "journal")), *self._keys.mapped_files()]

    def close(self) -> None:
        self._keys.close()
        self._db.close()

    # namespaces

    def _namespace(self, db: Connection, name: str) -> _Namespace | None:
        query = "SELECT id, rev, entries, bytes, limits FROM namespaces WHERE name=?"
        row = db.execute(query, (records.check_namespace(name),)).fetchone()
        if row is None:
            return None
        *numbers, limits = row
        id, rev, entries, size = (n if type(n) is int else 0 for n in numbers)  # `verify` tells of damage
        return _Namespace(id, rev, entries, size, records.read_limits(limits))

    def _make_namespace(self, db: Connection, name: str) -> _Namespace:
        found = self._namespace(db, name)
        if found is None:
            id = self._next(db, "next_ns", 1)  # never used twice: an index in another process may still be of the old one
            db.execute("INSERT INTO namespaces (id, name) VALUES (?, ?)", (id, name))
            found = _Namespace(id, 0, 0, 0, Limits())
        return found

    @staticmethod
    def _next(db: Connection, name: str, n: int) -> int:
        """The first of `n` fresh numbers."""
        return int(db.execute("UPDATE meta SET value=value+? WHERE name=? RETURNING value-?", (n, name, n)).get)

    # writing

    def restore(self, namespace: str, rows: Sequence[Row]) -> Written:
        if not rows:
            return Written([], 0)
        rows = [records.check_row(row) for row in rows]
        with self._db.writing() as db:
            ns = self._make_namespace(db, namespace)
            hashes = [records.keyed_hash(self._salt, row.identity) for row in rows]
            fresh = itertools.count(self._next(db, "next", len(rows)))
            ids, new, changed = records.merge(rows, hashes, entries.known(db, ns.id, hashes), fresh)
            entries.set_origins(db, ns.id, changed, self._salt)
            grown = sum(text_bytes(row.text) for _, row, _ in new)
            db.execute("UPDATE namespaces SET rev=rev+1, entries=entries+?, bytes=bytes+? WHERE id=?", (len(new), grown, ns.id))
            entries.insert(db, ns.id, new, self._salt)
            words.add(db, ns.id, ((id, row.text) for id, row, _ in new if row.searchable))
            self._add_keys(db, ns, ids, rows, new[0][0] if new else 1 << 62)
            victims = self._make_room(db, namespace, ids)
        pending = self._finish_erasing(ns.id, victims) if victims else ""
        return Written(ids, len(new), len(victims), pending)

    def _add_keys(self, db: Connection, ns: _Namespace, ids: Sequence[int], rows: Sequence[Row], first_new: int) -> None:
        for fingerprint, keyed, found in records.keys_by_encoder(ids, rows):
            self._keys.write(db, ns.id, fingerprint, keyed, found, late=keyed[0] < first_new)

    def edit(self, namespace: str, id: int, item: Item, if_version: int | None = None) -> Edited:
        keys = {} if item.key is None or not item.searchable else {self.fingerprint: item.key}
        moment = records.now()
        row = records.check_row(Row(item.text, item.kind, item.meta, [], moment, moment, 1, item.searchable, keys))
        with self._db.writing() as db:
            ns = self._namespace(db, namespace)
            (found,) = (entries.fetch(db, ns.id, [id]) if ns else []) or (None,)
            old = records.check_edit(namespace, id, found, if_version)
            assert ns is not None
            row.provenance, row.created, row.version = list(old.provenance), old.created, old.version + 1
            hash = records.keyed_hash(self._salt, row.identity)
            twin = db.execute("SELECT id FROM entries WHERE ns=? AND hash=? AND id<>?", (ns.id, hash, id)).fetchone()
            if twin:
                raise StoreError(f"entry {twin[0]} says the same already: forget one of the two")
            had_key = self._keys.has(db, ns.id, self.fingerprint, id)
            self._remove_search(db, ns.id, [old])
            entries.replace(db, id, row, hash, self._salt)
            if row.searchable:
                words.add(db, ns.id, [(id, row.text)])
            words.leave_no_separator(db, ns.id, [old.text])
            self._changed(db, ns.id, [id], 0, text_bytes(row.text) - text_bytes(old.text))
            self._add_keys(db, ns, [id], [row], first_new=id if had_key else 1 << 62)
            (new,) = entries.fetch(db, ns.id, [id])
            victims = self._make_room(db, namespace, [id])
        return Edited(new, self._finish_erasing(ns.id, [id, *victims]))

    # forgetting

    def forget(
        self, namespace: str, ids: Sequence[int] | None = None, where: Filter | None = None, everything: bool = False
    ) -> Receipt:
        records.check_choice(ids, where, everything)
        with self._db.writing() as db:
            ns = self._namespace(db, namespace)
            if ns is None:
                return Receipt("erased", 0)
            gone = self._delete(db, ns, entries.select(db, ns.id, where) if ids is None else sorted(set(map(int, ids))))
            if everything:
                for table in ("codebooks", "codes", "changes"):
                    db.execute(f"DELETE FROM {table} WHERE ns=?", (ns.id,))
                db.execute("DELETE FROM namespaces WHERE id=?", (ns.id,))
                db.execute(_PENDING)
        reason = self._finish_erasing(ns.id, gone) if gone or everything else ""
        return Receipt("pending" if reason else "erased", len(gone), reason)

    def _delete(self, db: Connection, ns: _Namespace, ids: Sequence[int]) -> list[int]:
        """Deletes those entries that are there; returns their ids."""
        gone: list[int] = []
        many = len(ids) > words.MANY
        if many:
            words.begin_removing_many(db)
        silent = entries.silent(db, ns.id)
        for first in range(0, len(ids), 5000):
            old = entries.fetch(db, ns.id, ids[first : first + 5000])
            there = {e.id for e in old}
            old += [e for e in entries.fetch(db, ns.id, records.echoes(old, silent)) if e.id not in there]
            self._remove_search(db, ns.id, old)
            db.executemany("DELETE FROM entries WHERE id=?", ((e.id,) for e in old))
            self._changed(db, ns.id, [e.id for e in old], -len(old), -sum(text_bytes(e.text) for e in old))
            gone += [e.id for e in old]
            if not many:
                words.leave_no_separator(db, ns.id, (e.text for e in old))
        if many:
            words.end_removing_many(db)
        return gone

    def _remove_search(self, db: Connection, ns: int, entries: Sequence[Stored]) -> None:
        """Takes entries out of the index of words, and their keys and codes away."""
        words.remove(db, ns, [(e.id, e.text) for e in entries if e.searchable])
        for encoder in self._keys.encoders(db).values():
            self._keys.delete(db, ns, [e.id for e in entries], encoder)

    def _changed(self, db: Connection, ns: int, ids: Sequence[int], entries: int, size: int) -> None:
        """Tells the indices of every process that these ids are gone or new."""
        query = "UPDATE namespaces SET rev=rev+1, entries=entries+?, bytes=bytes+? WHERE id=? RETURNING rev"
        self._keys.log(db, ns, db.execute(query, (entries, size, ns)).get, ids)
        db.execute(_PENDING)

    def _finish_erasing(self, ns: int = 0, ids: Sequence[int] | None = None) -> str:
        """Erases what was deleted from every file of the store; returns why it could not, if it could not.

        The deletion itself is done by then, so nothing is raised. `pending` counts deletions: it goes back to 0 only if
        no other process has deleted meanwhile, and where others had left theirs pending, all mapped files go.
        """
        try:
            with self._db.reading() as db:
                count = db.execute("SELECT value FROM meta WHERE name='pending'").get
            if not self._db.erase():
                return "another process is still reading what was there before: `memgpt memory compact` finishes it"
            if ids is None or count > 1:
                mapped.discard(self._keys.mapped_files())
            else:
                self._keys.erase_mapped(ns, ids)
            with self._db.writing() as db:
                db.execute("UPDATE meta SET value=0 WHERE name='pending' AND value=?", (count,))
        except StoreError as error:
            return f"{error}; `memgpt memory compact` finishes it"
        return ""

    def _make_room(self, db: Connection, namespace: str, newest: Sequence[int]) -> list[int]:
        """Keeps to the limits: refuses, or forgets the oldest; what is too old goes in any case."""
        ns = self._namespace(db, namespace)
        if ns is None or ns.limits == Limits():
            return []
        gone = self._delete_old(db, ns)
        ns = self._namespace(db, namespace)
        assert ns is not None
        oldest = ((id, size) for id, size in db.execute(entries.OLDEST, (ns.id,)))
        return gone + self._delete(db, ns, records.victims(namespace, ns.limits, ns.entries, ns.bytes, oldest, set(newest)))

    def _delete_old(self, db: Connection, ns: _Namespace) -> list[int]:
        if not ns.limits.max_age_days:
            return []
        return self._delete(db, ns, entries.select(db, ns.id, Filter(before=records.oldest_allowed(ns.limits))))

    def expire(self, namespace: str) -> Receipt:
        with self._db.reading() as db:
            ns = self._namespace(db, namespace)
        if ns is None or not ns.limits.max_age_days:
            return Receipt("erased", 0)
        with self._db.writing() as db:
            ns = self._namespace(db, namespace)
            gone = self._delete_old(db, ns) if ns else []
        reason = self._finish_erasing(ns.id, gone) if ns and gone else ""
        return Receipt("pending" if reason else "erased", len(gone), reason)

    # reading

    def get(self, namespace: str, ids: Sequence[int]) -> list[Stored]:
        with self._db.reading() as db:
            ns = self._namespace(db, namespace)
            return entries.fetch(db, ns.id, ids) if ns else []

    def list(self, namespace: str, where: Filter | None = None, after: int = 0, limit: int = 1000) -> Entries:
        with self._db.reading() as db:
            ns = self._namespace(db, namespace)
            if ns is None:
                return []
            with contextlib.closing(entries.rows(db, ns.id, where, after)) as rows:
                return [e for _, e in zip(range(limit), rows, strict=False)]

    # searching

    @contextlib.contextmanager
    def _ranked(
        self, namespace: str, vectors: np.ndarray | None, texts: Sequence[str] | None, k: int, where: Filter | None
    ) -> Iterator[tuple[Rankings, Rankings, Fetch]]:
        with self._db.reading() as db:
            ns = self._namespace(db, namespace)
            if ns is None:
                yield [], [], lambda ids: []
                return
            allowed = None if where is None or where == Filter() else np.array(entries.select(db, ns.id, where), np.int64)
            near: Rankings = []
            if vectors is not None:
                near = self._keys.search(db, ns.id, ns.rev, self.fingerprint, vectors, k, allowed)
            said = [words.search(db, ns.id, ns.entries, text, k, allowed) for text in texts or ()]
            yield near, said, lambda ids: entries.fetch(db, ns.id, ids)

    # keys

    def unkeyed(self, namespace: str, after: int = 0, limit: int = 1000) -> Entries:
        with self._db.reading() as db:
            ns = self._namespace(db, namespace)
            if ns is None:
                return []
            encoder = self._keys.encoder(db, self.fingerprint)
            return entries.unkeyed(db, ns.id, encoder.id if encoder else 0, after, limit)

    def rekey(self, namespace: str, ids: Sequence[int], texts: Sequence[str], keys: np.ndarray) -> int:
        found = records.check_keys(list(keys))
        with self._db.writing() as db:
            ns = self._namespace(db, namespace)
            now = {e.id: e.text for e in (entries.fetch(db, ns.id, ids) if ns else []) if e.searchable}
            same = {id: key for id, text, key in zip(ids, texts, found, strict=True) if now.get(id) == text}
            if ns is None or not same:
                return 0
            order = sorted(same)
            keyed = np.stack([same[i] for i in order])
            added = self._keys.write(db, ns.id, self.fingerprint, order, keyed, late=True)
            db.execute("UPDATE namespaces SET rev=rev+1 WHERE id=?", (ns.id,))
            return added

    def retire(self, namespace: str) -> Receipt:
        retired = 0
        with self._db.writing() as db:
            ns = self._namespace(db, namespace)
            for fingerprint, encoder in self._keys.encoders(db).items() if ns else ():
                if ns is None or fingerprint == self.fingerprint:
                    continue
                ids = [id for (id,) in db.execute("SELECT id FROM codes WHERE ns=? AND encoder=?", (ns.id, encoder.id))]
                self._keys.delete(db, ns.id, ids, encoder)
                db.execute("DELETE FROM codebooks WHERE ns=? AND encoder=?", (ns.id, encoder.id))
                retired += len(ids)
            if retired:
                db.execute(_PENDING)
        reason = self._finish_erasing() if retired else ""
        return Receipt("pending" if reason else "erased", retired, reason)

    def keys(self, namespace: str, ids: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
        with self._db.reading() as db:
            ns = self._namespace(db, namespace)
            here = [e.id for e in entries.fetch(db, ns.id, ids)] if ns else []
            out = {}
            for fingerprint, encoder in self._keys.encoders(db).items():
                found = self._keys.read(db, encoder, np.array(here, np.int64))
                own = {id: key for id, key in zip(here, found, strict=True) if np.isfinite(key[0])}
                if own:
                    out[fingerprint] = own
            return out

    # the store

    def limits(self, namespace: str) -> Limits:
        with self._db.reading() as db:
            ns = self._namespace(db, namespace)
            return ns.limits if ns else Limits()

    def set_limits(self, namespace: str, limits: Limits) -> None:
        with self._db.writing() as db:
            ns = self._make_namespace(db, namespace)
            text = as_json(asdict(limits))
            sum = records.keyed_hash(self._salt, text.encode())
            db.execute("UPDATE namespaces SET limits=?, sum=? WHERE id=?", (text, sum, ns.id))

    def stats(self, namespace: str) -> dict[str, Any]:
        with self._db.reading() as db:
            ns = self._namespace(db, namespace)
            counts = inspection.statistics(db, ns.id if ns else 0, self.fingerprint)
        return {
            "store": self.url,
            "namespace": namespace,
            "entries": ns.entries if ns else 0,
            "text_bytes": ns.bytes if ns else 0,
            **counts,
            "limits": asdict(ns.limits if ns else Limits()),
            "store_bytes": sum(f.stat().st_size for f in self.files() if f.exists()),
        }

    def verify(self) -> Problems:
        with self._db.reading() as db:
            return [*inspection.problems(db, self._salt, self._keys, SCHEMA)]

    def compact(self) -> Receipt:
        with self._db.writing() as db:
            for ns, encoder in db.execute("SELECT ns, encoder FROM codebooks").fetchall():
                mine = next(e for e in self._keys.encoders(db).values() if e.id == encoder)
                self._keys.code(db, ns, mine)
            db.execute("UPDATE namespaces SET rev=rev+1")
            words.optimise(db)
        self._db.vacuum()
        reason = self._finish_erasing()
        return Receipt("pending" if reason else "erased", 0, reason)

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

    def capabilities(self) -> dict[str, Any]:
        return {
            "engine": "sqlite",
            "version": apsw.sqlite_lib_version(),
            "encrypted": self._db.encrypted,
            "search": ["keys", "words", "both, fused by reciprocal rank"],
            "erasure": "physical: after `erased` the bytes are in no file of the store, its log included",
            "not_erased": "copies made before: snapshots, exports, backups, and what the file system or the drive keeps",
            "snapshot": True,
        }
