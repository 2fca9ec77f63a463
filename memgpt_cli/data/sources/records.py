"""Generic records, JSONL, CSV, Parquet or a `datasets` data set, with a mapping of fields to input, target and memory."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memgpt_cli.data.sources import Where
from memgpt_cli.data.sources.chunks import chunk_entries
from memgpt_cli.data.sources.lines import MAX_LINE_BYTES, read_json_records, read_lines, text_field
from memgpt_cli.errors import ConfigError, DataError
from memgpt_cli.schema import TASKS, Entry, Episode, Example, render_triple


@dataclass(frozen=True)
class RecordOptions:
    """
    input, target, memory, references: the fields of a record (memory and references may be missing from it).
    kind: of the entries; a memory item that is a list of three texts is a fact.
    chunk: characters of an entry where memory is one long text.
    hub: a hub id, read instead of files; hub_config names its configuration. (A saved folder is given as a file.)
    split: the hub's split for each of ours, as "train=train,valid=validation,test=test".
    """

    input: str = "input"
    target: str = "target"
    memory: str = "memory"
    references: str = "references"
    kind: str = "chunk"
    task: str = "qa"
    chunk: int = 400
    delimiter: str = ","
    hub: str = ""
    hub_config: str = ""
    split: str = "train=train,valid=validation,test=test"


def read_records(path: Path | None, options: RecordOptions, where: Where) -> Iterator[Episode]:
    if options.task not in TASKS:
        raise ConfigError(f"data.options.task is '{options.task}', expected one of {', '.join(TASKS)}")
    name = path.name if path else options.hub
    for number, record in _rows(path, options, where) if path else _hub(options, where):
        try:
            yield _episode(f"{name}:{number}", record, options)
        except DataError as error:
            where.reject(error.at(path or options.hub, number), record)


def _hub(options: RecordOptions, where: Where) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a hub data set; the only source that uses the network, and only because its id was given."""
    from datasets import load_dataset

    names = dict(part.split("=", 1) for part in options.split.split(","))
    try:
        data = load_dataset(options.hub, options.hub_config or None, split=names.get(where.split, where.split))
    except (OSError, ValueError, ConnectionError) as error:
        raise DataError(f"hub data set '{options.hub}' cannot be read: {str(error).splitlines()[0]}") from error
    yield from enumerate((dict(row) for row in data), 1)


def _rows(path: Path, options: RecordOptions, where: Where) -> Iterator[tuple[int, dict[str, Any]]]:
    name = path.name.lower()
    if path.is_dir():
        yield from _saved(path, options, where)
    elif name.endswith(".parquet"):
        yield from _parquet(path, options)
    elif name.endswith((".csv", ".tsv", ".csv.gz", ".tsv.gz")):
        delimiter = "\t" if ".tsv" in name else options.delimiter
        csv.field_size_limit(MAX_LINE_BYTES)
        reader = csv.DictReader((line + "\n" for _, line in read_lines(path, where)), delimiter=delimiter, strict=True)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                where.reject(DataError(f"broken CSV: {error}", path, reader.line_num), None)
                continue
            if None in row or None in row.values():
                found = sum(v is not None for k, v in row.items() if k is not None) + len(row.get(None) or ())
                where.reject(DataError(f"{found} fields, expected {len(reader.fieldnames or ())}", path, reader.line_num), row)
                continue
            yield reader.line_num, row
    else:
        yield from read_json_records(path, where)


def _parquet(path: Path, options: RecordOptions) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"no readable Parquet file: {error}", path) from error
    types = {field.name: field.type for field in file.schema_arrow}
    for name in (options.input, options.target):
        if name not in types:
            raise DataError(f"column '{name}' is missing, found {', '.join(types)}", path)
        if not (pyarrow.types.is_string(types[name]) or pyarrow.types.is_large_string(types[name])):
            raise DataError(f"column '{name}' is {types[name]}, expected string", path)
    number = 0
    for batch in file.iter_batches(1024):
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _saved(path: Path, options: RecordOptions, where: Where) -> Iterator[tuple[int, dict[str, Any]]]:
    from datasets import DatasetDict, load_from_disk

    data = load_from_disk(str(path))
    names = dict(part.split("=", 1) for part in options.split.split(","))
    if isinstance(data, DatasetDict):
        name = names.get(where.split, where.split)
        if name not in data:
            raise DataError(f"no split '{name}', found {', '.join(data)}", path)
        data = data[name]
    yield from enumerate((dict(row) for row in data), 1)


def _episode(name: str, record: dict[str, Any], options: RecordOptions) -> Episode:
    entries: list[Entry] = []
    memory = record.get(options.memory) or []
    if isinstance(memory, str):
        entries = chunk_entries(memory, options.chunk)
    elif isinstance(memory, list):
        for item in memory:
            if isinstance(item, str):
                entries.append(Entry(item, options.kind))
            elif isinstance(item, list) and len(item) == 3 and all(isinstance(part, str) for part in item):
                entries.append(Entry(render_triple(*item), "fact", {"triple": item}))
            else:
                raise DataError(f"field '{options.memory}' holds {str(item)[:60]}, expected texts or triples")
    else:
        raise DataError(f"field '{options.memory}' is {type(memory).__name__}, expected text or a list")
    references = record.get(options.references) or []
    if isinstance(references, str):
        references = [references]
    if not isinstance(references, list) or not all(isinstance(r, str) for r in references):
        raise DataError(f"field '{options.references}' is no list of texts")
    target = text_field(record, options.target) if options.target in record or not references else references[0]
    example = Example(text_field(record, options.input), target, len(entries), tuple(references), task=options.task)
    return Episode(name, tuple(entries), (example,), {"id": record["id"]} if "id" in record else {})
