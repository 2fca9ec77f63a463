"""Generic records, JSONL, CSV, Parquet or a `datasets` data set, with a mapping of fields to input, target and memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memgpt_cli.data.sources import Source, Where
from memgpt_cli.data.spans import bearing
from memgpt_cli.errors import ConfigError, DataError
from memgpt_cli.ingest.chunk import chunk_entries
from memgpt_cli.ingest.json_values import read_json_records, text_field
from memgpt_cli.ingest.table import read_csv_records, read_parquet
from memgpt_cli.ingest.text import plain_suffix
from memgpt_cli.schema import RESTS_ON, TASKS, Entry, Episode, Example, render_triple


@dataclass(frozen=True)
class RecordOptions:
    """
    input, target, memory, references: the fields of a record (memory and references may be missing from it).
    evidence: the field that names what the target rests on in `data.corpus`: ids or exact texts, one or a list.
    separator: what stands between several right answers in one text (references, or the target where there are none).
    kind: of the entries; a memory item that is a list of three texts is a fact.
    chunk: characters of an entry where memory is one long text.
    hub: a hub id, read instead of files; hub_config names its configuration. (A saved folder is given as a file.)
    split: the hub's split for each of ours, as "train=train,valid=validation,test=test".
    """

    input: str = "input"
    target: str = "target"
    memory: str = "memory"
    references: str = "references"
    evidence: str = "evidence"
    separator: str = ""
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
    if len(options.delimiter) != 1:
        raise ConfigError(f"data.options.delimiter is {options.delimiter!r}, expected one character")
    name = path.name if path else options.hub
    rows = _rows(path, options, where) if path else _hub(options, where)
    yield from where.each(rows, path or options.hub, lambda n, record: _episode(f"{name}:{n}", record, options))


def _splits(options: RecordOptions) -> dict[str, str]:
    """Our name of a split -> theirs."""
    pairs = [part.partition("=") for part in options.split.split(",")]
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise ConfigError(f"data.options.split is '{options.split}', expected pairs as in train=train,valid=validation")
    return {ours: theirs for ours, _, theirs in pairs}


def _hub(options: RecordOptions, where: Where) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a hub data set; the only source that uses the network, and only because its id was given."""
    from datasets import load_dataset

    names = _splits(options)
    try:
        data = load_dataset(options.hub, options.hub_config or None, split=names.get(where.split, where.split))
    except (OSError, ValueError, ConnectionError) as error:
        raise DataError(f"hub data set '{options.hub}' cannot be read: {str(error).splitlines()[0]}") from error
    yield from enumerate((dict(row) for row in data), 1)


def _rows(path: Path, options: RecordOptions, where: Where) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = plain_suffix(path)
    if path.is_dir():
        return _saved(path, options, where)
    if suffix == ".parquet":
        return read_parquet(path, where.reject, (options.input, options.target))
    if suffix in (".csv", ".tsv"):
        return read_csv_records(path, where.reject, "\t" if suffix == ".tsv" else options.delimiter)
    return read_json_records(path, where.reject)


def _saved(path: Path, options: RecordOptions, where: Where) -> Iterator[tuple[int, dict[str, Any]]]:
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(path))
    except Exception as error:  # a damaged one raises what Arrow and JSON raise
        raise DataError("is a folder, but no data set that `datasets` saved, or a damaged one", path) from error
    names = _splits(options)
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
        references = (
            [r.strip() for r in references.split(options.separator) if r.strip()] if options.separator else [references]
        )
    if not isinstance(references, list) or not all(isinstance(r, str) for r in references):
        raise DataError(f"field '{options.references}' is no list of texts")
    target = text_field(record, options.target) if options.target in record or not references else references[0]
    if options.separator in target and not references and options.separator:
        references = [r.strip() for r in target.split(options.separator) if r.strip()]
        target = references[0] if references else target
    asked = text_field(record, options.input)
    bears = bearing([target, *references]) if options.task == "qa" else None
    evidence = tuple(n for n, entry in enumerate(entries) if bears and bears(entry.text))
    example = Example(asked, target, len(entries), tuple(references), evidence, options.task)
    meta = {"id": record["id"]} if "id" in record else {}
    if options.evidence != options.memory and (named := record.get(options.evidence)):
        names = [str(name) for name in named] if isinstance(named, list) else [str(named)]
        meta[RESTS_ON] = [name for name in names if name.strip()]
    return Episode(name, tuple(entries), (example,), meta)


RECORDS = Source(read_records, RecordOptions, needs_file=lambda options: not options.hub)
