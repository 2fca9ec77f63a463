"""One SQLite file as the engine wants it: durable, encrypted if asked, and free of what was deleted.

SQLite's `secure_delete` overwrites a deleted row where it lies. It does not overwrite the copies that stay in a page's
unused middle when the B-tree moves rows between pages (`test_unused_bytes_of_a_page_are_cleared_and_no_others`).
Connections here therefore never check the write-ahead log into the file themselves; one connection does, through a file
layer that clears the unused bytes of every page it writes. The file then holds live rows only, whatever moved.
An encrypted file's layer stands in that one's way: there, forgetting rewrites the file (VACUUM).
"""

import contextlib
import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from memgpt_cli.errors import StoreError, in_words

Connection = Any
"""apsw.Connection; its own types call every value of a row int, float, str, bytes or None."""
PAGE = 8192
BUSY_S = 60
"""How long a writer waits for others."""
CHECKPOINT_BYTES = 64 << 20
"""The log is checked into the file when it is larger, and when the store closes."""
FORMAT = 4
_OURS = {"ns", "hash", "searchable", "provenance", "text"}  # columns of its entries, since format 2
_ORDER = {2: 12, 5: 12, 10: 8, 13: 8}  # B-tree pages, by their first byte, and the length of their header


def clear_unused(page: bytes) -> bytes:
    """A page of a SQLite file with the bytes zeroed that no row uses (sqlite.org/fileformat2.html, 1.6).

    Pages that are not of a B-tree begin with the high byte of a page number, 0 in files below 128 GiB.
    """
    start = 100 if page.startswith(b"SQLite format 3\0") else 0
    header = _ORDER.get(page[start])
    if header is None:
        return page

    def number(at: int) -> int:
        return int.from_bytes(page[at : at + 2], "big")

    gaps = [(start + header + 2 * number(start + 3), number(start + 5) or 65536)]
    block = number(start + 1)
    while block:
        gaps.append((block + 4, block + number(block + 2)))
        block = number(block)
    dirty = [(first, last) for first, last in gaps if page.count(0, first, last) != last - first]
    if not dirty:
        return page
    cleared = bytearray(page)
    for first, last in dirty:
        cleared[first:last] = bytes(last - first)
    return bytes(cleared)


