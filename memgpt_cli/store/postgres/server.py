"""A PostgreSQL server as the engine uses it: its tables, its transactions, and what of a namespace is sealed."""

import contextlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from memgpt_cli.errors import StoreError
from memgpt_cli.extras import need
from memgpt_cli.store import rules
from memgpt_cli.store.index import ExactIndex
from memgpt_cli.store.lexical import TERMS, terms
from memgpt_cli.store.postgres.sealing import KeyFolder, Seal
from memgpt_cli.store.rules import as_json
from memgpt_cli.store.types import Namespace, Row, Stored
from memgpt_cli.store.url import without_password

FORMAT = 3
PARTITIONS = 16
_TABLES = """
CREATE SCHEMA memgpt;
CREATE TABLE memgpt.meta (name text PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE memgpt.doomed_keys (name text PRIMARY KEY);
CREATE SEQUENCE memgpt.ids;
CREATE TABLE memgpt.namespaces (id serial PRIMARY KEY, name text NOT NULL UNIQUE, rev bigint NOT NULL DEFAULT 0,
  entries bigint NOT NULL DEFAULT 0, bytes bigint NOT NULL DEFAULT 0, limits text NOT NULL DEFAULT '{}',
  sealed int NOT NULL DEFAULT 0, pending boolean NOT NULL DEFAULT false, terms text NOT NULL DEFAULT '');
CREATE TABLE memgpt.encoders (id serial PRIMARY KEY, fingerprint text NOT NULL UNIQUE, dim int NOT NULL);
CREATE TABLE memgpt.entries (ns int NOT NULL, id bigint NOT NULL, hash bytea NOT NULL, version int NOT NULL,
  searchable boolean NOT NULL, kind text NOT NULL, created text NOT NULL, updated text NOT NULL, size int NOT NULL,
  terms text[] NOT NULL, body bytea NOT NULL, sum bytea NOT NULL DEFAULT '', PRIMARY KEY (ns, id), UNIQUE (ns, hash)) PARTITION BY HASH (ns);
CREATE TABLE memgpt.keys (ns int NOT NULL, encoder int NOT NULL, id bigint NOT NULL, key KIND NOT NULL,
  PRIMARY KEY (ns, encoder, id)) PARTITION BY HASH (ns);
CREATE TABLE memgpt.sealed_keys (ns int NOT NULL, encoder int NOT NULL, id bigint NOT NULL, key bytea NOT NULL,
  PRIMARY KEY (ns, encoder, id)) PARTITION BY HASH (ns);
CREATE INDEX ON memgpt.entries USING gin (terms);
""" + "".join(
    f"CREATE TABLE memgpt.{t}_{n} PARTITION OF memgpt.{t} FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {n});\n"
    for t in ("entries", "keys", "sealed_keys")
    for n in range(PARTITIONS)
)
COLUMNS = "id, kind, created, updated, version, searchable, body"
KEPT = "PostgreSQL's log and backups keep what was deleted for as long as they are configured to"


@dataclass(frozen=True)
class SealedNamespace(Namespace):
    seal: Seal | None  # what its entries are sealed with; None in a plain store


def pairs_and_characters(text: str) -> list[str]:
    """The terms of a text, and each character of an unspaced run as `字*`, which a lone character is looked up by."""
    found = terms(text)
    return [*found, *(t[0] + "*" for t in found if len(t) <= 2 and not t.isascii())]


