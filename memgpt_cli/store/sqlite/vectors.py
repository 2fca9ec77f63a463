"""Vectors in the SQLite file, their codes, and the index in RAM that every process keeps of the namespaces it searches.

A vector is written once (`keys_<encoder>`) and its code beside it (`codes`), so that an index loads without the vectors. What
another process changes is seen by the namespace's `rev`: new rows by their larger ids, what was edited or forgotten by
the table `changes`; vectors added later to old entries (`late`) load the index anew.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import apsw
import numpy as np

from memgpt_cli.errors import StoreError
from memgpt_cli.store.engine import Found
from memgpt_cli.store.index import EXACT_ROWS, Codebook, CodedIndex, Codes, ExactIndex, Index, code_type, make_rotation
from memgpt_cli.store.sqlite.file import Connection

P = ParamSpec("P")
T = TypeVar("T")
LOG_OF_CHANGES = 10_000
"""Revisions whose edited and forgotten ids are kept; an index further behind loads anew."""
CACHED_BYTES = 1 << 30
TABLES = """
CREATE TABLE encoders (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, dim INTEGER NOT NULL, rotation BLOB NOT NULL);
CREATE TABLE codebooks (ns INTEGER, encoder INTEGER, mean BLOB, late INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (ns, encoder)) WITHOUT ROWID;
CREATE TABLE codes (ns INTEGER, encoder INTEGER, id INTEGER, code BLOB, PRIMARY KEY (ns, encoder, id)) WITHOUT ROWID;
CREATE TABLE changes (ns INTEGER, rev INTEGER, id INTEGER, PRIMARY KEY (ns, rev, id)) WITHOUT ROWID;
"""
TABLE_OF_VECTORS = "CREATE TABLE keys_{id} (id INTEGER PRIMARY KEY, vector BLOB NOT NULL)"


@dataclass(frozen=True)
class Encoder:
    id: int
    dim: int

    @classmethod
    def of(cls, id: int, dim: Any) -> "Encoder":
        """One whose size is damaged has none: its vectors cannot be read, but they can be erased."""
        return cls(id, dim if type(dim) is int and 0 < dim <= 1 << 16 else 0)

    @property
    def table(self) -> str:
        return f"keys_{self.id}"


@dataclass
class _Cached:
    index: Index
    rev: int
    late: int
    last: int  # the largest id


def _reads(method: Callable[P, T]) -> Callable[P, T]:
    """For what reads vectors and codes as they lie there: somebody may have changed them."""

    @functools.wraps(method)
    def read(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise StoreError(
                "the vectors in this store are damaged: memgpt memory verify says which, memgpt memory reindex --run makes them anew"
            ) from error

    return read


def as_blobs(rows: np.ndarray) -> list[bytes]:
    """Each row's bytes."""
    return list(np.ascontiguousarray(rows).view(f"V{rows.strides[0]}").reshape(-1).tolist())


