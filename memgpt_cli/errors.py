"""What can go wrong, and what a user is told of it.

MemgptError          one line for the user: what was found, what was expected, what to type (exit 1)
├── UsageError       a wrong argument, key or value (exit 2)
│   └── ConfigError  a configuration that does not compose or validate
├── DataError        a record that cannot be an episode: file, line, reason
├── CheckpointError  a run folder, model or tokenizer that cannot be read
├── StoreError       the memory store cannot do what was asked
└── TrainingStopped  training ended early and can be resumed
"""

import difflib
from collections.abc import Iterable


class MemgptError(Exception):
    """Base of every error whose text is meant for the user."""

    exit_code = 1


class UsageError(MemgptError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class DataError(MemgptError):
    """A record that cannot become an episode.

    Args:
        reason: what was found and what was expected.
        path: the file it stands in.
        line: its line (or record) number, from 1.
    """

    def __init__(self, reason: str, path: object = None, line: int | None = None) -> None:
        self.reason, self.path, self.line = reason, path, line
        place = f"{path}:{line}: " if path and line else f"{path}: " if path else ""
        super().__init__(place + reason)

    def at(self, path: object, line: int | None = None) -> "DataError":
        """The same error with its place filled in where it had none."""
        return DataError(self.reason, self.path or path, self.line or line)


class CheckpointError(MemgptError):
    pass


class StoreError(MemgptError):
    pass


class TrainingStopped(MemgptError):
    exit_code = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"`, or the known names when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(names)}." if names else ""
