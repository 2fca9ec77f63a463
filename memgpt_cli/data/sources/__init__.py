"""Sources: small readers from a format to episodes, one function each, found by name.

A reader is `read(file, options, where) -> Iterator[Episode]`: it yields episodes and hands what it cannot read to
`where.reject`, which stops the run or puts it in quarantine.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from memgpt_cli.errors import ConfigError, DataError, did_you_mean
from memgpt_cli.ingest.text import Reject
from memgpt_cli.schema import Episode


class Source(NamedTuple):
    read: Callable[..., Iterator[Episode]]
    options: type
    needs_file: bool = True


# name -> module, function, options. Imported when used: `datasets` alone takes over a second.
_SOURCES = {
    "records": ("records", "read_records", "RecordOptions"),
    "dialogue": ("dialogue", "read_dialogue", "DialogueOptions"),
    "dialog_babi": ("dialogue", "read_dialog_babi", "DialogueOptions"),
    "kdconv": ("dialogue", "read_kdconv", "DialogueOptions"),
    "duconv": ("dialogue", "read_duconv", "DialogueOptions"),
    "babi": ("qa", "read_babi", "BabiOptions"),
    "qa": ("qa", "read_squad", "PassageOptions"),
    "summarisation": ("summarisation", "read_documents", "DocumentOptions"),
    "dialogsum": ("summarisation", "read_dialogsum", "DialogueDocumentOptions"),
    "qmsum": ("summarisation", "read_qmsum", "DialogueDocumentOptions"),
    "parallel": ("parallel", "read_parallel", "ParallelOptions"),
    "text": ("text", "read_plain", "TextOptions"),
    "wikitext": ("text", "read_wikitext", "TextOptions"),
    "eltec": ("text", "read_eltec", "TextOptions"),
    "facts": ("facts", "generate_facts", "FactsOptions"),
}
SOURCE_NAMES = tuple(_SOURCES)


@dataclasses.dataclass
class Where:
    """The split being read, and what to do with a record that is no episode."""

    split: str
    seed: int
    reject: Reject

    def each(self, rows: Iterable[tuple[int, Any]], path: object, make: Callable[[int, Any], Episode]) -> Iterator[Episode]:
        """An episode of every row; one that is not as `make` expects it is rejected with its place, and no other with it."""
        for number, record in rows:
            try:
                yield make(number, record)
            except DataError as error:
                self.reject(error.at(path, number), record)
            except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
                what = "something is missing, or a list, an object or a text stands where another is expected"
                self.reject(DataError(f"{what} ({type(error).__name__})", path, number), record)


def find_source(name: str) -> Source:
    """The source of this name; raises ConfigError with the nearest one."""
    if name not in _SOURCES:
        raise ConfigError(f"data.source is '{name}', which is not a source.{did_you_mean(name, _SOURCES)}")
    module_name, function, options = _SOURCES[name]
    module = importlib.import_module(f"memgpt_cli.data.sources.{module_name}")
    return Source(getattr(module, function), getattr(module, options), needs_file=name != "facts")


def make_options(source: Source, given: dict[str, Any]) -> Any:
    """The source's options from the configuration; an unknown key raises ConfigError with the nearest one."""
    known = {f.name for f in dataclasses.fields(source.options)}
    for key in given:
        if key not in known:
            raise ConfigError(f"data.options.{key} is not an option of this source.{did_you_mean(key, known)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    for f in dataclasses.fields(source.options):
        value, default = values.get(f.name, f.default), f.default
        if isinstance(default, float) and type(value) is int:
            value = values[f.name] = float(value)
        if isinstance(default, (int, float, str)) and (not isinstance(value, type(default)) or isinstance(value, bool)):
            raise ConfigError(f"data.options.{f.name} is {value!r}, expected {type(default).__name__}")
        if isinstance(value, int) and not 0 <= value < 1 << 31:
            raise ConfigError(f"data.options.{f.name} is {value}, expected 0 to {(1 << 31) - 1:,}")
    return source.options(**values)


def files_of(root: Path, names: list[str]) -> list[Path]:
    """Files for a split, in the order given; a name may be a glob. Raises ConfigError where nothing matches."""
    found: list[Path] = []
    for name in names:
        matches = sorted(root.glob(name)) if any(c in name for c in "*?[") else [root / name]
        matches = [m for m in matches if m.is_file() or m.is_dir()]
        if not matches:
            raise ConfigError(f"no file matches {root / name}: set data.path to the folder that holds it")
        found += matches
    return found