class Vectors:
    """Everything about vectors in one store. Methods take the connection whose transaction they run in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cache: OrderedDict[tuple[int, int], _Cached] = OrderedDict()

    def close(self) -> None:
        self._cache.clear()

    @staticmethod
    def encoder(db: Connection, fingerprint: str) -> Encoder | None:
        row = db.execute("SELECT id, dim FROM encoders WHERE fingerprint=?", (fingerprint,)).fetchone()
        return Encoder.of(*row) if row else None

    @staticmethod
    def encoders(db: Connection) -> dict[str, Encoder]:
        return {
            str(mark): Encoder.of(id, dim)
            for mark, id, dim in db.execute("SELECT fingerprint, id, dim FROM encoders").fetchall()
        }

    def _make_encoder(self, db: Connection, fingerprint: str, dim: int) -> Encoder:
        found = self.encoder(db, fingerprint)
        if found is None:
            query = "INSERT INTO encoders (fingerprint, dim, rotation) VALUES (?, ?, ?) RETURNING id"
            found = Encoder(int(db.execute(query, (fingerprint, dim, make_rotation(dim).tobytes())).get), dim)
            db.execute(TABLE_OF_VECTORS.format(id=found.id))
        if found.dim != dim:
            raise StoreError(f"a vector has {dim} numbers, those of the same encoder in {self.path} have {found.dim}")
        return found

    @staticmethod
    def _codebook(db: Connection, ns: int, encoder: Encoder) -> Codebook | None:
        query = "SELECT mean, rotation FROM codebooks JOIN encoders ON encoder=id WHERE ns=? AND encoder=? AND mean NOT NULL"
        row = db.execute(query, (ns, encoder.id)).fetchone()
        if row is None:
            return None
        return Codebook(np.frombuffer(row[0], "<f4"), np.frombuffer(row[1], "<f4").reshape(encoder.dim, -1))

    # writing

    @_reads
    def write(self, db: Connection, ns: int, fingerprint: str, ids: Sequence[int], vectors: np.ndarray, late: bool) -> int:
        """Adds vectors [N, D], and returns how many; an entry that has one keeps it. `late` where an id may be older than others that have vectors."""
        encoder = self._make_encoder(db, fingerprint, vectors.shape[1])
        db.execute(
            "INSERT INTO codebooks (ns, encoder, late) VALUES (?,?,?) ON CONFLICT DO UPDATE SET late=late+excluded.late",
            (ns, encoder.id, int(late)),
        )
        book = self._codebook(db, ns, encoder)
        db.executemany(f"INSERT OR IGNORE INTO {encoder.table} VALUES (?, ?)", zip(ids, as_blobs(vectors), strict=True))
        codes = [None] * len(vectors) if book is None else as_blobs(book.encode(ids, vectors))
        rows = ((ns, encoder.id, id, code) for id, code in zip(ids, codes, strict=True))
        before = db.total_changes()
        db.executemany("INSERT OR IGNORE INTO codes VALUES (?,?,?,?)", rows)
        added = int(db.total_changes() - before)
        if (
            book is None
            and db.execute("SELECT count(*) FROM codes WHERE ns=? AND encoder=?", (ns, encoder.id)).get > EXACT_ROWS
        ):
            self.code(db, ns, encoder)
        return added

    @_reads
    def code(self, db: Connection, ns: int, encoder: Encoder) -> None:
        """Codes a whole namespace (anew): the mean is that of a sample of what it holds now."""
        ids, sample = self.load_vectors(db, ns, encoder, limit=65536)
        if len(ids) <= EXACT_ROWS:
            return
        book = Codebook.of(sample, make_rotation(encoder.dim))
        where = "WHERE ns=? AND encoder=?"
        db.execute(f"UPDATE codebooks SET mean=?, late=late+1 {where}", (book.mean.tobytes(), ns, encoder.id))
        vectors = sample
        while len(ids):
            codes = zip(as_blobs(book.encode(ids, vectors)), ids.tolist(), strict=True)
            db.executemany(f"UPDATE codes SET code=? {where} AND id=?", ((code, ns, encoder.id, id) for code, id in codes))
            ids, vectors = self.load_vectors(db, ns, encoder, after=int(ids[-1]), limit=65536)

    @staticmethod
    def delete(db: Connection, ns: int, ids: Sequence[int], encoder: Encoder) -> None:
        db.executemany(f"DELETE FROM {encoder.table} WHERE id=?", ((id,) for id in ids))
        db.executemany("DELETE FROM codes WHERE ns=? AND encoder=? AND id=?", ((ns, encoder.id, id) for id in ids))

    @staticmethod
    def log(db: Connection, ns: int, rev: int, ids: Sequence[int]) -> None:
        """Tells the indices of every process that the vectors of these ids are gone or new."""
        db.executemany("INSERT INTO changes VALUES (?,?,?)", ((ns, rev, id) for id in ids))
        db.execute("DELETE FROM changes WHERE ns=? AND rev<=?", (ns, rev - LOG_OF_CHANGES))

    def has(self, db: Connection, ns: int, fingerprint: str, id: int) -> bool:
        """Whether an entry has a vector of the encoder."""
        query = "SELECT 1 FROM codes JOIN encoders e ON encoder=e.id WHERE ns=? AND fingerprint=? AND codes.id=?"
        return bool(db.execute(query, (ns, fingerprint, id)).get)

    # reading

    @staticmethod
    @_reads
    def read(db: Connection, encoder: Encoder, ids: np.ndarray) -> np.ndarray:
        """Vectors [N, D] of ids [N], ascending; NaN where there is none."""
        query = f"SELECT id, vector FROM {encoder.table} WHERE id IN carray(?) ORDER BY id"
        rows = db.execute(query, (apsw.carray(np.ascontiguousarray(ids, np.int64)),)).fetchall() if len(ids) else []
        vectors = np.frombuffer(b"".join([v for _, v in rows]), "<f4").reshape(len(rows), encoder.dim)
        if len(rows) == len(ids):
            return vectors
        out = np.full((len(ids), encoder.dim), np.nan, np.float32)
        out[np.searchsorted(ids, [id for id, _ in rows])] = vectors
        return out

    @staticmethod
    @_reads
    def load_vectors(
        db: Connection, ns: int, encoder: Encoder, after: int = 0, limit: int = -1
    ) -> tuple[np.ndarray, np.ndarray]:
        query = f"""SELECT codes.id, vector FROM codes JOIN {encoder.table} USING (id)
                    WHERE ns=? AND encoder=? AND codes.id>? ORDER BY codes.id LIMIT ?"""
        rows = db.execute(query, (ns, encoder.id, after, limit)).fetchall()
        vectors = np.frombuffer(b"".join([v for _, v in rows]), "<f4").reshape(len(rows), encoder.dim)
        return np.array([id for id, _ in rows], np.int64), vectors

    @staticmethod
    def _load_codes(db: Connection, ns: int, encoder: Encoder, after: int = 0) -> Iterator[np.ndarray]:
        """Codes in chunks, ascending by id. Joined inside SQLite: a row at a time takes twice as long."""
        query = """SELECT cast(group_concat(code, '') AS BLOB) FROM
                   (SELECT code FROM codes WHERE ns=? AND encoder=? AND id>? ORDER BY id LIMIT 500000)"""
        while (joined := db.execute(query, (ns, encoder.id, after)).get) is not None:
            rows = np.frombuffer(joined, code_type(encoder.dim))
            yield rows
            after = int(rows["id"][-1])

    # the index

    @_reads
    def search(
        self, db: Connection, ns: int, rev: int, fingerprint: str, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> list[Found]:
        """The best `k` ids for each of `queries` [Q, D], among `allowed` where given."""
        encoder = self.encoder(db, fingerprint)
        if encoder is None:
            return [[] for _ in queries]
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != encoder.dim:
            raise StoreError(f"queries have shape {list(queries.shape)}, expected [Q, {encoder.dim}]")
        index = self._index(db, ns, rev, encoder)
        if isinstance(index, ExactIndex):
            return index.search(queries, k, allowed)
        return index.search(queries, k, allowed, lambda ids: self.read(db, encoder, ids))

    def _index(self, db: Connection, ns: int, rev: int, encoder: Encoder) -> Index:
        """The namespace's index at the state this transaction sees."""
        vector = (ns, encoder.id)
        late = db.execute("SELECT late FROM codebooks WHERE ns=? AND encoder=?", vector).get or 0
        held = self._cache.get(vector)
        if held is None or held.late != late or rev < held.rev or rev - held.rev >= LOG_OF_CHANGES:
            held = self._load(db, ns, rev, late, encoder)
        if held.rev != rev:
            self._refresh(db, ns, rev, encoder, held)
        self._cache[vector] = held
        self._cache.move_to_end(vector)
        while len(self._cache) > 1 and sum(c.index.nbytes for c in self._cache.values()) > CACHED_BYTES:
            self._cache.popitem(last=False)
        return held.index

    def _load(self, db: Connection, ns: int, rev: int, late: int, encoder: Encoder) -> _Cached:
        book = self._codebook(db, ns, encoder)
        if book is None:
            ids, vectors = self.load_vectors(db, ns, encoder)
            return _Cached(ExactIndex(ids, vectors), rev, late, int(ids[-1]) if len(ids) else 0)
        chunks = list(self._load_codes(db, ns, encoder))
        rows = np.concatenate(chunks) if chunks else np.zeros(0, code_type(encoder.dim))
        return _Cached(CodedIndex(book, Codes.of(rows)), rev, late, int(rows["id"][-1]) if len(rows) else 0)

    def _refresh(self, db: Connection, ns: int, rev: int, encoder: Encoder, held: _Cached) -> None:
        changed = np.array(
            [i for (i,) in db.execute("SELECT DISTINCT id FROM changes WHERE ns=? AND rev>? ORDER BY id", (ns, held.rev))],
            np.int64,
        )
        held.index.remove(changed.tolist())
        edited = changed[changed <= held.last]
        if isinstance(held.index, ExactIndex):
            ids, vectors = self.load_vectors(db, ns, encoder, held.last)
            held.index.append(ids, vectors)
            vectors = self.read(db, encoder, edited)
            there = np.isfinite(vectors).all(1) if len(edited) else []
            held.index.append(edited[there], vectors[there])
        else:
            for rows in self._load_codes(db, ns, encoder, held.last):
                held.index.append(rows)
            ids = held.index.codes.ids[: held.index.codes.n]
            query = "SELECT code FROM codes WHERE ns=? AND encoder=? AND id IN carray(?) ORDER BY id"
            if len(edited):
                found = db.execute(query, (ns, encoder.id, apsw.carray(edited))).fetchall()
                held.index.replace(np.frombuffer(b"".join([code for (code,) in found]), code_type(encoder.dim)))
        held.rev, held.last = rev, max(held.last, int(ids[-1]) if len(ids) else 0)

    def check(self, db: Connection) -> Iterator[str]:
        """What is wrong with vectors and codes."""
        for fingerprint, encoder in self.encoders(db).items():
            name = f"encoder {fingerprint or '(unnamed)'}"
            odd = db.execute(f"SELECT count(*) FROM {encoder.table} WHERE length(vector)<>?", (4 * encoder.dim,)).get
            if odd:
                yield f"{name}: {odd} vectors are not of {encoder.dim} numbers"
            orphans = f"SELECT count(*) FROM {encoder.table} WHERE id NOT IN (SELECT id FROM entries WHERE searchable)"
            if n := db.execute(orphans).get:
                yield f"{name}: {n} vectors belong to no entry"
            lonely = f"SELECT count(*) FROM codes WHERE encoder=? AND id NOT IN (SELECT id FROM {encoder.table})"
            lost = f"SELECT count(*) FROM {encoder.table} WHERE id NOT IN (SELECT id FROM codes WHERE encoder=?)"
            for query, what in ((lonely, "codes without a vector"), (lost, "vectors that search does not know")):
                if n := db.execute(query, (encoder.id,)).get:
                    yield f"{name}: {n} {what}"
            for (ns,) in db.execute("SELECT DISTINCT ns FROM codes WHERE encoder=?", (encoder.id,)).fetchall():
                yield from self._check_codes(db, ns, encoder, name)

    def _check_codes(self, db: Connection, ns: int, encoder: Encoder, name: str) -> Iterator[str]:
        book, after = self._codebook(db, ns, encoder), 0
        wrong = broken = 0
        while True:
            ids, vectors = self.load_vectors(db, ns, encoder, after, 65536)
            if not len(ids):
                break
            broken += int((~np.isfinite(vectors)).any(1).sum())
            if book is not None:
                query = "SELECT id, code FROM codes WHERE ns=? AND encoder=? AND id BETWEEN ? AND ? ORDER BY id"
                stored: dict[int, Any] = dict(db.execute(query, (ns, encoder.id, int(ids[0]), int(ids[-1]))))
                fresh = zip(ids.tolist(), book.encode(ids, vectors), strict=True)
                wrong += sum(not _same_code(stored.get(id), code) for id, code in fresh)
            after = int(ids[-1])
        if broken:
            yield f"{name}: {broken} vectors hold what is no number"
        if wrong:
            yield f"{name}: {wrong} codes are not those of their vectors (memgpt memory compact makes them anew)"


def _same_code(stored: bytes | None, code: np.void) -> bool:
    """Whether a stored code is this one; a bit or two may fall the other way on another machine."""
    if stored is None or len(stored) != code.nbytes:
        return False
    found = np.frombuffer(stored, code.dtype)[0]
    differ = int(np.bitwise_count(found["bits"] ^ code["bits"]).sum())
    return bool(found["id"] == code["id"] and differ <= 4 and np.isclose(found["factor"], code["factor"], rtol=1e-3))
