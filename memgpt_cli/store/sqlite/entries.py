"""The table of entries in the SQLite file."""

import contextlib
import json
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import apsw
import numpy as np

from memgpt_cli.errors import StoreError
from memgpt_cli.store.rules import as_json, check_row, checksum, keyed_hash, read_object, read_origins
from memgpt_cli.store.sqlite.file import Connection
from memgpt_cli.store.types import Filter, Row, Stored

TABLES = """
CREATE TABLE entries (id INTEGER PRIMARY KEY, ns INTEGER NOT NULL, hash BLOB NOT NULL, version INTEGER NOT NULL,
  searchable INTEGER NOT NULL, kind TEXT NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL, meta TEXT NOT NULL,
  provenance TEXT NOT NULL, text TEXT NOT NULL, sum BLOB NOT NULL, UNIQUE (ns, hash));
CREATE INDEX entries_ns ON entries (ns);
CREATE INDEX entries_silent ON entries (ns) WHERE NOT searchable;
"""
OLDEST = "SELECT id, length(CAST(text AS BLOB)) FROM entries WHERE ns=? ORDER BY created, id"
_TEXTS = ("text", "kind", "meta", "provenance", "created", "updated")
_COLUMNS = "id, version, searchable, " + ", ".join(
    f"CAST({name} AS BLOB)" for name in _TEXTS
)  # not every byte is UTF-8 for sure


def _as_text(value: bytes | None) -> str:
    return str(value or b"", "utf-8", "replace")


def _stored(row: tuple[Any, ...]) -> Stored:
    """An entry as it lies there. What somebody has damaged is read as far as it goes, so that it can be forgotten."""
    id, version, searchable, *texts = row
    text, kind, meta, provenance, created, updated = map(_as_text, texts)
    facts = read_object(meta) if meta != "{}" else {}
    number = version if isinstance(version, int) else 0
    return Stored(id, text, kind, facts, tuple(read_origins(provenance)), created, updated, number, bool(searchable))


def fetch(db: Connection, ns: int, ids: Sequence[int]) -> list[Stored]:
    if not len(ids):
        return []
    query = f"SELECT {_COLUMNS} FROM entries WHERE id IN carray(?) AND ns=? ORDER BY id"
    possible = [id for id in ids if 0 <= id < 1 << 63]
    return [_stored(row) for row in db.execute(query, (apsw.carray(np.array(possible, np.int64)), ns))] if possible else []


def texts(db: Connection, ns: int, ids: np.ndarray | None = None) -> Iterator[tuple[int, str]]:
    """Ids and texts of what can be found, or of `ids` alone."""
    only, values = ("", ()) if ids is None else (" AND id IN carray(?)", (apsw.carray(ids),))
    query = f"SELECT id, CAST(text AS BLOB) FROM entries WHERE ns=? AND searchable{only} ORDER BY id"
    return ((id, _as_text(text)) for id, text in db.execute(query, (ns, *values)))


def _conditions(where: Filter | None) -> tuple[str, list[Any]]:
    if where is None:
        return "", []
    kinds = f"kind IN ({','.join('?' * len(where.kinds))})"
    given = [(kinds, where.kinds), ("created>=?", (where.since,)), ("created<?", (where.before,))]
    used = [(sql, values) for sql, values in given if any(values)]
    return "".join(f" AND {sql}" for sql, _ in used), [value for _, values in used for value in values]


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


def without_vector(db: Connection, ns: int, encoder: int, after: int, limit: int) -> list[Stored]:
    """Searchable entries without a vector of the encoder."""
    query = f"""SELECT {_COLUMNS} FROM entries WHERE ns=? AND id>? AND searchable AND NOT EXISTS
                (SELECT 1 FROM codes WHERE codes.ns=entries.ns AND encoder=? AND codes.id=entries.id) ORDER BY id LIMIT ?"""
    return [_stored(row) for row in db.execute(query, (ns, after, encoder, limit))]


def known(db: Connection, ns: int, hashes: Sequence[bytes]) -> dict[bytes, tuple[int, list[dict[str, Any]]]]:
    """Ids and origins of the entries that have these hashes."""
    query = "SELECT hash, id, provenance FROM entries WHERE ns=? AND hash=?"
    return {hash: (id, read_origins(origins)) for hash, id, origins in db.executemany(query, ((ns, h) for h in hashes))}


