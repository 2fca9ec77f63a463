"""The rules every engine keeps: what may go in, how it is written, what is merged, what must make room."""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from memgpt_cli.errors import ConfigError, StoreError
from memgpt_cli.schema import KINDS
from memgpt_cli.store.types import MAX_META_BYTES, MAX_ORIGIN_CHARS, MAX_TEXT_BYTES, ORIGIN, Item, Limits, Row, Stored


def check_namespace(namespace: str) -> str:
    if not isinstance(namespace, str) or not namespace or not namespace.isprintable() or len(namespace) > 200:
        raise StoreError(f"{str(namespace)[:40]!r} cannot be a namespace: expected 1 to 200 printable characters")
    return namespace


def check_row(row: Row, sizes: bool = True) -> Row:
    """The row itself; raises StoreError where it could not be kept without loss, shown and forgotten.

    Every way in passes here: put, edit, import, and what an export holds. Without `sizes` what is already kept is checked.
    """
    _check_content(row.text, row.kind, row.meta, sizes)
    if not isinstance(row.provenance, list):
        raise StoreError(f"provenance is {_kind_of(row.provenance)}, expected a list of origins")
    for origin in row.provenance:
        _check_origin(origin)
    for name, date in (("created", row.created), ("updated", row.updated)):
        if not isinstance(date, str) or not _is_date(date):
            raise StoreError(f"{name} is {str(date)[:40]!r}, expected a date as 2026-01-31T12:00:00+00:00")
    if type(row.version) is not int or not 1 <= row.version < 1 << 31:
        raise StoreError(f"version is {str(row.version)[:40]!r}, expected a number from 1 on")
    if not isinstance(row.searchable, bool):
        raise StoreError(f"searchable is {str(row.searchable)[:40]!r}, expected true or false")
    for fingerprint in row.vectors:
        if not isinstance(fingerprint, str) or len(fingerprint) > 200 or not is_utf8(fingerprint):
            raise StoreError(f"{str(fingerprint)[:40]!r} is no encoder's fingerprint")
    return row


def check_item(item: Item) -> Item:
    """The same for an entry that is only going to be put."""
    _check_content(item.text, item.kind, item.meta)
    _check_origin(item.provenance)
    return item


def _check_content(text: Any, kind: Any, meta: Any, sizes: bool = True) -> None:
    if not isinstance(text, str):
        raise StoreError(f"an entry's text is {_kind_of(text)}, expected text")
    if not text or text.isspace():
        raise StoreError("an entry is empty")
    if "\0" in text or not is_utf8(text):
        raise StoreError(f"an entry holds a NUL or half a surrogate pair (or bytes that are no UTF-8): {text[:40]!r}")
    if sizes and len(text) > MAX_TEXT_BYTES // 4 and (size := text_bytes(text)) > MAX_TEXT_BYTES:
        raise StoreError(
            f"an entry of {size:,} bytes, at most {MAX_TEXT_BYTES:,} are kept: put it into a file, and memgpt memory import cuts it"
        )
    if kind not in KINDS:
        raise StoreError(f"kind is {str(kind)[:40]!r}, expected one of {', '.join(KINDS)}")
    if not meta and isinstance(meta, dict):
        return
    _check_json("meta", meta)
    for name, expected in _TYPED.items():
        if name in meta and not _is_of(meta[name], expected):
            raise StoreError(f"meta.{name} is {str(meta[name])[:40]!r}, expected {_NAMES[expected]}")


_TYPED: dict[str, Any] = {"repeats": str, "triple": list, "terms": list}
"""What this program itself reads of `meta`; the rest is the user's."""
_NAMES = {str: "text, or a list of texts", list: "a list of three texts"}


def _is_of(value: Any, expected: type) -> bool:
    texts = isinstance(value, list) and all(isinstance(part, str) for part in value)
    return texts and len(value) == 3 if expected is list else texts or isinstance(value, expected)


def _kind_of(value: Any) -> str:
    return {type(None): "nothing", int: "a number", float: "a number"}.get(type(value), f"a {type(value).__name__}")


