"""A corpus: entries that belong to no episode and that every example may read.

Beside the data set they lie twice: in a store, which is searched, and as token ids in its order, which are read. A row is what
is read at once; an entry that is longer than `data.limits.entry` is several.
"""

import glob
import hashlib
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from memgpt_cli.config import CorpusConfig, DataConfig, user_name
from memgpt_cli.data.clean import Cleaner, Limiter
from memgpt_cli.errors import ConfigError, DataError
from memgpt_cli.ingest.chunk import Cut
from memgpt_cli.ingest.documents import find_documents, read_document
from memgpt_cli.ingest.text import Reject, plain_suffix
from memgpt_cli.schema import Entry
from memgpt_cli.store import Item, Store, open_store
from memgpt_cli.tokenizer import Tokenizer

FOLDER, ROWS, STORE, NAMESPACE = "corpus", "data.arrow", "memory.sqlite", "corpus"
_SCHEMA = pa.schema({"entry": pa.int64(), "text": pa.string(), "kind": pa.string(), "ids": pa.list_(pa.int32())})
_AT_ONCE = 2000

Report = Callable[[str, int], None]
T = TypeVar("T")


def pages(items: Iterable[T], size: int = _AT_ONCE) -> Iterator[list[T]]:
    """Lists of at most `size`, in order."""
    rest = iter(items)
    while page := list(islice(rest, size)):
        yield page


def is_store(path: str) -> bool:
    return "://" in path or plain_suffix(Path(path)) == ".sqlite"


def corpus_files(config: CorpusConfig, asked: Iterable[Path] = (), left_out: "Counter[str] | None" = None) -> list[Path]:
    """The documents of a corpus that is no store; raises ConfigError where there are none.

    Args:
        asked: files of the data themselves: where a folder or a glob holds one it is no document, since its answers stand in it.
        left_out: counts those, and what cannot be read.
    """
    given = Path(config.path).expanduser()
    magic = glob.has_magic(str(given)) and not given.exists()
    named = [Path(p) for p in sorted(glob.glob(str(given), recursive=True))] if magic else [given]
    if not named or not all(path.exists() for path in named):
        raise ConfigError(f"data.corpus={config.path}: no such file or folder")
    own, (found, left) = {path.resolve() for path in asked}, find_documents(named)
    files = [path for path in found if path == given or path.resolve() not in own]
    if left_out is not None:
        left_out["files of the data themselves, no documents"] += len(found) - len(files)
        for path in left:
            left_out[f"{plain_suffix(path) or path.name} files, which cannot be read"] += 1
    if not files:
        kinds = ", ".join(sorted({p.suffix or p.name for p in left})[:8])
        raise ConfigError(
            f"data.corpus={config.path} holds no document that can be read" + (f", found {kinds}" if kinds else "")
        )
    return files


def digest(config: CorpusConfig) -> str:
    """Of the store that a corpus comes from: what changes when its texts do."""
    found = hashlib.sha256()
    with open_store(config.path, create=False) as store:
        for entry in store.all(config.namespace or user_name()):
            found.update(f"{entry.id} {entry.kind} {entry.searchable} {entry.text}\0".encode())
    return found.hexdigest()


def _items(config: CorpusConfig, documents: Sequence[Path], reject: Reject) -> Iterator[Item]:
    if is_store(config.path):
        with open_store(config.path, create=False) as store:
            for e in store.all(config.namespace or user_name()):
                if e.searchable:
                    yield Item(e.text, e.kind, e.meta, e.provenance[0] if e.provenance else {})
        return
    for path in documents:
        for found in read_document(path, Cut(config.chunk)):
            if isinstance(found, DataError):
                reject(found, None)
            else:
                yield found


@dataclass
class Counted:
    """What a corpus holds, in rows as they are read."""

    entries: int = 0  # of the store
    lengths: Counter[int] = field(default_factory=Counter)  # tokens of a row -> how many have so many
    kinds: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)


def fill(
    config: CorpusConfig, folder: Path, own: Iterable[Entry], asked: Iterable[Path], reject: Reject, report: Report
) -> "tuple[Store, Names, Counted]":
    """The corpus in a store of its own below `folder`, what its entries are called, and what was left out; exact duplicates
    are one entry.

    Args:
        own: the entries of the training examples, of which it is made where `data.corpus=own`.
        asked: files of the data themselves, which are no documents.

    Raises DataError where it is empty.
    """
    folder.mkdir(mode=0o700)  # what comes from somebody's store is nobody else's to read
    store, names, count, counted = open_store(str((folder / STORE).absolute()), create=True), Names(), 0, Counted()

    def rejected(error: DataError, record: Any) -> None:
        reject(error, record)
        counted.changes["records rejected"] += 1

    documents = [] if config.own or is_store(config.path) else corpus_files(config, asked, counted.changes)
    items = (Item(e.text, e.kind) for e in own) if config.own else _items(config, documents, rejected)
    for page in pages(items):
        for item, id in zip(page, store.put(NAMESPACE, page).ids, strict=True):
            names.add(item, id)
        count += len(page)
        report("reading the corpus", count)
    if not count:
        where = f" in the namespace '{config.namespace or user_name()}'" if is_store(config.path) else ""
        store.close()
        raise DataError(
            f"data.corpus={config.path} holds no entry{where}" + " (data.corpus.namespace names another)" * bool(where)
        )
    names.close()
    return store, names, counted


