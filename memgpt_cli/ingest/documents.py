"""Documents to entries, for a memory: text is cut into chunks of sentences, triples become facts, records stay records.

Every entry knows its file and line (or page). What cannot be read is yielded as a DataError in its place, so that one bad
line loses no good one.
"""

import contextlib
import json
import logging
import re
import signal
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from memgpt_cli.errors import DataError, StoreError, UsageError
from memgpt_cli.extras import need
from memgpt_cli.ingest.chunk import Cut, chunks
from memgpt_cli.ingest.json_values import read_json_records, text_field
from memgpt_cli.ingest.table import read_csv
from memgpt_cli.ingest.text import Reject, open_bytes, plain_suffix, read_blocks, read_lines
from memgpt_cli.schema import KINDS, render_triple
from memgpt_cli.store import Item
from memgpt_cli.store.rules import check_item

MARKUP_BYTES = 32 << 20
"""Of a file that a parser reads whole, at most."""
PARSE_S = 6
"""How long a parser may take for an HTML file, or for a page of a PDF: hostile ones never end."""
PAGE_S = 0.2
"""And on the average of a PDF's pages."""


def find_documents(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Files that can be read, folders searched (hidden files and stores left out); and those in folders that cannot.

    Raises:
        UsageError: a path that is not there, or a file named whose kind is not known.
    """
    found: list[Path] = []
    left: list[Path] = []
    for path in paths:
        if path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                if not any(part.startswith(".") for part in file.relative_to(path).parts) and ".sqlite" not in file.name:
                    (found if plain_suffix(file) in READERS else left).append(file)
        elif not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        elif not path.is_file():
            raise UsageError(f"{path} is neither a file nor a folder")
        elif plain_suffix(path) not in READERS:
            raise UsageError(f"{path}: '{plain_suffix(path)}' files cannot be read; expected {', '.join(READERS)}")
        else:
            found.append(path)
    return found, left


def source_name(path: Path) -> str:
    """What a file is called in the provenance of its entries: its path, with bytes that are no text spelled out."""
    return path.as_posix().encode(errors="surrogateescape").decode(errors="backslashreplace")


def read_document(path: Path, cut: Cut) -> Iterator[Item | DataError]:
    """The entries of one file, in order, and what could not be read of it."""
    rejected: list[DataError] = []
    try:
        for item in READERS[plain_suffix(path)](path, cut, lambda error, record: rejected.append(error)):
            yield from rejected
            rejected.clear()
            for part in _cut_item(item, cut):
                try:
                    yield check_item(part)
                except StoreError as error:
                    yield DataError(str(error), path, part.provenance.get("line"))
    except DataError as error:
        rejected.append(error.at(path))
    except OSError:
        raise
    except Exception as error:  # parsers raise what they like; one file must not lose the others
        what = "nested too deeply" if isinstance(error, RecursionError) else type(error).__name__
        rejected.append(DataError(f"no {plain_suffix(path)[1:].upper()} that can be read, or a damaged one ({what})", path))
    yield from rejected


def _cut_item(item: Item, cut: Cut) -> Iterator[Item]:
    """A record's text that is longer than what the run reads that it is cut for; in characters records stay as they are."""
    if cut.unit == "characters" or item.kind not in ("chunk", "note") or cut.measure(item.text) <= cut.most:
        yield item
        return
    for part, (_, piece) in enumerate(_pieces(item.text, cut)):
        yield replace(item, text=piece, meta={**item.meta, "part": part})


def _item(text: str, path: Path, kind: str = "chunk", meta: dict[str, Any] | None = None, **origin: Any) -> Item:
    return Item(text, kind, meta or {}, {"source": source_name(path), **origin})


def _text(path: Path, cut: Cut, reject: Reject) -> Iterator[Item]:
    for first, block in read_blocks(path, reject):
        lines = [0, *(m.end() for m in re.finditer("\n", block))]
        for offset, piece in _pieces(block, cut):
            yield _item(piece, path, line=first[bisect_right(lines, offset) - 1])


def _pieces(text: str, cut: Cut) -> Iterator[tuple[int, str]]:
    """Chunks without the white space around them, and where each one's first character stands."""
    for offset, piece in chunks(text, cut):
        if piece.strip():
            yield offset + len(piece) - len(piece.lstrip()), piece.strip()


def _fact(head: str, relation: str, tail: str, path: Path, line: int, meta: dict[str, Any] | None = None) -> Item:
    parts = [head.strip(), relation.strip(), tail.strip()]
    if not all(parts):
        raise DataError(f"an empty part in the triple {parts}", path, line)
    return _item(render_triple(*parts), path, "fact", {"triple": parts, **(meta or {})}, line=line)


_BESIDE = {"text", "id", "_id", "title", "kind", "url", "source", "date", "author"}
"""What columns are called that stand beside a text."""
_HEADS = {("head", "relation", "tail"), ("subject", "predicate", "object"), ("subject", "relation", "object")}


def _csv(path: Path, cut: Cut, reject: Reject) -> Iterator[Item]:
    """Triples; or passages, where the first line names a column `text` (and `id`, where they have one)."""
    names: list[str] = []
    for number, row in read_csv(path, reject, "\t" if plain_suffix(path) == ".tsv" else ","):
        if number == 1:
            names = [c.strip().lower() for c in row]
            if "text" not in names or not (len(names) != 3 or {*names} <= _BESIDE):  # triples, of which one may say "text"
                named, names = tuple(names) in _HEADS, []
                if not named:
                    yield from _triple(row, path, number, reject)
            continue
        try:
            if names:
                if len(row) != len(names):
                    raise DataError(f"{len(row)} fields, expected {len(names)} ({', '.join(names)})", path, number)
                yield _passage(dict(zip(names, row, strict=True)), path, number)
                continue
            yield from _triple(row, path, number, reject)
        except DataError as error:
            reject(error.at(path, number), row)


def _triple(row: list[str], path: Path, number: int, reject: Reject) -> Iterator[Item]:
    try:
        if len(row) != 3:
            raise DataError(f"{len(row)} columns, expected 3: head, relation, tail", path, number)
        yield _fact(row[0], row[1], row[2], path, number)
    except DataError as error:
        reject(error, row)


def _passage(record: dict[str, Any], path: Path, number: int) -> Item:
    """A record with a text, and an id that its entry is known by."""
    text, kind, meta = record.get("text"), record.get("kind", "note"), record.get("meta", {})
    if not isinstance(text, str) or not text.strip() or not isinstance(meta, dict):
        raise DataError(f"expected a text (and meta as an object), found the fields {', '.join(map(str, record))}")
    if kind not in KINDS:
        raise DataError(f"kind is '{kind}', expected one of {', '.join(KINDS)}")
    if isinstance(name := record.get("id", record.get("_id")), str | int) and "provenance" not in record:  # else a store's own
        meta = {"id": str(name), **meta}
    return _item(text, path, kind, meta, line=number)


_IRI = r"<((?:[^\x00-\x20<>\"{}|^`\\]|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8})*+)>"
_BLANK = r"_:([\w.·-]+)"
_LITERAL = r'"((?:[^"\\\n\r]|\\.)*)"(?:@([A-Za-z0-9-]+)|\^\^' + _IRI + ")?"
_TRIPLE = re.compile(rf"\s*(?:{_IRI}|{_BLANK})\s*{_IRI}\s*(?:{_IRI}|{_BLANK}|{_LITERAL})\s*\.\s*(?:#.*)?$")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")
_ESCAPED = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f", '"': '"', "'": "'", "\\": "\\"}


def _unescape(text: str, path: Path, line: int) -> str:
    def one(found: re.Match[str]) -> str:
        name = found.group(1)
        if len(name) > 1:
            return chr(int(name[1:], 16))
        if name not in _ESCAPED:
            raise DataError(f"unknown escape \\{name}", path, line)
        return _ESCAPED[name]

    return _ESCAPE.sub(one, text)


def _local_name(iri: str) -> str:
    """What people call it: the last part of the IRI, its underscores as spaces."""
    from urllib.parse import unquote

    return unquote(re.split(r"[/#:]", iri.rstrip("/#"))[-1]).replace("_", " ") or iri


def _ntriples(path: Path, cut: Cut, reject: Reject) -> Iterator[Item]:
    """N-Triples (W3C, 2014). Facts are written with local names; the full terms are kept in `meta`."""
    for number, line in read_lines(path, reject):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _TRIPLE.match(line)
        if found is None:
            what = f'no N-Triple: expected <subject> <predicate> <object or "literal"> . found {line[:60]!r}'
            reject(DataError(what, path, number), line[:1000])
            continue
        subject, blank, predicate, thing, other_blank, literal, language, datatype = found.groups()
        try:
            terms = [f"_:{blank}" if blank else _unescape(subject, path, number), _unescape(predicate, path, number)]
            value = _unescape(literal, path, number) if literal is not None else f"_:{other_blank}" if other_blank else thing
            names = [t if t.startswith("_:") else _local_name(t) for t in terms]
            names.append(_local_name(value) if thing else value)
            meta: dict[str, Any] = {"terms": [*terms, value]}
            meta |= {"language": language} if language else {"datatype": datatype} if datatype else {}
            yield _fact(names[0], names[1], names[2], path, number, meta)
        except (DataError, ValueError, OverflowError) as error:
            problem = error if isinstance(error, DataError) else DataError("an escape that is no character")
            reject(problem.at(path, number), line[:1000])


def _json(path: Path, cut: Cut, reject: Reject) -> Iterator[Item]:
    """Records: `{"text": …, "kind": …, "meta": …}` as `memgpt memory list --json` prints them, or `{"head", "relation", "tail"}`."""
    for number, record in read_json_records(path, reject):
        try:
            if {"head", "relation", "tail"} <= record.keys():
                head, relation, tail = (text_field(record, part) for part in ("head", "relation", "tail"))
                yield _fact(head, relation, tail, path, number)
                continue
            yield _passage(record, path, number)
        except DataError as error:
            reject(error.at(path, number), record)


def _need(module: str, path: Path) -> Any:
    try:
        return need(module, f"a {path.suffix} file")
    except UsageError as error:  # the other files can be read
        raise DataError(str(error), path) from error


class _TooLongError(BaseException):
    """Not an Exception: parsers catch those, and go on."""


@contextlib.contextmanager
def _in_time(path: Path, what: str) -> Iterator[None]:
    """Raises DataError where the block takes longer than `PARSE_S`; only the main thread can be stopped so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, PARSE_S)
    try:
        yield
    except _TooLongError:
        raise DataError(f"{what} was not read within {PARSE_S} s: it is damaged, or made so", path) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _pdf(path: Path, cut: Cut, reject: Reject) -> Iterator[Item]:
    pypdf = _need("pypdf", path)
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    with _in_time(path, "the list of pages"):
        pages = pypdf.PdfReader(str(path)).pages
        count = len(pages)
    until = time.monotonic() + PARSE_S + PAGE_S * count
    for number in range(count):
        if time.monotonic() > until:
            reject(DataError(f"pages {number + 1} to {count} were not read: the others took too long", path), None)
            return
        try:
            with _in_time(path, f"page {number + 1}"):
                text = pages[number].extract_text().replace("\0", "")
        except DataError as error:
            reject(error, None)
            continue
        except Exception:
            reject(DataError(f"page {number + 1} is damaged", path), None)
            continue
        if not text.strip():
            reject(DataError(f"page {number + 1} holds no text (a scanned image?)", path), None)
        for _, piece in _pieces(text, cut):
            yield _item(piece, path, page=number + 1)


def _html(path: Path, cut: Cut, reject: Reject) -> Iterator[Item]:
    with _in_time(path, "the page"):
        text = _visible(_need("bs4", path).BeautifulSoup(_raw(path), "html.parser"))
    if "\0" in text:
        raise DataError("holds NUL bytes: not a page", path)
    for _, piece in _pieces(text, cut):
        yield _item(piece, path, line=1)


def _visible(soup: Any) -> str:
    for part in soup(["script", "style", "nav", "template", "noscript", "svg"]):
        part.decompose()
    for block in soup(
        ["p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "title", "section"]
    ):
        block.append("\n\n")
    text = re.sub(r"[ \t\xa0]+", " ", soup.get_text())
    return re.sub(r" ?\n[ \n]*\n", "\n\n", text)


def _raw(path: Path) -> bytes:
    with open_bytes(path) as file:
        found = bytes(file.read(MARKUP_BYTES + 1))
    if len(found) > MARKUP_BYTES:
        raise DataError(f"larger than {MARKUP_BYTES:,} bytes: split it", path)
    return found


def _old_store(path: Path, cut: Cut, reject: Reject) -> Iterator[Item]:
    """A memory as the first versions kept it (format 1)."""
    import apsw  # not `sqlite3`: two SQLites in one process undo each other's locks

    try:
        log = Path(f"{path}-wal")
        how = "" if log.is_file() and log.stat().st_size else "?immutable=1"  # nothing comes beside it
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        with contextlib.closing(apsw.Connection(f"file:{quote(str(path.absolute()))}{how}", flags=flags)) as db:
            if db.pragma("user_version") != 1:
                raise DataError("is no memory of format 1: `memgpt memory export` reads newer ones", path)
            for text, kind, meta, created in db.execute("SELECT text, kind, meta, created FROM entries ORDER BY id"):
                try:
                    facts = dict(json.loads(meta))
                except (TypeError, ValueError, RecursionError):
                    reject(DataError(f"an entry whose meta is no object: {str(text)[:60]!r}", path), None)
                    continue
                origin = {"when": created, **{k: facts.pop(k) for k in ("session", "place") if k in facts}}
                yield Item(text, kind, facts, origin)
    except apsw.Error as error:
        raise DataError("cannot be read as a memory: it is damaged, or none", path) from error


READERS: dict[str, Callable[[Path, Cut, Reject], Iterator[Item]]] = {
    ".txt": _text, ".md": _text, ".jsonl": _json, ".json": _json, ".csv": _csv, ".tsv": _csv, ".nt": _ntriples, ".pdf": _pdf,
    ".html": _html, ".htm": _html, ".sqlite": _old_store,
}  # fmt: skip
