"""What a SQLite store holds, and whether it is whole."""

import json
from collections.abc import Iterator
from typing import Any

import apsw

from memgpt_cli.memory.database import Connection
from memgpt_cli.memory.keys import Keys
from memgpt_cli.memory.records import Row, keyed_hash, text_bytes


def statistics(db: Connection, ns: int, fingerprint: str) -> dict[str, Any]:
    """Counts of one namespace: by kind, by the month entries came in, by length, by encoder."""

    def counts(what: str) -> dict[Any, int]:
        return dict(db.execute(f"SELECT {what}, count(*) FROM entries WHERE ns=? GROUP BY 1 ORDER BY 1", (ns,)).fetchall())

    query = "SELECT kind, count(*), sum(length(text)) FROM entries WHERE ns=? GROUP BY kind ORDER BY kind"
    keyed = "SELECT count(*) FROM codes WHERE ns=? AND encoder=?"
    encoders = {mark: db.execute(keyed, (ns, encoder.id)).get for mark, encoder in Keys.encoders(db).items()}
    searchable = db.execute("SELECT count(*) FROM entries WHERE ns=? AND searchable", (ns,)).get
    return {
        "kinds": {kind: {"entries": n, "characters": size} for kind, n, size in db.execute(query, (ns,))},
        "months": counts("substr(created, 1, 7)"),
        "lengths": {str(2**n): count for n, count in counts("CAST(log2(max(1, length(text))) AS INTEGER)").items()},
        "encoders": {mark: n for mark, n in encoders.items() if n},
        "unkeyed": searchable - (encoders.get(fingerprint, 0) if fingerprint else max(encoders.values(), default=0)),
        "erasure_pending": bool(db.execute("SELECT value FROM meta WHERE name='pending'").get),
    }


def problems(db: Connection, salt: bytes, keys: Keys) -> Iterator[str]:
    """What is wrong with the whole store."""
    try:
        for (line,) in db.execute("PRAGMA integrity_check").fetchall():
            if line != "ok":
                yield f"SQLite: {line}"
    except apsw.CorruptError as error:
        yield f"SQLite: {error}"
        return
    sums: dict[int, list[int]] = {}
    query = "SELECT ns, hash, text, kind, provenance, searchable, id FROM entries ORDER BY id"
    for ns, hash, text, kind, provenance, searchable, id in db.execute(query):
        if keyed_hash(salt, Row(text, kind, {}, json.loads(provenance), "", "", searchable=bool(searchable)).identity) != hash:
            yield f"entry {id}: its text is not what was stored"
        if bool(db.execute("SELECT 1 FROM words_docsize WHERE id=?", (id,)).get) != bool(searchable):
            yield f"entry {id}: the index of words does not fit it"
        total = sums.setdefault(ns, [0, 0])
        total[0], total[1] = total[0] + 1, total[1] + text_bytes(text)
    for id, entries, size in db.execute("SELECT id, entries, bytes FROM namespaces").fetchall():
        counted = sums.pop(id, [0, 0])
        if counted != [entries, size]:
            yield f"namespace {id}: counted {counted} entries and bytes, noted {[entries, size]}"
    yield from (f"namespace {id}: {n} entries belong to no namespace" for id, (n, _) in sums.items())
    yield from keys.check(db)
