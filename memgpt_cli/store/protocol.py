"""What a store promises, and how it keeps it, whichever engine lies below. A namespace is a wall: every call names one.

An engine (`engine.Engine`) brings transactions and what is done within one; the order in which things are
done, and what may be done at all, is decided here, once.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from memgpt_cli.errors import StoreError
from memgpt_cli.store import rules
from memgpt_cli.store.engine import Engine, Entries, Found, Hits, Ids, Paths, Rankings
from memgpt_cli.store.lexical import fuse
from memgpt_cli.store.types import (
    Edited,
    Filter,
    Hit,
    Item,
    Limits,
    Namespace,
    Receipt,
    Row,
    Stored,
    Written,
    now,
)

NEVER_OLDER = 1 << 62
"""Where no entry that has a vector can be older."""


class Store(Engine):
    """A memory that lasts. Every change is on disk when the call returns.

    Errors: `StoreError` where the store cannot do what was asked; nothing is changed then.
    """

    url: str
    fingerprint: str
    """Of the encoder whose vectors are written and searched; vectors made by another encoder are never compared."""

    def files(self) -> Paths:
        """The files that it keeps on this machine."""
        return []

    # entries

    def put(self, namespace: str, items: Iterable[Item]) -> Written:
        """Keeps entries. What is there already is merged: a new origin is counted, the same origin changes nothing."""
        moment, rows = now(), []
        for item in items:
            origins = [item.provenance] if item.provenance else []
            row = Row(item.text, item.kind, item.meta, origins, moment, moment, 1, item.searchable, self._vectors_of(item))
            rows.append(row)
        return self.restore(namespace, rows)

    def _vectors_of(self, item: Item) -> dict[str, np.ndarray]:
        return {} if item.vector is None or not item.searchable else {self.fingerprint: item.vector}

    def restore(self, namespace: str, rows: Sequence[Row]) -> Written:
        """`put` for entries that have a past: dates, versions, several origins, vectors of several encoders."""
        if not rows:
            return Written([], 0)
        rows = [rules.check_row(row) for row in rows]
        with self._writing() as db:
            ns = self._make_namespace(db, namespace)
            hashes = [self._hash(ns, row.identity) for row in rows]
            ids, new, changed = rules.merge(rows, hashes, self._known(db, ns, hashes), self._fresh(db, len(rows)))
            self._set_origins(db, ns, changed)
            self._insert(db, ns, new)
            self._add_vectors(db, ns, ids, rows, new[0][0] if new else NEVER_OLDER)
            gone = self._make_room(db, namespace, ids)
        return Written(ids, len(new), len(gone), self._erase() if gone else "")

    def _add_vectors(self, db: Any, ns: Namespace, ids: Sequence[int], rows: Sequence[Row], first_new: int) -> None:
        for fingerprint, mine, vectors in rules.vectors_by_encoder(ids, rows):
            self._write_vectors(db, ns, fingerprint, mine, vectors, late=mine[0] < first_new)

    def get(self, namespace: str, ids: Sequence[int]) -> Entries:
        """Those of the entries that are there, by id."""
        with self._reading() as db:
            ns = self._namespace(db, namespace)
            return self._fetch(db, ns, ids) if ns else []

    def list(self, namespace: str, where: Filter | None = None, after: int = 0, limit: int = 1000) -> Entries:
        """Up to `limit` entries in the order they came; the last one's id, as `after`, goes on from there."""
        with self._reading() as db:
            ns = self._namespace(db, namespace)
            if ns is None:
                return []
            with contextlib.closing(self._rows(db, ns, where, after, limit)) as rows:
                return [e for _, e in zip(range(limit), rows, strict=False)]

    def all(self, namespace: str, where: Filter | None = None) -> Iterator[Stored]:
        """Every entry, a page at a time, so that no reader stands in the way of forgetting."""
        after = 0
        while page := self.list(namespace, where, after):
            yield from page
            after = page[-1].id

    def revision(self, namespace: str) -> int:
        """A number that changes with every change of the namespace; -1 where there is none."""
        with self._reading() as db:
            ns = self._namespace(db, namespace)
            return ns.rev if ns else -1

    def search(
        self,
        namespace: str,
        vectors: np.ndarray | None = None,
        texts: Sequence[str] | None = None,
        k: int = 8,
        where: Filter | None = None,
        share: float = 0.5,
    ) -> Hits:
        """The best `k` entries for each query, among those that `where` means.

        Args:
            vectors: [Q, D], compared with the entries' vectors by inner product.
            texts: Q texts, compared by their words (BM25). With both, the two rankings are fused by reciprocal rank.
            share: of the vectors in what is fused, from 0 (words alone order) to 1.
        """
        many = len(vectors) if vectors is not None else len(texts or ())
        if texts is not None and len(texts) != many:
            raise StoreError(f"{many} vectors and {len(texts)} texts: expected one text a vector")
        if not many or k < 1:
            return [[] for _ in range(many)]
        where = where or Filter()
        both = vectors is not None and texts is not None
        depth = max(64, 4 * k) if both else k
        with self._reading() as db:
            ns = self._namespace(db, namespace)
            if ns is None:
                return [[] for _ in range(many)]
            near, said = self._ranked(db, ns, vectors, texts, depth + len(where.without), where)
            near, said = (_left(rankings or [[]] * many, where.without, depth) for rankings in (near, said))
            found = [_fused(pair, k, share) if both else pair[0] or pair[1] for pair in zip(near, said, strict=True)]
            entries = {e.id: e for e in self._fetch(db, ns, sorted({id for hits in found for id, _ in hits}))}
        out: Hits = []
        for hits, similarity, words in zip(found, map(dict, near), map(dict, said), strict=True):
            there = ((id, score) for id, score in hits if id in entries)  # an index may know more than a damaged table holds
            out.append([Hit(entries[id], score, similarity.get(id), words.get(id)) for id, score in there])
        return out

    def edit(self, namespace: str, id: int, item: Item, if_version: int | None = None) -> Edited:
        """Replaces text, kind, meta and vector of an entry; its origins stay. The old bytes are erased as by `forget`.

        So is what only repeats the old text.

        Raises:
            StoreError: no such entry, another version than `if_version`, or another entry that says the same.
        """
        moment, vectors = now(), self._vectors_of(item)
        row = rules.check_row(Row(item.text, item.kind, item.meta, [], moment, moment, 1, item.searchable, vectors))
        with self._writing() as db:
            ns = self._namespace(db, namespace, lock=True)
            (found,) = (self._fetch(db, ns, [id]) if ns else []) or (None,)
            old = rules.check_edit(namespace, id, found, if_version)
            assert ns is not None
            row.provenance, row.created, row.version = [*old.provenance], old.created, old.version + 1
            hash = self._hash(ns, row.identity)
            twin, _ = self._known(db, ns, [hash]).get(hash, (id, []))
            if twin != id:
                raise StoreError(f"entry {twin} says the same already: forget one of the two")
            had_vector = self._has_vector(db, ns, id)
            if old.text != row.text:
                self._delete(db, ns, [n for n in rules.echoes([old], self._silent(db, ns)) if n != id])
            self._replace(db, ns, old, row, hash)
            self._add_vectors(db, ns, [id], [row], id if had_vector else NEVER_OLDER)
            (new,) = self._fetch(db, ns, [id])
            gone = self._make_room(db, namespace, [id])
        return Edited(new, self._erase(), len(gone))

    def forget(
        self, namespace: str, ids: Sequence[int] | None = None, where: Filter | None = None, everything: bool = False
    ) -> Receipt:
        """Erases entries from every file of the store: by id, by condition, or all (then the namespace's name as well)."""
        rules.check_choice(ids, where, everything)
        with self._writing() as db:
            ns = self._namespace(db, namespace, lock=True)
            if ns is None:
                return Receipt("erased", 0)
            gone = self._delete(db, ns, self._select(db, ns, where) if ids is None else sorted(set(map(int, ids))))
            if everything:
                self._drop(db, ns)
        return self._receipt(len(gone), self._erase(everything) if gone or everything else "")

    def _delete(self, db: Any, ns: Namespace, ids: Sequence[int]) -> Ids:
        """Deletes those entries that are there, and what only repeats them; returns their ids."""
        gone: Ids = []
        silent = self._silent(db, ns) if len(ids) else []
        with self._removing(db, len(ids)) as many:
            for first in range(0, len(ids), 5000):
                old = self._fetch(db, ns, ids[first : first + 5000])
                there = {e.id for e in old}
                old += [e for e in self._fetch(db, ns, rules.echoes(old, silent)) if e.id not in there]
                self._remove(db, ns, old, many)
                gone += [e.id for e in old]
        return gone

    def _make_room(self, db: Any, namespace: str, newest: Sequence[int]) -> Ids:
        """Keeps to the limits: refuses, or forgets the oldest; what is too old goes in any case."""
        ns = self._namespace(db, namespace)
        if ns is None or ns.limits == Limits():
            return []
        gone = self._delete_old(db, ns)
        ns = self._namespace(db, namespace)
        assert ns is not None
        over = rules.victims(namespace, ns.limits, ns.entries, ns.bytes, self._oldest(db, ns), set(newest))
        return gone + self._delete(db, ns, over)

    def _delete_old(self, db: Any, ns: Namespace) -> Ids:
        if not ns.limits.max_age_days:
            return []
        return self._delete(db, ns, self._select(db, ns, Filter(before=rules.oldest_allowed(ns.limits))))

    def expire(self, namespace: str) -> Receipt:
        """Erases what is older than the limit. `put` does it too."""
        if not self.limits(namespace).max_age_days:
            return Receipt("erased", 0)
        with self._writing() as db:
            ns = self._namespace(db, namespace, lock=True)
            gone = self._delete_old(db, ns) if ns else []
        return self._receipt(len(gone), self._erase() if gone else "")

    @staticmethod
    def _receipt(entries: int, reason: str) -> Receipt:
        return Receipt("pending" if reason else "erased", entries, reason)

    # vectors

    def without_vector(self, namespace: str, after: int = 0, limit: int = 1000) -> Entries:
        """Searchable entries that have no vector of this encoder."""
        with self._reading() as db:
            ns = self._namespace(db, namespace)
            return self._without_vector(db, ns, after, limit) if ns else []

    def add_vectors(self, namespace: str, ids: Sequence[int], texts: Sequence[str], vectors: np.ndarray) -> int:
        """Adds this encoder's vectors beside those of others; entries whose text has changed meanwhile are left out."""
        given = rules.check_vectors([*vectors])
        with self._writing() as db:
            ns = self._namespace(db, namespace, lock=True)
            text_of = {e.id: e.text for e in (self._fetch(db, ns, ids) if ns else []) if e.searchable}
            same = {id: vector for id, text, vector in zip(ids, texts, given, strict=True) if text_of.get(id) == text}
            if ns is None or not same:
                return 0
            order = sorted(same)
            added = self._write_vectors(db, ns, self.fingerprint, order, np.stack([same[i] for i in order]), late=True)
            self._count(db, ns)
            return added

    def retire(self, namespace: str) -> Receipt:
        """Erases the vectors of other encoders; `entries` counts them."""
        with self._writing() as db:
            ns = self._namespace(db, namespace, lock=True)
            gone = self._delete_other_vectors(db, ns) if ns else 0
        return self._receipt(gone, self._erase() if gone else "")

    def vectors(self, namespace: str, ids: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
        """Vectors of entries, by encoder."""
        with self._reading() as db:
            ns = self._namespace(db, namespace)
            return self._read_vectors(db, ns, [e.id for e in self._fetch(db, ns, ids)]) if ns else {}

    # the namespace

    def limits(self, namespace: str) -> Limits:
        with self._reading() as db:
            ns = self._namespace(db, namespace)
            return ns.limits if ns else Limits()

    def set_limits(self, namespace: str, limits: Limits) -> None:
        with self._writing() as db:
            self._write_limits(db, self._make_namespace(db, namespace), limits)

    def settings(self, namespace: str) -> dict[str, Any]:
        """What a caller has asked to be remembered of the namespace as a whole; the store reads nothing of it."""
        with self._reading() as db:
            ns = self._namespace(db, namespace)
            return rules.read_object(self._read_settings(db, ns)) if ns else {}

    def set_settings(self, namespace: str, settings: dict[str, Any]) -> None:
        with self._writing() as db:
            self._write_settings(db, self._make_namespace(db, namespace), rules.as_json(settings))

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _left(rankings: Rankings, without: frozenset[int], k: int) -> Rankings:
    return [[pair for pair in ranking if pair[0] not in without][:k] for ranking in rankings] if without else rankings


def _fused(pair: tuple[Found, Found], k: int, share: float) -> Found:
    return fuse([[id for id, _ in ranking] for ranking in pair], k, (2 * share, 2 * (1 - share)))


Opener: TypeAlias = Callable[[str, str, str, bool], Store]
"""From a URL, an encoder's fingerprint, an encryption key, and whether to make it where there is none."""
