"""A conversation that remembers: turns and facts in a store, recalled entries beside them, one reply at a time."""

import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from memgpt_cli.data.dialogue import Confirmed, Dialogue, Fact, Turn, confirmed, render_turn
from memgpt_cli.errors import StoreError, Terminated, UsageError
from memgpt_cli.inference.postprocess import StreamDecoder
from memgpt_cli.inference.session import Reply, Session
from memgpt_cli.ingest.text import read_text
from memgpt_cli.schema import KINDS, Entry, entry_from, parse_triple, render_triple, unfit
from memgpt_cli.store import Filter, Receipt, Stored, Written
from memgpt_cli.store.lexical import terms
from memgpt_cli.store.rules import text_bytes
from memgpt_cli.store.types import MAX_TEXT_BYTES, now

OnText = Callable[[str], None]
NEXT_REPLY = "\n"
"""Between a look-up and the reply that follows it, as they are said."""


@dataclass(frozen=True)
class _Event:
    """What happened: a turn, or a fact that a look-up found; stored, where it could be."""

    what: Turn | Fact
    stored: Stored | None = None

    @property
    def id(self) -> int | None:
        return self.stored.id if self.stored else None


def _conversation_of(turn: Stored) -> str:
    return str(turn.provenance[0].get("session", "")) if turn.provenance else ""


def _turn(stored: Stored) -> Turn | None:
    """What a conversation wrote, and can be gone on from."""
    kept, said, speaker = (stored.meta.get(name) for name in ("kept", "said", "speaker"))
    if isinstance(kept, str):
        said = kept + stored.text
    return Turn(speaker, said) if isinstance(said, str) and isinstance(speaker, str) else None


def _place(turn: Stored) -> int:
    place = turn.provenance[0].get("place") if turn.provenance else None
    return place if isinstance(place, int) else 0


def _shares(entry: str, reply: str) -> bool:
    """Whether a reply may hold words of an entry: any at all, since what rests on it goes when it is forgotten."""
    return not set(terms(entry)).isdisjoint(terms(reply))


def _made_room(written: Written) -> str:
    if not written.forgotten:
        return ""
    late = f", not yet erased: {written.pending}" if written.pending else ""
    return f"{written.forgotten} older entries were forgotten to make room (memgpt memory limit){late}"


def _fact(entry: Entry | Stored) -> Fact:
    return Fact(entry.text, entry.meta)


def read_knowledge(path: Path) -> list[Entry]:
    """Facts of a `[n] head relation<TAB>tail` file, packed or not."""
    if not path.is_file():
        raise UsageError(f"data.chat.knowledge: there is no file {path}")
    facts = []
    for line in read_text(path).split("\n"):
        left, tab, tail = line.partition("\t")
        words = left.split()
        if tab and len(words) >= 2:
            facts.append(Entry(render_triple(words[-2], words[-1], tail), "fact", {"triple": [words[-2], words[-1], tail]}))
    return facts


def _check_message(text: str) -> None:
    if what := unfit(text):
        raise UsageError(f"the message holds {what}: not taken")
    if (size := text_bytes(text)) > MAX_TEXT_BYTES - 200:  # a speaker's name comes before it
        raise UsageError(
            f"a message of {size:,} bytes, at most {MAX_TEXT_BYTES - 200:,} are taken: put it into a file, and memgpt memory import reads it"
        )


