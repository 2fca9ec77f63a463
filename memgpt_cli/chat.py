"""A conversation that remembers: turns and facts in a store, recalled entries beside them, one reply at a time."""

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from memgpt_cli.config import ChatConfig, GenerateConfig, LimitConfig
from memgpt_cli.data.batching import collate
from memgpt_cli.data.sources.dialogue import render_turn
from memgpt_cli.errors import StoreError, UsageError
from memgpt_cli.generation.decode import generate
from memgpt_cli.generation.postprocess import StreamDecoder
from memgpt_cli.generation.prompt import Prompter
from memgpt_cli.generation.recall import Encoder
from memgpt_cli.ingest.text import read_text
from memgpt_cli.memory import Filter, Item, Receipt, Store, Stored
from memgpt_cli.memory.records import MAX_TEXT_BYTES, now, text_bytes
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.schema import Entry, entry_from, parse_triple, render_triple, unfit
from memgpt_cli.tokenizer import Tokenizer

OnText = Callable[[str], None]


@dataclass(frozen=True)
class Read:
    """An entry the last reply read."""

    text: str
    kind: str
    weight: float  # mean attention on it
    score: float


@dataclass
class Reply:
    text: str
    read: list[Read] = field(default_factory=list)
    null: float = 0.0
    steps: list[str] = field(default_factory=list)  # what was said on the way (look-ups)
    complete: bool = True
    notes: list[str] = field(default_factory=list)  # what was cut, left out or could not be kept


@dataclass
class _Event:
    entry: Entry
    speaker: str = ""
    text: str = ""
    id: int | None = None  # in the store


def _session(turn: Stored) -> str:
    return str(turn.provenance[0].get("session", "")) if turn.provenance else ""