def sample(store: Store, seed: int, chars: int) -> Iterator[str]:
    """Texts for a tokenizer to learn from, some `chars` in all, from everywhere in the corpus."""
    share = chars / max(1, sum(len(entry.text) for entry in store.all(NAMESPACE)))
    rng = random.Random(seed)
    return (entry.text for entry in store.all(NAMESPACE) if share >= 1 or rng.random() < share)


def write_rows(
    store: Store, counted: Counted, config: DataConfig, tokenizer: Tokenizer, folder: Path, report: Report
) -> Counted:
    """The store's entries as they are read: cleaned, within `data.limits`, as token ids; returns `counted` with them."""
    clean, limiter = Cleaner(config.clean, counted.changes).text, Limiter(config.limits, tokenizer, counted.changes)
    with pa.ipc.new_stream(str(folder / ROWS), _SCHEMA) as writer:
        for page in pages(store.all(NAMESPACE)):
            read, first = limiter.entries([Entry(clean(e.text), e.kind) for e in page])
            ids = tokenizer.encode_all([entry.text for entry in read])
            of = [e.id for e, a, b in zip(page, first, first[1:], strict=False) for _ in range(a, b)]
            values = (of, [e.text for e in read], [e.kind for e in read], ids)
            columns = [pa.array(v, field.type) for v, field in zip(values, _SCHEMA, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))
            counted.entries += len(page)
            counted.lengths.update(map(len, ids))
            counted.kinds.update(e.kind for e in read)
            report("writing the corpus", counted.entries)
    return counted


class Corpus:
    """Rows of a corpus, memory-mapped: nothing of it is in memory but what is read."""

    def __init__(self, folder: Path) -> None:
        file = folder / ROWS
        try:
            table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{ROWS} is damaged: run memgpt preprocess --force", folder) from error
        if table.schema != _SCHEMA:
            raise DataError(f"{ROWS} holds other columns than a corpus's: run memgpt preprocess --force", folder)
        self.folder, self._table = folder, table
        self._chunks = table.column("ids").chunks
        self._first = np.cumsum([0, *map(len, self._chunks)])
        self._offsets = [chunk.offsets.to_numpy() for chunk in self._chunks]
        self._values = [chunk.values.to_numpy() for chunk in self._chunks]
        self.entry = table.column("entry").to_numpy()

    def __len__(self) -> int:
        return int(self._first[-1])

    def ids(self, row: int) -> list[int]:
        chunk = int(np.searchsorted(self._first, row, side="right")) - 1
        at, offsets = row - int(self._first[chunk]), self._offsets[chunk]
        found: list[int] = self._values[chunk][offsets[at] : offsets[at + 1]].tolist()
        return found

    def sizes(self) -> np.ndarray:
        """Tokens of each row."""
        return np.concatenate([np.diff(offsets) for offsets in self._offsets])

    def text(self, row: int) -> str:
        return str(self._table.column("text")[row].as_py())

    def kind(self, row: int) -> str:
        return str(self._table.column("kind")[row].as_py())

    def rows_of(self, entry: int) -> range:
        """The rows of an entry of the store."""
        first, last = np.searchsorted(self.entry, [entry, entry + 1])
        return range(int(first), int(last))


def open_corpus(data_set: Path) -> Corpus | None:
    """The corpus of a data set; None where it has none."""
    folder = data_set / FOLDER
    return Corpus(folder) if (folder / ROWS).is_file() else None


class Names:
    """Entries by what they are called, an id of their own or their exact text: sixteen bytes each.

    Of entries that say the same each one's id leads to the one that is kept.
    """

    def __init__(self) -> None:
        self._new = array("q"), array("q")
        self.close()

    def add(self, item: Item, entry: int) -> None:
        """An entry of this number in the store; `close` before any is looked for."""
        given = item.meta.get("id")
        for name in (item.text, *([f"id:{given}"] if isinstance(given, str | int) else ())):
            self._new[0].append(hash(name))
            self._new[1].append(entry)

    def close(self) -> None:
        hashes, entries = (np.array(column) for column in self._new)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._entries = hashes[order], entries[order]

    def __call__(self, name: str) -> int | None:
        """The first entry that is called so."""
        for key in (hash(f"id:{name}"), hash(name)):
            at = int(np.searchsorted(self._hashes, key))
            if at < len(self._hashes) and self._hashes[at] == key:
                return int(self._entries[at])
        return None