class Conversation:
    """Turns, what they know, and the session that answers. What is said is stored; a restart goes on where it was.

    Args:
        session: with the store that the conversation is kept in.
        knowledge: facts that every conversation may look up.
    """

    def __init__(self, session: Session, knowledge: Sequence[Entry] = ()) -> None:
        self.session, self.store, self.namespace = session, session.store, session.namespace
        self.config, self.knowledge = session.config.data.chat, list(knowledge)
        self.talks = not session.seen.kinds or "turn" in session.seen.kinds
        """Whether the model has learned from turns. One that has not answers the last message alone, from what is recalled:
        as in its data, without names and without what was said before."""
        self.reads: list[Path] = session.files  # files and folders that nothing may be written over
        self.id = uuid.uuid4().hex[:12]
        self.events: list[_Event] = []
        self._place = 0  # of the next message
        self.last: Reply | None = None
        self._recalled: dict[str, str] = {}  # for the last input: what an entry says -> its text
        self._vectors: np.ndarray | None = None  # of the common knowledge

    # what is remembered

    def resume(self) -> int:
        """Goes on with the newest stored conversation; returns how many turns it had."""
        turns = [e for e in self.store.all(self.namespace, Filter(kinds=("turn",))) if _conversation_of(e) and _turn(e)]
        newest = _conversation_of(turns[-1]) if turns else ""
        mine = [e for e in turns if _conversation_of(e) == newest]
        closed = self.store.settings(self.namespace).get("closed") == newest
        if not newest or closed or any(e.meta.get("closed") for e in mine):
            return 0
        self.id = newest
        self._place = 1 + max(_place(e) for e in mine)
        for stored in mine:
            turn = _turn(stored)
            assert turn is not None
            self.events.append(_Event(turn, stored))
            if turn.speaker == self.config.bot and self._looks_up(turn.text):
                self.events += self._look_up(turn.text)  # what memory holds now, not then
        return len(mine)

    def new(self) -> None:
        """Begins afresh, also after a restart; what was said stays in memory and can be recalled."""
        if self.events and self.store.revision(self.namespace) >= 0:  # else another process has forgotten all of it
            self.store.set_settings(self.namespace, {**self.store.settings(self.namespace), "closed": self.id})
        self.id, self._place = uuid.uuid4().hex[:12], 0
        self.events, self.last = [], None

    def remember(self, text: str) -> tuple[Entry, str]:
        """Keeps a note or a fact; what had to make room for it is said."""
        _check_message(text)
        entry = entry_from(text)
        origin = {"who": self.config.user, "when": now(), "session": self.id}
        return entry, _made_room(self.store.put(self.namespace, self.session.encoder.items([entry], origin)))

    def matches(self, what: str) -> list[Stored]:
        """Stored entries of this id, or that contain these words."""
        by_id = self.store.get(self.namespace, [int(what)]) if what.isdecimal() and len(what) < 18 else []
        return by_id or list(self.store.all(self.namespace, Filter(contains=what)))

    def forget(self, entries: Sequence[Stored]) -> Receipt:
        """Erases entries from the store and from this conversation, with the replies that only said them again."""
        receipt = self.session.forget([e.id for e in entries])
        texts = {e.text for e in entries}
        there = {e.id for e in self.store.get(self.namespace, [e.id for e in self.events if e.id is not None])}
        self.events = [e for e in self.events if self._text(e) not in texts and (e.id is None or e.id in there)]
        self.last, self._recalled = None, {}
        return receipt

    @staticmethod
    def _text(event: _Event) -> str:
        """As its entry has it."""
        if event.stored is not None:
            return event.stored.text
        return render_turn(event.what.speaker, event.what.text) if isinstance(event.what, Turn) else event.what.text

    def undo(self) -> bool:
        """Takes the last message and its reply back."""
        said = [
            n
            for n, e in enumerate(self.events)
            if isinstance(e.what, Turn) and e.what.speaker == self.config.user and e.what.text != self.config.silence
        ]
        if not said:
            return False
        gone = self.events[said[-1] :]
        self.events = self.events[: said[-1]]
        self.session.forget([e.id for e in gone if e.id is not None and isinstance(e.what, Turn)])
        self.last = None
        return True

    # what is said

    def _say(self, turn: Turn, repeats: Sequence[str] = (), memory: Confirmed | None = None, searchable: bool = True) -> str:
        """Takes a message into the conversation and the store; returns why it could not be kept there, if it could not.

        Args:
            repeats: texts of entries that it says again: it is forgotten with each of them.
            memory: what is remembered of it, where that is not all of it.
            searchable: whether it is memory, or only part of the transcript.
        """
        origin = {"who": turn.speaker, "when": now(), "session": self.id, "place": self._place}
        self._place += 1  # never used twice: the same words at the same place would be one message
        text = memory.entry.text if memory else render_turn(turn.speaker, turn.text)
        said = {"kept": memory.kept} if memory else {"said": turn.text}
        meta = {"speaker": turn.speaker, **said, **({"repeats": [*repeats]} if repeats else {})}
        entry = Entry(text, "turn", meta)
        (item,) = self.session.encoder.items([entry], origin)
        try:
            written = self.store.put(self.namespace, [replace(item, searchable=searchable)])
            (stored,) = self.store.get(self.namespace, written.ids)
        except (StoreError, ValueError) as error:  # full, locked, on a full disk: the conversation goes on, and says so
            self.events.append(_Event(turn))
            return f"not kept in memory: {error}"
        self.events.append(_Event(turn, stored))
        return _made_room(written)

    def reply(self, text: str, on_text: OnText | None = None) -> Reply:
        """Says `text` and answers. A look-up is followed up: what it finds is recalled, and the model goes on.

        Raises UsageError, before anything is kept, for a message that no conversation can hold.
        """
        steps: list[str] = []
        notes: dict[str, None] = {}
        said = text.strip() or self.config.silence or text
        _check_message(said)
        for _ in range(4):
            reply, kept = self._exchange(said, on_text)
            reply.steps = steps
            notes.update(dict.fromkeys(kept))
            reply.notes = [note for note in (*reply.notes, *notes) if note]
            self.last = reply
            if not self._looks_up(reply.text) or not reply.complete:
                break
            found = self._look_up(reply.text)
            if not found:
                steps.append(f"nothing in memory fits: {reply.text[len(self.config.lookup) :].strip()}")
                break
            steps.append(f"{reply.text} → {len(found)} facts")
            self.events += found
            said = self.config.silence
            if on_text:
                on_text(NEXT_REPLY)
        return reply

    def _exchange(self, said: str, on_text: OnText | None) -> tuple[Reply, list[str]]:
        """A message and its reply, and what is to be said about keeping them.

        Where the data keeps only what its replies confirm, that is memory from then on, and nothing else is.
        """
        message = Turn(self.config.user, said)
        if not self.config.keeps:
            kept = self._say(message)
            reply = self._answer(on_text)
            # a reply that only says again what was recalled is part of the conversation, but no second memory of it
            again = self._recalled.get(reply.text.strip())
            repeats = () if again is None else [again]
            return reply, [kept, self._say(Turn(self.config.bot, reply.text), repeats, searchable=again is None)]
        self.events.append(_Event(message))
        try:
            reply = self._answer(on_text)
        finally:
            self.events.pop()
        answer = Turn(self.config.bot, reply.text)
        memory, note = confirmed(message, answer, self.config.keeps), ""
        if memory and not reply.complete:
            memory, note = None, "not remembered: the reply was stopped"
        sentence = memory if memory and memory.kept else None  # else it is the message itself that is kept
        rests_on = [
            render_turn(self.config.user, said),
            *(read.text for read in reply.read if read.weight > 1e-3 and _shares(read.text, reply.text)),
        ]
        kept = self._say(message, [sentence.entry.text] if sentence else (), searchable=bool(memory and not sentence))
        return reply, [note, kept, self._say(answer, () if sentence else rests_on, sentence, searchable=bool(sentence))]

    def _looks_up(self, text: str) -> bool:
        return bool(self.config.lookup) and text.startswith(self.config.lookup)

    def _look_up(self, text: str) -> list[_Event]:
        """Facts about every head that has all the values a look-up names; the user's own before the common knowledge."""
        facts: dict[str, dict[str, Entry | Stored]] = defaultdict(dict)
        known: list[Entry | Stored] = [*self.store.all(self.namespace, Filter(kinds=("fact",))), *self.knowledge]
        for entry in known:
            triple = parse_triple(entry.text)
            if triple:
                facts[triple[0]].setdefault(entry.text, entry)
        there = {self._text(e) for e in self.events}
        wanted = set(text[len(self.config.lookup) :].split())
        found = []
        for own in facts.values():
            tails = {t[2] for e in own.values() if (t := parse_triple(e.text))}
            if wanted and wanted <= tails:
                new = [e for e in own.values() if e.text not in there]
                found += [_Event(_fact(e), e if isinstance(e, Stored) else None) for e in new]
        return found

    def _here(self) -> tuple[str, list[Entry | Stored], frozenset[int]]:
        """The input, the entries of this conversation that it sees, and the ids that stand in either.

        No more entries than the examples of training saw at most: what is older is recalled like anything else.
        """
        if not self.talks:
            return next(e.what.text for e in reversed(self.events) if isinstance(e.what, Turn)), [], frozenset()
        dialogue = Dialogue(self.config.turns, self.config.keeps)
        for event in self.events:
            dialogue.add(event.what)
        source, sees = dialogue.asks()
        first = max(0, sees - max(1, self.session.seen.most_entries))
        own = [self.events[dialogue.event_of[n]] for n in range(first, sees)]
        entries = [event.stored or entry for event, entry in zip(own, dialogue.entries[first:sees], strict=True)]
        window = [e for e in self.events if isinstance(e.what, Turn)][-self.config.turns :]
        inside = {e.id for e in [*window, *own]}
        return source, entries, frozenset(id for id in inside if id is not None)

    def _see_what_others_did(self) -> None:
        """What another process, or a limit, has forgotten is no part of the conversation any more; what was edited is as it is."""
        ids = [e.id for e in self.events if e.id is not None]
        there = {e.id: e for e in self.store.get(self.namespace, ids)}
        kept = []
        for event in self.events:
            stored = there.get(event.id) if event.id is not None else None
            if event.stored is None or (stored and stored.version == event.stored.version):
                kept.append(event)
            elif stored is not None:
                turn = _turn(stored)
                kept.append(_Event(turn or _fact(stored), stored))
        self.events = kept

    def _answer(self, on_text: OnText | None) -> Reply:
        self._see_what_others_did()
        source, own, here = self._here()
        source, cut = self.session.prompt.cut_input(source)
        recalled = self._recall(source, here)
        prompt = self.session.prompt(source, [*recalled, *own], newest=True)
        prompt.notes.extend(cut)
        stream = StreamDecoder(self.session.tokenizer)

        def on_token(token: int) -> bool:
            new = stream.add(token)
            if new and on_text:
                on_text(new)
            return True

        try:
            (reply,) = self.session.decode([prompt], on_token)
        except Terminated:
            raise
        except KeyboardInterrupt:
            return Reply(self.session.tokenizer.decode(stream.ids) or "…", complete=False, notes=prompt.notes)
        if on_text and (tail := stream.rest()):
            on_text(tail)
        reply.complete = True  # one that has reached its longest is not stopped
        reply.recalled = [entry for entry in recalled if isinstance(entry, Stored)]
        return reply

    def _recall(self, source: str, here: frozenset[int]) -> list[Entry | Stored]:
        """Entries that the input asks for, without what stands before the model anyway.

        Where facts are looked up by name, only notes are recalled by score: what else is needed, the model asks for.
        """
        recall = self.session.recall
        assert recall is not None
        kinds = ("note",) if self.config.lookup else () if self.talks else tuple(kind for kind in KINDS if kind != "turn")
        (found,) = recall([source], kinds, here)
        entries: list[Entry | Stored] = [*found]
        self._recalled = {str(e.meta.get("said", e.text)).strip(): e.text for e in found}
        if self.knowledge and not self.config.lookup and recall.k > len(found):
            entries += self._known(source, recall.k - len(found))
        return entries

    def _known(self, source: str, most: int) -> list[Entry]:
        """The common knowledge that fits best."""
        if self._vectors is None:
            self._vectors = self.session.encoder.vectors([e.text for e in self.knowledge])
        scores = self._vectors @ self.session.encoder.queries([source])[0]
        return [self.knowledge[int(n)] for n in (-scores).argsort(kind="stable")[:most]]

    def transcript(self) -> str:
        return "\n".join(f"{e.what.speaker}: {e.what.text}" for e in self.events if isinstance(e.what, Turn))
