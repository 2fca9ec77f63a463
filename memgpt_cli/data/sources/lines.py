"""Reading text line by line without trusting it: UTF-8 errors, giant lines and broken JSON are named by place."""

import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from memgpt_cli.data.sources import Where
from memgpt_cli.errors import DataError

MAX_LINE_BYTES = 8 << 20  # a longer line is a damaged file or no line format at all


def open_bytes(path: Path) -> Any:
    """The file's bytes, unpacked where it ends in .gz or .xz."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    return open(path, "rb")


def decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"invalid UTF-8 at byte {error.start} of the line (0x{raw[error.start]:02x})") from error


def read_lines(path: Path, where: Where, on_reject: Callable[[int], None] = lambda number: None) -> Iterator[tuple[int, str]]:
    """Numbered lines without their end; what cannot be read is rejected, its number told to `on_reject`."""
    try:
        yield from _read_lines(path, where, on_reject)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise DataError(f"the packed file is damaged: {error}", path) from error


def _read_lines(path: Path, where: Where, on_reject: Callable[[int], None]) -> Iterator[tuple[int, str]]:
    with open_bytes(path) as raw:
        buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)
        number = 0
        while line := buffered.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                on_reject(number)
                size = len(line)
                while line and not line.endswith(b"\n"):
                    line = buffered.readline(MAX_LINE_BYTES)
                    size += len(line)
                where.reject(DataError(f"a line of {size:,} bytes, expected at most {MAX_LINE_BYTES:,}", path, number), None)
                continue
            try:
                text = decode(line)
            except DataError as error:
                on_reject(number)
                where.reject(error.at(path, number), repr(line[:200]))
                continue
            yield number, text.removeprefix("\ufeff").rstrip("\r\n") if number == 1 else text.rstrip("\r\n")


def read_text_file(path: Path) -> str:
    """A whole text file with newlines normalised; raises DataError for invalid UTF-8."""
    with open_bytes(path) as raw:
        try:
            return decode(raw.read()).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        except DataError as error:
            raise error.at(path) from error


def parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        what = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise DataError(f"broken JSON: {what}") from error


def read_json_records(path: Path, where: Where) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records of a JSONL file (numbered by line), or of one JSON list or object of lists (numbered from 1)."""
    with open_bytes(path) as raw:
        start = raw.read(64).lstrip()
    whole = start.startswith(b"[") or (start.startswith(b"{") and path.suffix == ".json")
    if whole:
        try:
            data = parse_json(read_text_file(path))
        except DataError as error:
            where.reject(error.at(path), None)
            return
        rows = data if isinstance(data, list) else [data]
        numbered: Iterator[tuple[int, Any]] = iter(enumerate(rows, 1))
    else:
        numbered = _json_lines(path, where)
    for number, record in numbered:
        if isinstance(record, dict):
            yield number, record
        else:
            where.reject(DataError(f"expected a JSON object, found {type(record).__name__}", path, number), record)


def _json_lines(path: Path, where: Where) -> Iterator[tuple[int, Any]]:
    for number, line in read_lines(path, where):
        if line.strip():
            try:
                yield number, parse_json(line)
            except DataError as error:
                where.reject(error.at(path, number), line[:1000])


def text_field(record: dict[str, Any], name: str) -> str:
    """A required text field; raises DataError naming it and what stands there instead."""
    if name not in record:
        raise DataError(f"field '{name}' is missing, found {', '.join(sorted(map(str, record))) or 'nothing'}")
    value = record[name]
    if not isinstance(value, str):
        raise DataError(f"field '{name}' is {type(value).__name__}, expected text")
    return value
