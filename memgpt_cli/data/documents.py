"""Documents to entries, for a memory: text is cut into chunks of sentences, triples become facts, records stay records.

Every entry knows its file and line (or page). What cannot be read is yielded as a DataError in its place, so that one bad
line loses no good one.
"""

import contextlib
import csv
import importlib
import io
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memgpt_cli.data.sources.chunks import overlapping
from memgpt_cli.data.sources.lines import open_bytes, parse_json, read_text_file
from memgpt_cli.errors import DataError, StoreError, UsageError
from memgpt_cli.memory import Item, Row
from memgpt_cli.memory.records import as_json, check_row
from memgpt_cli.schema import KINDS, render_triple

Read = Iterator[Item | DataError]


@dataclass(frozen=True)
class Cut:
    """How text is cut: at most `chars` characters a chunk, the last `overlap` sentences again in the next one."""

    chars: int = 600
    overlap: int = 1

    def __post_init__(self) -> None:
        if self.chars < 40 or self.overlap < 0:
            raise UsageError(f"chunks of {self.chars} characters, overlap {self.overlap}: expected at least 40, and 0 or more")


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
                    (found if _suffix(file) in READERS else left).append(file)
        elif not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        elif _suffix(path) not in READERS:
            raise UsageError(f"{path}: '{_suffix(path)}' files cannot be read; expected {', '.join(READERS)}")
        else:
            found.append(path)
    return found, left


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix in (".gz", ".xz") else path.suffix.lower()


def read_document(path: Path, cut: Cut) -> Read:
    """The entries of one file, in order, and what could not be read of it."""
    try:
        for found in READERS[_suffix(path)](path, cut):
            yield found if isinstance(found, DataError) else _checked(found, path)
    except DataError as error:
        yield error.at(path)
    except Exception as error:  # parsers and unpackers raise what they like; one file must not lose the others
        yield DataError(f"cannot be read: {error or type(error).__name__}", path)


def _checked(item: Item, path: Path) -> Item | DataError:
    """The item, or why no store could keep it."""
    try:
        check_row(Row(item.text, item.kind, item.meta, [item.provenance], "", ""))
        as_json(item.meta).encode()
    except (StoreError, UnicodeEncodeError) as error:
        return DataError(str(error), path, item.provenance.get("line"))
    return item


def _chunks(text: str, path: Path, cut: Cut, **origin: Any) -> Iterator[Item]:
    lines = [0, *(m.end() for m in re.finditer("\n", text))]
    for offset, piece in overlapping(text, cut.chars, cut.overlap):
        place = origin or {"line": bisect_right(lines, offset)}
        yield Item(piece, "chunk", {}, {"source": path.as_posix(), **place})


def _text(path: Path, cut: Cut) -> Read:
    text = read_text_file(path)
    if "\0" in text:
        raise DataError("holds NUL bytes: not a text file", path)
    yield from _chunks(text, path, cut)


def _fact(head: str, relation: str, tail: str, path: Path, line: int, meta: dict[str, Any] | None = None) -> Item:
    parts = [head.strip(), relation.strip(), tail.strip()]
    if not all(parts):
        raise DataError(f"an empty part in the triple {parts}", path, line)
    return Item(render_triple(*parts), "fact", {"triple": parts, **(meta or {})}, {"source": path.as_posix(), "line": line})


_HEADS = {("head", "relation", "tail"), ("subject", "predicate", "object"), ("subject", "relation", "object")}


def _csv(path: Path, cut: Cut) -> Read:
    text = read_text_file(path)
    reader = csv.reader(io.StringIO(text), delimiter="\t" if _suffix(path) == ".tsv" else ",", strict=True)
    while True:
        try:
            row = next(reader)
            if not row or (reader.line_num == 1 and tuple(c.strip().lower() for c in row) in _HEADS):
                continue
            if len(row) != 3:
                raise DataError(f"{len(row)} columns, expected 3: head, relation, tail", path, reader.line_num)
            yield _fact(row[0], row[1], row[2], path, reader.line_num)
        except StopIteration:
            return
        except csv.Error as error:
            yield DataError(f"broken CSV: {error}", path, reader.line_num)
        except DataError as error:
            yield error


