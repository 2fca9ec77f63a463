"""The index of words in the SQLite file: FTS5 over terms that carry their namespace, so that no query crosses it.

FTS5 keeps the postings; the ranking is made here, since its own counts the entries of the whole file: in a store of many
namespaces "the" would weigh nearly as much as a name.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from memgpt_cli.store.engine import Found
from memgpt_cli.store.lexical import K1, TERMS, bm25, idf, query_terms, terms
from memgpt_cli.store.sqlite.entries import texts
from memgpt_cli.store.sqlite.file import Connection

TABLES = """
CREATE VIRTUAL TABLE words USING fts5(terms, content='', tokenize="ascii tokenchars '_'");
CREATE VIRTUAL TABLE word_counts USING fts5vocab(words, row);
CREATE VIRTUAL TABLE word_places USING fts5vocab(words, instance);
INSERT INTO words (words, rank) VALUES ('secure-delete', 1);
"""
MANY = 2000
"""Entries at once, from which on rewriting the index is faster than taking each entry out of it."""
PLACES = 200_000
"""Looked at for one query, or all of its rarest word's: what is commoner counts for the entries that were found by then."""
TEXTS = 1000
"""Entries, at most, in whose texts common words are counted."""
_TERMS = "UPDATE namespaces SET terms=terms+? WHERE id=?"


def _indexed(ns: int, found: Sequence[str]) -> str:
    return f"n{ns}x" + f" n{ns}x".join(found) if found else ""


def add(db: Connection, ns: int, entries: Iterable[tuple[int, str]]) -> None:
    """Adds ids and their texts."""
    _write(db, ns, entries, "INSERT INTO words (rowid, terms) VALUES (?, ?)", 1)


def remove(db: Connection, ns: int, entries: Iterable[tuple[int, str]]) -> None:
    """Takes ids out; their texts must be those that were added."""
    _write(db, ns, entries, "INSERT INTO words (words, rowid, terms) VALUES ('delete', ?, ?)", -1)


def _write(db: Connection, ns: int, entries: Iterable[tuple[int, str]], statement: str, sign: int) -> None:
    total = 0

    def rows() -> Iterator[tuple[int, str]]:
        nonlocal total
        for id, text in entries:
            found = terms(text)
            total += len(found)
            yield id, _indexed(ns, found)

    db.executemany(statement, rows())
    db.execute(_TERMS, (sign * total, ns))


def make_anew(db: Connection) -> None:
    """Builds the index of the whole file from its entries, where it was made by other rules than today's."""
    db.execute("INSERT INTO words (words) VALUES ('delete-all')")
    db.execute("UPDATE namespaces SET terms=0")
    for (ns,) in db.execute("SELECT id FROM namespaces").fetchall():
        add(db, ns, texts(db, ns))
    db.execute("INSERT OR REPLACE INTO meta VALUES ('terms', ?)", (TERMS,))


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


class _Wanted(NamedTuple):
    term: str
    weight: float  # its idf
    holding: int  # how many entries hold it


