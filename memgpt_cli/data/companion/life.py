"""A life in messages: things are told in passing, told anew, and asked about; made by seed.

Every message has its reply. What was told is confirmed ("Got it. Your cat is called Tom."), and what was confirmed is
remembered ("Your cat is called Tom."), nothing else. `Example.task` is the ability that a reply needs; with "+" where the
message's wording never occurs in training.
"""

from collections.abc import Callable, Sequence

from memgpt_cli.data.companion.slots import PERSON, Slot, Told, answered, by_other_words, said
from memgpt_cli.data.companion.telling import BOT, USER, Teller
from memgpt_cli.data.companion.typed import changed
from memgpt_cli.data.companion.wordings import LANGUAGES, Relation, relations, talk
from memgpt_cli.data.dialogue import Turn
from memgpt_cli.schema import Episode, Example

OUTSIDE = ("outside", "other_people_facts")
ABSTAINING = ("abstention", "after forgetting")
"""Abilities that consist in saying that something was never told, or is forgotten."""


class Life(Teller):
    """One person's messages, told and asked."""

    session = 0
    """The first entry of this session; older ones were told in sessions before it."""
    values_lost: frozenset[str] = frozenset()
    """What nothing says any more after a forgetting."""

    def ask(self) -> bool:
        """Asks for what was told, whatever is true of it now."""
        if not self.told:
            return False
        slots = list(self.told)
        anew = [
            1 if len(self.told[s]) < 2 else 8 if s.relation.many else 2 for s in slots
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
        text = self._typed(self._shared(wording, slot), question=True, timed=timed)
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
        text = self._pick(one.says[self.language], alike=True)
        if self.split == "train" and name in ("chat", *OUTSIDE) and self.rng.random() < 0.1:
            text = changed(text, self.rng, self.language)
        text = self._typed(text, question=name in OUTSIDE)
        self._say(text, one.reply[self.language], "outside" if name in OUTSIDE else "talk")
        return True

    def _others(self) -> list[Relation]:
        """Relations that this life is not told of."""
        return [relation for relation in relations().values() if relation not in self.relations]

    def stray(self) -> bool:
        """Tells or asks what none of the relations is about: it is no memory, and nothing is known of it."""
        relation = self.rng.choice(self._others())
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
            (self.ask_joined, 2.5), (self.ask_unknown, 2.2), (self.chat, 1.8), (self.stray, 1 if self._others() else 0),
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
