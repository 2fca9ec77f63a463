"""The table of entries in the SQLite file."""

import contextlib
import json
from collections.abc import Generator, Sequence
from typing import Any

import apsw
import numpy as np

from memgpt_cli.memory.database import Connection
from memgpt_cli.memory.records import Filter, Row, Stored, as_json

TABLES = """
CREATE TABLE entries (id INTEGER PRIMARY KEY, ns INTEGER NOT NULL, hash BLOB NOT NULL, version INTEGER NOT NULL,
  searchable INTEGER NOT NULL, kind TEXT NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL, meta TEXT NOT NULL,
  provenance TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (ns, hash));
CREATE INDEX entries_ns ON entries (ns);
CREATE INDEX entries_silent ON entries (ns) WHERE NOT searchable;
"""
OLDEST = "SELECT id, length(CAST(text AS BLOB)) FROM entries WHERE ns=? ORDER BY created, id"
_COLUMNS = "id, text, kind, meta, provenance, created, updated, version, searchable"


def _stored(row: tuple[Any, ...]) -> Stored:
    id, text, kind, meta, provenance, created, updated, version, searchable = row
    facts = json.loads(meta) if meta != "{}" else {}
    return Stored(id, text, kind, facts, tuple(json.loads(provenance)), created, updated, version, bool(searchable))


def fetch(db: Connection, ns: int, ids: Sequence[int]) -> list[Stored]:
    if not len(ids):
        return []
    query = f"SELECT {_COLUMNS} FROM entries WHERE id IN carray(?) AND ns=? ORDER BY id"
    return [_stored(row) for row in db.execute(query, (apsw.carray(np.array(ids, np.int64)), ns))]


def _conditions(where: Filter | None) -> tuple[str, list[Any]]:
    given = [] if where is None else [("kind=?", where.kind), ("created>=?", where.since), ("created<?", where.before)]
    used = [(sql, value) for sql, value in given if value]
    return "".join(f" AND {sql}" for sql, _ in used), [value for _, value in used]


def rows(db: Connection, ns: int, where: Filter | None, after: int = 0) -> Generator[Stored, None, None]:
    """Entries in order, one by one; to be closed, since a cursor left open keeps its snapshot."""
    conditions, values = _conditions(where)
    query = f"SELECT {_COLUMNS} FROM entries WHERE ns=? AND id>?{conditions} ORDER BY id"
    with contextlib.closing(db.execute(query, (ns, after, *values))) as cursor:
        for entry in map(_stored, cursor):
            if where is None or where.matches_content(entry):
                yield entry


def select(db: Connection, ns: int, where: Filter | None) -> list[int]:
    """Ids of the entries meant, ascending."""
    if where is not None and where.needs_content:
        return [e.id for e in rows(db, ns, where)]
    conditions, values = _conditions(where)
    return [id for (id,) in db.execute(f"SELECT id FROM entries WHERE ns=?{conditions} ORDER BY id", (ns, *values))]


def silent(db: Connection, ns: int) -> list[Stored]:
    """Entries that are kept, but never found."""
    query = f"SELECT {_COLUMNS} FROM entries WHERE ns=? AND NOT searchable ORDER BY id"
    return [_stored(row) for row in db.execute(query, (ns,))]


def unkeyed(db: Connection, ns: int, encoder: int, after: int, limit: int) -> list[Stored]:
    """Searchable entries without a key of the encoder."""
    query = f"""SELECT {_COLUMNS} FROM entries WHERE ns=? AND id>? AND searchable AND NOT EXISTS
                (SELECT 1 FROM codes WHERE codes.ns=entries.ns AND encoder=? AND codes.id=entries.id) ORDER BY id LIMIT ?"""
    return [_stored(row) for row in db.execute(query, (ns, after, encoder, limit))]


def known(db: Connection, ns: int, hashes: Sequence[bytes]) -> dict[bytes, tuple[int, list[dict[str, Any]]]]:
    """Ids and origins of the entries that have these hashes."""
    query = "SELECT hash, id, provenance FROM entries WHERE ns=? AND hash=?"
    return {hash: (id, json.loads(origins)) for hash, id, origins in db.executemany(query, ((ns, h) for h in hashes))}


def set_origins(db: Connection, changed: dict[int, list[dict[str, Any]]]) -> None:
    rows = [(as_json(origins), id) for id, origins in changed.items()]
    db.executemany("UPDATE entries SET provenance=? WHERE id=?", rows)


def insert(db: Connection, ns: int, new: list[tuple[int, Row, bytes]]) -> None:
    db.executemany(
        "INSERT INTO entries VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        (
            (id, ns, hash, r.version, r.searchable, r.kind, r.created, r.updated, as_json(r.meta), as_json(r.provenance), r.text)
            for id, r, hash in new
        ),
    )  # fmt: skip
