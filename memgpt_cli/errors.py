"""What can go wrong, and what a user is told of it.

MemgptError          one line for the user: what was found, what was expected, what to type (exit 1)
├── UsageError       a wrong argument, key or value (exit 2)
│   └── ConfigError  a configuration that does not compose or validate
├── DataError        a record that cannot be an episode: file, line, reason
├── CheckpointError  a run folder, model or tokenizer that cannot be read
├── StoreError       the memory store cannot do what was asked
├── BusyError        another process is writing what this one would
└── TrainingStopped  training ended early and can be resumed
"""

import difflib
import errno
import os
import re
from collections.abc import Iterable


class Terminated(KeyboardInterrupt):
    """SIGTERM: whatever a Ctrl-C would only interrupt ends."""


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


class BusyError(MemgptError):
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


_SYSTEM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is used up",
    errno.EROFS: "the disk can only be read",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "no such file or folder",
    errno.EISDIR: "is a folder, expected a file",
    errno.ENOTDIR: "a part of this path is a file, expected a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a link that leads in a circle, or where none may be",
    errno.EMFILE: "too many files are open",
    errno.EIO: "the disk reports an error",
    errno.ETXTBSY: "is being run by another program",
}


def in_words(error: BaseException) -> str:
    """One line for an error of the system or of memory; empty for one that is neither."""
    if isinstance(error, OSError) and error.errno is not None:
        what = _SYSTEM.get(error.errno) or os.strerror(error.errno).lower()
        name = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
        return f"{name}: {what}" if name else what
    if found := re.search(r"\(os error (\d+)\)", str(error)):  # of libraries written in Rust: safetensors, tokenizers
        return _SYSTEM.get(int(found.group(1)), os.strerror(int(found.group(1))).lower())
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return "not enough memory: ask for less at once (trainer.batch_tokens, eval.batch_tokens, generate.max_tokens), or shorter texts"
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return "a path that begins with ~ names nobody's home: write it out"
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[max(0, error.start - 20) : error.end + 20]!r} holds what is no UTF-8 text: half of a character, or bytes of another encoding"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} (0x{error.object[error.start]:02x}) is no UTF-8 text"
    return ""
