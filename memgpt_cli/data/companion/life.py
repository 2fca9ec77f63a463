"""A life in messages: things are told in passing, told anew, and asked about; made by seed.

Every message has its reply. What was told is confirmed ("Got it. Your cat is called Tom."), and what was confirmed is
remembered ("Your cat is called Tom."), nothing else. `Example.task` is the ability that a reply needs; with "+" where the
message's wording never occurs in training.
"""

import random
import re
from collections.abc import Callable, Sequence

from memgpt_cli.data.companion.slots import LIST, PERSON, Slot, Told, answered, by_other_words, fill, roles, said
from memgpt_cli.data.companion.typed import changed, hurried, slip
from memgpt_cli.data.companion.values import make_value
from memgpt_cli.data.companion.wordings import LANGUAGES, Relation, Wordings, kept, of_split, phrases, relations, talk
from memgpt_cli.data.dialogue import Dialogue, Turn
from memgpt_cli.schema import Episode, Example

USER, BOT = "user", "bot"
OUTSIDE = ("outside", "other_people_facts")
ABSTAINING = ("abstention", "after forgetting")
"""Abilities that consist in saying that something was never told, or is forgotten."""


class Life:
    """One person's messages.

    Args:
        split: whose wordings and names are used.
        known: of validation and test: training's wordings, with the split's own names.
        noise: probability of a slip of the hand in a message.
        only: relations that are told; all where empty.
        invented: share of training's values that are made up; of the other splits' it is a tenth.
    """

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
        self.rng, self.language, self.split, self.known, self.noise = rng, language, split, known or split == "train", noise
        self.invented = invented if split == "train" else 0.1
        self.relations = [relation for name, relation in relations().items() if not only or name in only]
        self.others = [relation for relation in relations().values() if relation not in self.relations]
        self.about_persons = [relation for relation in self.relations if relation.id.startswith("person_")]
        self.phrases, self.roles = phrases()[language], roles(language)
        self.dialogue, self.examples = Dialogue(1, kept()), list[Example]()
        self.told: dict[Slot, list[Told]] = {}
        self.names: list[str] = []  # of keys that are persons: the same people come again
        self.session = 0  # the first entry of this session; older ones were told in sessions before it
        self.values_lost: frozenset[str] = frozenset()  # what nothing says any more after a forgetting
        self.strangers: set[str] = set()  # keys of what was told of others: none of this life's

    # wordings

    def _pick(self, wordings: Sequence[str]) -> str:
        return self.rng.choice(of_split(wordings, self.split, self.known))

    def _words(self, slot: Slot) -> Wordings:
        return slot.relation.words[self.language]

    def _said(self, text: str, slot: Slot, value: str = "") -> str:
        return fill(text, *(said(each, self.rng, self.language) for each in (slot.key, value)))

    def _reply(self, text: str, slot: Slot, value: str = "") -> str:
        return fill(text, answered(slot.key, self.language), answered(value, self.language))

    def _typed(self, wording: str, question: bool, timed: bool = False) -> str:
        """The wording as somebody types it: with something before and after it, or with a slip.

        Nothing is left out of what asks for a time: without the word for it, it would ask for something else.
        """
        rng, text = self.rng, wording
        if rng.random() < 0.15:
            first = rng.choice(self.phrases["before_questions" if question else "openings"])
            keeps = text.startswith(("{", "I ", "I'"))
            text = first + (text if keeps else text[0].lower() + text[1:])
        if rng.random() < 0.15:
            text = text.rstrip("。.？?！!") + rng.choice(self.phrases["after_questions" if question else "closings"])
        if self.split == "train" and not timed and rng.random() < 0.2:
            text = hurried(text, rng)
        if rng.random() < self.noise:
            text = slip(text, rng)
        if rng.random() < 0.1:
            text = text.rstrip("。.？?！!")
        if rng.random() < 0.08:
            text = re.sub(r"[^{}]+(?![^{]*})", lambda m: m.group().lower(), text)
        return text

    def _value(self, kind: str, relation: str = "") -> str:
        for _ in range(50):
            value = make_value(kind, self.rng, self.language, self.split, relation, self.invented)
            if value not in self.strangers:
                break
        return value

    # what happens

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
        for _ in range(50):
            relation = self.rng.choice(self.relations)
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
        """Something new; now and then two things at once, or after a word about nothing."""
        slot = self._new_slot()
        text, reply, new = self._telling(slot, "tell")
        if self.rng.random() < 0.06:
            other = self._new_slot()
            if other != slot:
                second, again, more = self._telling(other, "tell")
                text, reply = (
                    f"{text.rstrip('。.')}{'. ' if self.language == 'en' else '。'}{second}",
                    self._joined(reply, again),
                )
                new = [*new, *more]
        elif self.rng.random() < 0.08:
            chat = self._pick(talk()["chat"].says[self.language])
            text = f"{chat.rstrip('。.')}{'. ' if self.language == 'en' else '。'}{text}"
        self._keep(text, reply, new, "telling")

    def _joined(self, *sentences: str) -> str:
        return (" " if self.language == "en" else "").join(sentences)

    def _telling(self, slot: Slot, how: str) -> tuple[str, str, list[tuple[Slot, str]]]:
        """A message that tells a value of a slot, what confirms it, and what it tells."""
        values = [self._told_value(slot)]
        if slot.relation.many and self.rng.random() < 0.3:
            more = self._told_value(slot)
            values += [more] if more != values[0] else []
        wording, shown = self._pick(getattr(self._words(slot), how)), self._list(values)
        text = self._said(self._typed(wording, question=False), slot, shown)
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
        self._keep(*self._telling(slot, "update" if self.rng.random() < 0.7 else "tell"), "telling")
        return True

    def _list(self, values: Sequence[str]) -> str:
        between, last = self.phrases["list"]
        return last.join([between.join(values[:-1]), values[-1]]) if len(values) > 1 else values[0]

    def ask(self) -> bool:
        """Asks for what was told, whatever is true of it now."""
        if not self.told:
            return False
        slots = list(self.told)
        anew = [
            1 if len(self.told[s]) < 2 else 4 if s.relation.many else 2 for s in slots
        ]  # what has grown or changed: more often
        (slot,) = self.rng.choices(slots, anew)
        told = self.told[slot]
        mine = told if slot.relation.many else told[-1:]
        ability = "list" if slot.relation.many and len(told) > 1 else "update" if len(told) > 1 else "extraction"
        if ability == "extraction" and told[0].entry < self.session:
            ability = "across sessions"
        self._question(
            slot, "ask", self._reply(self._words(slot).say, slot, self._list([t.value for t in mine])), ability, mine
        )
        return True

    def _question(self, slot: Slot, kind: str, reply: str, ability: str, told: Sequence[Told]) -> None:
        timed = kind != "ask"
        if timed and self.rng.random() < 0.5:  # any question asks for a time with a few words more
            wording = self._pick(self.phrases[kind]).replace("{q}", self._pick(self._words(slot).ask))
        else:
            wording = self._pick(getattr(self._words(slot), kind))
        text = self._typed(wording, question=True, timed=timed)
        self._say(self._said(text, slot), reply, ability, told)

    def ask_time(self) -> bool:
        """Asks for what was true before, or at first."""
        slots = [s for s in self.told if not s.relation.many and (len(self.told[s]) > 1 or self.rng.random() < 0.15)]
        if not slots:
            return False
        slot = self.rng.choice(slots)
        told, words = self.told[slot], self._words(slot)
        if self.rng.random() < 0.5:
            was = self.phrases["was"] + self._reply(words.say, slot, told[-2].value) if len(told) > 1 else ""
            self._question(slot, "before", was or self.phrases["nothing_before"], "time", told[-2:])
        else:
            self._question(slot, "first", self.phrases["began"] + self._reply(words.say, slot, told[0].value), "time", told[:1])
        return True

    def ask_joined(self) -> bool:
        """Asks by what somebody is to the person ("my sister") for what was told of their name; or where no name is known.

        The reply says who that is first, and then what was asked, each as it was told: a step at a time.
        """
        if not self.about_persons:
            return False
        known = [s for s in self.told if s.relation.id in self.roles]
        if not known or self.rng.random() < 0.04:
            slot = Slot(self.rng.choice(self.about_persons), self.rng.choice([*self.roles.values()]))
            return self._ask_unknown(slot, "ask")
        role = self.rng.choice(known)
        name = self.told[role][-1]
        about = [s for s in self.told if s.key == name.value and s.relation.key == PERSON]
        some = about and self.rng.random() < 0.8
        slot = self.rng.choice(about) if some else Slot(self.rng.choice(self.about_persons), name.value)
        if Slot(slot.relation, self.roles[role.relation.id]) in self.told:
            return False
        told, words = self.told.get(slot, []), self._words(slot)
        asked = self._reply(words.say, slot, told[-1].value) if told else self._reply(words.unknown, slot)
        reply = self._joined(self._reply(self._words(role).say, role, name.value), asked)
        text = self._typed(self._pick(words.ask), question=True).replace(
            "{k}", said(self.roles[role.relation.id], self.rng, self.language)
        )
        self._say(text, reply, "two facts" if told else "abstention", [name, *told[-1:]])
        return True

    def tell_of_a_relative(self) -> bool:
        """Tells something of somebody who is named by their role, or whose name was told with it."""
        names = [told[-1].value for s, told in self.told.items() if s.relation.id in self.roles]
        if not self.about_persons:
            return False
        names = names if names and self.rng.random() < 0.6 else [*self.roles.values()]
        slot = Slot(self.rng.choice(self.about_persons), self.rng.choice(names))
        if slot in self.told or self._told_otherwise(slot):
            return False
        self._keep(*self._telling(slot, "tell"), "telling")
        return True

    def ask_unknown(self) -> bool:
        """Asks for what was never told, best of all where something like it was."""
        near = {(s.relation.value, s.relation.key) for s in self.told}
        candidates = [r for r in self.relations if (r.value, r.key) in near] if self.rng.random() < 0.6 else []
        relation = self.rng.choice(candidates or self.relations)
        kinds = ["ask"] if relation.many else ["ask", "ask", "ask", "before", "first"]
        return self._ask_unknown(Slot(relation, self._key(relation.key) if relation.key else ""), self.rng.choice(kinds))

    def _ask_unknown(self, slot: Slot, kind: str) -> bool:
        named = slot.key in self.roles.values() and by_other_words(slot, self.told, self.language)
        if named or slot in self.told or self._told_otherwise(slot):  # of whom the name is known, `ask_joined` asks
            return False
        self._question(slot, kind, self._reply(self._words(slot).unknown, slot), "abstention", ())
        return True

    def chat(self) -> bool:
        """Something that tells nothing, or asks for what no memory holds."""
        kinds = [k for k in talk() if k not in (*OUTSIDE, "chat")]
        name = self.rng.choices(("chat", *OUTSIDE, self.rng.choice(kinds)), (5, 5, 1, 5))[0]
        one = talk()[name]
        text = self._pick(one.says[self.language])
        if self.split == "train" and name in ("chat", *OUTSIDE) and self.rng.random() < 0.4:
            text = changed(text, self.rng, self.language)
        text = self._typed(text, question=name in OUTSIDE)
        self._say(text, one.reply[self.language], "outside" if name in OUTSIDE else "talk")
        return True

    def stray(self) -> bool:
        """Tells or asks what none of the relations is about: it is no memory, and nothing is known of it."""
        relation = self.rng.choice(self.others)
        slot = Slot(relation, self._value(relation.key) if relation.key else "")
        asks = self.rng.random() < 0.5
        wording = self._pick(self._words(slot).ask if asks else self._words(slot).tell)
        text = self._said(self._typed(wording, question=asks), slot, self._value(relation.value, relation.id))
        self._say(text, talk()["outside" if asks else "chat"].reply[self.language], "outside" if asks else "talk")
        return True

    def live(self, tells: int) -> None:
        """So many things told, and about as many asked, in one or several sessions."""
        acts: list[tuple[Callable[[], object], float]] = [
            (self.tell, 3), (self.ask, 3), (self.update, 1.3), (self.ask_time, 1), (self.tell_of_a_relative, 1.2),
            (self.ask_joined, 1.6), (self.ask_unknown, 2.2), (self.chat, 2), (self.stray, 1 if self.others else 0),
        ]  # fmt: skip
        doing, weights = [a for a, _ in acts], [w for _, w in acts]
        first = len(self.dialogue.entries)
        while len(self.dialogue.entries) < first + tells:
            self.rng.choices(doing, weights)[0]()
            if self.rng.random() < 0.03:
                self.session = len(self.dialogue.entries)
        self.quiz(max(3, tells // 2))

    def quiz(self, questions: int) -> tuple[Example, ...]:
        """So many questions of what was told, and was not."""
        first = len(self.examples)
        while len(self.examples) < first + questions:
            self.rng.choice((self.ask, self.ask, self.ask_joined, self.ask_time, self.ask_unknown))()
        return tuple(self.examples[first:])

    def told_of_another(self, among: Sequence[Relation] = ()) -> tuple[str, str]:
        """A thing or a person, and what is remembered of it, whatever relations this life is told of."""
        relation = self.rng.choice(among or [relation for relation in relations().values() if relation.key])
        assert relation.key is not None
        key = self._value(relation.key)
        return key, self._telling(Slot(relation, key), "tell")[1]

    def beside(self, others: int, languages: Sequence[str] = LANGUAGES) -> None:
        """Begins with so much that is in memory already: of things and people this life does not know, in these languages.

        Most of it is of a few relations, so that what is asked later has to be told apart from its like. Some was told of
        the person in another language, and is not asked for in this one.
        """
        rng = self.rng
        keyed = [r for r in self.relations if r.key]
        if not keyed:
            return
        near = rng.sample(keyed, min(len(keyed), rng.randint(1, 6)))
        away = Life(rng, rng.choice([each for each in languages if each != self.language] or [self.language]), self.split)
        known = [rng.choice((self, self, away)).told_of_another(near if rng.random() < 0.7 else keyed) for _ in range(others)]
        self.strangers.update(key for key, _ in known)
        told = [text for _, text in known]
        if away.language != self.language and rng.random() < 0.5:
            own = rng.sample(self.relations, min(len(self.relations) // 3, others // 2))
            told += [away._telling(Slot(r, away._value(r.key) if r.key else ""), "tell")[1] for r in own]
            self.relations = [r for r in self.relations if r not in own]
            rng.shuffle(told)
        for text in told:
            self.dialogue.add(Turn(USER, ""))
            self.dialogue.add(Turn(BOT, self.phrases["kept"] + text))
        self.session = len(self.dialogue.entries)

    def episode(self, name: str) -> Episode:
        return Episode(name, tuple(self.dialogue.entries), tuple(self.examples))

    def after_forgetting(self, name: str) -> Episode:
        """The same memory without some of what was told: asked for it, the assistant does not know, and knows the rest."""
        slots = list(self.told)
        gone = set(self.rng.sample(slots, max(1, len(slots) // 4)))
        lost = {t.entry for s in gone for t in self.told[s]}
        known = {t.value for told in self.told.values() for t in told if t.entry not in lost}
        unsaid = {t.value for s in gone for t in self.told[s]} - known
        self.values_lost = frozenset(answered(value, self.language) for value in unsaid)
        stays = [n for n in range(len(self.dialogue.entries)) if n not in lost]
        place = {old: new for new, old in enumerate(stays)}
        first = len(self.examples)
        for slot in slots:
            told = [t for t in self.told[slot] if t.entry not in lost]
            if slot in gone and by_other_words(slot, self.told, self.language):
                continue  # of whom more is known than this slot says
            if not told or (slot.relation.many and slot in gone):
                ability, reply = "after forgetting", self._reply(self._words(slot).unknown, slot)
            elif len(told) == len(self.told[slot]):
                mine = told if slot.relation.many else told[-1:]
                ability, reply = "extraction", self._reply(self._words(slot).say, slot, self._list([t.value for t in mine]))
            else:
                continue
            told = told if slot.relation.many else told[-1:]
            self._question(slot, "ask", reply, ability, [Told(t.value, place[t.entry]) for t in told])
        examples = tuple(Example(x.input, x.target, len(stays), (), x.evidence, x.task) for x in self.examples[first:])
        del self.examples[first:]
        return Episode(name, tuple(self.dialogue.entries[n] for n in stays), examples)