def search(db: Connection, ns: int, text: str, k: int, allowed: np.ndarray | None) -> Found:
    """The best `k` ids by BM25 over what the namespace holds.

    Words are looked up from the rarest on. Once no entry that was not met can come among the best, however many of the
    common words it holds (Turtle & Flood 1995, MaxScore), those are counted only in what was met and may still come there.
    """
    if allowed is not None and not len(allowed):
        return []
    counted = db.execute("SELECT entries, terms FROM namespaces WHERE id=?", (ns,)).fetchone()
    entries, total = (n if type(n) is int else 0 for n in counted)  # `verify` tells of damage
    wanted = _wanted(db, ns, entries, query_terms(text))
    if not wanted:
        return []
    mean = max(total / max(entries, 1), 1.0)
    most = np.cumsum([(K1 + 1) * w.weight for w in reversed(wanted)])[::-1].tolist() + [0.0]  # that the words from n on give
    ids: np.ndarray = np.zeros(0, np.int64)
    scores: np.ndarray = np.zeros(0)
    places, done, least = 0, 0, 0.0  # `least`: what an entry must have to come among the best
    for done, want in enumerate(wanted):
        places += want.holding
        if len(ids) >= k and (places > PLACES or (most[done] < least and np.sum(scores + most[done] >= least) <= TEXTS)):
            break
        found, counts, sizes = _postings(db, ns, want.term)
        if allowed is not None:
            kept = np.isin(found, allowed)
            found, counts, sizes = found[kept], counts[kept], sizes[kept]
        union, places_in = np.unique(np.concatenate([ids, found]), return_inverse=True)
        earned = np.concatenate([scores, want.weight * bm25(counts, sizes, mean)])
        ids, scores = union, np.bincount(places_in, earned, len(union))
        least = float(np.partition(scores, -k)[-k]) if len(ids) >= k else 0.0
    else:
        done = len(wanted)
    if rest := wanted[done:]:
        possible = np.flatnonzero(scores + most[done] >= least)
        possible = np.sort(possible[np.lexsort((ids[possible], -scores[possible]))[:TEXTS]])
        ids, scores = ids[possible], scores[possible]
        scores = scores + _earned(ids, texts(db, ns, ids), rest, mean)
    best = np.lexsort((ids, -scores))[:k]
    return list(zip(ids[best].tolist(), scores[best].tolist(), strict=True))


def _wanted(db: Connection, ns: int, entries: int, found: Sequence[str]) -> list[_Wanted]:
    """Those of a query's terms that any entry holds, the rarest first."""
    out = []
    for term in found:
        only, values = _meant(ns, term)
        if count := db.execute(f"SELECT sum(doc) FROM word_counts WHERE {only}", values).get:
            out.append(_Wanted(term, idf(entries, min(count, entries)), count))
    return sorted(out, key=lambda w: w.holding)


def _meant(ns: int, term: str) -> tuple[str, tuple[str, ...]]:
    """What of FTS5's vocabulary a query's term means, as a condition and its values: itself, or all that begins with it."""
    name = f"n{ns}x{term.rstrip('*')}"
    if not term.endswith("*"):
        return "term=?", (name,)
    return "term>=? AND term<?", (name, name[:-1] + chr(ord(name[-1]) + 1))


def _postings(db: Connection, ns: int, term: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ids of the entries that hold a term, how often each does, and how many terms each has."""
    only, values = _meant(ns, term)
    query = f"SELECT p.doc, s.sz FROM word_places p CROSS JOIN words_docsize s ON s.id=p.doc WHERE {only}"
    rows = db.execute(query, values).fetchall()
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    docs, sizes = zip(*rows, strict=True)
    ids, first, counts = np.unique(np.array(docs, np.int64), return_index=True, return_counts=True)
    return ids, counts, np.array([number(sizes[n]) for n in first.tolist()])


def number(varint: Any) -> int:
    """SQLite's variable-length integer; 0 for what is none."""
    out = 0
    for byte in varint if isinstance(varint, bytes) else b"":
        out = out << 7 | byte & 127
    return out


def _earned(ids: np.ndarray, entries: Iterable[tuple[int, str]], rest: Sequence[_Wanted], mean: float) -> np.ndarray:
    """What the words of `rest` give each id, by its text."""
    out, there, counts, sizes = np.zeros(len(ids)), [], [], []
    for id, text in entries:
        held = Counter(terms(text))
        there.append(id)
        sizes.append(held.total())
        counts.append(
            [
                sum(n for term, n in held.items() if term.startswith(w.term[:-1])) if w.term.endswith("*") else held[w.term]
                for w in rest
            ]
        )
    weights = np.array([w.weight for w in rest])
    earned = bm25(np.array(counts).reshape(-1, len(rest)), np.array(sizes)[:, None], mean) @ weights
    out[np.searchsorted(ids, np.array(there, np.int64))] = earned
    return out
