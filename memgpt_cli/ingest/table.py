"""Rows of CSV and Parquet files. A broken record costs itself and no other."""

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memgpt_cli.errors import DataError
from memgpt_cli.ingest.text import MAX_LINE_BYTES, Reject, read_lines


def read_csv(path: Path, reject: Reject, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV file (RFC 4180), each with the line it begins at; empty lines are none.

    A record that does not parse (a quote that is never closed, text after a closing quote) is rejected with its first line
    alone, and the reading goes on at the line after it.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = read_lines(path, reject)
    again: deque[tuple[int, str]] = deque()
    while True:
        taken: list[tuple[int, str]] = []

        def feed(taken: list[tuple[int, str]] = taken) -> Iterator[str]:
            size = 0
            while (found := again.popleft() if again else next(lines, None)) is not None:
                taken.append(found)
                size += len(found[1]) + 1
                if size > MAX_LINE_BYTES:
                    raise csv.Error(f"a quote is not closed within {MAX_LINE_BYTES:,} characters")
                yield found[1] + "\n"

        try:
            row = next(csv.reader(feed(), delimiter=delimiter, strict=True), None)
        except csv.Error as error:
            (number, line), *rest = taken
            again.extendleft(reversed(rest))
            what = "a quote is never closed" if "unexpected end" in str(error) else str(error)
            reject(DataError(f"broken CSV: {what}", path, number), line[:1000])
            continue
        if row is None:
            return
        if row:
            yield taken[0][0], row


def read_csv_records(path: Path, reject: Reject, delimiter: str = ",") -> Iterator[tuple[int, dict[str, Any]]]:
    """The records by the names in the file's first line; raises DataError where that line gives none."""
    rows = read_csv(path, reject, delimiter)
    _, header = next(rows, (0, []))
    if not header or len(set(header)) < len(header):
        found = f"found {', '.join(map(repr, header))}" if header else "the file is empty"
        raise DataError(f"the first line must name the columns, each once: {found}", path, 1)
    for number, row in rows:
        if len(row) != len(header):
            reject(DataError(f"{len(row)} fields, expected {len(header)} ({', '.join(header)})", path, number), row)
        else:
            yield number, dict(zip(header, row, strict=True))


def read_parquet(path: Path, reject: Reject, texts: tuple[str, ...] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file, numbered from 1; raises DataError where a column of `texts` is none."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        file = pyarrow.parquet.ParquetFile(path)
        types = {field.name: field.type for field in file.schema_arrow}
        for name in texts:
            if name not in types:
                raise DataError(f"column '{name}' is missing, found {', '.join(types)}", path)
            if not (pyarrow.types.is_string(types[name]) or pyarrow.types.is_large_string(types[name])):
                raise DataError(f"column '{name}' is {types[name]}, expected string", path)
        for batch in file.iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(
            "is no Parquet file, or a damaged one" if not number else f"is damaged after row {number:,}", path
        ) from error