def set_origins(db: Connection, ns: int, changed: dict[int, list[dict[str, Any]]], salt: bytes) -> None:
    query = "SELECT meta, provenance, sum FROM entries WHERE id=?"
    for entry in fetch(db, ns, list(changed)):
        meta, before, whole = db.execute(query, (entry.id,)).fetchone()
        after = as_json(changed[entry.id])
        if checksum(salt, entry, str(meta), str(before)) == whole:  # else `verify` goes on telling of it
            whole = checksum(salt, entry, str(meta), after)
        db.execute("UPDATE entries SET provenance=?, sum=? WHERE id=?", (after, whole, entry.id))


def insert(db: Connection, ns: int, new: Sequence[tuple[int, Row, bytes]], salt: bytes) -> None:
    def values() -> Iterator[tuple[Any, ...]]:
        for id, r, hash in new:
            meta, origins = as_json(r.meta), as_json(r.provenance)
            whole = checksum(salt, r, meta, origins)
            yield id, ns, hash, r.version, r.searchable, r.kind, r.created, r.updated, meta, origins, r.text, whole

    db.executemany("INSERT INTO entries VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", values())


def replace(db: Connection, id: int, row: Row, hash: bytes, salt: bytes) -> None:
    """Another text, kind, meta, …, under the same id."""
    meta, origins = as_json(row.meta), as_json(row.provenance)
    db.execute(
        "UPDATE entries SET text=?, kind=?, meta=?, provenance=?, hash=?, updated=?, version=?, searchable=?, sum=? WHERE id=?",
        (
            row.text,
            row.kind,
            meta,
            origins,
            hash,
            row.updated,
            row.version,
            row.searchable,
            checksum(salt, row, meta, origins),
            id,
        ),
    )


def add_checksums(db: Connection, salt: bytes) -> None:
    """What format 2 had not."""
    db.execute("ALTER TABLE entries ADD COLUMN sum BLOB NOT NULL DEFAULT x''")
    query = f"SELECT {_COLUMNS} FROM entries WHERE id>? ORDER BY id LIMIT 10000"
    after = -1
    while page := [(_stored(row), _as_text(row[5]), _as_text(row[6])) for row in db.execute(query, (after,))]:
        sums = [(checksum(salt, entry, meta, origins), entry.id) for entry, meta, origins in page]
        db.executemany("UPDATE entries SET sum=? WHERE id=?", sums)
        after = page[-1][0].id


def problems(db: Connection, salt: bytes) -> Iterator[tuple[int, int, int, str]]:
    """Of every entry its namespace, its id, the bytes of its text, and what is wrong with it (empty where nothing is)."""
    for ns, hash, whole, *row in db.execute(f"SELECT ns, hash, sum, {_COLUMNS} FROM entries ORDER BY id"):
        id, version, searchable, *texts = row
        text, kind, meta, provenance, created, updated = map(_as_text, texts)
        yield (
            ns,
            id,
            len(texts[0] or b""),
            _problem(Raw(hash, whole, version, searchable, text, kind, meta, provenance, created, updated), salt),
        )


class Raw(NamedTuple):
    """A row of the table, texts decoded and nothing parsed."""

    hash: bytes
    sum: bytes
    version: int
    searchable: int
    text: str
    kind: str
    meta: str
    provenance: str
    created: str
    updated: str


def _problem(raw: Raw, salt: bytes) -> str:
    try:
        meta, provenance = json.loads(raw.meta), json.loads(raw.provenance)
        row = Row(raw.text, raw.kind, meta, provenance, raw.created, raw.updated, raw.version, bool(raw.searchable))
        check_row(row, sizes=False)
    except (ValueError, RecursionError):
        return "its meta or provenance is no JSON"
    except StoreError as error:
        return str(error)
    if keyed_hash(salt, row.identity) != raw.hash:
        return "its text is not what was stored"
    if checksum(salt, row, raw.meta, raw.provenance) != raw.sum:
        return "its meta, provenance, dates or version are not what was stored"
    return ""