class Server:
    """A connection, and the form in which entries lie there.

    Args:
        key: the passphrase that seals the namespaces' keys; nothing is sealed where empty.
    """

    def __init__(self, url: str, fingerprint: str = "", key: str = "") -> None:
        psycopg = self._pg = need("psycopg", "a PostgreSQL store")
        self.url, self.fingerprint = without_password(url), fingerprint
        with self._errors("cannot be opened"):
            self._db: Any = psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="memgpt")
            self._db.execute("SET synchronous_commit = on")
            self._db.execute("SET lock_timeout = '60s'")
        self._cache: dict[tuple[int, int], tuple[int, ExactIndex]] = {}
        try:
            self._salt, self.vector = self._open()
        except BaseException:
            self._db.close()
            raise
        self._keys = KeyFolder(key, self._salt) if key else None
        try:
            with self._errors("cannot be opened"):
                self._check_key()
                self._destroy_doomed()
                self._index_anew()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> tuple[bytes, str]:
        """The store's salt, and pgvector's version (empty where the server has none)."""
        with self._errors("cannot be opened"), self._db.transaction():
            self._db.execute("SELECT pg_advisory_xact_lock(20260101)")
            if self._db.execute("SELECT to_regclass('memgpt.meta')").fetchone()[0] is None:
                has = self._has_pgvector()
                if has:
                    self._db.execute("CREATE EXTENSION IF NOT EXISTS vector")
                self._db.execute(_TABLES.replace("KIND", "vector" if has else "bytea"))
                values = [("salt", secrets.token_bytes(32)), ("format", str(FORMAT).encode())]
                with self._db.cursor() as cursor:
                    cursor.executemany("INSERT INTO memgpt.meta VALUES (%s, %s)", values)
            meta = dict(self._db.execute("SELECT name, value FROM memgpt.meta").fetchall())
            if bytes(meta["format"]) == b"1":  # had no checksums; an entry gets one when it is next written
                self._db.execute("ALTER TABLE memgpt.entries ADD COLUMN sum bytea NOT NULL DEFAULT ''")
                meta["format"] = b"2"
            if bytes(meta["format"]) == b"2":
                self._db.execute("ALTER TABLE memgpt.namespaces ADD COLUMN terms text NOT NULL DEFAULT ''")
                self._db.execute("UPDATE memgpt.meta SET value=%s WHERE name='format'", (str(FORMAT).encode(),))
                meta["format"] = str(FORMAT).encode()
            if int(meta["format"]) != FORMAT:
                raise StoreError(f"{self.url} is a memory of format {int(meta['format'])}, expected {FORMAT}")
            typed = self._db.execute("SELECT 'memgpt.keys'::regclass, format_type(atttypid, atttypmod) FROM pg_attribute "
                                     "WHERE attrelid='memgpt.keys'::regclass AND attname='key'").fetchone()[1]  # fmt: skip
            version = self._db.execute("SELECT extversion FROM pg_extension WHERE extname='vector'").fetchone()
            return bytes(meta["salt"]), version[0] if version and typed != "bytea" else ""

    def _has_pgvector(self) -> bool:
        return self._db.execute("SELECT 1 FROM pg_available_extensions WHERE name='vector'").fetchone() is not None

    def _check_key(self) -> None:
        """Refuses another key than the store was made with, none where there was one, and one where there was none."""
        proof = self._keys.proof() if self._keys else b"plain"
        self._db.execute("INSERT INTO memgpt.meta VALUES ('key', %s) ON CONFLICT DO NOTHING", (proof,))
        made_with = bytes(self._db.execute("SELECT value FROM memgpt.meta WHERE name='key'").fetchone()[0])
        if made_with != proof:
            raise StoreError(
                f"{self.url} is not encrypted: leave --key-env out, or export it and import it into a new store"
                if made_with == b"plain"
                else f"{self.url} was sealed with another key"
                if self._keys
                else f"{self.url} is encrypted: name the environment variable that holds its key (store.key_env, --key-env)"
            )

    def _index_anew(self) -> None:
        """Writes the terms of every entry that other rules than today's have made, where this user has the namespace's key."""
        query = "SELECT name FROM memgpt.namespaces WHERE terms<>%s ORDER BY id"
        for (name,) in self._db.execute(query, (TERMS,)).fetchall():
            with self._db.transaction():
                try:
                    ns = self._named(name, lock=True)
                except StoreError:  # no key: for whoever has it
                    continue
                if ns is None:
                    continue
                rows = self._db.execute(f"SELECT {COLUMNS} FROM memgpt.entries WHERE ns=%s AND searchable", (ns.id,)).fetchall()
                found = [(self._terms(ns, pairs_and_characters(self._stored(ns, row).text)), ns.id, row[0]) for row in rows]
                with self._db.cursor() as cursor:
                    cursor.executemany("UPDATE memgpt.entries SET terms=%s WHERE ns=%s AND id=%s", found)
                self._db.execute("UPDATE memgpt.namespaces SET terms=%s WHERE id=%s", (TERMS, ns.id))

    def _doom(self, key: str) -> None:
        """Notes, within a transaction, that a key is to be destroyed once it is done, whatever happens in between."""
        if self._keys:
            self._db.execute("INSERT INTO memgpt.doomed_keys VALUES (%s) ON CONFLICT DO NOTHING", (key,))

    def _destroy_doomed(self) -> None:
        if self._keys is None:
            return
        with self._errors("could not be read"):
            for (name,) in self._db.execute("SELECT name FROM memgpt.doomed_keys").fetchall():
                self._keys.destroy(name)
                self._db.execute("DELETE FROM memgpt.doomed_keys WHERE name=%s", (name,))

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._pg.errors.LockNotAvailable as error:
            raise StoreError(f"{self.url} {what}: others have kept it locked for 60 s") from error
        except (self._pg.errors.DiskFull, self._pg.errors.OutOfMemory) as error:
            raise StoreError(f"{self.url} {what}: the server is full. What was stored before is intact") from error
        except self._pg.ProgrammingError as error:
            if not getattr(self, "_db", None):  # libpq repeats the address, password and all
                raise StoreError(f"{self.url} {what}: the address is no PostgreSQL URL") from error
            raise StoreError(f"{self.url} {what}: {str(error).splitlines()[0]}") from error
        except self._pg.Error as error:
            raise StoreError(
                f"{self.url} {what}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Any]:
        with self._errors("could not be changed"), self._db.transaction():
            yield self._db

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        with self._errors("could not be read"), self._db.transaction():
            self._db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield self._db

    # namespaces, and what is sealed

    def _name(self, namespace: str) -> str:
        rules.check_namespace(namespace)
        return self._keys.name(namespace) if self._keys else namespace

    def _namespace(self, db: Any, namespace: str, lock: bool = False) -> SealedNamespace | None:
        return self._named(self._name(namespace), lock)

    def _named(self, name: str, lock: bool = False) -> SealedNamespace | None:
        query = "SELECT id, rev, entries, bytes, limits, sealed, name FROM memgpt.namespaces WHERE name=%s"
        row = self._db.execute(query + (" FOR UPDATE" if lock else ""), (name,)).fetchone()
        if row is None:
            return None
        id, rev, entries, size, limits, sealed, name = row
        seal = self._keys.read(f"{name}-{sealed}") if self._keys else None
        return SealedNamespace(id, rev, entries, size, rules.read_limits(limits), seal)

    def _make_namespace(self, db: Any, namespace: str) -> SealedNamespace:
        """The namespace, locked until the transaction ends: its writers take turns."""
        name = self._name(namespace)
        query = "INSERT INTO memgpt.namespaces (name, sealed, terms) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING RETURNING id"
        number = secrets.randbelow(1 << 30)
        if self._db.execute(query, (name, number, TERMS)).fetchone() and self._keys:
            self._keys.create(f"{name}-{number}")
        found = self._namespace(db, namespace, lock=True)
        assert found is not None
        return found

    def _hash(self, ns: SealedNamespace, identity: bytes) -> bytes:
        return ns.seal.mark(identity) if ns.seal else rules.keyed_hash(self._salt, identity)

    def _terms(self, ns: SealedNamespace, found: list[str]) -> list[str]:
        return [ns.seal.mark(t.encode()).hex() for t in found] if ns.seal else found

    def _body(self, ns: SealedNamespace, text: str, meta: dict[str, Any], provenance: list[dict[str, Any]]) -> bytes:
        body = as_json({"text": text, "meta": meta, "provenance": provenance}).encode()
        return ns.seal.close(body) if ns.seal else body

    def _sum(self, ns: SealedNamespace, row: "Row | Stored") -> bytes:
        """Over all that an entry holds, so that `verify` finds a change by anybody else."""
        meta, provenance = as_json(row.meta), as_json(list(row.provenance))
        return rules.checksum(ns.seal.mark(b"sum") if ns.seal else self._salt, row, meta, provenance)

    def _stored(self, ns: SealedNamespace, row: tuple[Any, ...]) -> Stored:
        """An entry as it lies there. What somebody has damaged is read as far as it goes, so that it can be forgotten."""
        id, kind, created, updated, version, searchable, body = row
        whole = rules.read_object(ns.seal.open(bytes(body)) if ns.seal else bytes(body))
        meta, origins = (whole.get(name) for name in ("meta", "provenance"))
        found = tuple(o for o in origins if isinstance(o, dict)) if isinstance(origins, list) else ()
        text = str(whole.get("text", ""))
        return Stored(id, text, kind, meta if isinstance(meta, dict) else {}, found, created, updated, version, searchable)

    def _foreign(self) -> Iterator[str]:
        """What stands in our schema and is not ours; a trigger or a rule could keep what is forgotten."""
        ours = {"meta", "doomed_keys", "namespaces", "encoders", "entries", "keys", "sealed_keys"}
        ours |= {f"{table}_{n}" for table in ("entries", "keys", "sealed_keys") for n in range(PARTITIONS)}
        query = "SELECT c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid=c.relnamespace WHERE nspname='memgpt' AND relkind IN ('r','p','v','m','f')"
        for name, kind in self._db.execute(query).fetchall():
            if name not in ours:
                yield f"a {'view' if kind in 'vm' else 'table'} '{name}' that memgpt did not make: it may hold texts"
        for what, query in (
            ("trigger", "SELECT tgname FROM pg_trigger t JOIN pg_class c ON c.oid=tgrelid JOIN pg_namespace n ON n.oid=relnamespace WHERE nspname='memgpt' AND NOT tgisinternal"),
            ("rule", "SELECT rulename FROM pg_rules WHERE schemaname='memgpt'"),
        ):  # fmt: skip
            for (name,) in self._db.execute(query).fetchall():
                yield f"a {what} '{name}' that memgpt did not make: it may keep what is forgotten"

    def _table(self, ns: SealedNamespace) -> str:
        return "memgpt.sealed_keys" if ns.seal else "memgpt.keys"

    def _as_vector(self, ns: SealedNamespace, vector: np.ndarray) -> Any:
        if ns.seal:
            return ns.seal.close(vector.tobytes())
        return "[" + ",".join(map(repr, vector.tolist())) + "]" if self.vector else vector.tobytes()

    def _as_array(self, ns: SealedNamespace, lying: Any) -> np.ndarray:
        if ns.seal:
            return np.frombuffer(ns.seal.open(bytes(lying)), "<f4")
        return np.array(json.loads(lying), np.float32) if self.vector else np.frombuffer(bytes(lying), "<f4")

    def _encoders(self) -> dict[str, tuple[int, int]]:
        return {m: (i, d) for m, i, d in self._db.execute("SELECT fingerprint, id, dim FROM memgpt.encoders").fetchall()}
