"""How one person talks, and how they are answered: wordings of a split with keys and values in them."""

import random
from collections.abc import Mapping, Sequence

from memgpt_cli.data.companion.slots import Slot, agreeing, answered, fill, roles, said
from memgpt_cli.data.companion.typed import as_we, typed
from memgpt_cli.data.companion.values import make_value
from memgpt_cli.data.companion.wordings import Wordings, of_split, phrases, plainness


class Voice:
    """One person's wordings.

    Args:
        split: whose wordings and names are used.
        known: of validation and test: training's wordings, with the split's own names.
        noise: probability of a slip of the hand in a message.
        invented: share of training's values that are made up; of the other splits' it is a tenth.
    """

    def __init__(
        self, rng: random.Random, language: str, split: str, known: bool = False, noise: float = 0.12, invented: float = 0.7
    ) -> None:
        self.rng, self.language, self.split, self.known, self.noise = rng, language, split, known or split == "train", noise
        self.invented = invented if split == "train" else 0.1
        self.phrases, self.roles = phrases()[language], roles(language)
        self.strangers: set[str] = set()  # keys of what was told of others: none of this person's

    def _pick(self, wordings: Sequence[str], alike: bool = False) -> str:
        """One of the split's; in training a plain one more often than a long one, elsewhere (or where `alike`) all alike."""
        mine = of_split(wordings, self.split, self.known)
        return self.rng.choices(mine, cum_weights=plainness(mine) if self.split == "train" and not alike else None)[0]

    def _words(self, slot: Slot) -> Wordings:
        return slot.relation.words[self.language]

    def _value(self, kind: str, relation: str = "") -> str:
        for _ in range(50):
            value = make_value(kind, self.rng, self.language, self.split, relation, self.invented)
            if value not in self.strangers:
                break
        return value

    def _shared(self, wording: str, slot: Slot) -> str:
        """What several may have in common is now and then told and asked by one of them: "our dog"."""
        ours = slot.relation.id in self.phrases["ours"] and self.rng.random() < 0.2
        return as_we(wording, self.language) if ours else wording

    def _typed(self, wording: str, question: bool, timed: bool = False, sometimes: Mapping[str, float] | None = None) -> str:
        hurry = self.split == "train" and not timed
        return typed(wording, self.rng, self.phrases, question=question, hurry=hurry, noise=self.noise, sometimes=sometimes)

    def _said(self, text: str, slot: Slot, value: str = "") -> str:
        quoted = 0.2 if slot.relation.value == "phrase" else 0.03
        key, value = (said(each, self.rng, self.language) for each in (slot.key, value))
        if value[-1:].isalpha() and self.rng.random() < quoted:
            value = self.rng.choice(self.phrases["quotes"]).format(value)
        if slot.relation.key == "phrase" and self.rng.random() < quoted:
            key = self.rng.choice(self.phrases["quotes"]).format(key)
        filled = fill(agreeing(text, slot), key, value)
        return "M" + filled[1:] if filled.startswith("my ") and self.rng.random() < 0.7 else filled

    def _reply(self, text: str, slot: Slot, value: str = "") -> str:
        return fill(agreeing(text, slot), answered(slot.key, self.language), answered(value, self.language))

    def _joined(self, *sentences: str) -> str:
        return (" " if self.language == "en" else "").join(sentences)

    def _list(self, values: Sequence[str]) -> str:
        between, last = self.phrases["list"]
        return last.join([between.join(values[:-1]), values[-1]]) if len(values) > 1 else values[0]
