"""Rows of CSV and Parquet files. A broken record costs itself and no other."""

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memgpt_cli.errors import DataError
from memgpt_cli.ingest.text import MAX_LINE_BYTES, UNPACKED_BYTES, UNPACKED_RATIO, Reject, read_lines

_AGAIN = 16 << 20
_ROWS, _BATCH_BYTES = 256, 32 << 20


def read_csv(path: Path, reject: Reject, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV file (RFC 4180), each with the line it begins at; empty lines are none.

    A record that does not parse (a quote that is never closed, text after a closing quote) is rejected with its first line
    alone, and the reading goes on at the line after it. A file that makes us read too much again (`_AGAIN` characters) has
    one record a line from there on.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = read_lines(path, reject)
    again: deque[tuple[int, str]] = deque()
    spent = 0
    while True:
        taken: list[tuple[int, str]] = []
        most = MAX_LINE_BYTES if spent < _AGAIN else 0

        def feed(taken: list[tuple[int, str]] = taken, most: int = most) -> Iterator[str]:
            size = 0
            while (found := again.popleft() if again else next(lines, None)) is not None:
                taken.append(found)
                if size > most:
                    raise csv.Error("a quote is never closed")
                size += len(found[1]) + 1
                yield found[1] + "\n"

        try:
            row = next(csv.reader(feed(), delimiter=delimiter, strict=True), None)
        except csv.Error as error:
            (number, line), *rest = taken
            spent += sum(len(text) for _, text in rest)
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
    bad: list[DataError] = []

    def rejected(error: DataError, record: Any) -> None:
        bad.append(error)
        reject(error, record)

    rows = read_csv(path, rejected, delimiter)
    _, header = next(rows, (0, []))
    if bad:  # the next line would be taken for the names
        raise DataError(f"the first line must name the columns, and cannot be read: {bad[0].reason}", path, bad[0].line)
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
        groups = (file.metadata.row_group(n) for n in range(file.metadata.num_row_groups))
        if sum(group.total_byte_size for group in groups) > UNPACKED_BYTES + UNPACKED_RATIO * path.stat().st_size:
            raise DataError(f"unfolds to more than {UNPACKED_RATIO} times its size: rewrite it if you trust it", path)
        types = {field.name: field.type for field in file.schema_arrow}
        for name in texts:
            if name not in types:
                raise DataError(f"column '{name}' is missing, found {', '.join(types)}", path)
            if not (pyarrow.types.is_string(types[name]) or pyarrow.types.is_large_string(types[name])):
                raise DataError(f"column '{name}' is {types[name]}, expected string", path)
        for batch in file.iter_batches(_ROWS):
            step = max(
                1, len(batch) if batch.nbytes < _BATCH_BYTES else 1
            )  # as Python's objects they take several times as much
            for first in range(0, len(batch), step):
                for row in batch.slice(first, step).to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(
            "is no Parquet file, or a damaged one"
            if not number
            else f"is damaged after row {number:,}: the rows after it could not be read",
            path,
        ) from error