_IRI = r"<([^\x00-\x20<>\"{}|^`\\]*(?:\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8}|[^\x00-\x20<>\"{}|^`\\])*)>"
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


def _ntriples(path: Path, cut: Cut) -> Read:
    """N-Triples (W3C, 2014). Facts are written with local names; the full terms are kept in `meta`."""
    for number, line in enumerate(read_text_file(path).split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _TRIPLE.match(line)
        if found is None:
            yield DataError(
                f'no N-Triple: expected <subject> <predicate> <object or "literal"> . found {line[:60]!r}', path, number
            )
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
        except (DataError, ValueError) as error:
            yield error if isinstance(error, DataError) else DataError(str(error), path, number)


def _jsonl(path: Path, cut: Cut) -> Read:
    """Records: `{"text": …, "kind": …, "meta": …}` as `memgpt memory list --json` prints them, or `{"head", "relation", "tail"}`."""
    for number, line in enumerate(read_text_file(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
            if not isinstance(record, dict):
                raise DataError(f"expected an object, found {type(record).__name__}")
            if {"head", "relation", "tail"} <= record.keys():
                yield _fact(str(record["head"]), str(record["relation"]), str(record["tail"]), path, number)
                continue
            text, kind, meta = record.get("text"), record.get("kind", "note"), record.get("meta", {})
            if not isinstance(text, str) or not text.strip() or not isinstance(meta, dict):
                raise DataError(f"expected a text (and meta as an object), found the fields {', '.join(map(str, record))}")
            if kind not in KINDS:
                raise DataError(f"kind is '{kind}', expected one of {', '.join(KINDS)}")
            yield Item(text, kind, meta, {"source": path.as_posix(), "line": number})
        except DataError as error:
            yield error.at(path, number)


def _need(module: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(f"{path.suffix} files need {module}: pip install 'memgpt-cli[documents]'", path) from None


def _pdf(path: Path, cut: Cut) -> Read:
    pypdf = _need("pypdf", path)
    try:
        pages = pypdf.PdfReader(str(path)).pages
        for number in range(len(pages)):
            text = pages[number].extract_text()
            if not text.strip():
                yield DataError(f"page {number + 1} holds no text (a scanned image?)", path)
            yield from _chunks(text.replace("\0", ""), path, cut, page=number + 1)
    except (pypdf.errors.PyPdfError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"no PDF that can be read: {error}", path) from error


def _html(path: Path, cut: Cut) -> Read:
    soup = _need("bs4", path).BeautifulSoup(_raw(path), "html.parser")
    for part in soup(["script", "style", "nav", "template", "noscript", "svg"]):
        part.decompose()
    for block in soup(
        ["p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "title", "section"]
    ):
        block.append("\n\n")
    text = re.sub(r"[ \t\xa0]+", " ", soup.get_text())
    yield from _chunks(re.sub(r" ?\n[ \n]*\n", "\n\n", text), path, cut, line=1)


def _raw(path: Path) -> bytes:
    with open_bytes(path) as file:
        return bytes(file.read())


def _old_store(path: Path, cut: Cut) -> Read:
    """A memory as the first versions kept it (format 1)."""
    import apsw  # not `sqlite3`: two SQLites in one process undo each other's locks

    try:
        with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
            if db.pragma("user_version") != 1:
                raise DataError("is no memory of format 1: `memgpt memory export` reads newer ones", path)
            for text, kind, meta, created in db.execute("SELECT text, kind, meta, created FROM entries ORDER BY id"):
                facts = json.loads(meta)
                origin = {"when": created, **{k: facts.pop(k) for k in ("session", "place") if k in facts}}
                yield Item(text, kind, facts, origin)
    except apsw.Error as error:
        raise DataError(f"cannot be read as a memory: {error}", path) from error


READERS: dict[str, Callable[[Path, Cut], Read]] = {
    ".txt": _text, ".md": _text, ".jsonl": _jsonl, ".csv": _csv, ".tsv": _csv, ".nt": _ntriples, ".pdf": _pdf, ".html": _html,
    ".htm": _html, ".sqlite": _old_store,
}  # fmt: skip
