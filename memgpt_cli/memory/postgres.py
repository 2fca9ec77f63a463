"""The engine for those who outgrow one machine: PostgreSQL, partitioned by namespace; pgvector where the server has it.

Without a key, texts and keys lie on the server as any table's rows do, and pgvector searches. With one, everything a
namespace holds is sealed with that namespace's own key (`sealing`): the server keeps bodies, keys and words it cannot
read, words are matched by keyed hashes, and keys are compared here, in RAM.
"""

import contextlib
import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from memgpt_cli.errors import StoreError
from memgpt_cli.memory import records
from memgpt_cli.memory.index import ExactIndex
from memgpt_cli.memory.lexical import query_terms
from memgpt_cli.memory.postgres_server import COLUMNS, KEPT, Namespace, Server, pairs_and_characters
from memgpt_cli.memory.protocol import Entries, Fetch, Found, Problems, Rankings, Store
from memgpt_cli.memory.records import Edited, Filter, Item, Limits, Receipt, Row, Stored, Written, as_json


class PostgresStore(Server, Store):
    """See `Store`. With `key` everything is sealed, a key for each namespace."""

    # writing

    def restore(self, namespace: str, rows: Sequence[Row]) -> Written:
        if not rows:
            return Written([], 0)
        rows = [records.check_row(row) for row in rows]
        with self._writing() as db:
            ns = self._make_namespace(namespace)
            hashes = [self._hash(ns, row.identity) for row in rows]
            query = f"SELECT hash, {COLUMNS} FROM memgpt.entries WHERE ns=%s AND hash = ANY(%s)"
            there = {bytes(r[0]): self._stored(ns, r[1:]) for r in db.execute(query, (ns.id, list(set(hashes))))}
            fresh = iter([i for (i,) in db.execute("SELECT nextval('memgpt.ids') FROM generate_series(1, %s)", (len(rows),))])
            known = {hash: (entry.id, list(entry.provenance)) for hash, entry in there.items()}
            ids, new, changed = records.merge(rows, hashes, known, fresh)
            self._insert(ns, new)
            for entry in there.values():
                if entry.id in changed:
                    body = self._body(ns, entry.text, entry.meta, changed[entry.id])
                    whole = self._sum(ns, replace(entry, provenance=tuple(changed[entry.id])))
                    db.execute(
                        "UPDATE memgpt.entries SET body=%s, sum=%s WHERE ns=%s AND id=%s", (body, whole, ns.id, entry.id)
                    )
            for fingerprint, keyed, found in records.keys_by_encoder(ids, rows):
                self._write_keys(ns, fingerprint, keyed, found)
            grown = sum(records.text_bytes(row.text) for _, row, _ in new)
            self._count(ns, len(new), grown)
            forgotten = self._make_room(namespace, set(ids))
        return Written(ids, len(new), forgotten, self._why_pending() if forgotten else "")

    def _insert(self, ns: Namespace, new: list[tuple[int, Row, bytes]]) -> None:
        query = "INSERT INTO memgpt.entries VALUES (%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)"
        with self._db.cursor() as cursor:
            cursor.executemany(
                query,
                [
                    (ns.id, id, hash, r.version, r.searchable, r.kind, r.created, r.updated, records.text_bytes(r.text),
                     self._terms(ns, pairs_and_characters(r.text)) if r.searchable else [], self._body(ns, r.text, r.meta, r.provenance),
                     self._sum(ns, r))
                    for id, r, hash in new
                ],
            )  # fmt: skip

    def _count(self, ns: Namespace, entries: int, size: int, pending: bool = False) -> None:
        query = "UPDATE memgpt.namespaces SET rev=rev+1, entries=entries+%s, bytes=bytes+%s, pending=pending OR %s WHERE id=%s"
        self._db.execute(query, (entries, size, pending, ns.id))

    def _write_keys(self, ns: Namespace, fingerprint: str, ids: Sequence[int], keys: np.ndarray) -> None:
        self._db.execute(
            "INSERT INTO memgpt.encoders (fingerprint, dim) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (fingerprint, keys.shape[1]),
        )
        encoder, dim = self._encoders()[fingerprint]
        if dim != keys.shape[1]:
            raise StoreError(f"a key has {keys.shape[1]} numbers, those of the same encoder in {self.url} have {dim}")
        query = f"INSERT INTO {self._table(ns)} VALUES (%s,%s,%s,%s) ON CONFLICT DO NOTHING"
        with self._db.cursor() as cursor:
            cursor.executemany(query, [(ns.id, encoder, id, self._as_key(ns, key)) for id, key in zip(ids, keys, strict=True)])

    def edit(self, namespace: str, id: int, item: Item, if_version: int | None = None) -> Edited:
        moment = records.now()
        row = records.check_row(Row(item.text, item.kind, item.meta, [], moment, moment, 1, item.searchable))
        with self._writing() as db:
            ns = self._namespace(namespace, lock=True)
            (found,) = (self._fetch(ns, [id]) if ns else []) or (None,)
            old = records.check_edit(namespace, id, found, if_version)
            assert ns is not None
            row.provenance, row.created, row.version = list(old.provenance), old.created, old.version + 1
            hash = self._hash(ns, row.identity)
            twin = db.execute("SELECT id FROM memgpt.entries WHERE ns=%s AND hash=%s AND id<>%s", (ns.id, hash, id)).fetchone()
            if twin:
                raise StoreError(f"entry {twin[0]} says the same already: forget one of the two")
            self._delete_keys(ns, [id])
            size = records.text_bytes(row.text)
            words = self._terms(ns, pairs_and_characters(row.text)) if row.searchable else []
            db.execute(
                "UPDATE memgpt.entries SET hash=%s, version=%s, searchable=%s, kind=%s, updated=%s, size=%s, terms=%s, body=%s, "
                "sum=%s WHERE ns=%s AND id=%s",
                (
                    hash,
                    row.version,
                    row.searchable,
                    row.kind,
                    row.updated,
                    size,
                    words,
                    self._body(ns, row.text, row.meta, row.provenance),
                    self._sum(ns, row),
                    ns.id,
                    id,
                ),
            )
            if item.key is not None and item.searchable:
                self._write_keys(ns, self.fingerprint, [id], records.check_keys([item.key]))
            self._count(ns, 0, size - records.text_bytes(old.text), pending=True)
            self._make_room(namespace, {id})
            (new,) = self._fetch(ns, [id])
        return Edited(new, self._why_pending())

    # forgetting

    def forget(
        self, namespace: str, ids: Sequence[int] | None = None, where: Filter | None = None, everything: bool = False
    ) -> Receipt:
        records.check_choice(ids, where, everything)
        name = self._name(namespace)
        with self._writing() as db:
            ns = self._namespace(namespace, lock=True)
            if ns is None:
                return Receipt("erased", 0)
            gone = self._delete(ns, self._select(ns, where) if ids is None else [int(i) for i in ids])
            sealed = db.execute("SELECT sealed FROM memgpt.namespaces WHERE id=%s", (ns.id,)).fetchone()[0]
            if everything:
                db.execute("DELETE FROM memgpt.namespaces WHERE id=%s", (ns.id,))
                self._doom(f"{name}-{sealed}")
        if everything and self._keys:
            self._destroy_doomed()
            return Receipt("erased", gone)
        return Receipt("pending", gone, self._why_pending()) if gone or everything else Receipt("erased", 0)

    def _why_pending(self) -> str:
        if self._keys:
            return "sealed copies are left on the server: `memgpt memory compact` seals the rest anew and destroys the old key"
        return f"deleted, but {KEPT}; only an encrypted store (--key-env) can forget there"

    def _delete(self, ns: Namespace, ids: Sequence[int]) -> int:
        silent = f"SELECT {COLUMNS} FROM memgpt.entries WHERE ns=%s AND NOT searchable ORDER BY id"
        if ids and (kept := [self._stored(ns, row) for row in self._db.execute(silent, (ns.id,))]):
            ids = sorted({*ids, *records.echoes(self._fetch(ns, ids), kept)})
        query = "DELETE FROM memgpt.entries WHERE ns=%s AND id = ANY(%s) RETURNING size"
        sizes = [s for (s,) in self._db.execute(query, (ns.id, list(ids)))]
        self._delete_keys(ns, ids)
        if sizes:
            self._count(ns, -len(sizes), -sum(sizes), pending=True)
        return len(sizes)

    def _delete_keys(self, ns: Namespace, ids: Sequence[int]) -> None:
        self._db.execute(f"DELETE FROM {self._table(ns)} WHERE ns=%s AND id = ANY(%s)", (ns.id, list(ids)))

    def _make_room(self, namespace: str, newest: set[int]) -> int:
        ns = self._namespace(namespace)
        if ns is None or ns.limits == Limits():
            return 0
        gone = self._delete_old(ns)
        ns = self._namespace(namespace)
        assert ns is not None
        oldest = self._db.execute("SELECT id, size FROM memgpt.entries WHERE ns=%s ORDER BY created, id", (ns.id,)).fetchall()
        return gone + self._delete(ns, records.victims(namespace, ns.limits, ns.entries, ns.bytes, oldest, newest))

    def _delete_old(self, ns: Namespace) -> int:
        if not ns.limits.max_age_days:
            return 0
        return self._delete(ns, self._select(ns, Filter(before=records.oldest_allowed(ns.limits))))

    def expire(self, namespace: str) -> Receipt:
        with self._writing():
            ns = self._namespace(namespace, lock=True)
            gone = self._delete_old(ns) if ns else 0
        return Receipt("pending", gone, self._why_pending()) if gone else Receipt("erased", 0)

    # reading

    def _fetch(self, ns: Namespace, ids: Sequence[int]) -> Entries:
        query = f"SELECT {COLUMNS} FROM memgpt.entries WHERE ns=%s AND id = ANY(%s) ORDER BY id"
        return [self._stored(ns, row) for row in self._db.execute(query, (ns.id, [int(i) for i in ids]))]

    def get(self, namespace: str, ids: Sequence[int]) -> Entries:
        with self._reading():
            ns = self._namespace(namespace)
            return self._fetch(ns, ids) if ns else []

    def _rows(self, ns: Namespace, where: Filter | None, after: int, limit: int | None) -> Iterator[Stored]:
        given = [] if where is None else [("kind=%s", where.kind), ("created>=%s", where.since), ("created<%s", where.before)]
        used = [(sql, value) for sql, value in given if value]
        conditions = "".join(f" AND {sql}" for sql, _ in used)
        query = f"SELECT {COLUMNS} FROM memgpt.entries WHERE ns=%s AND id>%s{conditions} ORDER BY id LIMIT %s"
        step = None if limit is None else max(limit, 500)
        while True:
            page = self._db.execute(query, (ns.id, after, *(v for _, v in used), step)).fetchall()
            for row in page:
                entry = self._stored(ns, row)
                if where is None or where.matches_content(entry):
                    yield entry
            if step is None or len(page) < step:
                return
            after = page[-1][0]

    def _select(self, ns: Namespace, where: Filter | None) -> list[int]:
        return [e.id for e in self._rows(ns, where, 0, None)]

    def list(self, namespace: str, where: Filter | None = None, after: int = 0, limit: int = 1000) -> Entries:
        with self._reading():
            ns = self._namespace(namespace)
            return [e for _, e in zip(range(limit), self._rows(ns, where, after, limit), strict=False)] if ns else []

    # searching

    @contextlib.contextmanager
    def _ranked(
        self, namespace: str, vectors: np.ndarray | None, texts: Sequence[str] | None, k: int, where: Filter | None
    ) -> Iterator[tuple[Rankings, Rankings, Fetch]]:
        with self._reading():
            ns = self._namespace(namespace)
            if ns is None:
                yield [], [], lambda ids: []
                return
            allowed = None if where is None or where == Filter() else self._select(ns, where)
            near = self._by_key(ns, vectors, k, allowed) if vectors is not None else []
            yield near, [self._by_words(ns, text, k, allowed) for text in texts or ()], lambda ids: self._fetch(ns, ids)

    def _by_key(self, ns: Namespace, vectors: np.ndarray, k: int, allowed: Any) -> Any:
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
        return [self._db.execute(query, {**values, "q": self._as_key(ns, q)}).fetchall() for q in queries]

    def _index(self, ns: Namespace, encoder: tuple[int, int]) -> ExactIndex:
        """All keys of a namespace, in RAM until it changes."""
        rev, index = self._cache.get((ns.id, encoder[0]), (-1, None))
        if index is None or rev != ns.rev:
            query = f"SELECT id, key FROM {self._table(ns)} WHERE ns=%s AND encoder=%s ORDER BY id"
            rows = self._db.execute(query, (ns.id, encoder[0])).fetchall()
            keys = np.stack([self._as_array(ns, k) for _, k in rows]) if rows else np.zeros((0, encoder[1]), np.float32)
            index = ExactIndex(np.array([id for id, _ in rows], np.int64), keys)
            self._cache[ns.id, encoder[0]] = (ns.rev, index)
        return index

    def _by_words(self, ns: Namespace, text: str, k: int, allowed: Any) -> Found:
        """Ids by BM25 (k1 1.2, b 0.75, as SQLite's) over what the namespace holds; the rarest words of a long query."""
        wanted = self._terms(ns, query_terms(text)[:64])
        query = "SELECT count(*) FROM memgpt.entries WHERE ns=%s AND terms @> ARRAY[%s]"
        counts = {t: self._db.execute(query, (ns.id, t)).fetchone()[0] for t in wanted}
        rare = sorted((t for t in counts if counts[t]), key=lambda t: counts[t])[:24]
        rare = [t for t in rare if counts[t] <= max(1000, ns.entries // 10)] or rare[:2]
        if not rare:
            return []
        weights = [max(1e-6, math.log((ns.entries - counts[t] + 0.5) / (counts[t] + 0.5))) for t in rare]
        mean = self._db.execute("SELECT avg(cardinality(terms))::float8 FROM memgpt.entries WHERE ns=%s", (ns.id,)).fetchone()[
            0
        ]
        only = "" if allowed is None else " AND e.id = ANY(%(ids)s)"
        query = f"""
            SELECT e.id, sum(q.weight * f.n * 2.2 / (f.n + 1.2 * (0.25 + 0.75 * cardinality(e.terms) / %(mean)s)))::float8 AS score
            FROM unnest(%(terms)s::text[], %(weights)s::float8[]) AS q (term, weight)
            JOIN memgpt.entries e ON e.ns=%(ns)s AND e.terms @> ARRAY[q.term]
            CROSS JOIN LATERAL (SELECT count(*) AS n FROM unnest(e.terms) t WHERE t = q.term) f
            WHERE true{only} GROUP BY e.id ORDER BY score DESC, e.id LIMIT %(k)s"""
        values = {"mean": mean, "terms": rare, "weights": weights, "ns": ns.id, "ids": allowed, "k": k}
        return list(self._db.execute(query, values).fetchall())

    # keys

    def unkeyed(self, namespace: str, after: int = 0, limit: int = 1000) -> Entries:
        with self._reading():
            ns = self._namespace(namespace)
            if ns is None:
                return []
            encoder = self._encoders().get(self.fingerprint, (0, 0))[0]
            query = f"""SELECT {COLUMNS} FROM memgpt.entries e WHERE ns=%s AND id>%s AND searchable AND NOT EXISTS
                        (SELECT 1 FROM {self._table(ns)} k WHERE k.ns=e.ns AND k.encoder=%s AND k.id=e.id) ORDER BY id LIMIT %s"""
            return [self._stored(ns, row) for row in self._db.execute(query, (ns.id, after, encoder, limit))]

    def rekey(self, namespace: str, ids: Sequence[int], texts: Sequence[str], keys: np.ndarray) -> int:
        found = records.check_keys([*keys])
        with self._writing():
            ns = self._namespace(namespace, lock=True)
            if ns is None:
                return 0
            now = {e.id: e.text for e in self._fetch(ns, ids) if e.searchable}
            there = self._keyed(ns, self.fingerprint)
            same = {id: key for id, text, key in zip(ids, texts, found, strict=True) if now.get(id) == text and id not in there}
            if same:
                self._write_keys(ns, self.fingerprint, sorted(same), np.stack([same[i] for i in sorted(same)]))
                self._count(ns, 0, 0)
            return len(same)

    def _keyed(self, ns: Namespace, fingerprint: str) -> set[int]:
        encoder = self._encoders().get(fingerprint, (0, 0))[0]
        return {
            i for (i,) in self._db.execute(f"SELECT id FROM {self._table(ns)} WHERE ns=%s AND encoder=%s", (ns.id, encoder))
        }

    def retire(self, namespace: str) -> Receipt:
        with self._writing() as db:
            ns = self._namespace(namespace, lock=True)
            if ns is None:
                return Receipt("erased", 0)
            mine = self._encoders().get(self.fingerprint, (0, 0))[0]
            gone = db.execute(f"DELETE FROM {self._table(ns)} WHERE ns=%s AND encoder<>%s", (ns.id, mine)).rowcount
            self._count(ns, 0, 0, pending=bool(gone))
        return Receipt("pending", gone, self._why_pending()) if gone else Receipt("erased", 0)

    def keys(self, namespace: str, ids: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
        with self._reading() as db:
            ns = self._namespace(namespace)
            out: dict[str, dict[int, np.ndarray]] = {}
            for mark, (encoder, _) in self._encoders().items() if ns else ():
                assert ns is not None
                query = f"SELECT id, key FROM {self._table(ns)} WHERE ns=%s AND encoder=%s AND id = ANY(%s) ORDER BY id"
                rows = db.execute(query, (ns.id, encoder, [int(i) for i in ids])).fetchall()
                if rows:
                    out[mark] = {id: self._as_array(ns, key) for id, key in rows}
            return out

    # the store

    def limits(self, namespace: str) -> Limits:
        with self._reading():
            ns = self._namespace(namespace)
            return ns.limits if ns else Limits()

    def set_limits(self, namespace: str, limits: Limits) -> None:
        with self._writing() as db:
            ns = self._make_namespace(namespace)
            db.execute("UPDATE memgpt.namespaces SET limits=%s WHERE id=%s", (as_json(asdict(limits)), ns.id))

    def stats(self, namespace: str) -> dict[str, Any]:
        with self._reading() as db:
            ns = self._namespace(namespace)
            id = ns.id if ns else 0

            def counts(what: str) -> dict[Any, int]:
                return dict(
                    db.execute(
                        f"SELECT {what}, count(*) FROM memgpt.entries WHERE ns=%s GROUP BY 1 ORDER BY 1", (id,)
                    ).fetchall()
                )

            kinds = db.execute(
                "SELECT kind, count(*), sum(size) FROM memgpt.entries WHERE ns=%s GROUP BY 1 ORDER BY 1", (id,)
            ).fetchall()
            encoders = {m: len(self._keyed(ns, m)) for m in self._encoders()} if ns else {}
            searchable = db.execute("SELECT count(*) FROM memgpt.entries WHERE ns=%s AND searchable", (id,)).fetchone()[0]
            pending = db.execute("SELECT pending FROM memgpt.namespaces WHERE id=%s", (id,)).fetchone()
            size = db.execute("SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid=relnamespace "
                              "WHERE nspname='memgpt' AND relkind='r'").fetchone()[0]  # fmt: skip
            return {
                "store": self.url,
                "namespace": namespace,
                "entries": ns.entries if ns else 0,
                "text_bytes": ns.bytes if ns else 0,
                "kinds": {kind: {"entries": n, "bytes": int(total)} for kind, n, total in kinds},
                "months": counts("substr(created, 1, 7)"),
                "lengths": {str(2**n): c for n, c in counts("floor(log(2, greatest(1, size)))::int").items()},
                "encoders": {mark: n for mark, n in encoders.items() if n},
                "unkeyed": searchable
                - (encoders.get(self.fingerprint, 0) if self.fingerprint else max(encoders.values(), default=0)),
                "erasure_pending": bool(pending and pending[0]),
                "limits": asdict(ns.limits if ns else Limits()),
                "store_bytes": int(size or 0),
            }

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
                if limits != "{}" and as_json(asdict(records.read_limits(limits))) != limits:
                    found.append(
                        f"namespace {name}: its limits are damaged: none is kept to until memgpt memory limit sets one"
                    )
                found += self._damaged(self._named(name))
        return found

    def _damaged(self, ns: Namespace | None) -> Iterator[str]:
        query = f"SELECT hash, sum, {COLUMNS} FROM memgpt.entries WHERE ns=%s ORDER BY id"
        for hash, whole, *values in self._db.execute(query, (ns.id,)).fetchall() if ns else ():
            assert ns is not None
            try:
                e = self._stored(ns, tuple(values))
                row = Row(e.text, e.kind, e.meta, [*e.provenance], e.created, e.updated, e.version, e.searchable)
                records.check_row(row, sizes=False)
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
            return Receipt("pending", 0, self._why_pending())
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
            fresh = Namespace(ns.id, ns.rev, ns.entries, ns.bytes, ns.limits, self._keys.read(f"{name}-{number}"))
            for e in [*self._rows(ns, None, 0, None)]:
                identity = Row(e.text, e.kind, {}, [*e.provenance], "", "", searchable=e.searchable).identity
                found = self._terms(fresh, pairs_and_characters(e.text)) if e.searchable else []
                body = self._body(fresh, e.text, e.meta, [*e.provenance])
                query = "UPDATE memgpt.entries SET hash=%s, terms=%s, body=%s, sum=%s WHERE ns=%s AND id=%s"
                db.execute(query, (self._hash(fresh, identity), found, body, self._sum(fresh, e), ns.id, e.id))
            for encoder, id, key in db.execute(
                "SELECT encoder, id, key FROM memgpt.sealed_keys WHERE ns=%s", (ns.id,)
            ).fetchall():
                sealed = self._as_key(fresh, self._as_array(ns, key))
                query = "UPDATE memgpt.sealed_keys SET key=%s WHERE ns=%s AND encoder=%s AND id=%s"
                db.execute(query, (sealed, ns.id, encoder, id))
            db.execute("UPDATE memgpt.namespaces SET sealed=%s, pending=false, rev=rev+1 WHERE id=%s", (number, ns.id))
            self._doom(f"{name}-{old}")
        self._destroy_doomed()

    def snapshot(self, path: Path) -> None:
        raise StoreError("a PostgreSQL store is copied by the server's own tools: pg_dump --schema=memgpt")

    def capabilities(self) -> dict[str, Any]:
        with self._errors("could not be read"):
            version = self._db.execute("SHOW server_version").fetchone()[0]
        sealed = self._keys is not None
        return {
            "engine": "postgresql",
            "version": version,
            "pgvector": self.vector or "not there: keys are compared by this program",
            "encrypted": sealed,
            "search": ["keys", "words", "both, fused by reciprocal rank"],
            "erasure": "by destroying keys: `forget --all` at once, single entries by `compact`" if sealed else "logical only",
            "not_erased": "who was here, when and how much: counts, kinds, dates" if sealed else KEPT,
            "snapshot": False,
        }
