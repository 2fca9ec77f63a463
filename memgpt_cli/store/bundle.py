"""A namespace as files: `entries.jsonl`, the vectors of every encoder as raw float32, a manifest. Nothing is lost on the way.

An export of the import of an export has the same bytes. Ids are a store's own and are not in it.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from memgpt_cli.errors import DataError, StoreError
from memgpt_cli.files import Kind, new_folder
from memgpt_cli.ingest.json_values import read_json_records
from memgpt_cli.ingest.text import stop
from memgpt_cli.store.protocol import Store
from memgpt_cli.store.rules import as_json, check_row
from memgpt_cli.store.types import Limits, Row, Written

FORMAT = 1
MANIFEST, ENTRIES = "manifest.json", "entries.jsonl"
BUNDLE = Kind("a memory export", MANIFEST, ("format", "entries", "encoders", "sha256"), (MANIFEST, ENTRIES, "keys-*.f32"))
_FIELDS = ("text", "kind", "meta", "provenance", "created", "updated", "version", "searchable")
Report = Callable[[str, int], None]


def export(store: Store, namespace: str, folder: Path, report: Report = lambda stage, n: None) -> int:
    """Writes the namespace into a new folder, whole or not at all; returns how many entries.

    Raises:
        StoreError: the folder is there already.
        OSError: it cannot be written.
    """
    if os.path.lexists(folder):
        raise StoreError(f"{folder} is there already: an export never replaces anything")
    with new_folder(folder, BUNDLE) as partial:
        partial.chmod(0o700)
        return _write(store, namespace, partial, report)


def _write(store: Store, namespace: str, folder: Path, report: Report) -> int:
    count, after = 0, 0
    encoders: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(open(folder / ENTRIES, "w", encoding="utf-8"))
        files: dict[str, Any] = {}
        while page := store.list(namespace, after=after):
            vectors = store.vectors(namespace, [e.id for e in page])
            for mark in sorted(vectors):
                if mark not in files:
                    name = f"keys-{len(files)}.f32"
                    files[mark] = stack.enter_context(open(folder / name, "wb"))
                    encoders[mark] = {"file": name, "dim": len(next(iter(vectors[mark].values()))), "rows": 0}
            for entry in page:
                rows = {}
                for mark in sorted(vectors):
                    if entry.id in vectors[mark]:
                        rows[mark] = encoders[mark]["rows"]
                        encoders[mark]["rows"] += 1
                        files[mark].write(vectors[mark][entry.id].astype("<f4").tobytes())
                whole = entry.as_dict()
                lines.write(as_json({**{f: whole[f] for f in _FIELDS}, "keys": rows}) + "\n")
            count, after = count + len(page), page[-1].id
            report("entries", count)
    sums = {p.name: _digest(p) for p in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, "entries": count, "encoders": encoders, "sha256": sums}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return count


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file() and (path / ENTRIES).is_file()


def load(store: Store, namespace: str, folder: Path, report: Report = lambda stage, n: None) -> Written:
    """Adds an exported namespace to this one; what is there already is merged. Run again, it changes nothing.

    Every line is checked before the first is kept: an export that somebody has changed is refused as a whole.

    Raises:
        DataError: the folder is damaged, or no export; with the line where a line is.
    """
    vectors = _open_vectors(folder)
    for rows in _pages(folder / ENTRIES, vectors):
        report("checking", len(rows))
    ids: list[int] = []
    new = forgotten = 0
    pages = _pages(folder / ENTRIES, vectors)
    if store.limits(namespace) != Limits():  # what is refused is refused whole
        pages = iter([[row for page in pages for row in page]])
    for rows in pages:
        written = store.restore(namespace, rows)
        ids, new, forgotten = ids + written.ids, new + written.new, forgotten + written.forgotten
        report("entries", len(ids))
    return Written(ids, new, forgotten)


def _open_vectors(folder: Path) -> dict[str, np.ndarray]:
    """The vectors of each encoder, mapped; raises DataError where manifest and files do not fit."""
    if not BUNDLE.marks(folder):
        raise DataError(f"is no export of memgpt memory: its {MANIFEST} is damaged, or another program's", folder)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    sums, encoders = manifest["sha256"], manifest["encoders"]
    if manifest["format"] != FORMAT:
        raise DataError(f"an export of format {str(manifest['format'])[:20]}, expected {FORMAT}", folder)
    if not isinstance(sums, dict) or not isinstance(encoders, dict) or ENTRIES not in sums:
        raise DataError(f"its {MANIFEST} is damaged: export it again", folder)
    for name, digest in sums.items():
        if Path(name).name != name or not (folder / name).is_file() or _digest(folder / name) != digest:
            raise DataError("is damaged: its checksum is not the manifest's", folder / Path(name).name)
    try:
        return {mark: _map(folder, encoder, sums) for mark, encoder in encoders.items()}
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"its {MANIFEST} names vectors that are not there: export it again", folder) from error


def _map(folder: Path, encoder: dict[str, Any], sums: dict[str, str]) -> np.ndarray:
    name, rows, dim = encoder["file"], encoder["rows"], encoder["dim"]
    size = (folder / name).stat().st_size if name in sums else -1
    if type(rows) is not int or type(dim) is not int or rows < 1 or dim < 1 or size != 4 * rows * dim:
        raise ValueError
    return np.memmap(folder / name, "<f4", "r", shape=(rows, dim))


def _pages(path: Path, vectors: dict[str, np.ndarray]) -> Iterator[list[Row]]:
    """Rows, 5,000 at a time, each checked; raises DataError with the line."""
    page: list[Row] = []
    for number, record in read_json_records(path, stop):
        try:
            page.append(check_row(Row(**{f: record[f] for f in _FIELDS}, vectors=_own_vectors(record["keys"], vectors))))
        except StoreError as error:
            raise DataError(f"is no entry that can be kept: {error}", path, number) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError("is no entry as memgpt memory export writes it", path, number) from error
        if len(page) == 5000:
            yield page
            page = []
    if page:
        yield page


def _own_vectors(places: dict[str, int], vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An entry's vectors by encoder, from the rows that it names."""
    own = {mark: np.array(vectors[mark][row]) for mark, row in places.items() if type(row) is int and row >= 0}
    if len(own) < len(places) or not all(np.isfinite(vector).all() for vector in own.values()):
        raise StoreError("its vectors are not in the export, or hold what is no number")
    return own
