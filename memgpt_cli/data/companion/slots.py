"""What a life can be told and asked of: a relation, and whose or what it is told of."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from memgpt_cli.data.companion.wordings import Relation, phrases

PERSON = "given_name"
"""The type of a person's name: as a key it may also be a role ("my sister")."""
LIST = 4  # values that are told of a list at most


@dataclass(frozen=True)
class Told:
    value: str
    entry: int


@dataclass(frozen=True)
class Slot:
    """What has one answer, or one list of answers: a relation, and a key where it has one."""

    relation: Relation
    key: str


def answered(text: str, language: str) -> str:
    """A key or value as the reply names it: a role of the person's is "your sister" there, everything else is the same."""
    if text not in phrases()[language]["roles"].values():
        return text
    return "你" + text[1:] if language == "zh" else re.sub("^my", "your", text)


def fill(text: str, slot: Slot, value: str, language: str, reply: bool) -> str:
    """A wording with its key and value in it, as the person says it or as the reply does."""
    key = slot.key
    if reply:
        key, value = answered(key, language), answered(value, language)
    text = text.replace("{k}", key).replace("{x}", value)
    return text[0].upper() + text[1:] if reply and key and text.startswith(key) else text


def by_other_words(slot: Slot, told: Mapping[Slot, list[Told]], roles: Mapping[str, str]) -> list[Slot]:
    """The same of the same person: of a role's bearer by name, of a name's bearer by role."""
    bearers = [(roles[of.relation.id], fact.value) for of in told if of.relation.id in roles for fact in told[of]]
    found = [(role, name) for role, name in bearers if slot.relation.key == PERSON and slot.key in (role, name)]
    return [Slot(slot.relation, name if slot.key == role else role) for role, name in found]
