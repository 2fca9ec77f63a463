"""Sources: small readers from a format to episodes, one function each, found by name (`plugins`: yours as ours).

A reader is `read(file, options, where) -> Iterator[Episode]`: it yields episodes and hands what it cannot read to
`where.reject`, which stops the run or puts it in quarantine.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from memgpt_cli import plugins
from memgpt_cli.errors import ConfigError, DataError, UsageError, did_you_mean
from memgpt_cli.ingest.text import Reject
from memgpt_cli.schema import Episode


def _no_files(options: Any, files: Sequence[Path]) -> Sequence[Path]:
    return ()


@dataclasses.dataclass(frozen=True)
class Source:
    """How one format is read.

    read: `read(file, options, where)` yields episodes.
    options: a frozen dataclass of what `data.options` may hold; each field has a default.
    needs_file: whether it reads files at all; or, given the options, whether it does then.
    pairs_files: `read` is given all the files of a split at once, as a list, since they belong together line by line.
    extra_files: further files that it reads, given the options and a split's files: data is made anew when they change.
    """

    read: Callable[..., Iterator[Episode]]
    options: type
    needs_file: bool | Callable[[Any], bool] = True
    pairs_files: bool = False
    extra_files: Callable[[Any, Sequence[Path]], Sequence[Path]] = _no_files

    def reads_files(self, options: Any) -> bool:
        return self.needs_file if isinstance(self.needs_file, bool) else self.needs_file(options)


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
    """The source of this name; raises UsageError with the nearest one."""
    found = plugins.load(plugins.SOURCES, name, f"data.source is '{name}', which is not a source")
    if not isinstance(found, Source):
        raise UsageError(f"data.source={name}: its package registers a {type(found).__name__}, expected a Source")
    return found


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
