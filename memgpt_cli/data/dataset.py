"""Episodes on disk: memory-mapped Arrow through `datasets`, one row an episode, texts beside their token ids."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from memgpt_cli.errors import DataError
from memgpt_cli.files import Kind
from memgpt_cli.schema import KINDS, Entry, Episode, Example
from memgpt_cli.tokenizer import Tokenizer
from memgpt_cli.tokenizer.base import FILES as TOKENIZER_FILES

FORMAT = 1
SPLITS = ("train", "valid", "test")
ARROW_FILE = "data.arrow"
MANIFEST, REJECTS = "manifest.json", "rejects.jsonl"
_OF_SPLIT = [f"{split}/{file}" for split in SPLITS for file in (ARROW_FILE, "candidates.arrow")]
_OWN = (MANIFEST, REJECTS, *TOKENIZER_FILES, f"corpus/{ARROW_FILE}", "corpus/memory.sqlite*", *_OF_SPLIT)
DATA_SET = Kind(
    "a data set",
    MANIFEST,
    ("format", "key", "source", "statistics"),
    (*_OWN, *(f"staged-*/{split}/{ARROW_FILE}" for split in SPLITS)),
)
_TEXTS, _IDS = pa.list_(pa.string()), pa.list_(pa.list_(pa.int32()))
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "meta": pa.string(),
        "entries": _TEXTS,
        "kinds": _TEXTS,
        "entry_meta": _TEXTS,
        "entry_ids": _IDS,
        "inputs": _TEXTS,
        "input_ids": _IDS,
        "targets": _TEXTS,
        "target_ids": _IDS,
        "sees": pa.list_(pa.int32()),
        "references": pa.list_(_TEXTS),
        "evidence": _IDS,
        "tasks": _TEXTS,
    }
)


Ids = list[int]


@dataclass(frozen=True, slots=True)
class EncodedEpisode:
    """An episode as it lies on disk and goes into a batch: texts beside their token ids (without the closing EOS).

    Columns of entries have one value an entry, those of examples one an example. Who only makes batches may leave the texts out.
    """

    entry_ids: Sequence[Ids]
    kinds: Sequence[str]
    input_ids: Sequence[Ids]
    target_ids: Sequence[Ids]
    sees: Sequence[int]
    evidence: Sequence[Sequence[int]]
    id: str = ""
    meta: str = ""  # JSON, empty for none
    entries: Sequence[str] = ()
    entry_meta: Sequence[str] = ()
    inputs: Sequence[str] = ()
    targets: Sequence[str] = ()
    references: Sequence[Sequence[str]] = ()
    tasks: Sequence[str] = ()
    found: Sequence[bool] = ()  # whether an example's evidence was found, not named: any piece of it may suffice
    of: Sequence[tuple[str, int]] = ()  # of joined episodes: each example's own episode, and its number there

    def name(self, example: int) -> tuple[str, int]:
        """The episode an example is of, and its number there."""
        return self.of[example] if self.of else (self.id, example)

    def part(self, first: int, last: int) -> "EncodedEpisode":
        """Its examples [first, last), over all of its entries."""
        if (first, last) == (0, len(self.sees)):
            return self
        columns = ("input_ids", "target_ids", "sees", "evidence", "inputs", "targets", "references", "tasks", "found")
        kept = {name: getattr(self, name)[first:last] for name in columns}
        return replace(self, **kept, of=[self.name(n) for n in range(first, last)])

    def decode(self) -> Episode:
        """The episode of texts."""
        entries = tuple(
            Entry(text, kind, json.loads(meta) if meta else {})
            for text, kind, meta in zip(self.entries, self.kinds, self.entry_meta, strict=True)
        )
        columns = zip(self.inputs, self.targets, self.sees, self.references, self.evidence, self.tasks, strict=True)
        examples = tuple(Example(i, t, s, tuple(r), tuple(e), task) for i, t, s, r, e, task in columns)
        return Episode(self.id, entries, examples, json.loads(self.meta) if self.meta else {})


def _json(meta: dict[str, Any]) -> str:
    return json.dumps(meta, ensure_ascii=False) if meta else ""


def encode(episode: Episode, tokenizer: Tokenizer | None) -> EncodedEpisode:
    """The episode's columns; without a tokenizer every text's ids are empty."""
    entries, examples = episode.entries, episode.examples
    texts = [e.text for e in entries] + [x.input for x in examples] + [x.target for x in examples]
    ids = tokenizer.encode_all(texts) if tokenizer else [[] for _ in texts]
    n, m = len(entries), len(entries) + len(examples)
    return EncodedEpisode(
        entry_ids=ids[:n],
        kinds=[e.kind for e in entries],
        input_ids=ids[n:m],
        target_ids=ids[m:],
        sees=[x.sees for x in examples],
        evidence=[list(x.evidence) for x in examples],
        id=episode.id,
        meta=_json(episode.meta),
        entries=texts[:n],
        entry_meta=[_json(e.meta) for e in entries],
        inputs=texts[n:m],
        targets=texts[m:],
        references=[list(x.references) for x in examples],
        tasks=[x.task for x in examples],
    )


class EpisodeWriter:
    """Writes episodes in record batches, so that memory does not grow with the data."""

    def __init__(self, folder: Path, rows_per_batch: int = 256) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = pa.ipc.new_stream(str(folder / ARROW_FILE), SCHEMA)
        self._rows: list[EncodedEpisode] = []
        self._size = rows_per_batch
        self.count = 0

    def write(self, row: EncodedEpisode) -> None:
        self._rows.append(row)
        self.count += 1
        if len(self._rows) >= self._size:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            columns = [pa.array([getattr(row, f.name) for row in self._rows], f.type) for f in SCHEMA]
            self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
            self._rows = []

    def close(self) -> None:
        self.flush()
        self._writer.close()


def read_episodes(folder: Path) -> Iterator[Episode]:
    """Every episode of a split in order, a record batch in memory at a time: pages of a mapped file would stay in it."""
    with pa.OSFile(str(folder / ARROW_FILE)) as file, pa.ipc.open_stream(file) as batches:
        for batch in batches:
            for row in batch.to_pylist():
                yield EncodedEpisode(**row).decode()


class EpisodeDataset:
    """One split, memory-mapped. `lengths` are known without reading texts, so that batches can be planned."""

    def __init__(self, folder: Path) -> None:
        from datasets import Dataset
        from datasets.utils.logging import set_verbosity_error

        set_verbosity_error()
        file = folder / ARROW_FILE
        if not file.is_file():
            raise DataError("no dataset here: run memgpt preprocess", folder)
        try:
            self.rows = Dataset.from_file(str(file))
            table = self.rows.data.table
            table.validate()
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            raise DataError(f"{ARROW_FILE} is damaged: run memgpt preprocess --force", folder) from error
        if table.schema.remove_metadata() != SCHEMA:
            raise DataError(f"{ARROW_FILE} holds other columns than a data set's: run memgpt preprocess --force", folder)
        self.folder = folder

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> EncodedEpisode:
        return EncodedEpisode(**self.rows[index])

    def __getitem__(self, index: int) -> Episode:
        return self.row(index).decode()

    def __iter__(self) -> Iterator[Episode]:
        return read_episodes(self.folder)

    def lengths(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Per episode: token counts of its entries, inputs and targets, and what each example sees."""
        table = self.rows.data.table
        columns = []
        for name in ("entry_ids", "input_ids", "target_ids"):
            rows: list[np.ndarray] = []
            for chunk in table.column(name).chunks:
                inner = chunk.values  # every text's ids of the chunk
                sizes = np.diff(inner.offsets.to_numpy())
                offsets = chunk.offsets.to_numpy() - chunk.offsets[0].as_py()
                rows += [sizes[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
            columns.append(rows)
        sees = [np.array(s, dtype=np.int32) for s in table.column("sees").to_pylist()]
        return list(zip(*columns, sees, strict=True))


@dataclass(frozen=True)
class Seen:
    """What the examples of a training split saw, by its statistics: what a model that learned from them can be given."""

    entries: int = 32  # that one of twenty examples saw more of
    most_entries: int = 256
    entry_tokens: int = 0  # of the longest; 0 where it is not known
    typical_entry_tokens: int = 0  # the median
    kinds: tuple[str, ...] = ()  # the commonest first; empty where it is not known

    @classmethod
    def of(cls, statistics: Any) -> "Seen":
        """From a manifest's statistics of a split, or what a run noted of them; what is not there, or no number, is not known."""

        def number(name: str, what: str, otherwise: int) -> int:
            spread = statistics.get(name)
            value = spread.get(what) if isinstance(spread, dict) else None
            return value if type(value) is int and 0 <= value < 1 << 31 else otherwise

        if not isinstance(statistics, dict):
            return cls()
        kinds = statistics.get("kinds")
        return cls(
            entries=number("entries seen per example", "p95", cls.entries),
            most_entries=number("entries seen per example", "max", cls.most_entries),
            entry_tokens=number("entry tokens", "max", 0),
            typical_entry_tokens=number("entry tokens", "median", 0),
            kinds=tuple(kind for kind in kinds if kind in KINDS) if isinstance(kinds, dict) else (),
        )


NOTED = ("entries seen per example", "entry tokens", "kinds")
"""The statistics that a run notes of the data it was trained on."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The dataset's manifest; raises DataError where there is none."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise DataError("no dataset here: run memgpt preprocess", folder) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{MANIFEST} is damaged ({error}): run memgpt preprocess --force", folder) from error
    if not DATA_SET.marks(folder):
        raise DataError(f"{MANIFEST} is no data set's: name another folder", folder)
    counted = manifest["statistics"]
    if not isinstance(counted, dict) or not all(
        isinstance(s, dict) and isinstance(s.get("changes"), dict) and isinstance(s.get("examples"), int)
        for s in counted.values()
    ):
        raise DataError(f"{MANIFEST} is damaged: run memgpt preprocess --force", folder)
    if manifest.get("format") != FORMAT:
        raise DataError(f"dataset format {manifest.get('format')}, expected {FORMAT}: run memgpt preprocess again", folder)
    return manifest
