"""Codes of a very large namespace in a file that is mapped, not read: derived, disposable, free of what was forgotten."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memgpt_cli.memory.index import Codes

MAPPED_ROWS = 4_000_000
_HEADER = 4096
UNFINISHED = ".part"


def _layout(n: int, words: int) -> list[tuple[type, tuple[int, ...], int]]:
    """Kind, shape and offset of ids, factors and columns in the file."""
    ids = _HEADER
    factors = ids + 8 * n
    columns = -(-(factors + 4 * n) // 64) * 64
    return [(np.int64, (n,), ids), (np.float32, (n,), factors), (np.uint64, (words, n), columns)]


def _open(path: Path, n: int, words: int, mode: Any) -> list[np.ndarray]:
    return [np.memmap(path, kind, mode, offset, shape) for kind, shape, offset in _layout(n, words)]


def build(path: Path, state: dict[str, Any], n: int, words: int, chunks: Iterator[np.ndarray]) -> None:
    """Writes the file for `n` codes that come in chunks, ascending by id; it appears whole or not at all."""
    unfinished = path.with_name(f"{path.name}-{secrets.token_hex(4)}{UNFINISHED}")
    with open(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(json.dumps({**state, "n": n, "words": words}).encode().ljust(_HEADER))
        kind, shape, offset = _layout(n, words)[-1]
        file.truncate(offset + int(np.prod(shape)) * np.dtype(kind).itemsize)
    at = 0
    ids, factors, columns = _open(unfinished, n, words, "r+")
    for rows in chunks:
        here = slice(at, at + len(rows))
        ids[here], factors[here], columns[:, here] = rows["id"], rows["factor"], rows["bits"].T
        at += len(rows)
    for array in (ids, factors, columns):
        array.flush()  # type: ignore[attr-defined]
    del ids, factors, columns
    with open(unfinished, "rb") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def _state(path: Path) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            found: dict[str, Any] = json.loads(file.read(_HEADER))
    except (OSError, ValueError):
        return None
    kind, shape, offset = _layout(found["n"], found["words"])[-1]
    whole = os.path.getsize(path) == offset + int(np.prod(shape)) * np.dtype(kind).itemsize
    return found if whole else None


def load(path: Path, mark: str) -> tuple[Codes, dict[str, Any]] | None:
    """The mapped codes and the state they were built at; None where there are none of the store that `mark` names."""
    state = _state(path)
    if state is None or state["mark"] != mark:
        return None
    # changes stay in this process; plain arrays, since each slice of a memmap costs 0.1 ms
    codes = Codes(*map(np.asarray, _open(path, state["n"], state["words"], "c")))
    codes.dead.update(np.flatnonzero(np.isnan(codes.factors)).tolist())
    return codes, state


def erase(path: Path, ids: Iterable[int]) -> None:
    """Overwrites the codes of these ids in the file."""
    state = _state(path)
    if state is None:
        return
    arrays = _open(path, state["n"], state["words"], "r+")
    codes = Codes(*arrays)
    at = codes.place(ids)
    codes.factors[at], codes.columns[:, at] = np.nan, 0
    for array in arrays:
        array.flush()  # type: ignore[attr-defined]


def discard(paths: Sequence[Path]) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
