"""What goes into a memory store and what comes out: entries, where they came from, filters, limits, receipts."""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from memgpt_cli.errors import ConfigError, StoreError, UsageError, did_you_mean
from memgpt_cli.schema import KINDS

ORIGIN = ("who", "when", "session", "place", "source", "line", "page")
"""The parts of a provenance: who said it, when, in which session and at which place of it, or which file and line."""
MAX_TEXT_BYTES = 1 << 16
"""Of an entry's text (UTF-8): some thirty pages. What is longer is cut into several by who brings it."""
MAX_META_BYTES = 1 << 16
"""Of `meta`, as JSON."""
MAX_ORIGIN_CHARS = 8192
"""Of one part of a provenance: a path may be long."""


@dataclass(frozen=True)
class Item:
    """An entry to keep: its text and kind, where it came from, and the key its encoder made of it."""

    text: str
    kind: str = "note"
    meta: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)  # parts of ORIGIN
    key: np.ndarray | None = None  # [D] float32
    searchable: bool = True  # False keeps a transcript whole: the entry is listed and forgotten, but never found


@dataclass(frozen=True)
class Stored:
    """An entry as the store holds it."""

    id: int
    text: str
    kind: str
    meta: dict[str, Any]
    provenance: tuple[dict[str, Any], ...]  # every different origin the same text came from, the first one first
    created: str  # ISO 8601, UTC
    updated: str
    version: int = 1  # counts edits
    searchable: bool = True

    @property
    def count(self) -> int:
        """How often the same text was added."""
        return max(1, len(self.provenance))

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "provenance": list(self.provenance), "count": self.count}


@dataclass(frozen=True)
class Hit:
    """An entry found: `score` orders the hits; beside it what it was made of, where that was searched."""

    entry: Stored
    score: float
    similarity: float | None = None  # inner product of the keys
    words: float | None = None  # BM25 of the words


@dataclass(frozen=True)
class Written:
    """What `put` did: an id for every item in order, how many were new, how many the limits had to make room for."""

    ids: list[int]
    new: int
    forgotten: int = 0
    pending: str = ""  # why the bytes of what was forgotten are not yet erased; empty where they are


@dataclass(frozen=True)
class Edited:
    """What `edit` made of an entry; `pending` says why the old bytes are not yet erased, empty where they are."""

    entry: Stored
    pending: str = ""


@dataclass(frozen=True)
class Receipt:
    """What `forget` did: `erased` (the bytes are in no file of the store) or `pending` (deleted, and why not yet erased)."""

    state: str
    entries: int
    reason: str = ""


@dataclass(frozen=True)
class Limits:
    """How much a namespace may hold; 0 sets no limit. Age counts from the day an entry was first said."""

    max_entries: int = 0
    max_bytes: int = 0  # of text, UTF-8
    max_age_days: float = 0
    on_full: str = "refuse"  # refuse (nothing of the call is kept) | forget_oldest

    def __post_init__(self) -> None:
        if self.on_full not in ("refuse", "forget_oldest"):
            raise ConfigError(f"on_full is '{self.on_full}', expected refuse or forget_oldest")
        if not all(type(n) is int and n < 1 << 62 for n in (self.max_entries, self.max_bytes)):
            raise ConfigError("a limit is no number, or too large a one")
        if min(self.max_entries, self.max_bytes) < 0 or not 0 <= self.max_age_days <= 36500:
            raise ConfigError("a limit is below 0, or an age above 36,500 days; 0 sets none")


def _moment(name: str, value: str) -> str:
    """A date or time as entries carry it, so that the two compare as text: UTC where it says no zone."""
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):
        raise UsageError(f"{name}={value} is no date: expected 2026-01-31 or 2026-01-31T12:00:00") from None


