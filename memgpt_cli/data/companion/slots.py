"""What a life can be told and asked of: a relation, and whose or what it is told of."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from memgpt_cli.data.companion.wordings import Relation, phrases

PERSON = "given_name"
"""The type of a person's name: as a key it may also be a role ("my sister")."""
TIMES = ("when", "date", "time", "weekday")
"""Types of values that are times."""
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


@cache
def roles(language: str) -> dict[str, str]:
    """By their relations, what others are to the person: "my sister"."""
    return {name: words[0] for name, words in phrases()[language]["roles"].items()}


def answered(text: str, language: str) -> str:
    """A key or value as the reply names it: a role of the person's is "your sister" there, everything else is the same."""
    if text not in roles(language).values():
        return text
    return "你" + text[1:] if language == "zh" else re.sub("^my", "your", text)


def said(text: str, rng: random.Random, language: str) -> str:
    """A key or value as the person names it: a role by any of its words."""
    for words in phrases()[language]["roles"].values():
        if text == words[0]:
            return str(rng.choice(words))
    return text


def agreeing(text: str, slot: Slot) -> str:
    """A wording that says "are" where its key is several things: "your keys are"."""
    several = slot.relation.key in ("object", "thing") and re.search("[^sui]s$", slot.key)
    if not several:
        return text
    text = re.sub(r"\{k\} (is|was)(n't)?\b", lambda m: "{k} " + _SEVERAL[m[1]] + (m[2] or ""), text)
    text = re.sub(r"\b(is|was) ((?:my|the|your|our) \{k\})", lambda m: f"{_SEVERAL[m[1]]} {m[2]}", text)
    return re.sub(r"\b([Ww]here)['’]s ", r"\1 are ", re.sub(r"\bit['’]s ", "they're ", text))


_SEVERAL = {"is": "are", "was": "were"}


def fill(text: str, key: str, value: str) -> str:
    """A wording with its key and value in it; where it begins with a role, with a capital."""
    filled = text.replace("{k}", key).replace("{x}", value)
    return filled[0].upper() + filled[1:] if text.startswith("{k}") and key.startswith("your ") else filled


def by_other_words(slot: Slot, told: Mapping[Slot, list[Told]], language: str) -> list[Slot]:
    """The same of the same person: of a role's bearer by name, of a name's bearer by role."""
    if slot.relation.key != PERSON:
        return []
    by_relation = roles(language)
    bearers = [(by_relation[of.relation.id], fact.value) for of in told if of.relation.id in by_relation for fact in told[of]]
    found = [(role, name) for role, name in bearers if slot.key in (role, name)]
    return [Slot(slot.relation, name if slot.key == role else role) for role, name in found]
