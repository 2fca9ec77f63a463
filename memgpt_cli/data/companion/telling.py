"""What one person tells, in passing and anew, and how it is confirmed."""

import random
import re
from collections.abc import Sequence

from memgpt_cli.data.companion.slots import LIST, PERSON, TIMES, Slot, Told, by_other_words, said
from memgpt_cli.data.companion.voice import Voice
from memgpt_cli.data.companion.wordings import kept, of_split, relations, talk, together
from memgpt_cli.data.dialogue import Dialogue, Turn
from memgpt_cli.schema import Example

USER, BOT = "user", "bot"
PHRASES = 6
"""How often a phrase that stands for another is told beside other things: its wordings name the two in either order, and half as
often it was told wrong in two full trainings of three."""

Telling = tuple[str, str, list[tuple[Slot, str]]]
"""A message that tells something, what confirms it, and what it tells."""


class Teller(Voice):
    """One person's messages that tell something; `only` are the relations that are told, all where empty."""

    def __init__(
        self,
        rng: random.Random,
        language: str,
        split: str,
        known: bool = False,
        noise: float = 0.12,
        only: Sequence[str] = (),
        invented: float = 0.7,
    ) -> None:
        super().__init__(rng, language, split, known, noise, invented)
        self.relations = [relation for name, relation in relations().items() if not only or name in only]
        self.about_persons = [relation for relation in self.relations if relation.id.startswith("person_")]
        self.dialogue, self.examples = Dialogue(1, kept()), list[Example]()
        self.told: dict[Slot, list[Told]] = {}
        self.names: list[str] = []  # of keys that are persons: the same people come again

    def _say(self, text: str, reply: str, ability: str, evidence: Sequence[Told] = ()) -> int:
        """One message and its reply; returns the entry it became, or would have become."""
        self.dialogue.add(Turn(USER, text))
        source, sees = self.dialogue.asks()
        task = ability if self.known else ability + "+"
        self.examples.append(Example(source, reply, sees, evidence=tuple(dict.fromkeys(t.entry for t in evidence)), task=task))
        self.dialogue.add(Turn(BOT, reply))
        return sees

    def _new_slot(self) -> Slot:
        """One that can be told of; where nearly everything has been told, one that was."""
        begun = [slot for slot, told in self.told.items() if slot.relation.many and len(told) < LIST]
        if begun and self.rng.random() < 0.2:  # lists grow
            return self.rng.choice(begun)
        often = [PHRASES if each.key == "phrase" else 1 for each in self.relations]
        for _ in range(50):
            relation = self.rng.choices(self.relations, often)[0]
            slot = Slot(relation, self._key(relation.key) if relation.key else "")
            if len(self.told.get(slot, ())) < (LIST if relation.many else 1) and not self._told_otherwise(slot):
                break
        return slot

    def _told_otherwise(self, slot: Slot) -> bool:
        return any(other in self.told for other in by_other_words(slot, self.told, self.language))

    def _key(self, kind: str) -> str:
        """A key: often one that was heard before, so that what is told of one thing is not told of another."""
        if kind == PERSON and self.rng.random() < 0.25:
            return self.rng.choice([*self.roles.values()])
        heard = self.names if kind == PERSON else [s.key for s in self.told if s.relation.key == kind]
        key = self.rng.choice(heard) if heard and self.rng.random() < 0.5 else self._value(kind)
        if kind == PERSON:
            self.names.append(key)
        return key

    def _told_value(self, slot: Slot) -> str:
        old = {t.value for t in self.told.get(slot, ())}
        while True:
            value = self._value(slot.relation.value, slot.relation.id)
            if slot.relation.key and slot.relation.value == PERSON and self.rng.random() < 0.25:
                value = self.rng.choice([*self.roles.values()])
            if value not in old and value != slot.key:
                break
        if slot.relation.value == PERSON and not slot.relation.key and self.rng.random() < 0.7:
            self.names.append(value)  # of whom more may be told
        return value

    def tell(self) -> None:
        """Something new; now and then several things at once, or after a word about nothing."""
        if self.rng.random() < 0.12 and self._tell_together():
            return
        slot = self._new_slot()
        text, reply, new = self._telling(slot, "tell")
        if self.rng.random() < 0.12:
            other = self._new_slot()
            if other != slot:
                second, again, more = self._telling(other, "tell")
                text = text.rstrip("。.") + self.rng.choice(self.phrases["two_facts"]) + second
                reply, new = self._joined(reply, again), [*new, *more]
        elif self.rng.random() < 0.08:
            chat = self._pick(talk()["chat"].says[self.language], alike=True)
            text = f"{chat.rstrip('。.')}{'. ' if self.language == 'en' else '。'}{text}"
        self._keep(text, reply, new, "telling")

    def _tell_together(self) -> bool:
        """Tells what no life has told yet, all in one message; False where some of it has been told."""
        wording = self._pick(together()[self.language])
        ids, by_id = re.findall(r"\{(\w+)\}", wording), {relation.id: relation for relation in self.relations}
        role = next((each for each in ids if each in self.roles), "")
        of = {s.relation.id for s in self.told if not s.relation.many} | {s.key for s in self.told}
        about = any(each.startswith("person_") for each in ids)
        if not by_id.keys() | {"who"} >= set(ids) or of & {*ids, self.roles[role] if about and role else ""} - {""}:
            return False
        who = self._value(PERSON)
        values = {each: self._told_value(Slot(by_id[each], "")) for each in ids if each != "who"}
        values |= {"who": who, role: who} if about else {}
        if who in of or len({*values.values()}) < len(ids):
            return False
        self.names += [who] if about else []
        slots = {each: Slot(by_id[each], who if each.startswith("person_") else "") for each in ids if each != "who"}
        in_turn = sorted(slots, key=lambda each: (about and each != role, ids.index(each)))  # who it is comes first
        text = self._typed(wording, question=False)
        reply = self._joined(*(self._reply(self._words(slots[each]).say, slots[each], values[each]) for each in in_turn))
        text = re.sub(r"\{(\w+)\}", lambda m: values[m[1]], text)
        self._keep(text, reply, [(slots[each], values[each]) for each in in_turn], "telling")
        return True

    def _telling(self, slot: Slot, how: str, called: str = "", again: bool = False, value: str = "") -> Telling:
        """A message that tells a value of a slot, what confirms it, and what it tells; `called` stands before the key."""
        values = [value or self._told_value(slot)]
        if slot.relation.many and self.rng.random() < 0.3:
            more = self._told_value(slot)
            values += [more] if more != values[0] else []
        wording, shown = self._shared(self._pick(getattr(self._words(slot), how)), slot), self._list(values)
        now = 0.0 if slot.relation.value in TIMES else 0.1  # "on Friday these days" would be another time
        sometimes = {"times_before": now, "times_after": now, "corrections": 0.4 if again else 0.0}
        text = self._typed(wording, question=False, sometimes=sometimes).replace("{k}", called + "{k}")
        text = self._said(text, slot, shown)
        return text, self._reply(self._words(slot).say, slot, shown), [(slot, v) for v in values]

    def _keep(self, text: str, reply: str, new: Sequence[tuple[Slot, str]], ability: str) -> None:
        entry = self._say(text, self.phrases["kept"] + reply, ability)
        for slot, value in new:
            self.told.setdefault(slot, []).append(Told(value, entry))

    def update(self) -> bool:
        """Tells one thing anew."""
        slots = [s for s in self.told if not s.relation.many and len(self.told[s]) < 4]
        if not slots:
            return False
        slot = self.rng.choice(slots)
        self._keep(*self._telling(slot, "update" if self.rng.random() < 0.6 else "tell", again=True), "telling")
        return True

    def tell_of_a_relative(self) -> bool:
        """Tells something of somebody who is named by their role, or whose name was told with it."""
        if not self.about_persons:
            return False
        if self.rng.random() < 0.25:
            return self._introduce()
        names = [told[-1].value for s, told in self.told.items() if s.relation.id in self.roles]
        names = names if names and self.rng.random() < 0.6 else [*self.roles.values()]
        slot = Slot(self.rng.choice(self.about_persons), self.rng.choice(names))
        if slot in self.told or self._told_otherwise(slot):
            return False
        role = next((r for r, called in self.roles.items() if called == slot.key), "")
        self._keep(*self._and_more(self._telling(slot, "tell"), slot.key, role, 0.2), "telling")
        return True

    def _introduce(self) -> bool:
        """Tells something of somebody who has not been named before, by role and name: "My brother Jonas lives in Oslo"."""
        of = {s.relation.id for s in self.told} | {s.key for s in self.told}
        free = [r for r in self.relations if r.id in self.roles and not {r.id, self.roles[r.id]} & of]
        name = self._value(PERSON)
        if not free or name in self.names or any(name == s.key for s in self.told):
            return False
        self.names.append(name)
        role = Slot(self.rng.choice(free), "")
        if self.rng.random() < 0.5:
            told = self._and_more(self._telling(role, "tell", value=name), name, role.relation.id, 1.0)
        else:
            called = said(self.roles[role.relation.id], self.rng, self.language) + (" " if self.language == "en" else "")
            text, reply, new = self._telling(Slot(self.rng.choice(self.about_persons), name), "tell", called)
            told = text, self._joined(self._reply(self._words(role).say, role, name), reply), [(role, name), *new]
        self._keep(*told, "telling")
        return True

    def _and_more(self, told: Telling, key: str, role: str, often: float) -> Telling:
        """A message, and often in it something more of the same person: "..., and she lives in Oslo"."""
        text, reply, new = told
        slot = Slot(self.rng.choice(self.about_persons), key)
        wordings = [w for w in of_split(self._words(slot).tell, self.split, self.known) if w.startswith("{k}")]
        known = slot in self.told or slot in [s for s, _ in new] or self._told_otherwise(slot)
        if known or not wordings or self.rng.random() >= often:
            return told
        they = self.rng.choice(self.phrases["they"].get(role, self.phrases["they"][""]))
        wording, value = self.rng.choice(wordings), self._told_value(slot)
        if self.language == "en":
            wording = wording.replace("{k}'s", self.phrases["their"][they])
        wording = wording.replace("{k}", they)
        between = self.rng.choice(self.phrases["of_them"])
        text = text.rstrip("。.") + between + self._said(wording if they else wording.removeprefix("的"), slot, value)
        return text, self._joined(reply, self._reply(self._words(slot).say, slot, value)), [*new, (slot, value)]
