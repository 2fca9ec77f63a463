"""The index of words in the SQLite file: FTS5 over terms that carry their namespace, so that no query crosses it."""

from collections.abc import Iterable, Sequence

import apsw
import numpy as np

from memgpt_cli.store.engine import Found
from memgpt_cli.store.lexical import query_terms, terms
from memgpt_cli.store.sqlite.file import Connection

TABLES = """
CREATE VIRTUAL TABLE words USING fts5(terms, content='', tokenize="ascii tokenchars '_'");
CREATE VIRTUAL TABLE word_counts USING fts5vocab(words, row);
INSERT INTO words (words, rank) VALUES ('secure-delete', 1);
"""
MANY = 2000
"""Entries at once, from which on rewriting the index is faster than taking each entry out of it."""
QUERY_TERMS = 24


def _indexed(ns: int, text: str) -> str:
    found = terms(text)
    return f"n{ns}x" + f" n{ns}x".join(found) if found else ""


def add(db: Connection, ns: int, entries: Iterable[tuple[int, str]]) -> None:
    """Adds ids and their texts."""
    db.executemany("INSERT INTO words (rowid, terms) VALUES (?, ?)", ((id, _indexed(ns, text)) for id, text in entries))


def remove(db: Connection, ns: int, entries: Sequence[tuple[int, str]]) -> None:
    """Takes ids out; their texts must be those that were added."""
    delete = "INSERT INTO words (words, rowid, terms) VALUES ('delete', ?, ?)"
    db.executemany(delete, ((id, _indexed(ns, text)) for id, text in entries))


def leave_no_separator(db: Connection, ns: int, texts: Iterable[str]) -> None:
    """Rewrites the index where a term that is gone still separates two of its pages: FTS5's `secure-delete` leaves those.

    One term in a few hundred does. A prefix that a living term has as well is no trace.
    """
    segments = [s for (s,) in db.execute("SELECT DISTINCT segid FROM words_idx").fetchall()]
    nearest = "SELECT term FROM words_idx WHERE segid=? AND term<=? ORDER BY term DESC LIMIT 1"
    for term in {f"n{ns}x{t}" for text in texts for t in terms(text)}:
        raw = term.encode()
        for segment in segments:  # of all that begin the term, the longest: shorter ones begin that one too
            found = db.execute(nearest, (segment, b"0" + raw)).get  # FTS5 puts the number of its index before each
            separator = bytes(found or b"")[1:]
            if not separator or not raw.startswith(separator):
                continue
            first = separator.decode(errors="ignore")
            living = db.execute("SELECT term FROM word_counts WHERE term>=? ORDER BY term LIMIT 1", (first,)).get
            if living is None or not living.encode().startswith(separator):
                optimise(db)
                return


def begin_removing_many(db: Connection) -> None:
    """Until `end_removing_many` what is removed is only marked."""
    db.execute("INSERT INTO words (words, rank) VALUES ('secure-delete', 0)")


def end_removing_many(db: Connection) -> None:
    optimise(db)  # writes one index without what is gone
    db.execute("INSERT INTO words (words, rank) VALUES ('secure-delete', 1)")


def optimise(db: Connection) -> None:
    """Writes the whole index anew. FTS5 does so only where there are two parts to merge, so there will be."""
    db.execute("INSERT INTO words (rowid, terms) VALUES (0, 'x')")
    db.execute("INSERT INTO words (words) VALUES ('optimize')")
    db.execute("INSERT INTO words (words, rowid, terms) VALUES ('delete', 0, 'x')")


def search(db: Connection, ns: int, entries: int, text: str, k: int, allowed: np.ndarray | None) -> Found:
    """The best `k` ids by BM25. Of a long query the rarest words count: common ones match everything and tell nothing."""
    if allowed is not None and not len(allowed):
        return []
    counts: dict[str, int] = {}
    for term in query_terms(text):
        name, prefix = f"n{ns}x{term.rstrip('*')}", "*" if term.endswith("*") else ""
        found = 1 if prefix else db.execute("SELECT doc FROM word_counts WHERE term=?", (name,)).get
        if found:
            counts[f'"{name}"{prefix}'] = found
    rare = sorted(counts, key=lambda t: counts[t])[:QUERY_TERMS]
    rare = [t for t in rare if counts[t] <= max(1000, entries // 10)] or rare[:2]
    if not rare:
        return []
    only = "" if allowed is None else " AND rowid IN carray(?)"
    values = (" OR ".join(rare), *(() if allowed is None else (apsw.carray(allowed),)), k)
    query = f"SELECT rowid, -bm25(words) FROM words WHERE words MATCH ?{only} ORDER BY bm25(words), rowid LIMIT ?"
    return list(db.execute(query, values))