@dataclass(frozen=True)
class Filter:
    """Which entries are meant; every condition given must hold."""

    kind: str = ""
    contains: str = ""  # words in the text, letter case aside
    since: str = ""  # first said at or after this date or time (ISO 8601, UTC)
    before: str = ""
    origin: tuple[tuple[str, str], ...] = ()  # parts of one and the same provenance

    @classmethod
    def parse(cls, conditions: Sequence[str]) -> "Filter":
        """From `kind=note`, `text~words`, `since=2026-01-31`, `before=…`, `source=notes.md`, `who=…`, `session=…`.

        Raises:
            UsageError: a condition of another form.
        """
        found: dict[str, Any] = {}
        origin = []
        for condition in conditions:
            name, sign, value = condition.partition("~" if condition.startswith("text~") else "=")
            if not sign or not value:
                raise UsageError(f"'{condition}' is no condition: expected name=value, such as kind=note, or text~words")
            if name in ORIGIN:
                origin.append((name, value))
            elif name in ("since", "before"):
                found[name] = _moment(name, value)
            elif name in ("kind", "text"):
                found["contains" if name == "text" else name] = value
            else:
                raise UsageError(f"'{name}' is no condition.{did_you_mean(name, ('kind', 'text', 'since', 'before', *ORIGIN))}")
        return cls(origin=tuple(origin), **found)

    def matches_content(self, entry: Stored) -> bool:
        """Those conditions that need the text or the provenance."""
        if self.contains and self.contains.casefold() not in entry.text.casefold():
            return False
        return not self.origin or any(all(str(o.get(n, "")) == v for n, v in self.origin) for o in entry.provenance)

    @property
    def needs_content(self) -> bool:
        return bool(self.contains or self.origin)


@dataclass(slots=True)
class Row:
    """An entry on its way in, with every key it has."""

    text: str
    kind: str
    meta: dict[str, Any]
    provenance: list[dict[str, Any]]
    created: str
    updated: str
    version: int = 1
    searchable: bool = True
    keys: dict[str, np.ndarray] = field(default_factory=dict)  # encoder's fingerprint -> [D]

    @property
    def identity(self) -> bytes:
        """Entries with the same identity are one. The same words said in two sessions are two turns."""
        first = self.provenance[0] if self.provenance else {}
        place = json.dumps([first.get("session"), first.get("place")]) if self.kind == "turn" else ""
        silent = "" if self.searchable else "silent"
        return f"{self.kind}\0{place}\0{silent}\0{self.text}".encode()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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
    for fingerprint in row.keys:
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


_TYPED: dict[str, Any] = {"said": str, "speaker": str, "closed": bool, "triple": list, "terms": list}
"""What this program itself reads of `meta`; the rest is the user's."""
_NAMES = {str: "text", bool: "true or false", list: "a list of three texts", dict: "an object"}


def _is_of(value: Any, expected: type) -> bool:
    if expected is list:
        return isinstance(value, list) and len(value) == 3 and all(isinstance(part, str) for part in value)
    return isinstance(value, expected)


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


def check_keys(keys: Sequence[Any]) -> np.ndarray:
    """Keys of one encoder as one array [N, D] float32; raises StoreError where they are not that."""
    try:
        stacked = np.ascontiguousarray(np.stack(keys), dtype="<f4")
    except ValueError as error:
        raise StoreError(f"keys of one encoder have different shapes: {error}") from error
    if stacked.ndim != 2 or not stacked.shape[1] or not np.isfinite(stacked).all():
        raise StoreError(f"keys are of shape {list(stacked.shape)} or hold what is no number, expected [N, D] finite floats")
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


def keys_by_encoder(ids: Sequence[int], rows: Sequence[Row]) -> Iterator[tuple[str, list[int], np.ndarray]]:
    """Of each encoder the ids that have a key, ascending, and the keys [N, D]; the first one where an id has several."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for id, row in zip(ids, rows, strict=True):
        for fingerprint, key in row.keys.items() if row.searchable else ():
            found.setdefault(fingerprint, {}).setdefault(id, key)
    for fingerprint, keys in found.items():
        yield fingerprint, sorted(keys), check_keys([keys[id] for id in sorted(keys)])


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
    """Ids of silent entries that only say again what is forgotten: no copy of it is to stay."""

    def said(entry: Stored) -> str:
        return str(entry.meta.get("said", entry.text)).strip()

    gone = {said(e) for e in forgotten}
    return [e.id for e in silent if said(e) in gone]


def check_choice(ids: object, where: object, everything: bool) -> None:
    if sum((ids is not None, where is not None, everything)) != 1:
        raise StoreError("forget what? Ids, a condition, or everything: one of them")
