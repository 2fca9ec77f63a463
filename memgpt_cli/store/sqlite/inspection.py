"""What a SQLite store holds, and whether it is whole."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import apsw

from memgpt_cli.errors import ConfigError, StoreError
from memgpt_cli.store.rules import check_namespace, keyed_hash
from memgpt_cli.store.sqlite import entries, words
from memgpt_cli.store.sqlite.file import Connection
from memgpt_cli.store.sqlite.vectors import TABLE_OF_VECTORS, Vectors
from memgpt_cli.store.types import Limits


def statistics(db: Connection, ns: int, fingerprint: str) -> dict[str, Any]:
    """The counts of `StoreStats` of one namespace."""

    def counts(what: str) -> dict[Any, int]:
        return dict(db.execute(f"SELECT {what}, count(*) FROM entries WHERE ns=? GROUP BY 1 ORDER BY 1", (ns,)).fetchall())

    kind = "iif(typeof(kind)='text', kind, '(damaged)')"
    keyed = "SELECT count(*) FROM codes WHERE ns=? AND encoder=?"
    encoders = {mark: db.execute(keyed, (ns, encoder.id)).get for mark, encoder in Vectors.encoders(db).items()}
    searchable = db.execute("SELECT count(*) FROM entries WHERE ns=? AND searchable", (ns,)).get
    return {
        "kinds": counts(kind),
        "months": counts("iif(created GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-*', substr(created, 1, 7), '(damaged)')"),
        "lengths": {str(2**n): count for n, count in counts("CAST(log2(max(1, length(text))) AS INTEGER)").items()},
        "encoders": {mark: n for mark, n in encoders.items() if n},
        "without_vector": searchable - (encoders.get(fingerprint, 0) if fingerprint else max(encoders.values(), default=0)),
        "erasure_pending": bool(db.execute("SELECT value FROM meta WHERE name='pending'").get),
    }


def problems(db: Connection, salt: bytes, vectors: Vectors, schema: str) -> Iterator[str]:
    """What is wrong with the whole store."""
    try:
        yield from _problems(db, salt, vectors, schema)
    except (apsw.Error, StoreError) as error:
        yield f"what follows cannot be read: {error}"


def _problems(db: Connection, salt: bytes, vectors: Vectors, schema: str) -> Iterator[str]:
    try:
        for (line,) in db.execute("PRAGMA integrity_check").fetchall():
            if line != "ok":
                yield f"SQLite: {line}"
    except apsw.CorruptError as error:
        yield f"SQLite: {error}"
        return
    yield from _foreign(db, schema)
    sums: dict[int, list[int]] = {}
    for ns, id, size, problem in entries.problems(db, salt):
        if problem:
            yield f"entry {id}: {problem}"
        searchable = db.execute("SELECT searchable FROM entries WHERE id=?", (id,)).get
        indexed = db.execute("SELECT sz FROM words_docsize WHERE id=?", (id,)).get
        if (indexed is not None) != bool(searchable):
            yield f"entry {id}: the index of words does not fit it"
        total = sums.setdefault(ns, [0, 0, 0])
        for n, more in enumerate((1, size, words.number(indexed))):
            total[n] += more
    for id, name, counted, size, terms, limits, sum in db.execute(
        "SELECT id, name, entries, bytes, terms, limits, sum FROM namespaces"
    ).fetchall():
        if problem := _limits_problem(name, limits, sum, salt):
            yield f"namespace {id}: {problem}"
        found = sums.pop(id, [0, 0, 0])
        if found != [counted, size, terms]:
            yield f"namespace {id}: counted {found} entries, bytes and terms, noted {[counted, size, terms]}"
    yield from (f"namespace {id}: {n} entries belong to no namespace" for id, (n, *_) in sums.items())
    try:
        yield from vectors.check(db)
    except (TypeError, ValueError, IndexError, OverflowError):
        yield "vectors and codes are damaged so that they cannot be read: memgpt memory reindex --run makes them anew"


def _foreign(db: Connection, schema: str) -> Iterator[str]:
    """Tables, indices, triggers and views that are not ours, or are not as ours are; a trigger could keep what is forgotten.

    It does not run here: connections of this program run no triggers and no views.
    """
    with contextlib.closing(apsw.Connection(":memory:")) as model:
        model.execute(schema)
        for (id,) in db.execute("SELECT id FROM encoders").fetchall():
            model.execute(TABLE_OF_VECTORS.format(id=int(id)))
        ours = {row: _columns(model, row) for row in _objects(model)}
    theirs = {row: _columns(db, row) for row in _objects(db)}
    for kind, name in theirs.keys() - ours.keys():
        yield f"a {kind} '{name}' that memgpt did not make: it may hold or keep texts (DROP {kind.upper()} removes it)"
    yield from (f"the {kind} '{name}' is missing" for kind, name in ours.keys() - theirs.keys())
    yield from (f"the {kind} '{name}' is not as memgpt made it" for kind, name in ours.keys() & theirs.keys()
                if ours[kind, name] != theirs[kind, name])  # fmt: skip


def _objects(db: Connection) -> list[tuple[str, str]]:
    return list(
        db.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name").fetchall()
    )


def _columns(db: Connection, row: tuple[str, str]) -> set[str]:
    if row[0] != "table":
        return {str(db.execute("SELECT sql FROM sqlite_master WHERE type=? AND name=?", row).get)}
    return {name for (name,) in db.execute("SELECT name FROM pragma_table_xinfo(?)", (row[1],)).fetchall()}


def _limits_problem(name: Any, limits: Any, sum: Any, salt: bytes) -> str:
    try:
        check_namespace(name)
        Limits(**json.loads(limits))
    except (TypeError, ValueError, AttributeError, RecursionError, ConfigError, StoreError):
        return "its name or its limits are damaged: no limit is kept to until memgpt memory limit sets one"
    if sum != keyed_hash(salt, limits.encode()) and not (limits == "{}" and not sum):
        return "its limits are not those that were set"
    return ""