def _check_json(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise StoreError(f"{name} is {_kind_of(value)}, expected an object")
    text = as_json(value)
    if not is_utf8(text):
        raise StoreError(f"{name} holds half a surrogate pair or bytes that are no UTF-8")
    if text_bytes(text) > MAX_META_BYTES:
        raise StoreError(f"{name} is {text_bytes(text):,} bytes of JSON, at most {MAX_META_BYTES:,} are kept")


def _check_origin(origin: Any) -> None:
    if not isinstance(origin, dict):
        raise StoreError(f"an origin is {_kind_of(origin)}, expected an object")
    for name, value in origin.items():
        if name not in ORIGIN:
            raise StoreError(f"an origin has '{str(name)[:40]}', expected {', '.join(ORIGIN)}")
        if type(value) is str:
            if len(value) > MAX_ORIGIN_CHARS or not is_utf8(value):
                raise StoreError(
                    f"an origin's {name} is longer than {MAX_ORIGIN_CHARS:,} characters, or no UTF-8: {value[:40]!r}"
                )
        elif type(value) is not int or not -(1 << 63) <= value < 1 << 63:
            raise StoreError(f"an origin's {name} is {_kind_of(value)}, expected text or a number")


@functools.lru_cache(4096)
def _is_date(text: str) -> bool:
    """Whether it is written as `now` writes it, so that dates compare as texts."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="seconds") == text
    except (ValueError, OverflowError):
        return False


def is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_vectors(vectors: Sequence[Any]) -> np.ndarray:
    """Vectors of one encoder as one array [N, D] float32; raises StoreError where they are not that."""
    try:
        stacked = np.ascontiguousarray(np.stack(vectors), dtype="<f4")
    except ValueError as error:
        raise StoreError(f"vectors of one encoder have different shapes: {error}") from error
    if stacked.ndim != 2 or not stacked.shape[1] or not np.isfinite(stacked).all():
        raise StoreError(f"vectors are of shape {list(stacked.shape)} or hold what is no number, expected [N, D] finite floats")
    return stacked


def text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False).encode


def as_json(value: Any) -> str:
    """Compact JSON, the same for the same value; raises StoreError for what JSON cannot hold."""
    if not value:
        return "[]" if isinstance(value, list | tuple) else "{}"
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"what describes an entry must be JSON: {error}") from error


def keyed_hash(salt: bytes, data: bytes) -> bytes:
    """16 bytes that tell equal entries, and tell nothing to who has not the store's salt."""
    return hashlib.blake2b(data, digest_size=16, key=salt).digest()


def checksum(salt: bytes, row: "Row | Stored", meta: str, provenance: str) -> bytes:
    """8 bytes over all that an entry holds, as it is written, so that a change by anybody else is found (`verify`)."""
    parts = (row.kind, row.created, row.updated, str(row.version), str(int(row.searchable)), meta, provenance, row.text)
    return hashlib.blake2b("\0".join(parts).encode(errors="replace"), digest_size=8, key=salt).digest()


def read_limits(text: Any) -> Limits:
    """Limits as they are written; none at all where they are damaged, which `verify` tells."""
    try:
        return Limits(**json.loads(text))
    except (TypeError, ValueError, RecursionError, ConfigError):
        return Limits()


def read_object(text: Any) -> dict[str, Any]:
    """An object as it is written; an empty one where it is damaged, which `verify` tells: what is damaged can still be forgotten."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_origins(text: Any) -> list[dict[str, Any]]:
    """The same for a list of origins."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return []
    return [origin for origin in found if isinstance(origin, dict)] if isinstance(found, list) else []


def merged(there: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Origins with the new ones added, or None where nothing is new."""
    added = [o for o in new if o not in there]
    return [*there, *added] if added else None


def merge(
    rows: Sequence[Row], hashes: Sequence[bytes], there: dict[bytes, tuple[int, list[dict[str, Any]]]], fresh: Iterator[int]
) -> tuple[list[int], list[tuple[int, Row, bytes]], dict[int, list[dict[str, Any]]]]:
    """Rows on their way in, against the ids and origins that are `there`.

    Returns:
        An id for every row, from `fresh` for new ones; the new rows, each once and with every origin; the origins of
        those entries there already that have gained some.
    """
    known, ids, new, changed = dict(there), [], [], {}
    for row, hash in zip(rows, hashes, strict=True):
        if hash not in known:
            known[hash] = (next(fresh), row.provenance)
            new.append((known[hash][0], row, hash))
        elif (origins := merged(known[hash][1], row.provenance)) is not None:
            known[hash] = (known[hash][0], origins)
            if hash in there:
                changed[known[hash][0]] = origins
        ids.append(known[hash][0])
    for _, row, hash in new:
        row.provenance = known[hash][1]
    return ids, new, changed


def vectors_by_encoder(ids: Sequence[int], rows: Sequence[Row]) -> Iterator[tuple[str, list[int], np.ndarray]]:
    """Of each encoder the ids that have a vector, ascending, and the vectors [N, D]; the first one where an id has several."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for id, row in zip(ids, rows, strict=True):
        for fingerprint, vector in row.vectors.items() if row.searchable else ():
            found.setdefault(fingerprint, {}).setdefault(id, vector)
    for fingerprint, vectors in found.items():
        yield fingerprint, sorted(vectors), check_vectors([vectors[id] for id in sorted(vectors)])


def victims(
    namespace: str, limits: Limits, entries: int, size: int, oldest: Iterable[tuple[int, int]], keep: set[int]
) -> list[int]:
    """The ids that must go so that a namespace of `entries` entries and `size` bytes keeps to its limits.

    Args:
        oldest: ids and sizes in bytes, those first said first.
        keep: ids that were just written and stay.

    Raises:
        StoreError: it is full and its policy is to refuse, or what was just written is too much by itself.
    """

    def over() -> bool:
        return bool((limits.max_entries and entries > limits.max_entries) or (limits.max_bytes and size > limits.max_bytes))

    gone: list[int] = []
    for id, own in oldest if limits.on_full == "forget_oldest" and over() else ():
        if not over():
            break
        if id not in keep:
            gone.append(id)
            entries, size = entries - 1, size - own
    if over():
        what = (
            f"{entries:,} entries of at most {limits.max_entries:,}"
            if limits.max_entries and entries > limits.max_entries
            else f"{size:,} bytes of text of at most {limits.max_bytes:,}"
        )
        raise StoreError(
            f"'{namespace}' would hold {what}: nothing was kept of this call. Forget something, or raise the limit (memgpt memory limit)"
        )
    return gone


def oldest_allowed(limits: Limits) -> str:
    """What was first said before this moment is too old."""
    return (datetime.now(UTC) - timedelta(days=limits.max_age_days)).isoformat(timespec="seconds")


def check_edit(namespace: str, id: int, old: Stored | None, if_version: int | None) -> Stored:
    """The entry as it is; raises StoreError where it is not there, or not as it should be."""
    if old is None:
        raise StoreError(f"no entry {id} in '{namespace}'")
    if if_version is not None and old.version != if_version:
        raise StoreError(f"entry {id} is at version {old.version}, not {if_version}: somebody else has edited it")
    return old


def echoes(forgotten: Iterable[Stored], silent: Iterable[Stored]) -> list[int]:
    """Ids of silent entries that only say again what is forgotten (`meta.repeats`: its text, or several): no copy of it is to stay."""
    gone = {e.text for e in forgotten}

    def again(entry: Stored) -> list[str]:
        said = entry.meta.get("repeats", entry.text)
        return [said] if isinstance(said, str) else said

    return [e.id for e in silent if not gone.isdisjoint(again(e))]


def check_choice(ids: object, where: object, everything: bool) -> None:
    if sum((ids is not None, where is not None, everything)) != 1:
        raise StoreError("forget what? Ids, a condition, or everything: one of them")
