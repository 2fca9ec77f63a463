"""How a fact is told, asked and answered: the wordings of `words/`, dealt to the splits.

A third of all wordings never occurs in training: of each list, by a hash of the text, two thirds belong to training, a
ninth to validation, the rest to the test.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import yaml

LANGUAGES = ("en", "zh")
WORDS = Path(__file__).parent / "words"
RELATIONS = ("self", "tastes", "household", "people", "things", "others")  # files of relations
T = TypeVar("T", bound=str)


@dataclass(frozen=True)
class Wordings:
    """One relation in one language. `{x}` is its value, `{k}` its key; lists are what people say, texts what is answered."""

    tell: tuple[str, ...]
    ask: tuple[str, ...]
    say: str
    unknown: str
    update: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Relation:
    """What can be told: `value` and `key` are types of `values.py`; where `many`, several values are true side by side."""

    id: str
    value: str
    key: str | None
    many: bool
    words: dict[str, Wordings] = field(hash=False)


@dataclass(frozen=True)
class Talk:
    """What is said that tells nothing, and the reply."""

    id: str
    says: dict[str, tuple[str, ...]] = field(hash=False)
    reply: dict[str, str] = field(hash=False)


def deal(text: str) -> int:
    return zlib.crc32(text.encode())


def of_split(wordings: Sequence[T], split: str, known: bool = False) -> tuple[T, ...]:
    """The wordings that belong to a split; to training's where `known`."""
    ordered = sorted(wordings, key=deal)
    training, validation = 2 * len(ordered) // 3, max(1, len(ordered) // 9)
    if known or split == "train":
        return tuple(ordered[:training])
    return tuple(ordered[training : training + validation] if split == "valid" else ordered[training + validation :])


@cache
def plainness(wordings: tuple[str, ...]) -> list[float]:
    """How often each is said beside the others, summed up: half of the time all alike, else a plain short sentence before a long story."""
    short = [(8 + sum(2 if ord(letter) > 0x2E80 else 1 for letter in text)) ** -2 for text in wordings]
    total = sum(short)
    return [*accumulate(each / total + 1 / len(short) for each in short)]


def _read(name: str) -> Any:
    return yaml.load((WORDS / f"{name}.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)


def _wordings(row: dict[str, Any]) -> Wordings:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Wordings(**fields)


@cache
def relations() -> dict[str, Relation]:
    """All relations by id."""
    rows = [row for name in RELATIONS for row in _read(name)]
    return {
        row["id"]: Relation(
            row["id"], row["value"], row["key"], row["many"], {each: _wordings(row[each]) for each in LANGUAGES}
        )
        for row in rows
    }


@cache
def talk() -> dict[str, Talk]:
    """What tells nothing, by id."""
    return {
        row["id"]: Talk(
            row["id"], {each: tuple(row[each]["says"]) for each in LANGUAGES}, {each: row[each]["reply"] for each in LANGUAGES}
        )
        for row in _read("talk")
    }


@cache
def together() -> dict[str, tuple[str, ...]]:
    """Language -> messages that tell several things: `{age}` is the value of that relation.

    What is told of a person (`{person_job}`) is of the one whose name the message tells (`{sister}`), or of `{who}`.
    """
    return {language: tuple(_read("together")[language]) for language in LANGUAGES}


@cache
def value_lists() -> dict[str, dict[str, list[str]]]:
    """Type -> language -> values."""
    lists: dict[str, dict[str, list[str]]] = _read("values")
    return lists


@cache
def phrases() -> dict[str, Any]:
    """The fixed phrases of replies, and what roles are called."""
    found: dict[str, Any] = _read("phrases")
    return found


def kept() -> tuple[str, ...]:
    """How a reply begins that keeps what it says."""
    return tuple(phrases()[language]["kept"].strip() for language in phrases())