class _ClearingFile(apsw.VFSFile):
    def __init__(self, vfs: str, name: Any, flags: list[int]) -> None:
        self._main = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_DB)
        super().__init__(vfs, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(clear_unused(bytes(data)) if self._main else data, offset)


class _ClearingLayer(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("memgpt-clearing", "", maxpathname=0)

    def xOpen(self, name: Any, flags: list[int]) -> _ClearingFile:  # noqa: N802
        return _ClearingFile("", name, flags)


_layer: list[_ClearingLayer] = []


class Database:
    """Connections to one file, and its transactions.

    Args:
        key: of the encryption; empty for a plain file. Kept in this process only.
    """

    def __init__(self, path: Path, key: str = "", create: bool = True) -> None:
        self.path, self._key, self.encrypted = path, key, bool(key)
        self._lock = threading.RLock()
        self._clearing: apsw.Connection | None = None
        if not create and not path.exists():
            raise StoreError(f"no memory store at {path}: `memgpt memory add` or `import` makes one, --store names another")
        with self.errors("cannot be opened as a memory store"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and (path.stat().st_size or not path.is_file()):
                self._look()
                self.connection: Connection = self._connect()
                return
            # one process at a time: the first page of an encrypted file is written in two steps
            turn = os.open(path.parent, os.O_RDONLY)
            try:
                fcntl.flock(turn, fcntl.LOCK_EX)
                fresh = not path.exists()
                path.touch(mode=0o600)
                try:
                    self.connection = self._connect()
                except BaseException:
                    if fresh and path.stat().st_size == 0:
                        path.unlink()
                    raise
            finally:
                os.close(turn)

    def _look(self) -> None:
        """Reads a little before anything is written: a file that is none of ours stays as it is, and nothing comes beside it."""
        if not self.path.is_file():
            raise StoreError(f"{self.path} is no file: name a file for the memory store")
        with open(self.path, "rb") as file:
            plain = file.read(16) == b"SQLite format 3\0"
        if not plain and not self.encrypted:
            raise apsw.NotADBError("no SQLite file")
        try:
            # the file alone, not its log: a store so young that its tables are in the log has none there
            columns, version, other = self._columns("?immutable=1" if plain else "")
        except (apsw.CorruptError, apsw.NotADBError):
            columns, version, other = self._columns("")  # another process was writing it just then: with locks, and its log
        if version == 1 and {"text", "kind", "meta", "created"} <= columns:
            raise StoreError(
                f"{self.path} is a memory of format 1, expected {FORMAT}: `memgpt memory import` reads it into a new store"
            )
        if version > FORMAT and columns >= _OURS:
            raise StoreError(f"{self.path} is a memory of format {version}, expected {FORMAT}: a newer memgpt made it")
        if (version or other) and not columns >= _OURS:
            raise StoreError(f"{self.path} is a SQLite file, but no memory store")

    def _columns(self, how: str) -> tuple[set[str], int, bool]:
        """The columns of its entries, its version, and whether there is anything else, which tells of another program."""
        address = f"file:{quote(str(self.path.absolute()))}{how}"
        db: Connection = apsw.Connection(address, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        try:
            db.set_busy_timeout(BUSY_S * 1000)
            self._unlock(db)
            columns = {name for (name,) in db.execute("SELECT name FROM pragma_table_info('entries')").fetchall()}
            tables = db.execute("SELECT count(*) FROM sqlite_master").get
            return columns, int(db.pragma("user_version")), bool(tables or db.pragma("application_id"))
        finally:
            db.close()

    def _connect(self, layer: str | None = None) -> apsw.Connection:
        db = apsw.Connection(str(self.path), vfs=layer)
        try:
            db.set_busy_timeout(BUSY_S * 1000)
            self._unlock(db)
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            for foreign in (
                apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER,
                apsw.SQLITE_DBCONFIG_ENABLE_VIEW,
                apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA,
            ):
                db.config(foreign, 0)  # whoever put a trigger into the file, it keeps no copy of what is forgotten
            db.execute(f"PRAGMA page_size={PAGE}")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            if sys.platform == "darwin":
                db.execute("PRAGMA fullfsync=ON")  # fsync alone leaves data in the drive's cache there
            db.execute("PRAGMA secure_delete=ON")
            db.execute("PRAGMA wal_autocheckpoint=0")
            db.execute("PRAGMA foreign_keys=OFF")
            db.execute("PRAGMA cache_size=-16000")
            if not self._key:
                db.execute(f"PRAGMA mmap_size={128 << 20}")  # what is mapped is read in half the time, and counts as memory
        except BaseException:
            db.close()
            raise
        return db

    def _unlock(self, db: Connection) -> None:
        """Gives the connection the key; raises StoreError where this SQLite would take it and encrypt nothing."""
        if self._key and db.pragma("key", self._key) != "ok":
            raise StoreError(
                "this `apsw` cannot encrypt: pip uninstall apsw, then pip install --force-reinstall apsw-sqlite3mc"
            )

    def close(self) -> None:
        with self._lock:
            if self.log_bytes > PAGE:
                with contextlib.suppress(StoreError):
                    self.checkpoint(wait=False)
            if self._clearing is not None:
                self._clearing.close()
                self._clearing = None
            self.connection.close()

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Turns SQLite's errors into one line for the user."""
        try:
            yield
        except apsw.NotADBError as error:
            reason = (
                "its key is another one, or it is no memory store"
                if self.encrypted
                else "it is encrypted (name the environment variable that holds its key: store.key_env, --key-env) or no store"
            )
            raise StoreError(f"{self.path} {what}: {reason}") from error
        except apsw.FullError as error:
            raise StoreError(f"{self.path} {what}: the disk is full. What was stored before is intact") from error
        except apsw.BusyError as error:
            raise StoreError(f"{self.path} {what}: another process has kept it locked for {BUSY_S} s") from error
        except apsw.CorruptError as error:
            raise StoreError(
                f"{self.path} {what}: the file is damaged ({error}). `memgpt memory verify` says where; restore a snapshot or export"
            ) from error
        except apsw.ReadOnlyError as error:
            raise StoreError(f"{self.path} {what}: it, its folder or its disk can only be read") from error
        except apsw.CantOpenError as error:
            raise StoreError(f"{self.path} {what}: permission denied, or its folder is not there") from error
        except apsw.IOError as error:
            raise StoreError(
                f"{self.path} {what}: the disk is full, or reports an error. What was stored before is intact"
            ) from error
        except (UnicodeDecodeError, apsw.MismatchError, apsw.SQLError) as error:
            raise StoreError(
                f"{self.path} {what}: it is damaged, or somebody else has changed it. memgpt memory verify says where"
            ) from error
        except OSError as error:
            raise StoreError(f"{self.path} {what}: {in_words(error)}") from error
        except apsw.Error as error:
            raise StoreError(f"{self.path} {what}: {error}") from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is on disk when the block ends, or has not happened."""
        with self._lock, self.errors("could not be changed"):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise
        if self.log_bytes > CHECKPOINT_BYTES:
            with contextlib.suppress(StoreError):  # what was written is in the log
                self.checkpoint(wait=False)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent state, short: a reader that stays open keeps forgotten bytes in the log."""
        with self._lock, self.errors("could not be read"):
            if self.connection.in_transaction:
                yield self.connection
                return
            self.connection.execute("BEGIN")
            try:
                yield self.connection
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("COMMIT")

    @property
    def log_bytes(self) -> int:
        try:
            return os.path.getsize(f"{self.path}-wal")
        except OSError:
            return 0

    def checkpoint(self, wait: bool = True) -> bool:
        """Moves the log into the file, clearing what is unused, and empties it; False where a reader still needs it."""
        with self._lock, self.errors("could not be written from its log"):
            if self._clearing is None:
                if not _layer:
                    _layer.append(_ClearingLayer())
                self._clearing = self._connect(None if self.encrypted else "memgpt-clearing")
            self._clearing.set_busy_timeout(2000 if wait else 0)
            try:
                self._clearing.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except (apsw.BusyError, apsw.LockedError):
                return False
            return True

    def erase(self) -> bool:
        """Leaves no byte of what is deleted in any file; False where a reader's snapshot still needs it."""
        if self.encrypted:
            self.vacuum()
        return self.checkpoint()

    def vacuum(self) -> None:
        with self._lock, self.errors("could not be rewritten"):
            self.connection.execute("VACUUM")
