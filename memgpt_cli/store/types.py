"""What goes into a store and what comes out: entries, where they came from, filters, limits, receipts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from memgpt_cli.errors import ConfigError, UsageError, did_you_mean

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
    """An entry to keep: its text and kind, where it came from, and the vector its encoder made of it."""

    text: str
    kind: str = "note"
    meta: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)  # parts of ORIGIN
    vector: np.ndarray | None = None  # [D] float32
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
    def last_said(self) -> str:
        """When it was said last, ISO 8601: what is said again is as new as what is said."""
        return max((str(origin["when"]) for origin in self.provenance if "when" in origin), default=self.created)

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
    similarity: float | None = None  # inner product of the vectors
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
    forgotten: int = 0  # how many the limits had to make room for


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

    kinds: tuple[str, ...] = ()  # any of these
    contains: str = ""  # words in the text, letter case aside
    since: str = ""  # first said at or after this date or time (ISO 8601, UTC)
    before: str = ""
    origin: tuple[tuple[str, str], ...] = ()  # parts of one and the same provenance
    without: frozenset[int] = frozenset()  # ids that are not meant

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
            elif name == "kind":
                found["kinds"] = (*found.get("kinds", ()), value)
            elif name == "text":
                found["contains"] = value
            else:
                raise UsageError(f"'{name}' is no condition.{did_you_mean(name, ('kind', 'text', 'since', 'before', *ORIGIN))}")
        return cls(origin=tuple(origin), **found)

    def matches_content(self, entry: Stored) -> bool:
        """Those conditions that need the id, the text or the provenance."""
        if entry.id in self.without or (self.contains and self.contains.casefold() not in entry.text.casefold()):
            return False
        return not self.origin or any(all(str(o.get(n, "")) == v for n, v in self.origin) for o in entry.provenance)

    @property
    def needs_content(self) -> bool:
        return bool(self.contains or self.origin or self.without)

    @property
    def narrows(self) -> bool:
        """Whether it asks for anything but to leave some out."""
        return bool(self.kinds or self.since or self.before or self.contains or self.origin)


@dataclass(slots=True)
class Row:
    """An entry on its way in, with every vector it has."""

    text: str
    kind: str
    meta: dict[str, Any]
    provenance: list[dict[str, Any]]
    created: str
    updated: str
    version: int = 1
    searchable: bool = True
    vectors: dict[str, np.ndarray] = field(default_factory=dict)  # encoder's fingerprint -> [D]

    @property
    def identity(self) -> bytes:
        """Entries with the same identity are one. The same words said in two sessions are two turns."""
        first = self.provenance[0] if self.provenance else {}
        place = json.dumps([first.get("session"), first.get("place")]) if self.kind == "turn" else ""
        silent = "" if self.searchable else "silent"
        return f"{self.kind}\0{place}\0{silent}\0{self.text}".encode()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Namespace:
    """A namespace as a transaction finds it."""

    id: int
    rev: int  # counts changes
    entries: int
    bytes: int  # of text
    limits: Limits


@dataclass(frozen=True)
class StoreStats:
    """How much a namespace holds, the same fields whichever engine keeps it. Counts are of entries where nothing is said."""

    store: str
    namespace: str
    entries: int
    text_bytes: int
    kinds: dict[str, int]
    months: dict[str, int]  # by the month they were first said in, YYYY-MM
    lengths: dict[str, int]  # by the power of two below their length in characters (bytes on a server)
    encoders: dict[str, int]  # that have a vector of the encoder, by its fingerprint
    without_vector: int  # searchable, without a vector of this encoder (of any, where none is named)
    erasure_pending: bool
    limits: Limits
    store_bytes: int  # of all files of the store


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do."""

    engine: str
    version: str
    encrypted: bool
    index: str  # what compares vectors
    erasure: str  # physical | by_key (at once for a namespace, by `compact` for an entry) | logical
    erases: str  # the same in words
    not_erased: str  # what forgetting does not reach
    snapshot: bool
    search: tuple[str, ...] = ("vectors", "words", "both, fused by reciprocal rank")
