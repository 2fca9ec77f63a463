"""A dialogue as a model reads it, while it grows: the last messages are the input, what is older is memory.

The same lines make the examples of training and what a chat's next reply reads.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from memgpt_cli.schema import Entry, render_triple


class Turn(NamedTuple):
    speaker: str
    text: str
    evidence: tuple[str, ...] = ()  # texts of facts this message rests on


class Fact(NamedTuple):
    text: str
    meta: dict[str, Any]


def render_turn(speaker: str, text: str) -> str:
    return f"{speaker}: {text}" if speaker else text


class Confirmed(NamedTuple):
    """What becomes memory of a message and its reply."""

    entry: Entry
    kept: str  # what stands before it in the reply; empty where the message itself is kept


def confirmed(message: Turn, reply: Turn, keeps: Sequence[str]) -> Confirmed | None:
    """What a reply keeps: its own words behind one of `keeps`, as it has understood the message.

    "Got it. Your cat is called Tom." leaves "Your cat is called Tom."; a bare "Got it." leaves the message as it was said.
    None where the reply begins with none of `keeps`.
    """
    words = next((words for words in keeps if reply.text.startswith(words)), None)
    if words is None:
        return None
    said = reply.text[len(words) :].lstrip()
    if not said:
        return Confirmed(Entry(render_turn(*message[:2]), "turn", {"speaker": message.speaker}), "")
    return Confirmed(Entry(said.rstrip(), "turn", {"speaker": reply.speaker}), reply.text.removesuffix(said))


def fact(head: str, relation: str, tail: str) -> Fact:
    return Fact(render_triple(head, relation, tail), {"triple": [head, relation, tail]})


class Dialogue:
    """Messages, and the facts that became known between them, in order.

    Args:
        window: how many messages are the input.
        keeps: where not empty, only what a reply that begins with one of these says becomes memory (`confirmed`).
    """

    def __init__(self, window: int, keeps: Sequence[str] = ()) -> None:
        self.window, self.keeps = window, tuple(keeps)
        self.entries: list[Entry] = []
        self.event_of: list[int] = []  # of each entry: which event it was, in order
        self.turns: list[Turn] = []
        self.facts: dict[str, int] = {}  # text -> entry
        self._entry_of: list[int] = []  # of each turn: the entry it is, or would have been
        self._events = 0
        self._known = 0  # entries up to the newest fact

    def add(self, event: Turn | Fact) -> None:
        """Takes in what happened next. A fact that is known already is no new entry."""
        if isinstance(event, Fact):
            if event.text not in self.facts:
                self.facts[event.text] = len(self.entries)
                self._remember(Entry(event.text, "fact", event.meta), self._events)
                self._known = len(self.entries)
        else:
            memory = confirmed(self.turns[-1], event, self.keeps) if self.turns else None
            self._entry_of.append(len(self.entries))
            self.turns.append(event)
            if memory is not None:
                self._remember(memory.entry, self._events - (not memory.kept))
            if not self.keeps:
                self._remember(Entry(render_turn(*event[:2]), "turn", {"speaker": event.speaker}), self._events)
        self._events += 1

    def _remember(self, entry: Entry, event: int) -> None:
        self.entries.append(entry)
        self.event_of.append(event)

    def asks(self) -> tuple[str, int]:
        """The input of the next message, and how many entries it sees.

        Up to the newest fact, or the newest message older than the input, whichever is later: never itself, never what
        comes after it.
        """
        older = self._entry_of[-self.window] if len(self.turns) >= self.window else 0
        source = "\n".join(render_turn(t.speaker, t.text) for t in self.turns[-self.window :])
        return source, max(self._known, older)
