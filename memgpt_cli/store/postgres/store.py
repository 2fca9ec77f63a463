"""The engine for those who outgrow one machine: PostgreSQL, partitioned by namespace; pgvector where the server has it.

Without a key, texts and vectors lie on the server as any table's rows do, and pgvector searches. With one, everything a
namespace holds is sealed with that namespace's own key (`sealing`): the server keeps bodies, vectors and words it cannot
read, words are matched by keyed hashes, and vectors are compared here, in RAM.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from memgpt_cli.errors import StoreError
from memgpt_cli.store import rules
from memgpt_cli.store.engine import Entries, Found, Ids, Origins, Problems, Rankings
from memgpt_cli.store.index import ExactIndex
from memgpt_cli.store.lexical import K1, B, idf, query_terms
from memgpt_cli.store.postgres.server import COLUMNS, KEPT, SealedNamespace, Server, pairs_and_characters
from memgpt_cli.store.protocol import Store
from memgpt_cli.store.rules import as_json
from memgpt_cli.store.types import Capabilities, Filter, Limits, Receipt, Row, Stored, StoreStats


class PostgresStore(Server, Store):
    """See `Store`. With `key` everything is sealed, a key for each namespace."""

    # entries

    def _known(self, db: Any, ns: SealedNamespace, hashes: Sequence[bytes]) -> dict[bytes, tuple[int, Origins]]:
        query = f"SELECT hash, {COLUMNS} FROM memgpt.entries WHERE ns=%s AND hash = ANY(%s)"
        rows = db.execute(query, (ns.id, list(set(hashes)))).fetchall()
        there = {bytes(row[0]): self._stored(ns, row[1:]) for row in rows}
        return {hash: (entry.id, [*entry.provenance]) for hash, entry in there.items()}

    def _fresh(self, db: Any, count: int) -> Iterator[int]:
        rows = db.execute("SELECT nextval('memgpt.ids') FROM generate_series(1, %s)", (count,)).fetchall()
        return iter([id for (id,) in rows])

    def _insert(self, db: Any, ns: SealedNamespace, new: Sequence[tuple[int, Row, bytes]]) -> None:
        query = "INSERT INTO memgpt.entries VALUES (%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)"
        rows = [
            (ns.id, id, hash, r.version, r.searchable, r.kind, r.created, r.updated, rules.text_bytes(r.text), self._words_of(ns, r),
             self._body(ns, r.text, r.meta, r.provenance), self._sum(ns, r))
            for id, r, hash in new
        ]  # fmt: skip
        with db.cursor() as cursor:
            cursor.executemany(query, rows)
        self._change(db, ns, len(new), sum(rules.text_bytes(row.text) for _, row, _ in new))

    def _words_of(self, ns: SealedNamespace, row: Row) -> list[str]:
        return self._terms(ns, pairs_and_characters(row.text)) if row.searchable else []

    def _set_origins(self, db: Any, ns: SealedNamespace, changed: dict[int, Origins]) -> None:
        query = "UPDATE memgpt.entries SET body=%s, sum=%s WHERE ns=%s AND id=%s"
        for entry in self._fetch(db, ns, list(changed)):
            body = self._body(ns, entry.text, entry.meta, changed[entry.id])
            whole = self._sum(ns, replace(entry, provenance=tuple(changed[entry.id])))
            db.execute(query, (body, whole, ns.id, entry.id))

    def _change(self, db: Any, ns: SealedNamespace, entries: int, size: int, pending: bool = False) -> None:
        query = "UPDATE memgpt.namespaces SET rev=rev+1, entries=entries+%s, bytes=bytes+%s, pending=pending OR %s WHERE id=%s"
        db.execute(query, (entries, size, pending, ns.id))

    def _count(self, db: Any, ns: SealedNamespace) -> None:
        self._change(db, ns, 0, 0)

    def _replace(self, db: Any, ns: SealedNamespace, old: Stored, row: Row, hash: bytes) -> None:
        self._delete_vectors(db, ns, [old.id])
        size = rules.text_bytes(row.text)
        query = """UPDATE memgpt.entries SET hash=%s, version=%s, searchable=%s, kind=%s, updated=%s, size=%s, terms=%s, body=%s,
                   sum=%s WHERE ns=%s AND id=%s"""
        body = self._body(ns, row.text, row.meta, row.provenance)
        values = (hash, row.version, row.searchable, row.kind, row.updated, size, self._words_of(ns, row), body)
        db.execute(query, (*values, self._sum(ns, row), ns.id, old.id))
        self._change(db, ns, 0, size - rules.text_bytes(old.text), pending=True)

    def _remove(self, db: Any, ns: SealedNamespace, entries: Sequence[Stored], many: bool) -> None:
        query = "DELETE FROM memgpt.entries WHERE ns=%s AND id = ANY(%s) RETURNING size"
        ids = [e.id for e in entries]
        sizes = [size for (size,) in db.execute(query, (ns.id, ids)).fetchall()]
        self._delete_vectors(db, ns, ids)
        if sizes:
            self._change(db, ns, -len(sizes), -sum(sizes), pending=True)

    def _drop(self, db: Any, ns: SealedNamespace) -> None:
        name, sealed = db.execute("SELECT name, sealed FROM memgpt.namespaces WHERE id=%s", (ns.id,)).fetchone()
        db.execute("DELETE FROM memgpt.namespaces WHERE id=%s", (ns.id,))
        db.execute("DELETE FROM memgpt.meta WHERE name=%s", (f"settings {ns.id}",))
        self._doom(f"{name}-{sealed}")

    def _erase(self, everything: bool = False) -> str:
        if not self._keys:
            return f"deleted, but {KEPT}; only an encrypted store (--key-env) can forget there"
        if everything:
            self._cache.clear()
            self._destroy_doomed()
            return ""
        return "sealed copies are left on the server: `memgpt memory compact` seals the rest anew and destroys the old key"

    def _fetch(self, db: Any, ns: SealedNamespace, ids: Sequence[int]) -> Entries:
        query = f"SELECT {COLUMNS} FROM memgpt.entries WHERE ns=%s AND id = ANY(%s) ORDER BY id"
        return [self._stored(ns, row) for row in db.execute(query, (ns.id, [int(i) for i in ids])).fetchall()]

    def _silent(self, db: Any, ns: SealedNamespace) -> Entries:
        query = f"SELECT {COLUMNS} FROM memgpt.entries WHERE ns=%s AND NOT searchable ORDER BY id"
        return [self._stored(ns, row) for row in db.execute(query, (ns.id,)).fetchall()]

    def _rows(self, db: Any, ns: SealedNamespace, where: Filter | None, after: int, limit: int) -> Iterator[Stored]:
        where = where or Filter()
        given = [("kind = ANY(%s)", [*where.kinds]), ("created>=%s", where.since), ("created<%s", where.before)]
        used = [(sql, value) for sql, value in given if value]
        conditions = "".join(f" AND {sql}" for sql, _ in used)
        query = f"SELECT {COLUMNS} FROM memgpt.entries WHERE ns=%s AND id>%s{conditions} ORDER BY id LIMIT %s"
        step = max(limit, 500)
        while True:
            page = db.execute(query, (ns.id, after, *(v for _, v in used), step)).fetchall()
            for row in page:
                entry = self._stored(ns, row)
                if where.matches_content(entry):
                    yield entry
            if len(page) < step:
                return
            after = page[-1][0]

    def _select(self, db: Any, ns: SealedNamespace, where: Filter | None) -> Ids:
        return [e.id for e in self._rows(db, ns, where, 0, 5000)]

    def _oldest(self, db: Any, ns: SealedNamespace) -> Iterable[tuple[int, int]]:
        query = "SELECT id, size FROM memgpt.entries WHERE ns=%s ORDER BY created, id"
        return [(id, size) for id, size in db.execute(query, (ns.id,)).fetchall()]

    # searching, and vectors

    def _ranked(
        self, db: Any, ns: SealedNamespace, vectors: np.ndarray | None, texts: Sequence[str] | None, k: int, where: Filter
    ) -> tuple[Rankings, Rankings]:
        allowed = self._select(db, ns, where) if where.narrows else None
        near = self._by_vector(ns, vectors, k, allowed) if vectors is not None else []
        return near, [self._by_words(ns, text, k, allowed) for text in texts or ()]

    def _by_vector(self, ns: SealedNamespace, vectors: np.ndarray, k: int, allowed: Any) -> Any:
        queries = np.ascontiguousarray(vectors, np.float32)
        encoder = self._encoders().get(self.fingerprint)
        if encoder is None:
            return [[] for _ in queries]
        if queries.ndim != 2 or queries.shape[1] != encoder[1]:
            raise StoreError(f"queries have shape {[*queries.shape]}, expected [Q, {encoder[1]}]")
        if ns.seal or not self.vector:
            return self._index(ns, encoder).search(queries, k, None if allowed is None else np.array(allowed, np.int64))
        only = "" if allowed is None else " AND id = ANY(%(ids)s)"
        query = f"""SELECT id, -(key <#> %(q)s::vector) FROM memgpt.keys WHERE ns=%(ns)s AND encoder=%(encoder)s{only}
                    ORDER BY key <#> %(q)s::vector, id LIMIT %(k)s"""
        values = {"ns": ns.id, "encoder": encoder[0], "ids": allowed, "k": k}
        return [self._db.execute(query, {**values, "q": self._as_vector(ns, q)}).fetchall() for q in queries]

    def _index(self, ns: SealedNamespace, encoder: tuple[int, int]) -> ExactIndex:
        """All vectors of a namespace, in RAM until it changes."""
        rev, index = self._cache.get((ns.id, encoder[0]), (-1, None))
        if index is None or rev != ns.rev:
            query = f"SELECT id, key FROM {self._table(ns)} WHERE ns=%s AND encoder=%s ORDER BY id"
            rows = self._db.execute(query, (ns.id, encoder[0])).fetchall()
            vectors = np.stack([self._as_array(ns, k) for _, k in rows]) if rows else np.zeros((0, encoder[1]), np.float32)
            index = ExactIndex(np.array([id for id, _ in rows], np.int64), vectors)
            self._cache[ns.id, encoder[0]] = (ns.rev, index)
        return index

    def _by_words(self, ns: SealedNamespace, text: str, k: int, allowed: Any) -> Found:
        """Ids by BM25 (as in `lexical`) over what the namespace holds; the rarest words of a long query."""
        wanted = self._terms(ns, query_terms(text)[:64])
        query = "SELECT count(*) FROM memgpt.entries WHERE ns=%s AND terms @> ARRAY[%s]"
        counts = {t: self._db.execute(query, (ns.id, t)).fetchone()[0] for t in wanted}
        rare = sorted((t for t in counts if counts[t]), key=lambda t: counts[t])[:24]
        rare = [t for t in rare if counts[t] <= max(20_000, ns.entries // 10)] or rare[:2]
        if not rare:
            return []
        weights = [idf(ns.entries, counts[t]) for t in rare]
        mean = self._db.execute("SELECT avg(cardinality(terms))::float8 FROM memgpt.entries WHERE ns=%s", (ns.id,)).fetchone()[
            0
        ]
        only = "" if allowed is None else " AND e.id = ANY(%(ids)s)"
        query = f"""
            SELECT e.id, sum(q.weight * f.n * {K1 + 1} / (f.n + {K1} * ({1 - B} + {B} * cardinality(e.terms) / %(mean)s)))::float8 AS score
            FROM unnest(%(terms)s::text[], %(weights)s::float8[]) AS q (term, weight)
            JOIN memgpt.entries e ON e.ns=%(ns)s AND e.terms @> ARRAY[q.term]
            CROSS JOIN LATERAL (SELECT count(*) AS n FROM unnest(e.terms) t WHERE t = q.term) f
            WHERE true{only} GROUP BY e.id ORDER BY score DESC, e.id LIMIT %(k)s"""
        values = {"mean": mean, "terms": rare, "weights": weights, "ns": ns.id, "ids": allowed, "k": k}
        return list(self._db.execute(query, values).fetchall())

    def _write_vectors(
        self, db: Any, ns: SealedNamespace, fingerprint: str, ids: Sequence[int], vectors: np.ndarray, late: bool
    ) -> int:
        size = vectors.shape[1]
        db.execute("INSERT INTO memgpt.encoders (fingerprint, dim) VALUES (%s, %s) ON CONFLICT DO NOTHING", (fingerprint, size))
        encoder, dim = self._encoders()[fingerprint]
        if dim != size:
            raise StoreError(f"a vector has {size} numbers, those of the same encoder in {self.url} have {dim}")
        query = f"INSERT INTO {self._table(ns)} VALUES (%s,%s,%s,%s) ON CONFLICT DO NOTHING"
        rows = [(ns.id, encoder, id, self._as_vector(ns, vector)) for id, vector in zip(ids, vectors, strict=True)]
        with db.cursor() as cursor:
            cursor.executemany(query, rows)
            return int(cursor.rowcount)

    def _delete_vectors(self, db: Any, ns: SealedNamespace, ids: Sequence[int]) -> None:
        db.execute(f"DELETE FROM {self._table(ns)} WHERE ns=%s AND id = ANY(%s)", (ns.id, list(ids)))

    def _encoder(self) -> int:
        """The number of this store's encoder; 0 where it has written nothing yet."""
        return self._encoders().get(self.fingerprint, (0, 0))[0]

    def _has_vector(self, db: Any, ns: SealedNamespace, id: int) -> bool:
        query = f"SELECT 1 FROM {self._table(ns)} WHERE ns=%s AND encoder=%s AND id=%s"
        return db.execute(query, (ns.id, self._encoder(), id)).fetchone() is not None

    def _without_vector(self, db: Any, ns: SealedNamespace, after: int, limit: int) -> Entries:
        query = f"""SELECT {COLUMNS} FROM memgpt.entries e WHERE ns=%s AND id>%s AND searchable AND NOT EXISTS
                    (SELECT 1 FROM {self._table(ns)} k WHERE k.ns=e.ns AND k.encoder=%s AND k.id=e.id) ORDER BY id LIMIT %s"""
        return [self._stored(ns, row) for row in db.execute(query, (ns.id, after, self._encoder(), limit)).fetchall()]

    def _delete_other_vectors(self, db: Any, ns: SealedNamespace) -> int:
        gone = int(db.execute(f"DELETE FROM {self._table(ns)} WHERE ns=%s AND encoder<>%s", (ns.id, self._encoder())).rowcount)
        self._change(db, ns, 0, 0, pending=bool(gone))
        return gone

    def _read_vectors(self, db: Any, ns: SealedNamespace, ids: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
        out: dict[str, dict[int, np.ndarray]] = {}
        query = f"SELECT id, key FROM {self._table(ns)} WHERE ns=%s AND encoder=%s AND id = ANY(%s) ORDER BY id"
        for mark, (encoder, _) in self._encoders().items():
            if rows := db.execute(query, (ns.id, encoder, list(ids))).fetchall():
                out[mark] = {id: self._as_array(ns, vector) for id, vector in rows}
        return out

    # the namespace, and the store

    def _write_limits(self, db: Any, ns: SealedNamespace, limits: Limits) -> None:
        db.execute("UPDATE memgpt.namespaces SET limits=%s WHERE id=%s", (as_json(asdict(limits)), ns.id))

    def _read_settings(self, db: Any, ns: SealedNamespace) -> str:
        row = db.execute("SELECT value FROM memgpt.meta WHERE name=%s", (f"settings {ns.id}",)).fetchone()
        if row is None:
            return "{}"
        return (ns.seal.open(bytes(row[0])) if ns.seal else bytes(row[0])).decode(errors="replace")

    def _write_settings(self, db: Any, ns: SealedNamespace, text: str) -> None:
        value = ns.seal.close(text.encode()) if ns.seal else text.encode()
        query = "INSERT INTO memgpt.meta VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value=excluded.value"
        db.execute(query, (f"settings {ns.id}", value))

    def stats(self, namespace: str) -> StoreStats:
        with self._reading() as db:
            ns = self._namespace(db, namespace) or SealedNamespace(0, 0, 0, 0, Limits(), None)

            def counts(what: str) -> dict[Any, int]:
                query = f"SELECT {what}, count(*) FROM memgpt.entries WHERE ns=%s GROUP BY 1 ORDER BY 1"
                return dict(db.execute(query, (ns.id,)).fetchall())

            query = f"SELECT fingerprint, count(*) FROM {self._table(ns)} JOIN memgpt.encoders e ON encoder=e.id WHERE ns=%s GROUP BY 1"
            encoders = dict(db.execute(query, (ns.id,)).fetchall())
            found = encoders.get(self.fingerprint, 0) if self.fingerprint else max(encoders.values(), default=0)
            searchable = db.execute("SELECT count(*) FROM memgpt.entries WHERE ns=%s AND searchable", (ns.id,)).fetchone()[0]
            pending = db.execute("SELECT pending FROM memgpt.namespaces WHERE id=%s", (ns.id,)).fetchone()
            size = db.execute("SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid=relnamespace "
                              "WHERE nspname='memgpt' AND relkind='r'").fetchone()[0]  # fmt: skip
            return StoreStats(
                store=self.url,
                namespace=namespace,
                entries=ns.entries,
                text_bytes=ns.bytes,
                kinds=counts("kind"),
                months=counts("substr(created, 1, 7)"),
                lengths={str(2**n): c for n, c in counts("floor(log(2, greatest(1, size)))::int").items()},
                encoders=encoders,
                without_vector=searchable - found,
                erasure_pending=bool(pending and pending[0]),
                limits=ns.limits,
                store_bytes=int(size or 0),
            )

    def verify(self) -> Problems:
        """Counts of every namespace, and every entry; what is not ours in the schema."""
        with self._reading() as db:
            found: Problems = list(self._foreign())
            query = """SELECT n.id, n.entries, n.bytes, count(e.id), coalesce(sum(e.size), 0)::bigint FROM memgpt.namespaces n
                       LEFT JOIN memgpt.entries e ON e.ns=n.id GROUP BY 1, 2, 3"""
            for id, entries, size, counted, total in db.execute(query).fetchall():
                if (entries, size) != (counted, total):
                    found.append(f"namespace {id}: counted {[counted, total]} entries and bytes, noted {[entries, size]}")
            for table in ("keys", "sealed_keys"):
                orphans = f"""SELECT count(*) FROM memgpt.{table} k WHERE NOT EXISTS
                              (SELECT 1 FROM memgpt.entries e WHERE e.ns=k.ns AND e.id=k.id AND e.searchable)"""
                if n := db.execute(orphans).fetchone()[0]:
                    found.append(f"{n} {table.replace('_', ' ')} belong to no entry")
            for name, limits in db.execute("SELECT name, limits FROM memgpt.namespaces ORDER BY id").fetchall():
                if limits != "{}" and as_json(asdict(rules.read_limits(limits))) != limits:
                    found.append(
                        f"namespace {name}: its limits are damaged: none is kept to until memgpt memory limit sets one"
                    )
                found += self._damaged(self._named(name))
        return found

    def _damaged(self, ns: SealedNamespace | None) -> Iterator[str]:
        query = f"SELECT hash, sum, {COLUMNS} FROM memgpt.entries WHERE ns=%s ORDER BY id"
        for hash, whole, *values in self._db.execute(query, (ns.id,)).fetchall() if ns else ():
            assert ns is not None
            try:
                e = self._stored(ns, tuple(values))
                row = Row(e.text, e.kind, e.meta, [*e.provenance], e.created, e.updated, e.version, e.searchable)
                rules.check_row(row, sizes=False)
            except StoreError as error:
                yield f"entry {values[0]}: {error}"
                continue
            if self._hash(ns, row.identity) != bytes(hash):
                yield f"entry {e.id}: its text is not what was stored"
            elif whole and self._sum(ns, e) != bytes(whole):
                yield f"entry {e.id}: its meta, provenance, dates or version are not what was stored"

    def compact(self) -> Receipt:
        """Rewrites the tables. Of an encrypted store, what is left is sealed anew and the old keys are destroyed."""
        if self._keys is None:
            with self._errors("could not be rewritten"):
                for table in ("entries", "keys", "sealed_keys", "namespaces"):
                    self._db.execute(f"VACUUM FULL memgpt.{table}")
                self._db.execute("UPDATE memgpt.namespaces SET pending=false")
            return Receipt("pending", 0, self._erase())
        with self._errors("could not be read"):
            names = [n for (n,) in self._db.execute("SELECT name FROM memgpt.namespaces WHERE pending ORDER BY id").fetchall()]
        for name in names:
            self._reseal(name)
        return Receipt("erased", 0)

    def _reseal(self, name: str) -> None:
        """Seals a namespace with a fresh key and destroys the old one: what was forgotten is noise wherever it still lies."""
        assert self._keys is not None
        number = secrets.randbelow(1 << 30)
        with self._writing() as db:
            ns = self._named(name, lock=True)
            if ns is None:
                return
            self._keys.create(f"{name}-{number}")
            old = db.execute("SELECT sealed FROM memgpt.namespaces WHERE id=%s", (ns.id,)).fetchone()[0]
            fresh = SealedNamespace(ns.id, ns.rev, ns.entries, ns.bytes, ns.limits, self._keys.read(f"{name}-{number}"))
            for e in [*self._rows(db, ns, None, 0, 5000)]:
                identity = Row(e.text, e.kind, {}, [*e.provenance], "", "", searchable=e.searchable).identity
                found = self._terms(fresh, pairs_and_characters(e.text)) if e.searchable else []
                body = self._body(fresh, e.text, e.meta, [*e.provenance])
                query = "UPDATE memgpt.entries SET hash=%s, terms=%s, body=%s, sum=%s WHERE ns=%s AND id=%s"
                db.execute(query, (self._hash(fresh, identity), found, body, self._sum(fresh, e), ns.id, e.id))
            for encoder, id, vector in db.execute(
                "SELECT encoder, id, key FROM memgpt.sealed_keys WHERE ns=%s", (ns.id,)
            ).fetchall():
                sealed = self._as_vector(fresh, self._as_array(ns, vector))
                query = "UPDATE memgpt.sealed_keys SET key=%s WHERE ns=%s AND encoder=%s AND id=%s"
                db.execute(query, (sealed, ns.id, encoder, id))
            db.execute("UPDATE memgpt.namespaces SET sealed=%s, pending=false, rev=rev+1 WHERE id=%s", (number, ns.id))
            self._doom(f"{name}-{old}")
        self._destroy_doomed()

    def snapshot(self, path: Path) -> None:
        raise StoreError("a PostgreSQL store is copied by the server's own tools: pg_dump --schema=memgpt")

    def capabilities(self) -> Capabilities:
        with self._errors("could not be read"):
            version = self._db.execute("SHOW server_version").fetchone()[0]
        sealed = self._keys is not None
        return Capabilities(
            engine="postgresql",
            version=version,
            encrypted=sealed,
            index=f"pgvector {self.vector}" if self.vector and not sealed else "this process, in RAM",
            erasure="by_key" if sealed else "logical",
            erases="by destroying keys: `forget --all` at once, single entries by `compact`" if sealed else "logical only",
            not_erased="who was here, when and how much: counts, kinds, dates" if sealed else KEPT,
            snapshot=False,
        )


def open_postgres(url: str, fingerprint: str, key: str, create: bool) -> Store:
    """The store on a server; its tables are made where there are none."""
    return PostgresStore(url, fingerprint, key)