def _is_said(turn: Stored) -> bool:
    """Whether a conversation wrote it, and it can be gone on from."""
    return all(isinstance(turn.meta.get(name), str) for name in ("said", "speaker"))


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
    """Turns, what they know, and the model that answers. What is said is stored; a restart goes on where it was."""

    def __init__(
        self,
        model: MemoryTransformer,
        tokenizer: Tokenizer,
        store: Store,
        namespace: str,
        config: ChatConfig,
        decoding: GenerateConfig,
        recall: int = 32,
        knowledge: Iterable[Entry] = (),
        limits: LimitConfig = LimitConfig(),  # noqa: B008  frozen
    ) -> None:
        self.model, self.tokenizer, self.store, self.namespace = model, tokenizer, store, namespace
        self.config, self.decoding, self.recall, self.prompt = config, decoding, recall, Prompter(tokenizer, limits)
        self.encoder = Encoder(model, tokenizer)
        self.knowledge = list(knowledge)
        self._knowledge_keys: torch.Tensor | None = None
        self.reads: list[Path] = []  # files and folders that nothing may be written over
        self.session = uuid.uuid4().hex[:12]
        self.events: list[_Event] = []
        self.last: Reply | None = None
        self._recalled_texts: set[str] = set()  # for the last input

    # what is remembered

    def resume(self) -> int:
        """Goes on with the newest stored conversation; returns how many turns it had."""
        turns = [e for e in self.store.all(self.namespace, Filter(kind="turn")) if _session(e) and _is_said(e)]
        newest = _session(turns[-1]) if turns else ""
        mine = [e for e in turns if _session(e) == newest]
        if not newest or any(e.meta.get("closed") for e in mine):
            return 0
        self.session = newest
        for e in mine:
            self.events.append(
                _Event(Entry(e.text, "turn", {"speaker": e.meta["speaker"]}), e.meta["speaker"], e.meta["said"], e.id)
            )
            if e.meta["speaker"] == self.config.bot and self._looks_up(e.meta["said"]):
                self.events += [_Event(fact) for fact in self._look_up(e.meta["said"])]  # what memory holds now, not then
        return len(mine)

    def new(self) -> None:
        """Begins afresh, also after a restart; what was said stays in memory and can be recalled."""
        there = self.store.get(self.namespace, [e.id for e in self.events if e.id is not None])
        self.session = uuid.uuid4().hex[:12]
        self.events, self.last = [], None
        if there:  # another process may have forgotten some of it, or all
            stored = there[-1]
            key = self.encoder.keys([stored.text]).numpy()[0]
            closed = Item(stored.text, "turn", {**stored.meta, "closed": True}, key=key, searchable=stored.searchable)
            self.store.edit(self.namespace, stored.id, closed)

    def remember(self, text: str) -> Entry:
        _check_message(text)
        entry = entry_from(text)
        origin = {"who": self.config.user, "when": now(), "session": self.session}
        self.store.put(self.namespace, self.encoder.items([entry], origin))
        return entry

    def matches(self, what: str) -> list[Stored]:
        """Stored entries of this id, or that contain these words."""
        by_id = self.store.get(self.namespace, [int(what)]) if what.isdecimal() and len(what) < 18 else []
        return by_id or list(self.store.all(self.namespace, Filter(contains=what)))

    def forget(self, entries: Sequence[Stored]) -> Receipt:
        """Erases entries from the store and from this conversation, with the replies that only said them again."""
        receipt = self.store.forget(self.namespace, [e.id for e in entries])
        texts = {e.text for e in entries}
        there = {e.id for e in self.store.get(self.namespace, [e.id for e in self.events if e.id is not None])}
        self.events = [e for e in self.events if e.entry.text not in texts and (e.id is None or e.id in there)]
        self.last = None
        return receipt

    def undo(self) -> bool:
        """Takes the last message and its reply back."""
        users = [n for n, e in enumerate(self.events) if e.speaker == self.config.user and e.text != self.config.silence]
        if not users:
            return False
        gone = self.events[users[-1] :]
        self.events = self.events[: users[-1]]
        self.store.forget(self.namespace, [e.id for e in gone if e.id is not None])
        self.last = None
        return True

    # what is said

    def _say(self, speaker: str, text: str) -> str:
        """Takes a message into the conversation and the store; returns why it could not be kept there, if it could not."""
        entry = Entry(render_turn(speaker, text), "turn", {"speaker": speaker})
        origin = {
            "who": speaker,
            "when": now(),
            "session": self.session,
            "place": sum(1 for e in self.events if e.speaker),
        }
        # a reply that only says again what was recalled is part of the conversation, but no second memory of it
        again = speaker == self.config.bot and text.strip() in self._recalled_texts
        (item,) = self.encoder.items([Entry(entry.text, "turn", {"speaker": speaker, "said": text})], origin)
        try:
            (id,) = self.store.put(self.namespace, [replace(item, searchable=not again)]).ids
        except StoreError as error:  # full, locked, on a full disk: the conversation goes on, and says so
            self.events.append(_Event(entry, speaker, text))
            return f"not kept in memory: {error}"
        self.events.append(_Event(entry, speaker, text, id))
        return ""

    def reply(self, text: str, on_text: OnText | None = None) -> Reply:
        """Says `text` and answers. A look-up is followed up: what it finds is recalled, and the model goes on.

        Raises UsageError, before anything is kept, for a message that no conversation can hold.
        """
        steps: list[str] = []
        notes: dict[str, None] = {}
        said = text.strip() or self.config.silence or text
        _check_message(said)
        for _ in range(4):
            notes[self._say(self.config.user, said)] = None
            reply = self._answer(on_text)
            reply.steps = steps
            notes[self._say(self.config.bot, reply.text)] = None
            reply.notes = [note for note in (*reply.notes, *notes) if note]
            self.last = reply
            if not self._looks_up(reply.text) or not reply.complete:
                break
            found = self._look_up(reply.text)
            if not found:
                steps.append(f"nothing in memory fits: {reply.text[len(self.config.lookup) :].strip()}")
                break
            steps.append(f"{reply.text} → {len(found)} facts")
            self.events += [_Event(e) for e in found]
            said = self.config.silence
        return reply

    def _looks_up(self, text: str) -> bool:
        return bool(self.config.lookup) and text.startswith(self.config.lookup)

    def _look_up(self, text: str) -> list[Entry]:
        """Facts about every head that has all the values a look-up names; the user's own before the common knowledge."""
        facts: dict[str, dict[str, Entry]] = defaultdict(dict)
        stored = (Entry(e.text, e.kind, e.meta) for e in self.store.all(self.namespace, Filter(kind="fact")))
        for entry in (*stored, *self.knowledge):
            triple = parse_triple(entry.text)
            if triple:
                facts[triple[0]].setdefault(entry.text, entry)
        there = {e.entry.text for e in self.events}
        wanted = set(text[len(self.config.lookup) :].split())
        found = []
        for own in facts.values():
            tails = {t[2] for e in own.values() if (t := parse_triple(e.text))}
            if wanted <= tails:
                found += [e for e in own.values() if e.text not in there]
        return found

    def _recalled(self, query: str) -> list[Entry]:
        """Entries that the input asks for, without what this conversation holds already.

        Where facts are looked up by name, only notes are recalled by score: what else is needed, the model asks for.
        """
        if not self.recall:
            return []
        key = self.encoder.queries([query])
        (hits,) = self.store.search(self.namespace, key.numpy(), [query], self.recall + len(self.events))
        here = {e.id for e in self.events if e.id is not None}
        found = [h.entry for h in hits if h.entry.id not in here and (not self.config.lookup or h.entry.kind == "note")]
        entries = [Entry(e.text, e.kind, e.meta) for e in found[: self.recall]]
        self._recalled_texts = {e.meta.get("said", e.text).strip() for e in entries}
        if self.knowledge and not self.config.lookup:
            if self._knowledge_keys is None:
                self._knowledge_keys = self.encoder.keys([e.text for e in self.knowledge])
            best = (self._knowledge_keys @ key[0]).topk(min(self.recall, len(self.knowledge))).indices
            entries += [self.knowledge[int(n)] for n in best][: self.recall - len(entries)]
        return entries

    def _answer(self, on_text: OnText | None) -> Reply:
        turns = [e for e in self.events if e.speaker]
        window = turns[-self.config.turns :]
        source, cut = self.prompt.cut_input("\n".join(render_turn(t.speaker, t.text) for t in window))
        inside = set(map(id, window))
        entries = [*self._recalled(source), *(e.entry for e in self.events if id(e) not in inside)]
        prompt = self.prompt(source, entries, newest=True)
        prompt.notes.extend(cut)
        batch = collate([prompt.row]).to(next(self.model.parameters()).device)
        stream, stopped = StreamDecoder(self.tokenizer), False

        def on_token(token: int) -> bool:
            new = stream.add(token)
            if new and on_text:
                on_text(new)
            return True

        try:
            made = generate(self.model, batch, self.decoding, on_token=on_token)
        except KeyboardInterrupt:
            stopped = True
            return Reply(self.tokenizer.decode(stream.ids) or "…", complete=not stopped, notes=prompt.notes)
        weights, scores = made.reading.entries[0, 0].tolist(), made.reading.scores[0, 0].tolist()
        read = [Read(e.text, e.kind, w, s) for e, w, s in zip(prompt.entries, weights, scores, strict=True)]
        read.sort(key=lambda r: -r.weight)
        text = self.tokenizer.decode(made.ids[0][0]).replace("\0", "")
        return Reply(text, read, float(made.reading.null[0, 0]), notes=prompt.notes)

    def transcript(self) -> str:
        return "\n".join(f"{e.speaker}: {e.text}" for e in self.events if e.speaker)
